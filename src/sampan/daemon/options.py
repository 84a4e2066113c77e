"""The daemon's flags and its configuration file; a flag wins over the file.

The file has Docker's keys (`/etc/docker/daemon.json`) where Docker has them, so that one can be copied.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sampan.daemon import container_defaults, docker_keys, network_options
from sampan.daemon.builder_entitlements import allowed_entitlements
from sampan.daemon.builder_gc import collection_rules
from sampan.daemon.runtimes import check_default, parse_runtimes
from sampan.engine.networks.cluster_settings import parse_cluster
from sampan.engine.seccomp_profile import load_profile
from sampan.engine.security import BUILTIN, UNCONFINED
from sampan.engine.settings import Settings
from sampan.errors import Invalid
from sampan.logs.options import DRIVERS, check_log_options
from sampan.registry.proxies import Proxies

DEFAULT_CONFIG = Path("/etc/sampan/daemon.json")
_INTERFACE_NAME_BYTES = 15  # IFNAMSIZ - 1


@dataclass(frozen=True, slots=True)
class DaemonOptions:
    settings: Settings
    hosts: tuple[str, ...]
    """Addresses to listen at: unix://PATH or tcp://HOST:PORT."""
    metrics_address: str | None = None
    """tcp://HOST:PORT at which Prometheus finds metrics; None: nowhere."""
    told: tuple[str, ...] = ()
    """What a person should know of the file: keys of Docker's that do nothing here."""


BRIDGE_DNS = ("auto", "resolver", "names")


def _boolean(text: str) -> bool:
    """As Docker's flags have it: --icc, --icc=true, --icc=false."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise Invalid(f"invalid boolean value {text!r}")
    return text.lower() in ("true", "1")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Invalid(message, hint="see 'sampan daemon --help'")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="sampan daemon", description="Run the engine in the foreground.")
    add = parser.add_argument
    add("--config-file", type=Path, help=f"configuration file (default {DEFAULT_CONFIG}, if it exists)")
    add("--root", "--data-root", type=Path, help="persistent state (default /var/lib/sampan)")
    add("--run", "--exec-root", type=Path, help="state that ends with the host's boot (default /run/sampan)")
    add("-H", "--host", action="append", help="listen here: unix://PATH, tcp://HOST:PORT; may be repeated")
    add(
        "-b",
        "--bridge",
        help="name of the default bridge (none: there is none); engines on one host need different",
    )
    add("--bip", help="address and prefix of the default bridge, e.g. 10.1.0.1/24")
    add("--bip6", help="its IPv6 address and prefix, e.g. fd00:1::1/64")
    add("--ipv6", type=_boolean, nargs="?", const=True, help="give the default bridge IPv6 addresses")
    add("--fixed-cidr", help="part of the default bridge's subnet that containers get addresses from")
    add("--fixed-cidr-v6", help="the same for IPv6; alone, it is the subnet")
    add(
        "--default-gateway",
        help="where containers' default routes lead instead of to the bridge (needs --bip)",
    )
    add("--default-gateway-v6", help="the same for IPv6 (needs --bip6 or --fixed-cidr-v6)")
    add(
        "--ip",
        help="host address of published ports that name none, for the default bridge (default 0.0.0.0)",
    )
    add(
        "--icc",
        type=_boolean,
        nargs="?",
        const=True,
        help="containers on the default bridge reach each other",
    )
    add(
        "--ip-masq",
        type=_boolean,
        nargs="?",
        const=True,
        help="its containers go out with the host's address",
    )
    for name, what in (
        ("--iptables", "write rules: address translation, published ports, borders between networks"),
        ("--ip6tables", "the same for IPv6; without it, what goes to containers by IPv6 passes"),
        ("--ip-forward", "let the host forward packets (net.ipv4.ip_forward)"),
        ("--userland-proxy", "as Docker's; the engine chooses by itself, see --port-mode"),
    ):
        add(name, type=_boolean, nargs="?", const=True, help=f"{what} (default true)")
    add(
        "--allow-direct-routing",
        type=_boolean,
        nargs="?",
        const=True,
        help="published ports are open at containers' own addresses too, to hosts that have a way there",
    )
    add("--host-gateway-ip", action="append", help="address that host-gateway stands for in --add-host")
    add("--default-network-opt", action="append", help="DRIVER=KEY=VALUE for networks that do not set it")
    add("--default-address-pool", action="append", help="base=CIDR,size=PREFIX for networks without a subnet")
    add(
        "--cluster-store",
        help="what hosts share overlay networks by: etcd://HOST[:PORT],... or static:HOST,...",
    )
    add("--cluster-advertise", help="address or interface by which the cluster's other hosts reach this one")
    add("--cluster-store-opt", action="append", help="KEY=VALUE: secret-file, kv.path, kv.cacertfile, ...")
    add("--cgroup-parent", help="control group below which containers get theirs (default /sampan)")
    add("--port-mode", choices=("auto", "nat", "relay"), help="how ports are published (default auto)")
    add("--dns", action="append", help="name server for containers")
    add("--dns-search", action="append")
    add("--dns-opt", action="append")
    add(
        "--bridge-dns",
        choices=BRIDGE_DNS,
        help="containers on the default bridge ask the engine's name server when the host's resolvers are out of their"
        " reach, always, or always and for each other's names too (default auto)",
    )
    add("--mtu", type=int)
    add("--insecure-registry", action="append", help="registry (host[:port] or CIDR) without verified TLS")
    add(
        "--registry-mirror",
        action="append",
        help="[HOST=]URL tried before the registry (default host docker.io)",
    )
    add("--registry-certs", type=Path, help="directory of HOST/*.crt (default /etc/docker/certs.d)")
    add("--plugin-dir", type=Path, help="directory of plugins' sockets (default /run/docker/plugins)")
    add("--http-proxy", help="proxy for what the engine fetches by HTTP (default: what HTTP_PROXY says)")
    add("--https-proxy", help="proxy for what it fetches by HTTPS (default: what HTTPS_PROXY says)")
    add(
        "--no-proxy", help="hosts, domains and networks reached without a proxy (default: what NO_PROXY says)"
    )
    add("--max-concurrent-downloads", type=int)
    add("--max-concurrent-uploads", type=int)
    add("--log-driver", help=f"default log driver of containers (none, {', '.join(DRIVERS)})")
    add("--log-opt", action="append", help="default log options, KEY=VALUE")
    add("--metrics-addr", help="serve Prometheus metrics at HOST:PORT/metrics (default: nowhere)")
    add("--add-runtime", action="append", help="a further OCI runtime that containers may choose, NAME=PATH")
    add("--default-runtime", help="runtime of containers that choose none (default sampan)")
    add("--label", action="append", help="label of the engine, KEY=VALUE")
    add("--default-ulimit", action="append", help="limit of containers that set none, NAME=SOFT[:HARD]")
    add("--default-shm-size", help="size of containers' /dev/shm (default 64m)")
    add("--init", action=argparse.BooleanOptionalAction, default=None, help="run an init in every container")
    add(
        "--no-new-privileges",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="for containers by default",
    )
    add("--seccomp-profile", help="file of the default seccomp profile, or unconfined (default builtin)")
    add("--default-ipc-mode", help="private or shareable (default private)")
    add("--default-cgroupns-mode", help="private or host (default private with cgroup version 2, else host)")
    add("--selinux-enabled", action=argparse.BooleanOptionalAction, default=None, help="label containers")
    add("--userns-remap", help="subordinate ids for containers' user namespaces: default, USER or USER:GROUP")
    add(
        "--builder-gc",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="collect the build cache by size and age (default on)",
    )
    add("--builder-gc-keep-storage", help="size that the build cache may have (default 10GB)")
    add(
        "--build-host-ca",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="steps of builds trust the host's CA certificates",
    )
    add(
        "--builder-entitlement",
        action="append",
        help="what builds may be granted: network.host (by default), security.insecure, or none",
    )
    add("-D", "--debug", action=argparse.BooleanOptionalAction, default=None)
    return parser


_LISTS = {
    "host": "hosts",
    "default_address_pool": "default-address-pools",
    "default_network_opt": "default-network-opts",
    "dns": "dns",
    "host_gateway_ip": "host-gateway-ips",
    "default_ulimit": "default-ulimits",
    "dns_search": "dns-search",
    "dns_opt": "dns-opts",
    "insecure_registry": "insecure-registries",
    "registry_mirror": "registry-mirrors",
    "label": "labels",
}
"""Flags that may be repeated -> the key of the file that holds their list."""

_PROXIES = ("http-proxy", "https-proxy", "no-proxy")
_RENAMED = {
    "root": "data-root",
    "run": "exec-root",
    "log_opt": "log-opts",
    "add_runtime": "runtimes",
    "cluster_store_opt": "cluster-store-opts",
}


def parse_options(argv: Sequence[str]) -> DaemonOptions:
    """Raises `Invalid` for unknown flags and keys, and for values that cannot work."""
    flags = vars(_parser().parse_args(argv))
    given = flags.pop("config_file")
    path = given or DEFAULT_CONFIG
    stored = _read_file(path) if given or path.exists() else {}
    builder = stored.pop("builder", None)
    stored |= _stored_proxies(stored.pop("proxies", {}))
    told = docker_keys.take(stored)
    if single := stored.pop("host-gateway-ip", None):  # before Docker 28
        stored.setdefault("host-gateway-ips", [single])
    known = {_key(flag) for flag in flags}
    if unknown := sorted(set(stored) - known):
        raise Invalid(f"{path}: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(sorted(known))}")
    values = {flag: stored.get(_key(flag)) if value is None else value for flag, value in flags.items()}
    return replace(_typed({**values, "builder": builder}), told=told)


def _key(flag: str) -> str:
    return _LISTS.get(flag) or _RENAMED.get(flag) or flag.replace("_", "-")


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise Invalid(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise Invalid(f"{path}: malformed JSON: {error}") from error
    if not isinstance(content, dict):
        raise Invalid(f"{path}: expected a JSON object")
    return content


def _typed(values: Mapping[str, Any]) -> DaemonOptions:
    default = Settings()
    root = Path(values["root"] or default.root).absolute()
    run = Path(values["run"] or default.run).absolute()
    runtimes = parse_runtimes(values["add_runtime"])
    settings = Settings(
        root=root,
        run=run,
        instance=_bridge(values["bridge"], root, default),
        default_bridge=values["bridge"] != "none",
        default_subnet=network_options.bridge_address(values["bip"], 4),
        ipv6=bool(values["ipv6"]),
        default_subnet6=network_options.bridge_address(values["bip6"], 6),
        fixed_cidr=network_options.fixed_cidr(values, "fixed_cidr", 4),
        fixed_cidr6=network_options.fixed_cidr(values, "fixed_cidr_v6", 6),
        default_gateway=network_options.address(values, "default_gateway", 4),
        default_gateway6=network_options.address(values, "default_gateway_v6", 6),
        icc=network_options.switch(values, "icc"),
        masquerade=network_options.switch(values, "ip_masq"),
        rules=network_options.rules(values),
        rules6=network_options.switch(values, "ip6tables"),
        direct_routing=network_options.switch(values, "allow_direct_routing", default=False),
        ip_forward=network_options.switch(values, "ip_forward"),
        host_gateways=network_options.host_gateways(_strings(values, "host_gateway_ip")),
        host_binding=network_options.address(values, "ip", 4, 6) or default.host_binding,
        network_options=network_options.by_driver(values["default_network_opt"]),
        address_pools=tuple(network_options.pool(pool) for pool in values["default_address_pool"] or ()),
        cgroup_parent=values["cgroup_parent"] or default.cgroup_parent,
        port_mode=values["port_mode"] or default.port_mode,
        dns=_strings(values, "dns"),
        dns_search=_strings(values, "dns_search"),
        dns_options=_strings(values, "dns_opt"),
        bridge_dns=_one_of(values, "bridge_dns", BRIDGE_DNS, default.bridge_dns),
        mtu=_positive({"mtu": values["mtu"] or None}, "mtu", default.mtu),
        log_driver=values["log_driver"] or default.log_driver,
        log_options=_pairs(values["log_opt"], "log-opt"),
        insecure_registries=_strings(values, "insecure_registry"),
        registry_mirrors=_mirrors(values["registry_mirror"]),
        registry_certs=Path(values["registry_certs"] or default.registry_certs),
        plugin_dir=Path(values["plugin_dir"] or default.plugin_dir).absolute(),
        proxies=_proxies(values),
        max_concurrent_downloads=_positive(
            values, "max_concurrent_downloads", default.max_concurrent_downloads
        ),
        max_concurrent_uploads=_positive(values, "max_concurrent_uploads", default.max_concurrent_uploads),
        default_ulimits=container_defaults.ulimits(values["default_ulimit"]),
        default_shm_size=container_defaults.shm_size(values["default_shm_size"]),
        init_by_default=bool(values["init"]),
        no_new_privileges=bool(values["no_new_privileges"]),
        seccomp_profile=_profile(values["seccomp_profile"]),
        seccomp_profile_path=values["seccomp_profile"] or "",
        default_ipc_mode=_chosen(values, "default_ipc_mode", "IPC", ("private", "shareable"))
        or default.default_ipc_mode,
        default_cgroupns_mode=_chosen(
            values, "default_cgroupns_mode", "cgroup namespace", ("private", "host")
        ),
        runtimes=runtimes,
        default_runtime=check_default(values["default_runtime"] or default.default_runtime, runtimes),
        selinux_enabled=bool(values["selinux_enabled"]),
        userns_remap=values["userns_remap"] or "",
        builder_gc=collection_rules(
            values["builder"], values["builder_gc"], values["builder_gc_keep_storage"]
        ),
        build_host_ca=bool(values["build_host_ca"]),
        builder_entitlements=allowed_entitlements(values["builder"], values["builder_entitlement"]),
        labels=_strings(values, "label"),
        cluster=parse_cluster(
            values["cluster_store"] or "",
            values["cluster_advertise"] or "",
            _pairs(values["cluster_store_opt"], "cluster-store-opt"),
        ),
        debug=bool(values["debug"]),
    )
    hosts = _strings(values, "host") or (f"unix://{settings.socket}",)
    _check_log(settings)
    return DaemonOptions(settings, hosts, _metrics_address(values["metrics_addr"]))


def _stored_proxies(value: object) -> dict[str, str]:
    """`proxies` of the file, an object of Docker's keys, as single keys."""
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise Invalid("proxies: expected an object of strings")
    if unknown := sorted(value.keys() - _PROXIES):
        raise Invalid(f"proxies: unknown key {unknown[0]!r}", hint=f"known keys: {', '.join(_PROXIES)}")
    return dict(value)


def _proxies(values: Mapping[str, Any]) -> Proxies:
    found = Proxies(*(values[name.replace("-", "_")] or "" for name in _PROXIES))
    for url in (found.http, found.https):
        if "://" in url and not url.startswith(("http://", "https://")):
            raise Invalid("invalid proxy: expected http://HOST:PORT or https://HOST:PORT")
    return found


def _check_log(settings: Settings) -> None:
    if settings.log_driver not in ("none", *DRIVERS):
        raise Invalid(
            f"failed to set log opts: logger: no log driver named '{settings.log_driver}' is registered",
            hint=f"drivers: none, {', '.join(DRIVERS)}",
        )
    try:
        check_log_options(settings.log_driver, settings.log_options)
    except Invalid as error:
        raise Invalid(f"failed to set log opts: {error.message}", hint=error.hint) from error


def _metrics_address(text: object) -> str | None:
    if text is None:
        return None
    host, colon, port = str(text).rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    bare_ipv6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or not host or bare_ipv6 or not 0 < number < 65536:
        raise Invalid(f"invalid metrics-addr {text!r}: expected HOST:PORT, for example 127.0.0.1:9323")
    return f"tcp://{text}"


def _chosen(values: Mapping[str, Any], name: str, what: str, allowed: tuple[str, str]) -> str:
    value = values[name] or ""
    if value and value not in allowed:
        raise Invalid(
            f'Default {what} mode setting ({value}) is invalid. Use "{allowed[1]}" or "{allowed[0]}".'
        )
    return str(value)


def _profile(path: str | None) -> str:
    """The text of the default seccomp profile. Raises `Invalid` for one that can't be read."""
    if path in (None, "", BUILTIN):
        return ""
    if path == UNCONFINED:
        return path
    try:
        text = Path(str(path)).read_text(encoding="utf-8")
    except OSError as error:
        raise Invalid(f"opening seccomp profile ({path}) failed: {error.strerror}") from error
    load_profile(text.encode())
    return text


def _bridge(name: str | None, root: Path, default: Settings) -> str:
    if name is None or name == "none":  # which is no bridge at all
        if root == default.root:
            return default.instance
        # Another root is another engine: without a name of its own it would fight for the bridge.
        return "smp" + hashlib.sha256(str(root).encode()).hexdigest()[:10]
    if not 0 < len(name.encode()) <= _INTERFACE_NAME_BYTES or "/" in name or any(c.isspace() for c in name):
        raise Invalid(
            f"invalid bridge name {name!r}: at most {_INTERFACE_NAME_BYTES} bytes, no space, no slash"
        )
    return name


def _mirrors(value: object) -> dict[str, tuple[str, ...]]:
    """A list of `[HOST=]URL`, or the file's {"host": ["url", ...]}."""
    found: dict[str, list[str]] = {}
    if isinstance(value, dict):
        entries = [(str(host), str(url)) for host, urls in value.items() for url in urls]
    else:
        entries = []
        for item in value if isinstance(value, list) else ():
            host, equals, url = str(item).partition("=")
            entries.append((host, url) if equals and "/" not in host else ("docker.io", str(item)))
    for host, url in entries:
        if not url.startswith(("http://", "https://")):
            raise Invalid(f"invalid registry mirror {url!r}: expected http:// or https://")
        found.setdefault(host, []).append(url.rstrip("/"))
    return {host: tuple(urls) for host, urls in found.items()}


def _strings(values: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = values[name] or ()
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise Invalid(f"{_key(name)}: expected a list of strings")
    return tuple(value)


def _positive(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values[name]
    if value is None:
        return default
    if not isinstance(value, int) or value <= 0:
        raise Invalid(f"{_key(name)}: expected a positive number, not {value!r}")
    return value


def _one_of(values: Mapping[str, Any], name: str, choices: tuple[str, ...], default: str) -> str:
    value = values[name]
    if value is None:
        return default
    if value not in choices:
        raise Invalid(f"{_key(name)}: expected one of {', '.join(choices)}, not {value!r}")
    return str(value)


def _pairs(value: object, name: str) -> dict[str, str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(item, str):
                raise Invalid(f"{name}: {key}: expected a string, not {json.dumps(item)}")
        return dict(value)
    if value is not None and not isinstance(value, list):
        raise Invalid(f"{name}: expected an object of strings, not {json.dumps(value)}")
    pairs: dict[str, str] = {}
    for item in value or ():
        key, equals, text = str(item).partition("=")
        if not equals:
            raise Invalid(f"invalid {name} {item!r}: expected KEY=VALUE")
        pairs[key] = text
    return pairs
