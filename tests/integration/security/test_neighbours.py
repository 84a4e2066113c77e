"""What a container on the host's network finds there of the engine's own."""

from __future__ import annotations

import secrets
import socket
from typing import Any

import pytest

from sampan.network.relay_client import RelayClient
from sampan.network.relay_door import retire_address

pytestmark = pytest.mark.root


def answers(client: RelayClient) -> bool:
    """Whether a port that the relay is given is served."""
    with socket.create_server(("127.0.0.1", 0)) as behind, socket.create_server(("127.0.0.1", 0)) as bound:
        key = client.add(bound, "tcp", *behind.getsockname())
        try:
            with socket.create_connection(bound.getsockname(), timeout=10):
                behind.settimeout(10)
                served, _ = behind.accept()
                served.close()
                return True
        finally:
            client.remove(key)


def test_the_port_relay_takes_no_orders_from_a_container(attack: Any) -> None:
    """Abstract sockets have no permissions, and root in a container is root for SO_PEERCRED (as CVE-2020-15257)."""
    instance = f"attack-{secrets.token_hex(4)}"
    client = RelayClient(instance)
    try:
        assert answers(client)
        name = retire_address(instance)[1:]
        done = attack.run("--network", "host", attack.image, "/attack", "retire", name)
        assert done.stdout == "connect ok\nanswer .\n"
        process = client.process_id
        assert answers(client) and client.process_id == process
    finally:
        client.close(stop=True)


def test_a_container_that_has_taken_the_relays_name_keeps_no_port_from_being_served(attack: Any) -> None:
    instance = f"attack-{secrets.token_hex(4)}"
    name = retire_address(instance)[1:]
    container = attack.background("--network", "host", attack.image, "/attack", "squat", name)
    container = attack.sampan.api.containers.get(container)
    while b"listen ok" not in container.logs():
        assert container.attrs["State"]["Status"] == "running"
    client = RelayClient(instance)
    try:
        assert client.retire_orphan() is False
        assert answers(client)
    finally:
        client.close(stop=True)
