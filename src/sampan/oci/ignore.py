"""`.dockerignore` and the wildcards of Dockerfiles: which paths of a build context do not count.

Pure, and used on both sides: the client leaves these files out of what it sends, the builder out of what
it copies and hashes. Rules: https://docs.docker.com/build/concepts/context/#dockerignore-files; the
wildcards are those of Go's filepath.Match plus `**`. A pattern that matches a directory matches everything
below it; the last pattern that matches decides.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from sampan.errors import Invalid
from sampan.oci.ignore_odd import Chunks, OddPatterns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class _Matcher(Protocol):
        def fullmatch(self, string: str, /) -> object:
            """Something true when it matches `string`, or a directory that it lies in."""
            ...


MAX_PATTERNS = 10_000
MAX_DOUBLE_STARS = 32
_WILD = frozenset("*?[\\")


class IgnoreRules:
    """The rules of one ignore file.

    `keep` names paths that stay in whatever the text says (the client has to send the Dockerfile and
    `.dockerignore` although they may be ignored). Raises `Invalid` for a malformed pattern.
    """

    def __init__(self, text: str | bytes = "", *, keep: Iterable[str] = ()) -> None:
        patterns = parse_patterns(text)
        patterns += [(True, clean_path(path)) for path in keep]
        self.patterns: tuple[tuple[bool, str], ...] = tuple(patterns)
        # From the last group to the first: the first group that matches decides.
        self._groups = [
            (negated, _any_of([pattern for _, pattern in group]))
            for negated, group in groupby(reversed(patterns), key=lambda item: item[0])
        ]
        self._returning = [pattern.split("/") for negated, pattern in patterns if negated]

    def without(self, path: str) -> IgnoreRules:
        """These rules and one more, after them, that leaves `path` out. It has no wildcards in it."""
        rules = IgnoreRules()
        rules.patterns = (*self.patterns, (False, path))
        rules._groups = [(False, _any_of([path])), *self._groups]
        rules._returning = self._returning
        return rules

    def __bool__(self) -> bool:
        return bool(self._groups)

    def excludes(self, path: str, is_dir: bool = False) -> bool:
        """Whether `path` (relative to the context's root, separated by slashes) is ignored.

        `is_dir` makes no difference to Docker's rules (a trailing slash in a pattern is dropped); it is
        accepted so that callers need not care.
        """
        for negated, matcher in self._groups:
            if matcher.fullmatch(path):
                return not negated
        return False

    def deciding(self, path: str) -> str:
        """The pattern by which `path` is ignored; "" when it is not."""
        for negated, pattern in reversed(self.patterns):
            if _any_of([pattern]).fullmatch(path):
                return "" if negated else pattern
        return ""

    def prunes(self, directory: str) -> bool:
        """Whether `directory` and everything below it is ignored, so that nobody needs to look inside."""
        if not self.excludes(directory, True):
            return False
        parts = directory.split("/")
        return not any(_may_match_below(pattern, parts) for pattern in self._returning)


def read_ignore_file(text: bytes, name: str, *, keep: Iterable[str] = ()) -> IgnoreRules:
    """The rules of the ignore file `name`. Raises `Invalid` for a malformed pattern, and says in which line."""
    try:
        return IgnoreRules(text, keep=keep)
    except Invalid as error:
        place = f"{name}:{number}" if (number := _malformed_line(text)) else name
        raise Invalid(f"error reading {place}: {error.message}", hint=error.hint) from error


def _malformed_line(text: bytes) -> int:
    """0 when it is no single line that is wrong."""
    for number, line in enumerate(text.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        try:
            IgnoreRules(line)
        except Invalid:
            return number
    return 0


class PatternLines:
    """Which line of an ignore file decides about a path. Raises `Invalid` for a malformed pattern."""

    def __init__(self, text: bytes) -> None:
        decoded = text.decode("utf-8", "surrogateescape")
        lines = decoded.removeprefix("\ufeff").split("\n")
        self._matchers = [
            (number, lines[number - 1].strip(), _any_of([pattern]))
            for number, _, pattern in reversed(_numbered_patterns(decoded))
        ]

    def deciding(self, path: str) -> tuple[int, str] | None:
        """The last line that matches `path`, with its number from 1; None when none does."""
        for number, line, matcher in self._matchers:
            if matcher.fullmatch(path):
                return number, line
        return None


def parse_patterns(text: str | bytes) -> list[tuple[bool, str]]:
    """The lines of an ignore file as (negated, cleaned pattern).

    A `#` in the first column starts a comment; blanks around a pattern do not count.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return [(negated, pattern) for _, negated, pattern in _numbered_patterns(text)]


def _numbered_patterns(text: str) -> list[tuple[int, bool, str]]:
    """As `parse_patterns`, each with the number of its line, from 1."""
    patterns: list[tuple[int, bool, str]] = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip()
            if not pattern:
                raise Invalid('illegal exclusion pattern: "!"', hint="write the pattern after the `!`")
        patterns.append((number, negated, clean_path(pattern)))
        if len(patterns) > MAX_PATTERNS:
            raise Invalid(f"too many ignore patterns: more than {MAX_PATTERNS}")
    return patterns


def clean_path(path: str) -> str:
    """Go's filepath.Clean, and without a leading slash: patterns count from the context's root."""
    cleaned = posixpath.normpath(path)
    return cleaned.lstrip("/") or "/"


def has_wildcards(pattern: str) -> bool:
    """Whether Docker treats this source as a pattern (`*`, `?`, `[`, or an escaping backslash)."""
    return not _WILD.isdisjoint(pattern)


def compile_match(pattern: str) -> re.Pattern[str]:
    """`pattern` of Go's filepath.Match as a regular expression (for `fullmatch`): `*` and `?` stop at slashes.

    Raises `Invalid` for a malformed pattern.
    """
    return re.compile(_translate(_chunks(pattern, double_star=False)), re.DOTALL)


def _any_of(patterns: Sequence[str]) -> _Matcher:
    plain: dict[str, None] = {}
    odd: list[Chunks] = []
    for pattern in dict.fromkeys(patterns):
        found = _translate_ignore(pattern)
        if isinstance(found, str):
            plain[found] = None
        else:
            odd.append(found)
    regex = re.compile(f"(?:{'|'.join(plain) or '(?!)'})(?:/.*)?", re.DOTALL)
    return _Either(regex, OddPatterns(odd)) if odd else regex


class _Either:
    def __init__(self, *matchers: _Matcher) -> None:
        self._matchers = matchers

    def fullmatch(self, string: str, /) -> object:
        return any(matcher.fullmatch(string) for matcher in self._matchers)


def _translate_ignore(pattern: str) -> str | Chunks:
    """A regular expression, or what the pattern consists of when it is odd.

    `**` matches any number of directories; at the pattern's very start it may end inside a name.
    """
    if pattern == ".":
        return "(?!)"  # the documentation: "for historical reasons, the pattern . is ignored"
    rest = pattern.removeprefix("**")
    if rest != pattern and rest and not rest.startswith("/") and not has_wildcards(rest):
        return ".*" + re.escape(rest)
    chunks = _chunks(pattern, double_star=True)
    return chunks if _is_odd(chunks) else _translate(chunks)


def _is_odd(chunks: Chunks) -> bool:
    """Whether something before the last `**` can end at several places of which one can't be taken for good."""
    inside = [chunk for chunk in chunks[:-1] if chunk and chunk[-1] != "/"]
    return any(chunk is not chunks[0] or "*" in chunk for chunk in inside)


def _translate(chunks: Chunks) -> str:
    """A regular expression that never goes back and forth without end, for chunks that are not odd.

    What stands between two stars is taken at its first occurrence for good (atomic groups), which is right as
    long as something later is anchored; only the last star of a name, and the last `**`, try further.
    """
    regex = _names(chunks[0])
    for index, chunk in enumerate(chunks[1:], 1):
        names = _names(chunk)
        if index == len(chunks) - 1:
            regex += f"(?:.*/)?{names}" if names else ".*"
        else:
            regex += f"(?>(?:.*?/)??{names})"
    return regex


def _chunks(pattern: str, *, double_star: bool) -> list[list[str]]:
    """The parts between `**`s, as tokens: `*`, `/`, or the regular expression of one character."""
    chunks: list[list[str]] = [[]]
    index = 0
    while index < len(pattern):
        char = pattern[index]
        index += 1
        if char == "*":
            if double_star and pattern.startswith("*", index):
                index += 1 + pattern.startswith("/", index + 1)
                if len(chunks) == 1 or chunks[-1]:
                    chunks.append([])  # `**/**` means the same as `**`
                if len(chunks) > MAX_DOUBLE_STARS:
                    raise Invalid(f"more than {MAX_DOUBLE_STARS} `**` in one pattern")
                continue
            chunks[-1].append("*")
            while not double_star and pattern.startswith("*", index):
                index += 1  # several stars in a row mean the same as one
        elif char == "?":
            chunks[-1].append("[^/]")
        elif char == "[":
            index = _char_class(pattern, index, chunks[-1])
        elif char == "\\":
            if index == len(pattern):
                raise _malformed(pattern)
            chunks[-1].append(re.escape(pattern[index]))
            index += 1
        else:
            chunks[-1].append(char if char == "/" else re.escape(char))
    return chunks


def _names(tokens: Sequence[str]) -> str:
    out: list[str] = []
    for is_slash, group in groupby(tokens, key=lambda token: token == "/"):
        if is_slash:
            out += group
            continue
        first, *others = _split_at_stars(list(group))
        out.append(first)
        out += [f"(?>[^/]*?{part})" for part in others[:-1]]
        out += [f"[^/]*{part}" for part in others[-1:]]
    return "".join(out)


def _split_at_stars(tokens: Sequence[str]) -> list[str]:
    parts = [""]
    for token in tokens:
        if token == "*":
            parts.append("")
        else:
            parts[-1] += token
    return parts


def _char_class(pattern: str, index: int, out: list[str]) -> int:
    """`[abc]`, `[a-z]`, `[^a]` with backslash escapes; an empty or unclosed one is malformed."""
    negated = index < len(pattern) and pattern[index] == "^"
    if negated:
        index += 1
    ranges: list[str] = []
    while True:
        if ranges and index < len(pattern) and pattern[index] == "]":
            break
        low, index = _class_char(pattern, index)
        high = low
        if index < len(pattern) and pattern[index] == "-":
            high, index = _class_char(pattern, index + 1)
        if low > high:
            ranges.append("")  # an empty range matches nothing
        else:
            ranges.append(f"{re.escape(low)}-{re.escape(high)}")
    body = "".join(ranges)
    if body:
        out.append(f"[{'^' if negated else ''}{body}]")
    else:
        out.append("." if negated else "(?!)")
    return index + 1


def _class_char(pattern: str, index: int) -> tuple[str, int]:
    if index < len(pattern) and pattern[index] in "-]":
        raise _malformed(pattern)
    if index < len(pattern) and pattern[index] == "\\":
        index += 1
    if index >= len(pattern):
        raise _malformed(pattern)
    return pattern[index], index + 1


def _may_match_below(pattern: Sequence[str], directory: Sequence[str]) -> bool:
    """Whether a pattern could match something below `directory` (or the directory itself)."""
    for part, name in zip(pattern, directory, strict=False):
        if "**" in part:
            return True
        if not compile_match(part).fullmatch(name):
            return False
    return True


def _malformed(pattern: str) -> Invalid:
    return Invalid(f"syntax error in pattern {pattern!r}", hint="an unclosed `[` or a trailing backslash")
