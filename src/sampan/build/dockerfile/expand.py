"""Words of a Dockerfile: quotes, escapes and variables, as in a shell but without anything else of one.

Checked against the tables of Docker's own tests. Forms: `$x ${x} ${x:-y} ${x-y} ${x:+y} ${x+y} ${x:?e}
${x?e} ${x#p} ${x##p} ${x%p} ${x%%p} ${x/a/b} ${x//a/b}`. Errors are `Invalid`; the caller knows the place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from sampan.errors import Invalid

MAX_RESULT = 1 << 20
"""Characters: `${a/x/yy}` in a chain must not grow without end."""
MAX_PATTERN_VALUE = 16 << 10
MAX_DEPTH = 64
_LONGEST_NAME = 4096

_SPECIAL = frozenset("@*#?-$!")
_NAME = re.compile(r"[^\W\d]\w*|\d+")


@dataclass(slots=True)
class Expansion:
    """What came out of a word: the text, the words it falls into, and the variables it looked at."""

    text: str
    words: list[str]
    used: set[str] = field(default_factory=set)
    unset: set[str] = field(default_factory=set)


def expand(text: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """`text` with quotes removed and variables replaced, as one word."""
    return process(text, env, escape).text


def expand_heredoc(text: str, env: Mapping[str, str], escape: str = "\\") -> str:
    """The content of a here-document: variables are replaced, escapes removed, quotes stay."""
    return process(text, env, escape, keep_quotes=True).text


def unquoted_words(text: str, escape: str = "\\") -> list[str]:
    """The words without quotes and escapes; variables are left as they are written."""
    return process(text, {}, escape, keep_variables=True).words


def process(
    text: str,
    env: Mapping[str, str],
    escape: str = "\\",
    *,
    keep_quotes: bool = False,
    keep_variables: bool = False,
) -> Expansion:
    """Raises `Invalid`: an unfinished quote or substitution, an unknown modifier, a `${x:?}` that fails."""
    lexer = _Lexer(text, env, escape, keep_quotes, keep_variables)
    result = lexer.word("")
    lexer.collected.finish()
    return Expansion(result, lexer.collected.words, lexer.used, lexer.unset)


class _Words:
    """Collects words: blanks of raw text and of unquoted variables separate, quoted ones do not. None is empty."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._current: list[str] = []

    def add(self, text: str) -> None:
        if not text:
            return
        words = text.split()
        if text[0].isspace():
            self.finish()
        for number, word in enumerate(words):
            if number:
                self.finish()
            self.literal(word)
        if text[-1].isspace():
            self.finish()

    def literal(self, text: str) -> None:
        if text:
            self._current.append(text)

    def finish(self) -> None:
        if self._current:
            self.words.append("".join(self._current))
        self._current = []


class _Lexer:
    def __init__(
        self, text: str, env: Mapping[str, str], escape: str, keep_quotes: bool, keep_variables: bool
    ) -> None:
        self.text = text
        self.position = 0
        self.env = env
        self.escape = escape
        self.keep_quotes = keep_quotes
        self.keep_variables = keep_variables
        self.collected = _Words()
        self.used: set[str] = set()
        self.unset: set[str] = set()
        self.depth = 0
        self.inserted = 0
        self.raw = False

    def peek(self) -> str:
        return self.text[self.position] if self.position < len(self.text) else ""

    def next(self) -> str:
        char = self.peek()
        self.position += 1
        return char

    def word(self, stop: str, collect: bool = True, raw: bool = False) -> str:
        """Up to the character `stop` (which is consumed), or to the end when `stop` is empty.

        `raw` keeps the escape characters: patterns have their own use for them.
        """
        outer, self.raw = self.raw, raw
        try:
            return self._word(stop, collect)
        finally:
            self.raw = outer

    def _word(self, stop: str, collect: bool) -> str:
        out: list[str] = []
        while char := self.peek():
            if stop and char == stop:
                self.next()
                return "".join(out)
            if char == "'" and not self.keep_quotes:
                self._quoted(out, self._single(), collect)
            elif char == '"' and not self.keep_quotes:
                self._quoted(out, self._double(), collect)
            elif char == "$" and not self.keep_variables:
                value = self._dollar()
                out.append(value)
                if collect:
                    self.collected.add(value)
            else:
                self._plain(out, collect)
        if stop:
            raise Invalid(f"unexpected end of statement while looking for matching {stop}")
        return "".join(out)

    def _quoted(self, out: list[str], value: str, collect: bool) -> None:
        out.append(value)
        if collect:
            self.collected.literal(value)

    def _plain(self, out: list[str], collect: bool) -> None:
        char = self.next()
        if char != self.escape:
            out.append(char)
            if collect:
                self.collected.add(char)
            return
        literal = (char if self.raw else "") + self.next()
        out.append(literal)
        if collect and literal:
            self.collected.literal(literal)

    def _single(self) -> str:
        """Everything counts as it is until the next single quote."""
        self.next()
        end = self.text.find("'", self.position)
        if end < 0:
            raise Invalid("unexpected end of statement while looking for matching single-quote")
        value = self.text[self.position : end]
        self.position = end + 1
        return value

    def _double(self) -> str:
        """Variables are replaced; an escape counts before `"`, `$` and itself only."""
        self.next()
        out: list[str] = []
        while char := self.peek():
            if char == '"':
                self.next()
                return "".join(out)
            if char == "$" and not self.keep_variables:
                out.append(self._dollar())
                continue
            self.next()
            if char == self.escape and self.peek() and self.peek() in ('"', "$", self.escape):
                char = (char if self.raw else "") + self.next()
            elif char == self.escape and self.raw:
                char += char  # BuildKit's: it stands for itself, in a pattern too
            out.append(char)
        raise Invalid("unexpected end of statement while looking for matching double-quote")

    def _dollar(self) -> str:
        self.next()
        if self.peek() == "{":
            self.next()
            return self._braces()
        name = self._name()
        if not name:
            return "$"
        return self._value(name) or ""

    def _name(self) -> str:
        """A variable's name, all digits of a positional one, or one special character."""
        match = _NAME.match(self.text, self.position, self.position + _LONGEST_NAME)
        if match:
            self.position = match.end()
            return match[0]
        return self.next() if self.peek() in _SPECIAL else ""

    def _value(self, name: str) -> str | None:
        value = self.env.get(name)
        self.inserted += len(value or "")
        if self.inserted > MAX_RESULT:
            raise Invalid(f"variables in one word add up to more than {MAX_RESULT} characters")
        (self.unset if value is None else self.used).add(name)
        return value

    def _braces(self) -> str:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Invalid(f"variable substitutions are nested deeper than {MAX_DEPTH}")
        char = self.peek()
        if not char:
            raise Invalid("syntax error: missing '}'")
        if char in "{}:":
            raise Invalid("syntax error: bad substitution")
        name = self._name()
        if not name:
            raise Invalid("syntax error: bad substitution")
        result = self._modified(name)
        self.depth -= 1
        if len(result) > MAX_RESULT:
            raise Invalid(f"the value of ${{{name}...}} is longer than {MAX_RESULT} characters")
        return result

    def _modified(self, name: str) -> str:
        char = self.next()
        if char == "}":
            return self._value(name) or ""
        if not char:
            raise Invalid("syntax error: missing '}'")
        if char == ":":
            modifier = self.next()
            if modifier not in ("-", "+", "?"):
                raise Invalid(f"unsupported modifier ({modifier}) in substitution")
            return self._conditional(name, modifier, empty_counts_as_unset=True)
        if char in "-+?":
            return self._conditional(name, char, empty_counts_as_unset=False)
        if char in "#%":
            return self._trimmed(name, char)
        if char == "/":
            return self._replaced(name)
        raise Invalid(f"unsupported modifier ({char}) in substitution")

    def _conditional(self, name: str, modifier: str, *, empty_counts_as_unset: bool) -> str:
        value = self._value(name)
        present = bool(value) if empty_counts_as_unset else value is not None
        word = self.word("}", collect=False)
        if modifier == "+":
            return word if present else ""
        if present:
            return value or ""
        if modifier == "-":
            return word
        reason = "is not allowed to be unset" if value is None else "is not allowed to be empty"
        raise Invalid(f"{name}: {word or reason}")

    def _trimmed(self, name: str, char: str) -> str:
        longest = self.peek() == char
        if longest:
            self.next()
        value = self._value(name) or ""
        tokens = self._pattern(value, "}")
        return _trim_suffix(value, tokens, longest) if char == "%" else _trim_prefix(value, tokens, longest)

    def _replaced(self, name: str) -> str:
        everywhere = self.peek() == "/"
        if everywhere:
            self.next()
        value = self._value(name) or ""
        tokens = self._pattern(value, "/")
        replacement = self.word("}", collect=False, raw=True)
        if everywhere and (len(value) + 1) * len(replacement) > MAX_RESULT * 16:
            raise Invalid(f"the value of ${{{name}//...}} could become too long")
        return _replace(value, tokens, replacement, everywhere=everywhere)

    def _pattern(self, value: str, stop: str) -> list[str]:
        tokens = _tokens(self.word(stop, collect=False, raw=True))
        if len(tokens) > MAX_PATTERN_VALUE:
            raise Invalid(f"a pattern of more than {MAX_PATTERN_VALUE} characters matches nothing")
        if len(value) > MAX_PATTERN_VALUE:
            raise Invalid(
                f"a value of more than {MAX_PATTERN_VALUE} characters can't be matched by a pattern"
            )
        return tokens


def _tokens(pattern: str) -> list[str]:
    """`*` and `?` as they are; anything else as a regular expression for one character, escapes removed.

    The escape is a backslash whatever the `escape` directive says. Raises `Invalid` before any other character.
    """
    found: list[str] = []
    characters = iter(pattern)
    for char in characters:
        if char in "*?":
            found.append(char)
            continue
        if char == "\\":
            char = next(characters, "")
            if not char or char not in "*?\\}/":
                raise Invalid(f"invalid pattern ({pattern}) in substitution: invalid escape '\\{char}'")
        found.append(re.escape(char))
    return found


def _glob(tokens: list[str], *, longest: bool) -> re.Pattern[str]:
    """Only `*` and `?` are special; slashes are like any character here.

    The text between two stars is taken at its first occurrence, for good (an atomic group): that is always
    right, and no pattern can make the match go back and forth without end.
    """
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token == "*":
            parts.append([])
        else:
            parts[-1].append("." if token == "?" else token)
    first, *others = ["".join(part) for part in parts]
    regex = first
    for index, part in enumerate(others):
        last = index == len(others) - 1
        regex += f".*{part}" if last and longest else f"(?>.*?{part})"
    return re.compile(regex, re.DOTALL)


def _replace(value: str, tokens: list[str], replacement: str, *, everywhere: bool) -> str:
    """As Go and shells do it: right behind a match there is no empty one (`${x//*/y}` is one `y`)."""
    regex = _glob(tokens, longest=True)
    parts: list[str] = []
    end, behind = 0, -1
    for match in _found(regex, value, tokens):
        if match.end() > behind:
            parts += (value[end : match.start()], replacement)
        end = behind = match.end()
        if not everywhere:
            break
    return "".join(parts) + value[end:]


def _found(regex: re.Pattern[str], value: str, tokens: list[str]) -> Iterator[re.Match[str]]:
    """What `finditer` gives, in a time that does not grow with the cube of the text."""
    if all(token == "*" for token in tokens):
        yield from regex.finditer(value)  # it may match nothing at all, and does wherever it is tried
        return
    stars = [index for index, token in enumerate(tokens) if token == "*"]
    first = _glob(tokens[: stars[0]] if stars else tokens, longest=True)
    position = 0
    # When no match begins at the first place where one could, then none does at a later place: less follows there.
    while (begin := first.search(value, position)) and (match := regex.match(value, begin.start())):
        yield match
        position = match.end()


def _trim_prefix(value: str, tokens: list[str], longest: bool) -> str:
    match = _glob(tokens, longest=longest).match(value)
    return value[match.end() :] if match else value


def _trim_suffix(value: str, tokens: list[str], longest: bool) -> str:
    """The end of a text is the beginning of its mirror image."""
    return _trim_prefix(value[::-1], tokens[::-1], longest)[::-1]
