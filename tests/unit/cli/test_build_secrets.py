"""`--secret`, by buildx's rules (util/buildflags/secrets.go, buildkit's secretsprovider/store.go)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.cli.build.agents import Agents
from sampan.cli.build.secrets import MAX_SECRET, parse_secret, secret_offers
from sampan.errors import Invalid, NotFound, SampanError
from sampan.multiplex.link import Link, Stream


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("id=a,src=/f", ("a", "/f", "")),
        ("id=a,source=/f,type=file", ("a", "/f", "")),
        ("type=env,id=a,src=NAME", ("a", "", "NAME")),
        ("id=a,env=NAME", ("a", "", "NAME")),
        ("ID=only_a_variable", ("only_a_variable", "", "only_a_variable")),
        ("id=no-variable", ("no-variable", "no-variable", "")),
        ('id=a,"src=/with,comma"', ("a", "/with,comma", "")),
    ],
)
def test_a_secret_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, text: str, found: tuple[str, str, str]
) -> None:
    monkeypatch.setenv("only_a_variable", "x")
    secret = parse_secret(text)
    assert (secret.id, secret.path, secret.env) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("src=/f", "secret missing ID"),
        ("id", "invalid field 'id' must be a key=value pair"),
        ("id=a,type=vault", 'unsupported secret type "vault"'),
        ("id=a,mode=4", "unexpected key 'mode' in 'mode=4'"),
        ('id=a,"src=/x', "failed to parse csv secret"),
    ],
)
def test_a_secret_that_makes_no_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(Invalid, match=words):
        parse_secret(text)


def test_a_file_that_is_missing_or_too_large_is_told_before_the_build(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"failed to stat {tmp_path}/none: stat {tmp_path}/none: no such file"):
        secret_offers([f"id=a,src={tmp_path}/none"])
    (tmp_path / "large").write_bytes(bytes(MAX_SECRET + 1))
    with pytest.raises(Invalid, match=r"secret a too big\. max size 500KB"):
        secret_offers([f"id=a,src={tmp_path}/large"])


Ask = Callable[[Callable[[Stream], None]], Stream]


@pytest.fixture
def ask() -> Iterator[Ask]:
    """What the engine reads and writes when this client serves a stream by a function."""
    links: list[Link] = []

    def begin(serve: Callable[[Stream], None]) -> Stream:
        ours, theirs = socket.socketpair()
        links.append(Link(theirs, name="the engine", accept=lambda stream, _: serve(stream)))
        links.append(Link(ours, name="the client"))
        return links[-1].open(b"")

    yield begin
    for link in links:
        link.close()


def test_a_secret_is_read_when_a_step_asks_for_it(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"old")
    offers = secret_offers([f"id=file,src={file}", "id=variable,env=SAMPAN_TEST", "id=unset,env=SAMPAN_NONE"])
    file.write_bytes(b"new\xff\0")
    monkeypatch.setenv("SAMPAN_TEST", "value")
    assert ask(offers["secret", "file"]).read_all(100) == b"new\xff\0"
    assert ask(offers["secret", "variable"]).read_all(100) == b"value"
    assert ask(offers["secret", "unset"]).read_all(100) == b""
    file.unlink()
    with pytest.raises(SampanError, match=r"secret file: open .*/token: no such file or directory"):
        ask(offers["secret", "file"]).read()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[tuple[str, list[bytes]]]:
    """A socket that answers every message with an empty success, and what it was sent."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listener:
        path = str(tmp_path / "agent")
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while data := connection.recv(4096):
                    heard.append(data)
                    connection.sendall(b"\0\0\0\1\6")

        thread = threading.Thread(target=serve)
        thread.start()
        yield path, heard
        thread.join()


def test_only_questions_that_change_nothing_reach_the_agent(ask: Ask, agent: tuple[str, list[bytes]]) -> None:
    path, heard = agent
    listing, signing, adding, locking = b"\0\0\0\1\x0b", b"\0\0\0\3\x0dxy", b"\0\0\0\2\x11k", b"\0\0\0\1\x16"
    with Agents([f"work={path}"]) as agents:
        stream = ask(agents.offers()["ssh", "work"])
        for question, answer in ((listing, 6), (adding, 5), (signing, 6), (locking, 5)):
            stream.write(question[:3])
            stream.write(question[3:])
            got = b""
            while len(got) < 5:
                got += stream.read(5 - len(got))
            assert got == b"\0\0\0\1" + bytes([answer])
        stream.end()
        assert stream.read() == b""
    assert heard == [listing, signing]


@pytest.mark.parametrize("nonsense", [b"\0\0\0\0", b"\xff\xff\xff\xff", b"GET / HTTP"])
def test_what_is_no_message_for_an_agent_ends_the_connection(
    ask: Ask, agent: tuple[str, list[bytes]], nonsense: bytes
) -> None:
    path, heard = agent
    with Agents([f"={path}"]) as agents:
        stream = ask(agents.offers()["ssh", "default"])
        stream.write(nonsense)
        with pytest.raises(Invalid, match="no message"):
            stream.read()
    assert heard == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a=/dev/null", "a=/dev/null"], "failed to parse key"),
        (["default"], "make sure SSH_AUTH_SOCK is set"),
    ],
)
def test_agents_that_can_not_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, values: list[str], words: str
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    with pytest.raises(Invalid, match=words):
        Agents(values)
