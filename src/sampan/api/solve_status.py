"""A build's events as lines of BuildKit's `SolveStatus` (client/graph.go there), for `progress=rawjson`. Pure."""

from __future__ import annotations

import base64

from sampan.build.events import (
    BuildEvent,
    BuildResult,
    Explanation,
    Failure,
    StageOrder,
    StepNote,
    UsedSecret,
    UsedSource,
    Vertex,
    VertexLog,
    VertexStatus,
    VertexWarning,
)

Message = dict[str, object]


def status_of(event: BuildEvent) -> Message | None:
    """None for what BuildKit does not tell, and for a failure: that comes with the error (`failure_detail`)."""
    if isinstance(event, Vertex):
        return {"vertexes": [event]}
    if isinstance(event, VertexStatus):
        return {"statuses": [event]}
    if isinstance(event, VertexLog):
        return {"logs": [event]}  # bytes become base64
    if isinstance(event, VertexWarning):
        return {"warnings": [_warning(event)]}
    if isinstance(event, BuildResult):
        return {"aux": {"ID": event.image, "Tags": event.tags, **response_of(event)}}
    if isinstance(event, Explanation):
        return {"sampan": {"explain": event}}
    if isinstance(event, StageOrder | StepNote | UsedSource | UsedSecret | Failure):
        return None
    raise TypeError(event)


def response_of(result: BuildResult) -> Message:
    """A result that is files has no keys, and is told of all the same: there is no image to speak of instead."""
    return {"ExporterResponse": result.response} if result.response or not result.image else {}


def failure_detail(failure: Failure) -> Message:
    """What our own client makes of an error: the member `sampan` of `errorDetail`."""
    return {
        "vertex": failure.vertex,
        "file": failure.file,
        "line": failure.line,
        "lastLine": failure.last_line,
        "column": failure.column,
        "excerpt": [{"line": number, "text": text} for number, text in failure.excerpt],
        "lastOutput": failure.last_output,
        "failure": failure.debug,
    }


def _warning(warning: VertexWarning) -> Message:
    message: Message = {
        "vertex": warning.vertex,
        "level": warning.level,
        "short": _encoded(warning.short),
    }
    if warning.detail:
        message["detail"] = [_encoded(line) for line in warning.detail]
    if warning.url:
        message["url"] = warning.url
    if warning.file:
        message["sourceInfo"] = {"filename": warning.file}
    if warning.line:
        message["range"] = [{"start": {"line": warning.line}, "end": {"line": warning.line}}]
    return message


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
