"""The Docker Engine API on top of the engine: decode, call, encode; no logic."""
