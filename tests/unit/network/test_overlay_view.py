"""What an engine believes of a cluster's store: nothing that makes no sense, whoever wrote it."""

from __future__ import annotations

import msgspec
import pytest

from sampan.network.model import Forward, derived_mac
from sampan.network.overlay.places import Places
from sampan.network.overlay.schema import Claim, Endpoint, Host, Keys, Network
from sampan.network.overlay.store import Change, Entry, Snapshot
from sampan.network.overlay.view import View

KEYS = Keys("sampan")
A, B = "a" * 32, "b" * 32
NET = "1" * 64
NETWORK = Network(
    NET, "backend", "2026-01-01T00:00:00Z", 5000, "10.1.0.0/24", "10.1.0.1", aux={"x": "10.1.0.9"}
)
CLAIM = Claim(B, "192.0.2.2", "02:42:0a:01:00:05", "e" * 64)
ENDPOINT = Endpoint(B, "c" * 64, "web", "10.1.0.5", "02:42:0a:01:00:05", ("web", "www"))


def entry(value: object, revision: int = 1) -> Entry:
    body = value if isinstance(value, bytes) else msgspec.json.encode(value)
    return Entry(body, revision, revision)


def view_of(**entries: object) -> View:
    view = View(KEYS)
    known: dict[str, object] = {
        KEYS.network(NET): NETWORK,
        KEYS.host(B): Host(B, "beta", "192.0.2.2"),
        KEYS.address(NET, "10.1.0.5"): CLAIM,
        KEYS.endpoint(NET, "e" * 64): ENDPOINT,
        **entries,
    }
    view.replace(Snapshot(7, {key: entry(value) for key, value in known.items()}))
    return view


def test_a_container_of_another_host_is_reached_at_its_host_and_known_by_its_names() -> None:
    view = view_of()
    mac = "02:42:0a:01:00:05"
    assert view.forwards(NET, A, "192.0.2.1") == {mac: Forward(mac, "10.1.0.5", "192.0.2.2")}
    assert view.remote_endpoints(NET, A) == [("e" * 64, ENDPOINT)]
    assert view.peers(A) == {"192.0.2.2"}
    assert view.rejected == {}


def test_nothing_is_forwarded_to_oneself() -> None:
    view = view_of()
    assert view.forwards(NET, B, "192.0.2.2") == {}
    assert view.remote_endpoints(NET, B) == []
    assert view.peers(B) == frozenset()
    # Somebody else's claim that leads back here would be a loop.
    assert view.forwards(NET, A, "192.0.2.2") == {}


def test_a_host_that_has_gone_keeps_its_addresses_but_not_its_names() -> None:
    view = view_of()
    touched = view.apply(8, [Change(KEYS.host(B), None), Change(KEYS.endpoint(NET, "e" * 64), None)])
    assert touched == {"", NET}
    assert view.remote_endpoints(NET, A) == []
    assert len(view.forwards(NET, A, "192.0.2.1")) == 1
    assert view.peers(A) == {"192.0.2.2"}
    assert view.apply(9, [Change(KEYS.address(NET, "10.1.0.5"), None)]) == {NET}
    assert view.forwards(NET, A, "192.0.2.1") == {}
    assert view.peers(A) == frozenset()


def test_a_name_counts_only_with_the_address_that_is_its_containers() -> None:
    other = msgspec.structs.replace(ENDPOINT, address="10.1.0.6")
    view = view_of(**{KEYS.endpoint(NET, "f" * 64): other})
    assert [endpoint_id for endpoint_id, _ in view.remote_endpoints(NET, A)] == ["e" * 64]


def test_what_a_host_keeps_for_later_is_forwarded_already_where_its_station_address_is_known() -> None:
    kept = Claim(B, "192.0.2.2", "02:42:0a:01:00:07")
    view = view_of(
        **{KEYS.address(NET, "10.1.0.7"): kept, KEYS.address(NET, "10.1.0.8"): Claim(B, "192.0.2.2")}
    )
    assert [one.address for one in view.forwards(NET, A, "192.0.2.1").values()] == ["10.1.0.5", "10.1.0.7"]


def test_a_station_address_that_is_ours_is_not_given_to_another_host() -> None:
    mine = Claim(A, "192.0.2.1", "02:42:0a:01:00:05", "d" * 64)
    view = view_of(**{KEYS.address(NET, "10.1.0.4"): mine})
    assert view.forwards(NET, A, "192.0.2.1") == {}
    gateway = msgspec.structs.replace(CLAIM, mac="02:42:0a:01:00:01")
    assert view_of(**{KEYS.address(NET, "10.1.0.5"): gateway}).forwards(NET, A, "192.0.2.1") == {}


def test_addresses_are_checked_by_their_network_when_it_comes_after_them() -> None:
    view = View(KEYS)
    outside = KEYS.address(NET, "10.2.0.5")
    view.apply(1, [Change(outside, entry(CLAIM)), Change(KEYS.address(NET, "10.1.0.5"), entry(CLAIM))])
    assert view.forwards(NET, A, "192.0.2.1") == {}
    view.apply(2, [Change(KEYS.network(NET), entry(NETWORK))])
    assert list(view.forwards(NET, A, "192.0.2.1").values()) == [
        Forward("02:42:0a:01:00:05", "10.1.0.5", "192.0.2.2")
    ]
    assert list(view.rejected) == [outside]


HOSTILE = {
    "not JSON": (KEYS.host(B), b"\xff{"),
    "another type": (KEYS.host(B), b"[1,2]"),
    "a number for a text": (KEYS.host(B), b'{"id":1,"name":"x","address":"192.0.2.9"}'),
    "stored under another's name": (KEYS.host(A), Host(B, "x", "192.0.2.9")),
    "a host on the loopback": (KEYS.host(B), Host(B, "x", "127.0.0.1")),
    "a host that is a group": (KEYS.host(B), Host(B, "x", "224.0.0.1")),
    "very deep": (KEYS.host(B), b'{"x":' + b"[" * 60000),
    "a host's address written in another way": (KEYS.host(B), Host(B, "x", "2001:DB8::1")),
    "an IPv4 address in an IPv6 one": (KEYS.host(B), Host(B, "x", "::ffff:192.0.2.9")),
    "a host on some cable": (KEYS.host(B), Host(B, "x", "fe80::1")),
    "a host's address with an interface": (KEYS.host(B), Host(B, "x", "2001:db8::1%eth0")),
    "a network without any addresses": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet="0.0.0.0/8", gateway="0.0.0.1", aux={}, ipv4=False),
    ),
    "a network without IPv4 that has a subnet": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet6="fd00:1::/64", ipv4=False),
    ),
    "a network of addresses that are none": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet="0.0.0.0/8", gateway="0.0.0.1", aux={}),
    ),
    "an MTU without IPv6": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet6="fd00:1::/64", mtu=1279),
    ),
    "an IPv6 address in a network without": (KEYS.address(NET, "fd00:1::beef"), Claim(B, "192.0.2.2")),
    "a gateway that no host can be": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, gateway="10.1.0.0"),
    ),
    "an auxiliary address for all": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, aux={"x": "10.1.0.255"}),
    ),
    "half a byte of a secret": (KEYS.secret, b"a" * 33),
    "half a byte of an identity": (KEYS.identity, b"a" * 33),
    "a subnet with a mask": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet="10.1.0.0/255.255.255.0"),
    ),
    "an IPv6 subnet in capitals": (KEYS.network(NET), msgspec.structs.replace(NETWORK, subnet6="FD00::/64")),
    "a host that is everywhere": (KEYS.host(B), Host(B, "x", "0.0.0.0")),
    "control characters in a host's name": (KEYS.host(B), Host(B, "x\x1b[2J", "192.0.2.9")),
    "a path for an id": (KEYS.host(".."), Host("..", "x", "192.0.2.9")),
    "too large": (KEYS.host(B), b'{"id":"' + b"a" * (70 << 10) + b'"}'),
    "a network on the loopback": (KEYS.network(NET), msgspec.structs.replace(NETWORK, subnet="127.0.0.0/24")),
    "a network of everything": (
        KEYS.network(NET),
        msgspec.structs.replace(NETWORK, subnet="0.0.0.0/0", gateway="1.1.1.1"),
    ),
    "a network with host bits": (KEYS.network(NET), msgspec.structs.replace(NETWORK, subnet="10.1.0.7/24")),
    "a gateway elsewhere": (KEYS.network(NET), msgspec.structs.replace(NETWORK, gateway="10.9.0.1")),
    "a range elsewhere": (KEYS.network(NET), msgspec.structs.replace(NETWORK, ip_range="10.9.0.0/28")),
    "a predefined name": (KEYS.network(NET), msgspec.structs.replace(NETWORK, name="bridge")),
    "a name with a slash": (KEYS.network(NET), msgspec.structs.replace(NETWORK, name="a/b")),
    "a number beyond 24 bits": (KEYS.network(NET), msgspec.structs.replace(NETWORK, vni=1 << 24)),
    "an MTU of nothing": (KEYS.network(NET), msgspec.structs.replace(NETWORK, mtu=0)),
    "a time that is none": (KEYS.network(NET), msgspec.structs.replace(NETWORK, created="yesterday")),
    "an address outside": (KEYS.address(NET, "10.2.0.5"), CLAIM),
    "the gateway's address": (KEYS.address(NET, "10.1.0.1"), CLAIM),
    "an auxiliary address": (KEYS.address(NET, "10.1.0.9"), CLAIM),
    "the broadcast address": (KEYS.address(NET, "10.1.0.255"), CLAIM),
    "an address written in two ways": (KEYS.address(NET, "10.1.0.05"), CLAIM),
    "no address": (KEYS.address(NET, "x"), CLAIM),
    "a group's station address": (
        KEYS.address(NET, "10.1.0.6"),
        msgspec.structs.replace(CLAIM, mac="01:00:5e:00:00:01"),
    ),
    "upper case": (KEYS.address(NET, "10.1.0.6"), msgspec.structs.replace(CLAIM, mac="02:42:0A:01:00:06")),
    "frames for the loopback": (
        KEYS.address(NET, "10.1.0.6"),
        msgspec.structs.replace(CLAIM, at="127.0.0.1"),
    ),
    "a name that is none": (KEYS.endpoint(NET, "f" * 64), msgspec.structs.replace(ENDPOINT, names=("a b",))),
    "a name with a line end": (KEYS.endpoint(NET, "f" * 64), msgspec.structs.replace(ENDPOINT, name="a\n")),
    "very many names": (KEYS.endpoint(NET, "f" * 64), msgspec.structs.replace(ENDPOINT, names=("a",) * 65)),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_an_entry_that_makes_no_sense_is_as_if_it_were_not_there(what: str) -> None:
    key, value = HOSTILE[what]
    view = view_of(**{key: value})
    assert list(view.rejected) == [key]
    parts = KEYS.split(key)
    if len(parts) == 1:
        assert not view.secret and not view.identity
        return
    assert parts[1] not in (view.hosts if parts[0] == "hosts" else {})
    assert parts[0] != "networks" or not view.networks
    assert len(view.forwards(NET, A, "192.0.2.1")) == (0 if parts[0] == "networks" else 1)


def test_a_second_network_with_a_name_or_a_number_is_not_used() -> None:
    second = msgspec.structs.replace(NETWORK, id="2" * 64, subnet="10.2.0.0/24", gateway="10.2.0.1", aux={})
    for changed in (msgspec.structs.replace(second, name="other"), msgspec.structs.replace(second, vni=6000)):
        view = view_of()
        view.apply(8, [Change(KEYS.network("2" * 64), entry(changed))])
        assert list(view.networks) == [NET]


def test_a_second_network_whose_devices_would_have_the_same_names_is_not_used() -> None:
    other = NET[:12] + "0" * 52
    second = msgspec.structs.replace(NETWORK, id=other, name="second", vni=NETWORK.vni + 1)
    view = view_of(
        **{KEYS.network(other): msgspec.structs.replace(second, subnet="10.9.0.0/24", gateway="10.9.0.1")}
    )
    assert list(view.networks) == [NET] and list(view.rejected) == [KEYS.network(other)]


def test_a_key_that_would_write_into_the_log_is_not_looked_at(caplog: pytest.LogCaptureFixture) -> None:
    view = view_of(**{KEYS.host("x\nall is well"): b"{", KEYS.host("\x1b[2J"): b"{"})
    assert not view.rejected and "all is well" not in caplog.text


def test_the_log_complains_of_an_entry_once_and_not_without_end(caplog: pytest.LogCaptureFixture) -> None:
    view = view_of()
    for revision in range(2, 5):
        view.apply(revision, [Change(KEYS.host(B), entry(b"{"))])
    assert caplog.text.count("is not used") == 1
    view.apply(9, [Change(KEYS.host(f"{number:032x}"), entry(b"{")) for number in range(300)])
    assert caplog.text.count("is not used") == 100 and len(view.rejected) == 301


def test_what_the_entries_take_is_known() -> None:
    view = View(KEYS)
    view.apply(2, [Change(KEYS.host(B), entry(b"x" * 1000))])
    one = view.size
    assert 1000 < one < 1500
    view.apply(3, [Change(KEYS.host(A), entry(b"x" * 1000)), Change(KEYS.host(B), entry(b""))])
    assert view.size == 2 * one - 1000
    view.replace(Snapshot(4, {}))
    assert view.size == 0


def test_foreign_keys_are_not_looked_at() -> None:
    view = View(KEYS)
    assert (
        view.apply(1, [Change("other/hosts/x", entry(b"?")), Change("sampan/" + "k" * 600, entry(b"?"))])
        == set()
    )
    assert view.entries == {}


def test_reading_everything_again_finds_what_was_removed_meanwhile() -> None:
    view = view_of()
    assert view.replace(Snapshot(9, {KEYS.network(NET): entry(NETWORK)})) == {NET, ""}
    assert view.hosts == {} and view.claims == {} and view.endpoints == {}
    assert view.replace(Snapshot(9, {KEYS.network(NET): entry(NETWORK)})) == set()


SIX = msgspec.structs.replace(NETWORK, subnet6="fd00:1::/64")
CHOSEN = msgspec.structs.replace(CLAIM, address6="fd00:1::beef")
RESERVED = Claim(B, "192.0.2.2")


@pytest.mark.parametrize(
    ("entries", "address6"),
    [
        ({"10.1.0.5": CLAIM}, "fd00:1::5"),
        ({"10.1.0.5": CHOSEN, "fd00:1::beef": RESERVED}, "fd00:1::beef"),
        ({"10.1.0.5": CHOSEN}, ""),  # nobody has promised it
        ({"10.1.0.5": CHOSEN, "fd00:1::beef": Claim(A, "192.0.2.3")}, ""),  # it is another host's
        (
            {"10.1.0.5": msgspec.structs.replace(CLAIM, address6="fd00:1::60"), "10.1.0.96": RESERVED},
            "fd00:1::60",
        ),
        (  # the place that it belongs to has a container
            {
                "10.1.0.5": msgspec.structs.replace(CLAIM, address6="fd00:1::60"),
                "10.1.0.96": Claim(B, "192.0.2.2", "02:42:0a:01:00:60", "d" * 64),
            },
            "",
        ),
    ],
)
def test_an_ipv6_address_that_was_chosen_counts_only_when_it_is_the_hosts(
    entries: dict[str, Claim], address6: str
) -> None:
    view = view_of(
        **{KEYS.network(NET): SIX},
        **{KEYS.address(NET, address): claim for address, claim in entries.items()},
    )
    assert not view.rejected
    assert view.forwards(NET, A, "192.0.2.1")["02:42:0a:01:00:05"].address6 == address6
    assert view.addresses(SIX, "10.1.0.5") == ("10.1.0.5", address6)


@pytest.mark.parametrize(
    "address", ["fd00:1::1", "fd00:1::5", "fd00:2::beef", "fd00:1:0::beef", "fd00:1::BEEF"]
)
def test_an_ipv6_address_is_no_key_when_it_belongs_to_a_place_or_is_written_otherwise(address: str) -> None:
    """fd00:1::1 is the gateway's."""
    view = view_of(**{KEYS.network(NET): SIX, KEYS.address(NET, address): RESERVED})
    assert list(view.rejected) == [KEYS.address(NET, address)]


def test_containers_of_a_network_without_ipv4_have_places_that_are_not_shown() -> None:
    six = msgspec.structs.replace(
        SIX, ipv4=False, subnet="0.0.0.0/8", gateway="0.0.0.1", aux={}, subnet6="fd00:1::/64"
    )
    mac = "02:42:00:00:00:05"
    view = View(KEYS)
    claim = msgspec.structs.replace(CLAIM, mac=mac)
    entries = {KEYS.network(NET): six, KEYS.address(NET, "0.0.0.5"): claim}
    view.replace(Snapshot(7, {key: entry(value) for key, value in entries.items()}))
    assert view.forwards(NET, A, "192.0.2.1") == {mac: Forward(mac, "", "192.0.2.2", "fd00:1::5")}
    # A container's station address is the same, whichever of both it is derived from.
    assert derived_mac("0.0.0.5") == derived_mac("fd00:1::5") == mac


def test_places_are_those_that_containers_can_have() -> None:
    places = Places("10.1.0.0/24", "fd00:1::/64")
    assert places.address6("10.1.0.80") == "fd00:1::50" and places.place("fd00:1::50") == "10.1.0.80"
    assert [places.place(one) for one in ("fd00:1::", "fd00:1::ff", "fd00:1::100", "fd00::1")] == [""] * 4
    assert places.second("10.1.0.5", "fd00:1::5") == places.second("10.1.0.5", "") == ""
    assert places.second("10.1.0.5", "fd00:1::60") == "10.1.0.96"
    assert places.second("10.1.0.5", "fd00:1::beef") == "fd00:1::beef"
    assert Places("10.1.0.0/24", "").address6("10.1.0.5") == ""
