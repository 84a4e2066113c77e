"""The name server at 127.0.0.11 of containers on user-defined networks.

It runs on the daemon's event loop; only its sockets are inside the containers' namespaces.
"""

from __future__ import annotations

from collections.abc import Sequence

from sampan.network.model import NameRecords


class ServedNamespace:
    """The name server of one container: made by `NameServer.serve`."""

    def update(self, records: NameRecords) -> None:
        """Replace the records; the next query sees them."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        raise NotImplementedError


class NameServer:
    """Answers queries of all containers of one engine. Use it from the event loop's thread only."""

    def __init__(self, upstream: Sequence[str]) -> None:
        """`upstream`: addresses of the host's resolvers, asked from the host's namespace in this order."""
        raise NotImplementedError

    def set_upstream(self, upstream: Sequence[str]) -> None:
        raise NotImplementedError

    async def serve(
        self, namespace: int, records: NameRecords, upstream: Sequence[str] | None = None
    ) -> ServedNamespace:
        """Open 127.0.0.11:53 (UDP and TCP) in the namespace and answer there.

        `upstream` replaces the host's resolvers for this container (`--dns`). Conflict when the port is taken there.
        """
        raise NotImplementedError

    async def close(self) -> None:
        """Close every served namespace."""
        raise NotImplementedError
