"""Where a container's output goes, and where it can be read."""

from __future__ import annotations

import platform
from pathlib import Path

import msgspec

from sampan.engine.containers.base import Parts, log_driver
from sampan.engine.model import ContainerRecord
from sampan.logs.options import FILE_DRIVERS, cache_options
from sampan.logs.source import make_source
from sampan.runtime.messages import LogTarget

DAEMON_NAME = "sampan"


def log_target(record: ContainerRecord, parts: Parts) -> LogTarget | None:
    """What its shim is told; None when nothing is recorded. Raises `Invalid`."""
    driver, options = log_driver(record, parts.settings)
    if driver == "none":
        return None
    source = make_source(
        driver,
        options,
        id=record.id,
        name=record.name,
        image_id=str(record.image_id),
        image_name=record.image,
        arguments=record.config.argv,
        created=record.created,
        daemon_name=DAEMON_NAME,
        host=platform.node(),
        labels=record.labels,
        environment=record.config.env or (),
    )
    # Most containers' lines carry nothing of it.
    needed = source.attributes or driver not in FILE_DRIVERS
    return LogTarget(
        driver,
        str(parts.log_path(record.id, driver)),
        options,
        msgspec.msgpack.encode(source) if needed else b"",
        str(parts.settings.log_status_path(record.id)),
    )


def reads_journal(record: ContainerRecord, parts: Parts) -> bool:
    """Whether its output is to be read from the host's journal: it is there, and nowhere else."""
    driver, options = log_driver(record, parts.settings)
    return driver == "journald" and cache_options(options) is None


def readable_log(record: ContainerRecord, parts: Parts) -> Path | None:
    """The file that its output can be read from: its log, or the local copy of what was sent elsewhere."""
    driver, options = log_driver(record, parts.settings)
    if driver == "none" or (driver not in FILE_DRIVERS and cache_options(options) is None):
        return None
    return parts.log_path(record.id, driver)
