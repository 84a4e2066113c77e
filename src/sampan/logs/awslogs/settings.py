"""The options of `awslogs`, checked in Docker's words."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from sampan.errors import Invalid
from sampan.logs.option_values import parse_bool

_OPTIONS = frozenset(
    (
        "awslogs-region",
        "awslogs-endpoint",
        "awslogs-group",
        "awslogs-stream",
        "awslogs-create-group",
        "awslogs-create-stream",
        "awslogs-credentials-endpoint",
        "awslogs-datetime-format",
        "awslogs-force-flush-interval-seconds",
        "awslogs-format",
        "awslogs-max-buffered-events",
        "awslogs-multiline-pattern",
        "tag",
    )
)
_DEFAULT_FLUSH = 5
_DEFAULT_BUFFERED = 4096
_EMBEDDED_METRICS = "json/emf"

# What strftime's sequences look like in a line (the table of Docker's documentation, written as expressions).
_SEQUENCES = {
    "%a": "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)",
    "%A": "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day",
    "%w": "[0-6]",
    "%d": "(?:0[1-9]|[12][0-9]|3[01])",
    "%b": "(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)",
    "%B": "(?:January|February|March|April|May|June|July|August|September|October|November|December)",
    "%m": "(?:0[1-9]|1[0-2])",
    "%Y": "[0-9]{4}",
    "%y": "[0-9]{2}",
    "%H": "(?:[01][0-9]|2[0-3])",
    "%I": "(?:0[0-9]|1[0-2])",
    "%p": "[AP]M",
    "%M": "[0-5][0-9]",
    "%S": "[0-5][0-9]",
    "%f": "[0-9]{6}",
    "%z": "[+-][0-9]{4}",
    "%Z": "[A-Z]{1,4}T",
    "%j": "(?:[0-2][0-9]{2}|3[0-5][0-9]|36[0-6])",
    "%L": r"\.[0-9]{3}",
    "%%": "%",
}


class Settings(msgspec.Struct, frozen=True):
    """`stream` is empty where the tag names it; `flush_interval` in seconds; `multiline` begins an event."""

    group: str
    stream: str = ""
    region: str = ""
    endpoint: str = ""
    credentials_endpoint: str = ""
    create_group: bool = False
    create_stream: bool = True
    flush_interval: int = _DEFAULT_FLUSH
    max_buffered_events: int = _DEFAULT_BUFFERED
    multiline: str = ""
    embedded_metrics: bool = False


def parse(options: Mapping[str, str]) -> Settings:
    """Raises `Invalid`."""
    for name in options:
        if name not in _OPTIONS:
            raise Invalid(f"unknown log opt '{name}' for awslogs log driver")
    if not options.get("awslogs-group"):
        raise Invalid("must specify a value for log opt 'awslogs-group'")
    credentials = options.get("awslogs-credentials-endpoint", "")
    if credentials and not credentials.startswith("/"):
        # It is appended to the agent's address: anything else could make that another host's.
        raise Invalid(
            f"must specify a path for log opt 'awslogs-credentials-endpoint': {credentials}",
            hint="for example /v2/credentials/ID",
        )
    return Settings(
        group=options["awslogs-group"],
        stream=options.get("awslogs-stream", ""),
        region=options.get("awslogs-region", ""),
        endpoint=options.get("awslogs-endpoint", ""),
        credentials_endpoint=credentials,
        create_group=_switch(options, "awslogs-create-group", default=False),
        create_stream=_switch(options, "awslogs-create-stream", default=True),
        flush_interval=_positive(options, "awslogs-force-flush-interval-seconds", _DEFAULT_FLUSH),
        max_buffered_events=_positive(options, "awslogs-max-buffered-events", _DEFAULT_BUFFERED),
        multiline=_multiline(options),
        embedded_metrics=_format(options),
    )


def _switch(options: Mapping[str, str], name: str, *, default: bool) -> bool:
    if not options.get(name):
        return default
    try:
        return parse_bool(options[name])
    except Invalid as error:
        raise Invalid(f"must specify valid value for log opt '{name}': {error.message}") from error


def _positive(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, "")
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 9 or int(text) == 0:
        raise Invalid(f"must specify a positive integer for log opt '{name}': {text}")
    return int(text)


def _multiline(options: Mapping[str, str]) -> str:
    if "awslogs-datetime-format" in options and "awslogs-multiline-pattern" in options:
        raise Invalid(
            "you cannot configure log opt 'awslogs-datetime-format' and 'awslogs-multiline-pattern' at the same time"
        )
    pattern = options.get("awslogs-multiline-pattern", "")
    date = options.get("awslogs-datetime-format", "")
    if date:
        pattern = re.sub("%.", lambda found: _SEQUENCES.get(found[0], ""), date)
    try:
        re.compile(pattern.encode())
    except re.error as error:
        raise Invalid(f'awslogs could not parse multiline pattern key "{pattern}": {error}') from error
    return pattern


def _format(options: Mapping[str, str]) -> bool:
    format = options.get("awslogs-format", "")
    if not format:
        return False
    if format != _EMBEDDED_METRICS:
        raise Invalid(f"unsupported log format '{format}'")
    if "awslogs-datetime-format" in options or "awslogs-multiline-pattern" in options:
        raise Invalid(
            "you cannot configure log opt 'awslogs-datetime-format' or 'awslogs-multiline-pattern' "
            f"when log opt 'awslogs-format' is set to '{_EMBEDDED_METRICS}'"
        )
    return True
