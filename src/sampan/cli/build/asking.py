"""What a build needs of the engine beyond Docker's classic builder: that it is sampan's, and a session with it."""

from __future__ import annotations

from contextlib import contextmanager

from sampan.cli.failure import Failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from sampan.cli.build.session import Offers
    from sampan.client.api import Client


def require_sampan(client: Client) -> None:
    """Another engine would not look at what it does not know, and do something else. Raises `Failure`."""
    ping = client.request("HEAD", "/_ping")
    client.release(ping)
    if not ping.headers.get("server", "").startswith("Sampan/"):
        raise Failure(
            "outputs and several platforms need sampan's engine", hint="with Docker's use docker buildx build"
        )


@contextmanager
def open_session(client: Client, offers: Offers) -> Iterator[str]:
    """The id of a session that offers these, open meanwhile; "" when there is nothing to offer."""
    if not offers:
        yield ""
        return
    from sampan.cli.build.session import BuildSession

    with BuildSession(client, offers) as session:
        yield session.id
