"""What commands a RUN has, as far as a rule of good practice wants to know: a shell's syntax in rough outline.

It never fails and never runs anything. Quotes are removed, variables stay as they are written, `$(...)` stays in
its word, words of redirections are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from sampan.build.model import Instruction

MAX_SCRIPT = 1 << 16
"""Characters of a script that are looked at."""

_KEYWORDS = frozenset(
    {"if", "then", "else", "elif", "do", "while", "until", "!", "{", "}", "time", "fi", "done"}
)
_WRAPPERS = frozenset({"sudo", "env", "exec", "command", "nice", "ionice", "eatmydata", "xargs", "builtin"})
_OPTIONS_WITH_VALUE = {
    "sudo": ("-u", "-g", "-p"),
    "env": ("-u", "-C"),
    "nice": ("-n",),
    "ionice": ("-c", "-n"),
}
_SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    """Without its directory, and without what it is wrapped in: assignments, sudo, env, ..."""
    args: tuple[str, ...]
    wrappers: tuple[str, ...] = ()
    piped: bool = False
    """Its output goes to the next command."""
    first: bool = False
    """The script begins with it, outside of any parenthesis."""

    @property
    def options(self) -> tuple[str, ...]:
        return tuple(arg for arg in self.args if arg.startswith("-"))

    @property
    def operands(self) -> tuple[str, ...]:
        return tuple(arg for arg in self.args if not arg.startswith("-"))


def script_of(run: Instruction) -> str:
    """What the shell gets to read: of here-documents only one that is the whole script. "" for other programs."""
    if run.is_json:
        return ""
    command = run.args[0] if run.args else ""
    if len(run.heredocs) == 1 and command.strip().startswith("<<") and len(command.split()) == 1:
        content = run.heredocs[0].content
        head = content.partition("\n")[0]
        foreign = head.startswith("#!") and head.split("/")[-1].split()[:1] not in [[one] for one in _SHELLS]
        return "" if foreign else content
    return command


def commands_of(run: Instruction) -> tuple[Command, ...]:
    """Those of a script that is given to another shell (`bash -c "..."`) in place of that shell."""
    if run.is_json:
        alone = _command(list(run.args), piped=False, first=True)
        found = [alone] if alone else []
    else:
        found = list(commands(script_of(run)))
    return tuple(inner for command in found for inner in _unwrapped(command))


def _unwrapped(command: Command) -> Iterator[Command]:
    """`bash -eo pipefail -c SCRIPT` means `set -eo pipefail`, then SCRIPT."""
    position = next(
        (index for index, arg in enumerate(command.args) if re.fullmatch(r"-[a-z]*c[a-z]*", arg)), None
    )
    if command.name not in _SHELLS or position is None or position + 1 == len(command.args):
        yield command
        return
    if command.args[:position]:
        yield Command("set", command.args[:position])
    for inner in commands(command.args[position + 1]):
        yield replace(inner, first=inner.first and command.first)


def commands(script: str) -> Iterator[Command]:
    words: list[str] = []
    first = True
    for token, is_operator in _tokens(script[:MAX_SCRIPT]):
        if not is_operator:
            words.append(token)
            continue
        found = _command(words, piped=token in ("|", "|&"), first=first)
        if found:
            yield found
        first = first and not found and token == "\n"
        words = []
    last = _command(words, piped=False, first=first)
    if last:
        yield last


def _command(words: list[str], *, piped: bool, first: bool) -> Command | None:
    index = 0
    while index < len(words) and words[index] in _KEYWORDS:
        index += 1
    wrappers: list[str] = []
    while index < len(words):
        word = words[index]
        name = word.rpartition("/")[2]
        if name in _WRAPPERS:
            wrappers.append(name)
        elif wrappers and word in _OPTIONS_WITH_VALUE.get(wrappers[-1], ()):
            index += 1
        elif not (_is_assignment(word) or (wrappers and word.startswith("-"))):
            return Command(name, tuple(words[index + 1 :]), tuple(wrappers), piped, first)
        index += 1
    return None


def _is_assignment(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and name.isidentifier()


def _tokens(script: str) -> Iterator[tuple[str, bool]]:
    """Words and operators (`&&`, `||`, `|`, `|&`, `&`, `;`, `;;`, newline, parentheses); True: an operator."""
    position, length = 0, len(script)
    redirected = False
    while position < length:
        char = script[position]
        if char in " \t\r":
            position += 1
        elif script.startswith(("\\\n", "\\\r\n"), position):
            position = script.index("\n", position) + 1
        elif char == "#":
            end = script.find("\n", position)
            position = length if end < 0 else end
        elif char in "&|;\n()":
            pair = script[position : position + 2]
            token = pair if pair in ("&&", "||", "|&", ";;") else char
            position += len(token)
            redirected = False
            yield token, True
        elif char in "<>":
            position += 1
            while position < length and script[position] in "<>&|-":
                position += 1
            redirected = True
        else:
            word, position = _word(script, position)
            if not redirected and not (word.isdigit() and script[position : position + 1] in ("<", ">")):
                yield word, False
            redirected = False


def _word(script: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    length = len(script)
    while position < length and script[position] not in " \t\r\n&|;()<>":
        char = script[position]
        if char == "\\":
            out.append(script[position + 1 : position + 2])
            position += 2
        elif char == "'":
            end = script.find("'", position + 1)
            end = length if end < 0 else end
            out.append(script[position + 1 : end])
            position = end + 1
        elif char == '"':
            text, position = _double_quoted(script, position + 1)
            out.append(text)
        elif script.startswith("$(", position) or char == "`":
            end = _substitution_end(script, position)
            out.append(script[position:end])
            position = end
        else:
            out.append(char)
            position += 1
    return "".join(out), position


def _double_quoted(script: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    while position < len(script) and script[position] != '"':
        if script[position] == "\\":
            out.append(script[position + 1 : position + 2])
            position += 2
        elif script.startswith("$(", position):
            end = _substitution_end(script, position)
            out.append(script[position:end])
            position = end
        else:
            out.append(script[position])
            position += 1
    return "".join(out), position + 1


def _substitution_end(script: str, position: int) -> int:
    """Behind the parenthesis that closes `$(`, or behind the second backtick."""
    if script[position] == "`":
        end = script.find("`", position + 1)
        return len(script) if end < 0 else end + 1
    depth = 0
    for index in range(position + 1, len(script)):
        if script[index] == "(":
            depth += 1
        elif script[index] == ")":
            depth -= 1
            if depth == 0:
                return index + 1
    return len(script)
