"""From a record to the runtime configuration. Expected values: what dockerd hands to runc, and the OCI spec."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from sampan.engine import default_spec, hosts_file, ports
from sampan.engine.config import ContainerConfig, HostConfig, HostPort, Ulimit
from sampan.engine.model import NEVER, ContainerRecord, MountPoint
from sampan.engine.mounts import collect
from sampan.engine.spec import SpecDefaults, SpecFacts, build_spec, point_mount
from sampan.engine.spec_resources import live_limits
from sampan.errors import Unsupported
from sampan.network.model import PortBinding
from sampan.oci.spec import DeviceRule, IdMapping, Mount, Rlimit, Spec

DEFAULTS = SpecDefaults(
    mounts=default_spec.default_mounts(),
    devices=default_spec.default_device_rules(),
    masked_paths=default_spec.MASKED_PATHS,
    readonly_paths=default_spec.READONLY_PATHS,
    sysctls=default_spec.default_sysctls(),
)
FACTS = SpecFacts(
    DEFAULTS, default_spec.adjust_capabilities((), ()), "/parent", "box", files={"/etc/hosts": "/run/hosts"}
)


def build(host: dict[str, Any] | None = None, facts: SpecFacts = FACTS, **config: Any) -> Spec:
    settings = ContainerConfig(**{"cmd": ("true",), **config})
    record = ContainerRecord(
        "ab" * 32, "name", NEVER, "sha256:0", "image", (), settings, HostConfig(**{"shm_size": 1 << 26, **(host or {})})
    )  # fmt: skip
    return build_spec(record, facts)


def mounts_of(spec: Spec) -> dict[str, Mount]:
    return {mount.destination: mount for mount in spec.mounts}


def test_the_environment_has_path_hostname_and_term() -> None:
    process = build(tty=True, env=("A=b", "PATH=/mine", "HOSTNAME")).process
    assert process is not None
    assert process.env == ("PATH=/mine", "TERM=xterm", "A=b")
    process = build().process
    assert process is not None
    assert process.env == (default_spec.DEFAULT_PATH, "HOSTNAME=box")


def test_every_namespace_is_the_containers_own_unless_shared_or_joined() -> None:
    facts = SpecFacts(
        DEFAULTS,
        (),
        "/p",
        "box",
        shared=frozenset({"network", "cgroup"}),
        namespaces={"pid": "/proc/7/ns/pid"},
    )
    linux = build(facts=facts).linux
    assert linux is not None
    found = {namespace.type: namespace.path for namespace in linux.namespaces}
    assert found == {"mount": None, "uts": None, "pid": "/proc/7/ns/pid", "ipc": None}


def test_limits_become_resources() -> None:
    host: dict[str, Any] = {
        "memory": 1 << 26,
        "memory_swap": 1 << 27,
        "nano_cpus": 500_000_000,
        "pids_limit": 10,
    }
    linux = build(host).linux
    assert linux is not None and linux.resources is not None
    resources = linux.resources
    assert resources.memory is not None and resources.cpu is not None and resources.pids is not None
    assert (resources.memory.limit, resources.memory.swap) == (1 << 26, 1 << 27)
    assert (resources.cpu.quota, resources.cpu.period) == (50_000, 100_000)
    assert resources.pids.limit == 10
    assert linux.cgroups_path == "/parent/" + "ab" * 32
    limits = live_limits(HostConfig(**host))
    assert (limits.memory, limits.cpu_quota, limits.pids) == (1 << 26, 50_000, 10)


def test_nothing_is_limited_that_was_not_asked_for() -> None:
    spec = build()
    assert spec.linux is not None and spec.linux.resources is not None and spec.process is not None
    resources = spec.linux.resources
    assert (resources.memory, resources.cpu, resources.pids, resources.block_io) == (None, None, None, None)
    assert spec.process.rlimits == ()


def test_ulimits_are_taken_over_and_minus_one_is_unlimited() -> None:
    process = build({"ulimits": (Ulimit("core", hard=-1, soft=0),)}).process
    assert process is not None
    assert process.rlimits == (Rlimit("RLIMIT_CORE", hard=2**64 - 1, soft=0),)


def test_mounts_are_in_order_and_take_the_place_of_the_systems_own() -> None:
    points = collect(HostConfig(binds=("/h:/etc/hosts", "/s:/dev/shm", "/a:/x/y:ro", "/b:/x")), ())
    host = {"tmpfs": {"/t": "size=1m,exec"}}
    spec = build(host, SpecFacts(DEFAULTS, (), "/p", "box", points, files={"/etc/hosts": "/run/hosts"}))
    found = mounts_of(spec)
    assert found["/etc/hosts"].source == "/h"
    assert found["/dev/shm"].source == "/s"
    assert found["/x/y"].options == ("rbind", "ro", "rprivate", "x-sampan-host")
    assert found["/t"].options == ("nosuid", "nodev", "size=1m", "exec")
    order = list(found)
    assert order.index("/x") < order.index("/x/y")
    assert len(order) == len(spec.mounts)


def test_the_size_of_shm_is_the_containers() -> None:
    assert "size=1048576" in mounts_of(build({"shm_size": 1 << 20}))["/dev/shm"].options
    assert "/dev/shm" not in mounts_of(build({"ipc_mode": "none"}))


def test_a_privileged_container_is_not_protected_from_itself() -> None:
    spec = build({"privileged": True})
    assert spec.linux is not None and spec.linux.resources is not None
    assert spec.linux.masked_paths == () and spec.linux.readonly_paths == ()
    assert spec.linux.seccomp is None
    assert spec.linux.resources.devices == (DeviceRule(True, "a", access="rwm"),)
    assert "ro" not in mounts_of(spec)["/sys"].options
    assert "ro" not in mounts_of(spec)["/sys/fs/cgroup"].options
    assert "ro" in mounts_of(build())["/sys"].options


def test_shared_mounts_need_a_root_that_is_not_private() -> None:
    points = collect(HostConfig(binds=("/a:/x:rslave",)), ())
    linux = build(facts=SpecFacts(DEFAULTS, (), "/p", "box", points)).linux
    assert linux is not None and linux.rootfs_propagation == "rslave"


def test_the_hosts_file_of_a_builds_step_is_the_same_in_every_network() -> None:
    text = hosts_file.for_step("buildkitsandbox", ["db:10.0.0.9", "host=host-gateway"], ["172.17.0.1"])
    # BuildKit's, followed by --add-host.
    assert text == (
        "127.0.0.1\tlocalhost buildkitsandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n"
        "10.0.0.9\tdb\n172.17.0.1\thost\n"
    )


def test_the_hosts_file_names_the_container_and_what_was_added() -> None:
    text = hosts_file.render(
        ["172.17.0.2"],
        "box",
        "example.org",
        ("db:10.0.0.1", "up:host-gateway"),
        gateways=("172.17.0.1", "fd00::1"),
    )
    assert text.startswith("127.0.0.1\tlocalhost\n")
    assert text.endswith("10.0.0.1\tdb\n172.17.0.1\tup\nfd00::1\tup\n172.17.0.2\tbox.example.org box\n")


def test_the_hosts_file_of_a_running_container_follows_its_networks_and_keeps_what_others_wrote() -> None:
    lines = hosts_file.own_lines(["10.66.2.2", "10.66.1.2", "fd00:66:1::2"], "hh", "")
    text = "127.0.0.1\tlocalhost\n10.66.2.2\thh\n1.2.3.4 mine"
    connected = hosts_file.follow(text, [], lines)
    assert connected == (
        "127.0.0.1\tlocalhost\n10.66.2.2\thh\n1.2.3.4 mine\n10.66.1.2\thh\nfd00:66:1::2\thh\n"
    )
    assert hosts_file.follow(connected, lines[1:], lines[:1]) == text + "\n"


def test_a_port_without_one_of_the_host_s_is_shown_as_docker_shows_it() -> None:
    opened = PortBinding(80, host_address="::")
    assert ports.ports_json(ContainerConfig(), [opened]) == {"80/tcp": [{"HostIp": "::", "HostPort": ""}]}
    assert ports.summary_json(ContainerConfig(), [opened]) == [{"IP": "::", "PrivatePort": 80, "Type": "tcp"}]


def test_port_bindings_become_requests_and_exposed_ports() -> None:
    host = HostConfig(
        port_bindings={
            "80/tcp": (HostPort("127.0.0.1", "8080"), HostPort("", "9000-9010")),
            "53/udp": (HostPort(),),
        }
    )
    config = ContainerConfig(exposed_ports={"443": {}})
    assert ports.requested(config, host) == (
        PortBinding(80, "tcp", "127.0.0.1", 8080),
        PortBinding(80, "tcp", "", 9000, 9010),
        PortBinding(53, "udp", "", 0),
    )
    assert list(ports.exposed(config, host)) == ["443/tcp", "53/udp", "80/tcp"]
    everything = replace(host, publish_all_ports=True)
    assert PortBinding(443, "tcp") in ports.requested(config, everything)


def test_published_ports_are_shown_as_docker_shows_them() -> None:
    config = ContainerConfig(exposed_ports={"80/tcp": {}, "443/tcp": {}})
    published = (PortBinding(80, "tcp", "0.0.0.0", 8080), PortBinding(80, "tcp", "::", 8080))
    assert ports.ports_json(config, published) == {
        "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
        "443/tcp": None,
    }
    assert ports.summary_json(config, published) == [
        {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
        {"PrivatePort": 443, "Type": "tcp"},
    ]


@pytest.mark.parametrize(
    ("below", "able", "expected"),
    [("", True, True), ("", False, False), ("writable", True, False), ("readonly", True, True)],
)
def test_a_read_only_bind_is_so_with_all_below_it_where_the_kernel_can(
    below: str, able: bool, expected: bool
) -> None:
    point = MountPoint("bind", "/x", "/h", rw=False, propagation="rprivate", below=below)
    assert ("rro" in point_mount(point, readonly_trees=able).options) == expected
    assert "rro" not in point_mount(replace(point, rw=True), readonly_trees=able).options
    assert "rro" not in point_mount(replace(point, recursive=False), readonly_trees=able).options


def test_what_the_kernel_can_not_do_and_somebody_insists_on_is_refused() -> None:
    point = MountPoint("bind", "/x", "/h", rw=False, propagation="rprivate", below="readonly")
    with pytest.raises(Unsupported, match="the mounts below /h can't be made read-only"):
        point_mount(point, readonly_trees=False)


def test_mapped_ids_are_the_mounts_own_or_the_containers() -> None:
    numbers = point_mount(MountPoint("bind", "/x", "/h", id_map="uids=1000-0-1;gids=5-6-7"))
    assert numbers.uid_mappings == (IdMapping(1000, 0, 1),)
    assert numbers.gid_mappings == (IdMapping(5, 6, 7),)
    assert "idmap" not in numbers.options
    own = point_mount(MountPoint("bind", "/x", "/h", id_map="idmap"))
    assert own.uid_mappings == () and "idmap" in own.options
