"""What Docker 28.5 does with networks and volumes and 20.10 (of the differential tests) does not; seen on 28.5.2."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytestmark = pytest.mark.root

BUSYBOX = "busybox:latest"


def test_inspect_prints_one_array_of_json(sampan: Any) -> None:
    for name in ("one", "two"):
        sampan.ok("volume", "create", name)
    shown = sampan.ok("volume", "inspect", "--format", "json", "one", "two")
    assert "\n" not in shown and [volume["Name"] for volume in json.loads(shown)] == ["one", "two"]
    assert json.loads(sampan.ok("inspect", "-f", "json", "bridge"))[0]["Driver"] == "bridge"
    sampan.ok("volume", "rm", "one", "two")


def test_a_container_keeps_its_address_over_a_restart_and_the_lowest_free_one_is_next(sampan: Any) -> None:
    address = ("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    sampan.ok("network", "create", "--subnet", "10.199.33.0/24", "lowest")
    for name in ("first", "second"):
        sampan.ok("run", "-d", "--name", name, "--network", "lowest", BUSYBOX, "sleep", "1000")
    sampan.ok("restart", "-t", "0", "first")
    assert sampan.ok(*address, "first") == "10.199.33.2"
    sampan.ok("stop", "-t", "0", "first")
    sampan.ok("start", "first")
    assert sampan.ok(*address, "first") == "10.199.33.2"
    sampan.ok("rm", "-f", "first", "second")
    sampan.ok("network", "rm", "lowest")


def test_relative_volumes_begin_at_the_root_and_what_is_said_twice_counts_once(sampan: Any) -> None:
    where = "grep -o ' /[a-z]* ' /proc/mounts | grep -E 'data|twice' | sort"
    run = ("run", "--rm", "-v", "data", "-v", "pair:/twice", "-v", "pair:/twice", BUSYBOX, "sh", "-c", where)
    assert sampan.ok(*run).split() == ["/data", "/twice"]
    sampan.ok("volume", "rm", "pair")


def test_a_mac_address_is_shown_with_the_configuration_however_it_was_asked_for(sampan: Any) -> None:
    where = ("inspect", "-f", "{{.Config.MacAddress}}")
    for flags in (
        ["--mac-address", "02:42:ac:11:00:97"],
        ["--network", "name=bridge,mac-address=02:42:ac:11:00:97"],
    ):
        sampan.ok("create", "--name", "addressed", *flags, BUSYBOX)
        assert sampan.ok(*where, "addressed") == "02:42:ac:11:00:97"
        sampan.ok("rm", "addressed")


def test_a_volume_on_etc_does_not_hide_the_containers_own_files(sampan: Any) -> None:
    sampan.ok("network", "create", "named")
    sampan.ok("run", "-d", "--name", "neighbour", "--network", "named", BUSYBOX, "sleep", "1000")
    look = "cat /etc/hostname; grep -c 127.0.0.11 /etc/resolv.conf; ping -c1 -W5 neighbour >/dev/null && echo reached"
    run = ("run", "--rm", "--network", "named", "--hostname", "here", BUSYBOX, "sh", "-c", look)
    for mount in (["-v", "settings:/etc"], ["-v", "settings:/etc", "--read-only"], ["--tmpfs", "/etc"]):
        assert sampan.ok(*run[:2], *mount, *run[2:]).split() == ["here", "1", "reached"]
    for kind, name in (("container", "neighbour"), ("network", "named"), ("volume", "settings")):
        sampan.ok(kind, "rm", *(["-f"] if kind == "container" else []), name)


def test_disk_usage_of_every_volume_as_json(sampan: Any) -> None:
    sampan.ok("run", "--rm", "-v", "counted:/data", BUSYBOX, "sh", "-c", "printf 12345 > /data/file")
    usage = json.loads(sampan.ok("system", "df", "-v", "--format", "json"))
    assert sorted(usage) == ["BuildCache", "Containers", "Images", "Volumes"]
    (counted,) = [volume for volume in usage["Volumes"] if volume["Name"] == "counted"]
    assert (counted["Size"], counted["Links"], counted["Driver"]) == ("5B", "0", "local")
    template = "{{range .Volumes}}{{.Name}} {{end}}"
    assert "counted" in sampan.ok("system", "df", "-v", "--format", template).split()
    sampan.ok("volume", "rm", "counted")


def test_cluster_volumes_are_refused_with_the_reason(sampan: Any) -> None:
    done = sampan.run("volume", "create", "--availability", "active", "clustered")
    assert done.returncode == 1 and "This node is not a swarm manager." in done.stderr
    assert "clustered" not in sampan.ok("volume", "ls", "-q").split()
    assert sampan.ok("volume", "ls", "--cluster").split()[:2] == ["VOLUME", "NAME"]
    sampan.ok("volume", "create", "plain")
    done = sampan.run("volume", "update", "--availability", "drain", "plain")
    assert done.returncode == 1 and "can only update cluster volumes" in done.stderr
    sampan.ok("volume", "rm", "plain")
