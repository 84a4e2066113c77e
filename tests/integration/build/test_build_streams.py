"""The two streams of `POST /build` on a real engine."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from typing import Any

import pytest

pytestmark = pytest.mark.root


def _lines(sampan: Any, dockerfile: str) -> list[dict[str, Any]]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("Dockerfile")
        member.size = len(dockerfile)
        archive.addfile(member, io.BytesIO(dockerfile.encode()))
    api = sampan.api.api
    answer = api._post(
        api._url("/build"),
        params={"progress": "rawjson", "t": "streams:1", "nocache": "1"},
        data=out.getvalue(),
        headers={"Content-Type": "application/x-tar"},
    )
    return [json.loads(line) for line in answer.content.splitlines()]


def test_raw_progress_is_buildkits_status_objects_and_ends_in_the_result_or_a_located_error(
    sampan: Any,
) -> None:
    lines = _lines(
        sampan, "FROM busybox AS a\nRUN echo a-line\nFROM busybox\nRUN echo two >&2\nCOPY --from=a /etc /e\n"
    )
    vertices = {vertex["digest"]: vertex for line in lines for vertex in line.get("vertexes", [])}
    names = [vertex["name"] for vertex in vertices.values()]
    assert {"[a 2/2] RUN echo a-line", "[stage-1 3/3] COPY --from=a /etc /e", "exporting to image"} <= set(
        names
    )
    assert all(vertex["completed"] >= vertex["started"] for vertex in vertices.values())
    logs = [log for line in lines for log in line.get("logs", [])]
    said = {(vertices[log["vertex"]]["name"], log["stream"], base64.b64decode(log["data"])) for log in logs}
    assert said == {
        ("[a 2/2] RUN echo a-line", 1, b"a-line\n"),
        ("[stage-1 2/3] RUN echo two >&2", 2, b"two\n"),
    }
    assert lines[-1]["aux"]["ID"] == sampan.api.images.get("streams:1").id

    lines = _lines(sampan, "FROM busybox\n# why\nRUN echo before; exit 3\n")
    detail = lines[-1]["errorDetail"]
    assert detail["code"] == 3
    found = detail["sampan"]
    assert (found["line"], found["lastOutput"]) == (3, "before\n")
    assert found["excerpt"][1] == {"line": 2, "text": "# why"}
    failed = [vertex for line in lines for vertex in line.get("vertexes", []) if vertex.get("error")]
    assert [vertex["digest"] for vertex in failed] == [found["vertex"]]


def test_the_command_line_names_an_image_as_a_context(sampan: Any) -> None:
    text = b"FROM nowhere.invalid/a:1\nCOPY --from=tools /bin/busybox /b\n"
    images = ("nowhere.invalid/a:1=docker-image://busybox", "tools=docker-image://busybox")
    flags = [part for value in images for part in ("--build-context", value)]
    done = sampan.run("build", "-q", *flags, "-", stdin=text)
    assert done.returncode == 0, done.stderr
    refused = sampan.run("build", "--build-context", "x=oci-layout:///tmp/x", "-", stdin=text)
    assert refused.returncode != 0 and "oci-layout" in refused.stderr
