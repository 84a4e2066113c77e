"""Carries a plan out: order, cache, execution. The only part that knows all the others."""
