"""The host's CA certificates in build steps: what programs in an image trust, and how no byte of it stays there."""
