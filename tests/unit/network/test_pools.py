from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from sampan.errors import Conflict, Invalid
from sampan.network.pools import AddressPool, SubnetPool, default_gateway, parse_subnet


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
    with pytest.raises(Conflict, match="all predefined address pools have been fully subnetted"):
        pool.allocate()


def test_a_released_subnet_is_given_out_again():
    pool = SubnetPool()
    subnet = pool.allocate()
    pool.release(subnet)
    assert pool.allocate() == subnet


def test_an_overlapping_subnet_can_not_be_reserved():
    pool = SubnetPool()
    pool.reserve(IPv4Network("10.1.0.0/16"))
    with pytest.raises(Conflict, match="Pool overlaps with other one on this address space"):
        pool.reserve(IPv4Network("10.1.2.0/24"))
    pool.reserve(IPv4Network("10.2.0.0/24"))


def test_addresses_ascend_and_a_released_one_is_not_reused_at_once():
    pool = AddressPool(IPv4Network("10.0.0.0/24"), reserved=[IPv4Address("10.0.0.1")])
    assert [str(pool.allocate()) for _ in range(2)] == ["10.0.0.2", "10.0.0.3"]
    pool.release(IPv4Address("10.0.0.2"))
    assert str(pool.allocate()) == "10.0.0.4"


def test_a_small_network_gives_out_every_host_address_once_and_then_comes_round():
    pool = AddressPool(IPv4Network("10.0.0.0/29"), reserved=[IPv4Address("10.0.0.1")])
    assert [str(pool.allocate()) for _ in range(5)] == [f"10.0.0.{last}" for last in range(2, 7)]
    with pytest.raises(Conflict, match="no available IPv4 addresses on this network's address pools"):
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
    for wrong in ("10.0.1.1", "10.0.0.0", "10.0.0.255"):
        with pytest.raises(Invalid):
            pool.reserve(IPv4Address(wrong))
    with pytest.raises(Invalid):
        AddressPool(IPv4Network("10.0.0.0/24"), ip_range=IPv4Network("10.0.1.0/28"))


def test_a_large_pool_that_is_nearly_empty_is_searched_at_once():
    pool = AddressPool(IPv4Network("10.0.0.0/8"))
    assert len({pool.allocate() for _ in range(300)}) == 300


def test_the_gateway_is_the_first_address():
    assert str(default_gateway(IPv4Network("172.17.0.0/16"))) == "172.17.0.1"
    assert str(default_gateway(IPv4Network("10.0.0.0/24"), IPv4Network("10.0.0.128/25"))) == "10.0.0.128"


def test_a_subnet_with_host_bits_is_invalid():
    for wrong in ("10.0.0.1/24", "banana", "10.0.0.0/33"):
        with pytest.raises(Invalid, match="invalid CIDR address"):
            parse_subnet(wrong)
