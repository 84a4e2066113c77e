"""`RUN --security=insecure`: a step with every power that the engine itself has, as BuildKit makes it."""

from __future__ import annotations

import fcntl
import logging
import os

from msgspec.structs import replace

from sampan.oci.spec import Capabilities, Device, Linux, Spec

log = logging.getLogger(__name__)

_LOOP_CTL_GET_FREE = 0x4C82
_DEVICES = (
    ("/dev/kmsg", 1, 11),
    ("/dev/cuse", 10, 203),
    ("/dev/fuse", 10, 229),
    ("/dev/kvm", 10, 232),
    ("/dev/net/tun", 10, 200),
    ("/dev/loop-control", 10, 237),
)
LOOPS = 8
"""/dev/loop0 and so on: beside those that are in use."""


def insecure(spec: Spec, loops: int) -> Spec:
    """`spec` is a privileged container's. `loops`: the number of the first loop device that is free.

    The capabilities are inherited by programs of any user. The devices are BuildKit's, not all that the host has.
    """
    process = spec.process
    if process is not None and process.capabilities is not None:
        every = process.capabilities.bounding
        process = replace(process, capabilities=Capabilities(every, every, every, every, every))
    devices = [Device(path, "c", major, minor) for path, major, minor in _DEVICES]
    devices += [Device(f"/dev/loop{number}", "b", 7, number) for number in range(loops + LOOPS)]
    return replace(spec, process=process, linux=replace(spec.linux or Linux(), devices=tuple(devices)))


def first_free_loop() -> int:
    """The number of the loop device that is free next; 0 where there are none."""
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
    except OSError as error:
        log.debug("no loop device for an insecure step: %s", error)
        return 0
