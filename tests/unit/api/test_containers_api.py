"""The handlers of containers: what reaches the engine, and what its answers become."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
from typing import Any

import pytest

from sampan.api import containers, execs, networks, volumes
from sampan.api.messages import AnyResponse, Request, Response, StreamingResponse
from sampan.api.router import Router
from sampan.engine.config import HostConfig, RestartPolicy
from sampan.engine.containers.attach import LogOptions
from sampan.engine.containers.monitor import Waited
from sampan.errors import Invalid

ROUTER = Router((*containers.ROUTES, *execs.ROUTES, *volumes.ROUTES, *networks.ROUTES))


class Body:
    """A connection with one body."""

    same_host = True

    def __init__(self, body: bytes) -> None:
        self._pieces = [body] if body else []

    async def read_body(self) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    async def take_socket(self, head: bytes) -> tuple[socket.socket, bytes]:
        raise AssertionError("nothing takes the connection here")


class Recorder:
    """An engine's service that notes its calls and gives the answers it was told."""

    def __init__(self, **answers: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self._answers = answers

    def __getattr__(self, name: str) -> Any:
        answer = self._answers[name]

        async def later(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return answer

        def now(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            return answer() if callable(answer) else answer

        return now if name in ("wait", "logs", "content_type", "archive_get") else later


class FakeEngine:
    def __init__(self, service: Recorder) -> None:
        self.containers = self.execs = self.volumes = self.networks = service


def call(
    service: Recorder, method: str, target: str, body: bytes = b"", version: str = "1.47", **query: str
) -> AnyResponse:
    async def main() -> AnyResponse:
        request = Request(
            method, target, {name: [value] for name, value in query.items()}, {}, Body(body), version=version
        )
        handler, request.match = ROUTER.resolve(method, target)
        response = await handler(FakeEngine(service), request)
        if isinstance(response, StreamingResponse):
            response.headers["body"] = b"".join([chunk async for chunk in response.chunks]).decode()
        return response

    return asyncio.run(main())


def body_of(response: AnyResponse) -> Any:
    assert isinstance(response, Response)
    return json.loads(response.body)


def test_create_takes_name_config_host_config_and_networks() -> None:
    service = Recorder(create=("ab" * 32, ["careful"]))
    body = {
        "Image": "x",
        "Cmd": ["a"],
        "Entrypoint": None,
        "HostConfig": {
            "Binds": None,
            "Memory": 5,
            "UTSMode": "host",
            "Ulimits": [{"Name": "core", "Hard": 1}],
        },
        "NetworkingConfig": {
            "EndpointsConfig": {"net": {"Aliases": ["al"], "IPAMConfig": {"IPv4Address": "1.2.3.4"}}}
        },
    }
    raw = json.dumps(body).encode()
    response = call(service, "POST", "/containers/create", raw, name="/mine", platform="linux/arm")
    assert isinstance(response, Response) and response.status == 201
    assert body_of(response) == {"Id": "ab" * 32, "Warnings": ["careful"]}
    _, (name, decoded, platform), _ = service.calls[0]
    assert (name, platform) == ("/mine", "linux/arm")
    assert (decoded.image, decoded.cmd, decoded.host_config.memory) == ("x", ("a",), 5)
    assert decoded.host_config.uts_mode == "host"
    endpoint = decoded.networking_config.endpoints_config["net"]
    assert (endpoint.aliases, endpoint.ipam_config.ipv4_address) == (("al",), "1.2.3.4")


@pytest.mark.parametrize(("changed", "status"), [(True, 204), (False, 304)])
def test_start_and_stop_say_whether_something_changed(changed: bool, status: int) -> None:
    service = Recorder(start=changed, stop=changed)
    for path, query in (("/containers/x/start", {}), ("/containers/x/stop", {"t": "3", "signal": "HUP"})):
        response = call(service, "POST", path, **query)  # type: ignore[arg-type]
        assert isinstance(response, Response) and response.status == status
    assert service.calls == [("start", ("x",), {}), ("stop", ("x", 3, "HUP"), {})]


def test_wait_answers_with_the_code_when_it_comes() -> None:
    def answer() -> asyncio.Future[Waited]:
        future: asyncio.Future[Waited] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(future.set_result, Waited(7))
        return future

    service = Recorder(wait=answer)
    response = call(service, "POST", "/containers/x/wait", condition="removed")
    assert isinstance(response, StreamingResponse)
    assert response.flush_headers
    assert json.loads(response.headers["body"]) == {"StatusCode": 7, "Error": None}
    assert service.calls == [("wait", ("x", "removed"), {})]


def test_logs_options_are_decoded() -> None:
    async def chunks() -> Any:
        yield b"line"

    service = Recorder(logs=chunks, content_type="application/vnd.docker.multiplexed-stream")
    query = {"stdout": "1", "timestamps": "true", "tail": "5", "since": "1700000000.5", "until": "0"}
    response = call(service, "GET", "/containers/x/logs", **query)  # type: ignore[arg-type]
    assert isinstance(response, StreamingResponse)
    assert response.content_type == "application/vnd.docker.multiplexed-stream"
    _, (_, options), _ = service.calls[0]
    assert options == LogOptions(
        stdout=True, stderr=False, timestamps=True, tail=5, since_ns=1_700_000_000_500_000_000
    )


def test_old_clients_get_the_content_type_that_they_know() -> None:
    async def chunks() -> Any:
        yield b"line"

    service = Recorder(logs=chunks, content_type="application/vnd.docker.multiplexed-stream")
    response = call(service, "GET", "/containers/x/logs", version="1.41", stdout="1")
    assert isinstance(response, StreamingResponse)
    assert response.content_type == "application/vnd.docker.raw-stream"


def test_the_stat_of_a_path_is_in_a_header() -> None:
    stat = {"name": "etc", "size": 1, "mode": 2, "mtime": "", "linkTarget": ""}
    response = call(Recorder(archive_stat=stat), "HEAD", "/containers/x/archive", path="/etc")
    assert isinstance(response, Response)
    assert json.loads(base64.b64decode(response.headers["X-Docker-Container-Path-Stat"])) == stat
    with pytest.raises(Invalid, match="path cannot be empty"):
        call(Recorder(archive_stat=stat), "HEAD", "/containers/x/archive")


def test_update_passes_on_what_was_given() -> None:
    service = Recorder(update=[])
    body = b'{"Memory": 100, "CpuShares": 0, "RestartPolicy": {"Name": "always"}}'
    assert body_of(call(service, "POST", "/containers/x/update", body)) == {"Warnings": None}
    _, (_, wanted, changes), _ = service.calls[0]
    assert wanted == HostConfig(memory=100, restart_policy=RestartPolicy("always"))
    assert not changes.wanted


def test_a_terminal_has_a_sensible_size() -> None:
    with pytest.raises(Invalid, match="invalid terminal size"):
        call(Recorder(resize=None), "POST", "/containers/x/resize", h="70000", w="1")


def test_a_network_is_connected_with_its_endpoints_settings() -> None:
    service = Recorder(connect=None)
    body = b'{"Container": "c", "EndpointConfig": {"Aliases": ["a"], "GwPriority": 3}}'
    response = call(service, "POST", "/networks/n/connect", body)
    assert isinstance(response, Response) and response.status == 200
    _, (network, container, asked), _ = service.calls[0]
    assert (network, container, asked.aliases, asked.gw_priority) == ("n", "c", ("a",), 3)


def test_removal_has_its_flags() -> None:
    service = Recorder(remove=None)
    response = call(service, "DELETE", "/containers/x", force="1", v="true")
    assert isinstance(response, Response) and response.status == 204
    assert service.calls == [("remove", ("x",), {"force": True, "volumes": True})]


@pytest.mark.parametrize("kind", ["networks", "volumes"])
def test_a_trial_of_a_prune_takes_as_many_containers_for_gone_as_a_host_has(kind: str) -> None:
    """More than a request's head has room for."""
    gone = [f"{number:064x}" for number in range(5000)]
    service = Recorder(prune={})
    raw = json.dumps({"Without": gone}).encode()
    call(service, "POST", f"/{kind}/prune", raw, **{"dry-run": "1"})
    call(service, "POST", f"/{kind}/prune", **{"dry-run": "1"})
    call(service, "POST", f"/{kind}/prune", raw)
    assert [arguments for _, _, arguments in service.calls] == [
        {"dry_run": True, "without": frozenset(gone)},
        {"dry_run": True, "without": frozenset()},
        {"dry_run": False, "without": frozenset()},
    ]
