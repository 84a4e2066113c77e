"""What a container sees of its networks: addresses, routes, /etc/hosts, /etc/resolv.conf, names, links."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root

# Without what differs by chance: numbers of interfaces, life times.
ADDRESSES = "ip -o addr show | awk '{print $2, $3, $4, $5, $6, $7, $8, $9}' | grep -v inet6"
LINKS = "ip -o link show | sed -e 's/^[0-9]*: //' -e 's/@if[0-9]*//' -e 's/ qlen [0-9]*//' -e 's/link-netnsid [0-9]*//'"
ROUTES = "ip route show | sed 's/ *$//' | sort"
SHOWN = {
    r"eth(\d)@if\d+": r"eth\1",
    r"qdisc \w+ *": "qdisc ",
}
# Since version 26 these names have other addresses, and there are comments.
PLAIN = {"(?m)^#.*\n": ""}


def on(name: str, flags: str, *lines: str, kind: str = "out", **more: object) -> Case:
    """A network made with `flags`, a container on it that sleeps, and what commands in it print."""
    steps = [
        f"setup: {{cli}} network create {flags} {{c}}",
        "setup: {cli} run -d --name {c} --hostname h --network {c} busybox sleep 1000",
        *(f"{kind}: {{cli}} exec {{c}} sh -c {_quoted(line)}" for line in lines),
    ]
    return Case(name, "\n".join(steps), **more)  # type: ignore[arg-type]


def _quoted(line: str) -> str:
    return "'" + line.replace("'", "'\\''") + "'"


INTERFACES = [
    Case(
        "addresses and routes on the default bridge",
        f"""
        setup: {{cli}} run -d --name {{c}} busybox sleep 1000
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES)}
        out: {{cli}} exec {{c}} sh -c {_quoted(LINKS)}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        """,
        but=SHOWN,
    ),
    on("addresses of a network", "--subnet {net}.1.0/24", ADDRESSES, LINKS, ROUTES, but=SHOWN),
    on(
        "another gateway",
        "--subnet {net}.2.0/24 --gateway {net}.2.200",
        ADDRESSES,
        ROUTES,
        but=SHOWN,
    ),
    on("a small subnet", "--subnet {net}.3.8/29", ADDRESSES, ROUTES, but=SHOWN),
    on(
        "an internal network has no way out",
        "--subnet {net}.4.0/24 --internal",
        ADDRESSES,
        ROUTES,
        # Newer ones have no default route there.
        but={**SHOWN, r"(?m)^default via .*\n": ""},
    ),
    on(
        "the MTU that was asked for",
        "--subnet {net}.5.0/24 -o com.docker.network.driver.mtu=1300",
        LINKS,
        "cat /sys/class/net/eth0/mtu",
        but=SHOWN,
    ),
    on(
        "the name of interfaces that was asked for",
        "--subnet {net}.6.0/24 -o com.docker.network.container_iface_prefix=wan",
        "ls /sys/class/net",
    ),
    on("the gateway answers", "--subnet {net}.7.0/24", "ping -c 1 -W 2 {net}.7.1 > /dev/null", kind="code"),
    Case(
        "two networks, in the order of connecting",
        f"""
        setup: {{cli}} network create --subnet {{net}}.8.0/24 {{c}}a
        setup: {{cli}} network create --subnet {{net}}.9.0/24 {{c}}b
        setup: {{cli}} create --name {{c}} --network {{c}}a busybox sleep 1000
        setup: {{cli}} network connect {{c}}b {{c}}
        setup: {{cli}} start {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES)}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        out: {{cli}} exec {{c}} cat /etc/hosts
        """,
        but={**SHOWN, r"(?m)^\S+\s+<short id>$": "", "\n\n+": "\n"},
    ),
    Case(
        "the default route moves when its network is left",
        f"""
        setup: {{cli}} network create --subnet {{net}}.10.0/24 {{c}}a
        setup: {{cli}} network create --subnet {{net}}.11.0/24 {{c}}b
        setup: {{cli}} run -d --name {{c}} --network {{c}}a busybox sleep 1000
        setup: {{cli}} network connect {{c}}b {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        setup: {{cli}} network disconnect {{c}}a {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        setup: {{cli}} network connect {{c}}a {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        """,
        # Newer ones give an interface's name again; an address is used again by chance.
        but={**SHOWN, r"(<other net>\.10)\.[^01]": r"\1.<host>", "eth2": "eth0"},
    ),
    Case(
        "an internal network beside one that leads outside",
        f"""
        setup: {{cli}} network create --subnet {{net}}.12.0/24 --internal {{c}}a
        setup: {{cli}} network create --subnet {{net}}.13.0/24 {{c}}b
        setup: {{cli}} run -d --name {{c}} --network {{c}}a busybox sleep 1000
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        setup: {{cli}} network connect {{c}}b {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        setup: {{cli}} network disconnect {{c}}b {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        """,
        but={**SHOWN, r"(?m)^default via <other net>\.12\.1 .*\n": ""},
    ),
    Case(
        "addresses that were asked for",
        f"""
        setup: {{cli}} network create --subnet {{net}}.14.0/24 {{c}}
        setup: {{cli}} run -d --name {{c}} --network {{c}} --ip {{net}}.14.77 --mac-address 02:42:00:aa:bb:0c busybox sleep 1000
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES)}
        out: {{cli}} exec {{c}} cat /sys/class/net/eth0/address | tr : -
        setup: {{cli}} restart -t 0 {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES)}
        """,
        but=SHOWN,
    ),
    Case(
        "the host's and another container's interfaces",
        f"""
        setup: {{cli}} run -d --name {{c}} --network none busybox sleep 1000
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES)}
        out: {{cli}} exec {{c}} sh -c {_quoted(ROUTES)}
        out: {{cli}} run --rm --network container:{{c}} busybox sh -c {_quoted(ADDRESSES)}
        out: test "$({{cli}} run --rm --network host busybox readlink /proc/1/ns/net)" = "$(readlink /proc/self/ns/net)"
        """,
        but=SHOWN,
    ),
]

HOSTS = [
    Case(
        "hosts on a network of one's own, with names and addresses that were given",
        """
        setup: {cli} network create --subnet {net}.15.0/24 {c}
        out: {cli} run --rm --network {c} --ip {net}.15.7 --hostname h busybox cat /etc/hosts
        out: {cli} run --rm --network {c} --ip {net}.15.8 --hostname h --domainname example.org busybox cat /etc/hosts
        out: {cli} run --rm --network {c} --hostname h --ip {net}.15.9 --add-host a:1.2.3.4 busybox cat /etc/hosts
        """,
        but=PLAIN,
    ),
    Case(
        "host-gateway in hosts",
        """
        out: {cli} run --rm --hostname h --add-host gw:host-gateway busybox grep gw /etc/hosts
        setup: {cli} network create --subnet {net}.16.0/24 {c}
        out: {cli} run --rm --network {c} --add-host gw:host-gateway busybox grep gw /etc/hosts
        """,
    ),
    Case(
        "hosts that are refused",
        "\n".join(
            f"all: {{cli}} create --add-host {text} busybox true"
            for text in ("x", "a:", "a:x", ":1.2.3.4", "a:1.2.3", "''")
        ),
    ),
    Case(
        "hosts after connecting and leaving while it runs",
        """
        setup: {cli} network create --subnet {net}.17.0/24 {c}
        setup: {cli} run -d --name {c} --hostname h busybox sleep 1000
        setup: {cli} network connect --ip {net}.17.9 {c} {c}
        out: {cli} exec {c} cat /etc/hosts
        setup: {cli} network disconnect bridge {c}
        out: {cli} exec {c} cat /etc/hosts
        """,
        # 20.10 leaves the address of the default bridge there, newer ones don't.
        but={**PLAIN, r"(?m)^<net>\.\d+\th\n": ""},
    ),
    Case(
        "hosts and names of a container whose network is shared",
        """
        setup: {cli} network create --subnet {net}.18.0/24 {c}
        setup: {cli} run -d --name {c} --network {c} --hostname h --add-host a:1.2.3.4 --dns-search x.y busybox sleep 1000
        out: {cli} run --rm --network container:{c} busybox sh -c 'hostname; cat /etc/hosts'
        sorted: {cli} run --rm --network container:{c} busybox cat /etc/resolv.conf
        """,
        but=PLAIN,
    ),
    Case(
        "a change that the container made to its hosts stays over a restart, or not",
        """
        setup: {cli} network create --subnet {net}.19.0/24 {c}
        setup: {cli} run -d --name {c} --network {c} --ip {net}.19.9 --hostname h busybox sleep 1000
        setup: {cli} exec {c} sh -c 'echo 9.9.9.9 mine >> /etc/hosts'
        out: {cli} exec {c} grep -c mine /etc/hosts
        setup: {cli} restart -t 0 {c}
        code: {cli} exec {c} grep mine /etc/hosts
        out: {cli} exec {c} grep -c h$ /etc/hosts
        """,
    ),
    Case(
        "links on the default bridge: hosts and environment",
        """
        setup: {cli} run -d --name {c}db --hostname dbhost -e SECRET=1 --expose 5432 --expose 5433/udp busybox sleep 1000
        sorted: {cli} run --rm --hostname h --link {c}db:database --link {c}db busybox cat /etc/hosts
        sorted: {cli} run --rm --name {c}x --hostname h --link {c}db:database busybox env
        """,
        but={**PLAIN, r"HOSTNAME=\S+": ""},
    ),
    Case(
        "links on a network of one's own",
        """
        setup: {cli} network create --subnet {net}.20.0/24 {c}
        setup: {cli} run -d --name {c}db --network {c} busybox sleep 1000
        out: {cli} run --rm --network {c} --hostname h --ip {net}.20.9 --link {c}db:database busybox cat /etc/hosts
        out: {cli} run --rm --network {c} --link {c}db:database busybox sh -c 'nslookup database | grep -A1 Name: | grep -v Name'
        code: {cli} run --rm --network {c} busybox nslookup database
        """,
        but={**PLAIN, r"Address( \d+)?: (<address>|[\d.]+).*": r"Address \2"},
    ),
]

RESOLVER = [
    Case(
        "resolv.conf on a network of one's own",
        "\n".join(
            [
                "setup: {cli} network create --subnet {net}.21.0/24 {c}",
                *(
                    f"sorted: {{cli}} run --rm --network {{c}} {flags} busybox cat /etc/resolv.conf"
                    for flags in (
                        "--dns 1.1.1.1 --dns-search example.org",
                        "--dns-search a.b --dns-search c.d",
                        "--dns-opt ndots:3 --dns-search x",
                        "--dns-opt ndots:3 --dns-opt timeout:2 --dns-search x",
                        "--dns-search .",
                        "--dns 1.1.1.1 --dns 2.2.2.2 --dns-search x",
                    )
                ),
            ]
        ),
        but=PLAIN,
    ),
    Case(
        "options of the resolver that are refused",
        "\n".join(
            f"all: {{cli}} create {flags} busybox true" for flags in ("--dns x", "--dns ''", "--dns 1.2.3")
        )
        + "\ncode: {cli} create --dns-search 'a b' busybox true",
    ),
    Case(
        "resolv.conf after connecting and leaving",
        """
        setup: {cli} network create --subnet {net}.22.0/24 {c}
        setup: {cli} run -d --name {c} --dns 1.1.1.1 --dns-search x busybox sleep 1000
        sorted: {cli} exec {c} cat /etc/resolv.conf
        setup: {cli} network connect {c} {c}
        sorted: {cli} exec {c} cat /etc/resolv.conf
        setup: {cli} network disconnect bridge {c}
        sorted: {cli} exec {c} cat /etc/resolv.conf
        """,
        but=PLAIN,
    ),
]

FIND = "nslookup NAME 127.0.0.11 2>&1 | grep -A1 ^Name: | grep -v -e ^Name: -e ^--"
NAMED = {r"Address( \d+)?: (\S+).*": r"Address \2"}


def find(*names: str) -> list[str]:
    return [f"sorted: {{cli}} exec {{c}}q sh -c {_quoted(FIND.replace('NAME', name))}" for name in names]


NAMES = [
    Case(
        "names of containers, aliases, ids and networks",
        "\n".join(
            [
                "setup: {cli} network create --subnet {net}.23.0/24 {c}",
                "setup: {cli} run -d --name {c}db --network {c} --ip {net}.23.9 --network-alias store --hostname host1 busybox sleep 1000",
                "setup: {cli} run -d --name {c}q --network {c} busybox sleep 1000",
                *find("{c}db", "store", "{c}db.{c}", "store.{c}", "STORE", "nosuch{c}", "host1", "{c}"),
            ]
        ),
        but=NAMED,
    ),
    Case(
        "an alias of several containers has all their addresses",
        "\n".join(
            [
                "setup: {cli} network create --subnet {net}.24.0/24 {c}",
                *(
                    f"setup: {{cli}} run -d --name {{c}}{number} --network {{c}} --network-alias many busybox sleep 1000"
                    for number in (1, 2, 3)
                ),
                "setup: {cli} run -d --name {c}q --network {c} busybox sleep 1000",
                *find("many"),
                "setup: {cli} stop -t 0 {c}2",
                *find("many", "{c}2"),
                "setup: {cli} start {c}2",
                *find("many"),
            ]
        ),
        but=NAMED,
    ),
    Case(
        "names back from addresses",
        """
        setup: {cli} network create --subnet {net}.25.0/24 {c}
        setup: {cli} run -d --name {c}db --network {c} --ip {net}.25.9 busybox sleep 1000
        out: {cli} run --rm --network {c} busybox sh -c 'nslookup {net}.25.9 127.0.0.11 | grep -o "name = .*"'
        """,
    ),
    Case(
        "names end at the network's border",
        "\n".join(
            [
                "setup: {cli} network create --subnet {net}.26.0/24 {c}a",
                "setup: {cli} network create --subnet {net}.27.0/24 {c}b",
                "setup: {cli} run -d --name {c}db --network {c}a --network-alias store busybox sleep 1000",
                "setup: {cli} run -d --name {c}q --network {c}b busybox sleep 1000",
                *find("{c}db", "store", "{c}db.{c}a"),
                "setup: {cli} network connect --alias other {c}a {c}q",
                *find("{c}db", "store", "{c}db.{c}a", "other"),
                "setup: {cli} network disconnect {c}a {c}q",
                *find("{c}db", "other"),
            ]
        ),
        but=NAMED,
    ),
    Case(
        "renaming changes the name at once",
        "\n".join(
            [
                "setup: {cli} network create --subnet {net}.28.0/24 {c}",
                "setup: {cli} run -d --name {c}a --network {c} busybox sleep 1000",
                "setup: {cli} run -d --name {c}q --network {c} busybox sleep 1000",
                *find("{c}a"),
                "setup: {cli} rename {c}a {c}b",
                *find("{c}a", "{c}b"),
            ]
        ),
        but=NAMED,
    ),
    # That nobody outside is asked: tests/integration/network/test_names_of_containers.py, where packets are counted.
    Case(
        "a name of elsewhere is not found on an internal network",
        """
        setup: {cli} network create --internal --subnet {net}.29.0/24 {c}
        code: timeout 20 {cli} run --rm --network {c} busybox nslookup example.org
        """,
    ),
]


def six(number: int) -> str:
    return f"--ipv6 --subnet {{net}}.{number}.0/24 --subnet {{net6}}:{number}::/64"


ADDRESSES6 = "ip -6 -o addr show dev eth0 scope global | awk '{print $2, $3, $4, $5, $6}'"
ROUTES6 = (
    "ip -6 route show | grep -v -e ^fe80 -e ^ff00 -e dev.lo | sed -e 's/ *metric.*//' -e 's/ *$//' | sort"
)
# Before version 28 an address followed from the MAC address where nobody had asked for one.
BY_CHANCE = {r"(?<=<net6>:30::)[0-9a-f:]{2,}": "<host>", "(?<=<net6>:30::)[2-9a-f]\\b": "<host>"}

BOTH_FAMILIES = [
    on(
        "a network of both families",
        six(30),
        ADDRESSES,
        ADDRESSES6,
        ROUTES,
        ROUTES6,
        "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6",
        "ping -6 -c 1 -W 2 {net6}:30::1 > /dev/null; echo $?",
        but={**SHOWN, **BY_CHANCE},
    ),
    Case(
        "inspect of a network of both families",
        f"""
        setup: {{cli}} network create {six(40)} {{c}}
        json: {{cli}} network inspect {{c}}
        setup: {{cli}} run -d --name {{c}} --hostname h --network {{c}} --ip {{net}}.40.9 --ip6 {{net6}}:40::99 busybox sleep 1000
        json: {{cli}} network inspect {{c}}
        json: {{cli}} inspect -f '{{{{json .NetworkSettings}}}}' {{c}}
        out: {{cli}} exec {{c}} sh -c {_quoted(ADDRESSES6)}
        out: {{cli}} exec {{c}} grep h$ /etc/hosts
        """,
    ),
    Case(
        "IPv6 addresses that can't be",
        f"""
        setup: {{cli}} network create {six(50)} {{c}}
        setup: {{cli}} run -d --name {{c}} --network {{c}} --ip6 {{net6}}:50::99 busybox sleep 1000
        code: {{cli}} run --rm --network {{c}} --ip6 {{net6}}:50::99 busybox true
        code: {{cli}} run --rm --network {{c}} --ip6 {{net6}}:51::99 busybox true
        code: {{cli}} run --rm --network {{c}} --ip6 {{net}}.50.9 busybox true
        code: {{cli}} run --rm --network {{c}} --ip6 {{net6}}:50::1 busybox true
        code: {{cli}} network create --ipv6 --subnet {{net6}}:50::/63 {{c}}b
        code: {{cli}} network create --ipv6 --subnet {{net6}}:52::/64 --gateway {{net6}}:53::1 {{c}}b
        code: {{cli}} network create --ipv6 --subnet {{net6}}:52::/129 {{c}}b
        out: {{cli}} network ls -q --filter name={{c}}b
        """,
    ),
    Case(
        "names of both families",
        f"""
        setup: {{cli}} network create {six(60)} {{c}}
        setup: {{cli}} run -d --name {{c}}db --network {{c}} --ip {{net}}.60.9 --ip6 {{net6}}:60::99 busybox sleep 1000
        sorted: {{cli}} run --rm --network {{c}} busybox sh -c 'nslookup {{c}}db 127.0.0.11 | grep -A1 ^Name: | grep -o "[^ ]*$" | sort -u'
        """,
    ),
]

CASES = [*BOTH_FAMILIES, *INTERFACES, *HOSTS, *RESOLVER, *NAMES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
