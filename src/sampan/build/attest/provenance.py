"""SLSA provenance of a build, in BuildKit's form of its versions 0.2 and 1. Pure.

`mode=min` leaves out what may be private: values of build arguments and labels, names of secrets, the Dockerfile.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sampan.build.attest.statement import PROVENANCE_V02, PROVENANCE_V1
from sampan.errors import Invalid
from sampan.oci.digest import Digest, hex_of

BUILD_TYPE_V02 = "https://mobyproject.org/buildkit@v1"
BUILD_TYPE_V1 = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md"
_BUILDKIT = "https://mobyproject.org/buildkit@v1#metadata"
_PRIVATE = ("build-arg:", "label:")


@dataclass(frozen=True, slots=True)
class Material:
    """Something that went into the build: an image, a URL or a Git repository, with the digest of its content."""

    uri: str
    digest: Mapping[str, str]
    """Algorithm -> hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step that the result consists of, for `mode=max`, as the image's history tells it."""

    name: str
    layer: Digest | None


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a build when it has ended. Times are RFC 3339 in UTC."""

    invocation: str
    """An id of this one build."""
    started: str
    finished: str
    platform: str
    """Of the machine that built; what it built for, materials and subjects tell."""
    entry_point: str
    """The Dockerfile's name."""
    source: Material | None = None
    """The context, when it came from a URL or a repository."""
    locals: tuple[str, ...] = ("context", "dockerfile")
    """What the client gave: names of directories, and the Dockerfile."""
    args: Mapping[str, str] = field(default_factory=dict)
    """As BuildKit's frontend names them: `build-arg:NAME`, `label:NAME`, `target`, `no-cache`, ..."""
    secrets: Mapping[str, bool] = field(default_factory=dict)
    """By their ids, whether a step can't do without. Values never get here."""
    ssh: Mapping[str, bool] = field(default_factory=dict)
    materials: tuple[Material, ...] = ()
    dockerfile: bytes = b""
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """`--provenance`: `mode=min|max,version=v0.2|v1,builder-id=…,reproducible=…`."""

    mode: Literal["min", "max"] = "min"
    version: Literal["v0.2", "v1"] = "v0.2"
    builder_id: str = ""
    reproducible: bool = False

    @property
    def predicate_type(self) -> str:
        return PROVENANCE_V1 if self.version == "v1" else PROVENANCE_V02


def wanted(attributes: Mapping[str, str]) -> Wanted:
    """From the parts of `--provenance` or `--attest type=provenance`. Raises `Invalid`."""
    mode, version = attributes.get("mode", "min"), attributes.get("version", "v0.2")
    if mode not in ("min", "max"):
        raise Invalid(f"invalid provenance mode {mode!r}", hint="it is min or max")
    if version not in ("v0.2", "v1"):
        raise Invalid(f"unsupported provenance version {version!r}", hint="it is v0.2 or v1")
    unknown = sorted(attributes.keys() - {"mode", "version", "builder-id", "reproducible"})
    if unknown:
        raise Invalid(
            f"unknown provenance attribute {unknown[0]!r}", hint="mode, version, builder-id, reproducible"
        )
    reproducible = attributes.get("reproducible", "false").lower() in ("true", "1")
    return Wanted(
        "max" if mode == "max" else "min",
        "v1" if version == "v1" else "v0.2",
        attributes.get("builder-id", ""),
        reproducible,
    )


def predicate(facts: Facts, wish: Wanted) -> dict[str, object]:
    """The predicate of the version that is wanted."""
    return _v1(facts, wish) if wish.version == "v1" else _v02(facts, wish)


def _parameters(facts: Facts, wish: Wanted) -> tuple[dict[str, object], bool]:
    """The invocation's parameters, and whether they are all of them."""
    args = {
        name: value
        for name, value in sorted(facts.args.items())
        if wish.mode == "max" or not name.startswith(_PRIVATE)
    }
    found: dict[str, object] = {"frontend": "dockerfile.v0", "args": args}
    if facts.locals:
        found["locals"] = [{"name": one} for one in sorted(facts.locals)]
    if wish.mode == "max" and facts.secrets:
        found["secrets"] = _asked_for(facts.secrets)
    if wish.mode == "max" and facts.ssh:
        found["ssh"] = _asked_for(facts.ssh)
    hidden = len(args) < len(facts.args) or (wish.mode == "min" and bool(facts.secrets or facts.ssh))
    return found, not hidden


def _asked_for(required: Mapping[str, bool]) -> list[dict[str, object]]:
    return [
        {"id": one} if needed else {"id": one, "optional": True} for one, needed in sorted(required.items())
    ]


def _config_source(facts: Facts, place: str) -> dict[str, object]:
    source: dict[str, object] = {place: facts.entry_point}
    if facts.source is not None:
        source |= {"uri": facts.source.uri, "digest": dict(facts.source.digest)}
    return source


def _materials(facts: Facts) -> list[dict[str, object]]:
    every = {one.uri: one for one in facts.materials}
    if facts.source is not None:
        every[facts.source.uri] = facts.source
    return [{"uri": one.uri, "digest": dict(one.digest)} for one in every.values()]


def _steps(facts: Facts) -> list[dict[str, object]]:
    """What BuildKit tells as LLB operations: sampan's steps have names and layers."""
    return [
        {
            "id": f"step{number}",
            "name": step.name,
            **({"layer": {"sha256": hex_of(step.layer)}} if step.layer else {}),
        }
        for number, step in enumerate(facts.steps)
    ]


def _source_of(facts: Facts) -> dict[str, object]:
    info = {
        "filename": facts.entry_point,
        "language": "Dockerfile",
        "data": b64encode(facts.dockerfile).decode(),
    }
    return {"source": {"infos": [info]}}


def _v02(facts: Facts, wish: Wanted) -> dict[str, object]:
    parameters, complete = _parameters(facts, wish)
    metadata: dict[str, object] = {
        "buildInvocationID": facts.invocation,
        "buildStartedOn": facts.started,
        "buildFinishedOn": facts.finished,
        # Of materials never claimed: a step with a network may have brought in anything.
        "completeness": {"parameters": complete, "environment": True, "materials": False},
        "reproducible": wish.reproducible,
    }
    found: dict[str, object] = {
        "builder": {"id": wish.builder_id},
        "buildType": BUILD_TYPE_V02,
        "materials": _materials(facts),
        "invocation": {
            "configSource": _config_source(facts, "entryPoint"),
            "parameters": parameters,
            "environment": {"platform": facts.platform},
        },
        "metadata": metadata,
    }
    if wish.mode == "max":
        found["buildConfig"] = {"steps": _steps(facts)}
        metadata[_BUILDKIT] = _source_of(facts)
    return found


def _v1(facts: Facts, wish: Wanted) -> dict[str, object]:
    parameters, complete = _parameters(facts, wish)
    internal: dict[str, object] = {"builderPlatform": facts.platform}
    metadata: dict[str, object] = {
        "invocationId": facts.invocation,
        "startedOn": facts.started,
        "finishedOn": facts.finished,
        "buildkit_completeness": {"request": complete, "resolvedDependencies": False},
        "buildkit_reproducible": wish.reproducible,
    }
    if wish.mode == "max":
        internal["buildConfig"] = {"steps": _steps(facts)}
        metadata["buildkit_metadata"] = _source_of(facts)
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE_V1,
            "externalParameters": {"configSource": _config_source(facts, "path"), "request": parameters},
            "internalParameters": internal,
            "resolvedDependencies": _materials(facts),
        },
        "runDetails": {"builder": {"id": wish.builder_id}, "metadata": metadata},
    }
