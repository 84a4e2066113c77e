"""Builds what an engine in a cluster needs: imported only with `--cluster-store`."""

from __future__ import annotations

import logging
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address

from sampan.engine.networks.cluster import Cluster
from sampan.engine.networks.cluster_settings import STATIC, ClusterSettings
from sampan.engine.settings import Settings
from sampan.errors import Invalid
from sampan.linux.netlink_route import RouteSocket
from sampan.network.host import NetworkHost
from sampan.network.overlay import http, schema
from sampan.network.overlay.cache import Cache
from sampan.network.overlay.control import Control, Lifetimes
from sampan.network.overlay.etcd import EtcdStore, Login, Token
from sampan.network.overlay.keeper import Keeper
from sampan.network.overlay.protector import Protector
from sampan.network.overlay.schema import Host, Keys
from sampan.network.overlay.signing import SharedSecret, read_secret

log = logging.getLogger(__name__)

START_SECONDS = 5.0
"""How long an engine's start waits for the store before it goes on with what it knew."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """This host among the others: its address, and how many bytes a packet on that interface may have."""

    address: str
    mtu: int


def underlay(settings: ClusterSettings) -> Underlay:
    """Raises `Invalid` when the host has no such address or interface."""
    with RouteSocket() as route:
        links = {link.index: link for link in route.links()}
        addresses = [
            (str(one.interface.ip), links[one.index]) for one in route.addresses() if one.index in links
        ]
    wanted = settings.advertise or _towards(*settings.members[0])
    for address, link in addresses:
        if address == wanted or (link.name == wanted and not ip_address(address).is_link_local):
            schema.check_underlay(address)
            return Underlay(address, link.mtu)
    raise Invalid(
        f"this host has no address or interface {wanted}",
        hint="--cluster-advertise names the one by which the other hosts reach it",
    )


def _towards(host: str, port: int) -> str:
    """The address by which this host would reach the store."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise Invalid(
            f"no way to {host} is known: {error.strerror}", hint="give --cluster-advertise ADDRESS"
        ) from error


def _addresses(host: str, port: int) -> set[str]:
    """What a name or an address of the list stands for."""
    try:
        return {str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        log.warning("%s, the first of the cluster, has no address: %s", host, error)
        return set()


class Membership:
    """The engine's place in the cluster, and the store that it may have to keep for the others."""

    def __init__(
        self, settings: Settings, options: ClusterSettings, place: Underlay, host_id: str, host: NetworkHost
    ) -> None:
        secret = read_secret(options.secret_file) if options.secret_file is not None else b""
        members = [http.Address(name, port, tls_context(options)) for name, port in options.members]
        token = SharedSecret(secret) if options.kind == STATIC else Token()
        keeps = options.kind == STATIC and place.address in _addresses(*options.members[0])
        self._keeper = Keeper(settings.root / "cluster" / "store.db", secret) if keeps else None
        self._listen = (place.address, options.members[0][1])
        # Only the first of a static cluster has the store.
        store = EtcdStore(
            members[:1] if options.kind == STATIC else members, options.name, token, login(options)
        )
        control = Control(
            store,
            Keys(options.path),
            Host(host_id, socket.gethostname()[:255], place.address),
            Cache(settings.root / "cluster" / "view.json"),
            Lifetimes(options.host_ttl, options.address_ttl),
            secret=secret,
        )
        protector = Protector(control, settings.instance, settings.run / "cluster-nonce")
        self.cluster = Cluster(control, host, place.mtu, protector)

    async def start(self) -> None:
        if self._keeper is not None:
            await self._keeper.listen(*self._listen)
        await self.cluster.start(seconds=START_SECONDS)

    async def close(self, *, leave: bool) -> None:
        """`leave`: no container of this host runs on."""
        await self.cluster.close(leave=leave)
        if self._keeper is not None:
            await self._keeper.close()


def login(options: ClusterSettings) -> Login | None:
    """None where nothing was said of a user. Raises `Invalid` for a password that can't be read."""
    if options.password_file is None:
        return None
    try:
        password = options.password_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"cannot read the password for the cluster store: {error}") from error
    return Login(options.user, password)


def tls_context(options: ClusterSettings) -> ssl.SSLContext | None:
    """None where nothing was said of certificates. Raises `Invalid` for some that can't be used."""
    if options.ca_file is None and options.certificate is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(options.ca_file) if options.ca_file else None)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key)
    except (OSError, ssl.SSLError) as error:
        raise Invalid(f"the certificates for the cluster store can not be used: {error}") from error
    return context
