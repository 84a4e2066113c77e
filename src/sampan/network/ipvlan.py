"""The driver "ipvlan": containers with addresses of their own and the hardware address of a host's interface."""

from __future__ import annotations

from collections.abc import Sequence

from sampan.errors import Unsupported
from sampan.linux.netlink_route import RouteSocket
from sampan.linux.netlink_stacked import create_ipvlan, is_supported
from sampan.network.macvlan import make_interface
from sampan.network.model import EndpointSpec, NetworkSpec
from sampan.network.parents import delete_interface, ensure_parent, mend_parent, remove_parent


class IpvlanDriver:
    """See `drivers.Driver`. A network's `mode` is "l2", "l3" or "l3s", with "_private" or "_vepa" behind it where
    the flag is not "bridge". Parents are tidied up by the driver "macvlan", which shares them."""

    def __init__(self, alias: str) -> None:
        self._alias = alias

    def ensure(self, route: RouteSocket, network: NetworkSpec) -> None:
        if not is_supported(route, "ipvlan"):
            raise Unsupported(
                "ipvlan networks are not supported by the host's kernel",
                hint="It was built without CONFIG_IPVLAN, or its module is missing. The driver macvlan may do.",
            )
        ensure_parent(route, network, self._alias)

    def remove(self, route: RouteSocket, network: NetworkSpec) -> None:
        remove_parent(route, network, self._alias)

    def attach(
        self, route: RouteSocket, namespace: int, network: NetworkSpec, endpoint: EndpointSpec
    ) -> None:
        parent = ensure_parent(route, network, self._alias)
        mode, _, flag = network.mode.partition("_")
        message = create_ipvlan(
            endpoint.interface, parent.index, namespace, mode=mode, flag=flag or "bridge", mtu=network.mtu
        )
        make_interface(route, message, namespace, endpoint, "ipvlan")

    def detach(self, route: RouteSocket, endpoint: EndpointSpec, namespace: int | None) -> None:
        if namespace is not None:
            delete_interface(namespace, endpoint.interface, "ipvlan")

    def mend(
        self, route: RouteSocket, network: NetworkSpec, endpoints: Sequence[EndpointSpec]
    ) -> tuple[str, ...]:
        return mend_parent(route, network, self._alias)

    def tidy(
        self, route: RouteSocket, networks: Sequence[NetworkSpec], endpoints: Sequence[EndpointSpec]
    ) -> None:
        return
