"""Where sampan means to differ: each case names its row of docs/compatibility.md, and has to differ."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

COMPATIBILITY = Path(__file__).parents[2] / "docs/compatibility.md"
MOMENT = {"[[]].time": "when", "[[]].timeNano": "when"}

CASES = [
    Case(
        "more is masked",
        """
        setup: {cli} create --name {c} busybox true
        out: {cli} inspect -f '{{len .HostConfig.MaskedPaths}}' {c}
        """,
        deliberate="Masked paths",
    ),
    Case(
        "volume prune leaves volumes with a name",
        """
        setup: {cli} volume create --label case={c} {c}
        out: {cli} volume prune -f --filter label=case={c}
        """,
        deliberate="`volume prune`",
    ),
    Case(
        "an image built on another is no descendant of it",
        """
        setup: {cli} create --name {c} rich
        out: {cli} ps -a --filter ancestor=busybox --filter name={c} --format '{{.Names}}'
        """,
        deliberate="`ps --filter ancestor`",
    ),
    Case(
        "a volume that exists is not created again",
        """
        setup: date +%s.%N > at; sleep 0.01
        setup: {cli} volume create {c}
        setup: {cli} create --name {c} -v {c}:/v busybox true
        json: {cli} events --since $(cat at) --until $(date +%s.%N) --filter type=volume --format '{{json .}}'
        """,
        ignore=MOMENT,
        deliberate="Events that Docker repeats",
    ),
    Case(
        "a network is left once",
        """
        setup: {cli} network create --subnet {net}.20.0/24 {c}
        setup: {cli} run -d --name {c} --network {c} busybox sleep 1000
        setup: date +%s.%N > at; sleep 0.01
        setup: {cli} network disconnect {c} {c}
        json: {cli} events --since $(cat at) --until $(date +%s.%N) --filter type=network --format '{{json .}}'
        """,
        ignore=MOMENT,
        deliberate="Events that Docker repeats",
    ),
    Case(
        "exec of a command that is not there gives 127, as run does",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        code: {cli} exec {c} nosuch
        """,
        deliberate="`exec` of a command that is not there",
    ),
    Case(
        "::1 answers in a container without network",
        "code: {cli} run --rm --network none busybox sh -c 'ip addr show lo | grep -q ::1'",
        deliberate="IPv6 loopback in containers",
    ),
    Case(
        "all capabilities are all that the kernel has",
        "out: {cli} run --rm -u 5 --cap-add ALL busybox grep CapBnd /proc/self/status",
        deliberate="`--cap-add ALL`, `--privileged`",
    ),
    Case(
        "the directory of the control groups is read-only",
        "out: {cli} run --rm busybox sh -c \"grep ' /sys/fs/cgroup ' /proc/self/mountinfo | cut -d' ' -f6\"",
        deliberate="`/sys/fs/cgroup`",
    ),
    Case(
        "the empty version 2 hierarchy of a hybrid host is not used",
        "out: {cli} run --rm busybox grep ^0: /proc/self/cgroup",
        deliberate="Hybrid control groups",
    ),
    Case(
        "diff does not show where a volume is mounted",
        """
        setup: {cli} run --name {c} -v /new busybox true
        out: {cli} diff {c}
        """,
        deliberate="`diff` and mount points",
    ),
    Case(
        "the reaping init is our own",
        "out: {cli} run --rm --init busybox cat /proc/1/comm",
        deliberate="`--init`",
    ),
    Case(
        "no /etc/mtab is put into a container",
        "out: {cli} run --rm busybox readlink /etc/mtab",
        deliberate="`/etc/mtab`",
    ),
    Case(
        "a propagation that the source can't give is no error",
        "setup: mkdir d\ncode: {cli} run --rm --mount type=bind,src=$PWD/d,dst=/m,bind-propagation=rslave busybox true",
        deliberate="`bind-propagation=rslave` of a private mount",
    ),
    Case(
        "words of a message",
        "all: {cli} ps --filter status=nosuch",
        deliberate="Words of messages",
    ),
    Case(
        "fields of a newer API",
        """
        setup: {cli} create --name {c} busybox true
        out: {cli} inspect -f '{{json .HostConfig.BlkioDeviceReadBps}}' {c}
        """,
        deliberate="Fields of newer APIs",
    ),
    Case(
        "the runtime's name",
        """
        setup: {cli} create --name {c} busybox true
        out: {cli} inspect -f '{{.HostConfig.Runtime}}' {c}
        """,
        deliberate="Runtime and Docker's own version",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sampan_differs_on_purpose(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)


def test_every_deliberate_difference_has_its_row_in_the_documentation() -> None:
    rows = {
        line.split("|")[1].strip() for line in COMPATIBILITY.read_text().splitlines() if line.startswith("|")
    }
    assert {case.deliberate for case in CASES} - rows == set()
