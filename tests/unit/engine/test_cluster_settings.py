"""What a person says of a cluster, and what it means for packets."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from sampan.engine.networks.cluster_settings import ClusterSettings, parse_cluster
from sampan.engine.networks.overlay import check_same, container_mtu, is_secure, network_of, record_of
from sampan.errors import Conflict, Invalid
from sampan.network.overlay.schema import Network

SECRET = {"secret-file": "/s"}


def parsed(store: str, advertise: str = "", options: dict[str, str] | None = None) -> ClusterSettings:
    found = parse_cluster(store, advertise, options or {})
    assert found is not None
    return found


def test_a_store_has_members_with_ports_and_a_path() -> None:
    found = parsed("etcd://a.example,[2001:db8::1]:2000,192.0.2.3:99/deep/path")
    assert found.members == (("a.example", 2379), ("2001:db8::1", 2000), ("192.0.2.3", 99))
    assert found.path == "deep/path"
    assert found.name == "etcd://a.example:2379,[2001:db8::1]:2000,192.0.2.3:99"
    assert parsed("static:192.0.2.1,192.0.2.2", options=SECRET).members == (
        ("192.0.2.1", 7946),
        ("192.0.2.2", 7946),
    )
    assert parsed("etcd://a", options={"kv.path": "x/y"}).path == "x/y"
    assert parsed("static:[FD00:0::1]", options=SECRET).members == (("fd00::1", 7946),)
    assert parse_cluster("", "", {}) is None


def test_the_advertised_address_may_have_a_port_as_dockers_had() -> None:
    for text, wanted in (
        ("eth0:2376", "eth0"),
        ("192.0.2.1:2376", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ):
        assert parsed("etcd://a", text).advertise == wanted
    assert parsed("etcd://a", "[2001:db8::1]").advertise == "2001:db8::1"


@pytest.mark.parametrize(
    ("store", "advertise", "options", "words"),
    [
        ("", "eth0", {}, "need --cluster-store"),
        ("consul://a", "", {}, "invalid cluster-store"),
        ("etcd", "", {}, "invalid cluster-store"),
        ("etcd://", "", {}, "invalid host ''"),
        ("etcd://a:0", "", {}, "invalid port 0"),
        ("etcd://a:65536", "", {}, "invalid port 65536"),
        ("etcd://a b", "", {}, "invalid host 'a b'"),
        ("etcd://a/../b c", "", {}, "invalid path"),
        ("etcd://a", "", {"kv.unknown": "1"}, "unknown cluster-store-opt 'kv.unknown'"),
        ("etcd://a", "", {"discovery.ttl": "1"}, "invalid discovery.ttl"),
        ("etcd://a", "", {"discovery.ttl": "soon"}, "invalid discovery.ttl"),
        ("etcd://a", "", {"discovery.ttl": "60", "address.ttl": "30"}, "must not be shorter"),
        ("static:192.0.2.1", "", {}, "needs a secret"),
        ("etcd://a", "", {"kv.username": "sampan"}, "belong together"),
        ("etcd://a", "", {"kv.passwordfile": "/p"}, "belong together"),
        ("etcd://a", "", {"kv.certfile": "/c"}, "belong together"),
    ],
)
def test_what_makes_no_sense_is_refused(
    store: str, advertise: str, options: dict[str, str], words: str
) -> None:
    with pytest.raises(Invalid, match=words):
        parse_cluster(store, advertise, options)


def test_a_containers_packet_fits_into_the_hosts_with_everything_around_it() -> None:
    # RFC 7348: outer IP 20 or 40, UDP 8, VXLAN 8, inner Ethernet 14.
    assert container_mtu({}, 1500, 4, secure=False) == 1450
    assert container_mtu({}, 9000, 4, secure=False) == 1450
    assert container_mtu({}, 1500, 6, secure=False) == 1430
    assert container_mtu({}, 1400, 4, secure=False) == 1350
    # Docker takes the option for what the hosts' network carries.
    assert container_mtu({"com.docker.network.driver.mtu": "9000"}, 1500, 4, secure=False) == 8950
    for size in range(1200, 1510):
        mtu = container_mtu({"com.docker.network.driver.mtu": str(size)}, 1500, 4, secure=True)
        inside = 8 + 8 + 14 + mtu  # UDP, VXLAN, Ethernet
        padded = -(-(inside + 2) // 4) * 4  # RFC 4303: with pad length and next header a multiple of four
        assert size - 8 <= 20 + 8 + 8 + padded + 16 <= size  # IP, SPI and number, IV, check value
    with pytest.raises(Invalid, match="invalid MTU"):
        container_mtu({"com.docker.network.driver.mtu": "much"}, 1500, 4, secure=False)


def test_a_network_is_encrypted_when_the_option_says_so() -> None:
    assert [
        is_secure(options)
        for options in ({}, {"encrypted": ""}, {"encrypted": "true"}, {"encrypted": "false"})
    ] == [
        False,
        True,
        True,
        False,
    ]
    with pytest.raises(Invalid, match="encrypted"):
        is_secure({"encrypted": "maybe"})


def test_what_an_engine_keeps_of_a_network_says_all_that_others_need() -> None:
    network = Network(
        "1" * 64, "backend", "2026-01-01T00:00:00Z", 5000, "10.1.0.0/24", "10.1.0.1", "10.1.0.128/25",
        {"router": "10.1.0.9"}, True, True, True, 1416, {"encrypted": ""}, {"tier": "1"}, True,
    )  # fmt: skip
    record = record_of(network)
    assert network_of(record) == network
    check_same(record, network)
    for change in ({"vni": 5001}, {"secure": False}, {"subnet6": "fd00:1::/64"}, {"gateway": "10.1.0.2"}):
        with pytest.raises(Conflict, match="is not what it was"):
            check_same(record, replace(network, **change))
    six = replace(network, subnet6="fd00:1::/64")
    for fixed, fixed6, pools in ((True, True, 2), (False, True, 1), (True, False, 1), (False, False, 0)):
        both = replace(six, fixed_subnet=fixed, fixed_subnet6=fixed6)
        assert network_of(record_of(both)) == both
        assert len(record_of(both).fixed_pools) == pools
    alone = replace(
        six, ipv4=False, subnet="0.0.0.0/8", gateway="0.0.0.1", ip_range="", aux={}, fixed_subnet=False
    )
    assert network_of(record_of(alone)) == alone
    spec = record_of(alone).spec
    assert spec is not None and (spec.subnet, spec.gateway, spec.gateway6) == ("", "", "fd00:1::1")
    assert record.options["com.docker.network.driver.overlay.vxlanid_list"] == "5000"
