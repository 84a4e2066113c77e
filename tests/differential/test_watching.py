"""What tells about containers: ps, top, stats, port, events, prune."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

# All events since the case began, as JSON; `at` is a file with that moment.
BEGIN = "setup: date +%s.%N > at; sleep 0.01"
EVENTS = "{cli} events --since $(cat at) --until $(date +%s.%N)"
# Fields that tell of the moment, or repeat others.
MOMENT = {"[[]].time": "when", "[[]].timeNano": "when"}


def events(name: str, filters: str, *lines: str, after: str = "true", **more: object) -> Case:
    """Commands run between two moments, and the events of that time. `after`: what remains to be done then."""
    ignore = {**MOMENT, **more.pop("ignore", {})}  # type: ignore[dict-item]
    steps = [
        BEGIN,
        *(f"setup: {line}" for line in lines),
        f"json: {EVENTS} {filters} --format '{{{{json .}}}}'",
        f"setup: {after}",
    ]
    return Case(name, "\n".join(steps), ignore=ignore, **more)  # type: ignore[arg-type]


LISTINGS = [
    Case(
        "ps: columns and formats",
        """
        setup: {cli} run -d --name {c}a -l case={c} -l x=1 busybox sleep 1000
        setup: {cli} create --name {c}b -l case={c} -e A=1 -v /v busybox sh -c 'echo a b; sleep "10 00"'
        setup: {cli} run --name {c}d -l case={c} busybox sh -c 'exit 3' || true
        shape: {cli} ps -a --filter label=case={c}
        shape: {cli} ps -a --no-trunc --filter label=case={c}
        out: {cli} ps -aq --filter label=case={c}
        out: {cli} ps --filter label=case={c} --format '{{.ID}} {{.Image}} {{.Command}} {{.Names}} {{.State}} {{.Ports}} {{.LocalVolumes}} {{.Networks}}'
        out: {cli} ps -a --filter label=case={c} --format '{{.Names}} {{.Label "x"}}'
        out: {cli} ps -a --filter label=case={c} --format 'table {{.Names}}\\t{{.Status}}'
        json: {cli} ps -a --filter name={c}d --format '{{json .}}'
        shape: {cli} ps -as --filter name={c}d --format '{{.Size}}'
        shape: {cli} container ls --filter label=case={c}
        """,
        ignore={"[[]].CreatedAt": "when", "CreatedAt": "when", "Size": "layers", "*.Size": "layers"},
    ),
    Case(
        "ps: filters",
        """
        setup: {cli} network create --subnet {net}.3.0/24 {c}n
        setup: {cli} run -d --name {c}a -l case={c} --network {c}n -v {c}v:/v -p 127.0.0.1::80 --expose 81 busybox sleep 1000
        setup: {cli} create --name {c}b -l case={c} -l x=1 rich
        setup: {cli} run --name {c}d -l case={c} busybox sh -c 'exit 3' || true
        """
        + "\n".join(
            f"out: {{cli}} ps -a --filter label=case={{c}} {filters} --format '{{{{.Names}}}}'"
            for filters in (
                "--filter status=running",
                "--filter status=created --filter status=exited",
                "--filter exited=3",
                "--filter exited=0",
                "--filter label=x",
                "--filter label=x=1",
                "--filter label=x=2",
                "--filter name={c}a",
                "--filter name=^/{c}a$",
                "--filter ancestor=rich",
                "--filter volume={c}v",
                "--filter volume=/v",
                "--filter network={c}n",
                "--filter network=bridge",
                "--filter before={c}b",
                "--filter since={c}b",
                "--filter publish=80",
                "--filter expose=81/tcp",
                "--filter health=none",
                "--filter is-task=false",
                "--filter status=paused",
                "--filter id=$({cli} inspect -f '{{.Id}}' {c}b)",
                "-n 1",
                "-l",
            )
        )
        + """
        code: {cli} ps --filter status=nosuch
        code: {cli} ps --filter before=nosuch
        code: {cli} ps --filter exited=x
        code: {cli} ps --filter health=x
        """,
    ),
    Case(
        "top: columns as ps gives them",
        """
        setup: {cli} run -d --name {c} busybox sh -c 'sleep 1000 & sleep 2000'
        setup: until [ $({cli} top {c} | wc -l) = 3 ]; do :; done
        shape: {cli} top {c} | sed 's/  */ /g' | sed 's/^root [0-9]* [0-9]* [0-9]* [0-9:]* . [0-9:]*/root/' | sort
        out: {cli} top {c} -o comm,args
        out: {cli} top {c} -eo user,args | sort
        out: {cli} top {c} axo user,comm | sort
        code: {cli} top {c} -o nosuch
        code: {cli} top {c} -o comm
        """,
        but={r"(?m)^root \d.*:\d\d (sh|sleep)": r"root \1"},
    ),
    Case(
        "stats: what is told, not how much",
        """
        setup: {cli} run -d --name {c} -m 64m busybox sleep 1000
        shape: {cli} stats --no-stream {c}
        shape: {cli} stats --no-stream --no-trunc --format '{{.Name}} {{.ID}} {{.CPUPerc}} {{.MemUsage}} {{.MemPerc}} {{.NetIO}} {{.BlockIO}} {{.PIDs}}' {c}
        shape: {cli} stats --no-stream --format '{{json .}}' {c}
        all: {cli} stats --no-stream nosuch
        """,
        but={r"<n>[kM]?i?B": "<n>"},
    ),
    Case(
        "port",
        """
        setup: {cli} run -d --name {c} -p 127.0.0.1::80 -p 127.0.0.1::53/udp busybox sleep 1000
        shape: {cli} port {c} | sort
        shape: {cli} port {c} 80
        shape: {cli} port {c} 53/udp
        all: {cli} port {c} 81
        code: {cli} port {c} x/y
        """,
        but={"'81/tcp'": "'81'"},  # Docker 28 repeats the port as it was asked for, and so do we
    ),
    Case(
        "prune takes what is stopped",
        """
        setup: {cli} run --name {c}a -l case={c} busybox true
        setup: {cli} create --name {c}b -l case={c} -l keep=1 busybox true
        setup: {cli} run -d --name {c}d -l case={c} busybox sleep 1000
        shape: {cli} container prune -f --filter label=case={c} --filter label!=keep=1
        out: {cli} ps -a --filter label=case={c} --format '{{.Names}}'
        shape: {cli} container prune -f --filter label=case={c} --filter until=1h
        shape: {cli} container prune -f --filter label=case={c}
        out: {cli} ps -a --filter label=case={c} --format '{{.Names}}'
        setup: {cli} network create --label case={c} --subnet {net}.4.0/24 {c}n
        out: {cli} network prune -f --filter label=case={c}
        code: {cli} container prune -f --filter nosuch=1
        """,
    ),
]

EVENT_CASES = [
    events(
        "events of a run that ends",
        "--filter container={c}",
        "{cli} run --name {c} -l a=b busybox sh -c 'exit 3' || true",
    ),
    events(
        "events of a run that is removed",
        "--filter type=container --filter container={c}",
        "{cli} run --rm --name {c} busybox true",
    ),
    events("events of networks at a run", "--filter type=network", "{cli} run --rm --name {c} busybox true"),
    events(
        "events of stop",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sleep 1000",
        "{cli} stop -t 0 {c}",
    ),
    events(
        "events of a stop that is obeyed",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sh -c 'trap \"exit 0\" TERM; echo up; while :; do sleep 0.05; done'",
        "until {cli} logs {c} | grep -q up; do :; done",
        "{cli} stop {c}",
    ),
    events(
        "events of kill",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sleep 1000",
        "{cli} kill -s HUP {c}",
        "{cli} kill {c}",
        "{cli} wait {c}",
    ),
    events(
        "events of restart",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sleep 1000",
        "{cli} restart -t 0 {c}",
    ),
    events(
        "events of pause, rename and update",
        "--filter type=container --filter label=case={c}",
        "{cli} run -d -l case={c} --name {c} busybox sleep 1000",
        "{cli} pause {c}",
        "{cli} unpause {c}",
        "{cli} rename {c} {c}new",
        "{cli} update -m 64m --memory-swap 64m {c}new",
        "{cli} rename {c}new {c}",
    ),
    events(
        "events of exec",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sleep 1000",
        "{cli} exec {c} sh -c 'exit 4' || true",
    ),
    events(
        "events of attach, resize and top",
        "--filter container={c}",
        "{cli} run -d --name {c} busybox sleep 1000",
        "{cli} top {c}",
    ),
    events(
        "events of cp, export, commit and rm",
        "--filter container={c}",
        "{cli} create --name {c} busybox true",
        "echo x > f",
        "{cli} cp f {c}:/f",
        "{cli} cp {c}:/f -",
        "{cli} export {c} -o e.tar",
        "{cli} commit {c} {c}:1",
        "{cli} rm {c}",
    ),
    events(
        "events of images",
        "--filter type=image",
        "{cli} tag busybox {c}:1",
        "{cli} save busybox -o s.tar",
        "{cli} load -i s.tar",
        "{cli} rmi {c}:1",
        "printf 'FROM busybox\\nENV X={c}\\n' | {cli} build -q -t {c}:2 -",
        "{cli} rmi {c}:2",
    ),
    events(
        "events of an import",
        "--filter type=image",
        "printf x > f && tar cf t.tar f && {cli} import t.tar {c}:1",
        "{cli} rmi {c}:1",
    ),
    events(
        "events of volumes",
        "--filter type=volume",
        "{cli} run --rm --name {c} -v {c}:/v busybox true",
        "{cli} run --rm --name {c} --mount type=volume,src={c}m,dst=/m,readonly busybox true",
        "{cli} volume rm {c} {c}m",
    ),
    events(
        "events of networks",
        "--filter type=network --filter network={c}",
        "{cli} network create --subnet {net}.5.0/24 {c}",
        "{cli} run -d --name {c} --network {c} busybox sleep 1000",
        "{cli} network connect bridge {c}",
        "{cli} rm -f {c}",
        "{cli} network rm {c}",
    ),
    events(
        "events of prune",
        "",
        "{cli} create --name {c} -l case={c} busybox true",
        "{cli} container prune -f --filter label=case={c}",
        "{cli} volume create --label case={c} {c}",
        "{cli} volume prune -f --filter label=case={c}",
        "{cli} network create --label case={c} --subnet {net}.6.0/24 {c}",
        "{cli} network prune -f --filter label=case={c}",
        "{cli} image prune -f --filter label=case={c}",
        but={r'"reclaimed": ?"\d+"': '"reclaimed":"n"'},
    ),
    events(
        "events of a container out of memory",
        "--filter container={c}",
        "{cli} run --name {c} -m 16m --memory-swap 16m busybox sh -c 'x=a; while :; do x=$x$x$x$x; done' || true",
    ),
    events(
        "events of health",
        "--filter container={c} --filter event=health_status",
        "{cli} run -d --name {c} --health-cmd 'test -e /ok' --health-interval 0.2s "
        "--health-retries 1 busybox sleep 1000",
        "until [ $({cli} inspect -f '{{.State.Health.Status}}' {c}) = unhealthy ]; do :; done",
        "{cli} exec {c} touch /ok",
        "until [ $({cli} inspect -f '{{.State.Health.Status}}' {c}) = healthy ]; do :; done",
        # Its checks would be among the events of other cases.
        after="{cli} rm -f {c}",
    ),
    events(
        "events of a failing start", "--filter container={c}", "{cli} run --name {c} busybox nosuch || true"
    ),
    events(
        "events of restart policies",
        "--filter container={c}",
        "{cli} run -d --name {c} --restart on-failure:1 busybox false",
        "until [ \"$({cli} inspect -f '{{.State.Status}}{{.RestartCount}}' {c})\" = exited1 ]; do :; done",
    ),
    Case(
        "events: filters",
        "\n".join(
            [
                BEGIN,
                "setup: {cli} run --name {c} -l case={c} -v {c}:/v busybox true",
                "setup: {cli} volume create {c}other",
                *(
                    f"out: {EVENTS} {filters} --format '{{{{.Type}}}} {{{{.Action}}}} {{{{.Status}}}}'"
                    for filters in (
                        "--filter type=volume",
                        "--filter volume={c}other",
                        "--filter event=create",
                        "--filter event=start --filter event=die",
                        "--filter label=case",
                        "--filter label=case={c}",
                        "--filter label=case=x",
                        "--filter image=busybox",
                        "--filter image=busybox:latest",
                        "--filter image=nosuch",
                        "--filter container=nosuch",
                        "--filter container=$({cli} inspect -f '{{.Id}}' {c})",
                        "--filter network=bridge",
                        "--filter type=network --filter event=connect",
                        "--filter scope=local --filter type=container",
                        "--filter scope=swarm",
                        "--filter daemon=nosuch",
                        "--filter type=container --filter volume={c}",
                        "--filter type=nosuch",
                        "--filter event=nosuch",
                        "--filter type=container --filter type=volume",
                    )
                ),
                f"all: {EVENTS} --filter nosuch=1 --filter type=container",
            ]
        ),
    ),
    Case(
        "events: forms of output and of time",
        "\n".join(
            [
                BEGIN,
                "setup: {cli} create --name {c} -l b=2 -l a=1 busybox true",
                f"out: {EVENTS} --filter container={{c}}",
                f"out: {EVENTS} --filter container={{c}} --format '{{{{.ID}}}} {{{{.Status}}}} {{{{.From}}}} {{{{.Type}}}} {{{{.Actor.ID}}}} {{{{.Scope}}}}'",
                f"out: {EVENTS} --filter container={{c}} --format '{{{{.Actor.Attributes.name}}}} {{{{index .Actor.Attributes \"a\"}}}}'",
                "out: {cli} events --since 10m --until 1m --filter container={c} --format '{{.Action}}'",
                "out: {cli} events --since 2000-01-01 --until 2001-01-01 --filter container={c}",
                "out: {cli} events --since 1s --until 2030-01-01T00:00:00 --filter container=none & sleep 0.3; kill $!",
                f"code: {EVENTS} --format '{{{{.Nosuch' --filter container={{c}}",
                "code: {cli} events --since nosuch --until 0s",
                f"all: {EVENTS} --filter x",
            ]
        ),
        but={r"\S+ container (\w+)": r"<time> container \1"},
    ),
]

CASES = [*LISTINGS, *EVENT_CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
