"""What the engine is told at its start; values only (the daemon reads files and flags)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from sampan.build.consent import DEFAULT_ALLOWED
from sampan.build.solver.collection import Rule, default_rules
from sampan.engine.config import Ulimit
from sampan.engine.networks.cluster_settings import ClusterSettings
from sampan.engine.userns import IdMaps
from sampan.registry.proxies import NO_PROXIES, Proxies

PLUGIN_DIR = Path("/run/docker/plugins")


@dataclass(frozen=True, slots=True)
class Settings:
    """`root` outlives a reboot, `run` does not. `instance` tells engines on one host apart."""

    root: Path = Path("/var/lib/sampan")
    run: Path = Path("/run/sampan")
    instance: str = "sampan0"
    """Name of the default bridge, and part of the names of everything made on the host."""
    default_bridge: bool = True
    """There is a network "bridge"; without it, who is to be in it has only its loopback."""
    default_subnet: str | None = None
    """CIDR of the default bridge with the gateway's address; None takes the first free pool."""
    ipv6: bool = False
    """The default bridge has IPv6 addresses."""
    default_subnet6: str | None = None
    """As `default_subnet`; None takes the first free pool, or an engine's own unique-local prefix."""
    fixed_cidr: str | None = None
    """The part of the default bridge's subnet that containers get addresses from; None is all of it."""
    fixed_cidr6: str | None = None
    default_gateway: str = ""
    """What the default routes of containers on the default bridge lead to; "" is the bridge."""
    default_gateway6: str = ""
    icc: bool = True
    """Containers on the default bridge reach each other."""
    masquerade: bool = True
    """Their connections outwards come from the host's address."""
    rules: bool = True
    """Rules are written; without them there is no address translation, ports have the relay, and no border holds."""
    rules6: bool = True
    """Rules are about IPv6 too; else what is forwarded by IPv6 passes, and the relay serves its ports."""
    direct_routing: bool = False
    """Published ports are open at containers' own addresses, to other hosts that have a way there."""
    ip_forward: bool = True
    """The engine makes the host forward packets; else that is its owner's affair."""
    host_gateways: tuple[str, ...] = ()
    """What `host-gateway` stands for, IPv4 first; () is the default bridge's own addresses."""
    host_binding: str = "0.0.0.0"
    """Where their ports are published when nobody names an address of the host."""
    network_options: dict[str, dict[str, str]] = field(default_factory=dict)
    """By driver: options of networks that do not set them themselves."""
    address_pools: tuple[tuple[str, int], ...] = ()
    """(base CIDR, prefix length of each subnet) for networks made without a subnet; () is Docker's."""
    cgroup_parent: str = "/sampan"
    port_mode: str = "auto"
    """How ports are published: auto, nat or relay (docs/architecture.md, "Ports")."""
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    bridge_dns: str = "auto"
    """Whom containers on the default bridge ask: auto, resolver or names (docs/architecture.md, "Names")."""
    mtu: int = 1500
    log_driver: str = "json-file"
    log_options: dict[str, str] = field(default_factory=dict)
    """Options for containers that choose none; rotation is on without any (10 MiB, 3 files)."""
    insecure_registries: tuple[str, ...] = ()
    registry_mirrors: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Registry host -> base URLs that are tried first."""
    registry_certs: Path = Path("/etc/docker/certs.d")
    plugin_dir: Path = PLUGIN_DIR
    """Where the sockets of volume plugins are."""
    proxies: Proxies = NO_PROXIES
    """For what the engine fetches itself: images, and what builds ADD or have as context."""
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    default_ulimits: tuple[Ulimit, ...] = ()
    """Of new containers that do not set them themselves."""
    default_shm_size: int = 0
    """Bytes of /dev/shm of those that say nothing; 0 is Docker's."""
    init_by_default: bool = False
    no_new_privileges: bool = False
    seccomp_profile: str = ""
    """The text of a profile for containers that choose none, or "unconfined"; "" is Docker's. From this file:"""
    seccomp_profile_path: str = ""
    default_ipc_mode: str = "private"
    default_cgroupns_mode: str = ""
    """private or host; "" is Docker's choice: private with control groups of version 2."""
    runtimes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """OCI runtimes besides the engine's own: name -> command."""
    default_runtime: str = "sampan"
    selinux_enabled: bool = False
    userns_remap: str = ""
    """Whose subordinate ids containers get: "" nobody's, `default`, or USER[:GROUP]; `id_maps` is what came of it."""
    id_maps: IdMaps | None = None
    builder_gc: tuple[Rule, ...] = default_rules(10 * 1000**3)
    """Rules by which the build cache is collected; () is never."""
    build_host_ca: bool = False
    """Steps of builds trust the host's CA certificates unless a build says no."""
    builder_entitlements: frozenset[str] = DEFAULT_ALLOWED
    """What builds may be granted."""
    shutdown_timeout: int = 15
    labels: tuple[str, ...] = ()
    cluster: ClusterSettings | None = None
    """The cluster whose overlay networks this engine has part in."""
    debug: bool = False

    @property
    def containers_dir(self) -> Path:
        return self.root / "containers"

    @property
    def containers_run_dir(self) -> Path:
        return self.run / "containers"

    def log_status_path(self, container_id: str) -> Path:
        """What of a container's output could not be delivered (`sampan.logs.status`)."""
        return self.containers_run_dir / container_id / "log-status.json"

    @property
    def socket(self) -> Path:
        return self.run / "sampan.sock"
