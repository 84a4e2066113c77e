"""The driver "macvlan": containers as machines of their own on the link of a host's interface."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence

from sampan.errors import Conflict, Unsupported
from sampan.linux.netlink import Message, NetlinkError
from sampan.linux.netlink_namespace import in_namespace
from sampan.linux.netlink_route import RouteSocket, set_link
from sampan.linux.netlink_stacked import create_macvlan
from sampan.network.bridge import configure_interface
from sampan.network.model import EndpointSpec, NetworkSpec, derived_mac
from sampan.network.parents import (
    delete_interface,
    ensure_parent,
    mend_parent,
    remove_parent,
    remove_stray_parents,
)

_GONE_SECONDS = 10.0
"""How long an interface of a container that has ended may be in the way: its namespace is taken down by the kernel
some time after the last process, later the more namespaces it takes down, and nothing tells when."""
_POLL_SECONDS = 0.02
_TAKEN = (errno.EBUSY, errno.EADDRINUSE)
"""What kernels say of a hardware address that another interface on the parent has."""


class MacvlanDriver:
    """See `drivers.Driver`."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        ensure_parent(route, network, self._alias)

    def remove(self, route: RouteSocket, network: NetworkSpec) -> None:
        remove_parent(route, network, self._alias)

    def attach(
        self, route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec
    ) -> None:
        parent = ensure_parent(route, network, self._alias)
        message = create_macvlan(
            endpoint.interface,
            parent.index,
            namespace,
            mode=network.mode,
            address=endpoint.mac or derived_mac(endpoint.address),
            mtu=network.mtu,
        )
        alone = network.mode == "passthru"
        make_interface(
            route,
            message,
            namespace,
            endpoint,
            "macvlan",
            alone=alone,
            enslaved=parent.master != 0,
            configure=_configure_whole if alone else configure_interface,
        )

    def detach(self, route: RouteSocket, endpoint: EndpointSpec, namespace: int | None) -> None:
        if namespace is not None:
            delete_interface(namespace, endpoint.interface, "macvlan")

    def mend(
        self, route: RouteSocket, network: NetworkSpec, endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        return mend_parent(route, network, self._alias)

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        remove_stray_parents(route, self._alias, networks)


def _configure_whole(endpoint: EndpointSpec) -> None:
    """With mode passthru the interface has its parent's hardware address when it is made; what it is given then, its
    parent has too, until it is gone."""
    with RouteSocket() as route:
        link = route.link(endpoint.interface)
        if link is not None and endpoint.mac:
            route.perform([set_link(link.index, address=endpoint.mac)])
    configure_interface(endpoint)


def make_interface(
    route: RouteSocket,
    message: Message,
    namespace: int,
    endpoint: EndpointSpec,
    kind: str,
    *,
    alone: bool = False,
    enslaved: bool = False,
    configure: Callable[[EndpointSpec], None] = configure_interface,
) -> None:
    """Send the request that makes the interface in the namespace, and configure it there; all or nothing.

    What an ended container has left in the way is waited for. `alone`: nothing else may be on the parent.
    `enslaved`: the parent belongs to a bridge or a bond, and no waiting helps.
    Raises `Conflict` when it still is, `Unsupported` where the kernel has no such interfaces.
    """
    # The same address again as it is set up; with `alone`, anything (EINVAL) as it is made.
    passing = (*_TAKEN, errno.EINVAL) if alone else _TAKEN
    end = time.monotonic() + (0 if enslaved else _GONE_SECONDS)
    while True:
        try:
            route.perform([message])
            try:
                in_namespace(namespace, lambda: configure(endpoint))
            except BaseException:
                delete_interface(namespace, endpoint.interface, kind)
                raise
        except NetlinkError as error:
            if error.errno not in passing or time.monotonic() > end:
                raise _explained(error, kind, alone) from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _explained(error: NetlinkError, kind: str, alone: bool) -> Exception:
    if error.errno == errno.EOPNOTSUPP:
        return Unsupported(
            f"failed to create the {kind} port: operation not supported",
            hint=f"The host's kernel has no {kind} (CONFIG_{kind.upper()}).",
        )
    if error.errno in _TAKEN:
        return Conflict(
            f"failed to create the {kind} port: device or resource busy",
            hint="Something else uses the parent interface (a bridge, a bond, macvlan beside ipvlan), or its address.",
        )
    if error.errno == errno.EINVAL and alone:
        return Conflict(
            f"failed to create the {kind} port: invalid argument",
            hint="Mode passthru gives the parent interface to one container alone.",
        )
    return error
