"""The driver `awslogs`: Amazon CloudWatch Logs, through botocore, which is imported only when it is opened."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sampan.logs.awslogs.settings import parse
from sampan.logs.entry import LogSource

if TYPE_CHECKING:
    from sampan.logs.awslogs.destination import AwsLogsDestination


def check_options(options: Mapping[str, str]) -> None:
    """Raises `Invalid` in Docker's words."""
    parse(options)


def open(options: Mapping[str, str], source: LogSource) -> AwsLogsDestination:
    """Raises `Invalid`, and OSError when the log stream can't be made."""
    from sampan.logs.awslogs.client import LogStreamClient
    from sampan.logs.awslogs.destination import AwsLogsDestination

    settings = parse(options)
    # Docker's default stream is the container's whole id; a tag that the operator gave names it otherwise.
    stream = settings.stream or (source.tag if options.get("tag") else source.id)
    client = LogStreamClient(settings, stream)
    try:
        client.create()
    except BaseException:
        client.close()
        raise
    return AwsLogsDestination(settings, client)
