"""A host in an encrypted network: no key is sent with twice, whatever becomes of peers, engines and clocks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.linux.netlink_xfrm import Association, Policy
from sampan.network.overlay import encryption, protector
from sampan.network.overlay.cache import Cache, Cached
from sampan.network.overlay.encryption import EPOCH_SECONDS
from sampan.network.overlay.own import Leases, Own
from sampan.network.overlay.protector import Protector
from sampan.network.overlay.schema import Claim, Host, Keys
from sampan.network.overlay.store import Entry
from sampan.network.overlay.view import View

A, B, C = ("a" * 32, "b" * 32, "c" * 32)
NONCES = ("1" * 32, "2" * 32)
ADDRESS = "192.0.2.1"


class Kernel:
    """What `XfrmSocket` does, in memory. `begun`: keys that this host began to send with, counters at zero."""

    def __init__(self) -> None:
        self.known: dict[tuple[str, int], Association] = {}
        self.policies_: set[Policy] = set()
        self.begun: list[bytes] = []

    def __call__(self) -> Kernel:
        return self

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def associations(self, _reqid: int) -> list[Association]:
        return list(self.known.values())

    def policies(self, _reqid: int) -> list[Policy]:
        return list(self.policies_)

    def set_policy(self, policy: Policy) -> None:
        self.policies_.add(policy)

    def delete_policy(self, policy: Policy) -> None:
        self.policies_.discard(policy)

    def add(self, association: Association) -> bool:
        self.known[association.destination, association.spi] = association
        if association.source == ADDRESS:
            self.begun.append(association.key)
        return True

    def delete(self, association: Association) -> None:
        self.known.pop((association.destination, association.spi), None)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(encryption, "XfrmSocket", made)
    return made


class Engine:
    """One of this host, after each other; what they hear of the others is said by the test."""

    def __init__(self, directory: Path) -> None:
        self.view = View(Keys("sampan"))
        control: Any = SimpleNamespace(
            own=Own(Host(A, "a", ADDRESS)), view=self.view, secret=b"s" * 32, changed=lambda: None
        )
        self.control = control
        self.protector = Protector(control, "one", directory / "nonce")

    async def hears(self, *hosts: Host) -> None:
        self.view.hosts = {host.id: host for host in hosts}
        self.protector._needed = True
        self.protector._note_hosts()
        await self.protector._apply()
        await self.protector._apply()  # with a new nonce, if the last try ended in one


def test_no_key_is_begun_twice_when_a_peer_goes_back_to_what_it_was_before_over_a_restart(
    tmp_path: Path, kernel: Kernel
) -> None:
    async def story() -> None:
        first = Engine(tmp_path)
        await first.protector.start()
        nonce = first.control.own.host.nonce
        await first.hears(Host(B, "b", "192.0.2.2", NONCES[0]))
        await first.hears(Host(B, "b", "192.0.2.2", NONCES[1]))
        await first.protector.close(leave=False)
        after = Engine(tmp_path)
        await after.protector.start()
        assert after.control.own.host.nonce == nonce, "the kernel has what was sent with"
        await after.hears(Host(B, "b", "192.0.2.2", NONCES[0]))
        assert after.control.own.host.nonce != nonce
        await after.protector.close(leave=False)
        assert len(kernel.begun) == len(set(kernel.begun)) == 3

    asyncio.run(story())


def test_a_kernel_that_was_started_again_is_sent_with_a_new_nonce(tmp_path: Path, kernel: Kernel) -> None:
    async def story() -> None:
        first = Engine(tmp_path)
        await first.protector.start()
        await first.hears(Host(B, "b", "192.0.2.2", NONCES[0]))
        kernel.known.clear()
        after = Engine(tmp_path)
        await after.protector.start()
        assert after.control.own.host.nonce != first.control.own.host.nonce
        await after.hears(Host(B, "b", "192.0.2.2", NONCES[0]))
        assert len(kernel.begun) == len(set(kernel.begun)) == 2
        (tmp_path / "nonce").write_text("damaged")
        third = Engine(tmp_path)
        await third.protector.start()
        assert third.control.own.host.nonce not in ("", after.control.own.host.nonce)
        for one in (first, after, third):
            await one.protector.close(leave=False)

    asyncio.run(story())


def test_of_two_hosts_with_one_address_the_one_that_is_there_is_talked_to(
    tmp_path: Path, kernel: Kernel
) -> None:
    """A host that was installed anew has another id; what the old one had stays in the store for a while."""

    async def story() -> None:
        engine = Engine(tmp_path)
        await engine.protector.start()
        engine.view.claims = {"1" * 64: {"10.1.0.5": Claim(B, "192.0.2.2", endpoint="e" * 64)}}
        await engine.hears(Host(B, "b", "192.0.2.2", NONCES[0]), Host(C, "c", "192.0.2.3", NONCES[0]))
        before = set(kernel.begun)
        await engine.hears(Host(C, "c", "192.0.2.2", NONCES[1]))
        stations = {one.address: one.id for one in engine.protector._stations()}
        assert stations == {"192.0.2.2": C}
        assert len(set(kernel.begun) - before) == 1
        await engine.protector.close(leave=False)

    asyncio.run(story())


def test_hosts_that_come_and_go_without_end_are_not_all_remembered(
    tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protector.schema, "MAX_HOSTS", 3)
    engine = Engine(tmp_path)
    for number in range(10):
        host = Host(f"{number:032x}", "x", f"192.0.2.{number + 10}", NONCES[0])
        engine.view.hosts = {host.id: host}
        engine.protector._note_hosts()
    assert len(engine.protector._known) == 3 and f"{9:032x}" in engine.protector._known


def test_keys_change_when_the_clock_is_put_right_by_hours(
    tmp_path: Path, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protector, "_LOOK_SECONDS", 0.01)
    now = [1_000_000.0]
    monkeypatch.setattr(protector.time, "time", lambda: now[0])

    async def story() -> None:
        engine = Engine(tmp_path)
        changed = asyncio.Event()
        begun = kernel.begun
        await engine.protector.start()
        await engine.hears(Host(B, "b", "192.0.2.2", NONCES[0]))
        loop = asyncio.get_running_loop()
        add = kernel.add

        def added(association: Association) -> bool:
            done = add(association)
            if association.source == ADDRESS:
                loop.call_soon_threadsafe(changed.set)
            return done

        kernel.add = added  # type: ignore[method-assign]
        now[0] += 5 * EPOCH_SECONDS
        await asyncio.wait_for(changed.wait(), 10)
        await engine.protector.close(leave=False)
        assert len(set(begun)) == len(begun) == 2

    asyncio.run(story())


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b'{"entries":[["sampan/x","a",1,1,0]]}',  # base64 without its end
        b'{"entries":[["sampan/x","YQ==",1]]}',
        b'{"identity":"\xff"}',
    ],
    ids=range(5),
)
def test_a_damaged_file_of_what_was_known_is_as_none(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "cluster" / "view.json"
    cached = Cached("1" * 32, Leases(1, 2), 7, {"sampan/x": Entry(b"\0\xff", 1, 2, 3)})
    Cache(path).write(cached)
    assert Cache(path).read() == cached and path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(damage)
    assert Cache(path).read() == Cached()
