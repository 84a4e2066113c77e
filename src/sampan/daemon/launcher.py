"""The launcher's process: `python -m sampan.daemon.launcher`. Gives the runtime its log drivers."""

from __future__ import annotations

import gc
import sys

from sampan.runtime.sealing import ensure_sealed


def run() -> int:
    # Before the imports: a process that starts itself again should not have loaded everything twice.
    ensure_sealed()
    # A collection would leave holes in the memory that the forks share, and what fills them later unshares it.
    gc.disable()
    from sampan.logs.factory import make_sink
    from sampan.runtime.launcher import main

    return main(make_sink)


if __name__ == "__main__":
    sys.exit(run())
