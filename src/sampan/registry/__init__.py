"""The distribution protocol. It is given a blob store and knows no layers and no API."""
