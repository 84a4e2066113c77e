"""The formats: references, digests, descriptors, manifests, image and runtime configuration.

Frozen values and parsing; no I/O, and no knowledge of who stores or runs what they describe.
"""
