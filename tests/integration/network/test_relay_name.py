"""The abstract name of the relay's socket may be taken by any local user."""

from __future__ import annotations

import secrets
import socket
import subprocess
from collections.abc import Iterator

import pytest

from sampan.network.relay_client import RelayClient
from sampan.network.relay_door import retire_address

pytestmark = pytest.mark.root

_SQUAT = """
import socket, sys
taken = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
taken.bind(chr(0) + sys.argv[1])
taken.listen(4)
print("taken", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def squatted() -> Iterator[str]:
    instance = f"squat-{secrets.token_hex(4)}"
    name = retire_address(instance)[1:]
    with subprocess.Popen(
        ["/usr/bin/env", "python3", "-I", "-c", _SQUAT, name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        user=65534,
    ) as squatter:
        assert squatter.stdout is not None and squatter.stdin is not None
        assert squatter.stdout.readline() == "taken\n"
        yield instance
        squatter.stdin.close()
        squatter.wait(10)


def test_another_users_socket_is_no_orphan_and_keeps_no_port_from_being_served(squatted: str) -> None:
    client = RelayClient(squatted)
    assert client.retire_orphan() is False
    with socket.create_server(("127.0.0.1", 0)) as behind, socket.create_server(("127.0.0.1", 0)) as bound:
        try:
            client.add(bound, "tcp", *behind.getsockname())
            with socket.create_connection(bound.getsockname(), timeout=10) as caller:
                caller.sendall(b"hello")
                behind.settimeout(10)
                served, _ = behind.accept()
                with served:
                    assert served.recv(5) == b"hello"
        finally:
            client.close(stop=True)
