"""`sampan logs`."""

from __future__ import annotations

from sampan.cli.failure import Failure, no_such
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.times import to_timestamp
from sampan.client.api import ApiError, quote_path


def time_option(text: str, name: str) -> str:
    if not text:
        return ""
    try:
        return to_timestamp(text)
    except ValueError as error:
        raise Failure(f'invalid value for "{name}": {error}') from None


def _logs(invocation: Invocation) -> int:
    from sampan.cli.streams import FrameReader, write_all

    flags, name = invocation.flags, invocation.args[0]
    client = invocation.client()
    path = f"/containers/{quote_path(name)}"
    try:
        container = client.call("GET", f"{path}/json")
    except ApiError as error:
        raise no_such("container", name, error) from None
    query = {
        "stdout": True,
        "stderr": True,
        "since": time_option(flags["since"], "since"),
        "until": time_option(flags["until"], "until"),
        "timestamps": flags["timestamps"],
        "follow": flags["follow"],
        "tail": flags["tail"],
        "details": flags["details"],
    }
    response = client.request("GET", f"{path}/logs", query)
    raw = bool(container["Config"].get("Tty"))
    frames = FrameReader()
    for data in response.chunks():
        if raw:
            write_all(1, data)
            continue
        for stream, content in frames.feed(data):
            write_all(2 if stream == 2 else 1, content)
    return 0


LOGS = Command(
    _logs,
    "CONTAINER",
    (
        Flag("details", "", "bool", "Show what the log driver was told besides"),
        Flag("follow", "f", "bool", "Go on with new output as it comes"),
        Flag("since", "", "string", 'Show output since this time ("2013-01-02T13:23:37Z", "42m")'),
        Flag("tail", "n", "string", "Number of lines to show from the end", default="all"),
        Flag("timestamps", "t", "bool", "Show the time of each line"),
        Flag("until", "", "string", 'Show output before this time ("2013-01-02T13:23:37Z", "42m")'),
    ),
    minimum=1,
    maximum=1,
    aliases=("container logs", "logs"),
)
