"""`sampan-runtime`, the OCI runtime as a command: its entry point."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from sampan.runtime.sealing import ensure_sealed

_MAKE_PROCESSES = frozenset({"create", "run", "exec"})


def main(argv: Sequence[str] | None = None) -> int:
    # Before the other imports: a process that starts itself again should not have loaded everything twice.
    if not _MAKE_PROCESSES.isdisjoint(sys.argv if argv is None else argv):
        ensure_sealed()
    _import_msgspec()
    from sampan.runtime import commandline

    return commandline.main(argv)


def _import_msgspec() -> None:
    """Without typing_extensions: msgspec takes a name from it that typing has too, and it takes a sixth of a start."""
    if "typing_extensions" not in sys.modules:
        sys.modules["typing_extensions"] = None  # type: ignore[assignment]
        try:
            importlib.import_module("msgspec")
        finally:
            del sys.modules["typing_extensions"]


if __name__ == "__main__":
    sys.exit(main())
