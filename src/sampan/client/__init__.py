"""A small client of the Engine API, for the command line, compose and tests. It knows no engine code."""
