"""What a container gets from its image where nothing else was asked for. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from sampan.engine.config import ContainerConfig, words
from sampan.errors import Invalid
from sampan.oci.image import ContainerDefaults, Healthcheck


def merge(config: ContainerConfig, image: ContainerDefaults) -> ContainerConfig:
    """Docker's rules: an entry point of one's own drops the image's command; lists and maps are united.

    Raises `Invalid` when there is nothing to run in the end.
    """
    entrypoint = config.entrypoint
    cmd = config.cmd
    # An empty list or [""] means "no entry point", which is different from "none given".
    if not words(cmd) and entrypoint is None:
        cmd = image.cmd
    if entrypoint is None:
        entrypoint = image.entrypoint
    elif words(entrypoint) in ((), ("",)):
        entrypoint = None
    merged = replace(
        config,
        user=config.user or image.user,
        exposed_ports=_union(image.exposed_ports, config.exposed_ports),
        env=_environment(image.env or (), config.env or ()),
        cmd=cmd,
        entrypoint=entrypoint,
        volumes=_union(image.volumes, config.volumes),
        working_dir=config.working_dir or image.working_dir,
        labels={**(image.labels or {}), **(config.labels or {})},
        stop_signal=config.stop_signal or image.stop_signal,
        healthcheck=_healthcheck(config.healthcheck, image.healthcheck),
        on_build=None,
        shell=config.shell or image.shell,
    )
    if not merged.argv or not merged.argv[0]:
        raise Invalid("no command specified")
    return merged


def _union(
    first: dict[str, dict[str, str]] | None, second: dict[str, dict[str, str]] | None
) -> dict[str, dict[str, str]] | None:
    return {**(first or {}), **(second or {})} or None


def _environment(image: tuple[str, ...], own: tuple[str, ...]) -> tuple[str, ...]:
    """The container's variables first, then the image's that were not given anew."""
    names = {entry.partition("=")[0] for entry in own}
    return (*own, *(entry for entry in image if entry.partition("=")[0] not in names))


def _healthcheck(own: Healthcheck | None, image: Healthcheck | None) -> Healthcheck | None:
    if own is None:
        return image
    if image is None:
        return own
    return Healthcheck(
        test=own.test or image.test,
        interval=own.interval or image.interval,
        timeout=own.timeout or image.timeout,
        start_period=own.start_period or image.start_period,
        start_interval=own.start_interval or image.start_interval,
        retries=own.retries or image.retries,
    )
