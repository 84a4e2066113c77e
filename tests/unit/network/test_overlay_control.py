"""Hosts that share a store: addresses are unique, what a host has comes, goes and comes back."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from hashlib import sha256
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Conflict, Denied, Exhausted, NotFound, Unavailable
from sampan.network.overlay import allocation, control
from sampan.network.overlay.cache import Cache
from sampan.network.overlay.control import Control, Lifetimes
from sampan.network.overlay.own import kept
from sampan.network.overlay.schema import Endpoint, Host, Keys, Network
from sampan.network.overlay.store import Changes, Compacted, Put, Snapshot
from sampan.testing.cluster_store import MemoryStore, SharedState

TTL = Lifetimes(host=1, addresses=100)
DEADLINE = 10.0


class Site:
    """One host: its control plane, and how it is told of changes."""

    def __init__(self, shared: SharedState, directory: Path, number: int) -> None:
        self.shared, self.directory, self.number = shared, directory, number
        self.networks: list[Network] = []
        self.make()

    def make(self) -> None:
        """An engine; made again it is the same host's next one."""
        self.store = MemoryStore(self.shared)
        self.id = str(self.number) * 32
        host = Host(self.id, f"host{self.number}", f"192.0.2.{self.number}")
        cache = Cache(self.directory / str(self.number) / "view.json")
        self.control = Control(self.store, Keys("sampan"), host, cache, TTL)
        self.control.known_networks = lambda: self.networks
        self.changed = asyncio.Condition()
        self.control.on_change = lambda _: asyncio.ensure_future(self._notify()) and None

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(DEADLINE), self.changed:
            await self.changed.wait_for(lambda: bool(check()))

    def run(self, network: Network, address: str, name: str) -> str:
        """A container here has the address: its endpoint's id."""
        endpoint_id = f"{self.number:x}{int(address.split('.')[-1]):03x}" * 16
        mac = "02:42:" + ":".join(f"{int(part):02x}" for part in address.split("."))
        self.control.own.announce(
            network.id, endpoint_id, Endpoint(self.id, "c" * 64, name, address, mac, (name,))
        )
        self.control.changed()
        return endpoint_id

    def sees(self, network: Network) -> dict[str, str]:
        """Address -> host of everybody else's containers."""
        found = self.control.view.forwards(network.id, self.id, f"192.0.2.{self.number}")
        return {one.address: one.at for one in found.values()}

    def used(self, network: Network) -> set[str]:
        """Addresses that containers have, also this host's."""
        claims = self.control.view.claims.get(network.id, {})
        return {address for address, claim in claims.items() if claim.endpoint}

    def names(self, network: Network) -> set[str]:
        return {one.name for _, one in self.control.view.remote_endpoints(network.id, self.id)}

    async def network(self, name: str = "backend", subnet: str = "10.1.0.0/24") -> Network:
        return await allocation.create_network(self.control, lambda _: planned(name, subnet))


def planned(name: str, subnet: str) -> Network:
    first = str(IPv4Network(subnet)[1])
    return Network(
        sha256(f"{name} {subnet}".encode()).hexdigest(), name, "2026-01-01T00:00:00Z", 0, subnet, first
    )


@asynccontextmanager
async def hosts(directory: Path, number: int) -> AsyncIterator[list[Site]]:
    shared = SharedState()
    found = [Site(shared, directory, one + 1) for one in range(number)]
    for site in found:
        await site.control.start(seconds=DEADLINE)
        site.control.complete()
    try:
        yield found
    finally:
        for site in found:
            await site.control.close(leave=False)
        shared.close()


def story(work: Callable[[Path], Coroutine[Any, Any, None]]) -> Callable[[Path], None]:
    """A test that is a coroutine."""

    def test(tmp_path: Path) -> None:
        asyncio.run(work(tmp_path))

    test.__name__ = work.__name__
    return test


async def _meet(directory: Path) -> None:
    async with hosts(directory, 3) as (one, two, three):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        address = await allocation.take_address(two.control, network)
        assert address == "10.1.0.2"
        endpoint = two.run(network, address, "web")
        for other in (one, three):
            await other.until(lambda other=other: other.names(network) == {"web"})
            assert other.sees(network) == {"10.1.0.2": "192.0.2.2"}
        two.control.own.endpoints.pop((network.id, endpoint))
        two.control.own.release(network, network.id, address)
        two.control.changed()
        await one.until(lambda: not one.names(network) and not one.used(network))


test_a_container_is_seen_by_the_other_hosts_until_it_ends = story(_meet)


async def _unique(directory: Path) -> None:
    async with hosts(directory, 3) as sites:
        network = await sites[0].network(subnet="10.1.0.0/26")
        for site in sites:
            await site.until(lambda site=site: network.id in site.control.view.networks)
        asked = [allocation.take_address(sites[number % 3].control, network) for number in range(61)]
        found = await asyncio.gather(*asked)
        assert len(set(found)) == 61 and "10.1.0.1" not in found
        for site in sites:
            with pytest.raises(Exhausted, match="no available IPv4 addresses"):
                await allocation.take_address(site.control, network)


test_hosts_never_give_out_an_address_twice_and_say_when_none_is_left = story(_unique)


async def _fixed(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        assert await allocation.take_address(one.control, network, "10.1.0.77") == "10.1.0.77"
        with pytest.raises(Conflict, match="Address already in use") as caught:
            await allocation.take_address(two.control, network, "10.1.0.77")
        assert "host1" in caught.value.hint
        with pytest.raises(Conflict, match="Address already in use"):
            await allocation.take_address(one.control, network, "10.1.0.77")
        with pytest.raises(Conflict, match="Address already in use"):
            await allocation.take_address(one.control, network, "10.1.0.1")


test_an_address_that_a_person_wants_is_had_once = story(_fixed)


async def _networks(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        results = await asyncio.gather(
            one.network("a", "10.1.0.0/24"), two.network("b", "10.1.0.128/25"), return_exceptions=True
        )
        assert [type(result) for result in results].count(Conflict) == 1, results
        made = next(result for result in results if isinstance(result, Network))
        other = await two.network("c", "10.2.0.0/24")
        assert other.vni != made.vni
        with pytest.raises(Conflict, match="network with name c already exists"):
            await one.network("c", "10.3.0.0/24")
        await one.until(lambda: other.id in one.control.view.networks)
        address = await allocation.take_address(one.control, other)
        one.run(other, address, "web")
        await two.until(lambda: two.names(other))
        with pytest.raises(Denied, match=r'network c has active endpoints \(name:"web"'):
            await allocation.remove_network(two.control, other)
        one.control.own.release(other, other.id, address)
        one.control.changed()
        await two.until(lambda: not two.used(other))
        await allocation.remove_network(two.control, other)
        await one.until(lambda: other.id not in one.control.view.networks)
        with pytest.raises(NotFound):
            await allocation.take_address(one.control, other, "10.2.0.99")


test_networks_do_not_overlap_and_go_only_when_no_host_uses_them = story(_networks)


async def _gone(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        address = await allocation.take_address(two.control, network)
        two.run(network, address, "web")
        await one.until(lambda: one.names(network) == {"web"})
        await two.store.cut()
        two.store.gone = True
        # Its short time is over: names go, the way to the address stays, as it may be only the store that it lost.
        await one.shared.advance(2)
        await one.control.store.keep(one.control.long_lease)
        await one.until(lambda: not one.names(network))
        assert one.sees(network) == {address: "192.0.2.2"}
        with pytest.raises(Conflict, match="Address already in use") as caught:
            await allocation.take_address(one.control, network, address)
        assert "a host that has gone" in caught.value.hint
        two.store.gone = False
        await one.until(lambda: one.names(network) == {"web"})
        assert two.control.status.connected


test_a_host_that_was_cut_off_is_there_again_when_it_comes_back = story(_gone)


async def _replaced(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        address = await allocation.take_address(two.control, network)
        two.run(network, address, "web")
        await one.until(lambda: one.names(network))
        await two.store.cut()
        one.shared.clock += 99
        await one.control.store.keep(one.control.long_lease)
        await one.shared.advance(2)
        await one.until(lambda: not one.sees(network))
        assert await allocation.take_address(one.control, network, address) == address
        one.run(network, address, "db")
        two.store.gone = False
        await two.until(lambda: two.names(network) == {"db"})
        # The one that took it over keeps it.
        assert one.sees(network) == {}
        assert two.control.view.claim_of(network.id, address).host == one.id  # type: ignore[union-attr]


test_an_address_that_another_host_took_over_is_not_taken_back = story(_replaced)


async def _without(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        await allocation.keep_some(two.control, network, kept(network))
        two.run(network, await allocation.take_address(one.control, network), "x")
        await one.store.cut()
        await two.store.cut()
        await two.until(lambda: not two.control.status.connected)
        with pytest.raises(Unavailable, match="memory does not answer"):
            await allocation.create_network(two.control, lambda _: planned("x", "10.9.0.0/24"))
        for _ in range(kept(network)):
            await allocation.take_address(two.control, network)
        with pytest.raises(Unavailable, match="memory does not answer"):
            await allocation.take_address(two.control, network)


test_without_the_store_containers_get_the_addresses_that_their_host_has_kept = story(_without)


async def _restarted(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        address = await allocation.take_address(two.control, network)
        endpoint = two.run(network, address, "web")
        await one.until(lambda: one.names(network))
        await two.until(lambda: (network.id, endpoint) not in two.control._written)  # heard of its own words
        await two.control.close(leave=False)
        two.make()
        two.store.gone = True
        await two.control.start(seconds=0.05)
        assert not two.control.status.connected
        assert network.id in two.control.view.networks
        two.control.own.hold(network.id, address)
        two.run(network, address, "web")
        two.control.complete()
        two.store.gone = False
        await two.until(lambda: two.control.status.connected)
        # It found its leases alive, and everything as it had left it: nothing had to be said again.
        assert two.store.commits == 0
        assert one.names(network) == {"web"}


test_an_engine_that_starts_without_the_store_goes_on_with_what_it_knew = story(_restarted)


async def _lost(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        await two.until(lambda: network.id in two.control.view.networks)
        one.networks = two.networks = [network]
        address = await allocation.take_address(two.control, network)
        two.run(network, address, "web")
        await one.until(lambda: one.names(network))
        identity = one.control.view.identity
        for _ in range(20):
            await one.store.commit([], [Put("elsewhere", b"")])
        await one.until(lambda: one.names(network))
        for site in (one, two):
            await site.store.cut()
            await site.until(lambda site=site: not site.control.status.connected)
        empty = SharedState()
        for site in (one, two):
            site.store._shared = empty
            site.store.gone = False
        await one.until(lambda: one.control.status.connected)
        await one.until(lambda: one.names(network) == {"web"} and one.sees(network) == {address: "192.0.2.2"})
        assert one.control.view.networks == two.control.view.networks == {network.id: network}
        assert one.control.view.identity == two.control.view.identity == identity
        # Revisions begin anew; what happens from now on is heard of.
        other = await one.network("other", "10.9.0.0/24")
        await two.until(lambda: other.id in two.control.view.networks)
        empty.close()


test_a_store_that_lost_its_data_gets_it_back_from_the_hosts = story(_lost)


async def _rubbish(directory: Path) -> None:
    async with hosts(directory, 1) as (one,):
        network = await one.network()
        keys = one.control.keys
        mine = f'{{"host":"{one.id}","at":"192.0.2.1"}}'.encode()
        key = keys.address(network.id, "10.1.0.50")
        await one.store.commit([], [Put(key, mine)])
        await one.until(lambda: one.store.commits > 1 and key not in one.shared.state.entries)


test_what_is_under_our_name_in_the_store_and_not_ours_is_removed = story(_rubbish)


async def _copied(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        address = await allocation.take_address(one.control, network)
        one.run(network, address, "web")
        await two.until(lambda: two.names(network) == {"web"})
        await one.control._save()
        # A machine that was copied with everything, but for its address.
        (directory / "9").mkdir()
        shutil.copy(directory / "1" / "view.json", directory / "9" / "view.json")
        copy = Site(one.shared, directory, 9)
        copy.control.own.host = Host(one.id, "copy", "192.0.2.9")
        await copy.control.start(seconds=0.1)
        copy.control.complete()
        await copy.until(lambda: "host1 at 192.0.2.1 has the id of this engine" in copy.control.status.error)
        assert not copy.control.status.connected and copy.store.commits == 0
        assert two.names(network) == {"web"} and two.sees(network) == {address: "192.0.2.1"}
        assert one.control.status.connected
        await copy.control.close(leave=False)


test_an_engine_that_is_a_copy_of_another_takes_nothing_away_from_it_and_says_so = story(_copied)


async def _moved(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        address = await allocation.take_address(one.control, network)
        one.run(network, address, "web")
        await two.until(lambda: two.names(network) == {"web"})
        await one.control.close(leave=False)
        one.make()
        one.control.own.host = Host(one.id, "host1", "192.0.2.77")
        starting = asyncio.ensure_future(one.control.start(seconds=DEADLINE))
        await one.until(lambda: "has the id of this engine" in one.control.status.error)
        await one.shared.advance(TTL.host + 1)
        await starting
        one.run(network, address, "web")
        one.control.complete()
        await two.until(
            lambda: two.sees(network) == {address: "192.0.2.77"} and two.names(network) == {"web"}
        )


test_a_host_that_has_another_address_now_is_itself_when_the_old_one_is_over = story(_moved)


async def _late(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        address = await allocation.take_address(one.control, network)
        states = []
        told = one.control.on_change

        def changed(networks: frozenset[str]) -> None:
            states.append(one.control.status.connected)
            told(networks)

        one.control.on_change = changed
        leases = one.control._leases
        assert leases is not None
        one.shared.state.revoke(leases.short)  # as if the store had not heard of the host for too long
        one.run(network, address, "web")
        await two.until(lambda: two.names(network) == {"web"})
        assert one.control._leases != leases and all(states)


test_a_host_whose_lease_has_ended_writes_with_a_new_one_and_stays_connected = story(_late)


class _Forgetful(MemoryStore):
    """Never knows what happened since; `reads` are the moments at which it was read."""

    def __init__(self, shared: SharedState) -> None:
        super().__init__(shared)
        self.reads: list[float] = []
        self.read_thrice = asyncio.Event()

    async def read(self, prefix: str) -> Snapshot:
        self.reads.append(asyncio.get_running_loop().time())
        if len(self.reads) >= 4:  # the first session reads twice: it makes the identity
            self.read_thrice.set()
        return await super().read(prefix)

    async def watch(self, prefix: str, revision: int) -> AsyncIterator[Changes]:
        raise Compacted("everything has been forgotten")
        yield


async def _forgetful(directory: Path) -> None:
    shared = SharedState()
    site = Site(shared, directory, 1)
    store = _Forgetful(shared)
    site.control.store = store
    began = asyncio.get_running_loop().time()
    await site.control.start(seconds=DEADLINE)
    async with asyncio.timeout(DEADLINE):
        await store.read_thrice.wait()
    assert store.reads[-1] - began >= 0.2 + 0.4, "sessions follow each other without a pause"
    await site.control.close(leave=False)
    shared.close()


test_a_store_that_always_wants_to_be_read_again_is_not_read_without_a_pause = story(_forgetful)


async def _too_much(directory: Path) -> None:
    async with hosts(directory, 2) as (one, two):
        network = await one.network()
        most = control.MAX_BYTES
        control.MAX_BYTES = 20_000
        try:
            await one.store.commit([], [Put("sampan/hosts/x", bytes(30_000))])
            await two.until(lambda: "more than" in two.control.status.error)
            assert network.id in two.control.view.networks
        finally:
            control.MAX_BYTES = most


test_a_store_with_more_than_fits_counts_as_not_answering = story(_too_much)
