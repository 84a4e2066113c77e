"""What `--check --format sarif` prints against the schema of SARIF 2.1.0, as far as it is used here.

Written from the specification (OASIS Standard, 27 March 2020), whose sections the names say; every object is closed,
so that a property that SARIF does not have at its place is found.
"""

from __future__ import annotations

import base64
from typing import Any

import pytest

from sampan.build.model import Dockerfile
from sampan.build.rules.check import check_text
from sampan.build.rules.report import lint_result
from sampan.build.rules.subject import Subject
from sampan.cli.build.checks import as_sarif

jsonschema = pytest.importorskip("jsonschema")

_TEXT = {"type": "string", "minLength": 1}
_URI_REFERENCE = {"type": "string", "pattern": r"^[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+$"}


def _closed(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": properties,
        "additionalProperties": False,
    }


_MESSAGE = _closed(("text",), text=_TEXT)  # 3.11, 3.12
_LEVEL = {"enum": ["none", "note", "warning", "error"]}  # 3.27.10
_REGION = _closed(  # 3.30: lines count from 1
    ("startLine",), startLine={"type": "integer", "minimum": 1}, endLine={"type": "integer", "minimum": 1}
)
_PHYSICAL = _closed(  # 3.29, 3.4
    ("artifactLocation",), artifactLocation=_closed(("uri",), uri=_URI_REFERENCE), region=_REGION
)
_RULE = _closed(  # 3.49
    ("id",),
    id=_TEXT,
    name=_TEXT,
    shortDescription=_MESSAGE,
    help=_MESSAGE,
    helpUri={"type": "string", "pattern": "^https://"},
    defaultConfiguration=_closed((), level=_LEVEL),
)
_RESULT = _closed(  # 3.27
    ("message",),
    ruleId=_TEXT,
    ruleIndex={"type": "integer", "minimum": -1},
    level=_LEVEL,
    message=_MESSAGE,
    locations={
        "type": "array",
        "uniqueItems": True,
        "items": _closed((), physicalLocation=_PHYSICAL),
    },
)
_DRIVER = _closed(  # 3.19
    ("name",), name=_TEXT, version=_TEXT, rules={"type": "array", "uniqueItems": True, "items": _RULE}
)
_RUN = _closed(  # 3.14, 3.18
    ("tool",), tool=_closed(("driver",), driver=_DRIVER), results={"type": "array", "items": _RESULT}
)
SCHEMA = _closed(  # 3.13
    ("version", "runs"),
    version={"const": "2.1.0"},
    runs={"type": "array", "items": _RUN},
    **{"$schema": {"type": "string", "pattern": "^https://.*sarif.*2.1.0.*"}},
)

DOCKERFILES = (
    "FROM scratch\nUSER app\n",
    "FROM debian AS Build\nCMD x\nRUN a | b\nARG TOKEN\nCMD [\n",
    "FROM debian:12\nCOPY <<EOF /x\na\nb\nEOF\nFOO\n",
    "FROM a\nCMD [1]\n",
    "FROM a\nRUN <<EOF\n",
    "",
)


@pytest.mark.parametrize("text", DOCKERFILES, ids=range(len(DOCKERFILES)))
@pytest.mark.parametrize("name", ["Dockerfile", "../my app/Dockerfile", "ü#?%.Dockerfile"])
def test_sarif_is_what_its_schema_says(text: str, name: str) -> None:
    found = lint_result(check_text(text.encode(), Subject(Dockerfile(()))), text.encode(), "Dockerfile")
    assert base64.b64decode(found["sources"][0]["data"]) == text.encode()  # type: ignore[index]
    sarif = as_sarif(found, name, "1.0")
    jsonschema.Draft202012Validator(SCHEMA).validate(sarif)
    (run,) = sarif["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert all(rules[each["ruleIndex"]]["id"] == each["ruleId"] for each in run["results"])
    assert bool(run["results"]) is not (text == DOCKERFILES[0])
