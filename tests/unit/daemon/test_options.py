from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampan.daemon.options import parse_options
from sampan.engine.config import HostConfig, Ulimit
from sampan.engine.containers.create import with_default_limits
from sampan.engine.settings import Settings
from sampan.errors import Invalid, SampanError
from sampan.registry.proxies import Proxies


def with_file(tmp_path: Path, content: object, *flags: str) -> list[str]:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(content))
    return ["--config-file", str(file), *flags]


def test_a_flag_wins_over_the_file(tmp_path: Path) -> None:
    argv = with_file(tmp_path, {"data-root": "/from/file", "mtu": 1400}, "--root", "/from/flag")
    settings = parse_options(argv).settings
    assert (settings.root, settings.mtu) == (Path("/from/flag"), 1400)


def test_dockers_own_configuration_file_is_understood(tmp_path: Path) -> None:
    argv = with_file(
        tmp_path,
        {
            "insecure-registries": ["registry.local:5000"],
            "registry-mirrors": ["https://mirror.local"],
            "log-opts": {"max-size": "1m"},
            "default-address-pools": [{"base": "10.0.0.0/8", "size": 24}],
            "bip": "10.9.0.1/24",
            "ipv6": True,
            "fixed-cidr": "10.9.0.128/25",
            "fixed-cidr-v6": "fd00:9::/64",
        },
    )
    settings = parse_options(argv).settings
    assert (settings.ipv6, settings.fixed_cidr, settings.fixed_cidr6) == (
        True,
        "10.9.0.128/25",
        "fd00:9::/64",
    )
    assert settings.insecure_registries == ("registry.local:5000",)
    assert settings.registry_mirrors == {"docker.io": ("https://mirror.local",)}
    assert settings.log_options == {"max-size": "1m"}
    assert settings.address_pools == (("10.0.0.0/8", 24),)
    assert settings.default_subnet == "10.9.0.1/24"


def test_addresses_of_the_default_bridge_may_be_given_in_both_families(tmp_path: Path) -> None:
    flags = ["--ipv6", "--bip6", "fd00:7::1/64", "--default-address-pool", "base=fd00:8::/48,size=64"]
    settings = parse_options(with_file(tmp_path, {}, *flags)).settings
    assert (settings.ipv6, settings.default_subnet6) == (True, "fd00:7::1/64")
    assert settings.address_pools == (("fd00:8::/48", 64),)
    for wrong in (
        ["--ip", "banana"],
        ["--icc=perhaps"],
        ["--default-gateway", "fd00::1"],
        ["--default-network-opt", "bridge=mtu"],
        ["--bip6", "10.0.0.1/8"],
        ["--bip", "fd00::1/64"],
        ["--fixed-cidr-v6", "10.0.0.0/8"],
        ["--fixed-cidr", "banana"],
        ["--default-address-pool", "base=fd00::/48,size=127"],
    ):
        with pytest.raises(Invalid):
            parse_options(with_file(tmp_path, {}, *wrong))


def test_what_docker_s_daemon_knows_of_the_default_bridge_is_known(tmp_path: Path) -> None:
    content = {
        "icc": False,
        "ip": "127.0.0.1",
        "ip-masq": False,
        "default-gateway": "10.9.0.254",
        "default-gateway-v6": "fd00:9::fe",
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
    }
    stored = parse_options(with_file(tmp_path, content)).settings
    assert (stored.icc, stored.masquerade, stored.host_binding) == (False, False, "127.0.0.1")
    assert (stored.default_gateway, stored.default_gateway6) == ("10.9.0.254", "fd00:9::fe")
    assert stored.network_options == {"bridge": {"com.docker.network.driver.mtu": "1400"}}
    flags = ["--icc=false", "--ip-masq", "--default-network-opt", "bridge=com.docker.network.driver.mtu=1400"]
    given = parse_options(with_file(tmp_path, {}, *flags)).settings
    assert (given.icc, given.masquerade, given.host_binding) == (False, True, "0.0.0.0")
    assert given.network_options == stored.network_options


def test_mirrors_may_be_given_for_any_registry(tmp_path: Path) -> None:
    argv = ["--registry-mirror", "quay.io=http://cache:5000/", "--registry-mirror", "https://hub.local"]
    assert parse_options(with_file(tmp_path, {}, *argv)).settings.registry_mirrors == {
        "quay.io": ("http://cache:5000",),
        "docker.io": ("https://hub.local",),
    }


def test_engines_with_different_roots_get_different_bridges(tmp_path: Path) -> None:
    names = {parse_options(with_file(tmp_path, {}, "--root", f"/r{n}")).settings.instance for n in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 15 for name in names)


@pytest.mark.parametrize(
    "flags",
    [
        ["--nonsense"],
        ["--bip", "300.0.0.1/8"],
        ["--bridge", "a-name-that-is-too-long"],
        ["--bridge", "a/b"],
        ["--mtu", "many"],
        ["--default-address-pool", "base=10.0.0.0/8"],
        ["--default-address-pool", "base=10.0.0.0/24,size=16"],
        ["--registry-mirror", "ftp://x"],
        ["--log-opt", "max-size"],
        ["--metrics-addr", "9323"],
        ["--metrics-addr", "localhost:0"],
        ["--metrics-addr", "localhost:65536"],
        ["--metrics-addr", "localhost:²"],
        ["--metrics-addr", "localhost:" + "9" * 5000],
        ["--metrics-addr", "::1:9323"],
    ],
)
def test_values_that_cannot_work_are_refused(tmp_path: Path, flags: list[str]) -> None:
    with pytest.raises(Invalid):
        parse_options(with_file(tmp_path, {}, *flags))


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        # The first is what dockerd 20.10 says.
        (
            {},
            ["--log-opt", "foo=bar"],
            "failed to set log opts: unknown log opt 'foo' for json-file log driver",
        ),
        (
            {"log-opts": {"mode": "x"}},
            [],
            "failed to set log opts: logger: logging mode not supported: x",
        ),
        (
            {"log-driver": "nope"},
            [],
            "failed to set log opts: logger: no log driver named 'nope' is registered",
        ),
        (
            {"log-driver": "syslog"},
            ["--log-opt", "syslog-facility=x"],
            "failed to set log opts: invalid syslog facility",
        ),
    ],
)
def test_default_log_options_are_checked_at_the_start(
    tmp_path: Path, content: object, flags: list[str], message: str
) -> None:
    with pytest.raises(Invalid) as caught:
        parse_options(with_file(tmp_path, content, *flags))
    assert caught.value.message == message


def test_log_options_of_the_file_are_those_of_the_driver_that_a_flag_chose(tmp_path: Path) -> None:
    content = {"log-driver": "json-file", "log-opts": {"max-size": "1m", "tag": "{{.Name}}"}}
    settings = parse_options(with_file(tmp_path, content, "--log-driver", "local")).settings
    assert (settings.log_driver, settings.log_options) == ("local", {"max-size": "1m", "tag": "{{.Name}}"})


@pytest.mark.parametrize(
    "content",
    [
        {"unknown": 1},
        [],
        {"hosts": "unix:///x"},
        {"mtu": -1},
        {"log-opts": "max-size=1m"},
        {"log-opts": {"max-file": 3}},
        {"log-driver": 3},
        {"metrics-addr": 9323},
    ],
)
def test_a_file_that_says_nonsense_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(Invalid):
        parse_options(with_file(tmp_path, content))


def test_defaults_of_isolation_are_checked(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    content = {
        "no-new-privileges": True,
        "default-ipc-mode": "shareable",
        "default-cgroupns-mode": "host",
        "seccomp-profile": str(profile),
        "userns-remap": "default",
        "selinux-enabled": True,
    }
    settings = parse_options(with_file(tmp_path, content)).settings
    assert (settings.no_new_privileges, settings.selinux_enabled) == (True, True)
    assert (settings.default_ipc_mode, settings.default_cgroupns_mode) == ("shareable", "host")
    assert (settings.seccomp_profile, settings.userns_remap) == (profile.read_text(), "default")
    for flags, words in (
        (("--default-ipc-mode", "host"), r"Default IPC mode setting \(host\) is invalid"),
        (("--default-cgroupns-mode", "x"), r"Default cgroup namespace mode setting \(x\) is invalid"),
        (("--seccomp-profile", "/nonexistent"), r"opening seccomp profile \(/nonexistent\) failed"),
    ):
        with pytest.raises(Invalid, match=words):
            parse_options(with_file(tmp_path, {}, *flags))


def test_proxies_come_from_flags_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"proxies": {"http-proxy": "http://file:1", "no-proxy": "a,b"}}))
    options = parse_options(["--config-file", str(file), "--https-proxy", "https://flag:2"])
    assert options.settings.proxies == Proxies("http://file:1", "https://flag:2", "a,b")
    options = parse_options(["--config-file", str(file), "--http-proxy", "flag:3"])
    assert options.settings.proxies.http == "flag:3"


@pytest.mark.parametrize("wrong", [{"proxies": []}, {"proxies": {"http": "x"}}, {"proxies": {"http-proxy": 1}},
    {"proxies": {"http-proxy": "socks5://x:1"}}])  # fmt: skip
def test_a_proxy_that_can_be_none_is_refused(tmp_path: Path, wrong: object) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps(wrong))
    with pytest.raises(Invalid, match="prox"):
        parse_options(["--config-file", str(file)])


EVERYTHING_OF_DOCKER_28 = {
    "allow-direct-routing": True,
    "api-cors-header": "",
    "authorization-plugins": [],
    "bip": "10.9.0.1/24",
    "bridge": "none",
    "cdi-spec-dirs": [],
    "containerd": "/run/containerd/containerd.sock",
    "containerd-namespace": "docker",
    "containerd-plugin-namespace": "docker-plugins",
    "data-root": "/srv/docker",
    "debug": True,
    "default-address-pools": [{"base": "172.30.0.0/16", "size": 24}],
    "default-cgroupns-mode": "private",
    "default-gateway": "10.9.0.254",
    "default-gateway-v6": "",
    "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1400"}},
    "default-runtime": "sampan",
    "default-shm-size": "64M",
    "default-ulimits": {"nofile": {"Hard": 64000, "Name": "nofile", "Soft": 64000}},
    "dns": ["192.0.2.53"],
    "dns-opts": [],
    "dns-search": [],
    "exec-opts": ["native.cgroupdriver=systemd"],
    "exec-root": "",
    "experimental": False,
    "features": {"cdi": True, "containerd-snapshotter": False},
    "fixed-cidr": "10.9.0.128/25",
    "fixed-cidr-v6": "",
    "group": "",
    "host-gateway-ip": "192.0.2.7",
    "hosts": [],
    "http-proxy": "",
    "https-proxy": "",
    "icc": False,
    "init": False,
    "init-path": "/usr/libexec/docker-init",
    "insecure-registries": [],
    "ip": "127.0.0.1",
    "ip-forward": False,
    "ip-forward-no-drop": True,
    "ip-masq": False,
    "ip6tables": False,
    "iptables": False,
    "ipv6": False,
    "labels": [],
    "live-restore": True,
    "log-driver": "json-file",
    "log-format": "text",
    "log-level": "",
    "log-opts": {},
    "max-concurrent-downloads": 3,
    "max-concurrent-uploads": 5,
    "max-download-attempts": 5,
    "mtu": 0,
    "no-new-privileges": False,
    "node-generic-resources": [],
    "oom-score-adjust": 0,
    "pidfile": "",
    "raw-logs": False,
    "registry-mirrors": [],
    "seccomp-profile": "",
    "selinux-enabled": False,
    "shutdown-timeout": 15,
    "storage-driver": "overlay2",
    "storage-opts": [],
    "swarm-default-advertise-addr": "",
    "tls": False,
    "tlscacert": "",
    "tlscert": "",
    "tlskey": "",
    "tlsverify": False,
    "userland-proxy": False,
    "userland-proxy-path": "/usr/libexec/docker-proxy",
    "userns-remap": "",
}
"""The keys of Docker's documentation of the file on Linux."""


def test_a_file_with_every_key_of_docker_s_is_taken_with_its_meaning(tmp_path: Path) -> None:
    found = parse_options(with_file(tmp_path, EVERYTHING_OF_DOCKER_28))
    settings = found.settings
    assert (settings.rules, settings.ip_forward, settings.masquerade, settings.icc) == (False,) * 4
    assert (settings.host_binding, settings.host_gateways) == ("127.0.0.1", ("192.0.2.7",))
    assert (settings.default_subnet, settings.default_gateway) == ("10.9.0.1/24", "10.9.0.254")
    assert settings.mtu == 1500
    assert settings.instance != "none" and not settings.default_bridge
    assert settings.direct_routing and not settings.rules6
    assert parse_options(["--bridge", "none"]).settings.instance == Settings().instance
    assert settings.default_ulimits == (Ulimit("nofile", 64000, 64000),)
    assert settings.default_shm_size == 64 << 20
    assert {sentence.split()[0].rstrip(":") for sentence in found.told} >= {
        "exec-opts", "shutdown-timeout", "storage-driver",
    }  # fmt: skip
    for quiet in ("live-restore", "userland-proxy", "features"):
        assert not any(sentence.startswith(quiet) for sentence in found.told)


def test_rules_forwarding_and_the_host_s_gateway_are_docker_s_defaults_unless_a_flag_says_otherwise(
    tmp_path: Path,
) -> None:
    default = parse_options(with_file(tmp_path, {})).settings
    assert (default.rules, default.ip_forward, default.host_gateways) == (True, True, ())
    flags = ["--iptables=false", "--ip-forward=false", "--ip6tables", "--userland-proxy=false"]
    gateways = ["--host-gateway-ip", "fd00::1", "--host-gateway-ip", "192.0.2.7"]
    settings = parse_options(with_file(tmp_path, {"iptables": True}, *flags, *gateways)).settings
    assert (settings.rules, settings.ip_forward) == (False, False)
    assert settings.host_gateways == ("192.0.2.7", "fd00::1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"iptables": "false"}, "iptables: expected true or false"),
        ({"icc": "false"}, "icc: expected true or false"),
        ({"iptables": False, "port-mode": "nat"}, "ports can not be published by NAT without rules"),
        ({"iptables": False, "cluster-store": "static:192.0.2.3"}, "overlay networks need rules"),
        ({"host-gateway-ips": ["192.0.2.1", "192.0.2.2"]}, "only one IPv4 and one IPv6 host gateway"),
        ({"host-gateway-ip": "here"}, "invalid host-gateway-ip"),
        ({"default-ulimits": {"nofile": 5}}, "nofile: expected numbers"),
        ({"allow-direct-routing": "false"}, "allow-direct-routing: expected true or false"),
        ({"default-ulimits": {"nofile": {"Soft": 1 << 64, "Hard": 1 << 64}}}, "nofile: expected numbers"),
        ({"default-ulimits": {"nofile": {"Soft": 5, "Hard": 4}}}, "must be less than or equal"),
        ({"default-ulimits": {"files": {"Soft": 5, "Hard": 6}}}, "invalid ulimit type: files"),
        ({"default-shm-size": "much"}, "invalid size"),
        ({"tls": True}, "tls: not supported"),
        ({"authorization-plugins": ["opa"]}, "authorization-plugins: not supported"),
    ],
)
def test_what_can_not_be_kept_is_refused_with_the_reason(
    tmp_path: Path, content: dict[str, object], message: str
) -> None:
    with pytest.raises(SampanError, match=message):
        parse_options(with_file(tmp_path, content))


def test_a_container_s_own_limits_win_over_the_engine_s() -> None:
    flags = ["--default-ulimit", "nofile=10:20", "--default-ulimit", "core=0", "--default-shm-size", "8m"]
    settings = parse_options(flags).settings
    assert settings.default_ulimits == (Ulimit("nofile", 20, 10), Ulimit("core", 0, 0))
    own = HostConfig(ulimits=(Ulimit("nofile", 5, 5),))
    found = with_default_limits(own, settings)
    assert found.ulimits == (Ulimit("nofile", 5, 5), Ulimit("core", 0, 0))
    assert found.shm_size == 8 << 20
    assert with_default_limits(HostConfig(shm_size=1 << 20), settings).shm_size == 1 << 20
    assert with_default_limits(HostConfig(), Settings()) == HostConfig()


@pytest.mark.parametrize("odd", [5, True, "native.cgroupdriver=systemd", ["native.cgroupdriver=systemd"]])
def test_options_of_runc_in_any_form_are_told_to_have_no_effect(tmp_path: Path, odd: object) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"exec-opts": odd}))
    (told,) = parse_options(["--config-file", str(file)]).told
    assert told.startswith("exec-opts has no effect")
    file.write_text(json.dumps({"exec-opts": ["native.cgroupdriver=cgroupfs"]}))
    assert parse_options(["--config-file", str(file)]).told == ()
