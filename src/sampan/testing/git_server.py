"""Git repositories on loopback: Git's own HTTP backend behind a small server, which also serves files."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BACKEND = "/usr/lib/git-core/git-http-backend"
ENVIRONMENT = {
    "PATH": os.environ.get("PATH", os.defpath),
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.com",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.com",
    "GIT_AUTHOR_DATE": "2001-09-09T01:46:40Z",
    "GIT_COMMITTER_DATE": "2001-09-09T01:46:40Z",
}


def git(folder: Path, *args: str, data: bytes | None = None) -> str:
    """What `git` writes, without the last newline; no configuration of the host's plays a part."""
    command = ["git", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always", *args]
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, input=data, check=True, capture_output=True)
    return done.stdout.decode().strip()


class GitServer:
    """Repositories below `root`, and `files` (path -> content), each with an ETag of its content.

    What is below `/private/` needs credentials.

    `asked`: the last part of each path that was asked for; `authorizations`: the headers that came.
    """

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.files: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.authorizations: set[str] = set()
        handler = type("Handler", (_Handler,), {"site": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        # A connection can vanish between select and accept, which would then wait for ever.
        self._server.socket.settimeout(1)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def repository(self, name: str, files: dict[str, str]) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True)
        git(folder, "init", "-q")
        git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
        self.commit(folder, files)
        return folder

    def commit(self, folder: Path, files: dict[str, str]) -> str:
        """The commit's id."""
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", "change")
        return git(folder, "rev-parse", "HEAD")

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    """CGI for git-http-backend."""

    site: GitServer

    def do_GET(self) -> None:
        content = self.site.files.get(self.path)
        if content is None:
            self._run(b"")
            return
        tag = f'"{hashlib.sha256(content).hexdigest()}"'
        if self.headers.get("If-None-Match") == tag:
            self.send_response(304)
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self._run(self.rfile.read(int(self.headers.get("Content-Length", "0"))))

    def _run(self, body: bytes) -> None:
        path, _, query = self.path.partition("?")
        self.site.asked.append(path.rpartition("/")[2])
        self.site.authorizations.add(self.headers.get("Authorization", ""))
        if path.startswith("/private/") and not self.headers.get("Authorization"):
            self.send_response(401)
            self.end_headers()
            return
        env = {
            **ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.site.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run([BACKEND], input=body, env=env, capture_output=True, check=False)
        head, _, rest = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        self.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest)

    def log_message(self, format: str, *args: object) -> None:
        pass
