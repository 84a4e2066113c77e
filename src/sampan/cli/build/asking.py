"""What a build needs of the engine beyond Docker's classic builder: that it is sampan's."""

from __future__ import annotations

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.client.api import Client


def require_sampan(client: Client) -> None:
    """Another engine would not look at what it does not know, and do something else. Raises `Failure`."""
    ping = client.request("HEAD", "/_ping")
    client.release(ping)
    if not ping.headers.get("server", "").startswith("Sampan/"):
        raise Failure(
            "outputs, several platforms and explanations need sampan's engine",
            hint="with Docker's use docker buildx build",
        )
