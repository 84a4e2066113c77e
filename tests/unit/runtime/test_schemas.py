"""What `sampan-runtime` reads and prints, against the runtime-spec's own schemas and examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sampan.errors import Invalid
from sampan.oci.spec import encode_spec, parse_spec
from sampan.runtime.defaultspec import default_spec
from sampan.runtime.features import features
from sampan.runtime.plan import plan_container

REFERENCE = Path(__file__).parents[4] / "shared/reference/oci-runtime"
OBSOLETE = (".linux.resources.oomScoreAdj", ".linux.resources.memory.kernelTCP")
"""Gone from the specification, and without effect in kernels since 5.16."""
EXAMPLES = sorted(path.name for path in REFERENCE.glob("good-*.json"))


@pytest.fixture(scope="module")
def validator() -> Any:
    """A function of a schema's file name, giving its validator."""
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing.jsonschema")
    if not REFERENCE.is_dir():
        pytest.skip("the runtime-spec's schemas are not at hand")
    registry = referencing.SchemaRegistry()
    for path in REFERENCE.glob("*.json"):
        resource = referencing.DRAFT4.create_resource(json.loads(path.read_text()))
        registry = registry.with_resource(path.name, resource)
    return lambda name: jsonschema.Draft4Validator(registry.contents(name), registry=registry)


def test_the_features_follow_their_schema(validator: Any) -> None:
    said = features()
    validator("features-schema.json").validate(said)
    assert {"pid", "mount", "user"} <= set(said["linux"]["namespaces"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_good_example_is_read_with_all_that_it_says(validator: Any, name: str) -> None:
    raw = (REFERENCE / name).read_bytes()
    validator("config-schema.json").validate(json.loads(raw))
    written = json.loads(encode_spec(parse_spec(raw)))
    assert [place for place in lost(json.loads(raw), written) if place not in OBSOLETE] == []


def test_an_example_with_namespaces_can_be_planned() -> None:
    path = REFERENCE / "good-spec-example.json"
    if not path.exists():
        pytest.skip("the runtime-spec's examples are not at hand")
    spec = parse_spec(path.read_bytes())
    assert spec.linux is not None
    # Its sysctl net.core.somaxconn and its maps are for namespaces that it does not ask for.
    kinds = {namespace.type for namespace in spec.linux.namespaces}
    assert "mount" in kinds
    steps = [step.describe() for step in plan_container(spec, "example")]
    assert "pivot" in steps


def test_the_schema_accepts_what_spec_writes(validator: Any) -> None:
    validator("config-schema.json").validate(json.loads(encode_spec(default_spec())))


WRONG: list[dict[str, Any]] = [
    {"root": {"path": "rootfs"}},
    {"ociVersion": 1, "root": {"path": "rootfs"}},
    {"ociVersion": "1.0.0", "root": {"readonly": True}},
    {"ociVersion": "1.0.0", "process": {"args": ["sh"]}},
    {"ociVersion": "1.0.0", "process": {"cwd": "/", "args": "sh"}},
    {"ociVersion": "1.0.0", "process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_CORE"}]}},
    {"ociVersion": "1.0.0", "mounts": [{"source": "/x"}]},
    {"ociVersion": "1.0.0", "hooks": {"prestart": [{"args": ["x"]}]}},
    {"ociVersion": "1.0.0", "linux": {"namespaces": [{"path": "/x"}]}},
    {"ociVersion": "1.0.0", "linux": {"uidMappings": [{"hostID": 0, "containerID": 0}]}},
    {"ociVersion": "1.0.0", "linux": {"seccomp": {"syscalls": []}}},
]


@pytest.mark.parametrize("wrong", WRONG)
def test_what_the_schema_refuses_is_not_read(validator: Any, wrong: dict[str, Any]) -> None:
    assert not validator("config-schema.json").is_valid(wrong)
    with pytest.raises(Invalid):
        parse_spec(msgspec.json.encode(wrong))


def lost(before: Any, after: Any, where: str = "") -> list[str]:
    """The places of `before` that are not in `after`; values that say nothing (empty, false, 0) may be left out."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            place for key, value in before.items() for place in lost(value, after.get(key), f"{where}.{key}")
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return [
            place
            for number, pair in enumerate(zip(before, after, strict=True))
            for place in lost(*pair, f"{where}[{number}]")
        ]
    return [] if before == after or (not before and after is None) else [where]
