from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampan.daemon.options import parse_options
from sampan.errors import Invalid
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
