"""What backups and restores say while they work, in the form of Docker's progress messages, and what they end with."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any, Final

from sampan.engine.threads import ReportedWork
from sampan.engine.volume_backup.format import Head, Summary
from sampan.engine.volume_backup.snapshots import Snapshot, Source
from sampan.errors import Conflict, SampanError, Unavailable
from sampan.registry.progress import Progress
from sampan.storage.metadata import storage_error

Json = dict[str, Any]
Report = Callable[[Json], None]
_STEP: Final = 4 << 20
"""Bytes between two reports."""


async def reports(work: Callable[[Report, threading.Event], object]) -> AsyncGenerator[Json, None]:
    """The messages of blocking work; it is told when nobody wants them any more, and ended before this ends."""
    async with contextlib.aclosing(aiter(ReportedWork(work))) as items:
        async for item in items:
            yield item


@contextlib.contextmanager
def translated(source: Source) -> Iterator[None]:
    """Errors of the file system in words."""
    try:
        yield
    except ConnectionError:
        raise
    except OSError as error:
        raise storage_error(error, f"volume {source}") from error


def stepped(progress: Callable[..., object]) -> Callable[..., None]:
    """Called with every file's size and more, passes on what is worth a report. It may begin anew (another backup)."""
    reported = -_STEP

    def maybe(done: int, *total: int) -> None:
        nonlocal reported
        if done - reported >= _STEP or done < reported:
            reported = done
            progress(done, *total)

    return maybe


def stop_if(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise Unavailable("given up: the client has left")


def bar(source: Source, what: str, done: int, total: int) -> Json:
    return {
        "id": str(source),
        "status": what,
        "progressDetail": {"current": done, "total": max(total, done) if total else 0},
    }


def progress_json(item: Progress) -> Json:
    detail = {"current": item.current, "total": item.total} if item.total else {}
    return {"id": item.id, "status": item.status, "progressDetail": detail}


def error_line(error: SampanError) -> Json:
    message = f"{error.message}\n{error.hint}" if error.hint else error.message
    return {"errorDetail": {"message": message}, "error": message}


def told(source: Source, head: Head, summary: Summary) -> Json:
    """The result of a backup or a restore, as the API has it; sizes in bytes."""
    return {
        "Volume": str(source),
        "Id": summary.id,
        "Base": head.base,
        "Created": head.created,
        "Users": head.users,
        "Entries": summary.entries,
        "Files": summary.files,
        "Size": summary.size,
        "StoredFiles": summary.stored_files,
        "StoredSize": summary.stored,
        "Sockets": summary.sockets,
        "Changed": summary.changed,
        "ChangedFiles": list(summary.changed_names),
    }


def snapshot_json(snapshot: Snapshot) -> Json:
    return {
        "Name": snapshot.name,
        "Volume": snapshot.volume,
        "Tag": snapshot.tag,
        "Created": snapshot.created,
        "Automatic": snapshot.automatic,
        "Users": snapshot.users,
        "Changed": snapshot.changed,
        "Size": snapshot.size,
    }


def files_changed(source: Source, count: int, names: Sequence[str]) -> Conflict:
    shown = ", ".join(repr(name or ".") for name in names[:5]) + (", …" if count > 5 else "")
    what = "1 file" if count == 1 else f"{count} files"
    return Conflict(
        f"{what} of volume {source} changed while it was read: {shown}",
        hint="use --pause or --stop to keep the containers that use it still, or --changed warn to have it anyway",
    )
