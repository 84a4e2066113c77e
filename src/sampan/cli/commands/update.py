"""`sampan update`."""

from __future__ import annotations

import sys

from sampan.cli.commands.lifecycle import for_each
from sampan.cli.create.body import parse_restart
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation, Values
from sampan.client.api import quote_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_FIELDS = {
    "blkio-weight": "BlkioWeight",
    "cpu-period": "CpuPeriod",
    "cpu-quota": "CpuQuota",
    "cpu-rt-period": "CpuRealtimePeriod",
    "cpu-rt-runtime": "CpuRealtimeRuntime",
    "cpu-shares": "CpuShares",
    "cpus": "NanoCpus",
    "cpuset-cpus": "CpusetCpus",
    "cpuset-mems": "CpusetMems",
    "kernel-memory": "KernelMemory",
    "memory": "Memory",
    "memory-reservation": "MemoryReservation",
    "memory-swap": "MemorySwap",
    "pids-limit": "PidsLimit",
}
_PORTS = {"publish-add": "PublishAdd", "publish-rm": "PublishRemove"}


def _update(invocation: Invocation) -> int:
    flags = invocation.flags
    if not any(flags.changed(name) for name in (*_FIELDS, *_PORTS, "restart", "restart-unhealthy")):
        raise Failure("you must provide one or more flags when using this command")
    body = {field: flags[name] for name, field in _FIELDS.items() if flags.changed(name)}
    if flags.changed("restart"):
        try:
            body["RestartPolicy"] = parse_restart(flags["restart"])
        except ValueError as error:
            raise Failure(str(error)) from None
    if flags.changed("restart-unhealthy"):
        body["RestartUnhealthy"] = flags["restart-unhealthy"]
    changes_ports = any(flags.changed(name) for name in _PORTS)
    if changes_ports:
        body |= _port_changes(flags)
    client = invocation.client()
    warnings: list[str] = []

    def update(name: str) -> None:
        answer = client.call("POST", f"/containers/{quote_path(name)}/update", None, body) or {}
        warnings.extend(answer.get("Warnings") or ())
        if changes_ports and not answer.get("PortsChanged"):
            raise Failure(f"The engine can not change the published ports of {name}: it is not sampan's")

    status = for_each(invocation.args, update)
    if warnings:
        print("\n".join(warnings), file=sys.stdout)
    return status


def _port_changes(flags: Values) -> dict[str, Any]:
    from sampan.cli.create.ports import parse_publish

    try:
        return {field: parse_publish(flags[name]) for name, field in _PORTS.items() if flags.changed(name)}
    except ValueError as error:
        raise Failure(str(error)) from None


UPDATE = Command(
    _update,
    "CONTAINER [CONTAINER...]",
    (
        Flag("blkio-weight", "", "uint16", "Block IO weight between 10 and 1000, 0 for none"),
        Flag("cpu-period", "", "int", "Length of a CFS period in microseconds"),
        Flag("cpu-quota", "", "int", "CPU time per CFS period in microseconds"),
        Flag("cpu-rt-period", "", "int", "Length of a real-time period in microseconds"),
        Flag("cpu-rt-runtime", "", "int", "Real-time CPU time per period in microseconds"),
        Flag("cpu-shares", "c", "int", "CPU shares (relative weight)"),
        Flag("cpus", "", "decimal", "Number of CPUs, fractions allowed"),
        Flag("cpuset-cpus", "", "string", "CPUs that may be used (0-3, 0,1)"),
        Flag("cpuset-mems", "", "string", "Memory nodes that may be used (0-3, 0,1)"),
        Flag("kernel-memory", "", "bytes", "Limit of kernel memory", hidden=True),
        Flag("memory", "m", "bytes", "Memory limit"),
        Flag("memory-reservation", "", "bytes", "Soft limit of memory"),
        Flag("memory-swap", "", "memswap", "Limit of memory and swap together, -1 for unlimited swap"),
        Flag("pids-limit", "", "int", "Limit of processes, -1 for none"),
        Flag("publish-add", "", "list", "Publish a port on the host, also of a running container"),
        Flag(
            "publish-rm", "", "list", "Publish a port no longer ([[HOST-ADDRESS:]HOST-PORT:]PORT[/PROTOCOL])"
        ),
        Flag("restart", "", "string", "When to start the container again after it exits"),
        Flag(
            "restart-unhealthy", "", "bool", "Restart it by its restart policy also when it becomes unhealthy"
        ),
    ),
    minimum=1,
    aliases=("container update", "update"),
)
