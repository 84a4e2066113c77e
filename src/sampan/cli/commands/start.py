"""`sampan start`, with or without attaching."""

from __future__ import annotations

import sys

from sampan.cli.commands.run import exit_status
from sampan.cli.failure import Exit, Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.terminal import detach_keys
from sampan.client.api import ApiError, quote_path
from sampan.errors import SampanError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.api import Client


def _start(invocation: Invocation) -> int:
    flags, names = invocation.flags, invocation.args
    client = invocation.client()
    if flags["attach"] or flags["interactive"]:
        if len(names) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        return _start_attached(invocation, client, names[0])
    failed = []
    for name in names:
        try:
            client.call("POST", f"/containers/{quote_path(name)}/start", {"detachKeys": flags["detach-keys"]})
        except SampanError as error:
            from sampan.cli.main import describe

            print(describe(error), file=sys.stderr)
            failed.append(name)
            continue
        print(name, flush=True)
    if failed:
        raise Failure(f"Error: failed to start containers: {', '.join(failed)}")
    return 0


def _start_attached(invocation: Invocation, client: Client, name: str) -> int:
    from sampan.cli.streams import Attachment, attached_signals, forwarder, resizer
    from sampan.cli.terminal import size

    flags = invocation.flags
    try:
        container = client.call("GET", f"/containers/{quote_path(name)}/json")
    except ApiError as error:
        raise no_such("container", name, error) from None
    config = container["Config"]
    identity = container["Id"]
    tty = bool(config.get("Tty"))
    stdin = flags["interactive"] and bool(config.get("OpenStdin"))
    keys_text, keys = detach_keys(invocation, terminal=tty)
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": True,
        "stderr": True,
        "detachKeys": keys_text,
    }
    proxy = not tty
    with attached_signals(proxy=proxy, tty=tty) as signals:
        hijacked = client.hijack(f"/containers/{identity}/attach", query)
        removed = bool((container.get("HostConfig") or {}).get("AutoRemove"))
        condition = "removed" if removed else "next-exit"
        waiting = client.begin("POST", f"/containers/{identity}/wait", {"condition": condition})
        resize = resizer(client, f"/containers/{identity}")
        attachment = Attachment(
            hijacked,
            tty=tty,
            stdin=stdin,
            detach_keys=keys,
            on_signal=forwarder(client, identity) if proxy else None,
            on_resize=resize if tty else None,
        )
        client.call("POST", f"/containers/{identity}/start")
        if tty:
            resize(*size())
        if attachment.pump(signals) == "detached":
            return 0
        status = exit_status(client, waiting, identity)
    if status:
        raise Exit(status)
    return 0


START = Command(
    _start,
    "CONTAINER [CONTAINER...]",
    (
        Flag("attach", "a", "bool", "Attach STDOUT and STDERR and pass signals on"),
        Flag("detach-keys", "", "string", "Keys that detach from the container"),
        Flag("interactive", "i", "bool", "Attach the container's STDIN"),
    ),
    minimum=1,
    aliases=("container start", "start"),
)
