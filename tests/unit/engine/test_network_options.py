"""Options of networks and endpoints. Expected messages: Docker 28's."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.config import EndpointSettings
from sampan.engine.networks import endpoint_options, options
from sampan.engine.networks.requests import GivenFamilies, NetworkCreate
from sampan.engine.settings import Settings
from sampan.errors import Conflict, Invalid, SampanError
from sampan.network.model import NetworkSpec


def made(driver: str, **values: str) -> NetworkSpec:
    general = NetworkSpec("0123456789abcdef", "n", "", "10.1.0.0/24", "", driver=driver)
    body = NetworkCreate(
        "n", driver=driver, options={name.replace("__", "."): v for name, v in values.items()}
    )
    return options.specific(general, body, Settings())


def bridge(name: str, value: str) -> NetworkSpec:
    return made("bridge", **{f"com__docker__network__{name}": value})


def test_options_of_a_bridge_are_what_docker_takes_them_for() -> None:
    plain = made("bridge")
    assert (plain.bridge, plain.icc, plain.masquerade, plain.inhibit_ipv4) == (
        "br-0123456789ab",
        True,
        True,
        False,
    )
    assert (plain.interface_prefix, plain.host_binding) == ("", "")
    assert bridge("bridge__name", "mine").bridge == "mine"
    assert bridge("driver__mtu", "1400").mtu == 1400
    for text, value in (("0", False), ("f", False), ("FALSE", False), ("T", True), ("True", True)):
        assert bridge("bridge__enable_icc", text).icc is value
    assert not bridge("bridge__enable_ip_masquerade", "false").masquerade
    assert bridge("bridge__inhibit_ipv4", "true").inhibit_ipv4
    assert bridge("bridge__trusted_host_interfaces", "eth0:vxlan.1").trusted == ("eth0", "vxlan.1")
    assert bridge("container_iface_prefix", "lan").interface_prefix == "lan"
    assert bridge("bridge__host_binding_ipv4", "127.0.0.1").host_binding == "127.0.0.1"
    assert bridge("bridge__host_binding_ipv4", "0.0.0.0").host_binding == ""
    assert bridge("host_ipv4", "192.0.2.7").host_ipv4 == "192.0.2.7"
    assert bridge("host_ipv6", "2001:DB8::7").host_ipv6 == "2001:db8::7"
    with pytest.raises(
        Invalid, match=r"^failed to parse com\.docker\.network\.host_ipv6 value: x \(nil ip\)$"
    ):
        bridge("host_ipv6", "x")


OPTION = "com__docker__network__"


@pytest.mark.parametrize(
    ("driver", "values", "words"),
    [
        (
            "bridge",
            {f"{OPTION}bridge__enable_icc": "x"},
            "failed to parse com.docker.network.bridge.enable_icc value: x "
            '(strconv.ParseBool: parsing "x": invalid syntax)',
        ),
        (
            "bridge",
            {f"{OPTION}driver__mtu": "x"},
            'failed to parse com.docker.network.driver.mtu value: x (strconv.Atoi: parsing "x": invalid syntax)',
        ),
        ("bridge", {f"{OPTION}driver__mtu": "-1"}, "invalid MTU number: -1"),
        (
            "bridge",
            {f"{OPTION}bridge__host_binding_ipv4": "x"},
            "failed to parse com.docker.network.bridge.host_binding_ipv4 value: x (nil ip)",
        ),
        (
            "bridge",
            {f"{OPTION}host_ipv4": "x"},
            "failed to parse com.docker.network.host_ipv4 value: x (nil ip)",
        ),
        (
            "macvlan",
            {"macvlan_mode": "x"},
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan",
        ),
        ("macvlan", {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        (
            "ipvlan",
            {"ipvlan_mode": "l4"},
            "requested ipvlan mode 'l4' is not valid, 'l2' mode is the ipvlan driver",
        ),
        (
            "ipvlan",
            {"ipvlan_flag": "x"},
            "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver",
        ),
        ("ipvlan", {"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
    ],
)
def test_an_option_with_a_value_that_means_nothing_is_refused(
    driver: str, values: dict[str, str], words: str
) -> None:
    with pytest.raises(Invalid) as caught:
        made(driver, **values)
    assert words in caught.value.message


def test_macvlan_and_ipvlan_have_a_mode_and_a_parent() -> None:
    one = made("macvlan", parent="eth0")
    assert (one.mode, one.parent, one.internal, one.mtu) == ("bridge", "eth0", False, 0)
    alone = made("macvlan", macvlan_mode="vepa")
    assert (alone.mode, alone.parent, alone.internal) == ("vepa", "dm-0123456789ab", True)
    assert made("ipvlan").mode == "l2"
    assert made("ipvlan", ipvlan_mode="l3", ipvlan_flag="private", parent="eth0").mode == "l3_private"


def stands(driver: str, parent: str, mode: str) -> NetworkSpec:
    return NetworkSpec("f" * 64, "other", "", "10.9.0.0/24", "", driver=driver, parent=parent, mode=mode)


@pytest.mark.parametrize(
    ("driver", "asked", "other", "words"),
    [
        ("macvlan", {"parent": "eth0"}, stands("macvlan", "eth0", "bridge"), ""),
        ("macvlan", {"parent": "eth1"}, stands("macvlan", "eth0", "passthru"), ""),
        ("macvlan", {"parent": "eth0"}, stands("ipvlan", "eth0", "l2"), ""),
        (
            "macvlan",
            {"parent": "eth0", "macvlan_mode": "passthru"},
            stands("macvlan", "eth0", "bridge"),
            f"cannot use mode passthru, macvlan network {'f' * 64} is already using parent interface eth0",
        ),
        (
            "macvlan",
            {"parent": "eth0"},
            stands("macvlan", "eth0", "passthru"),
            f"macvlan network {'f' * 64} is already using parent interface eth0 in mode passthru",
        ),
        (
            "ipvlan",
            {"parent": "eth0"},
            stands("ipvlan", "eth0", "l2"),
            "network dm-ffffffffffff is already using parent interface eth0",
        ),
    ],
)
def test_a_parent_is_shared_where_docker_shares_it(
    driver: str, asked: dict[str, str], other: NetworkSpec, words: str
) -> None:
    body = NetworkCreate("n", driver=driver, options=asked)
    if not words:
        options.check_parent(body, [other])
        return
    with pytest.raises(Conflict) as caught:
        options.check_parent(body, [other])
    assert caught.value.message == words


def asked(**values: str) -> EndpointSettings:
    return EndpointSettings(
        driver_opts={f"com.docker.network.endpoint.{name}": value for name, value in values.items()}
    )


def test_interfaces_are_numbered_from_zero_or_have_the_name_that_was_asked_for() -> None:
    plain, lan = made("bridge"), bridge("container_iface_prefix", "lan")
    assert endpoint_options.interface_name(plain, EndpointSettings(), []) == "eth0"
    assert endpoint_options.interface_name(plain, EndpointSettings(), ["eth0", "lan0", "eth2"]) == "eth1"
    assert endpoint_options.interface_name(lan, EndpointSettings(), ["eth0"]) == "lan0"
    assert endpoint_options.interface_name(lan, asked(ifname="wan"), ["eth0"]) == "wan"
    with pytest.raises(Conflict):
        endpoint_options.interface_name(plain, asked(ifname="wan"), ["wan"])


def test_sysctls_of_an_endpoint_are_its_interface_s() -> None:
    wanted = asked(sysctls="net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=2")
    assert endpoint_options.problems(wanted) == []
    assert endpoint_options.sysctls(wanted, "eth1") == (
        ("net/ipv4/conf/eth1/log_martians", "1"),
        ("net/ipv6/conf/eth1/accept_ra", "2"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "net.ipv4.conf.eth0.log_martians=1",
        "net.core.IFNAME.x=1",
        "kernel.ipv4.conf.IFNAME.x=1",
        "net.ipv4.conf/../...IFNAME.x=1",
        "net.ipv4.conf.IFNAME.../../x=1",
        "net.ipv4.conf.IFNAME.a/b=1",
        "",
    ],
)
def test_a_sysctl_that_is_not_an_interface_s_is_refused(text: str) -> None:
    (problem,) = endpoint_options.problems(asked(sysctls=text))
    assert problem == (
        f"unrecognised network interface sysctl '{text}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', "
        "'X' must be 'ipv4', 'ipv6' or 'mpls'"
    )
    with pytest.raises(SampanError):
        endpoint_options.sysctls(asked(sysctls=text), "eth0")


def test_names_that_are_asked_for_are_nobody_else_s() -> None:
    assert endpoint_options.chosen_names([asked(ifname="eth0"), EndpointSettings(), asked(ifname="wan")]) == [
        "eth0",
        "wan",
    ]


@pytest.mark.parametrize(
    ("given", "texts", "expected"),
    [
        (GivenFamilies(), {}, (True, False, {})),
        (GivenFamilies(), {options.ENABLE_IPV6: "true"}, (True, True, {options.ENABLE_IPV6: "true"})),
        (GivenFamilies(), {options.ENABLE_IPV4: "0", options.ENABLE_IPV6: "1"}, (False, True, ...)),
        (GivenFamilies(enable_ipv6=False), {options.ENABLE_IPV6: "true"}, (True, False, {})),
    ],
)
def test_families_are_what_is_asked_for_else_what_the_options_say(
    given: GivenFamilies, texts: dict[str, str], expected: tuple[bool, bool, Any]
) -> None:
    found = options.families(NetworkCreate("n", options=texts), given)
    assert (found.enable_ipv4, found.enable_ipv6) == expected[:2]
    assert expected[2] in (..., found.options)


def test_a_family_that_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(
        Invalid, match=r'^driver-opt "com\.docker\.network\.enable_ipv6" is not a valid bool$'
    ):
        options.families(NetworkCreate("n", options={options.ENABLE_IPV6: "x"}), GivenFamilies())


@pytest.mark.parametrize("name", ["a/b", "a b", "sixteen-bytes-ab", "..", "lo", "all", "e%d", "e\x01"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    assert endpoint_options.problems(asked(ifname=name))


@pytest.mark.parametrize(
    "name",
    [
        "a/b",
        "a b",
        "br%d",
        "br+",
        "br*",
        "!br",
        "-br",
        "b\x1br",
        'a"b',
        "a:b",
        "sixteen-bytes-ab",
        "..",
        ".",
        "all",
        "default",
    ],
)
def test_a_name_that_no_bridge_can_have_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"^invalid bridge name "):
        bridge("bridge__name", name)


@pytest.mark.parametrize("name", ["all", "a/b", "sixteen-bytes-abc"])
def test_a_name_that_no_parent_can_have_is_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(Invalid, match="is not a name for a network interface"):
        made("macvlan", parent=name)


def test_an_option_that_is_not_docker_s_is_ignored_as_docker_does() -> None:
    values: dict[str, Any] = {"some.label": "x"}
    assert made("bridge", **values).bridge == "br-0123456789ab"
