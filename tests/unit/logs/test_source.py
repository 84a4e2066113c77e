"""Tags and attributes: what the user's options choose of a container. Expected values are Docker Engine 20.10's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.errors import Invalid
from sampan.logs import tag
from sampan.logs.json_file import PARTIAL_SIZE, JsonFileSink
from sampan.logs.log_files import close_all, open_all
from sampan.logs.reader import read
from sampan.logs.source import make_source

ID = "84a59f90aac3" + "0" * 52
IMAGE = "sha256:9062464a6658859891b7bedef5ef662e27d3ffcafc486687a4cb489ca193d76c"
FACTS: dict[str, Any] = {
    "id": ID,
    "name": "n4",
    "image_id": IMAGE,
    "image_name": "busybox",
    "arguments": ("sh", "-c", "echo hi"),
    "created": "2026-11-25T00:58:04.009736645Z",
    "daemon_name": "docker",
    "host": "vm",
    "labels": {"a": "b c<d", "b": "x", "q": "z=&"},
    "environment": ("PATH=/bin", "X=y", "NOTHING"),
}


def expanded(template: str) -> str:
    return make_source("syslog", {"tag": template}, **FACTS).tag


def test_a_tag_is_expanded_as_docker_does() -> None:
    template = (
        '{{.ID}}/{{.Name}}/{{.ImageName}}/{{.ImageID}}/{{.DaemonName}}/{{.Command}}/{{lower "AB"}}/'
        "{{ .Name | upper }}/{{truncate .FullID 3}}/{{json .Name}}/{{.ContainerName}}/"
        '{{index .ContainerLabels "b"}}/{{.ImageFullID}}'
    )
    assert expanded(template) == (
        f'84a59f90aac3/n4/busybox/sha256:90624/docker/sh -c echo hi/ab/N4/84a/"n4"//n4/x/{IMAGE}'
    )


def test_spaces_are_trimmed_and_printf_formats() -> None:
    assert expanded('x{{printf "%s-%d" .Name 3}} {{- " z" -}}  k') == "xn4-3 zk"
    assert expanded("a}}b") == "a}}b"
    assert expanded("{{/* nothing */}}{{-  .Name -}} ") == "n4"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{{.Nope}}",
            ':1:2: executing "log-tag" at <.Nope>: can\'t evaluate field Nope in type *logger.Info',
        ),
        ("{{.Name", ":1: unclosed action"),
        ("{{nope .Name}}", ':1: function "nope" not defined'),
        ("{{.Name | nope}}", ':1: function "nope" not defined'),
        ("{{}}", ":1: missing value for command"),
        ("{{.Name 3}}", ':1:2: executing "log-tag" at <.Name>: wrong number of args for Name: want 0 got 1'),
        ("{{upper}}", ':1:2: executing "log-tag" at <upper>: wrong number of args for upper: want 1 got 0'),
        ('{{"x', ":1: unterminated quoted string"),
    ],
)
def test_a_template_that_can_not_be_expanded_is_refused_in_gos_words(template: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        tag.check(template)
    assert caught.value.message == "template: log-tag" + message


def test_a_tag_is_no_longer_than_a_page() -> None:
    assert len(expanded("{{pad .Name 4000 4000}}" * 9)) == 4096


def test_without_a_tag_it_is_the_short_id_and_files_have_none() -> None:
    assert make_source("syslog", {}, **FACTS).tag == ID[:12]
    assert make_source("json-file", {}, **FACTS).attributes == {}
    assert make_source("json-file", {"tag": "{{.Name}}"}, **FACTS).attributes == {"tag": "n4"}


def test_labels_and_variables_are_chosen_by_name_and_by_expression() -> None:
    options = {"labels": "a,none", "labels-regex": "^q", "env": "X,NOTHING", "env-regex": "^PA"}
    assert make_source("gelf", options, **FACTS).attributes == {
        "a": "b c<d",
        "q": "z=&",
        "X": "y",
        "PATH": "/bin",
    }


def test_an_images_labels_are_values_and_never_options() -> None:
    labels = {
        "tag": "{{.FullID}}",
        "labels": "a",
        "env-regex": ".*",
        "mode": "non-blocking",
        "a": "{{.Name}}",
    }
    source = make_source("syslog", {"labels": "a"}, **{**FACTS, "labels": labels})
    assert (source.tag, source.attributes) == (ID[:12], {"a": "{{.Name}}"})


@pytest.mark.parametrize("driver", ["json-file", "gelf"])
def test_an_images_label_neither_fills_the_log_nor_makes_it_unreadable(driver: str, tmp_path: Path) -> None:
    worst = "\x01" * 3_000_000  # six bytes for each character in JSON
    facts = {**FACTS, "labels": {"team": "a", **{f"l{number}": worst for number in range(100)}}}
    source = make_source(driver, {"labels-regex": ".*", "env": "X"}, **{**facts, "arguments": ("sh", worst)})
    assert source.attributes["team"] == "a"
    assert "l1" in source.attributes and "l99" not in source.attributes
    assert source.attributes["X"] == "y"  # what is short finds room behind what is long
    assert len(source.command) <= 4096
    path = tmp_path / "log"
    sink = JsonFileSink(str(path), attributes=source.attributes)
    sink.write(1, b"\x01" * PARTIAL_SIZE + b"and more\n", 1)
    sink.close()
    records = list(read(path))
    assert b"".join(record.line for record in records) == b"\x01" * PARTIAL_SIZE + b"and more\n"
    files = open_all(str(path))
    assert b'"time":"1970-01-01' in files[0].first_record()  # which is what tells files apart
    close_all(files)
