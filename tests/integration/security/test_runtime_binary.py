"""Attacks on the runtime itself from the container that it makes or enters."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("unchanged_interpreter")]

EXECS = 12


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("loader") / "ld.so"
    source = Path(__file__).parent / "loader.c"
    flags = ["-nostdlib", "-static", "-ffreestanding", "-fno-stack-protector", "-O1", "-w"]
    subprocess.run(["gcc", *flags, "-Wl,-Ttext-segment=0x20000000", "-o", out, source], check=True)
    return out.read_bytes()


def interpreter_of(program: Path) -> str:
    """PT_INTERP of an ELF file, by readelf."""
    out = subprocess.run(["readelf", "-l", program], capture_output=True, text=True, check=True).stdout
    found = re.search(r"program interpreter: ([^\]]+)\]", out)
    assert found
    return found[1]


@pytest.mark.parametrize("way", ["entrypoint", "script", "exec"])
def test_proc_self_exe_as_the_program_does_not_open_the_interpreter_for_writing(
    attack: Any, loader: bytes, way: str
) -> None:
    """CVE-2019-5736, and the script whose interpreter is /proc/self/exe."""
    import sys

    entries = {
        interpreter_of(Path(sys.executable).resolve()).lstrip("/"): attack.Entry(loader),
        "script": attack.Entry(b"#!/proc/self/exe\n"),
        "link": attack.Entry(link="/proc/self/exe"),
    }
    image = attack.make_image("attack:loader", entries)
    if way == "exec":
        container = attack.background(image, "sleep", "60")
        done = attack.sampan.run("exec", container, "/script")
    else:
        done = attack.run("--entrypoint", {"entrypoint": "/link", "script": "/script"}[way], image)
    refused = "".join(f"{what} refused\n" for what in ("write", "truncate", "append", "direct", "resize"))
    assert (done.returncode, done.stdout) == (7, "read SUCCEEDED\n" + refused), done.stderr


def counts(text: str) -> dict[str, int]:
    return {name: int(number) for name, number in re.findall(r"(\w+) (\d+)", text)}


def watch_execs(attack: Any, *command: str, capability: str = "") -> dict[str, int]:
    """What `/attack COMMAND` counts in a container into which others exec meanwhile."""
    extra = ("--cap-add", capability) if capability else ()
    script = "sleep 1000 & exec /attack " + " ".join(command)
    container = attack.sampan.api.containers.get(attack.background(*extra, attack.image, "sh", "-c", script))
    for _ in range(EXECS):
        assert container.exec_run(["true"]).exit_code == 0
    container.exec_run(["touch", "/stop"])
    container.wait()
    return counts(container.logs().decode())


@pytest.mark.parametrize("capability", ["", "SYS_PTRACE"])
def test_executables_of_entering_processes_are_not_written_to(attack: Any, capability: str) -> None:
    """CVE-2019-5736 by /proc/<pid>/exe. With CAP_SYS_PTRACE the attacker does get hold of it: the seals stand."""
    found = watch_execs(attack, "executables", "/stop", capability=capability)
    assert found["seen"] > found["opened"] // 2 > 0
    assert found["written"] == 0


def test_entering_processes_do_not_lead_to_the_hosts_files(attack: Any) -> None:
    """/proc/<pid>/root and cwd of an exec under way, map_files of its libraries: not even for a tracer."""
    found = watch_execs(attack, "roots", "/stop", str(attack.canary), capability="SYS_PTRACE")
    assert found["entered"] > 0, "the attacker saw no root at all"
    assert (found["found"], found["mapped"]) == (0, 0)
    attack.assert_host_untouched()


def test_containers_that_join_its_processes_do_not_lead_to_the_hosts_files(attack: Any) -> None:
    """As before, by starts with --pid container: of the attacker; with a mount on their procfs, as lxcfs has it."""
    script = f"sleep 1000 & exec /attack roots /stop {attack.canary}"
    capability = ("--cap-add", "SYS_PTRACE")
    container = attack.sampan.api.containers.get(
        attack.background(*capability, attack.image, "sh", "-c", script)
    )
    joining = ("--pid", f"container:{container.id}", "-v", f"{attack.canary}:/proc/uptime:ro")
    show = "cat /proc/uptime; echo; cat /proc/1/comm; cat /proc/$$/comm; mount | grep -c ' /proc '"
    for _ in range(EXECS):
        done = attack.run(*joining, attack.image, "sh", "-c", show)
        assert done.stdout.split() == ["the", "host's", "attack", "sh", "1"], done.stderr
    container.exec_run(["touch", "/stop"])
    container.wait()
    found = counts(container.logs().decode())
    assert found["entered"] > 0, "the attacker saw no root at all"
    assert (found["found"], found["mapped"]) == (0, 0)
    attack.assert_host_untouched()


def test_an_init_of_ours_that_stays_is_out_of_reach(attack: Any) -> None:
    """--init leaves the interpreter running as the container's process 1."""
    script = (
        "cat /proc/1/environ >/dev/null 2>&1 && echo environ; ls /proc/1/map_files 2>/dev/null | head -1;"
        "readlink /proc/1/exe; readlink /proc/1/fd/0; ls /proc/1/fd; (echo x > /proc/1/mem) 2>/dev/null && echo memory;"
        "grep -E 'CapEff|CapInh|Seccomp:' /proc/1/status; echo end"
    )
    done = attack.run("--init", attack.image, "sh", "-c", script)
    assert done.stdout.split() == [
        *("0", "1", "2", "CapInh:", "0000000000000000", "CapEff:", "00000000a80425fb", "Seccomp:", "2", "end")
    ], done.stderr
