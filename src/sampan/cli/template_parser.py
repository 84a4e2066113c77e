"""Go's text/template syntax: text in, a tree of nodes out (https://pkg.go.dev/text/template).

Written by hand, without `re`: `--format` is used in scripts, where the start-up time counts.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

_SPACE = " \t\r\n"
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    '"': '"',
    "'": "'",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
}


class TemplateError(Exception):
    """A template that cannot be parsed or executed; the message is Go's, from "template: " on."""


class Token:
    """`kind`: text, open, close, field, variable, name, string, number, char, or the punctuation itself."""

    __slots__ = ("kind", "position", "spaced", "value")

    def __init__(self, kind: str, value: str, position: int, spaced: bool = False) -> None:
        self.kind = kind
        self.value = value
        self.position = position
        self.spaced = spaced


class Node:
    """A node of the tree: its kind, where it stands, how it reads, and what it holds by kind.

    dot, nil; literal(value); function(name); field(names); variable(name, names); chain(node, names);
    pipe(declared, assigns, commands); text(value); action(pipe); if/with/range(pipe, body, otherwise); break; continue
    """

    __slots__ = ("kind", "parts", "position", "text")

    def __init__(self, kind: str, position: int, text: str, *parts: Any) -> None:
        self.kind = kind
        self.position = position
        self.text = text
        self.parts = parts


def line_error(source: str, position: int, message: str) -> TemplateError:
    return TemplateError(f"template: :{source.count(chr(10), 0, position) + 1}: {message}")


def tokenize(source: str) -> list[Token]:
    """Text and action tokens; trim markers and comments are applied here."""
    tokens: list[Token] = []
    position = 0
    trim_next = False
    while True:
        start = source.find("{{", position)
        text = source[position:] if start < 0 else source[position:start]
        if trim_next:
            text = text.lstrip(_SPACE)
        if start < 0:
            if text:
                tokens.append(Token("text", text, position))
            return tokens
        inner = start + 2
        if source[inner : inner + 1] == "-" and source[inner + 1 : inner + 2] in tuple(_SPACE):
            text = text.rstrip(_SPACE)
            inner += 2
        if text:
            tokens.append(Token("text", text, position))
        if source.startswith("/*", inner) or source[inner:].lstrip(_SPACE).startswith("/*"):
            position, trim_next = _skip_comment(source, inner)
        else:
            position, trim_next = _action_tokens(source, inner, tokens)


def _skip_comment(source: str, position: int) -> tuple[int, bool]:
    end = source.find("*/", position)
    if end < 0:
        raise line_error(source, position, "unclosed comment")
    end += 2
    if source.startswith("}}", end):
        return end + 2, False
    if source[end : end + 1] in tuple(_SPACE) and source.startswith("-}}", end + 1):
        return end + 4, True
    raise line_error(source, position, "comment ends before closing delimiter")


def _action_tokens(source: str, position: int, tokens: list[Token]) -> tuple[int, bool]:
    tokens.append(Token("open", "{{", position))
    spaced = True
    while True:
        if source.startswith("}}", position):
            tokens.append(Token("close", "}}", position))
            return position + 2, False
        letter = source[position : position + 1]
        if not letter:
            raise line_error(source, position, "unclosed action")
        if letter in _SPACE:
            if source.startswith("-}}", position + 1):
                tokens.append(Token("close", "}}", position))
                return position + 4, True
            position += 1
            spaced = True
            continue
        token, position = _one_token(source, position, spaced)
        tokens.append(token)
        spaced = False


def _one_token(source: str, start: int, spaced: bool) -> tuple[Token, int]:
    letter = source[start]
    if letter in '"`':
        return _string_token(source, start, spaced)
    if letter == "'":
        end = source.find("'", start + 2)
        if end < 0:
            raise line_error(source, start, "unterminated character constant")
        return Token("char", unquote(source[start : end + 1]), start, spaced), end + 1
    if letter == ".":
        end = _word_end(source, start + 1)
        if end > start + 1 and not source[start + 1].isdigit():
            return Token("field", source[start + 1 : end], start, spaced), end
        if end == start + 1:
            return Token(".", ".", start, spaced), end
    if letter == "$":
        end = _word_end(source, start + 1)
        return Token("variable", source[start:end], start, spaced), end
    if source.startswith(":=", start):
        return Token(":=", ":=", start, spaced), start + 2
    if letter in "|(),=":
        return Token(letter, letter, start, spaced), start + 1
    if letter.isdigit() or letter in "+-.":
        end = start + 1
        while end < len(source) and (source[end].isalnum() or source[end] in "._"):
            end += 1
        return Token("number", source[start:end], start, spaced), end
    if letter.isalpha() or letter == "_":
        end = _word_end(source, start)
        return Token("name", source[start:end], start, spaced), end
    raise line_error(
        source,
        start,
        f"unexpected {_quoted(letter)} in operand"
        if letter in "}{[]"
        else f"unrecognized character in action: U+{ord(letter):04X} {letter!r}",
    )


def _quoted(letter: str) -> str:
    return f'"{letter}"'


def _word_end(source: str, position: int) -> int:
    while position < len(source) and (source[position].isalnum() or source[position] == "_"):
        position += 1
    return position


def _string_token(source: str, start: int, spaced: bool) -> tuple[Token, int]:
    quote = source[start]
    end = start + 1
    while end < len(source) and source[end] != quote:
        if quote == '"' and source[end] == "\n":
            break
        end += 2 if quote == '"' and source[end] == "\\" else 1
    if source[end : end + 1] != quote:
        kind = "raw quoted" if quote == "`" else "quoted"
        raise line_error(source, start, f"unterminated {kind} string")
    value = source[start + 1 : end] if quote == "`" else unquote(source[start : end + 1])
    return Token("string", value, start, spaced), end + 1


def unquote(text: str) -> str:
    """The value of a quoted Go string or character."""
    body = text[1:-1]
    if "\\" not in body:
        return body
    result = []
    position = 0
    while position < len(body):
        if body[position] != "\\":
            result.append(body[position])
            position += 1
            continue
        escape = body[position + 1 : position + 2]
        width = {"x": 2, "u": 4, "U": 8}.get(escape)
        if width:
            result.append(chr(int(body[position + 2 : position + 2 + width], 16)))
            position += 2 + width
        else:
            result.append(_ESCAPES.get(escape, escape))
            position += 2
    return "".join(result)


class Parser:
    """Recursive descent over the tokens of one template."""

    def __init__(self, source: str, functions: Collection[str]) -> None:
        self.source = source
        self._tokens = tokenize(source)
        self._position = 0
        self._functions = functions
        self._variables = ["$"]
        self._loops = 0

    def parse(self) -> list[Node]:
        nodes, end = self._body(top=True)
        if end is not None:
            raise line_error(self.source, end.position, f"unexpected {{{{{end.value}}}}}")
        return nodes

    def _peek(self) -> Token | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _next(self) -> Token:
        token = self._peek()
        if token is None:
            raise line_error(self.source, len(self.source), "unexpected EOF")
        self._position += 1
        return token

    def _body(self, *, top: bool = False) -> tuple[list[Node], Token | None]:
        """Nodes up to `end`, `else` (returned, with the action left open after the word) or the end of the text."""
        nodes: list[Node] = []
        while (token := self._peek()) is not None:
            self._position += 1
            if token.kind == "text":
                nodes.append(Node("text", token.position, token.value, token.value))
                continue
            word = self._peek()
            if word is not None and word.kind == "name" and word.value in ("end", "else"):
                self._position += 1
                return nodes, word
            nodes.append(self._action(token))
        if not top:
            raise line_error(self.source, len(self.source), "unexpected EOF")
        return nodes, None

    def _action(self, opening: Token) -> Node:
        word = self._peek()
        if word is not None and word.kind == "name":
            if word.value in ("if", "with", "range"):
                self._position += 1
                return self._control(word)
            if word.value in ("break", "continue"):
                self._position += 1
                if not self._loops:
                    raise line_error(
                        self.source, word.position, f"{{{{{word.value}}}}} outside {{{{range}}}}"
                    )
                self._close(word.value)
                return Node(word.value, word.position, word.value)
            if word.value in ("define", "template", "block"):
                raise line_error(self.source, word.position, f"{{{{{word.value}}}}} is not supported")
        pipe = self._pipe("command")
        self._close("command")
        return Node("action", opening.position, pipe.text, pipe)

    def _close(self, context: str) -> None:
        token = self._next()
        if token.kind != "close":
            raise line_error(self.source, token.position, f"unexpected {_show(token)} in {context}")

    def _control(self, word: Token) -> Node:
        scope = len(self._variables)
        pipe = self._pipe(word.value)
        self._close(word.value)
        self._loops += word.value == "range"
        body, end = self._body()
        self._loops -= word.value == "range"
        otherwise: list[Node] = []
        if end is not None and end.value == "else":
            following = self._peek()
            chained = ("if",) if word.value == "if" else ("with",) if word.value == "with" else ()
            if following is not None and following.kind == "name" and following.value in chained:
                self._position += 1
                # `else if` shares its `end` with the outer `if`.
                otherwise = [self._control(following)]
                self._variables = self._variables[:scope]
                return Node(word.value, word.position, pipe.text, pipe, body, otherwise)
            self._close("else")
            otherwise, end = self._body()
        if end is None or end.value != "end":
            raise line_error(
                self.source, end.position if end else len(self.source), "expected end; found {{else}}"
            )
        self._close("end")
        self._variables = self._variables[:scope]
        return Node(word.value, word.position, pipe.text, pipe, body, otherwise)

    def _pipe(self, context: str) -> Node:
        start = self._position
        declared, assigns = self._declarations(context)
        commands: list[list[Node]] = []
        while True:
            commands.append(self._command(context))
            token = self._peek()
            if token is None or token.kind != "|":
                break
            self._position += 1
        first = self._tokens[start].position
        last = (
            self._tokens[self._position].position if self._position < len(self._tokens) else len(self.source)
        )
        return Node("pipe", first, self.source[first:last].strip(), declared, assigns, commands)

    def _declarations(self, context: str) -> tuple[list[str], bool]:
        tokens, at = self._tokens, self._position
        names: list[str] = []
        while at < len(tokens) and tokens[at].kind == "variable":
            names.append(tokens[at].value)
            at += 1
            if at < len(tokens) and tokens[at].kind == "," and context == "range" and len(names) == 1:
                at += 1
                continue
            break
        if not names or at >= len(tokens) or tokens[at].kind not in (":=", "="):
            return [], False
        assigns = tokens[at].kind == "="
        self._position = at + 1
        if not assigns:
            self._variables += names
        return names, assigns

    def _command(self, context: str) -> list[Node]:
        operands: list[Node] = []
        while True:
            token = self._peek()
            if token is None or token.kind in ("close", "|", ")"):
                if not operands:
                    if token is not None and token.kind == "|":
                        raise line_error(self.source, token.position, 'unexpected "|" in operand')
                    raise line_error(
                        self.source,
                        token.position if token else len(self.source),
                        f"missing value for {context}",
                    )
                return operands
            operands.append(self._operand())

    def _operand(self) -> Node:
        token = self._next()
        node = self._term(token)
        names = []
        while (following := self._peek()) is not None and following.kind == "field" and not following.spaced:
            self._position += 1
            names.append(following.value)
        if not names:
            return node
        text = node.text + "".join("." + name for name in names)
        if node.kind == "field":
            return Node("field", token.position, text, [*node.parts[0], *names])
        if node.kind == "variable":
            return Node("variable", token.position, text, node.parts[0], [*node.parts[1], *names])
        return Node("chain", token.position, text, node, names)

    def _term(self, token: Token) -> Node:
        kind, value, at = token.kind, token.value, token.position
        if kind == "field":
            return Node("field", at, "." + value, [value])
        if kind == ".":
            return Node("dot", at, ".")
        if kind == "variable":
            if value not in self._variables:
                raise line_error(self.source, at, f'undefined variable "{value}"')
            return Node("variable", at, value, value, [])
        if kind == "string":
            return Node("literal", at, _quoted(value), value)
        if kind == "char":
            return Node("literal", at, value, ord(value))
        if kind == "number":
            return Node("literal", at, value, self._number(token))
        if kind == "name":
            if value in ("true", "false"):
                return Node("literal", at, value, value == "true")
            if value == "nil":
                return Node("nil", at, "nil")
            if value not in self._functions:
                raise line_error(self.source, at, f'function "{value}" not defined')
            return Node("function", at, value, value)
        if kind == "(":
            pipe = self._pipe("parenthesized pipeline")
            closing = self._next()
            if closing.kind != ")":
                raise line_error(self.source, closing.position, "unclosed left paren")
            return Node("pipe", at, f"({pipe.text})", *pipe.parts)
        raise line_error(self.source, at, f"unexpected {_show(token)} in operand")

    def _number(self, token: Token) -> int | float:
        try:
            return int(token.value, 0)
        except ValueError:
            pass
        try:
            return float(token.value)
        except ValueError:
            raise line_error(self.source, token.position, f'bad number syntax: "{token.value}"') from None


def _show(token: Token) -> str:
    return "<" + token.value + ">" if token.kind in ("name", "field", "variable") else _quoted(token.value)
