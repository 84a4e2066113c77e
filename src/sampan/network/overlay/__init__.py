"""Networks that span hosts: what engines tell each other over a key-value store, and VXLAN between them.

Knows no engine: it is told what this host has, and tells what others have. Everything that comes from a store is
somebody else's and is checked (`schema`) before it is used.
"""
