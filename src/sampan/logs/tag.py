"""The option `tag`: Go's templates, as far as a tag needs them, over a container's facts. Pure.

Text, fields (`{{.Name}}`), functions with arguments (`{{truncate .ImageName 5}}`), pipelines (`{{.Name | upper}}`),
`index` on labels, and the trimming of spaces by `{{-` and `-}}`. No conditions and loops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from sampan.errors import Invalid

DEFAULT: Final = "{{.ID}}"
_MOST_BYTES = 4096
_FIELDS: Final = frozenset(
    (
        *("ID", "FullID", "Name", "ImageID", "ImageFullID", "ImageName", "DaemonName", "Command", "Hostname"),
        *("ContainerID", "ContainerName", "ContainerImageID", "ContainerImageName", "ContainerCreated"),
        *("ContainerEntrypoint", "ContainerArgs", "ContainerLabels", "ContainerEnv", "LogPath"),
    )
)
_TOKEN = re.compile(
    r'\s*(?:(\|)|(\.[A-Za-z_]\w*)|("(?:[^"\\]|\\.)*")|(`[^`]*`)|([+-]?[0-9]+)|([A-Za-z_]\w*)|(\S))'
)
_VERB = re.compile(r"%(%|[+#-]?[0-9]*[svdq])")

Value = str | int | list[str] | dict[str, str]


def _printf(form: Value, *values: Value) -> str:
    rest = list(values)

    def verb(match: re.Match[str]) -> str:
        if match[1] == "%":
            return "%"
        if not rest:
            return f"%!{match[1][-1]}(MISSING)"
        value = rest.pop(0)
        flags, kind = match[1][:-1], match[1][-1]
        text = json.dumps(str(value)) if kind == "q" else _text(value)
        width = flags.lstrip("+#-")[:3]
        if not width:
            return text
        return text.ljust(int(width)) if "-" in flags else text.rjust(int(width))

    return _VERB.sub(verb, _text(form))


def _truncate(text: Value, length: Value) -> str:
    return _text(text)[: _number(length)]


def _pad(text: Value, before: Value, after: Value) -> Value:
    value = _text(text)
    return (
        " " * min(_number(before), _MOST_BYTES) + value + " " * min(_number(after), _MOST_BYTES)
        if value
        else value
    )


def _index(where: Value, key: Value) -> str:
    if isinstance(where, dict):
        return where.get(str(key), "")
    if isinstance(where, list) and isinstance(key, int) and 0 <= key < len(where):
        return where[key]
    raise Invalid(f'executing "log-tag": error calling index: no {key} in it')


def _number(value: Value) -> int:
    if not isinstance(value, int) or value < 0:
        raise Invalid(
            f'executing "log-tag" at <{json.dumps(value)}>: expected integer; found {json.dumps(value)}'
        )
    return value


_FUNCTIONS: Final[dict[str, tuple[int, Callable[..., Value]]]] = {
    "lower": (1, lambda value: _text(value).lower()),
    "upper": (1, lambda value: _text(value).upper()),
    "title": (1, lambda value: _text(value).title()),
    "json": (1, lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False)),
    "join": (
        2,
        lambda words, between: _text(between).join(words if isinstance(words, list) else [_text(words)]),
    ),
    "split": (2, lambda text, by: _text(text).split(_text(by)) if by else list(_text(text))),
    "truncate": (2, _truncate),
    "pad": (3, _pad),
    "index": (2, _index),
    "printf": (-1, _printf),
    "print": (-1, lambda *values: "".join(map(_text, values))),
}


def _text(value: Value) -> str:
    if isinstance(value, list):
        return "[" + " ".join(value) + "]"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{value[key]}" for key in sorted(value)) + "]"
    return str(value)


def check(template: str) -> None:
    """Raises `Invalid`, in the words of Go's library, for what can't be expanded."""
    empty: dict[str, Value] = dict.fromkeys(_FIELDS, "")
    empty |= {"ContainerLabels": {}, "ContainerEnv": [], "ContainerArgs": []}
    _render(template, empty, checking=True)


def expand(template: str, fields: Mapping[str, Value]) -> str:
    """`fields`: of those that Docker has; others are empty. At most 4096 characters. Raises `Invalid`."""
    return _render(template, fields, checking=False)[:_MOST_BYTES]


def _render(template: str, fields: Mapping[str, Value], *, checking: bool) -> str:
    found: list[str] = []
    rest = template
    while True:
        before, opening, rest = rest.partition("{{")
        if not opening:
            found.append(before)
            return "".join(found)
        if re.match(r"-\s", rest):
            before, rest = before.rstrip(), rest[1:]
        found.append(before)
        action, rest = _action(rest)
        if action.endswith("-") and action[-2:-1].isspace():
            action, rest = action[:-1], rest.lstrip()
        if not action.strip().startswith("/*"):
            found.append(_text(_pipeline(action, fields, checking=checking)))


def _action(text: str) -> tuple[str, str]:
    """What is before the closing braces, which may stand in a string before that, and what is after them."""
    match = re.match(r'((?:"(?:[^"\\]|\\.)*"|`[^`]*`|(?!\}\})[^"`])*)\}\}', text, re.DOTALL)
    if match:
        return match[1], text[match.end() :]
    reason = "unterminated quoted string" if text.count('"') % 2 else "unclosed action"
    raise _wrong(f": {reason}")


def _wrong(what: str) -> Invalid:
    return Invalid(f"template: log-tag:1{what}", hint="for example {{.Name}}/{{.ID}}")


def _pipeline(action: str, fields: Mapping[str, Value], *, checking: bool) -> Value:
    value: Value | None = None
    for command in _commands(action):
        if not command:
            raise _wrong(": missing value for command")
        value = _call(command, fields, value, checking=checking)
    assert value is not None
    return value


def _commands(action: str) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for match in _TOKEN.finditer(action.strip()):
        if match[7]:
            raise _wrong(f": unexpected {json.dumps(match[7])} in operand")
        if match[1]:
            commands.append([])
        else:
            commands[-1].append(match[0].strip())
    return commands


def _call(words: list[str], fields: Mapping[str, Value], piped: Value | None, *, checking: bool) -> Value:
    name = words[0]
    arguments = [_operand(word, fields) for word in words[1:]]
    if piped is not None:
        arguments.append(piped)
    if not re.match(r"[A-Za-z_]", name):
        if arguments:
            plain = name.removeprefix(".")
            raise _wrong(
                f':2: executing "log-tag" at <{name}>: wrong number of args for {plain}: want 0 got {len(arguments)}'
            )
        return _operand(name, fields)
    if name not in _FUNCTIONS:
        raise _wrong(f': function "{name}" not defined')
    count, function = _FUNCTIONS[name]
    if count >= 0 and count != len(arguments):
        raise _wrong(
            f':2: executing "log-tag" at <{name}>: wrong number of args for {name}: want {count} got {len(arguments)}'
        )
    try:
        return function(*arguments)
    except Invalid as error:
        if checking and name == "index":
            return ""  # whether the label is there is known with a container only
        raise _wrong(f":2: {error.message}") from error


def _operand(word: str, fields: Mapping[str, Value]) -> Value:
    if word.startswith("."):
        if word[1:] not in _FIELDS:
            raise _wrong(
                f':2: executing "log-tag" at <{word}>: can\'t evaluate field {word[1:]} in type *logger.Info'
            )
        return fields.get(word[1:], "")
    if word.startswith('"'):
        try:
            return str(json.loads(word))
        except ValueError as error:
            raise _wrong(": invalid syntax") from error
    if word.startswith("`"):
        return word[1:-1]
    try:
        return int(word[:10])
    except ValueError:
        raise _wrong(f': function "{word}" not defined') from None
