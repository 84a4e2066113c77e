"""Debian's docker command line on sampan's socket: what people type works as they know it."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def test_version_and_info_are_understood(sampan: Any) -> None:
    version = json.loads(sampan.docker("version", "--format", "{{json .}}").stdout)
    assert version["Server"]["Os"] == "linux"
    assert sampan.docker("info", "--format", "{{.OSType}} {{.Driver}} {{.Images}}").stdout.startswith(
        "linux "
    )
    assert sampan.docker("info").returncode == 0


def test_run_in_the_foreground_gives_output_streams_and_exit_code(sampan: Any) -> None:
    done = sampan.docker("run", "--rm", BUSYBOX, "sh", "-c", "echo out; echo err >&2; exit 42", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (42, "out\n", "err\n")


def test_much_output_arrives_whole(sampan: Any) -> None:
    done = sampan.docker("run", "--rm", BUSYBOX, "sh", "-c", "seq 1 200000")
    assert done.stdout == "".join(f"{n}\n" for n in range(1, 200001))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--nosuchflag", BUSYBOX, "true"], 125, "unknown flag"),
        (["nosuch.invalid/image:1", "true"], 125, "Unable to find image"),
        (["--network", "nosuchnet", BUSYBOX, "true"], 125, "network nosuchnet not found"),
        ([BUSYBOX, "/etc/passwd"], 126, "permission denied"),
        ([BUSYBOX, "nosuchcommand"], 127, "executable file not found in $PATH"),
        ([BUSYBOX, "/nosuch"], 127, "no such file or directory"),
        ([BUSYBOX, "sh", "-c", "exit 137"], 137, ""),
    ],
)
def test_run_fails_with_dockers_exit_code(sampan: Any, arguments: list[str], code: int, message: str) -> None:
    for client in (sampan.docker, sampan.run):
        done = client("run", "--rm", *arguments, **({"check": False} if client == sampan.docker else {}))
        assert done.returncode == code
        assert message in done.stderr


def test_input_is_piped_in_and_its_end_too(sampan: Any) -> None:
    data = os.urandom(300_000)
    done = sampan.docker("run", "-i", "--rm", BUSYBOX, "sha256sum", stdin=data)
    expected = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout.decode()
    assert done.stdout == expected


class Terminal:
    """The docker client at a terminal of its own."""

    def __init__(self, sampan: Any, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ["/usr/bin/docker", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=sampan.engine.environment,
        )
        os.close(slave)
        self.seen = b""

    def expect(self, text: bytes, timeout: float = 15) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} did not come; seen {self.seen!r}"
            try:
                self.seen += os.read(self._master, 65536)
            except OSError:
                assert text in self.seen, f"the terminal closed; seen {self.seen!r}"

    def type(self, text: bytes) -> None:
        os.write(self._master, text)

    def close(self) -> int:
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._master)


def test_a_terminal_is_interactive_and_gives_the_exit_code(sampan: Any) -> None:
    terminal = Terminal(sampan, "run", "--rm", "-it", BUSYBOX, "sh")
    terminal.expect(b"# ")
    terminal.type(b"tty; echo $((40+2)) here\n")
    terminal.expect(b"42 here")
    assert b"/dev/pts/0" in terminal.seen
    terminal.type(b"exit 7\n")
    assert terminal.close() == 7


def test_the_detach_keys_leave_the_container_running(sampan: Any) -> None:
    terminal = Terminal(sampan, "run", "-it", "--name", "detached", BUSYBOX, "sh")
    terminal.expect(b"# ")
    terminal.type(b"\x10\x11")
    terminal.close()
    assert sampan.docker("inspect", "-f", "{{.State.Running}}", "detached").stdout == "true\n"
    again = Terminal(sampan, "attach", "detached")
    again.type(b"echo back-$((1+1)); exit 3\n")
    again.expect(b"back-2")
    assert again.close() == 3


def test_an_exec_at_a_terminal(sampan: Any) -> None:
    sampan.docker("run", "-d", "--name", "target", BUSYBOX, "sleep", "1000")
    terminal = Terminal(sampan, "exec", "-it", "-e", "X=5", "target", "sh")
    terminal.expect(b"# ")
    terminal.type(b"echo x=$X; exit 9\n")
    terminal.expect(b"x=5")
    assert terminal.close() == 9


def test_detached_containers_are_listed_logged_and_removed(sampan: Any) -> None:
    container = sampan.docker(
        "run", "-d", "--name", "worker", "-l", "a=b", BUSYBOX, "sh", "-c", "echo one; sleep 1000"
    )
    assert len(container.stdout.strip()) == 64
    row = sampan.docker(
        "ps", "--filter", "label=a=b", "--format", "{{.Names}} {{.Image}} {{.State}} {{.Command}}"
    )
    assert row.stdout == 'worker busybox:latest running "sh -c \'echo one; sl…"\n'
    assert sampan.docker("logs", "worker").stdout == "one\n"
    stamped = sampan.docker("logs", "-t", "--tail", "1", "worker").stdout
    assert stamped.startswith("20") and stamped.endswith("Z one\n")
    sampan.docker("stop", "-t", "0", "worker")
    status = sampan.docker("inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "worker").stdout
    assert status == "exited 137\n"
    sampan.docker("restart", "-t", "0", "worker")
    assert sampan.docker("inspect", "-f", "{{.State.Running}}", "worker").stdout == "true\n"
    refused = sampan.docker("rm", "worker", check=False)
    assert refused.returncode == 1
    assert "cannot remove" in refused.stderr.lower()
    sampan.docker("kill", "-s", "KILL", "worker")
    assert sampan.docker("wait", "worker").stdout == "137\n"
    sampan.docker("rm", "worker")
    assert sampan.docker("ps", "-aq").stdout == ""


def test_logs_are_followed_to_the_end_of_the_container(sampan: Any) -> None:
    script = "for i in 1 2 3 4 5; do echo line $i; sleep 0.1; done; echo last >&2"
    sampan.docker("run", "-d", "--name", "talker", BUSYBOX, "sh", "-c", script)
    done = sampan.docker("logs", "-f", "talker")
    assert done.stdout == "".join(f"line {i}\n" for i in range(1, 6))
    assert done.stderr == "last\n"


def test_exec_has_streams_input_environment_and_exit_code(sampan: Any) -> None:
    sampan.docker("run", "-d", "--name", "target", BUSYBOX, "sleep", "1000")
    done = sampan.docker(
        "exec", "-i", "-u", "nobody", "-w", "/tmp", "-e", "K=v", "target",
        "sh", "-c", "cat; id -un; pwd; echo $K; echo bad >&2; exit 5",
        stdin=b"typed\n", check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (5, "typed\nnobody\n/tmp\nv\n", "bad\n")
    assert sampan.docker("exec", "target", "nosuch", check=False).returncode == 127
    assert sampan.docker("exec", "target", "/etc/passwd", check=False).returncode == 126
    sampan.docker("exec", "-d", "target", "touch", "/tmp/made")
    top = sampan.docker("top", "target").stdout
    assert "sleep 1000" in top


def test_attach_shows_what_is_written_from_then_on(sampan: Any) -> None:
    script = "read line; echo got $line; exit 6"
    sampan.docker("create", "-i", "--name", "asks", BUSYBOX, "sh", "-c", script)
    done = sampan.docker("start", "-a", "-i", "asks", stdin=b"this\n", check=False)
    assert (done.returncode, done.stdout) == (6, "got this\n")


def test_files_are_copied_both_ways(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "file").write_text("content\n")
    (tmp_path / "in" / "link").symlink_to("file")
    sampan.docker("run", "-d", "--name", "files", BUSYBOX, "sleep", "1000")
    sampan.docker("cp", str(tmp_path / "in"), "files:/data")
    assert sampan.docker("exec", "files", "cat", "/data/link").stdout == "content\n"
    sampan.docker("exec", "files", "sh", "-c", "echo more >> /data/file")
    sampan.docker("cp", "files:/data", str(tmp_path / "out"))
    assert (tmp_path / "out" / "file").read_text() == "content\nmore\n"
    assert os.readlink(tmp_path / "out" / "link") == "file"
    archive = subprocess.run(
        ["/usr/bin/docker", "cp", "files:/data/file", "-"],
        env=sampan.engine.environment, capture_output=True, check=True,
    ).stdout  # fmt: skip
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert tar.getnames() == ["file"]
    missing = sampan.docker("cp", "files:/nosuch", str(tmp_path / "x"), check=False)
    assert missing.returncode == 1
    assert "files:/nosuch" in missing.stderr
    assert sampan.docker("diff", "files").stdout.splitlines() == ["A /data", "A /data/file", "A /data/link"]


def test_a_build_with_arguments_and_stages(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox AS first\nARG WHO=nobody\nRUN echo hello $WHO > /greeting\n"
        "FROM busybox\nCOPY --from=first /greeting /greeting\nCOPY . /src/\nENV A=b\nCMD cat /greeting\n"
    )
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ".dockerignore").write_text("secret\n")
    built = sampan.docker("build", "-t", "cli-built:1", "--build-arg", "WHO=world", str(tmp_path))
    assert "Successfully tagged cli-built:1" in built.stdout
    assert sampan.docker("run", "--rm", "cli-built:1").stdout == "hello world\n"
    listing = sampan.docker("run", "--rm", "cli-built:1", "ls", "-A", "/src").stdout.split()
    assert listing == [".dockerignore", "Dockerfile", "kept"]
    again = sampan.docker("build", "-q", "--build-arg", "WHO=world", str(tmp_path)).stdout.strip()
    assert again == sampan.docker("image", "inspect", "-f", "{{.Id}}", "cli-built:1").stdout.strip()
    assert "cli-built" in sampan.docker("images").stdout
    assert "CMD" in sampan.docker("history", "cli-built:1").stdout
    assert sampan.docker("rmi", "cli-built:1").stdout.startswith("Untagged: cli-built:1\n")


def test_a_dockerfile_from_elsewhere_is_built(sampan: Any, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "kept").write_text("kept")
    text = "FROM busybox\nCOPY . /all\nRUN ls -A /all\n"
    (tmp_path / "Outside").write_text(text)
    for dockerfile, stdin in ((str(tmp_path / "Outside"), None), ("-", text.encode())):
        built = sampan.docker("build", "-f", dockerfile, str(context), stdin=stdin)
        assert "Successfully built" in built.stdout
    assert (
        "\nkept\n" in sampan.docker("build", "--no-cache", "-f", dockerfile, str(context), stdin=stdin).stdout
    )


def test_a_quiet_build_tells_its_output_when_it_fails(sampan: Any) -> None:
    text = b"FROM busybox\nRUN echo shown; exit 3\n"
    failed = sampan.docker("build", "-q", "-", stdin=text, check=False)
    assert failed.returncode == 3
    assert "\nshown\n" in failed.stdout + failed.stderr


def test_volumes_are_made_used_listed_and_removed(sampan: Any) -> None:
    assert sampan.docker("volume", "create", "--label", "x=y", "data").stdout == "data\n"
    sampan.docker("run", "--rm", "-v", "data:/d", BUSYBOX, "sh", "-c", "echo kept > /d/f")
    assert sampan.docker("run", "--rm", "-v", "data:/d:ro", BUSYBOX, "cat", "/d/f").stdout == "kept\n"
    assert sampan.docker("volume", "ls", "-q", "--filter", "label=x=y").stdout == "data\n"
    assert sampan.docker("volume", "inspect", "-f", "{{.Driver}}", "data").stdout == "local\n"
    sampan.docker("create", "--name", "user", "-v", "data:/d", BUSYBOX)
    busy = sampan.docker("volume", "rm", "data", check=False)
    assert busy.returncode == 1
    assert "volume is in use" in busy.stderr
    sampan.docker("rm", "user")
    assert sampan.docker("volume", "rm", "data").stdout == "data\n"
    assert sampan.docker("volume", "inspect", "data", check=False).returncode == 1


def test_networks_are_made_joined_and_removed(sampan: Any) -> None:
    sampan.docker("network", "create", "--subnet", "10.191.7.0/24", "side")
    sampan.docker("run", "-d", "--name", "n1", BUSYBOX, "sleep", "1000")
    sampan.docker("network", "connect", "--alias", "other", "--ip", "10.191.7.9", "side", "n1")
    pinged = sampan.docker("run", "--rm", "--network", "side", BUSYBOX, "ping", "-c", "1", "-W", "3", "other")
    assert "10.191.7.9" in pinged.stdout
    template = "{{range .Containers}}{{.Name}} {{.IPv4Address}}{{end}}"
    assert sampan.docker("network", "inspect", "-f", template, "side").stdout == "n1 10.191.7.9/24\n"
    busy = sampan.docker("network", "rm", "side", check=False)
    assert busy.returncode == 1
    assert "has active endpoints" in busy.stderr
    sampan.docker("network", "disconnect", "side", "n1")
    assert sampan.docker("network", "rm", "side").stdout == "side\n"


def test_an_image_is_tagged_pushed_removed_and_pulled_back(sampan: Any, session_registry: Any) -> None:
    name = f"{session_registry.host}/team/box:v1"
    sampan.docker("tag", BUSYBOX, name)
    before = sampan.docker("image", "inspect", "-f", "{{.Id}}", name).stdout
    assert "v1: digest: sha256:" in sampan.docker("push", name).stdout
    sampan.docker("rmi", name)
    pulled = sampan.docker("pull", name).stdout
    assert f"Status: Downloaded newer image for {name}" in pulled or "Status: Image is up to date" in pulled
    assert sampan.docker("image", "inspect", "-f", "{{.Id}}", name).stdout == before
    sampan.docker("rmi", name)


def test_an_image_is_saved_and_loaded(sampan: Any, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"
    sampan.docker("tag", BUSYBOX, "saved:1")
    sampan.docker("save", "-o", str(archive), "saved:1")
    sampan.docker("rmi", "saved:1")
    assert sampan.docker("load", "-i", str(archive)).stdout == "Loaded image: saved:1\n"
    sampan.docker("run", "--name", "changed", "saved:1", "touch", "/new")
    exported = tmp_path / "tree.tar"
    sampan.docker("export", "-o", str(exported), "changed")
    sampan.docker("import", str(exported), "imported:1")
    assert sampan.docker("run", "--rm", "imported:1", "ls", "/new").stdout == "/new\n"
    committed = sampan.docker("commit", "changed", "committed:1").stdout.strip()
    assert committed.startswith("sha256:")
    assert sampan.docker("run", "--rm", "committed:1", "ls", "/new").stdout == "/new\n"
    sampan.docker("rm", "changed")
    sampan.docker("rmi", "saved:1", "imported:1", "committed:1")


def test_events_tell_the_life_of_a_container(sampan: Any) -> None:
    begin = f"{time.time():.3f}"
    sampan.docker("run", "--rm", "--name", "short", BUSYBOX, "true")
    end = f"{time.time() + 1:.3f}"
    template = "{{.Type}} {{.Action}}"
    shown = sampan.docker(
        "events", "--since", begin, "--until", end, "--format", template
    ).stdout.splitlines()
    for line in (
        "container create",
        "container start",
        "container die",
        "container destroy",
        "network connect",
    ):
        assert line in shown
    order = [shown.index(f"container {action}") for action in ("create", "start", "die", "destroy")]
    assert order == sorted(order)


def test_disk_usage_and_pruning(sampan: Any) -> None:
    sampan.docker("run", "--name", "ended", BUSYBOX, "true")
    sampan.docker("volume", "create", "unused")
    assert "Local Volumes" in sampan.docker("system", "df").stdout
    assert "ended" in sampan.docker("system", "df", "-v").stdout
    pruned = sampan.docker("system", "prune", "-f").stdout
    assert "Deleted Containers:" in pruned and "Total reclaimed space:" in pruned
    assert sampan.docker("ps", "-aq").stdout == ""
    assert BUSYBOX.split(":")[0] in sampan.docker("images").stdout


def test_wait_tells_the_exit_code(sampan: Any) -> None:
    sampan.docker("run", "-d", "--name", "waited", BUSYBOX, "sh", "-c", "sleep 0.3; exit 17")
    assert sampan.docker("wait", "waited").stdout == "17\n"


def test_rename_pause_update_port_and_stats(sampan: Any) -> None:
    sampan.docker("run", "-d", "--name", "old", "-p", "127.0.0.1::80", "-m", "64m", BUSYBOX, "sleep", "1000")
    sampan.docker("rename", "old", "new")
    port = sampan.docker("port", "new", "80").stdout.strip()
    assert port.startswith("127.0.0.1:")
    sampan.docker("pause", "new")
    assert sampan.docker("ps", "--format", "{{.Status}}").stdout.strip().endswith("(Paused)")
    sampan.docker("unpause", "new")
    sampan.docker("update", "-m", "96m", "--memory-swap", "96m", "new")
    stats = sampan.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", "new").stdout
    assert stats.startswith("new ") and "/ 96MiB" in stats


def test_a_health_check_is_shown(sampan: Any, wait_until: Any) -> None:
    sampan.docker(
        "run", "-d", "--name", "checked", "--health-cmd", "test -e /ok", "--health-interval", "200ms",
        "--health-retries", "1", BUSYBOX, "sleep", "1000",
    )  # fmt: skip

    def health() -> str:
        return sampan.docker("inspect", "-f", "{{.State.Health.Status}}", "checked").stdout.strip()

    wait_until(lambda: health() == "unhealthy", "the unhealthy state")
    sampan.docker("exec", "checked", "touch", "/ok")
    wait_until(lambda: health() == "healthy", "the healthy state")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["start", "nosuch"], "No such container: nosuch"),
        (["logs", "nosuch"], "No such container: nosuch"),
        (["inspect", "nosuch"], "No such object: nosuch"),
        (["rmi", "nosuch"], "No such image: nosuch"),
        (["network", "rm", "nosuch"], "nosuch"),
        (["volume", "rm", "nosuch"], "No such volume: nosuch"),
        (["tag", "nosuch", "other"], "No such image: nosuch"),
        (["exec", "nosuch", "true"], "No such container: nosuch"),
    ],
)
def test_what_does_not_exist_is_told_in_dockers_words(
    sampan: Any, arguments: list[str], message: str
) -> None:
    done = sampan.docker(*arguments, check=False)
    assert done.returncode == 1
    assert message in done.stderr
