"""`--ssh default|ID[=SOCKET|KEY[,KEY]]`: ssh agents that a build's steps may use, never change.

What goes to the agent is looked at: steps may list keys and have them sign, as BuildKit lets them, and nothing else.
"""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import tempfile

from sampan.errors import Invalid, NotFound, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.multiplex.link import Stream

_FAILURE = b"\0\0\0\1\5"
_ALLOWED = (11, 13)
"""SSH_AGENTC_REQUEST_IDENTITIES and SSH_AGENTC_SIGN_REQUEST (draft-miller-ssh-agent, section 5.1)."""
_MAX_MESSAGE = 256 * 1024
_CHUNK = 32 * 1024
_SECONDS = 30


class Agents:
    """A context manager: leaving it ends the agents that it has started for key files."""

    def __init__(self, values: Sequence[str]) -> None:
        """Raises `Invalid`, `NotFound`, `Unavailable`."""
        self._paths: dict[str, str] = {}
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for text in values:
                name, _, places = text.partition("=")
                name = name or "default"
                if name in self._paths:
                    raise Invalid(f'duplicate agent ID "{name}"')
                self._paths[name] = self._agent(name, [place for place in places.split(",") if place])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Agents:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def offers(self) -> dict[tuple[str, str], Callable[[Stream], None]]:
        return {("ssh", name): _Forwarder(path).serve for name, path in self._paths.items()}

    def close(self) -> None:
        for process in self._processes:
            process.terminate()
            process.wait()
        if self._directory is not None:
            self._directory.cleanup()

    def _agent(self, name: str, places: list[str]) -> str:
        if not places:
            places = [os.environ.get("SSH_AUTH_SOCK", "")]
        if not places[0]:
            raise Invalid(
                f"could not parse ssh: [{name}]: invalid empty ssh agent socket: make sure SSH_AUTH_SOCK is set"
            )
        kinds = []
        for place in places:
            try:
                kinds.append(stat.S_ISSOCK(os.stat(place).st_mode))
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                raise NotFound(f"could not parse ssh: [{name}={place}]: stat {place}: {words}") from error
        if kinds == [True]:
            return os.path.abspath(places[0])
        if any(kinds):
            raise Invalid(
                "only single socket allowed" if all(kinds) else "invalid combination of keys and sockets"
            )
        return self._start(name, places)

    def _start(self, name: str, keys: list[str]) -> str:
        """An agent of our own for key files."""
        if self._directory is None:
            self._directory = tempfile.TemporaryDirectory(prefix="sampan-ssh-")
        path = os.path.join(self._directory.name, str(len(self._processes)))
        try:
            process = subprocess.Popen(
                ["ssh-agent", "-D", "-a", path], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        except FileNotFoundError:
            raise Unavailable(
                "key files need the program ssh-agent", hint="or give an agent's socket: --ssh ID=SOCKET"
            ) from None
        self._processes.append(process)
        if process.stdout is not None:
            process.stdout.readline()  # it says where it listens, once it does
        environment = {**os.environ, "SSH_AUTH_SOCK": path, "SSH_ASKPASS_REQUIRE": "never"}
        added = subprocess.run(
            ["ssh-add", "-q", "--", *keys],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            start_new_session=True,
            check=False,
        )
        if added.returncode:
            said = added.stderr.decode("utf-8", "replace").strip().splitlines()
            raise Invalid(
                f"could not parse ssh: [{name}={','.join(keys)}]: failed to parse key: {said[-1] if said else ''}",
                hint="a key with a passphrase can't be used: add it to an agent",
            )
        return path


class _Forwarder:
    def __init__(self, path: str) -> None:
        self._path = path

    def serve(self, stream: Stream) -> None:
        """Question by question: the protocol answers each in turn."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
            try:
                agent.connect(self._path)
                questions = _Messages(lambda: stream.read(_CHUNK))
                answers = _Messages(lambda: agent.recv(_CHUNK))
                while question := questions.next():
                    if question[4] in _ALLOWED:
                        agent.sendall(question)
                        answer = answers.next()
                        if not answer:
                            raise Unavailable(f"the ssh agent at {self._path} has closed the connection")
                        stream.write(answer)
                    else:
                        stream.write(_FAILURE)
            except OSError as error:
                words = (error.strerror or str(error)).lower()
                raise Unavailable(f"failed to connect to {self._path}: {words}") from error
            stream.end()


class _Messages:
    """Whole messages out of pieces: four bytes of length, one of type, the content."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._pending = bytearray()

    def next(self) -> bytes:
        """b"" at the end. Raises `Invalid`."""
        while True:
            if len(self._pending) >= 4:
                end = 4 + int.from_bytes(self._pending[:4], "big")
                if not 5 <= end <= _MAX_MESSAGE:
                    raise Invalid("this is no message for or of an ssh agent")
                if len(self._pending) >= end:
                    message = bytes(self._pending[:end])
                    del self._pending[:end]
                    return message
            data = self._read()
            if not data:
                return b""
            self._pending += data
