"""The services of volumes and networks on fakes. Expected messages: dockerd's own answers."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.engine.config import ContainerConfig, EndpointSettings, HostConfig, IpamConfig
from sampan.engine.events import EventBus
from sampan.engine.model import NEVER, ContainerRecord, Endpoint, IpamPool
from sampan.engine.networks.overlay import record_of
from sampan.engine.networks.requests import Ipam, NetworkCreate
from sampan.engine.networks.service import Networks
from sampan.engine.settings import Settings
from sampan.engine.volumes.local_options import LocalMount
from sampan.engine.volumes.service import Volumes
from sampan.engine.volumes.sizes import directory_size
from sampan.errors import Conflict, Denied, Exhausted, Invalid, NotFound, Unavailable
from sampan.network.model import EndpointSpec, NetworkSpec
from sampan.network.overlay.schema import Network
from sampan.storage.metadata import Table


class FakeMetadata:
    """Documents in a dictionary, which outlives the services as the database does."""

    def __init__(self) -> None:
        self.documents: dict[tuple[Table, str], bytes] = {}

    def put(self, table: Table, key: str, body: bytes, *, durable: bool | None = None) -> None:
        self.documents[table, key] = body

    def delete(self, table: Table, key: str, *, durable: bool | None = None) -> None:
        self.documents.pop((table, key), None)

    def items(self, table: Table, prefix: str = "") -> list[tuple[str, bytes]]:
        return [(key, body) for (kind, key), body in self.documents.items() if kind is table]


class FakeHost:
    """Remembers which bridges there are."""

    def __init__(self, in_use: tuple[str, ...] = ()) -> None:
        self.bridges: dict[str, NetworkSpec] = {}
        self.in_use = tuple(map(IPv4Network, in_use))
        self.broken = False

    def setup(self) -> None:
        return

    def ensure(self, network: NetworkSpec) -> None:
        if self.broken:
            raise Conflict("the device name is taken")
        self.bridges[network.bridge] = network

    def remove(self, network: NetworkSpec) -> None:
        self.bridges.pop(network.bridge, None)

    def subnets_in_use(self) -> tuple[IPv4Network, ...]:
        return self.in_use


def make_networks(metadata: FakeMetadata, host: FakeHost, **settings: Any) -> Networks:
    return Networks(Settings(**settings), metadata, host, EventBus())  # type: ignore[arg-type]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def container(name: str, network_id: str, spec: EndpointSpec | None) -> tuple[ContainerRecord, Endpoint]:
    record = ContainerRecord(name * 64, name, NEVER, "", "", (), ContainerConfig(), HostConfig())
    return record, Endpoint(network_id, spec=spec)


def test_the_predefined_networks_are_made_once_and_found_again() -> None:
    async def test() -> None:
        metadata, host = FakeMetadata(), FakeHost(in_use=("172.17.0.0/16",))
        networks = make_networks(metadata, host, instance="own0")
        await networks.setup()
        assert {one["Name"]: one["Driver"] for one in networks.list({})} == {
            "bridge": "bridge", "host": "host", "none": "null",
        }  # fmt: skip
        assert [spec.subnet for spec in networks.specs() if spec.bridge == "own0"] == ["172.18.0.0/16"]
        again = make_networks(metadata, host, instance="own0")
        await again.setup()
        assert again.find("bridge") == networks.find("bridge")

    run(test())


def test_the_default_subnet_can_be_given_with_the_gateways_address() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost(), default_subnet="10.9.0.1/24")
        await networks.setup()
        assert networks.find("bridge").ipam_config == (IpamPool("10.9.0.0/24", gateway="10.9.0.1"),)

    run(test())


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        (NetworkCreate("bridge"), Denied, "operation is not permitted on predefined bridge network"),
        (NetworkCreate("taken"), Conflict, "network with name taken already exists"),
        (NetworkCreate("  "), Invalid, "invalid name: name is empty"),
        (NetworkCreate("a\nb"), Invalid, "invalid network name"),
        (NetworkCreate("\x1b[31m"), Invalid, "invalid network name"),
        (NetworkCreate("a\u202eb"), Invalid, "invalid network name"),  # what comes after it is read backwards
        (NetworkCreate("a b", driver="overlay"), Invalid, "invalid network name"),
        (NetworkCreate("x", driver="foo"), NotFound, 'plugin "foo" not found'),
        (NetworkCreate("x", driver="host"), Denied, 'only one instance of "host" network is allowed'),
        (NetworkCreate("x", ipam=Ipam(config=(IpamPool("10.1.0.1"),))), Invalid, "invalid subnet 10.1.0.1"),
        (NetworkCreate("x", ipam=Ipam("null")), Invalid, "ipv4 pool is empty"),
        (
            NetworkCreate("x", ipam=Ipam("null", config=(IpamPool("10.1.0.0/24"),))),
            Invalid,
            "null ipam driver does not handle specific address pool requests",
        ),
        (
            NetworkCreate("x", ipam=Ipam(config=(IpamPool("172.18.0.0/24"),))),
            Denied,
            "Pool overlaps with other one on this address space",
        ),
        (
            NetworkCreate("x", ipam=Ipam(config=(IpamPool("10.1.0.0/24", gateway="10.2.0.1"),))),
            Invalid,
            "invalid gateway 10.2.0.1",
        ),
    ],
)
def test_a_network_that_can_not_be_is_refused(body: NetworkCreate, kind: type[Exception], words: str) -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        await networks.create(NetworkCreate("taken"))
        with pytest.raises(kind, match=words):
            await networks.create(body)

    run(test())


def test_a_network_whose_bridge_can_not_be_made_leaves_nothing() -> None:
    async def test() -> None:
        metadata, host = FakeMetadata(), FakeHost()
        networks = make_networks(metadata, host)
        await networks.setup()
        host.broken = True
        with pytest.raises(Conflict):
            await networks.create(NetworkCreate("broken"))
        assert len(metadata.items(Table.NETWORKS)) == 3
        host.broken = False
        network_id, _ = await networks.create(NetworkCreate("broken"))
        assert networks.find(network_id[:12]).spec == host.bridges[f"br-{network_id[:12]}"]

    run(test())


def test_two_networks_can_not_have_one_bridge() -> None:
    async def test() -> None:
        metadata, host = FakeMetadata(), FakeHost()
        networks = make_networks(metadata, host)
        await networks.setup()
        options = {"com.docker.network.bridge.name": "mine0"}
        subnet = Ipam(config=(IpamPool("10.5.0.0/24"),))
        both = [
            networks.create(NetworkCreate(name, options=options, ipam=ipam))
            for name, ipam in (("first", Ipam()), ("second", subnet))
        ]
        done = await asyncio.gather(*both, return_exceptions=True)
        assert [isinstance(one, Denied) for one in done] == [False, True]
        assert "networks have same bridge name" in str(done[1])
        assert "mine0" in host.bridges
        await networks.create(NetworkCreate("third", ipam=subnet))  # nothing is left of the second

    run(test())


def test_a_network_in_use_is_not_removed() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        network_id, _ = await networks.create(NetworkCreate("busy"))
        spec = networks.allocate(networks.find("busy"), EndpointSettings())
        networks.members = lambda wanted: [container("c", wanted, spec)] if wanted == network_id else []
        with pytest.raises(Denied, match="network busy has active endpoints"):
            await networks.remove("busy")
        networks.members = lambda _wanted: []
        networks.release(spec)
        await networks.remove("busy")
        with pytest.raises(NotFound, match="network busy not found"):
            networks.find("busy")
        with pytest.raises(Denied, match="bridge is a pre-defined network and cannot be removed"):
            await networks.remove("bridge")

    run(test())


def test_removing_a_network_waits_for_a_container_that_is_just_starting_in_it() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        network_id, _ = await networks.create(NetworkCreate("soon"))
        record = networks.find("soon")
        spec = networks.allocate(record, EndpointSettings())
        removal = asyncio.ensure_future(networks.remove("soon"))
        await asyncio.sleep(0)
        assert not removal.done()
        networks.members = lambda wanted: [container("c", wanted, spec)] if wanted == network_id else []
        with pytest.raises(Denied, match="network soon has active endpoints"):
            await removal

    run(test())


def test_nothing_starts_in_a_network_that_is_being_removed_and_only_one_removes_it() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        await networks.create(NetworkCreate("gone"))
        record = networks.find("gone")
        removals = [asyncio.ensure_future(networks.remove("gone")) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(NotFound, match="network gone not found"):
            networks.allocate(record, EndpointSettings())
        results = await asyncio.gather(*removals, return_exceptions=True)
        assert results[0] is None
        assert isinstance(results[1], NotFound)

    run(test())


def test_addresses_are_given_once_and_come_back() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        await networks.create(NetworkCreate("small", ipam=Ipam(config=(IpamPool("10.3.0.0/29"),))))
        record = networks.find("small")

        def allocate(fixed: str = "") -> EndpointSpec | None:
            asked = EndpointSettings(ipam_config=IpamConfig(fixed) if fixed else None)
            return networks.allocate(record, asked)

        first = allocate()
        assert first is not None
        assert (first.address, first.gateway, first.mac) == ("10.3.0.2/29", None, "02:42:0a:03:00:02")
        fixed = allocate("10.3.0.5")
        assert fixed is not None
        with pytest.raises(Conflict, match="Address already in use"):
            allocate("10.3.0.5")
        assert [one.address for _ in range(3) if (one := allocate())] == [
            "10.3.0.3/29", "10.3.0.4/29", "10.3.0.6/29",
        ]  # fmt: skip
        with pytest.raises(Exhausted, match="no available IPv4 addresses"):
            allocate()
        networks.release(fixed)
        assert allocate("10.3.0.5") is not None
        again = make_networks(FakeMetadata(), FakeHost())
        await again.setup()
        again.adopt(first)

    run(test())


def test_fixed_addresses_and_aliases_are_for_networks_of_ones_own() -> None:
    async def test() -> None:
        networks = make_networks(FakeMetadata(), FakeHost())
        await networks.setup()
        await networks.create(NetworkCreate("auto"))
        bridge, auto = networks.find("bridge"), networks.find("auto")
        fixed = EndpointSettings(ipam_config=IpamConfig("10.0.0.9"))
        with pytest.raises(Invalid) as caught:
            networks.check_endpoint(bridge, fixed)
        assert caught.value.message == (
            "invalid endpoint settings:\n"
            "* user specified IP address is supported on user defined networks only\n"
            "* user specified IP address is supported only when connecting to networks with user configured subnets"
        )
        with pytest.raises(Invalid) as caught:
            networks.check_endpoint(auto, fixed)
        assert caught.value.message == (
            "invalid endpoint settings:\n"
            "user specified IP address is supported only when connecting to networks with user configured subnets"
        )
        with pytest.raises(Invalid, match="network-scoped alias"):
            networks.check_endpoint(bridge, EndpointSettings(aliases=("x",)))

    run(test())


def test_volumes_are_made_once_kept_over_a_restart_and_removed(tmp_path: Path) -> None:
    async def test() -> None:
        metadata = FakeMetadata()
        volumes = Volumes(tmp_path, metadata, EventBus())
        first = await volumes.create("data", labels={"a": "b"})
        assert await volumes.create("data") == first
        (volumes.path("data") / "file").write_text("12345")
        assert directory_size(volumes.path("data")) == 5
        again = Volumes(tmp_path, metadata, EventBus())
        assert again.inspect("data")["Labels"] == {"a": "b"}
        assert again.inspect("data")["Mountpoint"] == str(tmp_path / "data" / "_data")
        await again.remove("data")
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(NotFound, match="get data: no such volume"):
            await again.remove("data")
        await again.remove("data", force=True)

    run(test())


def test_a_volume_that_is_a_mount_is_mounted_by_its_first_user_and_unmounted_by_its_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted: set[str] = set()
    calls: list[str] = []

    def mount(wanted: LocalMount, place: str) -> None:
        assert (wanted.kind, wanted.device) == ("tmpfs", "tmpfs")
        mounted.add(place)
        calls.append("mount")

    def unmount(place: str) -> None:
        mounted.discard(place)
        calls.append("unmount")

    monkeypatch.setattr("sampan.engine.volumes.local.mount_volume", mount)
    monkeypatch.setattr("sampan.engine.volumes.local.unmount_all", unmount)
    monkeypatch.setattr("sampan.engine.volumes.local.is_mounted", lambda place: place in mounted)

    async def test() -> None:
        metadata = FakeMetadata()
        volumes = Volumes(tmp_path, metadata, EventBus())
        await volumes.create("data", options={"type": "tmpfs", "device": "tmpfs"})
        await volumes.create("plain")
        assert await volumes.mount("plain", "a") == volumes.path("plain")
        assert calls == []
        for user in "aab":
            assert await volumes.mount("data", user) == volumes.path("data")
        await volumes.unmount("data", "a")
        assert calls == ["mount"]
        with pytest.raises(Conflict, match="volume is in use"):
            await volumes.remove("data")
        # An engine that comes after one that was killed: "b" still runs, then not.
        again = Volumes(tmp_path, metadata, EventBus())
        again.adopt("data", "b")
        await again.settle()
        assert calls == ["mount"]
        await again.unmount("data", "b")
        assert calls == ["mount", "unmount"]
        await again.mount("data", "c")
        await Volumes(tmp_path, metadata, EventBus()).settle()
        assert calls == ["mount", "unmount", "mount", "unmount"]

    run(test())


def test_a_mount_that_nobody_waits_for_any_more_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[str] = []

    def mount(_wanted: LocalMount, _place: str) -> None:
        begun.set()
        assert go_on.wait(60)
        calls.append("mount")

    monkeypatch.setattr("sampan.engine.volumes.local.mount_volume", mount)
    monkeypatch.setattr("sampan.engine.volumes.local.unmount_all", lambda _place: calls.append("unmount"))
    monkeypatch.setattr("sampan.engine.volumes.local.is_mounted", lambda _place: False)

    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        await volumes.create("slow", options={"type": "nfs", "device": "server:/x"})
        mounting = asyncio.ensure_future(volumes.mount("slow", "a"))
        await asyncio.to_thread(begun.wait, 60)
        mounting.cancel()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await mounting
        assert calls == ["mount", "unmount"]
        await volumes.remove("slow")

    run(test())


def test_a_volume_in_use_stays(tmp_path: Path) -> None:
    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        await volumes.create("data")
        volumes.use.users = lambda name: ["abc"] if name == "data" else []
        with pytest.raises(Conflict) as caught:
            await volumes.remove("data")
        assert caught.value.message == "remove data: volume is in use - [abc]"

    run(test())


def test_a_volume_of_a_container_that_is_being_made_stays(tmp_path: Path) -> None:
    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        with volumes.holding() as held:
            named = await volumes.create("data", hold=held)
            await volumes.create(hold=held)
            with pytest.raises(Conflict, match="remove data: volume is in use"):
                await volumes.remove("data")
            assert (await volumes.prune({"all": ["true"]}))["VolumesDeleted"] == []
        await volumes.remove(named.name)

    run(test())


def test_a_volume_made_while_it_is_removed_is_whole_afterwards(tmp_path: Path) -> None:
    async def test() -> None:
        metadata = FakeMetadata()
        volumes = Volumes(tmp_path, metadata, EventBus())
        for _ in range(20):
            await volumes.create("data")
            await asyncio.gather(volumes.remove("data"), volumes.create("data"))
            assert volumes.find("data") is not None
            assert volumes.path("data").is_dir()
            assert [key for key, _ in metadata.items(Table.VOLUMES)] == ["data"]

    run(test())


def test_prune_takes_unused_anonymous_volumes_and_named_ones_only_when_told(tmp_path: Path) -> None:
    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        await volumes.create("named")
        anonymous = await volumes.create()
        used = await volumes.create()
        volumes.use.users = lambda name: ["c"] if name == used.name else []
        assert (await volumes.prune({}))["VolumesDeleted"] == [anonymous.name]
        assert (await volumes.prune({"all": ["true"]}))["VolumesDeleted"] == ["named"]
        asked: list[str] = []
        volumes.use.users = lambda name: asked.append(name) or ["c"]
        assert [one["Name"] for one in volumes.list({})["Volumes"]] == [used.name]
        assert asked == []  # all containers are looked through for it
        assert volumes.list({"dangling": ["true"]})["Volumes"] == []

    run(test())


def test_values_of_filters_that_are_none_are_refused_whatever_there_is(tmp_path: Path) -> None:
    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        networks = make_networks(FakeMetadata(), FakeHost())
        with pytest.raises(Invalid, match="invalid filter 'dangling=maybe'"):
            volumes.list({"dangling": ["maybe"]})
        with pytest.raises(Invalid, match="invalid filter 'all=maybe'"):
            await volumes.prune({"all": ["maybe"]})
        with pytest.raises(Invalid, match="invalid time 'x'"):
            await volumes.prune({"until": ["x"]})
        for name, value in (("dangling", "maybe"), ("type", "nosuch")):
            with pytest.raises(Invalid, match="invalid"):
                networks.list({"driver": ["nosuch"], name: [value]})

    run(test())


def test_a_staged_volume_appears_complete_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk that others write to makes this slow.
    monkeypatch.setattr("sampan.engine.volumes.staging.sync_all", lambda _: None)

    async def test() -> None:
        metadata = FakeMetadata()
        volumes = Volumes(tmp_path, metadata, EventBus())
        async with volumes.staged("whole", labels={"a": "b"}) as directory:
            (directory / "file").write_text("12345")
            assert volumes.find("whole") is None
            assert Volumes(tmp_path / "other", metadata, EventBus()).find("whole") is None
        assert (volumes.path("whole") / "file").read_text() == "12345"
        assert Volumes(tmp_path, metadata, EventBus()).inspect("whole")["Labels"] == {"a": "b"}
        with pytest.raises(Conflict, match="a volume with this name exists already"):
            async with volumes.staged("whole"):
                raise AssertionError("nothing to write into")
        with pytest.raises(ZeroDivisionError):
            async with volumes.staged("half") as directory:
                (directory / "file").write_text("12345")
                raise ZeroDivisionError
        assert volumes.find("half") is None
        assert os.listdir(tmp_path / "whole") == ["_data"]
        assert sorted(os.listdir(tmp_path)) == ["other", "whole"]

    run(test())


def test_nobody_waits_for_a_volume_that_is_being_staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sampan.engine.volumes.staging.sync_all", lambda _: None)

    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        await volumes.create("old")
        async with volumes.staged("new") as directory:
            # A clone of `old` opens it now: were `new` locked, a rename to it would wait for us, and we for that.
            (directory / "file").write_text("12345")
            with pytest.raises(Conflict, match="rename new: a volume with this name is being restored"):
                await volumes.rename("old", "new", lambda: None)
            with pytest.raises(Conflict, match="create new: a volume with this name is being restored"):
                await volumes.create("new")
            with pytest.raises(Conflict, match="create new: a volume with this name is being restored"):
                async with volumes.staged("new"):
                    raise AssertionError("nothing to write into")
            async with volumes.opened("old") as path:
                assert path == volumes.path("old")
        assert (volumes.path("new") / "file").read_text() == "12345"
        await volumes.remove("new")
        await volumes.create("new")

    run(asyncio.wait_for(test(), 20))


def test_a_held_volume_is_not_removed(tmp_path: Path) -> None:
    async def test() -> None:
        volumes = Volumes(tmp_path, FakeMetadata(), EventBus())
        await volumes.create("data")
        async with volumes.opened("data") as path:
            assert path == volumes.path("data")
            with pytest.raises(Conflict, match="volume is in use"):
                await volumes.remove("data")
            await volumes.remove_unused("data")
            assert (await volumes.prune({"all": ["1"]}))["VolumesDeleted"] == []
        await volumes.remove("data")
        with pytest.raises(NotFound, match="get data: no such volume"), volumes.holding("data"):
            raise AssertionError("nothing to hold")

    run(test())


def test_what_a_crash_left_of_a_removal_is_swept_and_data_without_a_record_is_kept(tmp_path: Path) -> None:
    async def test() -> None:
        metadata = FakeMetadata()
        volumes = Volumes(tmp_path, metadata, EventBus())
        await volumes.create("half")
        # Between the rename and the record's end.
        (tmp_path / "half").rename(tmp_path / ".half.0123")
        (tmp_path / "stray").mkdir()
        again = Volumes(tmp_path, metadata, EventBus())
        assert again.find("half") is None
        assert [path.name for path in tmp_path.iterdir()] == ["stray"]
        assert metadata.items(Table.VOLUMES) == []

    run(test())


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a b", '"a b" includes invalid characters for a local volume name'),
        ("../up", "includes invalid characters"),
        ("x", "volume name is too short"),
        ("x" * 256, "volume name is longer than 255 characters"),
    ],
)
def test_bad_volume_names_are_refused(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        asyncio.run(Volumes(tmp_path, FakeMetadata(), EventBus()).create(name))


def test_an_engine_in_no_cluster_makes_no_overlay_networks_and_can_remove_those_it_had() -> None:
    async def story() -> None:
        metadata, host = FakeMetadata(), FakeHost()
        shared = record_of(
            Network("1" * 64, "backend", "2026-01-01T00:00:00Z", 5000, "10.1.0.0/24", "10.1.0.1")
        )
        metadata.put(Table.NETWORKS, shared.id, msgspec.json.encode(shared))
        networks = make_networks(metadata, host)
        await networks.setup()
        assert "backend" in [one["Name"] for one in networks.list({"scope": ["global"]})]
        assert shared.spec not in networks.specs()
        with pytest.raises(Unavailable, match="This node is not a swarm manager"):
            await networks.create(NetworkCreate(name="more", driver="overlay"))
        with pytest.raises(Unavailable, match="This node is not a swarm manager"):
            await networks.prepare(shared, EndpointSettings())
        await networks.remove("backend")
        assert (Table.NETWORKS, shared.id) not in metadata.documents

    run(story())
