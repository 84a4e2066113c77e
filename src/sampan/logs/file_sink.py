"""A log on disk, as `json-file` and `local` and the local copies of other drivers' output are."""

from __future__ import annotations

import msgspec

from sampan.logs.entry import LogSource
from sampan.logs.json_file import JsonFileSink
from sampan.logs.options import FileOptions
from sampan.runtime.messages import LogTarget


def file_sink(target: LogTarget, options: FileOptions) -> JsonFileSink:
    """Raises OSError when the file can't be opened."""
    attributes = msgspec.msgpack.decode(target.source, type=LogSource).attributes if target.source else {}
    return JsonFileSink(
        target.path, options.max_size, options.max_file, compress=options.compress, attributes=attributes
    )
