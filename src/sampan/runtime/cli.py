"""`sampan-runtime`, the OCI runtime as a command: its entry point."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sampan.runtime.sealing import ensure_sealed

_MAKE_PROCESSES = frozenset({"create", "run", "exec"})


def main(argv: Sequence[str] | None = None) -> int:
    # Before the other imports: a process that starts itself again should not have loaded everything twice.
    if not _MAKE_PROCESSES.isdisjoint(sys.argv if argv is None else argv):
        ensure_sealed()
    from sampan.runtime import commandline

    return commandline.main(argv)


if __name__ == "__main__":
    sys.exit(main())
