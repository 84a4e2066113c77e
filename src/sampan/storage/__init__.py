"""The only owner of the on-disk layout: blobs, layers, snapshots, metadata. No containers, no API."""
