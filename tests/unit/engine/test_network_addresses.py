"""Addresses of new networks and endpoints, in both families. Expected messages and values: those of Docker 28.5."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from sampan.engine.config import EndpointSettings, IpamConfig
from sampan.engine.containers.connecting import networking_failure
from sampan.engine.model import IpamPool, NetworkRecord
from sampan.engine.networks import default_bridge, gateways, ipam
from sampan.engine.networks.addresses import AddressBook
from sampan.engine.networks.endpoint_options import hardware_address
from sampan.engine.networks.plan import check_create, plan
from sampan.engine.networks.requests import Ipam, NetworkCreate
from sampan.engine.networks.views import network_json
from sampan.engine.settings import Settings
from sampan.errors import Conflict, Denied, Invalid, SampanError, http_status

OWN = "fd00:1:2"


def book() -> AddressBook:
    return AddressBook([(f"{OWN}::/48", 64), ("172.18.0.0/15", 16)])


def make(body: NetworkCreate, addresses: AddressBook | None = None) -> NetworkRecord:
    check_create(body)
    return plan(body, addresses or book(), Settings(), lambda: ())


def asked(*pools: IpamPool, ipv6: bool = True, **members: object) -> NetworkCreate:
    return NetworkCreate("x", enable_ipv6=ipv6, ipam=Ipam(config=pools), **members)  # type: ignore[arg-type]


def shown(record: NetworkRecord) -> list[dict[str, str]]:
    found: list[dict[str, str]] = network_json(record)["IPAM"]["Config"]
    return found


def test_an_ipv6_network_gets_a_unique_local_subnet_by_itself_beside_its_ipv4_one() -> None:
    addresses = book()
    record = make(NetworkCreate("a", enable_ipv6=True), addresses)
    assert shown(record) == [
        {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"},
        {"Subnet": f"{OWN}::/64", "Gateway": f"{OWN}::1"},
    ]
    assert record.spec is not None
    assert (record.spec.subnet6, record.spec.gateway6) == (f"{OWN}::/64", f"{OWN}::1")
    assert shown(make(NetworkCreate("b", enable_ipv4=False, enable_ipv6=True), addresses)) == [
        {"Subnet": f"{OWN}:1::/64", "Gateway": f"{OWN}:1::1"}
    ]


def test_without_pools_the_unique_local_prefix_is_the_engine_s_own() -> None:
    found = [
        make(NetworkCreate("a", enable_ipv6=True), AddressBook((), owner=name)).ipam_config[1].subnet
        for name in ("one", "one", "other")
    ]
    assert found[0] == found[1]
    assert found[0] != found[2]
    assert all(subnet.startswith("fd") and subnet.endswith("::/64") for subnet in found)


def test_what_was_given_is_shown_as_it_was_given_and_first() -> None:
    given = IpamPool("FD00:7F:0:0::/64", gateway="FD00:7F::0001", ip_range="fd00:7f::100/120")
    record = make(asked(given))
    assert shown(record) == [
        {"Subnet": "FD00:7F:0:0::/64", "IPRange": "fd00:7f::100/120", "Gateway": "FD00:7F::0001"},
        {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"},
    ]
    assert record.spec is not None
    assert (record.spec.subnet6, record.spec.gateway6) == ("fd00:7f::/64", "fd00:7f::1")
    assert (record.spec.ip_range6, record.spec.ip_range) == ("fd00:7f::100/120", None)
    both = make(asked(IpamPool("fd00:7f::/64"), IpamPool("10.7.0.0/24")))
    assert [pool["Subnet"] for pool in shown(both)][:2] == ["10.7.0.0/24", "fd00:7f::/64"]


def test_a_gateway_that_is_chosen_is_the_first_of_the_range_and_not_shown() -> None:
    record = make(asked(IpamPool("fd00:7d::/64", ip_range="fd00:7d::1000/120")))
    assert shown(record)[0] == {"Subnet": "fd00:7d::/64", "IPRange": "fd00:7d::1000/120"}
    assert record.spec is not None
    assert record.spec.gateway6 == "fd00:7d::1000"


def test_an_ipv6_subnet_of_a_network_without_ipv6_is_shown_and_means_nothing() -> None:
    record = make(asked(IpamPool("fd00:77::5/64"), ipv6=False))
    assert [pool["Subnet"] for pool in shown(record)] == ["fd00:77::5/64", "172.18.0.0/16"]
    assert record.spec is not None
    assert record.spec.subnet6 == ""


def test_an_isolated_gateway_mode_leaves_the_host_without_an_address() -> None:
    options = {f"com.docker.network.bridge.gateway_mode_ipv{version}": "isolated" for version in (4, 6)}
    record = make(NetworkCreate("x", internal=True, enable_ipv6=True, options=options))
    assert shown(record) == [{"Subnet": "172.18.0.0/16"}, {"Subnet": f"{OWN}::/64"}]
    assert record.spec is not None
    assert (record.spec.gateway, record.spec.gateway6) == ("", "")
    assert (record.spec.gateway_mode, record.spec.gateway_mode6) == ("isolated", "isolated")


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (NetworkCreate("x", enable_ipv4=False), Invalid, "IPv4 or IPv6 must be enabled"),
        (
            asked(IpamPool("fd00:7a::1/64")),
            Invalid,
            "invalid network config:\ninvalid subnet fd00:7a::1/64: it should be fd00:7a::/64",
        ),
        (
            asked(IpamPool("banana")),
            Invalid,
            "invalid network config:\ninvalid subnet banana: invalid CIDR block notation",
        ),
        (
            asked(IpamPool("", gateway="10.1.1.1")),
            Invalid,
            "invalid network config:\ninvalid subnet : invalid CIDR block notation",
        ),
        (
            asked(IpamPool("10.204.0.0/255.255.0.0")),
            Invalid,
            "invalid network config:\ninvalid subnet 10.204.0.0/255.255.0.0: invalid CIDR block notation",
        ),
        (
            asked(IpamPool("10.202.0.0/24", gateway="10.1.1.1", ip_range="10.202.0.0/16")),
            Invalid,
            "invalid network config:\n"
            "* invalid ip-range 10.202.0.0/16: CIDR block is bigger than its parent subnet 10.202.0.0/24\n"
            "* invalid gateway 10.1.1.1: parent subnet 10.202.0.0/24 doesn't contain this address",
        ),
        (
            asked(
                IpamPool(
                    "10.202.0.0/24",
                    gateway="fd00::1",
                    ip_range="fd00::/70",
                    auxiliary_addresses={"x": "nope"},
                )
            ),
            Invalid,
            "invalid network config:\n"
            "* invalid ip-range fd00::/70: parent subnet is an IPv4 block\n"
            "* invalid gateway fd00::1: parent subnet is an IPv4 block\n"
            "* invalid auxiliary address x: invalid address",
        ),
        (
            asked(IpamPool("fd00:7a::/64", ip_range="fd00:7a::1/80")),
            Invalid,
            "invalid network config:\ninvalid ip-range fd00:7a::1/80: it should be fd00:7a::/80",
        ),
        (
            asked(IpamPool("10.99.0.0/24"), IpamPool("10.98.0.0/24")),
            Denied,
            "bridge driver doesn't support multiple subnets",
        ),
        (
            asked(IpamPool("fe80::/80")),
            Invalid,
            "'fe80::1/80' clashes with the Link-Local prefix 'fe80::/64'",
        ),
        (asked(IpamPool("ff05::/64")), Invalid, "multicast subnet 'ff05::1/64' is not allowed"),
        (
            asked(IpamPool("fd00:7a::/128")),
            Conflict,
            "failed to allocate gateway (): no available addresses on this pool",
        ),
        (
            asked(IpamPool("fd00:7e::/64", gateway="fd00:7e::")),
            Conflict,
            "failed to allocate gateway (fd00:7e::): Address already in use",
        ),
        (
            asked(IpamPool("10.202.0.0/24", gateway="10.202.0.3", auxiliary_addresses={"x": "10.202.0.3"})),
            Conflict,
            "failed to allocate secondary ip address (x:10.202.0.3): Address already in use",
        ),
        (
            NetworkCreate("x", enable_ipv6=True, options={"com.docker.network.driver.mtu": "1279"}),
            Invalid,
            "invalid MTU 1279: a network with IPv6 needs at least 1280",
        ),
        (
            NetworkCreate("x", options={"com.docker.network.bridge.gateway_mode_ipv6": "bogus"}),
            Invalid,
            "failed to parse com.docker.network.bridge.gateway_mode_ipv6 value: bogus (unknown gateway mode bogus)",
        ),
        (
            NetworkCreate("x", options={"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}),
            Invalid,
            "gateway mode 'isolated' can only be used for an internal network",
        ),
    ],
)
def test_what_can_not_be_is_refused_in_docker_s_words_and_nothing_is_taken(
    body: NetworkCreate, kind: type[SampanError], message: str
) -> None:
    addresses = book()
    with pytest.raises(kind) as caught:
        make(body, addresses)
    assert caught.value.message == message
    assert [pool.subnet for pool in make(NetworkCreate("y", enable_ipv6=True), addresses).ipam_config] == [
        "172.18.0.0/16",
        f"{OWN}::/64",
    ]


def test_a_link_local_subnet_is_allowed_when_it_is_the_kernel_s_own() -> None:
    assert make(asked(IpamPool("fe80::/64"))).ipam_config[0].subnet == "fe80::/64"


def test_an_endpoint_has_an_address_of_each_family_or_none_at_all() -> None:
    addresses = book()
    record = make(asked(IpamPool("fd00:78::/126"), IpamPool("10.78.0.0/29")), addresses)
    spec = record.spec
    assert spec is not None

    def allocate(four: str = "", six: str = "") -> tuple[str, str, str | None, str | None]:
        settings = EndpointSettings(ipam_config=IpamConfig(four, six))
        found = addresses.allocate(spec, settings, interface="eth0")
        return found.address, found.address6, found.gateway, found.gateway6

    assert allocate() == ("10.78.0.2/29", "fd00:78::2/126", None, None)
    with pytest.raises(Conflict, match="Address already in use"):
        allocate("10.78.0.5", "fd00:78::2")
    assert allocate("10.78.0.5") == ("10.78.0.5/29", "fd00:78::3/126", None, None)
    with pytest.raises(Conflict) as caught:
        allocate()
    assert (
        caught.value.message == f"no available IPv6 addresses on this network's address pools: x ({spec.id})"
    )
    # As Docker 28, of `network connect` and of a start.
    assert [http_status(one) for one in (caught.value, networking_failure(caught.value))] == [500, 500]
    addresses.close(spec)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("02:42:AC:11:00:97", "02:42:ac:11:00:97"),
        ("02-42-ac-11-00-97", "02:42:ac:11:00:97"),
        ("0242.ac11.0097", "02:42:ac:11:00:97"),
        ("02-42:ac:11:00:97", ""),
        ("01:42:ac:11:00:97", ""),
        ("00:00:00:00:00:00", ""),
        ("02:42:ac:11:00", ""),
    ],
)
def test_a_mac_address_has_three_forms_and_is_no_group_s(text: str, found: str) -> None:
    assert hardware_address(text) == found


def test_an_endpoint_of_an_ipv6_network_has_no_ipv4_and_a_mac_of_its_own() -> None:
    addresses = book()
    record = make(NetworkCreate("x", enable_ipv4=False, enable_ipv6=True), addresses)
    assert record.spec is not None
    endpoint = addresses.allocate(record.spec, EndpointSettings(), interface="eth0")
    assert (endpoint.address, endpoint.address6) == ("", f"{OWN}::2/64")
    assert endpoint.mac == "02:42:00:00:00:02"
    addresses.release(endpoint)
    again = book()
    again.restore(record.spec)
    again.adopt(endpoint)
    with pytest.raises(Conflict, match="Address already in use"):
        again.adopt(endpoint)


FIXED = (IpamPool("fd00:78::/64"), IpamPool("10.78.0.0/16"))
NO_SUBNETS = (
    "user specified IP address is supported only when connecting to networks with user configured subnets"
)


@pytest.mark.parametrize(
    ("four", "six", "fixed", "faults"),
    [
        ("10.78.0.7", "fd00:78::7", FIXED, []),
        ("", "fd00:79::99", FIXED, ["no configured subnet or ip-range contain the IP address fd00:79::99"]),
        (
            "",
            "banana",
            FIXED,
            [
                "invalid IPv6 address: banana",
                "no configured subnet or ip-range contain the IP address banana",
            ],
        ),
        (
            "fd00:78::7",
            "",
            FIXED,
            [
                "invalid IPv4 address: fd00:78::7",
                "no configured subnet or ip-range contain the IP address fd00:78::7",
            ],
        ),
        ("", "10.78.0.7", FIXED, [
            "invalid IPv6 address: 10.78.0.7",
            "no configured subnet or ip-range contain the IP address 10.78.0.7",
        ]),
        ("", "fd00:79::99", (), [NO_SUBNETS]),
        ("", "fd00:79::99", FIXED[1:], [NO_SUBNETS]),
    ],
)  # fmt: skip
def test_addresses_asked_for_an_endpoint_are_checked_in_docker_s_words(
    four: str, six: str, fixed: tuple[IpamPool, ...], faults: list[str]
) -> None:
    assert ipam.fixed_address_faults(IpamConfig(four, six), fixed, predefined=False) == faults


def bridge(**settings: object) -> list[dict[str, str]]:
    return shown(default_bridge.make(book(), Settings(**settings), lambda: ()))  # type: ignore[arg-type]


AUTO = {"Subnet": "172.18.0.0/16", "Gateway": "172.18.0.1"}


def test_the_default_bridge_s_addresses_are_those_of_the_daemon_s_options() -> None:
    assert bridge(ipv6=True) == [AUTO, {"Subnet": f"{OWN}::/64", "Gateway": f"{OWN}::1"}]
    assert bridge(fixed_cidr="10.20.0.0/24") == [{"Subnet": "10.20.0.0/24", "IPRange": "10.20.0.0/24"}]
    assert bridge(default_subnet="10.21.0.1/16", fixed_cidr="10.21.5.0/24") == [
        {"Subnet": "10.21.0.0/16", "IPRange": "10.21.5.0/24", "Gateway": "10.21.0.1"}
    ]
    assert bridge(ipv6=True, fixed_cidr6="fd00:99::/64") == [
        {"Subnet": "fd00:99::/64", "IPRange": "fd00:99::/64"},
        AUTO,
    ]
    assert bridge(ipv6=True, default_subnet6="fd00:98::1/64", fixed_cidr6="fd00:98::100/120") == [
        {"Subnet": "fd00:98::/64", "IPRange": "fd00:98::100/120", "Gateway": "fd00:98::1"},
        AUTO,
    ]
    assert bridge(fixed_cidr6="fd00:99::/64") == [AUTO]


def test_containers_may_have_another_way_out_than_the_host() -> None:
    pools = (
        IpamPool("10.66.1.0/24", auxiliary_addresses={"DefaultGatewayIPv4": "10.66.1.254"}),
        IpamPool("fd00:66:1::/64", auxiliary_addresses={"DefaultGatewayIPv6": "fd00:66:1::fe"}),
    )
    addresses = book()
    spec = make(asked(*pools), addresses).spec
    assert spec is not None
    assert (spec.gateway, spec.gateway6) == ("10.66.1.1", "fd00:66:1::1")
    endpoint = addresses.allocate(spec, EndpointSettings(), interface="eth0")
    assert gateways.through(spec, endpoint) == ("10.66.1.254", "fd00:66:1::fe")
    with pytest.raises(Invalid, match=r"^no gateway can be set on an internal bridge network$"):
        make(asked(*pools, internal=True))
    assert bridge(default_subnet="10.21.0.1/16", default_gateway="10.21.0.9") == [
        {
            "Subnet": "10.21.0.0/16",
            "Gateway": "10.21.0.1",
            "AuxiliaryAddresses": {"DefaultGatewayIPv4": "10.21.0.9"},
        }
    ]
    assert bridge(default_gateway="172.18.0.9") == [AUTO]


def test_the_default_bridge_follows_the_daemon_s_options_from_start_to_start() -> None:
    addresses = book()
    first = default_bridge.make(addresses, Settings(instance="own0"), lambda: ())
    assert default_bridge.revise(first, addresses, Settings(instance="own0"), lambda: (), idle=True) is first
    changed = Settings(instance="own0", icc=False, masquerade=False, host_binding="127.0.0.1", mtu=1400)
    second = default_bridge.revise(first, addresses, changed, lambda: (), idle=False)
    assert second.spec is not None
    assert (second.spec.icc, second.spec.masquerade, second.spec.host_binding) == (False, False, "127.0.0.1")
    assert (second.spec.mtu, second.spec.bridge, second.ipam_config) == (1400, "own0", first.ipam_config)
    assert second.options == {
        "com.docker.network.bridge.default_bridge": "true",
        "com.docker.network.bridge.enable_icc": "false",
        "com.docker.network.bridge.enable_ip_masquerade": "false",
        "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1",
        "com.docker.network.bridge.name": "own0",
        "com.docker.network.driver.mtu": "1400",
    }


def test_the_default_bridge_gets_and_loses_its_ipv6_with_the_daemon_s_options() -> None:
    addresses, plain, dual = book(), Settings(), Settings(ipv6=True, fixed_cidr6="fd00:99::/64")
    first = default_bridge.make(addresses, plain, lambda: ())
    second = default_bridge.revise(first, addresses, dual, lambda: (), idle=False)
    assert shown(second) == [{"Subnet": "fd00:99::/64", "IPRange": "fd00:99::/64"}, AUTO]
    assert second.spec is not None
    assert (second.id, second.spec.subnet, second.spec.gateway6) == (first.id, "172.18.0.0/16", "fd00:99::1")
    endpoint = addresses.allocate(second.spec, EndpointSettings(), interface="eth0")
    assert endpoint.address6 == "fd00:99::2/64"
    third = default_bridge.revise(second, addresses, plain, lambda: (), idle=False)
    assert third.spec is not None
    assert (shown(third), third.spec.subnet6) == ([AUTO], "")
    addresses.adopt(endpoint)  # it runs on with what it has
    addresses.release(endpoint)
    assert addresses.take_subnet(ip_network("fd00:99::/64"), (), 6)


def test_the_default_bridge_moves_to_other_subnets_only_while_nothing_runs_on_it() -> None:
    addresses = book()
    before, after = Settings(default_subnet="10.9.0.1/24"), Settings(default_subnet="10.8.0.1/24", ipv6=True)
    first = default_bridge.make(addresses, before, lambda: ())
    busy = default_bridge.revise(first, addresses, after, lambda: (), idle=False)
    assert shown(busy)[-2:] == [
        {"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.1"},
        {"Subnet": f"{OWN}::/64", "Gateway": f"{OWN}::1"},
    ]
    idle = default_bridge.revise(busy, addresses, after, lambda: (), idle=True)
    assert idle.spec is not None
    assert (idle.id, idle.created, idle.spec.bridge) == (first.id, first.created, "sampan0")
    assert shown(idle) == [
        {"Subnet": "10.8.0.0/24", "Gateway": "10.8.0.1"},
        {"Subnet": f"{OWN}::/64", "Gateway": f"{OWN}::1"},
    ]
    assert default_bridge.revise(idle, addresses, after, lambda: (), idle=True) is idle
    assert addresses.take_subnet(ip_network("10.9.0.0/24"), ())
    with pytest.raises(Denied, match="Pool overlaps"):
        default_bridge.revise(idle, addresses, before, lambda: (), idle=True)
    endpoint = addresses.allocate(idle.spec, EndpointSettings(), interface="eth0")
    assert endpoint.address == "10.8.0.2/24"  # it is as it was


def test_an_address_that_is_given_back_twice_is_not_taken_from_who_has_it_now() -> None:
    addresses = book()
    record = make(NetworkCreate(name="n", ipam=Ipam(config=(IpamPool(subnet="10.5.0.0/29"),))), addresses)
    assert record.spec is not None
    first = addresses.allocate(record.spec, EndpointSettings(), interface="eth0")
    addresses.release(first)
    second = addresses.allocate(record.spec, EndpointSettings(), interface="eth0")
    while second.address != first.address:
        second = addresses.allocate(record.spec, EndpointSettings(), interface="eth0")
    addresses.release(first)
    with pytest.raises(Conflict):
        for _ in range(8):
            found = addresses.allocate(record.spec, EndpointSettings(), interface="eth0")
            assert found.address != second.address
