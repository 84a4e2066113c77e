"""Paths that a hostile image or another container lays out to lead the runtime to the host."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

RACES = 12


def start(attack: Any, *arguments: str) -> subprocess.CompletedProcess[str]:
    return attack.run(*arguments)  # type: ignore[no-any-return]


def host_mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


# A working directory that is a descriptor of the runtime's (CVE-2024-21626).

DESCRIPTORS = range(3, 15)


def test_the_search_for_a_way_out_finds_one_where_there_is_one(
    attack: Any, attack_program: bytes, tmp_path: Path
) -> None:
    """On the host itself: what the following tests rely on."""
    program = tmp_path / "attack"
    program.write_bytes(attack_program)
    program.chmod(0o755)
    command = ["sh", "-c", f"exec {program} descriptors {attack.canary} 3</"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "open 3\n" in out and "directories 1 found 1\ncwd escaped\n" in out


def test_a_working_directory_by_a_descriptor_is_not_the_hosts_in_run_and_exec(attack: Any) -> None:
    canary = str(attack.canary)
    command = ["/attack", "descriptors", canary]
    container = attack.sampan.api.containers.get(attack.background(attack.image, "sleep", "60"))
    assert "cwd inside" in container.exec_run(command, workdir="/tmp").output.decode()
    entered = 0
    for number in DESCRIPTORS:
        for place in (f"/proc/self/fd/{number}", f"/proc/self/fd/{number}/../../.."):
            done = container.exec_run(command, workdir=place)
            output = done.output.decode()
            assert "escaped" not in output and not re.search("^open", output, re.M), (place, output)
            entered += done.exit_code == 0
    api = attack.sampan.api.api
    for number in DESCRIPTORS:
        made = api.create_container(attack.image, command, working_dir=f"/proc/self/fd/{number}")
        try:
            api.start(made)
        except Exception as error:  # noqa: BLE001 - a refusal in whatever words
            assert "working directory" in str(error) or "cwd" in str(error)
            continue
        api.wait(made)
        output = api.logs(made).decode()
        assert "cwd inside" in output and "found 0" in output, output
    attack.assert_host_untouched()


def test_a_working_directory_by_a_link_to_a_descriptor_is_not_the_hosts_in_a_build(
    attack: Any, tmp_path: Path
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    lines = [f"FROM {attack.image}"]
    for number in (3, 7, 9):
        text = [*lines, f"RUN ln -s /proc/self/fd/{number} /w{number}", f"WORKDIR /w{number}"]
        (context / "Dockerfile").write_text(
            "\n".join([*text, f"RUN /attack descriptors {attack.canary}", ""])
        )
        done = attack.sampan.run("build", "--no-cache", "-q", "-t", "attack:workdir", str(context))
        assert done.returncode != 0
        assert "escaped" not in done.stdout + done.stderr
    # The same without the trick is a build that works.
    (context / "Dockerfile").write_text(
        f"FROM {attack.image}\nWORKDIR /w\nRUN /attack descriptors {attack.canary}\n"
    )
    done = attack.sampan.run("build", "--no-cache", str(context))
    assert done.returncode == 0 and "cwd inside" in done.stdout + done.stderr
    attack.assert_host_untouched()


# What is mounted while somebody swaps the target (CVE-2021-30465).


def test_mount_targets_swapped_for_links_stay_inside(attack: Any) -> None:
    """Another container exchanges a directory of the shared volume with a link up to the host's root."""
    api = attack.sampan.api.api
    api.create_volume("shared")
    up = "/".join([".."] * 12)
    path = Path(api.inspect_volume("shared")["Mountpoint"])
    (path / "place").mkdir()
    (path / "link").symlink_to(up + str(attack.canary.parent))
    swapping = attack.swapping("shared", "place", "link")
    canary = attack.canary
    script = (
        f"cat {canary} 2>/dev/null; touch /v/place/made; ls -d {canary} 2>/dev/null; cat /proc/self/mountinfo"
    )
    ran = 0
    for number in range(RACES):
        done = start(attack, "-v", "shared:/v", "--tmpfs", "/v/place", "-v", f"other{number}:/v/place/inner",
                     attack.image, "sh", "-c", script)  # fmt: skip
        ran += "mountinfo" not in done.stderr and " /v" in done.stdout
        assert "the host's" not in done.stdout
        assert not re.search(rf"^{re.escape(str(attack.canary))}$", done.stdout, re.M)
    assert swapping.stop() > RACES
    assert ran > 0, "no container came up, so that nothing was tried"
    assert [line for line in host_mounts() if str(canary.parent) in line or str(path) in line] == []
    attack.assert_host_untouched()


def test_a_sub_path_of_a_volume_swapped_for_a_link_is_not_the_hosts(attack: Any) -> None:
    api = attack.sampan.api.api
    api.create_volume("shared")
    path = Path(api.inspect_volume("shared")["Mountpoint"])
    (path / "sub").mkdir()
    (path / "link").symlink_to(attack.canary.parent)
    swapping = attack.swapping("shared", "sub", "link")
    mount = "type=volume,source=shared,target=/sub,volume-subpath=sub"
    outcomes = [start(attack, "--mount", mount, attack.image, "ls", "/sub") for _ in range(RACES)]
    assert swapping.stop() > RACES
    assert not any("canary" in done.stdout for done in outcomes)
    refused = [done for done in outcomes if done.returncode != 0]
    assert all("no such file or directory" in done.stderr for done in refused), refused
    attack.assert_host_untouched()


# Images whose own places are links (CVE-2026-41579, CVE-2023-27561, CVE-2019-19921).


@pytest.mark.parametrize(
    ("entries", "refused"),
    [
        ({"proc": "/tmp"}, True),
        ({"proc": "HOST"}, True),
        ({"proc": "sys"}, True),
        ({"sys": "/etc"}, True),
        ({"sys": "HOST"}, True),
        ({"dev": "/proc"}, True),
        ({"dev": "HOST"}, True),
        ({"dev": "/"}, True),
        ({"dev": "/etc"}, True),
        ({"etc": "/proc"}, True),
        ({"etc": "HOST"}, False),
        ({"etc": "/dev"}, False),
        ({"etc/hosts": "/proc/sys/kernel/core_pattern"}, True),
        ({"etc/hosts": "/dev/null"}, True),
        ({"etc/hostname": "HOST/canary"}, False),
        ({"etc/resolv.conf": "HOST/made"}, False),
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_an_image_with_links_for_its_own_places_does_not_reach_the_host(
    attack: Any, entries: dict[str, str], refused: bool
) -> None:
    host = str(attack.canary.parent)
    image = attack.make_image(
        "attack:links",
        {name: attack.Entry(link=link.replace("HOST", host)) for name, link in entries.items()},
    )
    script = "head -c 1 /proc/keys /proc/kcore; (echo x > /proc/sys/kernel/core_pattern) 2>/dev/null"
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    done = start(attack, image, "/bin/sh", "-c", f"{script}; echo ran; cat {attack.canary}")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    attack.assert_host_untouched()
    assert (done.returncode != 0 and "ran" not in done.stdout) == refused, (done.stdout, done.stderr)
    if refused:
        assert "Traceback" not in done.stderr
    else:
        assert "the host's" not in done.stdout
        assert not re.search("^[^=\n]", done.stdout.partition("ran")[0].replace("==>", "="), re.M), (
            done.stdout
        )


# Volumes over procfs (CVE-2019-16884).


@pytest.mark.parametrize(
    "mount",
    [
        ("-v", "fake:/proc"),
        ("-v", "fake://proc"),
        ("-v", "fake:/proc/."),
        ("-v", "fake:/x/../proc"),
        ("-v", "fake:/proc/self"),
        ("-v", "fake:/proc/self/attr"),
        ("-v", "fake:/proc/sys/kernel"),
        ("-v", "fake:/link"),
        ("-v", "fake:/link/sys"),
        ("--tmpfs", "/proc"),
        ("--tmpfs", "/proc/self"),
        ("--tmpfs", "/link/self/attr"),
        ("--mount", "type=tmpfs,target=/link"),
    ],
    ids=lambda mount: mount[1],
)
def test_nothing_is_mounted_over_procfs(attack: Any, mount: tuple[str, str]) -> None:
    image = attack.make_image("attack:proclink", {"link": attack.Entry(link="/proc")})
    done = start(attack, *mount, image, "echo", "ran")
    assert done.returncode != 0 and "ran" not in done.stdout
    assert "cannot be mounted because it is" in done.stderr


def test_a_volume_of_the_images_own_over_procfs_is_refused(attack: Any) -> None:
    for number, place in enumerate(("/proc", "/proc/self/attr")):
        image = attack.make_image(f"attack:vol{number}", {}, f"VOLUME {place}")
        done = start(attack, image, "echo", "ran")
        assert done.returncode != 0 and "cannot be mounted because it is" in done.stderr


# Masks and the console redirected (CVE-2025-31133, CVE-2025-52565), writes to procfs redirected (CVE-2025-52881).

CHECKS = (
    "head -c 1 /proc/keys | wc -c; ls /proc/acpi /sys/firmware 2>/dev/null | grep -v : | wc -w;"
    "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do"
    " (echo h > $f) 2>/dev/null && echo wrote $f; done; echo ran"
)


@pytest.mark.parametrize(
    "link",
    ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/keys", "HOST", "/etc/passwd", "zero"],
)
@pytest.mark.parametrize("name", ["null", "console"])
def test_masks_and_console_do_not_go_where_a_swapped_device_leads(attack: Any, name: str, link: str) -> None:
    """/dev is a volume that somebody has prepared."""
    api = attack.sampan.api.api
    api.create_volume("dev")
    path = Path(api.inspect_volume("dev")["Mountpoint"])
    (path / name).symlink_to(link.replace("HOST", str(attack.canary)))
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    tty = ("-t",) if name == "console" else ()
    done = start(attack, *tty, "-v", "dev:/dev", attack.image, "sh", "-c", CHECKS)
    if name == "null":
        assert done.returncode != 0 and "ran" not in done.stdout
    assert "wrote" not in done.stdout, done.stdout
    if "ran" in done.stdout:
        assert done.stdout.split()[:2] == ["0", "0"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    attack.assert_host_untouched()


def test_masks_hold_while_the_null_device_is_swapped(attack: Any) -> None:
    api = attack.sampan.api.api
    api.create_volume("dev")
    path = Path(api.inspect_volume("dev")["Mountpoint"])
    subprocess.run(["mknod", "-m", "666", path / "null", "c", "1", "3"], check=True)
    (path / "other").symlink_to("/proc/sys/kernel/core_pattern")
    swapping = attack.swapping("dev", "null", "other")
    outcomes = [start(attack, "-v", "dev:/dev", attack.image, "sh", "-c", CHECKS) for _ in range(RACES)]
    assert swapping.stop() > RACES
    for done in outcomes:
        assert "wrote" not in done.stdout
        if "ran" in done.stdout:
            assert done.stdout.split()[:2] == ["0", "0"], done.stdout
        else:
            assert done.returncode != 0


def test_writes_to_procfs_reach_the_kernel_and_no_fake_of_the_images(attack: Any) -> None:
    """The image brings files where procfs will be, and a process with CAP_SYS_ADMIN hides procfs under fakes later."""
    fakes = {
        "proc/sys/net/ipv4/ip_unprivileged_port_start": attack.Entry(b"fake", 0o666),
        "proc/self/oom_score_adj": attack.Entry(b"fake", 0o666),
    }
    image = attack.make_image("attack:fakes", fakes)
    done = start(attack, "--sysctl", "net.ipv4.ip_unprivileged_port_start=77", "--oom-score-adj", "300", image, "cat",
                 "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/self/oom_score_adj")  # fmt: skip
    assert done.stdout.split() == ["77", "300"]
    hide = (
        "mount -t tmpfs x /proc && mkdir -p /proc/self/attr /proc/self/fd /proc/thread-self/attr && cd /proc/self &&"
        "for f in attr/exec attr/current oom_score_adj comm setgroups uid_map; do echo fake > $f; done; touch /ready;"
        "sleep 60"
    )
    options = ("--cap-add", "SYS_ADMIN", "--oom-score-adj", "200", "--security-opt", "apparmor=unconfined")
    container = attack.sampan.api.containers.get(attack.background(*options, attack.image, "sh", "-c", hide))
    while container.exec_run(["test", "-e", "/ready"]).exit_code:
        assert container.attrs["State"]["Status"] == "running"
    done = container.exec_run(
        ["sh", "-c", "cd /proc/self; cat attr/exec attr/current oom_score_adj comm setgroups uid_map"]
    )
    assert done.output.decode().split() == ["fake"] * 6


def test_an_exec_with_a_terminal_refuses_a_fake_multiplexer(attack: Any) -> None:
    """/dev/pts/ptmx is opened with the runtime's rights in a container that may have mounted something else there."""
    hide = "mount -t tmpfs x /dev/pts && mknod /dev/pts/ptmx c 1 3 && touch /ready; sleep 60"
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
    container = attack.sampan.api.containers.get(attack.background(*options, attack.image, "sh", "-c", hide))
    while container.exec_run(["test", "-e", "/ready"]).exit_code:
        assert container.attrs["State"]["Status"] == "running"
    done = container.exec_run(["true"], tty=True)
    assert done.exit_code != 0 and b"not a pseudo-terminal multiplexer" in done.output
