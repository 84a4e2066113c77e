"""Byte streams with flow control, many over one socket: what an engine and a build's client say to each other."""
