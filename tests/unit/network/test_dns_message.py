"""dnslib writes the questions and reads the answers."""

from __future__ import annotations

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.network import dns_message
from sampan.network.dns_records import Directory
from sampan.network.model import Member, Outlook

DIRECTORY = Directory()
OUTLOOK = Outlook(networks=("n1",), links=(("base", "db"),))
LONG_NAME = "l" * 64


def tell(directory, name, *addresses, network="n1"):
    directory.tell(network, name, Member((name, f"{name}.net1"), addresses, f"{name}.net1"))


tell(DIRECTORY, "db", "10.0.0.3", "fd00::3")
tell(DIRECTORY, "gone")
tell(DIRECTORY, LONG_NAME, "10.0.0.64")
for last in (4, 5, 6):
    DIRECTORY.tell("n1", f"web{last}", Member(("web",), (f"10.0.0.{last}",), f"web{last}.net1"))
for last in range(100):
    DIRECTORY.tell("n1", f"many{last}", Member(("many",), (f"10.0.1.{last}",), f"many{last}.net1"))


def query(name, kind="A", edns=0):
    record = DNSRecord.question(name, kind)
    if edns:
        record.add_ar(EDNS0(udp_len=edns))
    return dns_message.parse_query(bytes(record.pack()))


def told(name, kind="A", outlook=OUTLOOK, edns=0, limit=65535):
    """All answers in turn, parsed; None when it is for others to know."""
    asked = query(name, kind, edns)
    found = dns_message.answers(asked, DIRECTORY, outlook, limit)
    if found is None:
        return None
    parsed = [DNSRecord.parse(asked.raw[:2] + one) for one in found]
    for one in parsed:
        assert (one.header.qr, one.header.ra, one.header.rd) == (1, 1, 1)
        assert str(one.q.qname) == name.rstrip(".") + "."
        assert QTYPE[one.q.qtype] == kind
    return parsed


def reply(name, kind="A", outlook=OUTLOOK, edns=0, limit=65535):
    found = told(name, kind, outlook, edns, limit)
    return None if found is None else found[0]


def values(parsed):
    return [(QTYPE[record.rtype], str(record.rdata)) for record in parsed.rr]


def test_each_type_has_its_addresses():
    assert values(reply("db")) == [("A", "10.0.0.3")]
    assert values(reply("db.net1")) == [("A", "10.0.0.3")]
    assert values(reply("db", "AAAA")) == [("AAAA", "fd00::3")]
    assert values(reply("db", "ANY")) == [("A", "10.0.0.3"), ("AAAA", "fd00::3")]
    assert reply("db").rr[0].ttl == 600
    assert str(reply("db").rr[0].rname) == "db."


def test_the_question_comes_back_in_the_case_it_was_asked():
    [found] = dns_message.answers(query("dB"), DIRECTORY, OUTLOOK, 512)
    assert b"\x02dB\x00" in found


def test_a_known_name_without_such_a_record_is_an_empty_success():
    for name, kind in (("web", "AAAA"), ("db", "MX"), ("gone", "A")):
        parsed = reply(name, kind)
        assert (parsed.header.rcode, parsed.rr) == (RCODE.NOERROR, [])


def test_unknown_names_and_addresses_are_for_others():
    assert reply("example.org") is None
    assert reply("9.0.0.10.in-addr.arpa", "PTR") is None
    assert reply("nonsense.in-addr.arpa", "PTR") is None
    assert reply("1.2.ip6.arpa", "PTR") is None
    assert reply("version.bind", "TXT") is None


def test_addresses_have_names():
    assert values(reply("3.0.0.10.in-addr.arpa", "PTR")) == [("PTR", "db.net1.")]
    reverse = ".".join(reversed("fd000000000000000000000000000003")) + ".ip6.arpa"
    assert values(reply(reverse, "PTR")) == [("PTR", "db.net1.")]
    assert values(reply("64.0.0.10.in-addr.arpa", "PTR")) == []  # nothing in the DNS can be called so


def test_each_turn_starts_with_another_address():
    assert [values(one)[0][1] for one in told("web")] == ["10.0.0.4", "10.0.0.5", "10.0.0.6"]
    assert all(len(one.rr) == 3 for one in told("web"))


def test_of_very_many_addresses_sixteen_take_turns_at_the_head():
    found = told("many")
    assert len({values(one)[0] for one in found}) == len(found) <= 16
    assert all(len(one.rr) == 100 for one in found)


def test_the_first_network_that_knows_a_name_answers():
    directory = Directory()
    tell(directory, "db", "10.0.0.3", network="n1")
    tell(directory, "db", "10.1.0.3", network="n2")

    def address(*networks):
        [found] = dns_message.answers(query("db"), directory, Outlook(networks=networks), 512)
        return str(DNSRecord.parse(b"\0\0" + found).rr[0].rdata)

    assert (address("n1", "n2"), address("n2", "n1"), address("n0", "n2")) == (
        "10.0.0.3",
        "10.1.0.3",
        "10.1.0.3",
    )
    directory.tell("n2", "db", None)
    assert address("n2", "n1") == "10.0.0.3"
    directory.tell("n1", "db", None)
    assert dns_message.answers(query("db"), directory, Outlook(networks=("n1", "n2")), 512) is None


def test_a_link_is_a_name_for_one_container_alone():
    assert values(reply("base")) == [("A", "10.0.0.3")]
    assert reply("base", outlook=Outlook(networks=("n1",))) is None


def test_with_ndots_names_of_one_label_are_for_nobody_else():
    outlook = Outlook(networks=("n1",), only_dotted=True)
    parsed = reply("printer", outlook=outlook)
    assert (parsed.header.rcode, parsed.rr) == (RCODE.NOERROR, [])
    assert values(reply("db", outlook=outlook)) == [("A", "10.0.0.3")]
    assert reply("printer.example.org", outlook=outlook) is None
    assert reply("org", "NS", outlook=outlook) is None


def test_udp_size_is_512_or_what_edns_says_within_bounds():
    assert query("db").udp_size == 512
    assert query("db", edns=1000).udp_size == 1000
    assert query("db", edns=100).udp_size == 512
    assert query("db", edns=65000).udp_size == 4096


def test_a_query_with_edns_gets_an_answer_with_edns():
    assert [QTYPE[one.rtype] for one in reply("db", edns=1000).ar] == ["OPT"]
    assert reply("db").ar == []


def test_another_version_of_edns_is_refused_as_such():
    record = DNSRecord.question("db")
    record.add_ar(EDNS0(udp_len=1232, version=1))
    [found] = dns_message.answers(dns_message.parse_query(bytes(record.pack())), DIRECTORY, OUTLOOK, 512)
    parsed = DNSRecord.parse(b"\0\0" + found)
    assert (parsed.ar[0].ttl >> 24, parsed.header.rcode, parsed.rr) == (1, 0, [])  # 16 is BADVERS (RFC 6891)


@pytest.mark.parametrize("limit", [512, 1232, 4096])
def test_a_long_answer_has_what_fits_and_is_marked(limit):
    asked = query("many", edns=limit)
    [*_, found] = dns_message.answers(asked, DIRECTORY, OUTLOOK, limit)
    parsed = DNSRecord.parse(b"\0\0" + found)
    assert 2 + len(found) <= limit
    assert parsed.header.tc == (len(parsed.rr) < 100) == (limit < 4096)


def test_a_resolvers_reply_that_does_not_fit_is_marked_and_empty():
    asked = query("example.org")
    long = DNSRecord.question("example.org").reply()
    for last in range(100):
        long.add_answer(RR("example.org", QTYPE.A, rdata=A(f"10.0.0.{last}")))
    long.header.rcode = RCODE.NXDOMAIN
    cut = DNSRecord.parse(b"\0\0" + dns_message.fit(bytes(long.pack())[2:], asked))
    assert (cut.header.tc, cut.rr, str(cut.q.qname)) == (1, [], "example.org.")
    assert cut.header.rcode == RCODE.NXDOMAIN
    short = b"\x81\x80" + b"\0" * 508
    assert dns_message.fit(short, asked) == short


def test_failures_have_their_codes():
    asked = query("x")
    assert DNSRecord.parse(b"\0\0" + dns_message.failure(asked)).header.rcode == RCODE.SERVFAIL
    assert DNSRecord.parse(b"\0\0" + dns_message.refusal(asked)).header.rcode == RCODE.REFUSED


def test_only_a_response_to_the_same_question_with_our_id_counts():
    record = DNSRecord.question("example.org")
    asked = dns_message.parse_query(bytes(record.pack()))
    number = 0x1234
    good = record.reply()
    good.header.id = number
    good.add_answer(RR("example.org", rdata=A("1.2.3.4")))
    assert dns_message.reply_to(asked, number, bytes(good.pack())) == dns_message.Reply(
        bytes(good.pack())[2:], False
    )
    assert dns_message.reply_to(asked, number ^ 1, bytes(good.pack())) is None
    upper = bytes(good.pack()).replace(b"\x07example", b"\x07EXAMPLE")
    assert dns_message.reply_to(asked, number, upper) is not None
    for question in (
        DNSRecord.question("evil.org"),
        DNSRecord.question("example.org", "AAAA"),
        DNSRecord.question("example.org", qclass="CH"),
    ):
        other = question.reply()
        other.header.id = number
        assert dns_message.reply_to(asked, number, bytes(other.pack())) is None
    query_again = DNSRecord.question("example.org")
    query_again.header.id = number
    assert dns_message.reply_to(asked, number, bytes(query_again.pack())) is None
    assert dns_message.reply_to(asked, number, b"") is None
    assert dns_message.reply_to(asked, number, bytes(good.pack())[:14]) is None


@pytest.mark.parametrize(
    ("flags", "failed", "code", "truncated"),
    [("8182", True, 2, 0), ("8185", True, 5, 0), ("8183", False, 3, 0), ("8380", False, 0, 1)],
)
def test_a_refusal_or_truncation_without_the_question_is_given_it(flags, failed, code, truncated):
    asked = query("example.org")
    found = dns_message.reply_to(asked, 7, b"\0\x07" + bytes.fromhex(flags) + b"\0" * 8)
    parsed = DNSRecord.parse(b"\0\0" + found.data)
    assert (found.failed, parsed.header.rcode, parsed.header.tc) == (failed, code, truncated)
    assert str(parsed.q.qname) == "example.org."


def test_an_empty_success_without_the_question_is_no_reply():
    assert dns_message.reply_to(query("example.org"), 7, b"\0\x07\x81\x80" + b"\0" * 8) is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\0" * 11,
        DNSRecord.question("db").reply().pack(),  # a response
        DNSRecord.question("db").pack() + b"\0" * 5000,  # much too long
    ],
)
def test_what_may_be_another_servers_is_not_answered(packet):
    assert dns_message.parse_query(packet) is None


HEAD = b"\0\0\x01\0\0\x01\0\0\0\0\0\0"


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"\0\0\x01\0\0\x02\0\0\0\0\0\0" + b"\x02db\0\0\x01\0\x01" * 2, RCODE.FORMERR),  # two questions
        (b"\0\0\x01\0\0\0\0\0\0\0\0\0", RCODE.FORMERR),  # none
        (HEAD + b"\xc0\x0c\0\x01\0\x01", RCODE.FORMERR),  # a name that points to itself
        (HEAD + b"\x3fa" * 200, RCODE.FORMERR),  # a name without end
        (
            HEAD + b"\x3f" + (b"a" * 63 + b"\x3f") * 4 + b"\0\0\x01\0\x01",
            RCODE.FORMERR,
        ),  # longer than 255 bytes
        (HEAD + b"\x02db\0\0\x01", RCODE.FORMERR),  # cut off
        (HEAD + b"\x02db\0\0\x01\0\x01rubbish", RCODE.FORMERR),
        (b"\0\0\x01\0\0\x01\0\0\0\0\xff\xff\x02db\0\0\x01\0\x01", RCODE.FORMERR),  # 65,535 records to come
        (b"\0\0\x28\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01", RCODE.NOTIMP),  # an update
        (b"\0\0\x20\0\0\x01\0\0\0\0\0\0\x02db\0\0\x01\0\x01", RCODE.NOTIMP),  # a notification
    ],
)
def test_a_malformed_query_gets_a_bare_refusal(packet, code):
    found = dns_message.parse_query(packet)
    assert isinstance(found, bytes)
    parsed = DNSRecord.parse(b"\0\0" + found)
    assert (parsed.header.qr, parsed.header.rcode, len(found)) == (1, code, 10)


def test_a_dot_inside_a_label_does_not_make_a_name_of_the_network():
    packet = HEAD + b"\x07db.net1\0\0\x01\0\x01"
    assert dns_message.answers(dns_message.parse_query(packet), DIRECTORY, OUTLOOK, 512) is None


@settings(deadline=None)
@given(st.binary(max_size=400), st.sampled_from(["example.org", "db", "3.0.0.10.in-addr.arpa"]))
def test_no_packet_makes_it_raise(data, name):
    whole = bytes(DNSRecord.question(name).pack())
    for packet in (data, b"\0\1\1\0\0\1\0\0\0\0\0\1" + data, whole[:10] + b"\0\1" + whole[12:] + data):
        asked = dns_message.parse_query(packet)
        if isinstance(asked, dns_message.Query):
            for found in dns_message.answers(asked, DIRECTORY, OUTLOOK, asked.udp_size) or ():
                assert 2 + len(found) <= asked.udp_size
            dns_message.fit(dns_message.failure(asked), asked)
    asked = query(name)
    for packet in (data, b"\0\1" + data, b"\0\1\x81\x80\0\1\0\1\0\0\0\0" + data):
        found = dns_message.reply_to(asked, 1, packet)
        assert found is None or DNSRecord.parse(b"\0\0" + found.data[:10] + b"").header.qr == 1
