"""A shell in the state before a failed step, on this terminal: `build --on-error=shell` and `build debug`."""

from __future__ import annotations

import sys

from sampan.cli.build.text import plain
from sampan.cli.streams import Attachment, attached_signals, resizer
from sampan.cli.terminal import is_terminal, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.client.api import Client


def open_shell(client: Client, failure: str, command: list[str]) -> int:
    """Run a shell, or `command`, until it ends; its exit code. `failure`: "" is the latest. Raises `ApiError`."""
    tty = is_terminal(0) and is_terminal(1)
    body: dict[str, Any] = {"Failure": failure, "Cmd": command, "Tty": tty}
    if tty:
        body["ConsoleSize"] = list(size())
    made = client.call("POST", "/build/shells", None, body)
    shell = str(made.get("Id"))
    if tty and not command:
        sys.stderr.write(_about(made))
        sys.stderr.flush()
    hijacked = client.hijack(f"/build/shells/{shell}/start")
    with attached_signals(proxy=False, tty=tty) as signals:
        resize = resizer(client, f"/build/shells/{shell}") if tty else None
        Attachment(hijacked, tty=tty, stdin=True, on_resize=resize).pump(signals)
    hijacked.close()
    ended = client.call("POST", f"/build/shells/{shell}/wait")
    return int(ended.get("StatusCode") or 0) & 0xFF


def _about(made: dict[str, Any]) -> str:
    failed = plain(str(made.get("Command")).replace("\n", " "))
    lines = [f"The state before the step that failed: {failed}"]
    missing = made.get("Missing")
    if isinstance(missing, list) and missing:
        lines.append("Not mounted here: " + ", ".join(plain(str(each)) for each in missing))
    lines.append("What is changed here is thrown away at the end (exit or ctrl-D).")
    return "\n".join(lines) + "\n"
