"""The main job, end to end: from Dockerfiles to a published, running application.

Every step is a command that a person would type; each is printed before it runs. Everything lives
below `.demo/` (its own engine, registry and network), and is removed at the end unless --keep is given.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parents[1]
PROJECT = EXAMPLES.parent
STATE = PROJECT / ".demo"
SAMPAN = Path(sys.executable).with_name("sampan")
BRIDGE = "smpdemo0"
PASSWORD = "correct-horse"
READY_SECONDS = 60


class DemoFailed(Exception):
    pass


class Demo:
    def __init__(self) -> None:
        self.socket = STATE / "run" / "sampan.sock"
        self.environment = {**os.environ, "SAMPAN_HOST": f"unix://{self.socket}"}
        self.daemon: subprocess.Popen[bytes] | None = None
        self.registry: subprocess.Popen[bytes] | None = None
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        print(f"\n=== [{time.monotonic() - self.started:5.1f} s] {text}", flush=True)

    def sampan(self, *arguments: str, quiet: bool = False) -> str:
        """Run a sampan command; its standard output."""
        print(f"$ sampan {shlex.join(arguments)}", flush=True)
        result = subprocess.run(
            [SAMPAN, *arguments], env=self.environment, cwd=PROJECT, stdout=subprocess.PIPE, text=True
        )
        if not quiet and result.stdout:
            print(_shortened(result.stdout), flush=True)
        if result.returncode != 0:
            raise DemoFailed(
                f"sampan {arguments[0]} ended with exit code {result.returncode}\n{result.stdout}"
            )
        return result.stdout.strip()

    def start_engine(self) -> None:
        STATE.mkdir(exist_ok=True)
        command = [SAMPAN, "daemon", "--root", STATE / "root", "--run", STATE / "run", "--bridge", BRIDGE]
        print("$", shlex.join(str(part) for part in command), "&", flush=True)
        read_end, write_end = os.pipe()
        with open(STATE / "daemon.log", "ab") as log:
            self.daemon = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(write_end,),
                env={**os.environ, "SAMPAN_READY_FD": str(write_end)},
                start_new_session=True,
            )
        os.close(write_end)
        try:
            if os.read(read_end, 1) == b"":  # returns when the engine serves, or when it has ended
                raise DemoFailed("the engine did not start:\n" + (STATE / "daemon.log").read_text())
        finally:
            os.close(read_end)

    def start_registry(self) -> str:
        """Debian's docker-registry on a free port of the loopback; its host:port."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        config = STATE / "registry.yml"
        config.write_text(
            "version: 0.1\n"
            f"storage: {{filesystem: {{rootdirectory: {STATE / 'registry'}}}}}\n"
            f"http: {{addr: '{address}'}}\n"
        )
        with open(STATE / "registry.log", "ab") as log:
            self.registry = subprocess.Popen(
                ["docker-registry", "serve", config], stdout=log, stderr=log, start_new_session=True
            )
        wait_for_http(f"http://{address}/v2/")
        return address

    def base_images(self) -> None:
        self.say("Base images: Debian from its package mirror, Python and PostgreSQL on top of it")
        self.sampan("image", "bootstrap", "debian:bookworm-slim")
        for name, directory in (("python:3.11-slim", "python"), ("postgres:15", "postgres")):
            self.sampan("build", "-q", "--host-ca", "-t", name, f"examples/images/{directory}")
        self.sampan("images")

    def publish(self, registry: str) -> str:
        self.say("The application: built from its Dockerfile, pushed to the registry and pulled back")
        image = f"{registry}/guestbook:v1.0.0"
        self.sampan("build", "--host-ca", "-t", "guestbook:latest", "examples/demo/app")
        self.sampan("tag", "guestbook:latest", image)
        self.sampan("push", image)
        self.sampan("rmi", image, "guestbook:latest")
        self.sampan("builder", "prune", "-f")  # so that the pull really brings the layers
        self.sampan("pull", image)
        return image

    def run(self, image: str) -> str:
        self.say("Application and database, joined by a network, the data in a named volume")
        self.sampan("network", "create", "shop")
        self.sampan("volume", "create", "guestbook-data")
        self.sampan(
            "run", "-d", "--name", "db", "--network", "shop",
            "-e", "POSTGRES_USER=guest", "-e", f"POSTGRES_PASSWORD={PASSWORD}", "-e", "POSTGRES_DB=guestbook",
            "-v", "guestbook-data:/var/lib/postgresql/data", "postgres:15",
        )  # fmt: skip
        self.sampan(
            "run", "-d", "--name", "web", "--network", "shop", "-p", "127.0.0.1::8000",
            "-e", f"DATABASE_URL=postgres://guest:{PASSWORD}@db:5432/guestbook", image,
        )  # fmt: skip
        self.sampan("ps")
        return "http://" + self.sampan("port", "web", "8000/tcp").splitlines()[0]

    def use(self, url: str) -> None:
        self.say("A request that goes through to the database")
        wait_for_http(url)
        print(f"$ curl --data 'hello from the demo' {url}")
        number = http(url, b"hello from the demo")
        print(f"{number}\n$ curl {url}")
        before = http(url)
        print(before)
        if before != ["hello from the demo"]:
            raise DemoFailed(f"the database answered {before!r}")
        self.say("The database container is restarted; the data is still there")
        self.sampan("restart", "db")
        wait_for_http(url)
        print(f"$ curl {url}")
        after = http(url)
        print(after)
        if after != before:
            raise DemoFailed(f"before the restart {before!r}, after it {after!r}")
        self.sampan("logs", "--tail", "3", "db")

    def stop(self) -> None:
        """Remove everything, whatever state it is in."""
        if self.daemon is not None and self.daemon.poll() is None:
            with contextlib.suppress(DemoFailed):
                containers = self.sampan("ps", "-aq", quiet=True).split()
                if containers:
                    self.sampan("rm", "-f", "-v", *containers, quiet=True)
            _end(self.daemon)
        if self.registry is not None:
            _end(self.registry)
        shutil.rmtree(STATE)

    def leave_running(self, url: str) -> None:
        self.say(f"Left running: {url}")
        print(f"export SAMPAN_HOST=unix://{self.socket}")
        print("sampan ps    # and everything else")
        print("make demo    # starts over, and cleans up")
        running = [process.pid for process in (self.daemon, self.registry) if process is not None]
        (STATE / "pids").write_text(json.dumps(running))


def http(url: str, data: bytes | None = None) -> object:
    with urllib.request.urlopen(url, data, timeout=10) as response:
        return json.loads(response.read() or b"null")


def wait_for_http(url: str) -> None:
    """Until the service answers with success; a starting server offers nothing better to wait on."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            http(url)
            return
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > deadline:
                raise DemoFailed(f"{url} did not answer within {READY_SECONDS} s: {error}") from error
            time.sleep(0.1)


def _shortened(text: str, lines: int = 30) -> str:
    parts = text.rstrip().splitlines()
    if len(parts) <= lines:
        return "\n".join(parts)
    return "\n".join(
        [*parts[: lines // 2], f"... {len(parts) - lines} more lines ...", *parts[-lines // 2 :]]
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(30)


def end_earlier_demo() -> None:
    """A demo that was left running (KEEP=1) is ended before a new one starts."""
    pids = STATE / "pids"
    if pids.exists():
        demo = Demo()
        with contextlib.suppress(DemoFailed):
            containers = demo.sampan("ps", "-aq", quiet=True).split()
            if containers:
                demo.sampan("rm", "-f", "-v", *containers, quiet=True)
        for pid in json.loads(pids.read_text()):
            _end_by_pid(pid)
    if STATE.exists():
        shutil.rmtree(STATE)


def _end_by_pid(pid: int) -> None:
    try:
        if str(STATE).encode() not in Path(f"/proc/{pid}/cmdline").read_bytes():
            return  # the number belongs to somebody else now
        handle = os.pidfd_open(pid)
    except (FileNotFoundError, ProcessLookupError):
        return
    try:
        signal.pidfd_send_signal(handle, signal.SIGTERM)
        select.select([handle], [], [], 30)
    finally:
        os.close(handle)


@contextlib.contextmanager
def demo_session(keep: bool) -> Iterator[Demo]:
    demo = Demo()
    try:
        yield demo
    except BaseException:
        log = STATE / "daemon.log"
        if log.exists():
            print(f"--- the engine's log:\n{_shortened(log.read_text(errors='replace'))}", file=sys.stderr)
        demo.stop()
        raise
    if not keep:
        demo.say("Cleaning up")
        demo.stop()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave everything running and say the URL")
    keep = parser.parse_args().keep
    if os.geteuid() != 0:
        print("the demo needs root (containers, networks): run it with sudo", file=sys.stderr)
        return 1
    end_earlier_demo()
    try:
        with demo_session(keep) as demo:
            demo.say("An engine and a registry of their own, below .demo/")
            demo.start_engine()
            registry = demo.start_registry()
            demo.base_images()
            image = demo.publish(registry)
            url = demo.run(image)
            demo.use(url)
            if keep:
                demo.leave_running(url)
    except DemoFailed as error:
        print(f"demo failed: {error}", file=sys.stderr)
        return 1
    demo.say("Done: everything worked")
    return 0


if __name__ == "__main__":
    sys.exit(main())
