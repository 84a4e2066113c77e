"""The domain, and the only writer of state. Every operation is a method here; it knows nothing of HTTP."""
