"""Listings: rows printed as Docker's table, as JSON lines, or by a template (`--format`)."""

from __future__ import annotations

import sys

from sampan.cli.failure import Failure
from sampan.cli.table import align, harmless
from sampan.cli.template_functions import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

FORMAT_HELP = "Print in this form: 'table' (columns with headers), 'table TEMPLATE', 'json', or a Go template"
TEMPLATE_HELP = "Print in this form: 'json' or a Go template"


def print_listing(
    rows: Iterable[Record],
    format_text: str,
    columns: Sequence[str],
    headers: Mapping[str, str],
    *,
    write: Any = None,
) -> None:
    """Print rows. `columns`: the fields of the plain table; `headers`: a field's header where it is not its name."""
    out = write or sys.stdout.write
    if format_text in ("", "table"):
        out(_plain_table(rows, columns, headers))
        return
    if format_text == "json":
        format_text = "{{json .}}"
    out(_by_template(rows, format_text, headers))


def _plain_table(rows: Iterable[Record], columns: Sequence[str], headers: Mapping[str, str]) -> str:
    lines = ["\t".join(header_of(name, headers) for name in columns)]
    lines += ["\t".join(str(row.get(name)) for name in columns) for row in rows]
    return align(harmless("\n".join(lines)) + "\n")


def header_of(name: str, headers: Mapping[str, str]) -> str:
    return headers.get(name, name.upper())


def render_rows(rows: Iterable[Record], source: str) -> list[str]:
    """Each row by a template. Raises `Failure` with Docker's words for a template that cannot be used."""
    from sampan.cli.template import Template, TemplateError

    try:
        template = Template(unescape(source))
    except TemplateError as error:
        raise Failure(f"failed to parse template: {error}") from None
    try:
        return [template.render(row) for row in rows]
    except TemplateError as error:
        raise Failure(f"failed to execute template: {error}") from None


def _by_template(rows: Iterable[Record], format_text: str, headers: Mapping[str, str]) -> str:
    table = format_text.startswith(("table ", "table\t"))
    if table:
        rows = [_HeaderRow(headers), *rows]
    lines = render_rows(rows, format_text[6:].strip() if table else format_text)
    text = "".join(line + "\n" for line in lines)
    return align(text) if table else text


class _HeaderRow(Record):
    """The row above a table made by a template: every field is its own header."""

    __slots__ = ("_headers",)

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__("Context", {}, {"Label": _label_header})
        self._headers = headers

    def has(self, name: str) -> bool:
        return True

    def get(self, name: str) -> str:
        return header_of(name, self._headers)


def _label_header(name: str) -> str:
    """A label's header is the last part of its name."""
    return name.rpartition(".")[2].replace("-", " ").replace("_", " ")


def unescape(text: str) -> str:
    r"""Docker lets people write \t and \n in a format."""
    return text.replace(r"\t", "\t").replace(r"\n", "\n")


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Numbers in names count as numbers: v2 before v10."""
    parts: list[tuple[int, int, str]] = []
    text = ""
    for letter in [*name, ""]:
        if letter and text and letter.isdigit() == text[-1].isdigit():
            text += letter
            continue
        if text:
            parts.append((0, int(text), "") if text.isdecimal() else (1, 0, text))
        text = letter
    return parts
