"""`volume` and its subcommands, volumes and mounts of containers: what they print, show, hold and refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

WHEN = {"*CreatedAt": "when", "CreatedAt": "when"}
DATES = {r"\w{3} +\d+ +\d\d:\d\d": "<date>"}


def each(name: str, kind: str, *lines: str, before: str = "", **more: object) -> Case:
    """The same kind of comparison for several commands of the engine's."""
    steps = [f"setup: {line.strip()}" for line in before.splitlines() if line.strip()]
    return Case(name, "\n".join([*steps, *(f"{kind}: {{cli}} {line}" for line in lines)]), **more)  # type: ignore[arg-type]


def refused(name: str, *flags: str, kind: str = "all", **more: object) -> Case:
    """`create` with each of these flags."""
    return each(name, kind, *(f"create {each_} busybox true" for each_ in flags), **more)


COMMANDS = [
    each(
        "create prints the name, also of a volume that is there",
        "all",
        "volume create {c}",
        "volume create {c}",
        "volume create --label a=b {c}",
        "volume inspect -f '{{.Labels}}' {c}",
    ),
    Case(
        "a name of its own",
        """
        out: {cli} volume create | tr -d '\\n' | wc -c
        out: n=$({cli} volume create --label case={c}); {cli} volume inspect -f '{{.Driver}} {{.Scope}} {{.Options}}' $n
        """,
    ),
    each(
        "names that are refused",
        "all",
        "volume create a",
        "volume create -- -a",
        "volume create a/b",
        "volume create .a",
        "volume create 'a b'",
        "volume create ../x",
    ),
    each(
        "drivers and options that are not there",
        "code",
        "volume create -d nosuch {c}",
        "volume create -o nosuch=1 {c}",
        "volume create -o type=tmpfs {c}",
        "volume create -o device=tmpfs {c}",
        "volume create a b",
        "volume create --nosuch",
        "volume ls -q --filter name={c}",
    ),
    Case(
        "ls and its formats",
        """
        setup: {cli} volume create --label case={c} --label x=y {c}a
        setup: {cli} volume create --label case={c} {c}b
        out: {cli} volume ls --filter label=case={c}
        out: {cli} volume ls -q --filter label=case={c}
        out: {cli} volume ls --filter name={c}a --format '{{.Name}} {{.Driver}} {{.Scope}} {{.Labels}} {{.Label "x"}} {{.Links}} {{.Size}}'
        out: {cli} volume ls --filter name={c}a --format 'table {{.Name}}\\t{{.Labels}}'
        out: {cli} volume list --filter name={c} --format '{{.Name}}'
        """,
        but={r"case=<c>,x=y|x=y,case=<c>": "<labels>"},
    ),
    each(
        "filters of ls",
        "sorted",
        *(
            f"volume ls --format '{{{{.Name}}}}' {filters}"
            for filters in (
                "--filter label=case={c}",
                "--filter label=case={c} --filter dangling=true",
                "--filter label=case={c} --filter dangling=false",
                "--filter label=case={c} --filter dangling=1",
                "--filter label=case={c} --filter driver=local",
                "--filter driver=nosuch",
                "--filter name={c}a",
                "--filter name=^{c}a$",
                "--filter name={c}a --filter name={c}b",
                "--filter label=x --filter name={c}",
                "--filter label=x=1 --filter name={c}",
                "--filter label=x=2 --filter name={c}",
                "--filter label=nosuch",
            )
        ),
        before="""
            {cli} volume create --label case={c} --label x=1 {c}a
            {cli} volume create --label case={c} {c}b
            {cli} create -v {c}b:/v busybox true
        """,
    ),
    each(
        "filters that are none",
        "code",
        "volume ls --filter nosuch=1",
        "volume ls --filter dangling=maybe",
        "volume prune -f --filter nosuch=1",
        "volume ls --filter ''",
    ),
    each(
        "inspect: one, several, what is not there, templates",
        "json",
        "volume inspect {c}",
        "volume inspect {c} {c}b",
        "volume inspect {c} nosuch{c}",
        "volume inspect -f '{{.Name}} {{.Mountpoint}} {{.Driver}} {{json .Labels}} {{json .Options}} {{.Status}}' {c}",
        "volume inspect -f '{{.Nosuch}}' {c}",
        "inspect --type volume {c}",
        before="{cli} volume create {c}\n{cli} volume create --label a=b {c}b",
        ignore=WHEN,
    ),
    each("inspect of what is not there", "all", "volume inspect nosuch{c}"),
    each(
        "rm: one, several, some that are not there",
        "all",
        "volume rm {c}a",
        "volume rm {c}b nosuch{c} {c}d",
        "volume rm nosuch{c}",
        "volume rm -f nosuch{c}",
        "volume ls -q --filter name={c}",
        before="\n".join(f"{{cli}} volume create {{c}}{name}" for name in "abd"),
    ),
    Case(
        "rm of a volume that a container has, running or not",
        """
        setup: {cli} create --name {c} -v {c}v:/v busybox sleep 1000
        all: {cli} volume rm {c}v
        all: {cli} volume rm -f {c}v
        setup: {cli} start {c}
        all: {cli} volume rm {c}v
        setup: {cli} rm -f {c}
        all: {cli} volume rm {c}v
        """,
    ),
    Case(
        "prune leaves what is in use",
        """
        setup: {cli} create --name {c} -v /a busybox true
        setup: {cli} volume create --label case={c} {c}free
        out: {cli} volume prune -f --filter label=case=nosuch{c}
        out: {cli} volume ls -q --filter name={c}
        """,
    ),
    each(
        "commands without what they need",
        "code",
        "volume",
        "volume inspect",
        "volume nosuch",
        "volume prune more",
    ),
]

SPECIFICATIONS = [
    refused(
        "-v that can't be",
        "-v /a:",
        "-v /a:/b:nosuch",
        "-v /a:/b:ro,rw",
        "-v /a:/b:c:d",
        "-v rel/path:/x",
        "-v /x:/",
        "-v a:/x:nosuch",
        kind="code",
    ),
    refused(
        "the same place twice",
        "-v {c}a:/x -v {c}b:/x",
        "-v /x -v {c}a:/x/",
        "-v {c}:/x --tmpfs /x",
        kind="code",
    ),
    refused(
        "--mount that can't be",
        "--mount ''",
        "--mount type=nosuch,target=/x",
        "--mount type=volume",
        "--mount type=bind,target=/x",
        "--mount type=bind,source=/nosuch{c},target=/x",
        "--mount type=bind,source=relative,target=/x",
        "--mount type=volume,target=relative",
        "--mount type=volume,target=/x,nosuch=1",
        "--mount type=volume,target=/x,readonly=maybe",
        "--mount type=tmpfs,source=a,target=/x",
        "--mount type=tmpfs,target=/x,tmpfs-size=x",
        "--mount type=tmpfs,target=/x,tmpfs-mode=x",
        "--mount type=bind,source=/tmp,target=/x,volume-nocopy",
        "--mount type=volume,target=/x,bind-propagation=rshared",
        "--mount type=bind,source=/tmp,target=/x,bind-propagation=nosuch",
        "--mount type=volume,source=/abs,target=/x",
        "--mount type=bind,source=/tmp,target=/",
        kind="code",
    ),
    refused(
        "--tmpfs that can't be",
        "--tmpfs relative",
        "--tmpfs ''",
        "--tmpfs /",
        kind="code",
    ),
    refused(
        "--volumes-from that can't be",
        "--volumes-from nosuch{c}",
        "--volumes-from ''",
        "--volumes-from a:nosuch",
        kind="code",
    ),
    refused("a driver of volumes that is not there", "--volume-driver nosuch -v {c}:/x", kind="code"),
    Case(
        "nothing is left of a container that was refused",
        """
        code: {cli} create --name {c} -v {c}a:/a -v {c}b:/b --mount type=bind,source=/nosuch{c},target=/x busybox true
        out: {cli} ps -a --filter name={c} --format '{{.Names}}'
        """,
    ),
    Case(
        "mounts as inspect shows them",
        """
        setup: mkdir d
        setup: {cli} create --name {c} -v {c}a:/a -v {c}b:/b:ro -v /anonymous -v $PWD/d:/d:ro --tmpfs /t:size=1m \
            --mount type=tmpfs,target=/u,tmpfs-size=1m --mount type=volume,source={c}e,target=/e,volume-label=x=y busybox true
        json: {cli} inspect -f '{{json .Mounts}}' {c} | sed 's/},{/}\\n{/g; s/^.//; s/.$//' | grep -v anonymous | sort
        json: {cli} inspect -f '{{json .HostConfig}}' {c}
        json: {cli} volume inspect {c}e
        sorted: {cli} inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.Mode}} {{.RW}} {{.Propagation}} {{.Driver}}{{println}}{{end}}' {c}
        """,
        ignore={**WHEN, "Binds": "Docker's client has them in any order"},
    ),
]

MOUNTED = [
    Case(
        "a volume that is a tmpfs is there while somebody uses it",
        """
        setup: {cli} volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=7,mode=750 {c}
        out: {cli} volume inspect -f '{{json .Options}} {{.Driver}}' {c}
        setup: {cli} run -d --name {c}a -v {c}:/m busybox sleep 1000
        out: {cli} exec {c}a sh -c 'stat -c "%u %a" /m; df -k /m | tail -1 | cut -c1-40; echo kept > /m/f'
        out: {cli} run --rm -v {c}:/m:ro busybox sh -c 'cat /m/f; touch /m/g 2>&1'
        all: {cli} volume rm {c}
        setup: {cli} rm -f {c}a
        out: {cli} run --rm -v {c}:/m busybox ls -A /m
        all: {cli} volume rm {c}
        """,
    ),
    Case(
        "a volume that is a directory of the host takes the image's content and leaves it behind",
        """
        setup: mkdir d
        setup: {cli} volume create -o type=none -o device=$PWD/d -o o=bind {c}
        out: {cli} run --rm -v {c}:/data --entrypoint sh -u 0 rich -c 'ls -A /data; touch /data/new'
        out: ls -A d; stat -c '%u %g %a' d
        out: {cli} run --rm --mount type=volume,source={c},target=/x,volume-nocopy,readonly busybox sh -c 'ls -A /x; touch /x/y 2>&1'
        all: {cli} volume rm {c}
        out: ls -A d
        """,
    ),
    Case(
        "a volume with options that --mount makes",
        """
        out: {cli} run --rm --mount type=volume,source={c},target=/m,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=2m busybox sh -c 'df -k /m | tail -1 | cut -c1-40'
        out: {cli} volume inspect -f '{{json .Options}}' {c}
        """,
    ),
    Case(
        "a volume that can't be mounted",
        """
        setup: {cli} volume create -o type=none -o device=/nosuch{c} -o o=bind {c}
        code: {cli} run --rm -v {c}:/x busybox true
        setup: {cli} create --name {c}a -v {c}:/x busybox true
        code: {cli} start {c}a
        out: {cli} inspect -f '{{.State.Status}} {{.State.ExitCode}}' {c}a
        code: {cli} create -v {c}:/etc busybox true
        """,
    ),
]

CONTENT = [
    Case(
        "a new volume takes the image's content, owner and mode",
        """
        out: {cli} run --rm -v {c}:/data --entrypoint sh rich -c 'ls -ln /data /data/.. | grep -e one -e sub -e data; cat /data/one'
        out: {cli} run --rm -u 0 -v {c}:/elsewhere busybox sh -c 'ls -ln / | grep elsewhere; cat /elsewhere/one'
        """,
        but={**DATES, r" +\d+ <date>": " <date>"},
    ),
    Case(
        "a volume that has content keeps it",
        """
        setup: {cli} run --rm -v {c}:/data busybox sh -c 'echo mine > /data/mine'
        out: {cli} run --rm -u 0 -v {c}:/data --entrypoint sh rich -c 'ls -A /data'
        out: {cli} run --rm -u 0 -v {c}n:/data:nocopy --entrypoint sh rich -c 'ls -A /data; stat -c %u:%g:%a /data'
        out: {cli} run --rm -u 0 --mount type=volume,source={c}m,target=/data,volume-nocopy --entrypoint sh rich -c 'ls -A /data'
        """,
    ),
    Case(
        "an anonymous volume of the image goes with --rm and rm -v, and stays otherwise",
        """
        setup: {cli} volume ls -q | sort > before
        setup: {cli} run --rm -u 0 --entrypoint true rich
        out: {cli} volume ls -q | sort | comm -13 before - | wc -l
        setup: {cli} create --name {c}a rich
        out: {cli} volume ls -q | sort | comm -13 before - | wc -l
        setup: {cli} rm -v {c}a
        out: {cli} volume ls -q | sort | comm -13 before - | wc -l
        setup: {cli} create --name {c}b rich
        setup: {cli} rm {c}b
        out: {cli} volume ls -q | sort | comm -13 before - | wc -l
        setup: {cli} create --name {c}d -v {c}named:/n busybox true
        setup: {cli} rm -v {c}d
        out: {cli} volume ls -q --filter name={c}named
        """,
    ),
    Case(
        "read-only volumes",
        """
        setup: {cli} run --rm -v {c}:/v busybox sh -c 'echo a > /v/f'
        all: {cli} run --rm -v {c}:/v:ro busybox sh -c 'cat /v/f; echo b > /v/f'
        all: {cli} run --rm --mount type=volume,source={c},target=/v,readonly busybox sh -c 'cat /v/f; touch /v/g'
        all: {cli} run --rm -v {c}:/v busybox sh -c 'echo b > /v/f; cat /v/f'
        """,
    ),
    Case(
        "volumes-from, with and without its own mode",
        """
        setup: {cli} run --name {c}a -v {c}v:/v -v /w busybox sh -c 'echo v > /v/f; echo w > /w/f'
        out: {cli} run --rm --volumes-from {c}a busybox cat /v/f /w/f
        all: {cli} run --rm --volumes-from {c}a:ro busybox sh -c 'cat /v/f; touch /v/g'
        all: {cli} run --rm --volumes-from {c}a:rw busybox sh -c 'touch /w/g; ls /w'
        setup: {cli} create --name {c}b --volumes-from {c}a busybox true
        setup: {cli} create --name {c}d -v {c}other:/v --volumes-from {c}a busybox true
        sorted: {cli} inspect -f '{{range .Mounts}}{{.Destination}} {{.RW}}{{println}}{{end}}' {c}b
        out: {cli} run --rm --volumes-from {c}d busybox ls /v
        """,
    ),
    Case(
        "a volume in a volume",
        """
        out: {cli} run --rm -v {c}b:/a/b -v {c}a:/a busybox sh -c 'touch /a/x /a/b/y; ls /a /a/b'
        out: {cli} run --rm -v {c}a:/a busybox ls /a
        out: {cli} run --rm -v {c}b:/b busybox ls /b
        """,
    ),
    Case(
        "a bind mount shows both sides the same, also after rename",
        """
        setup: mkdir d && echo 1 > d/f
        out: {cli} run --rm -v $PWD/d:/d busybox sh -c 'cat /d/f; echo 2 > /d/f; mkdir /d/new; mv /d/f /d/new/g'
        out: cat d/new/g; stat -c '%u %g %a' d/new
        all: {cli} run --rm -v $PWD/d/new/g:/file:ro busybox sh -c 'cat /file; echo 3 > /file'
        """,
    ),
    Case(
        "a place that the image does not have is made",
        """
        out: {cli} run --rm -v {c}:/not/there/yet busybox sh -c 'ls -ld /not /not/there /not/there/yet | cut -c1-10; touch /not/there/yet/f'
        out: {cli} run --rm --read-only -v {c}:/also/not busybox ls /also/not
        """,
    ),
    Case(
        "a place that is a link in the image",
        """
        setup: printf 'FROM busybox\\nRUN mkdir -p /real /etc/dir && ln -s /real /link && ln -s ../../../../etc/dir /real/up\\n' | {cli} build -q -t {c} -
        out: {cli} run --rm -v {c}:/link {c} sh -c 'touch /link/f; ls /real; readlink /link'
        out: {cli} run --rm -v {c}:/link/up {c} sh -c 'ls /etc/dir'
        setup: {cli} rmi -f {c}
        """,
    ),
    Case(
        "tmpfs: size, mode and what is lost",
        """
        out: {cli} run --rm --mount type=tmpfs,target=/t,tmpfs-size=64k,tmpfs-mode=1750 busybox sh -c 'stat -c "%a %u" /t; head -c 100000 /dev/zero > /t/f; stat -c %s /t/f'
        setup: {cli} run --name {c} --tmpfs /t busybox touch /t/f
        out: {cli} start -a {c}
        """,
    ),
    Case(
        "a volume of a user who is not root",
        """
        out: {cli} run --rm -u 5:6 -v {c}:/v busybox sh -c 'stat -c "%u:%g %a" /v; touch /v/f' 2>/dev/null
        out: {cli} run --rm -v {c}t:/tmp busybox stat -c '%u:%g %a' /tmp
        out: {cli} run --rm -u 5:6 -v {c}t:/tmp busybox sh -c 'touch /tmp/f; stat -c "%u:%g" /tmp/f'
        """,
    ),
    Case(
        "cp into and out of volumes",
        """
        setup: echo x > f
        setup: {cli} create --name {c} -v {c}v:/v busybox true
        setup: {cli} cp f {c}:/v/f
        out: {cli} run --rm -v {c}v:/v busybox cat /v/f
        out: {cli} cp {c}:/v/f - | tar xO
        setup: {cli} rm {c}
        out: {cli} run --rm -v {c}v:/v busybox cat /v/f
        """,
    ),
    Case(
        "commit and export leave volumes out",
        """
        setup: {cli} run --name {c} -v {c}v:/v busybox sh -c 'touch /v/in-volume /outside'
        out: {cli} export {c} | tar t | grep -e volume -e outside
        out: {cli} diff {c} | grep -v ' /v$'
        """,
    ),
    Case(
        "a local volume that is a tmpfs",
        """
        setup: {cli} volume create -o type=tmpfs -o device=tmpfs -o o=size=1m,uid=7,mode=750 {c}
        json: {cli} volume inspect {c}
        out: {cli} run --rm -v {c}:/v busybox sh -c 'grep " /v " /proc/mounts | cut -d" " -f1-3; stat -c "%u %a" /v; df -k /v | tail -1 | grep -o 1024'
        setup: {cli} run -d --name {c} -v {c}:/v busybox sleep 1000
        setup: {cli} exec {c} touch /v/mark
        out: {cli} run --rm -v {c}:/w busybox ls /w
        setup: {cli} rm -f {c}
        out: {cli} run --rm -v {c}:/w busybox ls /w
        all: {cli} volume rm {c}
        """,
        ignore=WHEN,
    ),
    Case(
        "a local volume that is a directory of the host",
        """
        setup: mkdir d && echo 1 > d/f
        setup: {cli} volume create -o type=none -o device=$PWD/d -o o=bind {c}
        json: {cli} volume inspect {c}
        out: {cli} run --rm -v {c}:/v busybox sh -c 'cat /v/f; echo 2 > /v/f'
        out: cat d/f
        out: {cli} volume rm {c}
        out: cat d/f
        setup: {cli} volume create -o type=none -o device=$PWD/nosuch -o o=bind {c}
        code: {cli} run --rm -v {c}:/v busybox true
        out: {cli} volume rm {c}
        """,
        ignore=WHEN,
    ),
]

CASES = [*COMMANDS, *SPECIFICATIONS, *MOUNTED, *CONTENT]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
