"""`sampan attach`."""

from __future__ import annotations

from sampan.cli.commands.run import exit_status
from sampan.cli.failure import Exit, Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.terminal import detach_keys
from sampan.client.api import ApiError, quote_path


def _attach(invocation: Invocation) -> int:
    from sampan.cli.streams import Attachment, attached_signals, forwarder, resizer
    from sampan.cli.terminal import is_terminal, size

    flags, name = invocation.flags, invocation.args[0]
    client = invocation.client()
    try:
        container = client.call("GET", f"/containers/{quote_path(name)}/json")
    except ApiError as error:
        raise no_such("container", name, error) from None
    state, config = container["State"], container["Config"]
    if not state.get("Running"):
        raise Failure("You cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Failure("You cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Failure("You cannot attach to a restarting container, wait until it is running")
    tty = bool(config.get("Tty"))
    stdin = not flags["no-stdin"] and bool(config.get("OpenStdin"))
    if tty and stdin and not is_terminal(0):
        raise Failure("the input device is not a TTY")
    keys_text, keys = detach_keys(invocation, terminal=tty)
    query = {
        "stream": True,
        "stdin": stdin,
        "stdout": True,
        "stderr": True,
        "detachKeys": keys_text,
    }
    identity = container["Id"]
    proxy = flags["sig-proxy"] and not tty
    with attached_signals(proxy=proxy, tty=tty) as signals:
        waiting = client.begin("POST", f"/containers/{identity}/wait")
        hijacked = client.hijack(f"/containers/{identity}/attach", query)
        resize = resizer(client, f"/containers/{identity}")
        if tty:
            # A size that differs makes the program inside draw itself anew; then the right one.
            rows, columns = size()
            resize(rows + 1, columns + 1)
            resize(rows, columns)
        attachment = Attachment(
            hijacked,
            tty=tty,
            stdin=stdin,
            detach_keys=keys,
            on_signal=forwarder(client, identity) if proxy else None,
            on_resize=resize if tty else None,
        )
        if attachment.pump(signals) == "detached":
            raise Failure("read escape sequence")
        status = exit_status(client, waiting, identity)
    if status:
        raise Exit(status)
    return 0


ATTACH = Command(
    _attach,
    "CONTAINER",
    (
        Flag("detach-keys", "", "string", "Keys that detach from the container"),
        Flag("no-stdin", "", "bool", "Do not attach STDIN"),
        Flag("sig-proxy", "", "bool", "Pass signals on to the process", default=True),
    ),
    minimum=1,
    maximum=1,
    aliases=("container attach", "attach"),
)
