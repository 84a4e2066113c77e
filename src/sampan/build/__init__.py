"""Dockerfile to graph to image; parse, plan and execute are modules that do not know each other."""
