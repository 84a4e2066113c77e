"""Parsing: what the reference files do not cover, and the places of mistakes."""

from __future__ import annotations

import pytest

from sampan.build.dockerfile.check import check
from sampan.build.dockerfile.lines import shown_lines
from sampan.build.dockerfile.parse import parse
from sampan.build.errors import DockerfileError


def test_instructions_are_found_whatever_their_case() -> None:
    assert [item.keyword for item in parse(b"from a\nRun b\ncMd c\n").instructions] == ["FROM", "RUN", "CMD"]


def test_a_byte_order_mark_and_dos_line_ends_do_not_count() -> None:
    parsed = parse(b"\xef\xbb\xbfFROM a\r\nRUN b \\\r\n  c\r\n")
    assert [item.args for item in parsed.instructions] == [("a",), ("b   c",)]


def test_comments_may_be_in_an_old_encoding() -> None:
    parsed = parse(b"# Gr\xf6\xdfe \0\nFROM a\nRUN b \\\n  # f\xfcr c\n  c\n")
    assert [item.args for item in parsed.instructions] == [("a",), ("b   c",)]
    assert parsed.instructions[0].comments == ("Gr\ufffd\ufffde \ufffd",)


def test_so_may_what_is_for_people() -> None:
    parsed = parse(b"MAINTAINER J\xf6rg\nLABEL a=b \\\n  c=J\xf6rg\n")
    assert [item.args for item in parsed.instructions] == [
        ("J\ufffdrg",),
        ("a", "b", "=", "c", "J\ufffdrg", "="),
    ]


def test_lines_are_shown_under_the_numbers_that_places_have() -> None:
    raw = b"\xef\xbb\xbfFROM a\r\nRUN b\x0c\xe2\x80\xa8\x1c c\r\nFOO\xff\n"
    assert shown_lines(raw) == ["FROM a", "RUN b\x0c\u2028\x1c c", "FOO\ufffd"]
    with pytest.raises(DockerfileError, match="byte 0xff is not UTF-8") as caught:
        parse(raw)
    assert (caught.value.line, caught.value.column) == (3, 4)
    assert caught.value.text == shown_lines(raw)[2]


def test_directives_are_read() -> None:
    parsed = parse(b"# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN x `\ny\n")
    assert (parsed.syntax, parsed.escape) == ("docker/dockerfile:1", "`")
    assert parsed.instructions[1].args == ("x y",)


def test_here_documents_keep_their_lines() -> None:
    run, copy = parse(
        b'RUN <<-"A" cat <<B\n\tone\n\tA\n two $x\nB\nCOPY <<x.txt /d\n# no comment\nx.txt\n'
    ).instructions
    assert [(item.name, item.text, item.expand) for item in run.heredocs] == [
        ("A", "one\n", False),
        ("B", " two $x\n", True),
    ]
    assert copy.heredocs[0].content == "# no comment\n"


def test_arithmetic_shifts_are_no_here_documents() -> None:
    parsed = parse(b"RUN echo $((1<<2)) 'a <<b'\nCMD x\n")
    assert len(parsed.instructions) == 2 and parsed.instructions[0].heredocs == ()


def test_a_mistake_is_shown_with_its_line_and_a_caret() -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(b"FROM a\n\n  FORM b\n")
    error = caught.value
    assert (error.file, error.line, error.column, error.text) == ("Dockerfile", 3, 3, "  FORM b")
    lines = error.message.split("\n")
    assert lines[0] == "dockerfile parse error on line 3: unknown instruction: FORM (did you mean FROM?)"
    assert lines[1] == "Dockerfile:3:3"
    assert lines[2].index("FORM") == lines[3].index("^")
    assert lines[4].startswith("expected: one of ADD, ARG")


def test_a_mistake_in_a_continued_line_names_the_physical_line() -> None:
    instruction = parse(b"FROM a\nCOPY --chown=1 \\\n   # comment\n   --form=b c d\n").instructions[1]
    with pytest.raises(DockerfileError) as caught:
        check(instruction)
    assert (caught.value.line, caught.value.column) == (4, 4)


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (b"RUN <<EOF\nx\n", 1, "unterminated heredoc"),
        (b"ENV a\n", 1, "ENV must have two arguments"),
        (b"ENV a=b c\n", 1, 'can\'t find = in "c"'),
        (b"# escape=x\nFROM a\n", 1, "invalid ESCAPE 'x'"),
        (b"# escape=`\n# escape=`\n", 2, "only one escape parser directive can be used"),
        (b"FROM a\nRUN \xff\n", 2, "not UTF-8"),
        (b"FROM a\nRUN x\0y\n", 2, "NUL"),
        (b"FROM a\nRUN <<E\n# \xff\nE\n", 3, "not UTF-8"),
        (b"# escape=\xff\nFROM a\n", 1, "not UTF-8"),
        (b"FROM a\nCOPY a \\\n  \xff\n", 3, "not UTF-8"),
        (b"LABEL a=b \\\n c=\0\n", 2, "NUL"),
        (b"\n" * 100_001, 1, "more than 100000 lines"),
        (b"#" * (5 << 20), 1, "larger than"),
        (b"COPY --from='x a b\n", 1, "unterminated quote"),
        (b'FROM a\nCMD ["a", 1]\n', 2, "arrays must be comprised of strings only"),
    ],
)
def test_what_can_not_be_read_is_refused(text: bytes, line: int, message: str) -> None:
    with pytest.raises(DockerfileError, match=message) as caught:
        parse(text)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("COPY --user=me a b", "unknown flag: --user"),
        ("COPY --form=a b c", r"unknown flag: --form \(did you mean from\?\)"),
        ("COPY --from a b", "missing a value on flag: from"),
        ("COPY --from=a --from=b c d", "duplicate flag specified: from"),
        ("COPY --link=maybe a b", "expecting boolean value for flag link"),
        ("COPY a", "COPY requires at least two arguments, but only one argument was provided"),
        ("FROM a b", "FROM requires either one or three arguments"),
        ("FROM a like b", "FROM requires either one or three arguments"),
        ("USER", "USER requires exactly one argument"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("SHELL bash -c", "SHELL requires the arguments to be in JSON form"),
        ("RUN []", "RUN requires at least one argument"),
        ("ENV =x", "ENV names can not be blank"),
        ("LABEL a=b =x", "LABEL names can not be blank"),
        ("ARG A =x", "ARG names can not be blank"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("ONBUILD COPY a", "COPY requires at least two arguments"),
        ("ONBUILD", "ONBUILD requires exactly one argument"),
        ("CMD --doit x", "unknown flag: --doit"),
    ],
)
def test_a_wrong_shape_is_refused_in_dockers_words(text: str, message: str) -> None:
    instruction = parse(text.encode()).instructions[0]
    with pytest.raises(DockerfileError, match=message):
        check(instruction)


def test_an_unknown_trigger_is_refused_where_it_stands() -> None:
    with pytest.raises(DockerfileError, match="unknown instruction: FOO") as caught:
        parse(b"FROM a\nONBUILD FOO x\n")
    assert (caught.value.line, caught.value.column) == (2, 9)
