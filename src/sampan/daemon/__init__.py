"""The composition root: the only place that builds the concrete objects and wires them."""
