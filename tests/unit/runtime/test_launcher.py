from __future__ import annotations

import socket
import threading

import pytest

from sampan.runtime import wire
from sampan.runtime.failure import Failure
from sampan.runtime.launcher import Launcher
from sampan.runtime.messages import Done, ReleaseLayersCall

_ANSWERS: wire.Codec[Done | Failure] = wire.Codec(Done | Failure)


class Layers:
    """Fails once, in a way that nobody has foreseen."""

    def __init__(self) -> None:
        self._failed = False

    def release(self, paths: tuple[str, ...]) -> None:
        if not self._failed:
            self._failed = True
            raise KeyError(paths[0])


def _ask(sock: socket.socket) -> Done | Failure | None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            wire.send(sock, ReleaseLayersCall(("/layer",)), (theirs.fileno(),))
        answer, _ = _ANSWERS.receive(ours)
        return answer


def test_an_unforeseen_fault_of_one_request_is_told_and_the_next_one_is_served(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher = object.__new__(Launcher)  # its own beginning needs root
    launcher._socket = theirs
    launcher._layers = Layers()  # type: ignore[assignment]
    serving = threading.Thread(target=launcher.serve)
    serving.start()
    with theirs:
        with ours:
            failure = _ask(ours)
            assert isinstance(failure, Failure)
            assert (failure.kind, "KeyError" in failure.message) == ("internal", True)
            assert _ask(ours) == Done()
        serving.join(10)
    told = capsys.readouterr().err
    assert "ReleaseLayersCall failed unexpectedly" in told
    assert "Traceback" in told
    assert "KeyError: '/layer'" in told
