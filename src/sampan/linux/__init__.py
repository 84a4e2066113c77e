"""Typed wrappers of what Linux offers, the only package with ctypes. No policy, no containers here."""
