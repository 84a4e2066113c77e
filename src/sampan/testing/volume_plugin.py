"""A volume plugin for tests: Docker's plugin protocol on a Unix socket, volumes as directories, every call noted."""

from __future__ import annotations

import json
import socketserver
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Json = dict[str, Any]


class VolumePlugin:
    """A context manager. `calls`: (method, body) in order; `refuse`: method -> the error it answers with."""

    def __init__(self, socket: Path, data: Path) -> None:
        self.calls: list[tuple[str, Json]] = []
        self.refuse: dict[str, str] = {}
        self.implements = ["VolumeDriver"]
        self.volumes: dict[str, Json] = {}
        self.mounted: dict[str, set[str]] = {}
        self._socket = socket
        self._data = data
        plugin = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"{}")
                answer = json.dumps(plugin.answer(self.path.removeprefix("/"), body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/vnd.docker.plugins.v1.2+json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Nothing: the tests look at `calls`."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True

            def get_request(self) -> tuple[Any, Any]:
                connection, _ = super().get_request()
                return connection, ("plugin", 0)

        def make() -> socketserver.ThreadingUnixStreamServer:
            return Server(str(socket), Handler)

        self._make = make
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def __enter__(self) -> VolumePlugin:
        self._socket.parent.mkdir(parents=True, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        self._server = self._make()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self._socket.unlink(missing_ok=True)

    def made(self, method: str) -> list[Json]:
        """The bodies of the calls of one method."""
        return [body for name, body in self.calls if name == f"VolumeDriver.{method}"]

    def answer(self, method: str, body: Json) -> Json:
        self.calls.append((method, body))
        if method == "Plugin.Activate":
            return {"Implements": self.implements}
        verb = method.removeprefix("VolumeDriver.")
        if verb in self.refuse:
            return {"Err": self.refuse[verb]}
        return dict(getattr(self, f"_{verb.lower()}")(body.get("Name", ""), body))

    def _capabilities(self, _name: str, _body: Json) -> Json:
        return {"Capabilities": {"Scope": "global"}}

    def _create(self, name: str, body: Json) -> Json:
        (self._data / name).mkdir(parents=True, exist_ok=True)
        self.volumes[name] = body.get("Opts") or {}
        return {"Err": ""}

    def _remove(self, name: str, _body: Json) -> Json:
        return {"Err": ""} if self.volumes.pop(name, None) is not None else {"Err": f"no volume {name}"}

    def _mount(self, name: str, body: Json) -> Json:
        if name not in self.volumes:
            return {"Err": f"no volume {name}"}
        self.mounted.setdefault(name, set()).add(body["ID"])
        return {"Mountpoint": str(self._data / name), "Err": ""}

    def _unmount(self, name: str, body: Json) -> Json:
        users = self.mounted.get(name, set())
        if body["ID"] not in users:
            return {"Err": f"{body['ID']} has not mounted {name}"}
        users.remove(body["ID"])
        return {"Err": ""}

    def _path(self, name: str, _body: Json) -> Json:
        return {"Mountpoint": self._place(name), "Err": ""}

    def _place(self, name: str) -> str:
        return str(self._data / name) if self.mounted.get(name) else ""

    def _get(self, name: str, _body: Json) -> Json:
        if name not in self.volumes:
            return {"Err": f"no volume {name}"}
        status = {"options": self.volumes[name]}
        return {"Volume": {"Name": name, "Mountpoint": self._place(name), "Status": status}, "Err": ""}

    def _list(self, _name: str, _body: Json) -> Json:
        found = [{"Name": name, "Mountpoint": self._place(name)} for name in self.volumes]
        return {"Volumes": found, "Err": ""}
