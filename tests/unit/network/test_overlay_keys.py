"""Keys of encrypted overlay networks, and signatures between a keeper and its clients."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from sampan.errors import Denied, Invalid, Unavailable
from sampan.linux.netlink_xfrm import IN, OUT
from sampan.network.overlay import signing
from sampan.network.overlay.encryption import EPOCH_SECONDS, Station, association, protection, reqid_of
from sampan.network.overlay.http import Answer
from sampan.network.overlay.signing import SKEW_SECONDS, Checker, OtherKeeper, SharedSecret, read_secret

A = Station("a" * 32, "192.0.2.1", "1" * 32)
B = Station("b" * 32, "192.0.2.2", "2" * 32)
SECRET = b"of sixteen characters and more"
NOW = 100 * EPOCH_SECONDS + 5.0


def test_both_hosts_derive_what_one_sends_and_the_other_understands() -> None:
    for late in (0, EPOCH_SECONDS - 10):  # a clock may be nearly an epoch off
        one = protection(SECRET, A, [B], NOW, 1)
        two = protection(SECRET, B, [A], NOW + late, 2)
        for here, there, source in ((one, two, A), (two, one, B)):
            sent = [each for each in here.associations if each.source == source.address]
            known = [(each.spi, each.key) for each in there.associations if each.source == source.address]
            assert len(sent) == 1 and (sent[0].spi, sent[0].key) in known


def test_no_two_keys_are_the_same() -> None:
    stations = [A, B, Station("c" * 32, "192.0.2.3", "3" * 32), Station(B.id, B.address, "4" * 32)]
    made = [
        association(secret, sender, receiver, epoch, 1)
        for sender, receiver in itertools.permutations(stations, 2)
        for epoch in (7, 8)
        for secret in (SECRET, b"another")
    ]
    assert len({one.key for one in made}) == len({one.spi for one in made}) == len(made)
    # AES-256 and the salt of RFC 4106; numbers that RFC 4303 leaves to us.
    assert all(len(one.key) == 32 + 4 and 0xFF < one.spi < 1 << 32 for one in made)


def test_there_is_a_policy_for_each_way_between_each_two_hosts() -> None:
    made = protection(SECRET, A, [B], NOW, 1)
    assert {(one.source, one.destination, one.direction, one.port) for one in made.policies} == {
        ("192.0.2.1", "192.0.2.2", OUT, 4788),
        ("192.0.2.2", "192.0.2.1", IN, 4788),
    }
    assert protection(SECRET, A, [], NOW, 1).policies == ()
    assert reqid_of("sampan0") != reqid_of("sampan1")


def ask(
    client: SharedSecret, path: str = "/v3/kv/range", body: bytes = b"{}"
) -> tuple[str, dict[str, str], bytes]:
    return path, client.sign(path, body), body


def introduce(client: SharedSecret, keeper: Checker) -> None:
    """What happens with the first request."""
    path, fields, body = ask(client)
    with pytest.raises(OtherKeeper) as raised:
        keeper.check(path, fields, body)
    told = json.dumps({"keeper": keeper.name}).encode()
    name, signature = keeper.answer(raised.value.nonce, told)
    with pytest.raises(Unavailable, match="not signed"):
        client.renewed(fields, Answer(409, {name: "0" * 64}, told))
    assert not client.renewed(fields, Answer(403, {name: signature}, told))
    assert client.renewed(fields, Answer(409, {name: signature}, told))


def test_what_was_signed_for_a_keeper_is_nothing_to_the_next_one() -> None:
    """Which does not know what the first one has seen."""
    client, keeper, after = SharedSecret(SECRET), Checker(SECRET), Checker(SECRET)
    introduce(client, keeper)
    recorded = ask(client)
    keeper.check(*recorded)
    with pytest.raises(OtherKeeper):
        after.check(*recorded)
    introduce(client, after)
    after.check(*ask(client))
    path, fields, body = recorded
    with pytest.raises(Denied, match="not signed"):
        after.check(path, {**fields, "x-sampan-keeper": after.name}, body)


def test_a_signature_that_is_no_ascii_is_a_wrong_one() -> None:
    client, keeper = SharedSecret(SECRET), Checker(SECRET)
    path, fields, body = ask(client)
    with pytest.raises(Denied, match="not signed"):
        keeper.check(path, {**fields, "x-sampan-signature": "\xe9"}, body)
    with pytest.raises(Unavailable, match="not signed"):
        client.check(fields, Answer(200, {"x-sampan-signature": "\xe9"}, body))
    with pytest.raises(Unavailable, match="not signed"):
        client.line(fields, 1, b"\xe9 {}")


def test_a_request_counts_once_and_only_as_it_was_signed() -> None:
    client, keeper = SharedSecret(SECRET), Checker(SECRET)
    introduce(client, keeper)
    path, fields, body = ask(client)
    nonce = keeper.check(path, fields, body)
    with pytest.raises(Denied, match="was sent before"):
        keeper.check(path, fields, body)
    for changed in (
        ("/v3/kv/txn", fields, body),
        (path, fields, b"[]"),
        (path, {**fields, "x-sampan-time": "1"}, body),
    ):
        with pytest.raises(Denied, match="not signed"):
            keeper.check(*changed)
    with pytest.raises(Denied, match="not signed"):
        keeper.check(*ask(SharedSecret(b"another secret of the same length")))
    with pytest.raises(Denied, match="not signed"):
        keeper.check(path, {}, body)

    name, signature = keeper.answer(nonce, b"answer")
    client.check(fields, Answer(200, {name: signature}, b"answer"))
    _, other, _ = ask(client)
    for wrong in (Answer(200, {name: signature}, b"other"), Answer(200, {}, b"answer")):
        with pytest.raises(Unavailable, match="not signed"):
            client.check(fields, wrong)
    with pytest.raises(Unavailable, match="not signed"):
        client.check(other, Answer(200, {name: signature}, b"answer"))

    line = keeper.line(nonce, 1, b"{}").rstrip(b"\n")
    assert client.line(fields, 1, line) == b"{}"
    with pytest.raises(Unavailable, match="not signed"):
        client.line(fields, 2, line)


def test_a_request_of_another_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client, keeper = SharedSecret(SECRET), Checker(SECRET)
    then = 1_000_000.0
    monkeypatch.setattr(signing.time, "time", lambda: then)
    old = ask(client)
    monkeypatch.setattr(signing.time, "time", lambda: then + SKEW_SECONDS + 1)
    with pytest.raises(Denied, match="clocks"):
        keeper.check(*old)


def test_a_secret_is_long_enough_and_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "short").write_text("too short\n")
    (tmp_path / "good").write_text("  of sixteen characters and more\n")
    assert read_secret(tmp_path / "good") == SECRET
    for name, words in (("short", "too short"), ("none", "No such file")):
        with pytest.raises(Invalid, match=words):
            read_secret(tmp_path / name)
