"""The image configuration: OCI image-spec config.md, with Docker's additions.

Docker adds Healthcheck, OnBuild, Shell and ArgsEscaped to `config`; all are kept.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sampan.errors import Invalid
from sampan.oci.digest import Digest, parse_digest


class Healthcheck(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """Times are in nanoseconds."""

    test: tuple[str, ...] = ()
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class ContainerDefaults(msgspec.Struct, frozen=True, rename="pascal", omit_defaults=True):
    """The `config` object of an image: what a container of it starts with."""

    user: str = ""
    exposed_ports: dict[str, dict[str, str]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    volumes: dict[str, dict[str, str]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    healthcheck: Healthcheck | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None
    args_escaped: bool = False


class RootFS(msgspec.Struct, frozen=True):
    diff_ids: tuple[Digest, ...] = ()
    type: str = "layers"

    def __post_init__(self) -> None:
        for diff_id in self.diff_ids:
            parse_digest(diff_id)


class History(msgspec.Struct, frozen=True, omit_defaults=True):
    created: str | None = None
    created_by: str | None = None
    author: str | None = None
    comment: str | None = None
    empty_layer: bool = False


class ImageConfig(
    msgspec.Struct,
    frozen=True,
    omit_defaults=True,
    rename={
        "os_version": "os.version",
        "os_features": "os.features",
        "inline_cache": "moby.buildkit.cache.v0",
    },
):
    architecture: str
    os: str
    rootfs: RootFS
    config: ContainerDefaults | None = None
    created: str | None = None
    author: str | None = None
    variant: str | None = None
    os_version: str | None = None
    os_features: tuple[str, ...] | None = None
    history: tuple[History, ...] | None = None
    inline_cache: Any = None
    """BuildKit's: records of the build cache, base64. Whatever stands there, the image is one."""

    @property
    def defaults(self) -> ContainerDefaults:
        return self.config or ContainerDefaults()


def parse_image_config(raw: bytes) -> ImageConfig:
    """Raises `Invalid` when `raw` is not an image configuration."""
    try:
        return msgspec.json.decode(raw, type=ImageConfig)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"malformed image configuration: {error}") from error


def encode_image_config(config: ImageConfig) -> bytes:
    return msgspec.json.encode(config)
