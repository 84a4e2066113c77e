"""Any `.dockerignore` against a plain re-implementation of the documented rules.

The rules, from Docker's documentation of build contexts and Go's filepath.Match: a line that begins with `#` is a
comment; blanks around a pattern do not count, nor do blank lines; filepath.Clean tidies a pattern, and a leading
slash is dropped; the pattern `.` is ignored; `*` and `?` stop at slashes, `[...]` is one character, a backslash
escapes; `**` is any number of directories, also none; a pattern that matches a directory matches what is below it;
`!` makes an exception; the last line that matches decides.
"""

from __future__ import annotations

from functools import cache

from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.oci.ignore import IgnoreRules, PatternLines


def reference_clean(path: str) -> str:
    """Go's filepath.Clean, by its four rules, and without a leading slash."""
    kept: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part == ".." and kept and kept[-1] != "..":
            kept.pop()
        elif part == ".." and path.startswith("/"):
            continue
        else:
            kept.append(part)
    return "/".join(kept) or ("/" if path.startswith("/") else ".")


@cache
def reference_match(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern.startswith("**"):
        rest = pattern[2:].removeprefix("/")
        starts = [0, *(index + 1 for index, char in enumerate(text) if char == "/")]
        return not rest or any(reference_match(rest, text[start:]) for start in starts)
    head, rest = pattern[0], pattern[1:]
    if head == "*":
        name_end = text.find("/") if "/" in text else len(text)
        return any(reference_match(rest, text[count:]) for count in range(name_end + 1))
    if not text:
        return False
    if head == "?":
        return text[0] != "/" and reference_match(rest, text[1:])
    if head == "[":
        inside, _, rest = rest.partition("]")
        members = inside.removeprefix("^")
        found = members[0] <= text[0] <= members[2] if members[1:2] == "-" else text[0] in members
        return found is not inside.startswith("^") and reference_match(rest, text[1:])
    if head == "\\":
        head, rest = rest[0], rest[1:]
    return text[0] == head and reference_match(rest, text[1:])


def reference_deciding(lines: list[str], path: str) -> int | None:
    """The index of the line that decides about `path`."""
    parts = path.split("/")
    above = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    decided = None
    for index, line in enumerate(lines):
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        pattern = reference_clean(pattern.removeprefix("!").strip())
        if pattern != "." and any(reference_match(pattern, name) for name in above):
            decided = index
    return decided


_NAMES = st.sampled_from(["a", "b", "ab", "a.b", "b c", "ü", "*", "#a", "!b"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=5).map("/".join)
_PARTS = st.sampled_from(
    [
        "a",
        "b",
        "ab",
        "*",
        "**",
        "**",
        "?",
        "a*",
        "*b",
        "a?b",
        "*.*",
        "[ab]",
        "[^a]",
        "[a-b]b",
        "\\*",
        "\\a",
        ".",
        "..",
        "",
    ]
    + ["ü", "b c", "#a", "\\!b", "?b", "*a*"]
    + ["a**", "a**b", "*a**", "**a**", "**a**b", "a*b**a", "**?**[ab]**"]
)
_PATTERNS = st.lists(_PARTS, min_size=1, max_size=4).map("/".join)
_LINES = st.one_of(
    _PATTERNS,
    _PATTERNS,
    _PATTERNS.map("/{}".format),
    _PATTERNS.map("!{}".format),
    _PATTERNS.map("! /{}/".format),
    _PATTERNS.map("  {}\t\r".format),
    _PATTERNS.map("#{}".format),
    st.sampled_from(["", "   ", "# a comment", ".", "!.", "/", "**", "*", "!**/b"]),
)
_FILES = st.lists(_LINES, max_size=6).filter(lambda lines: not any(line.strip() == "!" for line in lines))


@settings(max_examples=400, deadline=None)
@given(_FILES, st.lists(_PATHS, min_size=1, max_size=12))
def test_every_path_is_decided_by_the_line_that_the_rules_name(lines: list[str], paths: list[str]) -> None:
    text = "\n".join(lines)
    rules, by_line = IgnoreRules(text), PatternLines(text.encode())
    for path in paths:
        index = reference_deciding(lines, path)
        deciding = by_line.deciding(path)
        assert (deciding and deciding[0] - 1) == index, path
        assert rules.excludes(path) is (index is not None and not lines[index].strip().startswith("!")), path


@settings(max_examples=400, deadline=None)
@given(_FILES, st.lists(_PATHS, min_size=1, max_size=12))
def test_pruning_never_loses_a_file_that_comes_back(lines: list[str], paths: list[str]) -> None:
    rules = IgnoreRules("\n".join(lines))
    for path in paths:
        parts = path.split("/")
        above = ["/".join(parts[:count]) for count in range(1, len(parts))]
        if not rules.excludes(path):
            assert not any(rules.prunes(directory) for directory in above), path
