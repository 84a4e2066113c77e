"""rtnetlink and nf_tables against the kernel; `ip` and `nft` say what is really there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time

import pytest

from sampan.linux.netlink import NetlinkError
from sampan.linux.netlink_namespace import in_namespace, in_new_namespace
from sampan.linux.netlink_route import (
    PeerLink,
    RouteSocket,
    add_address,
    add_route,
    create_bridge,
    create_veth,
    delete_address,
    delete_route,
    set_bridge_port,
    set_link,
    set_neighbour,
)
from sampan.linux.nftables import NF_DROP, BaseHook, Batch, Family, Field, Hook, NftablesSocket, pack_fields
from sampan.linux.nftables_expressions import (
    Meta,
    Verdict,
    counter,
    input_is,
    interface_value,
    lookup_verdict,
    meta,
    verdict,
)

pytestmark = pytest.mark.root


def alone(work):
    """Do it in a network namespace that ends with it."""
    namespace, result = in_new_namespace(work)
    os.close(namespace)
    return result


def output(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_links_addresses_routes_and_neighbours_are_what_ip_lists():
    def work():
        other, _ = in_new_namespace(lambda: None)
        with RouteSocket() as route:
            route.perform([set_link(1, up=True), create_bridge("b0", address="02:00:00:00:00:01", mtu=1400)])
            bridge = route.link("b0")
            route.perform(
                [create_veth("v0", PeerLink("p0", other, "02:00:00:00:00:02"), mtu=1400, master=bridge.index)]
            )
            route.perform(
                [
                    set_link(bridge.index, alias="ours"),
                    add_address(bridge.index, "10.9.0.1/24"),
                    add_address(bridge.index, "fd00::1/64"),
                    add_route("10.10.0.0/16", gateway="10.9.0.9"),
                    set_neighbour(bridge.index, "10.9.0.9", "02:00:00:00:00:09"),
                    set_bridge_port("v0", hairpin=True, isolated=True),
                ]
            )
            links = {link.name: link for link in route.links()}
            listed = {link["ifname"]: link for link in json.loads(output("ip", "-d", "-j", "link"))}
            assert set(links) == set(listed)
            assert (links["b0"].kind, links["b0"].mtu, links["b0"].alias) == ("bridge", 1400, "ours")
            assert links["b0"].address == listed["b0"]["address"] == "02:00:00:00:00:01"
            assert links["v0"].master == listed["b0"]["ifindex"]
            port = listed["v0"]["linkinfo"]["info_slave_data"]
            assert (port["hairpin"], port["isolated"]) == (True, True)
            assert "10.9.0.1/24" in {str(entry.interface) for entry in route.addresses()}
            assert "inet6 fd00::1/64" in output("ip", "addr", "show", "b0")
            routes = {str(entry.destination): str(entry.gateway) for entry in route.routes()}
            assert routes["10.10.0.0/16"] == "10.9.0.9"
            assert "10.10.0.0/16 via 10.9.0.9" in output("ip", "route")
            assert [n.mac for n in route.neighbours() if str(n.address) == "10.9.0.9"] == [
                "02:00:00:00:00:09"
            ]
            assert in_namespace(other, lambda: "02:00:00:00:00:02" in output("ip", "link", "show", "p0"))
            route.perform([delete_route("10.10.0.0/16"), delete_address(bridge.index, "10.9.0.1/24")])
            assert "10.9.0.1" not in output("ip", "addr")
            assert route.delete("v0") is True
            assert route.delete("v0") is False
            assert route.link("v0") is None
        os.close(other)

    alone(work)


def test_a_link_is_renamed_and_moved():
    def work():
        other, _ = in_new_namespace(lambda: None)
        with RouteSocket() as route:
            route.perform([create_veth("v0", PeerLink("p0", other), mtu=1500)])
            index = route.link("v0").index
            route.perform([set_link(index, up=False)])
            route.perform([set_link(index, name="w0")])
            assert route.link("w0").index == index
            route.perform([set_link(index, namespace=other)])
            assert route.link("w0") is None
        assert "w0" in in_namespace(other, lambda: output("ip", "link"))
        os.close(other)

    alone(work)


def test_the_first_failure_is_told_and_the_rest_is_still_done():
    def work():
        with RouteSocket() as route:
            with pytest.raises(NetlinkError, match="create bridge lo: File exists") as caught:
                route.perform(
                    [
                        create_bridge("lo", address="02:00:00:00:00:01", mtu=1500),
                        create_bridge("b1", address="02:00:00:00:00:01", mtu=1500),
                    ]
                )
            assert caught.value.errno == errno.EEXIST
            assert route.link("b1") is not None

    alone(work)


def test_an_error_carries_the_kernel_s_explanation():
    def work():
        with RouteSocket() as route:
            with pytest.raises(NetlinkError, match=r"Nexthop has invalid gateway|Network is unreachable \("):
                route.perform([set_link(1, up=True), add_route("10.0.0.0/8", gateway="192.0.2.1")])

    alone(work)


def test_work_in_a_namespace_leaves_the_calling_thread_where_it_was():
    before = os.stat("/proc/thread-self/ns/net").st_ino
    namespace, inside = in_new_namespace(lambda: os.stat("/proc/thread-self/ns/net").st_ino)
    try:
        assert inside == os.fstat(namespace).st_ino != before
        assert in_namespace(namespace, lambda: os.stat("/proc/thread-self/ns/net").st_ino) == inside
        assert os.stat("/proc/thread-self/ns/net").st_ino == before
    finally:
        os.close(namespace)


def example(batch):
    batch.add_table("t")
    batch.add_chain("t", "in", BaseHook("filter", Hook.INPUT, -5, NF_DROP))
    batch.add_chain("t", "sub")
    batch.add_verdict_map("t", "byname", (Field.INTERFACE_NAME,))
    batch.add_verdicts("t", "byname", [(interface_value("lo"), Verdict.JUMP, "sub")])
    batch.add_set("t", "pairs", (Field.IPV4_ADDRESS, Field.INET_SERVICE))
    batch.add_elements("t", "pairs", [(pack_fields(bytes([10, 0, 0, 1]), b"\0\x50"), None)])
    batch.add_rule("t", "in", meta(Meta.IIFNAME), lookup_verdict("byname"))
    batch.add_rule("t", "sub", input_is("lo"), counter(), verdict(Verdict.ACCEPT), comment="hello")
    batch.add_rule("t", "sub", verdict(Verdict.DROP), first=True)


EXPECTED = """\
table inet t {
	map byname {
		type ifname : verdict
		elements = { "lo" : jump sub }
	}

	set pairs {
		type ipv4_addr . inet_service
		elements = { 10.0.0.1 . 80 }
	}

	chain in {
		type filter hook input priority filter - 5; policy drop;
		iifname vmap @byname
	}

	chain sub {
		drop
		iifname "lo" counter packets 0 bytes 0 accept comment "hello"
	}
}
"""


def test_a_batch_makes_what_nft_lists_and_we_list_it_too():
    def work():
        with NftablesSocket() as nftables:
            batch = Batch(Family.INET)
            example(batch)
            nftables.commit(batch)
            assert output("nft", "list", "ruleset") == EXPECTED
            assert nftables.tables() == [(Family.INET, "t")]
            assert [chain.name for chain in nftables.chains()] == ["in", "sub"]
            assert nftables.chains()[0].base == BaseHook("filter", Hook.INPUT, -5, NF_DROP)
            rules = nftables.rules(Family.INET, "t")
            assert [rule.verdicts for rule in rules] == [(), ((0, ""),), ((1, ""),)]
            assert rules[0].expressions == ("meta", "lookup verdict")
            assert rules[2].comment == "hello"
            assert {info.name: info.is_map for info in nftables.sets()} == {"byname": True, "pairs": False}
            assert nftables.elements(Family.INET, "t", "pairs") == {bytes.fromhex("0a00000100500000"): b""}
            batch = Batch(Family.INET)
            batch.delete_rule("t", "sub", rules[2].handle)
            batch.flush_set("t", "pairs")
            nftables.commit(batch)
            assert "hello" not in output("nft", "list", "ruleset")
            assert nftables.elements(Family.INET, "t", "pairs") == {}

    alone(work)


def test_a_transaction_that_fails_changes_nothing_and_names_the_culprit():
    def work():
        with NftablesSocket() as nftables:
            before = nftables.generation()
            batch = Batch(Family.INET)
            example(batch)
            batch.add_rule("t", "missing", verdict(Verdict.DROP))
            batch.add_rule("t", "in", verdict(Verdict.DROP))
            with pytest.raises(NetlinkError, match="add rule to t missing: No such file") as caught:
                nftables.commit(batch)
            assert caught.value.errno == errno.ENOENT
            assert output("nft", "list", "ruleset") == ""
            assert nftables.generation() == before
            batch = Batch(Family.INET)
            example(batch)
            nftables.commit(batch)  # the socket is in order after a failure
            assert output("nft", "list", "ruleset") == EXPECTED

    alone(work)


def test_thousands_of_elements_go_in_one_transaction():
    def work():
        with NftablesSocket() as nftables:
            batch = Batch(Family.IPV4)
            batch.add_table("t")
            batch.add_map("t", "m", (Field.INET_SERVICE,), (Field.IPV4_ADDRESS,))
            elements = {n.to_bytes(2, "big"): bytes([10, 0, n >> 8, n & 255]) for n in range(1, 20001)}
            batch.add_elements("t", "m", list(elements.items()))
            nftables.commit(batch)
            end = time.monotonic() + 5
            while nftables.elements(Family.IPV4, "t", "m") != elements:  # while the kernel enlarges the set
                assert time.monotonic() < end
            batch = Batch(Family.IPV4)
            batch.delete_elements("t", "m", list(elements))
            nftables.commit(batch)
            assert nftables.elements(Family.IPV4, "t", "m") == {}

    alone(work)
