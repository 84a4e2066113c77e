"""Who a container's processes are: users, groups, capabilities, and the files of the image that say so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

OUT_OF_RANGE = (
    "4294967296",
    "4294967295",
    "2147483648",
    "18446744073709551616",
    "-1",
    "1:4294967296",
    "0:-1",
    "9" * 4000,
)


SHOWN = re.compile(r"^uid \d", re.MULTILINE)


def test_a_number_that_would_wrap_around_to_root_is_no_user(attack: Any) -> None:
    """CVE-2026-46680: in run, exec, an image's USER and its /etc/passwd, --group-add, and a build's --chown."""
    container = attack.background(attack.image, "sleep", "60")
    show = ("sh", "-c", "echo uid $(id -u) gid $(id -g)")
    assert attack.sampan.ok("exec", "-u", "2147483647", container, *show) == "uid 2147483647 gid 0"
    for user in OUT_OF_RANGE:
        done = attack.run("-u", user, attack.image, *show)
        assert done.returncode != 0 and not SHOWN.search(done.stdout), (user, done.stdout)
        assert "range 0-2147483647" in done.stderr or "unable to find user" in done.stderr, done.stderr[:300]
        done = attack.sampan.run("exec", "-u", user, container, *show)
        assert done.returncode != 0 and not SHOWN.search(done.stdout), (user, done.stdout)
    done = attack.run("--group-add", "4294967296", attack.image, *show)
    assert done.returncode != 0 and not SHOWN.search(done.stdout)
    for user in ("4294967296", "0:4294967296", "4294967295"):
        assert attack.load_image("attack:user", {"User": user}) == ""
        done = attack.run("attack:user", *show)
        assert done.returncode != 0 and not SHOWN.search(done.stdout), (user, done.stdout)
    passwd = b"root:x:0:0::/:/bin/sh\nevil:x:4294967296:4294967296::/:/bin/sh\nnobody:x:18446744073709551616:0::/:\n"
    image = attack.make_image("attack:passwd", {"etc/passwd": attack.Entry(passwd, 0o644)})
    for name in ("evil", "nobody"):
        done = attack.run("-u", name, image, *show)
        assert done.returncode != 0 and "unable to find user" in done.stderr


def test_a_build_gives_no_file_to_a_number_that_wraps_around(attack: Any, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("x")
    for owner in ("4294967296", "0:4294967296", "-1"):
        (tmp_path / "Dockerfile").write_text(f"FROM {attack.image}\nCOPY --chown={owner} file /file\n")
        done = attack.sampan.run("build", "-q", "-f", str(tmp_path / "Dockerfile"), str(tmp_path))
        assert done.returncode != 0 and owner.rpartition(":")[2] in done.stderr


def engines_peak(attack: Any) -> int:
    """KiB that the daemon has had resident at most."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{attack.sampan.engine.pid}/status").read_text())
    assert found
    return int(found[1])


@pytest.mark.parametrize("name", ["group", "passwd"])
def test_an_account_file_of_a_gigabyte_costs_neither_memory_nor_time(
    attack: Any, wait_until: Any, name: str
) -> None:
    """CVE-2026-47262: the container may make it at run time; exec, and a restart, look users up in it."""
    container = attack.background(
        "-m", "64m", attack.image, "sh", "-c", f"truncate -s 1G /etc/{name}; sleep 60"
    )
    pid = attack.sampan.ok("inspect", "-f", "{{.State.Pid}}", container)
    wait_until(lambda: Path(f"/proc/{pid}/root/etc/{name}").stat().st_size == 1 << 30)
    peak = engines_peak(attack)
    done = attack.sampan.run("exec", "-u", "daemon", container, "id")
    assert done.returncode != 0 and "larger than" in done.stdout
    assert engines_peak(attack) <= peak + (64 << 10)
    assert (
        attack.sampan.ok("inspect", "-f", "{{.State.OOMKilled}} {{.State.Running}}", container)
        == "false true"
    )


def test_an_image_with_an_oversized_group_file_is_refused_at_its_start(attack: Any) -> None:
    group = attack.Entry(b"wheel:x:10:daemon\n" * 300_000, 0o644)
    image = attack.make_image("attack:group", {"etc/group": group})
    done = attack.run("-m", "64m", "-u", "daemon", image, "id")
    assert done.returncode == 125 and "/etc/group in the container is larger than" in done.stderr


def test_an_account_file_that_is_a_fifo_a_device_or_endless_holds_nobody_up(attack: Any) -> None:
    prepare = (
        "rm /etc/passwd /etc/group; mkfifo /etc/group; ln -s /dev/zero /etc/passwd; touch /ready; sleep 60"
    )
    container = attack.sampan.api.containers.get(attack.background(attack.image, "sh", "-c", prepare))
    while container.exec_run(["true"], user="0").exit_code == 0:
        pass
    done = container.exec_run(["id"], user="daemon")
    assert done.exit_code != 0 and b"not a regular file" in done.output


def capabilities(text: str) -> dict[str, int]:
    return {name: int(value, 16) for name, value in re.findall(r"(Cap\w+):\s+(\w+)", text)}


def test_nothing_is_inheritable_and_a_user_can_gain_nothing_by_file_capabilities(attack: Any) -> None:
    """CVE-2022-29162: in run, exec and exec --privileged, for root and others."""
    status = ("cat", "/proc/self/status")
    container = attack.background(attack.image, "sleep", "60")
    for user in ("0", "65534"):
        texts = {
            "run": attack.run("-u", user, attack.image, *status).stdout,
            "init": attack.run("-u", user, "--init", attack.image, *status).stdout,
            "added": attack.run("-u", user, "--cap-add", "ALL", attack.image, *status).stdout,
            "privileged": attack.run("-u", user, "--privileged", attack.image, *status).stdout,
            "exec": attack.sampan.ok("exec", "-u", user, container, *status),
            "exec-privileged": attack.sampan.ok("exec", "--privileged", "-u", user, container, *status),
        }
        for way, text in texts.items():
            found = capabilities(text)
            assert (found["CapInh"], found["CapAmb"]) == (0, 0), (way, user)
            assert (found["CapEff"] != 0) == (user == "0"), (way, user)
        assert capabilities(texts["exec"])["CapBnd"] == 0xA80425FB
        assert capabilities(texts["exec-privileged"])["CapBnd"] != 0xA80425FB
