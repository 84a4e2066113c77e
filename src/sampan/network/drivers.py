"""What a kind of network has to be able to do, and which module does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sampan.errors import Internal
from sampan.linux.netlink_route import RouteSocket
from sampan.network.bridge import BridgeDriver
from sampan.network.ipvlan import IpvlanDriver
from sampan.network.macvlan import MacvlanDriver
from sampan.network.model import EndpointSpec, HostPolicy, NetworkSpec
from sampan.network.overlay.driver import OverlayDriver


class Driver(Protocol):
    """One kind of network in the kernel. `NetworkHost` calls it, one change at a time; everything may block.

    `route` is a socket of the host's namespace. Nothing is remembered between calls but what is in the kernel:
    devices on the host carry the engine's alias, by which a later engine knows them again.
    """

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        """Make the network's devices on the host exist. Idempotent. Raises `Conflict` when a device is another's."""

    def remove(self, route: RouteSocket, network: NetworkSpec) -> None:
        """Remove the network's devices on the host. Idempotent. Not called while another has the same parent."""

    def attach(
        self, route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec
    ) -> None:
        """Make and configure the endpoint's interface in the namespace (a descriptor, not kept); all or nothing."""

    def detach(self, route: RouteSocket, endpoint: EndpointSpec, namespace: int | None) -> None:
        """Remove the endpoint's interface. Idempotent. `namespace` None: it is gone, and what was in it too."""

    def mend(
        self, route: RouteSocket, network: NetworkSpec, endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        """Make whole what another program has damaged: the network's devices, and the interfaces of its endpoints,
        which stay as they are inside the containers. Returns what was done, in words; nothing when nothing was."""

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        """Remove devices of ours that belong to none of these (of all drivers); a daemon that was killed left them."""


def drivers(alias: str, overlay: OverlayDriver, policy: HostPolicy) -> dict[str, Driver]:
    """Every driver, by name. `alias`: see `Driver`."""
    return {
        "bridge": BridgeDriver(alias, policy),
        "macvlan": MacvlanDriver(alias),
        "ipvlan": IpvlanDriver(alias),
        "overlay": overlay,
    }


def driver_of(known: dict[str, Driver], name: str) -> Driver:
    """Raises `Internal` for a network of an engine that knew more drivers than this one."""
    found = known.get(name)
    if found is None:
        raise Internal(f"this engine has no network driver {name}", hint="it has: " + ", ".join(known))
    return found
