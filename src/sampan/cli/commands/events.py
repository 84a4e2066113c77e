"""`sampan events`."""

from __future__ import annotations

from sampan.cli import units
from sampan.cli.commands.logs import time_option
from sampan.cli.failure import Failure
from sampan.cli.flags import Command, Flag, Invocation, collect_filters
from sampan.cli.listing import TEMPLATE_HELP, unescape
from sampan.cli.table import harmless
from sampan.client.api import filters_query

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def event_line(event: dict[str, Any]) -> str:
    """ "TIME TYPE ACTION ID (name=value, ...)"."""
    nanoseconds = event.get("timeNano") or 0
    seconds = nanoseconds // 10**9 if nanoseconds else event.get("time") or 0
    parts = []
    if seconds:
        parts.append(units.local_rfc3339(seconds, nanoseconds % 10**9))
    actor = event.get("Actor") or {}
    parts += [str(event.get("Type", "")), str(event.get("Action", "")), str(actor.get("ID", ""))]
    attributes = actor.get("Attributes") or {}
    if attributes:
        parts.append("(" + ", ".join(f"{name}={attributes[name]}" for name in sorted(attributes)) + ")")
    return " ".join(parts)


def _events(invocation: Invocation) -> int:
    from sampan.cli.template import Template, TemplateError
    from sampan.client.codec import dumps

    flags = invocation.flags
    text = flags["format"]
    try:
        template = Template(unescape(text)) if text and text != "json" else None
    except TemplateError as error:
        raise Failure(f"Error parsing format: template parsing error: {error}", 64) from None
    query = {
        "since": time_option(flags["since"], "since"),
        "until": time_option(flags["until"], "until"),
        "filters": filters_query(collect_filters(flags["filter"])),
    }
    client = invocation.client()
    for event in client.messages(client.request("GET", "/events", query)):
        if template is not None:
            try:
                print(template.render(_Message(event)), flush=True)
            except TemplateError as error:
                raise Failure(str(error)) from None
        else:
            print(
                dumps(event) if text == "json" else harmless(event_line(event)).replace("\n", "?"), flush=True
            )
    return 0


class _Message(dict[str, "Any"]):
    """An event as templates see it: its time also by the names of Docker's type, absent texts empty.

    As JSON it stays what the engine sent.
    """

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(event)
        self._known = {
            "Status": event.get("status", ""),
            "ID": event.get("id", ""),
            "From": event.get("from", ""),
            "Scope": event.get("scope", ""),
            "Time": event.get("time", 0),
            "TimeNano": event.get("timeNano", 0),
        }

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._known

    def __missing__(self, name: str) -> Any:
        return self._known[name]


EVENTS = Command(
    _events,
    "",
    (
        Flag("filter", "f", "filter", "Show only what meets these conditions"),
        Flag("format", "", "string", TEMPLATE_HELP),
        Flag("since", "", "string", "Show events since this time"),
        Flag("until", "", "string", "Stop at this time"),
    ),
    maximum=0,
    aliases=("system events", "events"),
)
