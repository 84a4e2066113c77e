"""The terminal of this process: raw mode, size, and the keys that detach from a container."""

from __future__ import annotations

import os

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from sampan.cli.flags import Invocation

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def size() -> tuple[int, int]:
    """(rows, columns) of the terminal on standard output or input; (0, 0) without one."""
    for descriptor in (1, 0, 2):
        try:
            found = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return found.lines, found.columns
    return 0, 0


class RawMode:
    """A context in which the terminal passes every key through and echoes nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None

    def __enter__(self) -> RawMode:
        if not is_terminal(self._descriptor):
            return self
        import termios as t

        self._saved = t.tcgetattr(self._descriptor)
        mode = t.tcgetattr(self._descriptor)
        # cfmakeraw(3); output processing stays off too, because the container's terminal does it.
        mode[0] &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        mode[1] &= ~t.OPOST
        mode[2] = (mode[2] & ~(t.CSIZE | t.PARENB)) | t.CS8
        mode[3] &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        mode[6][t.VMIN] = 1
        mode[6][t.VTIME] = 0
        t.tcsetattr(self._descriptor, t.TCSADRAIN, mode)
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)


def parse_detach_keys(text: str) -> bytes:
    """ "ctrl-p,ctrl-q" or "a,b" as bytes. Raises `ValueError`."""
    result = bytearray()
    for key in text.split(","):
        if len(key) == 1:
            result += key.encode()
            continue
        letter = key.removeprefix("ctrl-")
        if key == letter or len(letter) != 1 or not ("a" <= letter <= "z" or letter in "@[\\]^_"):
            raise ValueError(f"Unknown character: '{key}'")
        result.append(ord(letter.upper()) & 0x1F)
    return bytes(result)


def detach_keys(invocation: Invocation, *, terminal: bool) -> tuple[str, bytes]:
    """The detach keys as text ("": Docker's own) and as bytes: the flag's, else those of config.json.

    They mean something on a terminal only: without one no file is read for them. Raises `Failure`.
    """
    text: str = invocation.flags["detach-keys"]
    if not text and terminal:
        from sampan.cli.registry_auth import config_path, load_config

        configured = load_config(config_path(invocation.options.config_directory)).get("detachKeys")
        text = configured if isinstance(configured, str) else ""
    try:
        return text, parse_detach_keys(text or DEFAULT_DETACH_KEYS)
    except ValueError as error:
        raise Failure(f"invalid detach keys ({text}): {error}") from None


class DetachDetector:
    """Looks for the detach keys in what is typed, across reads; a half-typed sequence is held back."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(what goes on to the container, whether the sequence is complete)."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                passed.append(byte)
        return bytes(passed), False
