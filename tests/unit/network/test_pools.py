from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from sampan.errors import Conflict, Denied, Exhausted, Invalid
from sampan.network.pools import DEFAULT_POOLS, AddressPool, SubnetPool, parse_subnet, unique_local_pool


def test_subnets_come_in_docker_s_order():
    pool = SubnetPool()
    assert str(pool.allocate()) == "172.17.0.0/16"
    assert str(pool.allocate()) == "172.18.0.0/16"
    for _ in range(13):
        last = pool.allocate()
    assert str(last) == "172.31.0.0/16"
    assert str(pool.allocate()) == "192.168.0.0/20"
    assert str(pool.allocate()) == "192.168.16.0/20"


def test_subnets_that_the_host_uses_are_avoided_but_a_default_route_is_none():
    in_use = [IPv4Network("172.17.5.0/24"), IPv4Network("172.18.0.0/15"), IPv4Network("0.0.0.0/0")]
    assert str(SubnetPool().allocate(in_use)) == "172.20.0.0/16"


def test_when_all_pools_are_taken_the_error_is_docker_s():
    pool = SubnetPool([(IPv4Network("10.0.0.0/23"), 24)])
    pool.allocate()
    pool.allocate()
    with pytest.raises(Invalid, match="all predefined address pools have been fully subnetted"):
        pool.allocate()


def test_a_released_subnet_is_given_out_again():
    pool = SubnetPool()
    subnet = pool.allocate()
    pool.release(subnet)
    assert pool.allocate() == subnet


def test_an_overlapping_subnet_can_not_be_reserved():
    pool = SubnetPool()
    pool.reserve(IPv4Network("10.1.0.0/16"))
    with pytest.raises(Denied, match="Pool overlaps with other one on this address space"):
        pool.reserve(IPv4Network("10.1.2.0/24"))
    pool.reserve(IPv4Network("10.2.0.0/24"))


def test_the_lowest_free_address_is_given_out_as_by_docker():
    pool = AddressPool(IPv4Network("10.0.0.0/24"), reserved=[IPv4Address("10.0.0.1")])
    assert [str(pool.allocate()) for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.release(IPv4Address("10.0.0.3"))
    pool.release(IPv4Address("10.0.0.2"))
    pool.reserve(IPv4Address("10.0.0.2"))
    assert [str(pool.allocate()) for _ in range(2)] == ["10.0.0.3", "10.0.0.5"]


def test_a_released_address_outside_of_the_range_is_not_given_out():
    pool = AddressPool(IPv4Network("10.0.0.0/24"), ip_range=IPv4Network("10.0.0.128/30"))
    pool.reserve(IPv4Address("10.0.0.9"))
    pool.release(IPv4Address("10.0.0.9"))
    assert str(pool.allocate()) == "10.0.0.128"


def test_a_small_network_gives_out_every_host_address_once_and_then_what_was_released():
    pool = AddressPool(IPv4Network("10.0.0.0/29"), reserved=[IPv4Address("10.0.0.1")])
    assert [str(pool.allocate()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(2, 7)]
    with pytest.raises(Exhausted, match="no available addresses on this pool"):
        pool.allocate()
    pool.release(IPv4Address("10.0.0.4"))
    assert str(pool.allocate()) == "10.0.0.4"


def test_automatic_addresses_come_from_the_ip_range_and_reserved_ones_from_the_whole_subnet():
    pool = AddressPool(IPv4Network("10.0.0.0/24"), ip_range=IPv4Network("10.0.0.128/30"))
    pool.reserve(IPv4Address("10.0.0.9"))
    assert [str(pool.allocate()) for _ in range(4)] == [f"10.0.0.{last}" for last in range(128, 132)]
    with pytest.raises(Conflict):
        pool.allocate()


def test_reserving_a_taken_foreign_or_network_address_is_an_error():
    pool = AddressPool(IPv4Network("10.0.0.0/24"))
    pool.reserve(IPv4Address("10.0.0.9"))
    with pytest.raises(Conflict, match="Address already in use"):
        pool.reserve(IPv4Address("10.0.0.9"))
    with pytest.raises(Invalid):
        pool.reserve(IPv4Address("10.0.1.1"))
    for wrong in ("10.0.0.0", "10.0.0.255"):
        with pytest.raises(Conflict, match="Address already in use"):
            pool.reserve(IPv4Address(wrong))
    with pytest.raises(Invalid):
        AddressPool(IPv4Network("10.0.0.0/24"), ip_range=IPv4Network("10.0.1.0/28"))


def test_a_large_pool_that_is_nearly_empty_is_searched_at_once():
    pool = AddressPool(IPv4Network("10.0.0.0/8"))
    assert len({pool.allocate() for _ in range(300)}) == 300


def test_a_subnet_with_host_bits_is_invalid():
    for wrong in ("10.0.0.1/24", "banana", "10.0.0.0/33", "10.0.0.0", "fd00::1/64", "fd00::/129"):
        with pytest.raises(Invalid, match="invalid CIDR address"):
            parse_subnet(wrong)


def test_an_engine_has_a_unique_local_prefix_of_its_own_for_ipv6():
    """RFC 4193: fd00::/8, then 40 bits, then 16 bits for the subnet."""
    network, prefix = unique_local_pool("engine one")
    assert network.subnet_of(IPv6Network("fd00::/8"))
    assert (network.prefixlen, prefix) == (48, 64)
    assert unique_local_pool("engine one") == (network, prefix)
    assert unique_local_pool("engine two")[0] != network


def test_each_family_has_its_own_subnets():
    pool = SubnetPool([*DEFAULT_POOLS, (IPv6Network("fd00:1:2::/48"), 64)])
    assert str(pool.allocate(version=6)) == "fd00:1:2::/64"
    assert str(pool.allocate(version=4)) == "172.17.0.0/16"
    assert str(pool.allocate([IPv6Network("fd00:1:2::/63")], version=6)) == "fd00:1:2:2::/64"
    with pytest.raises(Denied, match="Pool overlaps"):
        pool.reserve(IPv6Network("fd00:1:2::/56"))
    pool.reserve(IPv6Network("fd00:1:3::/64"))


def test_an_enormous_pool_is_searched_at_once_and_pieces_stay_aligned():
    pool = SubnetPool([(IPv6Network("2001:db8::/32"), 120)])
    half = IPv6Network("2001:db8::/33")
    odd = IPv6Network("2001:db8:8000::80/121")
    assert str(pool.allocate([half, odd], version=6)) == "2001:db8:8000::100/120"
    assert str(pool.allocate([half, odd], version=6)) == "2001:db8:8000::200/120"
    with pytest.raises(Invalid, match="all predefined address pools have been fully subnetted"):
        pool.allocate([IPv6Network("2001::/16")], version=6)
    with pytest.raises(Invalid, match="all predefined address pools have been fully subnetted"):
        pool.allocate()  # it has no IPv4


def test_ipv6_addresses_ascend_from_one_and_only_the_routers_anycast_address_is_nobody_s():
    pool = AddressPool(IPv6Network("fd00::/64"))
    assert [str(pool.allocate()) for _ in range(2)] == ["fd00::1", "fd00::2"]
    pool.reserve(IPv6Address("fd00::ffff:ffff:ffff:ffff"))
    with pytest.raises(Conflict, match="Address already in use"):
        pool.reserve(IPv6Address("fd00::"))
    small = AddressPool(IPv6Network("fd00::/126"))
    assert [str(small.allocate()) for _ in range(3)] == ["fd00::1", "fd00::2", "fd00::3"]
    with pytest.raises(Exhausted, match="no available addresses on this pool"):
        AddressPool(IPv6Network("fd00::/128")).allocate()
