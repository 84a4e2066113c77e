"""`--output`: what is to become of a build's result, with BuildKit's exporters and attributes, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from sampan.errors import Invalid, Unsupported
from sampan.oci.reference import Reference, parse_reference
from sampan.storage.layer_forms import Compression, LayerForm

Kind = Literal["image", "oci", "docker", "tar", "local", "cacheonly"]
Target = Literal["manifest", "manifest-descriptor", "index", "index-descriptor"]

_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")
_PACKED = (
    *("name", "compression", "compression-level", "force-compression", "oci-mediatypes"),
    "rewrite-timestamp",  # what SOURCE_DATE_EPOCH does here anyway
)
_KNOWN: dict[str, tuple[str, ...]] = {
    "image": (
        *_PACKED,
        *("push", "push-by-digest", "registry.insecure", "unpack", "store", "dangling-name-prefix"),
        "name-canonical",
    ),
    "oci": (*_PACKED, "id", "tar"),
    "docker": (*_PACKED, "id", "tar"),
    "tar": ("id", "platform-split"),
    "local": ("id", "platform-split"),
    "cacheonly": (),
}
_ANNOTATION = re.compile(
    r"annotation(?:-(manifest|manifest-descriptor|index|index-descriptor))?(?:\[([^\]]+)\])?\.(.+)", re.DOTALL
)


@dataclass(frozen=True, slots=True)
class Annotation:
    target: Target
    platform: str
    """Of the image that it is for; "" for every one."""
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Output:
    kind: Kind
    id: str = ""
    """What the client calls the place that it is delivered to."""
    names: tuple[Reference, ...] = ()
    """Instead of the build's tags, if there are any."""
    push: bool = False
    by_digest: bool = False
    canonical: bool = False
    """Each name also gets the digest: `name@sha256:…`."""
    store: bool = True
    form: LayerForm | None = None
    """None: as the exporter does by itself."""
    oci: bool | None = None
    annotations: tuple[Annotation, ...] = ()
    platform_split: bool | None = None

    @property
    def delivered(self) -> bool:
        """Whether it goes to the client."""
        return self.kind not in ("image", "cacheonly")


@dataclass(frozen=True, slots=True)
class _Attributes:
    kind: str
    values: Mapping[str, str] = field(default_factory=dict)

    def flag(self, name: str) -> bool | None:
        text = self.values.get(name)
        if text is None:
            return None
        if text.lower() in (*_TRUE, *_FALSE, ""):
            return text.lower() not in _FALSE
        raise Invalid(f"invalid value {text!r} for {name} of output type {self.kind}: expected true or false")

    def number(self, name: str) -> int | None:
        text = self.values.get(name)
        if text is None:
            return None
        if not text.isascii() or not text.isdigit() or len(text) > 3:
            raise Invalid(f"invalid value {text!r} for {name} of output type {self.kind}: expected a number")
        return int(text)


def parse_output(kind: str, values: Mapping[str, str]) -> Output:
    """An entry of the API's `outputs`. Raises `Invalid`, `Unsupported`."""
    if kind == "registry":
        kind, values = "image", {"push": "true", **values}
    if kind not in _KNOWN:
        raise Unsupported(
            f"output type {kind!r} is not supported",
            hint="the types are image, registry, local, tar, oci, docker, cacheonly",
        )
    annotations = tuple(_annotations(kind, values))
    rest = {name: value for name, value in values.items() if not name.startswith("annotation")}
    unknown = sorted(set(rest) - set(_KNOWN[kind]))
    if unknown:
        raise Invalid(f"unknown option {unknown[0]!r} for output type {kind}")
    attributes = _Attributes(kind, rest)
    for refused in ("registry.insecure", "dangling-name-prefix"):
        if attributes.values.get(refused, "false") != "false":
            hint = "the engine is told of insecure registries (--insecure-registry)" if "." in refused else ""
            raise Unsupported(f"option {refused} of output type {kind} is not supported", hint=hint)
    store = attributes.flag("store")
    return Output(
        cast(Kind, kind),
        id=rest.get("id", ""),
        names=_names(rest.get("name", "")),
        push=bool(attributes.flag("push") or attributes.flag("push-by-digest")),
        by_digest=bool(attributes.flag("push-by-digest")),
        canonical=bool(attributes.flag("name-canonical")),
        store=store is None or store,
        form=_form(attributes),
        oci=attributes.flag("oci-mediatypes"),
        annotations=annotations,
        platform_split=attributes.flag("platform-split"),
    )


def check_outputs(outputs: Sequence[Output], *, tagged: bool, platforms: int) -> None:
    """What can't be done, told before anything is built. Raises `Invalid`, `Unsupported`, with BuildKit's words."""
    for output in outputs:
        if output.push and not (tagged or output.names):
            raise Invalid("tag is needed when pushing to registry", hint="give the image a name with -t")
        if output.delivered and not output.id:
            raise Invalid(
                f"output of type {output.kind} needs an id", hint="`sampan build` opens a session for it"
            )
        if platforms > 1 and output.kind == "docker":
            raise Unsupported(
                "docker exporter does not currently support exporting manifest lists",
                hint="use --output type=oci, or one platform",
            )
        if platforms > 1 and output.platform_split is False:
            raise Unsupported(
                "several platforms need a directory each", hint="leave platform-split=false out"
            )
        if output.oci is False and output.form is not None and output.form.compression == "zstd":
            raise Invalid("zstd compression needs OCI's media types", hint="use oci-mediatypes=true")


def _annotations(kind: str, values: Mapping[str, str]) -> Sequence[Annotation]:
    found = []
    for key, value in values.items():
        if not key.startswith("annotation"):
            continue
        match = _ANNOTATION.fullmatch(key)
        if match is None or kind not in ("image", "oci", "docker"):
            raise Invalid(f"unknown option {key!r} for output type {kind}")
        target = cast(Target, match[1] or "manifest")
        if match[2] and target.startswith("index"):
            raise Invalid(f"{key}: an index is of no platform")
        found.append(Annotation(target, match[2] or "", match[3], value))
    return found


def _names(text: str) -> tuple[Reference, ...]:
    names = tuple(
        parse_reference(name.strip()).with_default_tag() for name in text.split(",") if name.strip()
    )
    for name in names:
        if name.digest is not None:
            raise Invalid(f"invalid tag {name.familiar!r}: a digest cannot be given to a build's result")
    return names


def _form(attributes: _Attributes) -> LayerForm | None:
    kind = attributes.values.get("compression", "gzip")
    level = attributes.number("compression-level")
    force = bool(attributes.flag("force-compression"))
    if kind not in ("gzip", "zstd", "uncompressed"):
        raise Unsupported(
            f"compression {kind!r} is not supported", hint="the compressions are gzip, zstd, uncompressed"
        )
    if "compression" not in attributes.values and level is None and not force:
        return None
    return LayerForm(cast(Compression, kind), level, force)
