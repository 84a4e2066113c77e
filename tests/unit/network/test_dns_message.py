"""dnslib writes the questions and reads the answers."""

from __future__ import annotations

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from sampan.network import dns_message
from sampan.network.model import NameRecords

RECORDS = NameRecords(
    addresses={"db": ("10.0.0.3", "fd00::3"), "web": ("10.0.0.4", "10.0.0.5", "10.0.0.6"), "gone": ()},
    pointers={"10.0.0.3": "db.net1", "fd00::3": "db.net1"},
)


def query(name, kind="A", edns=0):
    record = DNSRecord.question(name, kind)
    if edns:
        record.add_ar(EDNS0(udp_len=edns))
    return dns_message.parse_query(record.pack())


def reply(name, kind="A", turn=0):
    asked = query(name, kind)
    data = dns_message.answer(asked, RECORDS, turn)
    if data is None:
        return None
    parsed = DNSRecord.parse(data)
    assert parsed.header.id == asked.id
    assert (parsed.header.qr, parsed.header.ra, parsed.header.rd) == (1, 1, 1)
    assert str(parsed.q.qname) == name.rstrip(".") + "."
    return parsed


def values(parsed):
    return [(QTYPE[record.rtype], str(record.rdata)) for record in parsed.rr]


def test_each_type_has_its_addresses():
    assert values(reply("db")) == [("A", "10.0.0.3")]
    assert values(reply("db", "AAAA")) == [("AAAA", "fd00::3")]
    assert values(reply("db", "ANY")) == [("A", "10.0.0.3"), ("AAAA", "fd00::3")]
    assert reply("db").rr[0].ttl == 600
    assert str(reply("db").rr[0].rname) == "db."


def test_the_question_comes_back_in_the_case_it_was_asked():
    asked = query("dB")
    assert b"\x02dB\x00" in dns_message.answer(asked, RECORDS, 0)


def test_a_known_name_without_such_a_record_is_an_empty_success():
    for name, kind in (("web", "AAAA"), ("db", "MX"), ("gone", "A")):
        parsed = reply(name, kind)
        assert (parsed.header.rcode, parsed.rr) == (RCODE.NOERROR, [])


def test_unknown_names_and_addresses_are_for_others():
    assert reply("example.org") is None
    assert reply("9.0.0.10.in-addr.arpa", "PTR") is None
    assert reply("nonsense.in-addr.arpa", "PTR") is None
    assert reply("1.2.ip6.arpa", "PTR") is None


def test_addresses_have_names():
    assert values(reply("3.0.0.10.in-addr.arpa", "PTR")) == [("PTR", "db.net1.")]
    reverse = ".".join(reversed("fd000000000000000000000000000003")) + ".ip6.arpa"
    assert values(reply(reverse, "PTR")) == [("PTR", "db.net1.")]


def test_each_turn_starts_with_another_address():
    firsts = [values(reply("web", turn=turn))[0][1] for turn in range(4)]
    assert firsts == ["10.0.0.4", "10.0.0.5", "10.0.0.6", "10.0.0.4"]


def test_udp_size_is_512_or_what_edns_says_but_never_fragments():
    assert query("db").udp_size == 512
    assert query("db", edns=1000).udp_size == 1000
    assert query("db", edns=100).udp_size == 512
    assert query("db", edns=65000).udp_size == 1232


def test_a_long_reply_is_cut_and_marked():
    asked = query("web")
    long = NameRecords(addresses={"web": tuple(f"10.0.0.{last}" for last in range(100))})
    whole = dns_message.answer(asked, long, 0)
    cut = DNSRecord.parse(dns_message.fit(whole, asked))
    assert (cut.header.tc, cut.rr, str(cut.q.qname)) == (1, [], "web.")
    assert len(DNSRecord.parse(whole).rr) == 100


def test_failures_have_their_codes():
    asked = query("x")
    assert DNSRecord.parse(dns_message.failure(asked)).header.rcode == RCODE.SERVFAIL
    assert DNSRecord.parse(dns_message.refusal(asked)).header.rcode == RCODE.REFUSED


def test_only_a_response_to_the_same_question_with_our_id_counts():
    record = DNSRecord.question("example.org")
    asked = dns_message.parse_query(record.pack())
    good = record.reply()
    good.add_answer(RR("example.org", rdata=A("1.2.3.4")))
    assert dns_message.is_reply_to(good.pack(), asked, record.header.id)
    assert not dns_message.is_reply_to(good.pack(), asked, record.header.id ^ 1)
    assert not dns_message.is_reply_to(record.pack(), asked, record.header.id)
    other = DNSRecord.question("evil.org").reply()
    other.header.id = record.header.id
    assert not dns_message.is_reply_to(other.pack(), asked, record.header.id)
    assert not dns_message.is_reply_to(b"", asked, record.header.id)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0" * 11,
        DNSRecord.question("db").reply().pack(),  # a response
        b"\0\0\x01\0\0\x02\0\0\0\0\0\0" + b"\x02db\0\0\x01\0\x01" * 2,  # two questions
        b"\0\0\x01\0\0\x01\0\0\0\0\0\0\xc0\x0c\0\x01\0\x01",  # a name that points to itself
        b"\0\0\x01\0\0\x01\0\0\0\0\0\0" + b"\x3fa" * 200,  # a name without end
        b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01",  # cut off
        b"\0\0\x28\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01",  # an update
        DNSRecord.question("db").pack() + b"\0" * 5000,  # much too long
    ],
)
def test_what_is_no_query_is_not_answered(packet):
    assert dns_message.parse_query(packet) is None


def test_a_dot_inside_a_label_does_not_make_a_name_of_the_network():
    packet = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x05a.net\0\0\x01\0\x01"
    records = NameRecords(addresses={"a.net": ("10.0.0.1",)})
    assert dns_message.answer(dns_message.parse_query(packet), records, 0) is None


@given(st.binary(max_size=400))
def test_no_packet_makes_it_raise(data):
    for packet in (data, b"\0\1\1\0\0\1\0\0\0\0\0\1" + data):
        asked = dns_message.parse_query(packet)
        if asked is not None:
            dns_message.answer(asked, RECORDS, 0)
            dns_message.fit(dns_message.failure(asked), asked)
            dns_message.is_reply_to(data, asked, 1)
