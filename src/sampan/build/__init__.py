"""Dockerfile to graph to image. What needs doing on layers, images and processes is asked of a `Worker`.

`dockerfile/` (the language, which `rules/` checks), `files/` and `fetch/` do not know each other; `solver/` joins them.
"""
