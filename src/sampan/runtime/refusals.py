"""What of the runtime-spec this runtime does not do, and says so instead of leaving it out. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sampan.errors import Unsupported
from sampan.oci.spec import Linux, Process, Resources, Spec


def refuse_unsupported(spec: Spec) -> None:
    """Raises `Unsupported` that names the field."""
    linux = spec.linux or Linux()
    for name in (*_of_linux(linux), *_of_resources(linux.resources or Resources())):
        raise Unsupported(f"{name} is not supported by sampan-runtime")
    if spec.process is not None:
        refuse_unsupported_process(spec.process)


def refuse_unsupported_process(process: Process) -> None:
    """As `refuse_unsupported`, for a process alone."""
    if process.scheduler:
        raise Unsupported("process.scheduler is not supported by sampan-runtime")
    if process.exec_cpu_affinity:
        raise Unsupported("process.execCPUAffinity is not supported by sampan-runtime")


def _of_linux(linux: Linux) -> Iterator[str]:
    if linux.intel_rdt:
        yield "linux.intelRdt"
    if linux.memory_policy:
        yield "linux.memoryPolicy"
    if linux.net_devices:
        yield "linux.netDevices"


def _of_resources(resources: Resources) -> Iterator[str]:
    if resources.hugepage_limits:
        yield "linux.resources.hugepageLimits"
    if resources.rdma:
        yield "linux.resources.rdma"
    network = resources.network
    if network is not None and (network.class_id or network.priorities):
        yield "linux.resources.network"
