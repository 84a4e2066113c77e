"""`sampan daemon`: hand over to the engine's own command line."""

from __future__ import annotations


def run_daemon(hosts: list[str], arguments: list[str]) -> int:
    """Run the engine with its own options; a global `--host` becomes the engine's."""
    from sampan.daemon.main import main

    return int(main([item for host in hosts for item in ("--host", host)] + arguments) or 0)
