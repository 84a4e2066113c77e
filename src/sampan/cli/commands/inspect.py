"""`sampan inspect` and its relatives: JSON or a template for each thing named."""

from __future__ import annotations

import sys

from sampan.cli.failure import Exit, Failure
from sampan.cli.flags import Command, Flag, Invocation
from sampan.cli.listing import TEMPLATE_HELP, unescape
from sampan.client.api import ApiError, quote_path
from sampan.client.codec import dumps, pretty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sampan.cli.template import Template
    from sampan.client.api import Client

    Getter = Callable[[str], Any]

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}


def _getter(client: Client, kind: str, query: dict[str, Any] | None = None) -> Getter:
    def get(name: str) -> Any:
        try:
            return client.call("GET", _PATHS[kind].format(quote_path(name)), query)
        except ApiError as error:
            if error.status == 404:
                raise Failure(f"Error: No such {kind}: {name}") from None
            raise

    return get


def _any_getter(client: Client, size: bool) -> Getter:
    """What has that name, whatever it is: containers first, as in Docker."""
    getters = [
        _getter(client, "container", {"size": size}),
        _getter(client, "image"),
        _getter(client, "network"),
        _getter(client, "volume"),
    ]

    def get(name: str) -> Any:
        for getter in getters:
            try:
                return getter(name)
            except Failure:
                continue
        raise Failure(f"Error: No such object: {name}")

    return get


def show(names: list[str], get: Getter, template: str) -> int:
    """Print each thing; failures come after what was found, exit code 1."""
    found: list[Any] = []
    failures: list[str] = []
    from sampan.cli.main import describe
    from sampan.errors import SampanError

    for name in names:
        try:
            found.append(get(name))
        except SampanError as error:
            failures.append(describe(error))
    if not template:
        print(pretty(found))
    elif template == "json":
        print(dumps(found))
    else:
        failures += _by_template(found, template)
    if failures:
        sys.stdout.flush()
        print("\n".join(failures), file=sys.stderr)
        raise Exit(1)
    return 0


def _by_template(found: list[Any], text: str) -> list[str]:
    from sampan.cli.template import Template, TemplateError

    try:
        template = Template(unescape(text))
    except TemplateError as error:
        raise Failure(f"template parsing error: {error}", 64) from None
    if not found:
        print()
    for item in found:
        try:
            print(_rendered(template, item))
        except TemplateError as error:
            print()
            return [f"template parsing error: {error}"]
    return []


def _rendered(template: Template, item: Any) -> str:
    from sampan.cli.template import TemplateError

    try:
        return template.render(item)
    except TemplateError:
        completed = _complete(item)
        if completed is item:
            raise
        return template.render(completed)


def _complete(item: Any) -> Any:
    """With the members that Docker's types have and its JSON leaves out when they are empty, where scripts ask for them
    in a range over things that have them and others that don't."""
    mounts = item.get("Mounts") if isinstance(item, dict) else None
    if not isinstance(mounts, list):
        return item
    empty = {"Name": "", "Driver": "", "Source": ""}
    return {**item, "Mounts": [{**empty, **mount} if isinstance(mount, dict) else mount for mount in mounts]}


def _inspect(invocation: Invocation) -> int:
    flags = invocation.flags
    client = invocation.client()
    kind = flags["type"]
    if kind and kind not in _PATHS:
        raise Failure(f'"{kind}" is not a valid value for --type')
    if kind == "container":
        get = _getter(client, kind, {"size": flags["size"]})
    elif kind:
        get = _getter(client, kind)
    else:
        get = _any_getter(client, flags["size"])
    return show(invocation.args, get, flags["format"])


def _one_kind(kind: str) -> Callable[[Invocation], int]:
    def run(invocation: Invocation) -> int:
        flags = invocation.flags
        query: dict[str, Any] = {
            "size": flags.get("size") or None,
            "verbose": flags.get("verbose") or None,
        }
        if flags.get("platform"):
            from sampan.cli.platform import platform_json

            query["platform"] = platform_json(flags["platform"])
        return show(invocation.args, _getter(invocation.client(), kind, query), flags["format"])

    return run


_FORMAT = Flag("format", "f", "string", TEMPLATE_HELP)
_SIZE = Flag("size", "s", "bool", "Show the sizes of containers")
INSPECT = Command(
    _inspect,
    "NAME|ID [NAME|ID...]",
    (_FORMAT, _SIZE, Flag("type", "", "string", "Look only for this kind of thing")),
    minimum=1,
)
CONTAINER_INSPECT = Command(_one_kind("container"), "CONTAINER [CONTAINER...]", (_FORMAT, _SIZE), minimum=1)
IMAGE_INSPECT = Command(
    _one_kind("image"),
    "IMAGE [IMAGE...]",
    (_FORMAT, Flag("platform", "", "string", "Show this platform of an image that has several")),
    minimum=1,
)
NETWORK_INSPECT = Command(
    _one_kind("network"),
    "NETWORK [NETWORK...]",
    (_FORMAT, Flag("verbose", "v", "bool", "Show more for diagnosis")),
    minimum=1,
)
VOLUME_INSPECT = Command(
    _one_kind("volume"),
    "VOLUME [VOLUME...]",
    (_FORMAT, Flag("size", "s", "bool", "Show its size and its users")),
    minimum=1,
)
