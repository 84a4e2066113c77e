"""What volumes can do here beyond Docker's API: backup, restore, clone, snapshots, differences, another name.

The handlers are loaded when one is wanted: few engines make backups.
"""

from __future__ import annotations

from sampan.api.messages import AnyResponse, Handler, Request, Route, no_content
from sampan.engine.engine import Engine


def _later(name: str) -> Handler:
    async def handler(engine: Engine, request: Request) -> AnyResponse:
        from sampan.api import volume_backup_calls

        call: Handler = getattr(volume_backup_calls, name)
        return await call(engine, request)

    return handler


async def rename(engine: Engine, request: Request) -> AnyResponse:
    await engine.containers.rename_volume(request.match["name"], request.get("name"))
    return no_content()


ROUTES = (
    Route("GET", "/volume-snapshots", _later("snapshots")),
    Route("DELETE", "/volume-snapshots/{name}", _later("remove_snapshot")),
    Route("POST", "/volume-differences", _later("differences")),
    Route("POST", "/volumes/{name}/backup", _later("backup")),
    Route("POST", "/volumes/{name}/restore", _later("restore")),
    Route("POST", "/volumes/{name}/clone", _later("clone")),
    Route("POST", "/volumes/{name}/snapshots", _later("snapshot")),
    Route("POST", "/volumes/{name}/rename", rename),
)
