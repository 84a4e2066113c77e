"""What a log driver may say of a container: the user's options choose it from the container's facts. Pure.

A label or variable of an image is a value to be chosen, and never an option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sampan.logs import tag
from sampan.logs.entry import LogSource
from sampan.logs.options import pattern

_SHORT = 12
_LONGEST_VALUE = 4096
_MOST_OF_ALL = 16 * 1024
"""Characters: escaped, and with a piece of a line, still less than what the log's reader takes for a record."""


def make_source(
    driver: str,
    options: Mapping[str, str],
    *,
    id: str,
    name: str,
    image_id: str,
    image_name: str,
    arguments: tuple[str, ...],
    created: str,
    daemon_name: str,
    host: str,
    labels: Mapping[str, str],
    environment: Iterable[str],
) -> LogSource:
    """`arguments`: the program and what it is given. Raises `Invalid` for a tag that can't be expanded.

    The files of `json-file` and `local` have a tag only when one is asked for, and then as an attribute.
    """
    variables = dict(_pair(entry) for entry in environment if "=" in entry)
    fields: dict[str, tag.Value] = {
        "ID": id[:_SHORT],
        "FullID": id,
        "Name": name,
        "ImageID": image_id[:_SHORT],
        "ImageFullID": image_id,
        "ImageName": image_name,
        "DaemonName": daemon_name,
        "Command": " ".join(arguments),
        "Hostname": host,
        "ContainerID": id,
        "ContainerName": "/" + name,
        "ContainerImageID": image_id,
        "ContainerImageName": image_name,
        "ContainerCreated": created,
        "ContainerEntrypoint": arguments[0] if arguments else "",
        "ContainerArgs": list(arguments[1:]),
        "ContainerLabels": dict(labels),
        "ContainerEnv": list(environment),
    }
    attributes = _chosen(labels, options.get("labels", ""), options.get("labels-regex", ""))
    attributes = _bounded(
        attributes | _chosen(variables, options.get("env", ""), options.get("env-regex", ""))
    )
    wanted = options.get("tag", "")
    local = driver in ("json-file", "local")
    text = tag.expand(wanted or ("" if local else tag.DEFAULT), fields)
    if local and text:
        attributes["tag"] = text
    return LogSource(
        id=id,
        name=name,
        image_id=image_id,
        image_name=image_name,
        command=" ".join(arguments)[:_LONGEST_VALUE],
        created=created,
        daemon_name=daemon_name,
        host=host,
        tag=text,
        attributes=attributes,
    )


def _pair(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _chosen(values: Mapping[str, str], names: str, expression: str) -> dict[str, str]:
    wanted = set(names.split(",")) if names else set()
    matcher = pattern(expression)
    return {
        name: value
        for name, value in values.items()
        if name in wanted or (matcher is not None and matcher.search(name))
    }


def _bounded(attributes: Mapping[str, str]) -> dict[str, str]:
    """They are part of every line, and an image may have labels of any length: a log that is full after a few lines, or
    records that no reader and no server takes, are not for it to bring about."""
    found: dict[str, str] = {}
    room = _MOST_OF_ALL
    for name, value in attributes.items():
        size = len(name) + min(len(value), _LONGEST_VALUE)
        if size <= room:
            found[name] = value[:_LONGEST_VALUE]
            room -= size
    return found
