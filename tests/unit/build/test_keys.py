"""Cache keys of steps: each input makes a difference, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from sampan.build.dockerfile.state import ArgScope, StageState
from sampan.build.model import BuildRequest, CopyOperation, MountOption, RunLimits, RunOperation
from sampan.build.solver.keys import chain_of, copy_key, dated_key, run_key, workdir_key
from sampan.oci.digest import Digest
from sampan.oci.image import ContainerDefaults, ImageConfig, RootFS

RUN = RunOperation(
    args=("/bin/sh", "-c", "make all"),
    env=("PATH=/bin", "HTTP_PROXY=http://one"),
    key_args=("V=1",),
    cwd="/w",
    user="web",
    network="",
    mounts=(MountOption("cache", "/k", id="k"), MountOption("bind", "/b", "conf")),
    shown="make all",
)
REQUEST = BuildRequest(extra_hosts=("a:1.2.3.4",))
BASE = ImageConfig("amd64", "linux", RootFS())
CHAIN = chain_of([Digest("sha256:" + "1" * 64)])


def state(*env: str) -> StageState:
    return StageState(ContainerDefaults(env=env), ArgScope({}, {}, {}))


def key(
    operation: RunOperation = RUN,
    request: BuildRequest = REQUEST,
    base: ImageConfig = BASE,
    env: tuple[str, ...] = ("PATH=/bin", "A=1"),
    chain: str = CHAIN,
    binds: tuple[str, ...] = ("5",),
) -> str:
    return run_key(chain, operation, state(*env), base, request, binds)


@pytest.mark.parametrize(
    "change",
    [
        {"args": ("/bin/sh", "-c", "make", "all")},
        {"args": ("/bin/bash", "-c", "make all")},
        {"script": "#!/bin/sh\n"},
        {"key_args": ("V=2",)},
        {"key_args": ()},
        {"cwd": "/"},
        {"user": "web:ops"},
        {"network": "none"},
        {"network": "host"},
        {"security": "insecure"},
        {"mounts": ()},
        {"mounts": RUN.mounts[::-1]},
        *(
            {"mounts": (replace(RUN.mounts[0], **one), RUN.mounts[1])}
            for one in (
                {"target": "/other"},
                {"id": "other"},
                {"readonly": True},
                {"sharing": "locked"},
                {"mode": 0o700},
                {"uid": 1},
                {"gid": 1},
                {"kind": "tmpfs"},
                {"kind": "secret"},
                {"origin": "stage"},
            )
        ),
    ],
)
def test_whatever_a_run_says_counts(change: dict[str, object]) -> None:
    assert key(replace(RUN, **change)) != key()


@pytest.mark.parametrize(
    "change",
    [
        {"extra_hosts": ()},
        {"extra_hosts": ("a:1.2.3.5",)},
        {"network": "none"},
        {"shm_size": 1 << 20},
        {"limits": RunLimits(ulimits=(("nofile", 100, 100),))},
        {"limits": RunLimits(ulimits=(("nofile", 100, 200),))},
    ],
)
def test_what_a_build_gives_all_its_steps_counts(change: dict[str, object]) -> None:
    changed = key(request=replace(REQUEST, **change))
    assert changed != key()
    others = [RunLimits(ulimits=(("nofile", 100, 100),)), RunLimits(ulimits=(("nofile", 100, 200),))]
    assert len({key(request=replace(REQUEST, limits=one)) for one in others}) == 2


def test_environment_platform_layers_and_mounted_content_count() -> None:
    foreign = msgspec.structs.replace(BASE, architecture="arm", variant="v7")
    keys = [
        key(),
        key(env=("A=1", "PATH=/bin")),
        key(env=("PATH=/bin", "A=2")),
        key(env=("PATH=/bin",)),
        key(base=foreign),
        key(base=msgspec.structs.replace(foreign, variant="v6")),
        key(chain=chain_of([])),
        key(binds=("6",)),
        key(binds=("5", "5")),
    ]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"no_cache": True},
        {"pull": True},
        {"labels": {"a": "b"}},
        {"network": "default"},
        {"limits": RunLimits(memory=1 << 30, cpu_shares=5, cgroup_parent="/x")},
        {"dockerfile": "other"},
    ],
)
def test_what_makes_no_difference_to_the_files_does_not_count(change: dict[str, object]) -> None:
    assert key(request=replace(REQUEST, **change)) == key()
    proxied = replace(RUN, env=("PATH=/bin", "HTTP_PROXY=http://two"), shown="make  all")
    assert key(proxied) == key()


COPY = CopyOperation(("a",), (), "/t", "", "", "", is_add=False)


@pytest.mark.parametrize(
    "change",
    [
        {"destination": "/t/"},
        {"chown": "0"},
        {"chmod": "644"},
        {"is_add": True},
        {"parents": True},
        {"exclude": ("x",)},
        {"exclude": ("x", "y")},
        {"unpack": True},
        {"unpack": False},
        {"keep_git_dir": True},
    ],
)
def test_whatever_a_copy_says_counts(change: dict[str, object]) -> None:
    assert copy_key(CHAIN, replace(COPY, **change), "content") != copy_key(CHAIN, COPY, "content")


def test_layers_content_and_time_of_a_copy_count() -> None:
    keys = [
        copy_key(CHAIN, COPY, "content"),
        copy_key("", COPY, "content"),
        copy_key(CHAIN, COPY, "other"),
        dated_key(copy_key(CHAIN, COPY, "content"), 0),
        dated_key(copy_key(CHAIN, COPY, "content"), 1),
        workdir_key(CHAIN, "/w", ""),
        workdir_key(CHAIN, "/w", "web"),
        workdir_key(CHAIN, "/v", ""),
    ]
    assert len(set(keys)) == len(keys)
    two = [Digest("sha256:" + digit * 64) for digit in "12"]
    assert chain_of(two) != chain_of(two[::-1])
