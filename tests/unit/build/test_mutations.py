"""A thousand damaged Dockerfiles: each is checked, planned and applied, or refused with a place inside the file."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.instructions import apply
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.build.dockerfile.state import ArgScope, initial_state
from sampan.build.errors import DockerfileError
from sampan.build.model import Dockerfile
from sampan.build.rules.check import check_text
from sampan.build.rules.subject import Subject
from sampan.errors import SampanError
from sampan.oci.image import ContainerDefaults

REFERENCE = Path(__file__).parents[3].parent / "shared" / "reference" / "dockerfile"
CASES = 1000
BATCH = 100

_BUILT_IN = (
    rb"""# syntax=docker/dockerfile:1
# escape=\
ARG TAG=3.12 VARIANT="slim"
FROM --platform=$BUILDPLATFORM python:${TAG}-${VARIANT:-slim} AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src/$TAG
COPY --chown=1:1 --chmod=755 --parents --exclude=*.md ./a/./b/*.txt requirements.txt ./
RUN --mount=type=cache,target=/root/.cache,sharing=locked --mount=type=bind,source=.,target=/ctx,rw \
    # a comment in the middle
    pip install -r requirements.txt && \

    true
FROM build AS test
ARG TARGETARCH TARGETSTAGE
RUN --network=none --security=sandbox <<-'EOF'
	#!/usr/bin/env python3
	print("$HOME")
	EOF
FROM scratch
COPY --link --from=build /src /app
HEALTHCHECK --interval=30s --timeout=1m30s --retries=3 CMD ["/app/check", "--fast"]
LABEL org.example.a="b c" d='e f' g=h\ i
ENTRYPOINT ["/app/run"]
CMD help
""",
    rb"""FROM debian:stable@sha256:0000000000000000000000000000000000000000000000000000000000000000
ENV A=1 B="${A:+x}" C=${B%%.*} D=${B/a/b} E='$F'
ENV OLD the whole rest of the line
EXPOSE 80 443/tcp 8000-8010/udp $A
VOLUME ["/data", "/more data"]
VOLUME /a /b
USER 1000:1000
STOPSIGNAL SIGRTMIN+3
MAINTAINER Somebody <somebody@example.com>
ONBUILD ADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d https://e.com/x /x
ONBUILD RUN echo $A
ADD --keep-git-dir=true --unpack=false https://example.com/user/repo.git#v1:docs /docs/
COPY <<one <<"two" /dest/
first $A
one
second $A
two
COPY ["with space", "/dest dir/"]
RUN --mount=type=tmpfs,target=/t,size=1g make
""",
    b"# escape=`\r\nFROM a`\r\n  AS b\r\nCOPY c:`\r\n d:\\e\r\nRUN dir c:\\ && `\r\n  echo ```r\r\n",
    '\ufeff#!/usr/bin/env sampan\n#check=skip=all;error=true\nFROM a\nENV 한국어=값 Y=$한국어\nRUN ["é"]\n'.encode(),
)

_TOKENS = (
    *b"FROM RUN COPY ADD ENV ARG CMD LABEL USER EXPOSE VOLUME WORKDIR ONBUILD SHELL STOPSIGNAL".split(),
    *b"HEALTHCHECK ENTRYPOINT MAINTAINER AS scratch NONE --from=0 --from=9 --chmod=+x --platform=a/b/c".split(),
    *b"--mount=type=cache --mount=a=b,,c --interval=1h1 --retries=99999999999999999999 --exclude=[".split(),
    *b"$ ${ } ${x ${x:-${y:-z}} ${x##*} ${x%%?} ${x//a/} ${x/\\//} ${x:?} ${:} $1 $@ \\ ` ' \" [ ] , = #".split(),
    *b'<<EOF <<-EOF <<\'EOF\' 3<<EOF \\\\ [] ["a"] ["a",1] [null] ["\\ud800"] {} -- --- --= --x -1'.split(),
    *b"0-65535 65535-0 99999 /./ ../.. http:// git@h:p#r:s https://h/p.git?ref= \xff\xfe \x00".split(),
    *(b"<< EOF", b"  ", b"\t", b"\n", b"\r\n", b"\r", b"\n\n", b"\\\n", b"\\\n#\n", b"# escape=`\n"),
    *(b"\x0b", b"\x1c", b"\xc2\x85", b"\xc2\xa0", b"\xe2\x80\xa8", b"\xed\xa0\x80"),
)


def _corpus() -> list[bytes]:
    files = sorted(REFERENCE.glob("testfiles*/*/Dockerfile")) if REFERENCE.is_dir() else []
    return [*_BUILT_IN, *(path.read_bytes() for path in files)]


def _cut(text: bytes, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(text) + 1)
    return start, min(len(text), start + rng.choice((1, 1, 2, 5, 20, 200)))


def _insert(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    start, _ = _cut(text, rng)
    blank = rng.choice((b"", b" "))
    return text[:start] + blank + rng.choice(_TOKENS) + blank + text[start:]


def _delete(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    start, end = _cut(text, rng)
    return text[:start] + text[end:]


def _repeat(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    start, end = _cut(text, rng)
    return text[:start] + text[start:end] * rng.choice((2, 3, 50, 500)) + text[end:]


def _flip(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    start, end = _cut(text, rng)
    return text[:start] + bytes(rng.randrange(256) for _ in text[start:end][:3]) + text[start:][3:]


def _swap_lines(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    lines = text.split(b"\n")
    one, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def _splice(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """The beginning of one file and the end of another."""
    other = rng.choice(corpus)
    return text[: rng.randrange(len(text) + 1)] + other[rng.randrange(len(other) + 1) :]


def _rekey(text: bytes, rng: random.Random, corpus: list[bytes]) -> bytes:
    """Another instruction before the same arguments."""
    lines = text.split(b"\n")
    number = rng.randrange(len(lines))
    words = lines[number].split(b" ")
    words[0] = rng.choice(_TOKENS[:18])
    lines[number] = b" ".join(words)
    return b"\n".join(lines)


_MUTATIONS: tuple[Callable[[bytes, random.Random, list[bytes]], bytes], ...] = (
    _insert,
    _insert,
    _insert,
    _delete,
    _repeat,
    _flip,
    _swap_lines,
    _splice,
    _rekey,
    _rekey,
)


def _mutated(seed: int, count: int) -> Iterator[bytes]:
    rng = random.Random(seed)
    corpus = _corpus()
    for _ in range(count):
        text = rng.choice(corpus)
        for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
            text = rng.choice(_MUTATIONS)(text, rng, corpus)[: 256 << 10]
        yield text


def _understand(text: bytes) -> str:
    """Everything that is done with a Dockerfile before anything is built; what came out, as text."""
    seen: list[str] = []
    parsed = parse(text)
    for instruction in parsed.instructions:
        check(instruction)
    planned = plan(parsed, build_args={"TAG": "1", "x": None})
    scope = ArgScope({"TAG": "1"}, planned.global_args, planned.platform_args)
    for stage in planned.every_stage.values():
        state = initial_state(ContainerDefaults(env=("x=abcabc",)), scope, planned.escape)
        for instruction in stage.instructions:
            applied = apply(state, instruction)
            state = applied.state
            seen.append(f"{applied.history} {applied.operation}")
        seen.append(str(state.config))
    return "\n".join(seen)


@pytest.mark.parametrize("batch", range(CASES // BATCH))
def test_a_damaged_dockerfile_is_understood_or_refused_at_its_place(batch: int) -> None:
    refused = 0
    for text in _mutated(batch, BATCH):
        report = check_text(text, Subject(Dockerfile(())))
        assert all(1 <= item.first <= item.last <= text.count(b"\n") + 2 for item in report.findings), text
        try:
            _understand(text).encode("utf-8")
        except DockerfileError as error:
            refused += 1
            assert error.message.encode("utf-8"), text
            assert error.file == "Dockerfile", text
            assert 1 <= error.line <= text.count(b"\n") + 1, text
            assert error.column >= 1, text
        except SampanError as error:
            raise AssertionError(f"{error.kind} without a place: {error} in {text!r}") from error
        except Exception as error:
            raise AssertionError(f"{error!r} in {text[:4000]!r}") from error
    # Damage that is never noticed, or a parser that refuses everything, would both say that this test is blind.
    assert BATCH // 5 < refused < BATCH


@pytest.mark.parametrize("text", _BUILT_IN)
def test_the_undamaged_files_are_understood(text: bytes) -> None:
    assert _understand(text)


_SLOW = (
    b"FROM a\nENV x=" + b"\\ " * 100_000 + b"\n",
    b"FROM a\n" + b"RUN " + b"\\\n" * 90_000,
    b"FROM a\n" + b" \t" * 200_000 + b"x\n",
    b"FROM a\nCOPY " + b"<<-" * 100_000 + b" /\n",
    b"FROM a\nRUN " + b"<<'" * 100_000 + b"\n",
    b"FROM a\nRUN <<" + b" " * 300_000 + b"\n",
    b"FROM a\nRUN " + b"1" * 300_000 + b"<\n",
    b"FROM a\nRUN " + b"<<x" * 100_000 + b"\n" + b"x\n" * 90_000,
    b"FROM a\nEXPOSE " + b"1-" * 100_000 + b"\n",
    b"FROM a\nEXPOSE " + b"1-65535 " * 10_000 + b"\n",
    b"FROM a\nSTOPSIGNAL RTMIN+" + b"1" * 100_000 + b"\n",
    b"FROM a\nHEALTHCHECK --interval=" + b"1" * 100_000 + b" CMD x\n",
    b"FROM a\nHEALTHCHECK --interval=" + b".1h" * 50_000 + b" CMD x\n",
    b"FROM a\nRUN --mount=" + b"a=b," * 100_000 + b" x\n",
    b"FROM a\nCMD " + b"[" * 200_000 + b"\n",
    b"FROM a\nCMD [" + b"1" * 200_000 + b"]\n",
    b"FROM a\nCOPY --chmod=" + b"u+x," * 100_000 + b" a b\n",
    b"FROM " + b"a" * 500_000 + b" AS " + b"b" * 400_000 + b"!\n",
    b"#" + b" " * 300_000 + b"escape" + b" " * 300_000 + b"\nFROM a\n",
    b"# syntax=" + b" x" * 300_000 + b" \nFROM a\n",
    b"x" * 500_000 + b"\n",
    b"\n" * 99_000 + b"FROM\n",
    b"FROM a\nENV x=" + b"${x:-" * 100_000 + b"\n",
    b"FROM a\nLABEL x=" + b"${x%" + b"*a" * 400 + b"b}\n",
    b"FROM a\n" + b"ENV a=b\n" * 30_000,
    b"FROM a\n" + b"ARG a=b\n" * 30_000,
    b"FROM a\n" + b"EXPOSE 1-65535\n" * 1_000,
    b"FROM a\n" + b"ONBUILD RUN x\n" * 20_000,
)


@pytest.mark.parametrize("text", _SLOW, ids=range(len(_SLOW)))
def test_a_dockerfile_made_to_be_slow_ends_soon(text: bytes) -> None:
    # pytest's time-out is the watch: each takes a moment, and with a regex that goes back and forth, years.
    try:
        assert _understand(text)
    except DockerfileError as error:
        assert 1 <= error.line <= text.count(b"\n") + 1
