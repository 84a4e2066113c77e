"""`--output` as the engine reads it, and as the command line sends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sampan.build.output_options import Annotation, Output, check_outputs, parse_output
from sampan.cli.build.flags import FLAGS
from sampan.cli.build.outputs import Outputs, parse_outputs
from sampan.cli.failure import Failure
from sampan.cli.flags import parse
from sampan.errors import Invalid, SampanError, Unsupported
from sampan.oci.reference import parse_reference
from sampan.storage.layer_forms import LayerForm


def sent(*arguments: str) -> Outputs:
    return parse_outputs(parse(FLAGS, arguments)[0])


@pytest.mark.parametrize(
    ("kind", "attributes", "output"),
    [
        ("image", {}, Output("image")),
        ("registry", {"name": "a,b:2"}, Output("image", names=(_a := parse_reference("a:latest"),
            parse_reference("b:2")), push=True)),
        ("image", {"push-by-digest": "true", "name": "a", "store": "false"},
            Output("image", names=(_a,), push=True, by_digest=True, store=False)),
        ("image", {"name": "a", "name-canonical": ""}, Output("image", names=(_a,), canonical=True)),
        ("oci", {"id": "x", "compression": "zstd", "compression-level": "3", "oci-mediatypes": "true"},
            Output("oci", "x", form=LayerForm("zstd", 3), oci=True)),
        ("image", {"force-compression": "true"}, Output("image", form=LayerForm("gzip", None, force=True))),
        ("image", {"annotation-index.a.b": "c=d", "annotation[linux/arm64].x": "y"}, Output("image", annotations=(
            Annotation("index", "", "a.b", "c=d"), Annotation("manifest", "linux/arm64", "x", "y")))),
        ("local", {"id": "x", "platform-split": "false"}, Output("local", "x", platform_split=False)),
    ],
)  # fmt: skip
def test_buildkits_attributes_are_understood(kind: str, attributes: dict[str, str], output: Output) -> None:
    assert parse_output(kind, attributes) == output


@pytest.mark.parametrize(
    ("kind", "attributes", "error", "words"),
    [
        ("ovf", {}, Unsupported, "output type 'ovf'"),
        ("image", {"dest": "x"}, Invalid, "unknown option 'dest'"),
        ("image", {"compression": "estargz"}, Unsupported, "estargz"),
        ("image", {"compression": "zstd", "compression-level": "23"}, Invalid, "levels 0 to 22"),
        ("image", {"compression-level": "fast"}, Invalid, "expected a number"),
        ("image", {"push": "maybe"}, Invalid, "expected true or false"),
        ("image", {"name": "A"}, Invalid, "lowercase"),
        ("image", {"name": "a@sha256:" + "0" * 64}, Invalid, "digest"),
        ("tar", {"annotation.a": "b"}, Invalid, "unknown option 'annotation.a'"),
        ("image", {"annotation-index[linux/arm64].a": "b"}, Invalid, "an index is of no platform"),
        ("image", {"registry.insecure": "true"}, Unsupported, "registry.insecure"),
    ],
)
def test_what_cannot_be_done_is_refused(
    kind: str, attributes: dict[str, str], error: type[SampanError], words: str
) -> None:
    with pytest.raises(error, match=words):
        parse_output(kind, attributes)


def test_what_does_not_fit_the_build_is_refused_before_it() -> None:
    for output, platforms, words in (
        (Output("image", push=True), 1, "tag is needed"),
        (Output("tar"), 1, "needs an id"),
        (Output("docker", "x"), 2, "manifest lists"),
        (Output("local", "x", platform_split=False), 2, "directory each"),
        (Output("image", oci=False, form=LayerForm("zstd")), 1, "OCI's media types"),
    ):
        with pytest.raises(SampanError, match=words):
            check_outputs([output], tagged=False, platforms=platforms)


def test_destinations_stay_on_this_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = sent(
        "-o", "out", "--output", "type=oci,dest=a.tar,compression=zstd", "-o", "type=docker", "--push"
    )
    assert outputs.wire == [
        {"Type": "local", "Attrs": {"id": "output-0"}},
        {"Type": "oci", "Attrs": {"id": "output-1", "compression": "zstd"}},
        {"Type": "image", "Attrs": {}},
        {"Type": "image", "Attrs": {"push": "true"}},
    ]
    assert {name: one.path for name, one in outputs.destinations.items()} == {
        "output-0": "out",
        "output-1": "a.tar",
    }
    assert not outputs.to_stdout
    assert sent("-o", "-").to_stdout


@pytest.mark.parametrize(
    ("arguments", "wire"),
    [
        (["--push"], [{"Type": "image", "Attrs": {"push": "true"}}]),
        (["-o", "", "--load"], []),
        (["--push", "-o", "type=image,name=a"], [{"Type": "image", "Attrs": {"name": "a", "push": "true"}}]),
        (["--annotation", "a=b"], [{"Type": "image", "Attrs": {"annotation-manifest.a": "b"}}]),
        (
            ["--annotation", "index,manifest[linux/arm64]:a=b:c", "-o", "type=registry"],
            [{"Type": "registry", "Attrs": {"annotation-index.a": "b:c",
                "annotation-manifest[linux/arm64].a": "b:c"}}],
        ),
    ],
)  # fmt: skip
def test_short_flags_are_outputs(arguments: list[str], wire: list[dict[str, Any]]) -> None:
    assert sent(*arguments).wire == wire


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-o", "type=local"], "dest is required"),
        (["-o", "dest=x"], "type is required"),
        (["-o", "type=tar,dest"], "expected KEY=VALUE"),
        (["-o", "type=image,dest=x"], "has no dest"),
        (["-o", "type=tar,dest=-", "-o", "type=oci,dest=-"], "multiple outputs"),
        (["-o", "x", "--annotation", "a=b"], "annotations need"),
        (["-o", "x", "--iidfile", "id"], "incompatible with image ID file"),
        (["--annotation", "layer:a=b"], "'layer' is none of"),
        (["-o", "/etc/passwd"], "is no directory"),
    ],
)
def test_a_wrong_output_is_refused_here(arguments: list[str], words: str) -> None:
    with pytest.raises(Failure, match=words):
        sent(*arguments)
