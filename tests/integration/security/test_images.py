"""Images that an attacker has made: their layers, their configuration, their labels."""

from __future__ import annotations

import io
import json
import re
import stat
import subprocess
import time
from pathlib import Path
from typing import Any

import docker.errors
import pytest

pytestmark = pytest.mark.root


# Unpacking (CVE-2021-32760), and what start-up makes on the way to a mount (CVE-2024-45310).


def hostile_layers(attack: Any) -> dict[str, dict[str, Any]]:
    host, up, entry = str(attack.canary.parent), "../" * 12, attack.Entry
    return {
        "up": {f"{up}{host[1:]}/made": entry(b"x")},
        "absolute": {f"{host}/made": entry(b"x")},
        "link-then-file": {"a": entry(link=host), "a/made": entry(b"x"), "a/canary": entry(b"evil")},
        "link-then-mode": {"b": entry(link=f"{host}/canary"), "b": entry(b"", 0o777)},  # noqa: F601 - the second wins
        "hard-link-out": {"c": entry(link=f"{host}/canary", hard=True)},
        "hard-link-up": {"d": entry(link=f"{up}{host[1:]}/canary", hard=True)},
        "hard-link-to-link": {
            "e": entry(link=f"{host}/canary"),
            "f": entry(link="e", hard=True),
            "f/": entry(None, 0o777),
        },
        "link-up-and-through": {"g": entry(link=up), f"g{host}/made": entry(b"x")},
        "whiteout-out": {f"{up}{host[1:]}/.wh.canary": entry(b"")},
        "whiteout-through-link": {
            "h": entry(link=host),
            "h/.wh.canary": entry(b""),
            "h/.wh..wh..opq": entry(b""),
        },
        "directory-mode-through-link": {"i": entry(link=host), "i/": entry(None, 0o777)},
    }


NAMES = (
    "up absolute link-then-file link-then-mode hard-link-out hard-link-up hard-link-to-link link-up-and-through "
    "whiteout-out whiteout-through-link directory-mode-through-link"
)


@pytest.mark.parametrize("name", NAMES.split(" "))
def test_a_hostile_archive_touches_nothing_outside(attack: Any, name: str) -> None:
    """As a layer, as ADD unpacks it, as the context of a build, and as cp puts it into a stopped container."""
    api = attack.sampan.api.api
    evil = attack.layer(hostile_layers(attack)[name])
    if attack.load_image("attack:evil", {"Cmd": ["true"]}, evil) == "":
        assert attack.run_as_it_is("attack:evil")[0] == 0
    recipe = f"FROM {attack.image}\nADD evil.tar /\nADD evil.tar /tmp/\nRUN true\n"
    entries = {"Dockerfile": attack.Entry(recipe.encode()), "evil.tar": attack.Entry(evil)}
    for context in (attack.layer(entries), evil):
        try:
            list(api.build(fileobj=io.BytesIO(context), custom_context=True, rm=True, decode=True))
        except docker.errors.APIError:
            continue
    container = api.create_container(attack.image, ["true"])
    try:
        api.put_archive(container["Id"], "/", evil)
    except docker.errors.APIError:
        pass
    attack.assert_host_untouched()


def test_targets_that_are_missing_are_made_in_the_container_alone(attack: Any) -> None:
    """CVE-2024-45310: directories and files made on the way to mounts, devices, the working directory, volumes."""
    host = str(attack.canary.parent)
    entries = {"out": attack.Entry(link=host), "up": attack.Entry(link="../" * 12 + host[1:])}
    image = attack.make_image("attack:out", entries)
    (attack.canary.parent.parent / "file").write_text("x")
    source = f"{attack.canary.parent.parent}/file"
    api = attack.sampan.api.api
    api.create_volume("shared")
    Path(api.inspect_volume("shared")["Mountpoint"], "in").symlink_to(host)
    for way in ("/out", "/up", "/v/in"):
        done = attack.run(
            *(
                "-v",
                "shared:/v",
                "-v",
                f"one:{way}/a/b",
                "-v",
                f"{source}:{way}/c/d",
                "--tmpfs",
                f"{way}/e/f",
            ),
            *("-v", f"{way}/g", "-w", f"{way}/h/i", "--device", f"/dev/null:{way}/j/k", image),
            *(
                "sh",
                "-c",
                f"ls -d {host}/a/b {host}/c/d {host}/e/f {host}/g {host}/h/i {host}/j/k | wc -l; pwd",
            ),
        )
        assert done.stdout.split() == ["6", f"{host}/h/i"], done.stderr
        attack.assert_host_untouched()


def test_a_volume_is_filled_from_the_image_and_not_from_the_host(attack: Any) -> None:
    host = str(attack.canary.parent)
    image = attack.make_image(
        "attack:fill", {"data": attack.Entry(link=host), "d/canary": attack.Entry(link=f"{host}/canary")}
    )
    done = attack.run(
        "-v", "one:/data", "-v", "two:/d", image, "sh", "-c", "ls -A /data; readlink /d/canary; cat /d/canary"
    )
    assert done.stdout == f"{host}/canary\n" and "No such file" in done.stderr
    attack.assert_host_untouched()


def test_attributes_that_steer_overlayfs_do_not_come_with_a_layer(attack: Any) -> None:
    """A redirect would show another directory of the lower layers, a metacopy another file's content."""
    steer = {
        "redirected": ("trusted.overlay.redirect", "/etc"),
        "metacopy": ("trusted.overlay.metacopy", ""),
        "etc": ("trusted.overlay.opaque", "y"),
        "usr": ("trusted.overlay.whiteouts", "y"),
        "userxattr": ("user.overlay.redirect", "/etc"),
    }
    entries = {
        name: attack.Entry(b"own" if name == "metacopy" else None, pax={f"SCHILY.xattr.{key}": value})
        for name, (key, value) in steer.items()
    }
    entries["kept"] = attack.Entry(b"", pax={"SCHILY.xattr.user.mine": "kept"})
    assert attack.load_image("attack:overlay", {"Cmd": ["true"]}, attack.layer(entries)) == ""
    script = "ls -A /redirected /userxattr; cat /metacopy; ls /etc | grep -c passwd"
    done = attack.run("attack:overlay", "sh", "-c", script)
    assert done.stdout.split() == ["/redirected:", "/userxattr:", "own1"], done
    api = attack.sampan.api.api
    exported = b"".join(api.export(api.create_container("attack:overlay")["Id"]))
    assert b"xattr.user.mine=kept" in exported and not re.search(rb"xattr\.(trusted|user)\.overlay", exported)


def test_what_a_container_makes_set_user_id_is_out_of_other_users_reach(attack: Any) -> None:
    """In its writable layer and in volumes (CVE-2021-41091)."""
    script = "cp /bin/busybox /rootsh; cp /bin/busybox /v/rootsh; chmod 4755 /rootsh /v/rootsh; chmod 777 /v; sleep 60"
    attack.background("-v", "shared:/v", attack.image, "sh", "-c", script)
    root = attack.sampan.engine.root
    deadline = time.monotonic() + 10
    while len(found := [path for path in root.rglob("rootsh") if path.stat().st_mode & stat.S_ISUID]) < 2:
        assert time.monotonic() < deadline, found
    somebody = {"user": 65534, "group": 65534, "extra_groups": []}
    subprocess.run(["/bin/busybox", "id"], check=True, stdout=subprocess.DEVNULL, **somebody)
    for path in found:
        with pytest.raises(PermissionError):
            subprocess.run([path, "id"], check=False, **somebody)


# Configuration.

HOSTILE = {
    "environment of a megabyte": {"Env": [f"A{n}={'x' * 100_000}" for n in range(40)]},
    "a variable with a NUL": {"Env": ["A=\0b"]},
    "a variable without a name": {"Env": ["=x", "=", ""]},
    "volume over the root": {"Volumes": {"/": {}}},
    "volume that climbs": {"Volumes": {"/../../../../tmp": {}}},
    "volume over proc": {"Volumes": {"/proc/self": {}}},
    "volume with a NUL": {"Volumes": {"/a\0b": {}}},
    "volume without a path": {"Volumes": {"": {}}},
    "relative directory": {"WorkingDir": "../../.."},
    "directory with a NUL": {"WorkingDir": "/a\0b"},
    "long directory": {"WorkingDir": "/" + "a/" * 5000},
    "user with a NUL": {"User": "root\0x"},
    "long user": {"User": "u" * 100_000},
    "signal": {"StopSignal": "SIGNOTHING"},
    "number of a signal": {"StopSignal": "99999999999999999999"},
    "ports": {"ExposedPorts": {"99999999/tcp": {}, "-1/tcp": {}, "x": {}, "1-70000/udp": {}}},
    "health": {"Healthcheck": {"Test": ["CMD"], "Interval": -1, "Timeout": 1 << 62, "Retries": -5}},
    "health of another kind": {"Healthcheck": {"Test": [1, 2]}},
    "entry point that is no list": {"Entrypoint": {"a": 1}},
    "entry point with a NUL": {"Entrypoint": ["sh\0"]},
    "no command": {"Cmd": [""]},
    "many arguments": {"Cmd": ["x"] * 200_000},
    "label with everything": {
        "Labels": {"\n": "\0", "": "x", "{{.Id}}": "{{range}}", "com.docker.compose.project": "../.."}
    },
    "labels that are no map": {"Labels": ["a", "b"]},
    "nested": {"OnBuild": ["RUN rm -rf /"] * 1000, "Shell": ["sh\0"], "ArgsEscaped": "yes"},
    "members of the host configuration": {
        "HostConfig": {"Privileged": True, "Binds": ["/:/host"]},
        "Privileged": True,
    },
    "annotations and hooks": {
        "Annotations": {"run.oci.hooks": "x"},
        "hooks": {"prestart": [{"path": "/bin/sh"}]},
    },
}


def test_a_hostile_configuration_is_refused_or_harmless(attack: Any) -> None:
    """Whatever it says: an answer of the engine's, in time, and a container that is an ordinary one (`sampan` watches
    that no traceback comes up)."""
    show = {"Cmd": ["sh", "-c", "grep CapEff /proc/self/status; ls /host"]}
    ran = 0
    for what, config in HOSTILE.items():
        refused = attack.load_image("attack:config", {**show, **config})
        if not refused:
            code, said = attack.run_as_it_is("attack:config")
            ran += code == 1
            if code is not None:
                assert said in ("", "CapEff:\t00000000a80425fb\nls: /host: No such file or directory\n"), (
                    what,
                    said,
                )
            refused = said
            attack.sampan.api.api.remove_image("attack:config", force=True)
        assert "500 Server Error" not in refused and "internal error" not in refused, (what, refused)
    assert ran > 3
    assert attack.sampan.api.containers.list() == []


def test_a_hundred_thousand_labels_do_not_hold_up_the_engine(attack: Any) -> None:
    labels = {f"label-{number}": "x" * 50 for number in range(100_000)}
    if attack.load_image("attack:labels", {"Cmd": ["true"], "Labels": labels}) == "":
        assert attack.run_as_it_is("attack:labels")[0] == 0
        attack.sampan.api.api.remove_image("attack:labels", force=True)


def test_labels_of_an_image_configure_no_log_driver(attack: Any) -> None:
    """CVE-2026-53488: neither driver nor options, not by a template in them, nor by lines that they bring along."""
    labels = {
        "com.docker.log-driver": "syslog",
        "log-driver": "syslog",
        "log-opt": "syslog-address=unix:///tmp/evil",
        "syslog-address": "unixgram:///tmp/evil",
        "tag": "{{.ImageID}}",
        "max-size": "-1",
        "labels": "x",
        "mode": "non-blocking",
        "path": str(attack.canary),
        "evil": '"}\n{"log":"forged","stream":"stdout","time":"2000-01-01T00:00:00Z"}\n{{.ExtraAttributes nil}}',
    }
    command = {"Cmd": ["sh", "-c", "echo one; echo two"], "Labels": labels, "Env": ["EVIL=\n{{.ID}}"]}
    assert attack.load_image("attack:log", command) == ""
    sampan = attack.sampan
    plain, images = sampan.ok("create", attack.image), sampan.ok("create", "attack:log")
    show = ("inspect", "-f", "{{json .HostConfig.LogConfig}}")
    assert sampan.ok(*show, images) == sampan.ok(*show, plain)
    options = (
        "--log-opt",
        "labels-regex=.*",
        "--log-opt",
        "env-regex=.*",
        "--log-opt",
        "tag={{.Name}}/{{.ImageName}}",
    )
    chosen = sampan.ok("create", *options, "attack:log")
    for container in (images, chosen):
        sampan.ok("start", "-a", container)
        path = Path(sampan.ok("inspect", "-f", "{{.LogPath}}", container))
        assert path.is_relative_to(sampan.engine.root)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert [line["log"] for line in lines] == ["one\n", "two\n"]
        assert sampan.ok("logs", container) == "one\ntwo"
        assert "forged" not in [line.get("log") for line in lines]
    assert not Path("/tmp/evil").exists()
    attack.assert_host_untouched()


# What a process says of itself.


def test_a_command_line_of_a_gigabyte_does_not_fill_the_engine(attack: Any) -> None:
    """PR_SET_MM lets a process name any of its memory as its arguments; `top` reads them."""
    container = attack.sampan.api.containers.get(attack.background(attack.image, "/attack", "cmdline"))
    while b"set-mm" not in container.logs():
        assert container.attrs["State"]["Status"] == "running"
    assert container.logs() == b"set-mm ok\n"
    before = _resident(attack.sampan.engine.pid)
    titles, processes = (container.top(ps_args="-ef")[key] for key in ("Titles", "Processes"))
    assert titles and len(processes) == 1
    assert _resident(attack.sampan.engine.pid) < before + (64 << 10)


def _resident(pid: int) -> int:
    """KiB at most up to now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
