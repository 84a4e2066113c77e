"""The engine's records: what is stored of containers, volumes, networks and execs, and what it says of them.

Frozen: a change makes a new record, and the service that owns the noun stores it.
"""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime

import msgspec

from sampan.engine import restart
from sampan.engine.config import ContainerConfig, Docker, EndpointSettings, HostConfig
from sampan.network.model import EndpointSpec, NetworkSpec, PortBinding

NEVER = "0001-01-01T00:00:00Z"
"""Go's zero time, which Docker writes for "not yet"."""


class HealthResult(Docker, frozen=True):
    """One run of a health check; times RFC 3339."""

    start: str
    end: str
    exit_code: int
    output: str


class Health(Docker, frozen=True):
    """`status`: starting, healthy or unhealthy; the log keeps the last five results."""

    status: str = "starting"
    failing_streak: int = 0
    log: tuple[HealthResult, ...] = ()


class State(msgspec.Struct, frozen=True):
    """`status` is one of `state.STATUSES`. `start_time`: of the init, clock ticks since boot.

    `started_at` and `finished_at` are RFC 3339 with nanoseconds.
    """

    status: str = "created"
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    oom_killed: bool = False
    started_at: str = NEVER
    finished_at: str = NEVER
    start_time: int = 0
    health: Health | None = None


class MountPoint(msgspec.Struct, frozen=True):
    """A resolved mount of a container.

    `type`: bind, volume, image or tmpfs. `source`: host path (bind, volume). `name`: the volume's or the image's.
    `image`: the image's id, and `layers` its layers' diff-ids. `mode`: the options as written with `-v`. `anonymous`:
    the volume has no name given by a person. `copy`: fill the volume from the image. `create`: make a missing bind
    source. `options`: of a tmpfs. `from_mounts`: asked for with `--mount`. `driver`: the volume's; "" as long as
    nobody has said which. `internal`: a bind mount of something that is the engine's own. `given`: the number of the
    detached mount that is sent along; `source` is then what messages call it. `id_map`: see `id_mapping`.
    `below`: of a read-only one, whether what is mounted below it is read-only too: "" where the kernel can,
    "writable", or "readonly" (nothing starts where the kernel can't).
    """

    type: str
    destination: str
    source: str = ""
    name: str = ""
    mode: str = ""
    rw: bool = True
    propagation: str = ""
    recursive: bool = True
    anonymous: bool = False
    copy: bool = False
    create: bool = False
    options: tuple[str, ...] = ()
    subpath: str = ""
    from_mounts: bool = False
    driver: str = ""
    image: str = ""
    layers: tuple[str, ...] = ()
    id_map: str = ""
    below: str = ""
    internal: bool = False
    given: int = -1

    @property
    def within(self) -> str:
        """The volume's directory when a path in it is the source: any container that has the volume can put a link
        there at any time, and none below this directory is to be followed. Else ""."""
        return self.source.removesuffix(f"/{self.subpath.strip('/')}") if self.subpath else ""


class Endpoint(msgspec.Struct, frozen=True):
    """A container in a network. `asked` is what a person asked for; `spec` what it has while it runs."""

    network_id: str
    asked: EndpointSettings = EndpointSettings()
    spec: EndpointSpec | None = None


class ContainerRecord(msgspec.Struct, frozen=True):
    """Everything that is stored of one container (one document, key: id).

    `name` has no slash. `endpoints` by network name. `published`: definite bindings, while it runs.
    `manually_stopped`: by a person since it was last started (for unless-stopped).
    `removing`: a removal has begun; the next start of the engine finishes it. The labels
    are SELinux's. `restart_label`: the label that asks for restarts of the unhealthy was a person's, and says true.
    """

    id: str
    name: str
    created: str
    image_id: str
    image: str
    layers: tuple[str, ...]
    config: ContainerConfig
    host: HostConfig
    mounts: tuple[MountPoint, ...] = ()
    endpoints: dict[str, Endpoint] = {}
    published: tuple[PortBinding, ...] = ()
    state: State = State()
    restart_count: int = 0
    manually_stopped: bool = False
    removing: bool = False
    platform: str = "linux"
    process_label: str = ""
    mount_label: str = ""
    restart_label: bool = False

    @property
    def running(self) -> bool:
        """Has a process (paused ones too)."""
        return self.state.status in ("running", "paused")

    @property
    def needed_layers(self) -> frozenset[str]:
        """Diff-ids of its own image and of those that it mounts."""
        return frozenset((*self.layers, *(layer for point in self.mounts for layer in point.layers)))

    def uses_image(self, image_id: str) -> bool:
        return image_id in (self.image_id, *(point.image for point in self.mounts))

    @property
    def labels(self) -> dict[str, str]:
        return self.config.labels or {}

    @property
    def remaps(self) -> bool:
        """Has a user namespace of its own, where the engine has ids for one."""
        return self.host.userns_mode != "host"

    @property
    def restarts_unhealthy(self) -> bool:
        return restart.restarts_unhealthy(
            self.host.restart_policy, self.host.restart_unhealthy, self.restart_label
        )


class VolumeRecord(msgspec.Struct, frozen=True):
    """`anonymous`: named by the engine, for one container. `owner`: the id of the container with which it goes: without
    that container and any other user, at the engine's start, its making or its removal was interrupted."""

    name: str
    created: str
    driver: str = "local"
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None
    anonymous: bool = False
    owner: str = ""


class IpamPool(Docker, frozen=True):
    """One entry of IPAM.Config."""

    subnet: str = ""
    ip_range: str = msgspec.field(default="", name="IPRange")
    gateway: str = ""
    auxiliary_addresses: dict[str, str] | None = msgspec.field(default=None, name="AuxiliaryAddresses")


class NetworkRecord(msgspec.Struct, frozen=True):
    """`spec` None: the networks without devices (host, none, configurations). `fixed_subnet`: a person gave a subnet;
    `asked_pools`: so many of `ipam_config` a person gave, the first ones (None in records of earlier engines).

    `config_only`: not a network but the configuration of others, which have its name as `config_from`.
    """

    id: str
    name: str
    created: str
    driver: str
    spec: NetworkSpec | None = None
    internal: bool = False
    attachable: bool = False
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}
    ipam_driver: str = "default"
    ipam_options: dict[str, str] | None = None
    ipam_config: tuple[IpamPool, ...] = ()
    fixed_subnet: bool = False
    predefined: bool = False
    config_only: bool = False
    config_from: str = ""
    asked_pools: int | None = None

    @property
    def fixed_pools(self) -> tuple[IpamPool, ...]:
        """The subnets that a person gave: only in those can an endpoint's address be chosen."""
        asked = len(self.ipam_config) if self.asked_pools is None else self.asked_pools
        return self.ipam_config[:asked] if self.fixed_subnet else ()


def new_id() -> str:
    """64 random hexadecimal digits, never all decimal in the first 12 (a host name must not be a number)."""
    while True:
        text = secrets.token_hex(32)
        if not text[:12].isdigit():
            return text


def now() -> str:
    """This moment in UTC, RFC 3339 with nanoseconds."""
    return rfc3339(time.time_ns())


def rfc3339(time_ns: int) -> str:
    """Nanoseconds since the epoch as Docker writes times (trailing zeros of the fraction left out)."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{fraction:09d}".rstrip("0").rstrip(".") + "Z"


def epoch_ns(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time in UTC; 0 for `NEVER`.

    Raises ValueError for other text.
    """
    if text == NEVER:
        return 0
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0")[:9])
