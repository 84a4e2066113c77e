"""Commands that work with a container: exec, attach, cp, diff, commit, export, logs, update."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

EXEC = [
    Case(
        "exec hands output, input and the exit code on",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        all: {cli} exec {c} sh -c 'echo out; echo err >&2; exit 5'
        all: printf 'x\\ny' | {cli} exec -i {c} cat
        all: echo lost | {cli} exec {c} cat
        all: {cli} exec {c} sh -c 'kill -9 $$'
        code: {cli} exec {c} /etc/passwd
        code: {cli} exec {c} /etc
        """,
    ),
    Case(
        "exec's environment, user and directory",
        """
        setup: {cli} run -d --name {c} --hostname h -e A=1 -u daemon -w /tmp busybox sleep 1000
        sorted: {cli} exec {c} env
        sorted: {cli} exec -e A=2 -e B=3 -e FROM_HERE {c} env
        sorted: {cli} exec -t {c} env
        all: {cli} exec {c} sh -c 'id; pwd'
        all: {cli} exec -u root -w / {c} sh -c 'id; pwd'
        all: {cli} exec -u 7:8 {c} id
        code: {cli} exec -u nosuch {c} id
        code: {cli} exec -w rel {c} pwd
        """,
    ),
    Case(
        "exec's rights",
        """
        setup: {cli} run -d --name {c} --cap-drop ALL --cap-add CHOWN busybox sleep 1000
        out: {cli} exec {c} grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status
        out: {cli} exec -u 5 {c} grep -E 'Cap|NoNewPrivs|Seccomp:' /proc/self/status
        """,
    ),
    Case(
        "exec without new privileges and with limits",
        """
        setup: {cli} run -d --name {c} --security-opt no-new-privileges --ulimit nofile=60:60 --oom-score-adj 50 --read-only busybox sleep 1000
        out: {cli} exec {c} sh -c 'grep NoNew /proc/self/status; ulimit -n; cat /proc/self/oom_score_adj; touch /x; true'
        out: {cli} exec {c} grep -v ^0: /proc/self/cgroup | cut -d: -f2,3
        """,
    ),
    Case(
        "exec -d, and a terminal",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        out: {cli} exec -d {c} sh -c 'sleep 0; touch /done'
        setup: until {cli} exec {c} test -e /done; do :; done
        out: {cli} exec -t {c} sh -c 'tty; [ -t 0 ] && echo yes'
        code: {cli} exec -it {c} true
        """,
    ),
    Case(
        "attach sees what comes and ends with the container's code",
        """
        setup: {cli} run -d -i --name {c} busybox sh -c 'read x; echo got $x; exit 4'
        code: echo word | {cli} attach {c}
        all: {cli} attach --no-stdin {c}x
        """,
    ),
]

FILES = [
    Case(
        "cp into a container: files, directories, names",
        """
        setup: mkdir d && echo 1 > d/one && echo f > f && chmod 640 f && ln -s one d/link
        setup: {cli} create --name {c} busybox true
        code: {cli} cp f {c}:/tmp
        code: {cli} cp f {c}:/tmp/new
        code: {cli} cp d {c}:/tmp
        code: {cli} cp d/. {c}:/tmp/flat
        code: {cli} cp d {c}:/nodir/x
        code: {cli} cp f {c}:/nodir/
        code: {cli} cp d {c}:/etc/passwd
        code: {cli} cp nosuch {c}:/tmp
        out: {cli} export {c} | tar tv --numeric-owner | grep -E ' tmp/' | awk '{print $1, $2, $6, $7, $8}' | sort
        """,
        but={r"\d\d:\d\d": "<time>"},
    ),
    Case(
        "cp out of a container, running or not",
        """
        setup: {cli} run -d --name {c} busybox sh -c 'mkdir /w; echo a > /w/a; ln -s a /w/l; chown 5:6 /w/a; echo up; sleep 1000'
        setup: until {cli} logs {c} | grep -q up; do :; done
        code: {cli} cp {c}:/w/a .
        code: {cli} cp {c}:/w .
        code: {cli} cp {c}:/w/. flat
        code: {cli} cp {c}:/w/l l
        code: {cli} cp -L {c}:/w/l followed
        code: {cli} cp {c}:/nosuch .
        out: find . | sort | xargs stat -c '%n %F %a %s'
        out: {cli} cp {c}:/w - | tar tv --numeric-owner | awk '{print $1, $2, $6, $7, $8}'
        setup: {cli} stop -t 0 {c}
        out: {cli} cp {c}:/w/a - | tar xO
        """,
    ),
    Case(
        "cp of a tar stream, and with owners kept",
        """
        setup: mkdir d && echo 1 > d/one && chown 7:8 d/one && tar cf t.tar d
        setup: {cli} create --name {c} busybox true
        all: {cli} cp - {c}:/tmp < t.tar
        code: {cli} cp -a d {c}:/root
        all: {cli} cp - {c}:/etc/passwd < t.tar
        out: {cli} cp {c}:/tmp/d/one - | tar tv --numeric-owner | awk '{print $1, $2, $6}'
        out: {cli} cp {c}:/root/d/one - | tar tv --numeric-owner | awk '{print $1, $2, $6}'
        """,
    ),
    Case(
        "cp into a read-only container or mount",
        """
        setup: echo f > f
        setup: {cli} run -d --name {c} --read-only -v {c}v:/v -v {c}r:/r:ro --tmpfs /t busybox sleep 1000
        all: {cli} cp f {c}:/etc/f
        all: {cli} cp f {c}:/r/f
        code: {cli} cp f {c}:/v/f
        out: {cli} exec {c} cat /v/f
        """,
    ),
    Case(
        "diff: added, changed and deleted",
        """
        setup: {cli} run --name {c} busybox sh -c 'mkdir /data; echo > /etc/new; rm /etc/group; mkdir /d /d/e; chmod 600 /etc/passwd; echo > /data/x; echo > /tmp/y'
        sorted: {cli} diff {c}
        setup: {cli} create --name {c}b busybox true
        all: {cli} diff {c}b
        """,
    ),
    Case(
        "commit and what the image says then",
        """
        setup: {cli} run --name {c} -e A=1 -w /w -u 5 -l a=b busybox sh -c 'echo > /tmp/made'
        out: {cli} commit -a me -m note -c 'CMD ["x"]' -c 'ENV B=2' -c 'EXPOSE 80' {c} {c}:1
        json: {cli} image inspect -f '{{json .Config}}' {c}:1
        out: {cli} image inspect -f '{{.Author}} {{.Comment}} {{len .RootFS.Layers}} {{.Architecture}} {{.Os}}' {c}:1
        out: {cli} run --rm -u 0 {c}:1 ls /tmp
        code: {cli} commit -c 'NOSUCH x' {c}
        setup: {cli} rmi -f {c}:1
        """,
        ignore={"Image": "an id", "Hostname": "an id", "Attach*": "of the container, not of its images"},
    ),
    Case(
        "export is the file system",
        """
        setup: {cli} run --name {c} -v /vol busybox sh -c 'echo hello > /tmp/x; rm /bin/vi'
        out: {cli} export {c} | tar t | grep -vE '^(bin|dev|proc|sys)/|mtab' | sort
        out: {cli} export {c} | tar xO tmp/x
        out: {cli} export -o e.tar {c}; tar tf e.tar | grep -c bin/vi
        """,
    ),
    Case(
        "a container's root directory",
        "sorted: {cli} run --rm busybox sh -c 'ls -A / /etc | grep -v mtab'",
        but={r"\w{3} +\d+ +\d\d:\d\d|\w{3} +\d+ +\d{4}": "<date>"},
    ),
]

LOGS = [
    Case(
        "logs: both streams, order, tail",
        """
        setup: {cli} run --name {c} busybox sh -c 'for i in 1 2 3 4 5; do echo line $i; done; echo err >&2; printf end'
        all: {cli} logs {c}
        out: {cli} logs --tail 2 {c} 2>&1 | wc -l
        out: {cli} logs --tail 0 {c}
        out: {cli} logs -n 3 {c} 2>&1 | wc -l
        out: {cli} logs --tail all {c} | wc -l
        out: {cli} logs -t {c}
        out: {cli} logs --since 1h {c}
        out: {cli} logs --since 2040-01-01 {c}
        out: {cli} logs --until 1h {c}
        out: {cli} logs --until 2000-01-01T00:00:00Z {c}
        out: {cli} logs -f {c}
        all: {cli} logs --tail x {c}
        """,
        but={r"(?m)^(<time>|\S+Z) ": "<time> "},
    ),
    Case(
        "logs of a terminal, of details, of no log",
        """
        setup: {cli} run -t --name {c}a busybox sh -c 'echo a; echo b >&2'
        all: {cli} logs {c}a
        setup: {cli} run --name {c}b -e A=1 -l l=2 --log-opt env=A --log-opt labels=l --log-opt tag=x busybox echo a
        out: {cli} logs --details {c}b
        setup: {cli} run --name {c}d --log-driver none busybox echo a
        all: {cli} logs {c}d
        setup: {cli} create --name {c}e busybox true
        all: {cli} logs {c}e
        """,
    ),
    Case(
        "the file of the json-file driver",
        """
        setup: {cli} run --name {c} -e A=1 --log-opt env=A busybox sh -c 'echo one; printf "\\001<tab>\\t\\"quote\\""; echo two >&2'
        json: cat $({cli} inspect -f '{{.LogPath}}' {c}) | sort
        """,
    ),
    Case(
        "log options that are refused",
        """
        code: {cli} run --rm --log-driver nosuch busybox true
        code: {cli} run --rm --log-opt nosuch=1 busybox true
        code: {cli} run --rm --log-opt max-size=x busybox true
        code: {cli} run --rm --log-opt max-file=0 busybox true
        code: {cli} run --rm --log-opt max-file=x busybox true
        code: {cli} run --rm --log-opt mode=x busybox true
        code: {cli} run --rm --log-opt max-size=1m --log-opt compress=x busybox true
        """,
    ),
]

UPDATE = [
    Case(
        "update changes limits at once",
        """
        setup: {cli} run -d --name {c} -m 64m --memory-swap 64m busybox sleep 1000
        out: {cli} update -m 32m --memory-swap 48m --cpus 0.5 --pids-limit 20 -c 256 --cpuset-cpus 0 {c}
        out: {cli} exec {c} sh -c 'cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes cpu/cpu.cfs_quota_us pids/pids.max cpu/cpu.shares cpuset/cpuset.cpus'
        json: {cli} inspect -f '{{json .HostConfig}}' {c}
        """,
    ),
    Case(
        "update of the restart policy, and what is refused",
        """
        setup: {cli} create --name {c} busybox true
        out: {cli} update --restart on-failure:3 {c}
        json: {cli} inspect -f '{{json .HostConfig.RestartPolicy}}' {c}
        all: {cli} update --restart nosuch {c}
        all: {cli} update -m 1m {c}
        all: {cli} update --memory-swap 1m {c}
        all: {cli} update --cpuset-cpus 99 {c}
        all: {cli} update -m 64m --memory-swap 32m {c}
        all: {cli} update {c}
        out: {cli} update -m 64m {c}
        setup: {cli} create --rm --name {c}r busybox true
        all: {cli} update --restart always {c}r
        """,
    ),
]

CASES = [*EXEC, *FILES, *LOGS, *UPDATE]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
