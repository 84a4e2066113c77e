"""States and exit codes: create, run, start, stop, kill, restart, pause, wait, rename, rm."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

CASES = [
    Case(
        "run hands the command's exit code on",
        "all: {cli} run --rm busybox sh -c 'echo out; echo err >&2; exit 7'",
    ),
    Case(
        "a command ended by a signal gives 128 and the signal",
        "all: {cli} run --rm busybox sh -c 'kill -9 $$'",
    ),
    Case("a command that is not there gives 127", "code: {cli} run --rm busybox nosuch"),
    Case("a command that can't be executed gives 126", "code: {cli} run --rm busybox /etc/passwd"),
    Case("a directory as command gives 126", "code: {cli} run --rm busybox /etc"),
    Case("output without a newline at its end comes whole", "all: {cli} run --rm busybox printf 'a\\nb'"),
    Case(
        "what is piped in reaches a command run with -i",
        "all: printf 'x\\ny' | {cli} run --rm -i busybox cat",
    ),
    Case("without -i standard input is empty", "all: echo lost | {cli} run --rm busybox cat"),
    Case(
        "a container's states from created to exited",
        """
        setup: {cli} create --name {c} busybox sh -c 'read x; exit 3'
        out: {cli} inspect -f '{state}' {c}
        out: {cli} start {c}
        out: {cli} wait {c}
        out: {cli} inspect -f '{state}' {c}
        out: {cli} start -a {c}
        out: {cli} inspect -f '{state}' {c}
        """,
    ),
    Case(
        "stop ends a command that handles SIGTERM with its own code",
        """
        setup: {cli} run -d --name {c} busybox sh -c 'trap "exit 5" TERM; echo up; while :; do sleep 0.1; done'
        setup: until {cli} logs {c} | grep -q up; do :; done
        out: {cli} stop {c}
        out: {cli} inspect -f '{state}' {c}
        all: {cli} stop {c}
        """,
    ),
    Case(
        "stop kills what ignores SIGTERM when its time is over",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        out: {cli} stop -t 1 {c}
        out: {cli} inspect -f '{state}' {c}
        """,
    ),
    Case(
        "--stop-signal is what stop sends",
        """
        setup: {cli} run -d --name {c} --stop-signal USR1 busybox sh -c \
            'trap "exit 6" USR1; echo up; while :; do sleep 0.1; done'
        setup: until {cli} logs {c} | grep -q up; do :; done
        out: {cli} stop {c}
        out: {cli} wait {c}
        out: {cli} inspect -f '{{.Config.StopSignal}}' {c}
        """,
    ),
    Case(
        "kill sends the signal asked for",
        """
        setup: {cli} run -d --name {c} busybox sh -c 'trap "echo hup" HUP; echo up; while :; do sleep 0.1; done'
        setup: until {cli} logs {c} | grep -q up; do :; done
        out: {cli} kill -s HUP {c}
        setup: until {cli} logs {c} | grep -q hup; do :; done
        out: {cli} inspect -f '{{.State.Status}}' {c}
        out: {cli} kill {c}
        out: {cli} wait {c}
        all: {cli} kill {c}
        all: {cli} kill -s NOSUCH {c}
        """,
    ),
    Case(
        "pause and unpause",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        out: {cli} pause {c}
        out: {cli} inspect -f '{{.State.Status}} {{.State.Running}} {{.State.Paused}}' {c}
        out: {cli} ps --filter name={c} --format '{{.Status}}'
        all: {cli} pause {c}
        all: {cli} exec {c} true
        all: {cli} start {c}
        all: {cli} rm {c}
        out: {cli} unpause {c}
        all: {cli} unpause {c}
        out: {cli} exec {c} echo alive
        """,
    ),
    Case(
        "pause of a stopped container is refused",
        """
        setup: {cli} create --name {c} busybox true
        all: {cli} pause {c}
        all: {cli} unpause {c}
        all: {cli} kill {c}
        all: {cli} exec {c} true
        all: {cli} top {c}
        all: {cli} stop {c}
        """,
    ),
    Case(
        "restart starts anew and does not count as a policy's restart",
        """
        setup: {cli} run -d --name {c} busybox sh -c 'echo run; sleep 1000'
        out: {cli} restart -t 0 {c}
        setup: until [ $({cli} logs {c} | grep -c run) = 2 ]; do :; done
        out: {cli} inspect -f '{state}' {c}
        """,
    ),
    Case(
        "rename, and names in use",
        """
        setup: {cli} create --name {c}a busybox true
        setup: {cli} create --name {c}b busybox true
        all: {cli} rename {c}a {c}b
        all: {cli} rename {c}a {c}c
        out: {cli} inspect -f '{{.Name}}' {c}c
        all: {cli} inspect -f '{{.Name}}' {c}a
        all: {cli} rename {c}c 'a b'
        all: {cli} rename {c}c ''
        all: {cli} create --name {c}b busybox true
        """,
    ),
    Case(
        "rm of a running container is refused, rm -f is not",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        all: {cli} rm {c}
        out: {cli} rm -f {c}
        all: {cli} rm {c}
        all: {cli} rm -f {c}
        """,
    ),
    Case(
        "rm -v takes the anonymous volumes and leaves the named one",
        """
        setup: {cli} run --name {c} -v {c}named:/n -v /anonymous busybox true
        out: {cli} inspect -f '{{len .Mounts}}' {c}
        setup: {cli} inspect -f '{{range .Mounts}}{{.Name}} {{end}}' {c} > names
        out: {cli} rm -v {c}
        out: {cli} volume ls -q | grep -cxF "$(tr ' ' '\\n' < names | grep .)"
        """,
    ),
    Case(
        "run --rm takes the anonymous volumes too",
        """
        setup: {cli} run --rm --cidfile id -v /anonymous -v {c}kept:/k --name {c} -d busybox sleep 1000
        setup: {cli} inspect -f '{{range .Mounts}}{{.Name}} {{end}}' {c} > names
        setup: {cli} stop -t 0 {c}
        setup: while {cli} inspect {c} >/dev/null 2>&1; do :; done
        out: {cli} volume ls -q | grep -cxF "$(tr ' ' '\\n' < names | grep .)"
        out: wc -c < id
        """,
    ),
    Case(
        "an existing cidfile is refused",
        """
        setup: touch id
        all: {cli} run --cidfile id busybox true
        """,
    ),
    Case(
        "wait for several, and for one that has ended",
        """
        setup: {cli} run -d --name {c}a busybox sh -c 'exit 4'
        setup: {cli} run --name {c}b busybox true
        all: {cli} wait {c}a {c}b
        """,
    ),
    Case(
        "a restart policy runs a failing command again and again",
        """
        setup: {cli} run -d --name {c} --restart on-failure:2 busybox sh -c 'echo run; exit 9'
        setup: until [ "$({cli} inspect -f '{{.State.Status}}{{.RestartCount}}' {c})" = exited2 ]; do :; done
        out: {cli} inspect -f '{state}' {c}
        out: {cli} logs {c}
        """,
    ),
    Case(
        "on-failure leaves a command alone that succeeds",
        """
        setup: {cli} run -d --name {c} --restart on-failure:2 busybox true
        out: {cli} wait {c}
        out: {cli} inspect -f '{state}' {c}
        """,
    ),
    Case(
        "a container stopped by hand is not restarted by always",
        """
        setup: {cli} run -d --name {c} --restart always busybox sleep 1000
        out: {cli} stop -t 0 {c}
        out: {cli} inspect -f '{state}' {c}
        """,
    ),
    Case(
        "start of a running container changes nothing",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        all: {cli} start {c}
        out: {cli} inspect -f '{{.State.Status}} {{.RestartCount}}' {c}
        """,
    ),
    Case(
        "start of a container whose command is not there says so and leaves 127",
        """
        setup: {cli} create --name {c} busybox nosuch
        code: {cli} start {c}
        out: {cli} inspect -f '{{.State.Status}} {{.State.ExitCode}}' {c}
        """,
    ),
    Case(
        "exit codes of attach and of start -a",
        """
        setup: {cli} create --name {c} busybox sh -c 'echo hello; exit 11'
        all: {cli} start -a {c}
        all: {cli} attach {c}
        """,
    ),
    Case(
        "--init reaps, and hands signals and codes on",
        """
        out: {cli} run --rm --init busybox sh -c 'exit 12'
        out: {cli} run --rm --init busybox sh -c '(sleep 0 &) ; sleep 0.2; ps -o stat | grep -c Z'
        """,
    ),
    Case(
        "the timeout of a container is used where stop gives none",
        """
        setup: {cli} run -d --name {c} --stop-timeout 1 busybox sleep 1000
        out: {cli} stop {c}
        out: {cli} inspect -f '{{.Config.StopTimeout}} {{.State.ExitCode}}' {c}
        """,
    ),
    Case(
        "several arguments, one of them unknown",
        """
        setup: {cli} create --name {c} busybox true
        all: {cli} rm {c} {c}none
        all: {cli} stop {c}none {c}nil
        all: {cli} inspect {c}none
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
