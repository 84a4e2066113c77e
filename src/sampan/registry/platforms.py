"""Which manifest of an index serves a platform. Pure."""

from __future__ import annotations

from sampan.errors import Invalid, NotFound
from sampan.oci.manifest import Descriptor, Index, Platform

_VARIANTS: dict[str, dict[str, tuple[str, ...]]] = {
    "arm64": {"v8": ("v8", "")},
    "arm": {"v7": ("v7", "v6", "v5", ""), "v6": ("v6", "v5", ""), "v5": ("v5", "")},
    "amd64": {"v1": ("v1", "")},
}
"""Architecture -> variant -> variants that it can run, best first."""

_DEFAULT_VARIANT = {"arm64": "v8", "arm": "v7", "amd64": "v1"}


_ARCHITECTURES = frozenset(
    (
        "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64", "ppc64le",
        "riscv64", "s390x", "wasm",
    )
)  # fmt: skip
_SPELLINGS = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "i386": "386", "armhf": "arm"}
"""Other names of architectures, as uname and Debian have them."""


def parse_platform(text: str) -> Platform:
    """`os/architecture[/variant]`, or an architecture alone. Raises `Invalid`."""
    parts = text.lower().split("/")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise Invalid(f"{text!r} is an invalid platform: expected os/architecture or os/architecture/variant")
    if len(parts) == 1:
        if parts[0] not in _ARCHITECTURES and parts[0] not in _SPELLINGS:
            raise Invalid(f'"{text}": unknown operating system or architecture: invalid argument')
        return Platform(_architecture(parts[0]), "linux")
    return Platform(_architecture(parts[1]), parts[0], parts[2] if len(parts) == 3 else None)


def _architecture(name: str) -> str:
    return _SPELLINGS.get(name, name)


def serves(found: Platform, wanted: Platform) -> bool:
    """Whether an image for `found` is one for `wanted`; a variant counts only where both name one."""
    if (found.os, found.architecture) != (wanted.os, wanted.architecture):
        return False
    return not found.variant or not wanted.variant or found.variant == wanted.variant


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The first manifest whose platform `wanted` can run, the best variant first. Raises `NotFound`."""
    variant = wanted.variant or _DEFAULT_VARIANT.get(wanted.architecture, "")
    order = _VARIANTS.get(wanted.architecture, {}).get(variant, (variant, ""))
    for candidate in order:
        for descriptor in index.manifests:
            platform = descriptor.platform
            if (
                platform is not None
                and (platform.os, platform.architecture) == (wanted.os, wanted.architecture)
                and (platform.variant or "") == candidate
            ):
                return descriptor
    if len(index.manifests) == 1 and index.manifests[0].platform is None:
        return index.manifests[0]
    raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
