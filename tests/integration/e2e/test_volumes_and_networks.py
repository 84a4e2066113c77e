"""Volumes, published ports and names between containers, through sampan's command line."""

from __future__ import annotations

import os
import socket
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"
HTTPD = ["httpd", "-f", "-p", "80", "-h", "/etc"]
# The host's perl: busybox has no UDP server that answers.
UDP_ECHO = """
use IO::Socket::INET;
my $socket = IO::Socket::INET->new(LocalPort => 53, Proto => "udp") or die;
$| = 1; print "listening\n";
while (my $peer = $socket->recv(my $data, 1000)) { $socket->send($data) }
"""
HOST_PROGRAMS = ["-v", "/usr:/usr:ro", "-v", "/usr/lib:/lib:ro", "-v", "/usr/lib64:/lib64:ro"]


def host_address() -> str:
    """An address of this machine that is not a loopback one."""
    route = subprocess.run(
        ["ip", "-o", "-4", "addr", "show", "scope", "global"], capture_output=True, text=True
    )
    for line in route.stdout.splitlines():
        fields = line.split()
        if not fields[1].startswith(("br-", "smp", "docker", "veth")):
            return fields[3].split("/")[0]
    pytest.fail("this machine has no address but its loopback's")


def fetch(address: str, port: int | str) -> str:
    with urllib.request.urlopen(f"http://{address}:{port}/passwd", timeout=10) as answer:
        body: bytes = answer.read()
    return body.decode()


def port_of(sampan: Any, container: str, inner: str) -> int:
    lines: str = sampan.ok("port", container, inner)
    return int(lines.splitlines()[0].rpartition(":")[2])


def test_content_of_the_image_is_copied_into_a_new_named_volume(sampan: Any, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\nRUN mkdir -p /data/sub && echo original > /data/sub/f && chown -R 7:8 /data"
        " && chmod 750 /data/sub && ln -s sub/f /data/link\nVOLUME /data\n"
    )
    sampan.ok("build", "-t", "withdata:1", str(tmp_path))
    script = "cat /data/link; stat -c '%u:%g %a' /data/sub; echo changed > /data/sub/f"
    assert (
        sampan.ok("run", "--rm", "-v", "filled:/data", "withdata:1", "sh", "-c", script)
        == "original\n7:8 750"
    )
    assert sampan.ok("run", "--rm", "-v", "filled:/data", "withdata:1", "cat", "/data/sub/f") == "changed"
    assert sampan.ok("run", "--rm", "-v", "bare:/data:nocopy", "withdata:1", "ls", "/data") == ""
    assert sampan.ok("run", "--rm", "withdata:1", "cat", "/data/sub/f") == "original"
    assert sorted(sampan.ok("volume", "ls", "-q").split()) == ["bare", "filled"]
    sampan.ok("rmi", "withdata:1")


def test_volumes_of_another_container(sampan: Any) -> None:
    sampan.ok("run", "--name", "holder", "-v", "/shared", BUSYBOX, "sh", "-c", "echo from holder > /shared/f")
    assert sampan.ok("run", "--rm", "--volumes-from", "holder", BUSYBOX, "cat", "/shared/f") == "from holder"
    assert sampan.ok("volume", "ls", "-q") != ""
    sampan.ok("rm", "-v", "holder")
    assert sampan.ok("volume", "ls", "-q") == ""


def test_volume_prune_takes_what_nobody_uses(sampan: Any) -> None:
    sampan.ok("create", "--name", "user", "-v", "used:/u", "-v", "/anonused", BUSYBOX)
    sampan.ok("run", "--name", "gone", "-v", "/anon", BUSYBOX, "true")
    sampan.ok("rm", "gone")
    sampan.ok("volume", "create", "unused")
    sampan.ok("volume", "prune", "-f")
    assert "unused" in sampan.ok("volume", "ls", "-q").split()
    assert len(sampan.ok("volume", "ls", "-q").split()) == 3
    sampan.ok("volume", "prune", "-af")
    assert "unused" not in sampan.ok("volume", "ls", "-q").split()
    assert len(sampan.ok("volume", "ls", "-q").split()) == 2


def test_names_are_resolved_between_containers_of_a_network(sampan: Any) -> None:
    sampan.ok("network", "create", "appnet")
    sampan.ok(
        "run", "-d", "--name", "db", "--network", "appnet", "--network-alias", "database", BUSYBOX, *HTTPD
    )
    for name in ("db", "database", sampan.ok("inspect", "-f", "{{.Id}}", "db")[:12]):
        fetched = sampan.ok(
            "run", "--rm", "--network", "appnet", BUSYBOX, "wget", "-qO-", f"http://{name}/passwd"
        )
        assert fetched.startswith("root:")
    sampan.ok("rename", "db", "renamed")
    again = sampan.ok("run", "--rm", "--network", "appnet", BUSYBOX, "wget", "-qO-", "http://renamed/passwd")
    assert again.startswith("root:")
    elsewhere = sampan.run("run", "--rm", BUSYBOX, "nslookup", "renamed")
    assert elsewhere.returncode != 0


def test_a_published_tcp_port_is_reached_from_everywhere(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "web", "-p", "80", BUSYBOX, *HTTPD)
    port = port_of(sampan, "web", "80/tcp")
    here = host_address()
    assert fetch("127.0.0.1", port).startswith("root:")
    assert fetch(here, port).startswith("root:")
    assert fetch("[::1]", port).startswith("root:")
    inside = sampan.ok("run", "--rm", BUSYBOX, "wget", "-qO-", f"http://{here}:{port}/passwd")
    assert inside.startswith("root:")
    own = sampan.ok("exec", "web", "wget", "-qO-", f"http://{here}:{port}/passwd")
    assert own.startswith("root:")
    sampan.ok("network", "create", "other")
    across = sampan.ok(
        "run",
        "--rm",
        "--network",
        "other",
        BUSYBOX,
        "wget",
        "-qO-",
        f"http://{here}:{port}/passwd",
    )
    assert across.startswith("root:")


def test_a_published_udp_port_is_reached_from_everywhere(sampan: Any) -> None:
    sampan.ok(
        "run",
        "-d",
        "--name",
        "echo",
        "-p",
        "53/udp",
        *HOST_PROGRAMS,
        BUSYBOX,
        "/usr/bin/perl",
        "-e",
        UDP_ECHO,
    )
    with sampan.start("logs", "-f", "echo") as log:
        assert log.stdout.readline() == b"listening\n"
        log.kill()
    port = port_of(sampan, "echo", "53/udp")
    here = host_address()
    for address in ("127.0.0.1", here):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.sendto(b"ping over udp\n", (address, port))
            assert client.recvfrom(100) == (b"ping over udp\n", (address, port))
    ask = 'my $s = IO::Socket::INET->new(PeerAddr => $ARGV[0], Proto => "udp"); $s->send("x y");'
    ask += "$s->recv(my $d, 99); print $d"
    command = ["/usr/bin/perl", "-MIO::Socket::INET", "-e", ask, f"{here}:{port}"]
    assert sampan.ok("run", "--rm", *HOST_PROGRAMS, BUSYBOX, *command) == "x y"


def test_a_port_on_one_address_is_on_that_address_only(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "local", "-p", "127.0.0.1::80", BUSYBOX, *HTTPD)
    port = port_of(sampan, "local", "80")
    assert sampan.ok("port", "local") == f"80/tcp -> 127.0.0.1:{port}"
    assert fetch("127.0.0.1", port).startswith("root:")
    with pytest.raises(OSError):
        fetch(host_address(), port)


def test_ranges_and_all_exposed_ports(sampan: Any, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        first = probe.getsockname()[1]
    first = 20000 + first % 10000
    sampan.ok("run", "-d", "--name", "ranged", "-p", f"127.0.0.1:{first}-{first + 2}:80-82", BUSYBOX, *HTTPD)
    assert sampan.ok("port", "ranged").splitlines() == [
        f"{80 + n}/tcp -> 127.0.0.1:{first + n}" for n in range(3)
    ]
    assert fetch("127.0.0.1", first).startswith("root:")
    (tmp_path / "Dockerfile").write_text("FROM busybox\nEXPOSE 80 53/udp\nCMD httpd -f -p 80 -h /etc\n")
    sampan.ok("build", "-t", "exposing:1", str(tmp_path))
    sampan.ok("run", "-d", "--name", "all", "-P", "--expose", "81", "exposing:1")
    lines = sampan.ok("port", "all").splitlines()
    assert {line.split(" ")[0] for line in lines} == {"80/tcp", "81/tcp", "53/udp"}
    assert all(int(line.rpartition(":")[2]) >= 32768 for line in lines)
    assert fetch("127.0.0.1", port_of(sampan, "all", "80")).startswith("root:")


def test_a_port_in_use_is_refused_in_dockers_words_and_free_again_after_rm(sampan: Any) -> None:
    sampan.ok("run", "-d", "--name", "first", "-p", "127.0.0.1::80", BUSYBOX, *HTTPD)
    port = port_of(sampan, "first", "80")
    done = sampan.run("run", "--name", "second", "-p", f"127.0.0.1:{port}:80", BUSYBOX, "true")
    assert done.returncode == 125
    assert "port is already allocated" in done.stderr
    assert sampan.ok("inspect", "-f", "{{.State.Status}}", "second") == "created"
    sampan.ok("rm", "-f", "first")
    sampan.ok("start", "-a", "second")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = sampan.run("run", "--rm", "-p", f"127.0.0.1:{taken.getsockname()[1]}:80", BUSYBOX, "true")
    assert busy.returncode == 125
    assert "address already in use" in busy.stderr or "port is already allocated" in busy.stderr


def test_traffic_out_is_translated(sampan: Any) -> None:
    with socket.socket() as server:
        server.bind((host_address(), 0))
        server.listen()
        server.settimeout(20)
        address, port = server.getsockname()
        client = sampan.start("run", "--rm", BUSYBOX, "nc", address, str(port), stdin=subprocess.DEVNULL)
        connection, _ = server.accept()
        connection.sendall(b"reached\n")
        connection.close()
        out, _ = client.communicate(timeout=20)
    assert out == b"reached\n"


def test_etc_hosts_has_the_containers_own_name(sampan: Any) -> None:
    printed = sampan.ok(
        "run", "--rm", "-h", "me", BUSYBOX, "sh", "-c", "cat /etc/hosts; hostname -i; cat /etc/hostname"
    )
    address = printed.splitlines()[-2]
    assert f"{address}\tme" in printed
    assert printed.splitlines()[-1] == "me"


def test_a_containers_changes_to_etc_files_are_its_own(sampan: Any) -> None:
    before = {
        name: Path(name).read_bytes() for name in ("/etc/hosts", "/etc/resolv.conf") if os.path.exists(name)
    }
    script = (
        "echo 1.2.3.4 evil >> /etc/hosts; echo nameserver 9.9.9.9 > /etc/resolv.conf; cat /etc/resolv.conf"
    )
    assert sampan.ok("run", "--rm", BUSYBOX, "sh", "-c", script) == "nameserver 9.9.9.9"
    assert before == {name: Path(name).read_bytes() for name in before}


def test_a_container_knows_its_own_name_from_its_first_moment(sampan: Any) -> None:
    sampan.ok("network", "create", "introduced")
    for _ in range(8):
        sampan.ok(
            "run",
            "--rm",
            "--name",
            "itself",
            "--network",
            "introduced",
            BUSYBOX,
            "ping",
            "-c1",
            "-W1",
            "itself",
        )
