"""The same Dockerfiles built by Docker's builders, buildah and sampan: file systems and configurations compared.

Each `builds/NAME.Dockerfile` is a case; its context is `sampan.testing.differential.build_context`, or the directory
`builds/NAME/` for those that stand for applications. Lines of a case that begin with `#:` say

    #: options: WORDS                  of the build's command line; {server} is an HTTP server with plain.txt and x.tar
    #: ignore: LINE                    of its .dockerignore
    #: without BUILDER: REASON         that builder does not know what the case is about
    #: differs BUILDER: PATTERN - ROW  what differs there, with the row of docs/compatibility.md or the reason
    #: chance: PATTERN                 of paths whose content is different with every build

The builders: `classic` and `embedded` of Debian's docker.io, `buildah`, and `newest` where `SAMPAN_NEWEST_DOCKER`
names its command line.
"""

from __future__ import annotations

import functools
import http.server
import re
import shlex
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sampan.testing.differential import builders as known_builders
from sampan.testing.differential.build_context import base_root, make_context, make_old
from sampan.testing.differential.builders import Builder, Built
from sampan.testing.differential.built import Image, Images, compare, compare_history, unexpected, write_base
from sampan.testing.differential.toolchains import toolchains_root
from sampan.testing.docker_engine import DOCKERD, DockerProcess
from sampan.testing.engine import EngineProcess
from sampan.testing.images import BUSYBOX
from sampan.testing.trees import Tree

pytestmark = [pytest.mark.root, pytest.mark.timeout(3600)]

BUILDS = Path(__file__).with_name("builds")
CASES = sorted(path.name.removesuffix(".Dockerfile") for path in BUILDS.glob("*.Dockerfile"))
ORACLES = ("classic", "embedded", "newest", "buildah")

# Differences that every case of a builder may have, with the reason.
EVERYWHERE: dict[str, dict[str, str]] = {
    "classic": {
        "file '*perm/s?id': *": "row: Set-id bits of copied files",
        "config WorkingDir: '' != '/'": "row: WorkingDir of FROM scratch",
    },
    "embedded": {},
    "newest": {
        "history *: 'COPY *' != 'COPY *--from=*": "row: History texts",
        "history *: 'COPY *' != 'COPY *--link=*": "row: History texts",
        "history *: 'HEALTHCHECK &{*": "row: History texts",
        "history *: 'SHELL [[]*": "row: History texts",
    },
    "buildah": {
        "file '*perm/s?id': *": "row: Set-id bits of copied files",
        "config WorkingDir: '' != '/'": "row: WorkingDir of FROM scratch",
        "file '*attributed': *": "row: Extended attributes of the context",
        "file 'etc/hosts' is missing*": "it leaves the mount point of a file that the base does not have",
    },
}

BASE = {"Cmd": ["sh"], "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]}


@dataclass(frozen=True)
class Case:
    name: str
    options: Sequence[str]
    ignore: Sequence[str]
    without: dict[str, str] = field(default_factory=dict)
    differs: dict[str, dict[str, str]] = field(default_factory=dict)
    chance: Sequence[str] = ()


@functools.cache
def case_of(name: str) -> Case:
    """Raises ValueError for a line that says nothing."""
    options: list[str] = []
    ignore: list[str] = []
    chance: list[str] = []
    without: dict[str, str] = {}
    differs: dict[str, dict[str, str]] = {}
    for line in (BUILDS / f"{name}.Dockerfile").read_text().splitlines():
        match = re.fullmatch(r"#: (\w+)(?: (\w+))?: ?(.*)", line)
        if match is None:
            if line.startswith("#:"):
                raise ValueError(f"{name}: {line}")
            continue
        word, builder, rest = match.groups()
        match word:
            case "options":
                options += shlex.split(rest)
            case "ignore":
                ignore.append(rest)
            case "chance":
                chance.append(rest)
            case "without":
                without[builder] = rest
            case "differs":
                pattern, _, reason = rest.rpartition(" - ")
                differs.setdefault(builder, {})[pattern] = reason
            case _:
                raise ValueError(f"{name}: {line}")
    return Case(name, options, ignore, without, differs, chance)


class Bench:
    """All builders with the bases loaded; `perform` lets every one build every case."""

    def __init__(self, directory: Path, builders: Sequence[Builder], server: str) -> None:
        self.directory = directory
        self.builders = {builder.name: builder for builder in builders}
        self.built: dict[tuple[str, str], Built] = {}
        self.images: dict[str, Images] = {}
        self._server = server

    def load(self, archive: Path) -> None:
        with ThreadPoolExecutor(len(self.builders)) as pool:
            list(pool.map(lambda builder: builder.load(archive), self.builders.values()))

    def perform(self, names: Sequence[str]) -> None:
        for name in names:
            self._make(name)
        with ThreadPoolExecutor(len(self.builders)) as pool:
            list(pool.map(lambda builder: self._build_all(builder, names), self.builders.values()))
        trees: dict[tuple[str, ...], Tree] = {}
        for builder in self.builders.values():
            done = [name for name in names if self.built[builder.name, name].ok]
            archive = self.directory / f"{builder.name}.tar"
            builder.save(done, archive)
            self.images[builder.name] = Images(archive, trees)

    def image(self, builder: str, name: str) -> Image:
        return self.images[builder].image(self.builders[builder].tag(name))

    def close(self, names: Sequence[str]) -> None:
        for images in self.images.values():
            images.close()
        for builder in self.builders.values():
            builder.remove([name for name in names if (builder.name, name) in self.built])

    def _make(self, name: str) -> None:
        context = self.directory / "contexts" / name
        if (BUILDS / name).is_dir():
            shutil.copytree(BUILDS / name, context)
        else:
            make_context(context)
        shutil.copy(BUILDS / f"{name}.Dockerfile", context / "Dockerfile")
        if case_of(name).ignore:
            (context / ".dockerignore").write_text("\n".join(case_of(name).ignore) + "\n")
        make_old(context)

    def _build_all(self, builder: Builder, names: Sequence[str]) -> None:
        for name in names:
            options = [option.format(server=self._server) for option in case_of(name).options]
            built = builder.build(name, self.directory / "contexts" / name, options)
            self.built[builder.name, name] = built


def _serve(directory: Path) -> http.server.ThreadingHTTPServer:
    directory.mkdir()
    (directory / "plain.txt").write_text("fetched\n")
    (directory / "x.tar").write_bytes(b"no archive\n")
    make_old(directory)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(directory))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _builders(directory: Path, stack: ExitStack) -> list[Builder]:
    engine = stack.enter_context(EngineProcess(directory / "sampan"))
    found = [known_builders.sampan(engine.environment)]
    if Path(DOCKERD).exists():
        docker = DockerProcess(directory / "docker")
        docker.start()
        stack.callback(docker.stop)
        found += [known_builders.classic(docker.environment), known_builders.embedded(docker.environment)]
    if shutil.which("buildah") and shutil.which("podman"):
        found.append(known_builders.buildah(directory / "buildah"))
    newest = known_builders.newest()
    return [*found, newest] if newest is not None else found


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Builds the cases that were chosen, and only those."""
    names = sorted(
        {
            item.callspec.params["name"]
            for item in request.session.items
            if "bench" in getattr(item, "fixturenames", ())
        }
    )
    directory = Path(tempfile.mkdtemp(prefix="differential-builds-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        server = _serve(directory / "served")
        stack.callback(server.shutdown)
        bench = Bench(directory, _builders(directory, stack), f"http://127.0.0.1:{server.server_port}")
        stack.callback(bench.close, names)
        root = directory / "base-root.tar"
        root.write_bytes(base_root(BUSYBOX))
        bases = {"base": root}
        if any("FROM fat" in (BUILDS / f"{name}.Dockerfile").read_text() for name in names):
            bases["fat"] = toolchains_root()
        for base, tar in bases.items():
            archive = directory / f"{base}.tar"
            write_base(archive, tar, f"{base}:latest", BASE)
            bench.load(archive)
            archive.unlink()
        bench.perform(names)
        yield bench


@pytest.mark.parametrize("oracle", ORACLES)
@pytest.mark.parametrize("name", CASES)
def test_the_image_is_the_same(bench: Bench, name: str, oracle: str) -> None:
    case = case_of(name)
    if oracle not in bench.builders:
        pytest.skip(
            f"{known_builders.NEWEST} names no docker" if oracle == "newest" else f"{oracle} is not installed"
        )
    ours = bench.built["sampan", name]
    theirs = bench.built[oracle, name]
    if not ours.ok:
        pytest.fail(f"sampan refuses it:\n{ours.output[-1500:]}", pytrace=False)
    if oracle in case.without:
        return
    if not theirs.ok:
        pytest.fail(f"{oracle} refuses it:\n{theirs.output[-1500:]}", pytrace=False)
    known = {**EVERYWHERE[oracle], **case.differs.get(oracle, {}), **_chance(case)}
    their_image, our_image = bench.image(oracle, name), bench.image("sampan", name)
    found = compare(their_image, our_image)
    if oracle == "newest":
        found += compare_history(their_image, our_image)
    wrong = list(unexpected(found, known))
    if wrong:
        pytest.fail("\n".join([f"{name}: {oracle} != sampan", *wrong[:30]]), pytrace=False)


def _chance(case: Case) -> dict[str, str]:
    return {f"file '{each}'*": "different with every build" for each in case.chance}
