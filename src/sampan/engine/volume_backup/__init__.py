"""Backups, snapshots, clones and differences of volumes: what is in a backup, how it is made, checked and restored.

It knows directories, archives and registries; who may use a volume meanwhile is decided in `service`.
"""
