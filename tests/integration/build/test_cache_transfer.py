"""The build cache through a real registry or a directory, from one engine to another."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.root

MEGABYTE = 1 << 20
CONFIG_TYPE = "application/vnd.buildkit.cacheconfig.v0"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: Any, session_registry: Any) -> Iterator[tuple[Any, Any]]:
    """Two engines with the same base image under the registry's name."""
    from tests.integration.conftest import _make

    made = []
    base = f"{session_registry.host}/cache/base:1"
    try:
        for number in (1, 2):
            made.append(_make(tmp_path_factory.mktemp(f"engine{number}") / "e"))
        made[0].ok("tag", "busybox:latest", base)
        made[0].ok("push", base)
        yield made[0], made[1]
    finally:
        for one in made:
            one.close()
            one.engine.stop()


def dockerfile(registry: Any, name: str) -> str:
    """Two stages; `name` makes the steps those of one test."""
    return f"""FROM {registry.host}/cache/base:1 AS tools
RUN echo {name} > /tool && head -c 1048576 /dev/urandom >> /tool
RUN echo unneeded {name} > /big
FROM {registry.host}/cache/base:1
LABEL name={name}
RUN date +%s%N > /when-{name} && head -c 1000 /dev/urandom > /noise
COPY --from=tools /tool /tool
RUN wc -c < /tool > /size
"""


def build(sampan: Any, text: str, *arguments: str, ok: bool = True) -> str:
    done = sampan.run("build", *arguments, "-", stdin=text.encode(), timeout=120)
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return str(done.stdout + done.stderr)


def image_id(sampan: Any, name: str) -> str:
    return str(json.loads(sampan.ok("image", "inspect", name))[0]["Id"])


def layers_here(sampan: Any) -> set[str]:
    return {path.name for path in (sampan.engine.root / "layers").iterdir()}


def manifest(registry: Any, repository: str) -> dict[str, Any]:
    request = urllib.request.Request(
        f"{registry.url}/v2/{repository}/manifests/latest",
        headers={"Accept": "application/vnd.oci.image.manifest.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def test_a_fresh_engine_runs_nothing_and_makes_the_identical_image(
    engines: tuple[Any, Any], session_registry: Any
) -> None:
    first, second = engines
    text, cache = dockerfile(session_registry, "max"), f"{session_registry.host}/cache/max"
    build(first, text, "-t", "result", "--cache-to", f"type=registry,ref={cache},mode=max")
    artifact = manifest(session_registry, "cache/max")
    assert artifact["config"]["mediaType"] == CONFIG_TYPE
    assert len(artifact["layers"]) == 4  # COPY makes the layer that the RUN before has made, byte by byte
    before = layers_here(second)
    said = build(second, text, "-t", "result", "--cache-from", f"type=registry,ref={cache}")
    assert "Running in" not in said
    assert said.count("Using cache") == 5
    assert image_id(second, "result") == image_id(first, "result")
    assert second.ok("run", "--rm", "result", "cat", "/size") == "1048580"
    # /big's layer came because COPY --from looks into its stage; nothing came twice.
    assert len(layers_here(second) - before) <= 6
    # What came is the engine's own now.
    assert "Running in" not in build(second, text, "-t", "again")


def test_layers_that_are_not_needed_stay_in_the_registry(
    engines: tuple[Any, Any], session_registry: Any
) -> None:
    first, second = engines
    cache = f"{session_registry.host}/cache/lazy"
    base = f"FROM {session_registry.host}/cache/base:1\n"
    one = base + "RUN head -c 500 /dev/urandom > /unneeded\n"
    build(first, one, "--cache-to", f"type=registry,ref={cache},mode=max")
    before = layers_here(second)
    two = base + "RUN echo other > /other\n"
    build(second, two, "--cache-from", cache)
    assert len(layers_here(second) - before) <= 2  # the base, if this test is the first, and the step


def test_a_fresh_engine_starts_warm_from_a_directory(
    engines: tuple[Any, Any], session_registry: Any, tmp_path: Path
) -> None:
    first, second = engines
    text, cache = dockerfile(session_registry, "directory"), tmp_path / "new" / "cache"
    build(first, text, "-t", "result", "--cache-to", f"type=local,dest={cache},mode=max")
    # Another program reads the layout, and finds every blob to be what its name says.
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{cache}:latest"], capture_output=True, check=True
    )
    artifact = json.loads(raw.stdout)
    assert artifact["config"]["mediaType"] == CONFIG_TYPE
    assert len(artifact["layers"]) == 4
    before = layers_here(second)
    said = build(second, text, "-t", "result", "--cache-from", f"type=local,src={cache}")
    assert "Running in" not in said
    assert image_id(second, "result") == image_id(first, "result")
    assert second.ok("run", "--rm", "result", "cat", "/size") == str(MEGABYTE + len("directory\n"))
    assert len(layers_here(second) - before) <= 6
    # A cache that is taken from and written to at once, as CI machines have it; nothing is written twice.
    blobs = {path: path.stat().st_ino for path in (cache / "blobs" / "sha256").iterdir()}
    both = ("--cache-from", f"type=local,src={cache}", "--cache-to", f"type=local,dest={cache},mode=max")
    build(second, text, *both)
    assert {path: path.stat().st_ino for path in blobs} == blobs
    assert "Running in" not in build(first, text, "--no-cache-filter", "none", *both)
    # What an export replaces can go.
    build(first, text, "--no-cache", "--cache-to", f"type=local,dest={cache},mode=max,prune=true")
    left = {path.name for path in (cache / "blobs" / "sha256").iterdir()}
    assert len(left) == len({path.name for path in blobs}) == 6  # manifest, configuration, four layers
    assert len(left & {path.name for path in blobs}) < 6
    assert "Running in" not in build(second, text, "--cache-from", f"type=local,src={cache}")
    # One that is away or empty is a cold build, and a place that can't be written to no long one.
    cold = build(second, text, "--cache-from", f"type=local,src={tmp_path / 'none'}", "--no-cache")
    assert "no cache from local:" in cold
    (tmp_path / "file").touch()
    refused = build(second, text, "--cache-to", f"type=local,dest={tmp_path / 'file' / 'x'}", ok=False)
    assert "failed to create cache storage dir" in refused
    assert "Step" not in refused


def test_cache_mounts_come_along_through_directory_and_registry(
    engines: tuple[Any, Any], session_registry: Any, tmp_path: Path
) -> None:
    first, second = engines
    base = f"FROM {session_registry.host}/cache/base:1\n"
    for number, (target, source) in enumerate(
        (
            (f"type=local,dest={tmp_path}/c", f"type=local,src={tmp_path}/c"),
            (f"type=registry,ref={session_registry.host}/cache/mounts",) * 2,
        )
    ):
        mount = f"RUN --mount=type=cache,id=wheels{number},target=/wheels"
        build(
            first,
            f"{base}{mount} echo downloaded > /wheels/one; ln -s one /wheels/two\n",
            "--cache-to",
            f"{target},mode=max,mounts=true",
        )
        # The step is another one here, so it has to run; what it would download is there.
        said = build(
            second, f"{base}{mount} cat /wheels/two > /result\n", "-t", "taken", "--cache-from", source
        )
        assert "Running in" in said
        assert second.ok("run", "--rm", "taken", "cat", "/result") == "downloaded"


@pytest.mark.parametrize(
    "form", ["compression=zstd,force-compression=true", "image-manifest=false", "oci-mediatypes=false"]
)
def test_a_registry_takes_the_cache_in_the_forms_of_buildkit(
    engines: tuple[Any, Any], session_registry: Any, form: str
) -> None:
    first, second = engines
    name = form.partition("=")[0]
    text = f"FROM {session_registry.host}/cache/base:1\nRUN head -c 999 /dev/urandom > /{name}\n"
    cache = f"{session_registry.host}/cache/{name}"
    build(first, text, "-t", "formed", "--cache-to", f"type=registry,ref={cache},mode=max,{form}")
    assert "Running in" not in build(second, text, "-t", "formed", "--cache-from", cache)
    assert image_id(second, "formed") == image_id(first, "formed")


def test_inline_the_image_itself_is_the_cache(engines: tuple[Any, Any], session_registry: Any) -> None:
    first, second = engines
    name = f"{session_registry.host}/cache/inline:latest"
    text = f"FROM {session_registry.host}/cache/base:1\nENV a=b\nRUN head -c 99 /dev/urandom > /noise\n"
    build(first, text, "-t", name, "--build-arg", "BUILDKIT_INLINE_CACHE=1")
    first.ok("push", name)
    said = build(second, text, "-t", name, "--cache-from", name, "--cache-to", "type=inline")
    assert "Running in" not in said
    assert image_id(second, name) == image_id(first, name)
    # A step more on top of what was imported needs its base, and gets it.
    build(second, text + "RUN wc -c < /noise > /count\n", "-t", "more", "--cache-from", name)
    assert second.ok("run", "--rm", "more", "cat", "/count") == "99"


def test_a_cache_that_is_missing_damaged_or_no_cache_makes_the_build_cold(
    engines: tuple[Any, Any], session_registry: Any
) -> None:
    first, second = engines
    base, host = f"FROM {session_registry.host}/cache/base:1\n", session_registry.host
    cold = base + "RUN echo cold > /cold\n"
    said = build(second, cold, "--cache-from", f"{host}/cache/none", "--cache-from", f"{host}/cache/base:1")
    assert said.count("[Warning] no cache from") == 2
    assert "Running in" in said
    # The records promise a layer, and the registry's bytes are others: found out by the digest, and done without.
    text, cache = base + "RUN head -c 7777 /dev/urandom > /lost\n", f"{host}/cache/lost"
    build(first, text, "--cache-to", f"type=registry,ref={cache},mode=max")
    hex_name = manifest(session_registry, "cache/lost")["layers"][0]["digest"].removeprefix("sha256:")
    blob: Path = next(session_registry.directory.glob(f"**/{hex_name}/data"))
    good = blob.read_bytes()
    blob.write_bytes(b"\0" * len(good))
    said = build(second, text, "--cache-from", cache)
    assert "going on without imported caches" in said
    assert "Running in" in said
    assert "Using cache" not in build(second, text, "--no-cache", "--cache-from", cache)


def test_an_export_that_fails_is_an_error_unless_it_may(engines: tuple[Any, Any]) -> None:
    text = "FROM busybox\nRUN echo exported > /x\n"
    target = "type=registry,ref=127.0.0.1:1/nobody"
    build(engines[0], text, "--cache-to", target, ok=False)
    assert "the cache was not exported" in build(
        engines[0], text, "--cache-to", f"{target},ignore-error=true"
    )
    assert "not supported" in build(engines[0], text, "--cache-to", "type=gha", ok=False)


def test_a_daemon_killed_while_it_exports_or_imports_leaves_a_cache_that_serves(
    engines: tuple[Any, Any], session_registry: Any, slow_proxy: Any, wait_until: Callable[..., None]
) -> None:
    first, second = engines
    base = f"FROM {session_registry.host}/cache/base:1\n"
    text = base + "RUN head -c 3000000 /dev/urandom > /noise\n"
    cache = f"{session_registry.host}/cache/killed"
    first.ok("pull", f"{session_registry.host}/cache/base:1")
    # Export: the answers are held back somewhere in the middle.
    slow_proxy.budget = 600
    running = first.start(
        "build", "--cache-to", f"type=registry,ref={slow_proxy.host}/cache/killed,mode=max", "-"
    )
    running.stdin.write(text.encode())
    running.stdin.close()
    assert slow_proxy.reached.wait(60)
    first.engine.kill()
    slow_proxy.released.set()
    running.stdin = None
    running.communicate(timeout=60)
    first.engine.start()
    assert "Running in" not in build(first, text, "--cache-to", f"type=registry,ref={cache},mode=max")
    # Import: half a layer has come.
    slow_proxy.released.clear()
    slow_proxy.reached.clear()
    slow_proxy.budget = slow_proxy.passed + 1_000_000
    second.ok("pull", f"{session_registry.host}/cache/base:1")
    running = second.start("build", "--cache-from", f"{slow_proxy.host}/cache/killed", "-")
    running.stdin.write(text.encode())
    running.stdin.close()
    assert slow_proxy.reached.wait(60)
    second.engine.kill()
    slow_proxy.released.set()
    running.stdin = None
    running.communicate(timeout=60)
    second.engine.start()
    assert "Running in" not in build(second, text, "--cache-from", cache)


def test_machines_that_start_empty_build_warm_as_the_documentation_has_it(
    make_sampan: Callable[..., Any], tmp_path: Path
) -> None:
    context, cache = tmp_path / "context", tmp_path / "cache"
    context.mkdir()
    (context / "Dockerfile").write_text(
        "FROM busybox AS deps\nCOPY wanted /wanted\n"
        "RUN --mount=type=cache,id=pip,target=/c ls /c > /had && cd /c && xargs touch < /wanted\n"
        "FROM busybox\nCOPY --from=deps /had /had\n"
    )
    both = ("--cache-from", f"type=local,src={cache}")
    both += ("--cache-to", f"type=local,dest={cache},mode=max,mounts=true,prune=true")
    told, blobs = [], []
    for number, wanted in enumerate(("one", "one", "one two")):
        (context / "wanted").write_text(wanted)
        sampan = make_sampan(tmp_path / f"machine{number}")
        try:
            done = sampan.run("build", "--progress", "plain", "-t", "app", *both, str(context))
            assert done.returncode == 0, done.stderr
            told.append((done.stdout + done.stderr).count("CACHED"))
            blobs.append(len(list((cache / "blobs" / "sha256").iterdir())))
            had = sampan.ok("run", "--rm", "app", "cat", "/had")
        finally:
            sampan.close()
            sampan.engine.stop()
    assert told == [0, 3, 0]
    # On the second machine no step needed the mount: it went on to the third all the same.
    assert had == "one"
    assert blobs == [
        5,
        5,
        5,
    ]  # manifest, configuration, mount, and two layers: the last COPY makes what RUN made
