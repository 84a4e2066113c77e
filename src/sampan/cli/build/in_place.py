"""A build whose context stays where it is: the engine is told which directory it is, and reads that."""

from __future__ import annotations

from sampan.client.api import ApiError
from sampan.client.codec import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from sampan.cli.build_context import BuildContext
    from sampan.client.api import Client
    from sampan.client.connection import Response

_CONFLICT = 409


def request_in_place(
    client: Client, context: BuildContext, query: Mapping[str, Any], headers: Mapping[str, str]
) -> Response | None:
    """The answer to the build request; None when the context has to be sent.

    That is so when it is no directory, the engine is not ours or not reached by a Unix socket, or does not see the
    directory as we do: in another mount namespace its path may lead elsewhere.
    """
    directory = context.directory
    if directory is None or not client.address.path or not client.is_sampan():
        return None
    named = {
        **query,
        "dockerfile": directory.dockerfile,
        "dockerfilebody": directory.outside is not None,
        "contextdir": dumps(directory.named()),
    }
    try:
        return client.request("POST", "/build", named, directory.outside or b"", headers)
    except ApiError as error:
        if error.status != _CONFLICT:
            raise
        return None
