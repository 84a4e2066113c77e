"""Backups, snapshots, clones and differences of volumes: what is in a backup, how it is made, checked and restored.

It knows directories, archives and registries; who may use a volume meanwhile is decided in `service`.
"""

from __future__ import annotations

from typing import Final

STILL_NOTES: Final = "volume-backup/still/"
"""Keys of notes, one for each container that is kept still: an engine that dies meanwhile lets them go on later."""
