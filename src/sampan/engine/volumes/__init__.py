"""Volumes: named storage that outlives containers. Knows no containers but by the names of who uses a volume."""
