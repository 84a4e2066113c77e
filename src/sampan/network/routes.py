"""The default routes of a container's namespace."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from ipaddress import ip_address

from sampan.errors import NotFound
from sampan.linux.netlink import Message, NetlinkError
from sampan.linux.netlink_route import RouteSocket, add_route, delete_route
from sampan.network.model import EndpointSpec

_EVERYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def default_routes(endpoint: EndpointSpec, index: int) -> list[Message]:
    """The requests for the default routes through the endpoint's interface (see `EndpointSpec.gateway`)."""
    gateways = [(version, _gateway(endpoint, version)) for version in (4, 6)]
    return [_default_route(version, gateway, index) for version, gateway in gateways if gateway]


def change_default_routes(before: Sequence[EndpointSpec], after: Sequence[EndpointSpec]) -> None:
    """In the calling thread's namespace: the default routes are those of `after` where they were those of `before`.

    Those of interfaces that are gone are gone with them. What somebody else did to the routes is left alone.
    """
    with RouteSocket() as route:
        for version in (4, 6):
            old = next((one for one in before if _gateway(one, version)), None)
            new = next((one for one in after if _gateway(one, version)), None)
            if new is None and old is not None:
                _remove(route, old, version)
            elif new is not None and (old is None or _way(old, version) != _way(new, version)):
                link = route.link(new.interface)
                if link is None:
                    raise NotFound(f"interface {new.interface} vanished from its namespace")
                route.perform([_default_route(version, _gateway(new, version), link.index, instead=True)])


def _gateway(endpoint: EndpointSpec, version: int) -> str:
    return (endpoint.gateway if version == 4 else endpoint.gateway6) or ""


def _way(endpoint: EndpointSpec, version: int) -> tuple[str, str]:
    return endpoint.interface, _gateway(endpoint, version)


def _default_route(version: int, gateway: str, index: int, *, instead: bool = False) -> Message:
    """`instead`: of the one that is there."""
    via = None if ip_address(gateway).is_unspecified else gateway
    return add_route(_EVERYWHERE[version], gateway=via, index=index, replace=instead)


def _remove(route: RouteSocket, endpoint: EndpointSpec, version: int) -> None:
    link = route.link(endpoint.interface)
    if link is None:
        return
    try:
        route.perform([delete_route(_EVERYWHERE[version], index=link.index)])
    except NetlinkError as error:
        if error.errno != errno.ESRCH:  # somebody else has removed it
            raise
