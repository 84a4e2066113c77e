"""docker-py on sampan's socket: the Engine API as programs use it."""

from __future__ import annotations

import io
import itertools
import json
import socket
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def _frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Docker's 8-byte stream headers taken apart."""
    file = connection.makefile("rb")
    while header := file.read(8):
        stream, size = struct.unpack(">BxxxI", header)
        yield stream, file.read(size)


def _socket(raw: Any) -> socket.socket:
    """docker-py hands out a SocketIO for Unix sockets."""
    connection: socket.socket = getattr(raw, "_sock", raw)
    connection.settimeout(20)
    return connection


def test_run_returns_the_output(sampan: Any) -> None:
    assert sampan.api.containers.run(BUSYBOX, ["echo", "hello"], remove=True) == b"hello\n"


def test_a_failing_run_raises_with_code_and_standard_error(sampan: Any) -> None:
    with pytest.raises(docker.errors.ContainerError) as caught:
        sampan.api.containers.run(BUSYBOX, ["sh", "-c", "echo bad >&2; exit 4"], remove=True)
    assert caught.value.exit_status == 4
    assert caught.value.stderr == b"bad\n"


def test_a_missing_image_is_their_not_found(sampan: Any) -> None:
    with pytest.raises(docker.errors.ImageNotFound):
        sampan.api.images.get("nosuch:1")
    with pytest.raises(docker.errors.NotFound):
        sampan.api.containers.get("nosuch")


def test_the_attached_socket_carries_input_and_framed_output(sampan: Any) -> None:
    api = sampan.api.api
    created = api.create_container(BUSYBOX, ["sh", "-c", "cat; echo end >&2"], stdin_open=True)
    connection = _socket(
        api.attach_socket(created, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    )
    api.start(created)
    connection.sendall(b"over the wire\n")
    connection.shutdown(socket.SHUT_WR)
    got = list(_frames(connection))
    connection.close()
    assert got == [(1, b"over the wire\n"), (2, b"end\n")]
    assert api.wait(created)["StatusCode"] == 0


def test_attach_with_logs_gives_what_was_before(sampan: Any) -> None:
    api = sampan.api.api
    created = api.create_container(BUSYBOX, ["sh", "-c", "echo early; read x; echo late $x"], stdin_open=True)
    api.start(created)
    log = api.logs(created, stream=True, follow=True)
    assert next(log) == b"early\n"
    log.close()
    # By hand: docker-py loses what its HTTP layer reads together with the head.
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(sampan.engine.socket))
        query = "logs=1&stream=1&stdin=1&stdout=1&stderr=1"
        head = f"POST /v1.41/containers/{created['Id']}/attach?{query} HTTP/1.1\r\nHost: x\r\n"
        connection.sendall(
            head.encode() + b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        file = connection.makefile("rb")
        assert file.readline() == b"HTTP/1.1 101 UPGRADED\r\n"
        while file.readline() != b"\r\n":
            pass
        assert file.read(8 + 6) == struct.pack(">BxxxI", 1, 6) + b"early\n"
        connection.sendall(b"bird\n")
        assert file.read() == struct.pack(">BxxxI", 1, 10) + b"late bird\n"


def test_an_exec_over_its_socket(sampan: Any) -> None:
    container = sampan.api.containers.run(BUSYBOX, ["sleep", "1000"], detach=True)
    api = sampan.api.api
    made = api.exec_create(container.id, ["sh", "-c", "read a; echo got $a; exit 8"], stdin=True)
    connection = _socket(api.exec_start(made["Id"], socket=True))
    connection.sendall(b"it\n")
    assert list(_frames(connection)) == [(1, b"got it\n")]
    connection.close()
    state = api.exec_inspect(made["Id"])
    assert (state["Running"], state["ExitCode"]) == (False, 8)


def test_exec_run_gives_code_and_separate_streams(sampan: Any) -> None:
    container = sampan.api.containers.run(BUSYBOX, ["sleep", "1000"], detach=True)
    code, output = container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 3"], demux=True)
    assert (code, output) == (3, (b"o\n", b"e\n"))
    code, output = container.exec_run(["sh", "-c", "tty; pwd; id -u"], tty=True, workdir="/tmp", user="1")
    assert (code, output) == (0, b"/dev/pts/0\r\n/tmp\r\n1\r\n")


def test_events_stream_in_order(sampan: Any) -> None:
    events = sampan.api.events(decode=True, filters={"type": "container", "label": "watched"})
    threading.Thread(
        target=lambda: sampan.api.containers.run(BUSYBOX, "true", remove=True, labels=["watched"]),
        daemon=True,
    ).start()
    seen = []
    for event in events:
        seen.append(event["Action"])
        assert event["Actor"]["Attributes"]["image"] == BUSYBOX
        if event["Action"] == "destroy":
            break
    events.close()
    wanted = [action for action in seen if action in ("create", "start", "die", "destroy")]
    assert wanted == ["create", "start", "die", "destroy"]


def test_an_image_is_built_from_memory(sampan: Any) -> None:
    context = _tar(
        {"Dockerfile": b"FROM busybox\nCOPY f /f\nLABEL made=here\nRUN cat /f\n", "f": b"from memory"}
    )
    image, log = sampan.api.images.build(
        fileobj=io.BytesIO(context), custom_context=True, tag="py:1", rm=True
    )
    assert image.labels == {"made": "here"}
    assert "from memory" in "".join(line.get("stream", "") for line in log)
    assert sampan.api.containers.run("py:1", ["cat", "/f"], remove=True) == b"from memory"
    sampan.api.images.remove("py:1")


def test_a_dockerfile_outside_of_its_context_is_built(sampan: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "f").write_text("inside")
    outside = tmp_path / "Outside"
    outside.write_text("FROM busybox\nCOPY . /all\nRUN ls -A /all\n")
    _, log = sampan.api.images.build(path=str(context), dockerfile=str(outside))
    assert {"stream": "f\n"} in list(log)


def test_a_failing_build_raises_with_its_log(sampan: Any) -> None:
    context = _tar({"Dockerfile": b"FROM busybox\nRUN echo shown; exit 3\n"})
    with pytest.raises(docker.errors.BuildError) as caught:
        sampan.api.images.build(fileobj=io.BytesIO(context), custom_context=True)
    assert "returned a non-zero code: 3" in str(caught.value)
    assert any("shown" in line.get("stream", "") for line in caught.value.build_log)


def test_statistics_have_what_programs_compute_with(sampan: Any) -> None:
    container = sampan.api.containers.run(BUSYBOX, ["sleep", "1000"], detach=True, mem_limit="50m")
    once = container.stats(stream=False)
    assert once["memory_stats"]["limit"] == 50 << 20
    assert once["cpu_stats"]["cpu_usage"]["total_usage"] > 0
    assert once["cpu_stats"]["system_cpu_usage"] > once["precpu_stats"]["system_cpu_usage"] > 0
    assert once["pids_stats"]["current"] == 1
    assert "rx_bytes" in once["networks"]["eth0"]
    stream = container.stats(stream=True, decode=True)
    first, second = itertools.islice(stream, 2)
    assert second["read"] > first["read"]
    stream.close()


def test_archives_are_put_and_got(sampan: Any) -> None:
    container = sampan.api.containers.create(BUSYBOX)
    assert container.put_archive("/tmp", _tar({"deep/file": b"put"}))
    chunks, info = container.get_archive("/tmp/deep/file")
    assert (info["name"], info["size"]) == ("file", 3)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        assert archive.extractfile("file").read() == b"put"  # type: ignore[union-attr]
    with pytest.raises(docker.errors.NotFound):
        container.get_archive("/nosuch")
    with pytest.raises(docker.errors.NotFound):
        container.put_archive("/nosuch", _tar({"f": b""}))


def test_pull_and_push_stream_their_progress(sampan: Any, session_registry: Any) -> None:
    name = f"{session_registry.host}/py/box"
    sampan.api.images.get(BUSYBOX).tag(name, "v2")
    pushed = list(sampan.api.images.push(name, tag="v2", stream=True, decode=True))
    assert any("Tag" in line.get("aux", {}) for line in pushed)
    assert not [line for line in pushed if "error" in line]
    sampan.api.images.remove(f"{name}:v2")
    pulled = sampan.api.images.pull(name, tag="v2")
    assert f"{name}:v2" in pulled.tags
    sampan.api.images.remove(f"{name}:v2")
    refused = list(sampan.api.images.push("127.0.0.1:1/x/y", tag="v2", stream=True, decode=True)) \
        if sampan.api.images.get(BUSYBOX).tag("127.0.0.1:1/x/y", "v2") else []  # fmt: skip
    assert "error" in refused[-1]
    sampan.api.images.remove("127.0.0.1:1/x/y:v2")


def test_images_are_saved_and_loaded(sampan: Any) -> None:
    data = b"".join(sampan.api.images.get(BUSYBOX).save(named=True))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        manifest = json.load(archive.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert manifest[0]["RepoTags"] == [BUSYBOX]
    assert [image.id for image in sampan.api.images.load(data)] == [sampan.api.images.get(BUSYBOX).id]


def test_networks_and_volumes_as_objects(sampan: Any) -> None:
    network = sampan.api.networks.create("pynet", driver="bridge", internal=True, labels={"a": "b"})
    volume = sampan.api.volumes.create("pyvol", labels={"a": "b"})
    container = sampan.api.containers.run(
        BUSYBOX, ["sleep", "1000"], detach=True, network="pynet", volumes={"pyvol": {"bind": "/v", "mode": "rw"}},
        environment={"K": "v"}, ports={"80/tcp": None}, restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        tmpfs={"/scratch": "size=1m"}, hostname="pyhost",
    )  # fmt: skip
    network.reload()
    assert [member.id for member in network.containers] == [container.id]
    assert container.exec_run("hostname").output == b"pyhost\n"
    assert container.attrs["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 2}
    assert container.attrs["Mounts"][0]["Name"] == "pyvol"
    network.disconnect(container)
    container.remove(force=True)
    network.remove()
    volume.remove()


def test_containers_are_listed_by_filters(sampan: Any) -> None:
    kept = sampan.api.containers.run(
        BUSYBOX, ["sleep", "1000"], detach=True, labels={"role": "db"}, name="db-1"
    )
    ended = sampan.api.containers.run(BUSYBOX, ["sh", "-c", "exit 3"], detach=True, labels={"role": "db"})
    ended.wait()
    find = sampan.api.containers.list
    assert [each.id for each in find(filters={"label": "role=db"})] == [kept.id]
    assert [each.id for each in find(all=True, filters={"exited": 3})] == [ended.id]
    assert [each.id for each in find(all=True, filters={"name": "^/?db-"})] == [kept.id]
    assert [each.id for each in find(all=True, filters={"status": "exited", "ancestor": BUSYBOX})] == [
        ended.id
    ]
    assert [each.id for each in find(all=True, filters={"before": ended.id})] == [kept.id]
