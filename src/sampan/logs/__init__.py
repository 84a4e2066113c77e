"""Log drivers and the reader of what they wrote. It knows streams of bytes, not containers."""
