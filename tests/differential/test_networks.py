"""`network` and its subcommands: what they print, list, show and refuse."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root


def each(name: str, kind: str, *lines: str, before: str = "", **more: object) -> Case:
    """The same kind of comparison for several commands, which follow `network`."""
    steps = [f"setup: {line.strip()}" for line in before.splitlines() if line.strip()]
    return Case(name, "\n".join([*steps, *(f"{kind}: {{cli}} network {line}" for line in lines)]), **more)  # type: ignore[arg-type]


CREATED = [
    Case(
        "create prints the id, and ls shows the network",
        """
        out: {cli} network create --subnet {net}.1.0/24 {c} | wc -c
        out: {cli} network ls --filter name={c}
        out: {cli} network ls -q --filter name={c}
        out: {cli} network ls --no-trunc --filter name={c}
        out: {cli} network ls --filter name={c} --format '{{.ID}} {{.Name}} {{.Driver}} {{.Scope}} {{.IPv6}} {{.Internal}} [{{.Labels}}]'
        json: {cli} network ls --filter name={c} --format '{{json .}}'
        out: {cli} network list --filter name={c} --format 'table {{.Name}}\\t{{.Driver}}'
        """,
        ignore={"*CreatedAt": "when", "CreatedAt": "when", "IPv4": "a column that Docker has since 28"},
    ),
    Case(
        "subnets and gateways as inspect shows them",
        """
        setup: {cli} network create --subnet {net}.2.0/24 {c}a
        setup: {cli} network create --subnet {net}.3.0/24 --gateway {net}.3.254 {c}b
        setup: {cli} network create --subnet {net}.4.0/24 --ip-range {net}.4.128/25 {c}d
        setup: {cli} network create --subnet {net}.5.0/24 --aux-address a={net}.5.7 --aux-address b={net}.5.9 {c}e
        setup: {cli} network create --subnet {net}.6.0/30 {c}g
        json: {cli} network inspect {c}a {c}b {c}d {c}e {c}g
        """,
    ),
    Case(
        "internal, attachable and labelled",
        """
        setup: {cli} network create --subnet {net}.8.0/24 --internal --attachable --label a=b --label c {c}
        json: {cli} network inspect {c}
        out: {cli} network inspect -f '{{.Internal}} {{.Attachable}} {{.Labels}} {{.Ingress}} {{.ConfigOnly}}' {c}
        out: {cli} network ls --filter label=a=b --filter name={c} --format '{{.Name}} {{.Internal}} {{.Label "a"}}'
        """,
    ),
    Case(
        "the bridge driver's options",
        """
        setup: {cli} network create --subnet {net}.9.0/24 -o com.docker.network.bridge.name={c} \
            -o com.docker.network.bridge.enable_icc=false -o com.docker.network.bridge.enable_ip_masquerade=false \
            -o com.docker.network.driver.mtu=1400 -o com.docker.network.bridge.host_binding_ipv4=127.0.0.1 {c}
        json: {cli} network inspect {c}
        out: ip -o link show {c} | grep -o 'mtu [0-9]*'
        out: ip -4 -o addr show {c} | grep -o 'inet [^ ]*' | cut -d. -f3-
        out: {cli} run --rm --network {c} busybox cat /sys/class/net/eth0/mtu
        """,
        but={"mtu 1500": "mtu 1400"},  # of 20.10's bridge itself
    ),
    Case(
        "an unknown driver option is kept",
        """
        code: {cli} network create --subnet {net}.10.0/24 -o example.org/x=1 {c}
        out: {cli} network inspect -f '{{.Options}}' {c}
        """,
    ),
    each("a name twice", "all", "create {c}", before="{cli} network create --subnet {net}.11.0/24 {c}"),
    each(
        "names that are taken from the beginning",
        "all",
        *(f"create --subnet {{net}}.12.0/24 {name}" for name in ("bridge", "host", "none", "default")),
    ),
    each("an empty name", "code", "create --subnet {net}.12.0/24 ''", "create --subnet {net}.12.0/24 ' '"),
    each(
        "drivers of which there is one network already",
        "all",
        "create -d host {c}",
        "create -d null {c}",
    ),
    each("a driver that is not there", "code", "create -d nosuch {c}", "create -d nosuch/plugin:1 {c}"),
    each("an address driver that is not there", "code", "create --ipam-driver nosuch {c}"),
    each(
        "options of the address driver are shown",
        "json",
        "inspect -f '{{json .IPAM}}' {c}",
        before="{cli} network create --subnet {net}.13.0/24 --ipam-opt a=b {c}",
    ),
    each(
        "what needs a swarm",
        "code",
        "create --ingress {c}",
        "create --scope swarm {c}",
        "create -d overlay {c}",
        "create --attachable -d overlay {c}",
    ),
]

REFUSED = [
    each(
        "subnets that are none",
        "code",
        "create --subnet x {c}",
        "create --subnet {net}.14.0 {c}",
        "create --subnet {net}.14.0/33 {c}",
        "create --subnet 300.1.1.0/24 {c}",
        "create --subnet '' {c}",
    ),
    each(
        "an address outside of every subnet",
        "all",
        "create --subnet {net}.14.0/24 --gateway {net}.15.1 {c}",
        "create --subnet {net}.14.0/24 --ip-range {net}.15.0/25 {c}",
        "create --subnet {net}.14.0/24 --aux-address a={net}.15.1 {c}",
    ),
    each(
        "an address without a subnet",
        "all",
        "create --gateway {net}.14.1 {c}",
        "create --ip-range {net}.14.0/25 {c}",
        "create --aux-address a={net}.14.1 {c}",
    ),
    each(
        "addresses that are none",
        "code",
        "create --subnet {net}.14.0/24 --gateway x {c}",
        "create --subnet {net}.14.0/24 --ip-range x {c}",
        "create --subnet {net}.14.0/24 --aux-address a=x {c}",
        "create --subnet {net}.14.0/24 --aux-address x {c}",
        "create --subnet {net}.14.0/24 --gateway {net}.14.0/24 {c}",
    ),
    each(
        "two of what there is one of for a subnet",
        "code",
        "create --subnet {net}.14.0/24 --gateway {net}.14.1 --gateway {net}.14.2 {c}",
        "create --subnet {net}.14.0/24 --ip-range {net}.14.0/25 --ip-range {net}.14.128/25 {c}",
        "create --subnet {net}.14.0/24 --subnet {net}.14.128/25 {c}",
    ),
    each(
        "two IPv4 subnets of a bridge",
        "code",
        "create --subnet {net}.14.0/24 --subnet {net}.15.0/24 {c}",
    ),
    each(
        "an auxiliary address that is the gateway, or comes twice",
        "code",
        "create --subnet {net}.16.0/24 --gateway {net}.16.1 --aux-address a={net}.16.1 {c}a",
        "create --subnet {net}.17.0/24 --aux-address a={net}.17.5 --aux-address b={net}.17.5 {c}b",
    ),
    each(
        "a subnet that overlaps another network's",
        "all",
        "create --subnet {net}.18.0/24 {c}b",
        "create --subnet {net}.18.128/25 {c}b",
        "create --subnet {net}.16.0/20 {c}b",
        "ls -q --filter name={c}b",
        before="{cli} network create --subnet {net}.18.0/24 {c}a",
        # Newer ones say a word more, and sampan with which network.
        but={r"invalid pool request: ": "", r"\n<other net>\S+ overlaps .*": ""},
    ),
    each(
        "values of options that make no sense",
        "code",
        "create --subnet {net}.19.0/24 -o com.docker.network.driver.mtu=x {c}",
        "create --subnet {net}.19.0/24 -o com.docker.network.driver.mtu=-1 {c}",
        "create --subnet {net}.19.0/24 -o com.docker.network.bridge.enable_icc=maybe {c}",
        "create --subnet {net}.19.0/24 -o com.docker.network.bridge.enable_ip_masquerade=maybe {c}",
        "create --subnet {net}.19.0/24 -o com.docker.network.bridge.host_binding_ipv4=x {c}",
        "create --subnet {net}.19.0/24 -o com.docker.network.bridge.name=a-name-that-is-too-long {c}",
        "ls -q --filter name={c}",
    ),
    each(
        "a bridge that another network has",
        "code",
        "create --subnet {net}.21.0/24 -o com.docker.network.bridge.name={c}b {c}b",
        "ls -q --filter name=^{c}b$",
        before="{cli} network create --subnet {net}.20.0/24 -o com.docker.network.bridge.name={c}b {c}a",
    ),
    each(
        "arguments that are missing, too many or unknown",
        "code",
        "create",
        "create {c} {c}",
        "create --nosuch {c}",
        "rm",
        "inspect",
        "connect {c}",
        "connect bridge",
        "disconnect bridge",
        "ls more",
        "prune more",
        "nosuch",
    ),
    each("network alone shows its help", "code", "", "--help", "create --help"),
]

SHOWN = [
    each(
        "filters of ls",
        "sorted",
        *(
            f"ls --format '{{{{.Name}}}}' {filters}"
            for filters in (
                "--filter driver=bridge --filter label=case={c}",
                "--filter driver=host",
                "--filter driver=null",
                "--filter driver=nosuch",
                "--filter name=ridg",
                "--filter name={c}",
                "--filter name={c}a --filter name={c}b",
                "--filter label=case={c}",
                "--filter label=case={c} --filter label=more",
                "--filter label=case={c} --filter label=more=1",
                "--filter label=case={c} --filter label=more=2",
                "--filter scope=local --filter type=builtin",
                "--filter scope=swarm",
                "--filter type=custom --filter label=case={c}",
                "--filter name=^{c}a$",
                "--filter id=$({cli} network ls -q --filter name={c}a)",
            )
        ),
        before="""
            {cli} network create --subnet {net}.22.0/24 --label case={c} --label more=1 {c}a
            {cli} network create --subnet {net}.23.0/24 --label case={c} {c}b
        """,
    ),
    each(
        "filters that are none",
        "code",
        "ls --filter nosuch=1",
        "ls --filter type=nosuch",
        "ls --filter dangling=maybe",
        "prune -f --filter nosuch=1",
        "prune -f --filter until=x",
    ),
    each("a filter without a value", "code", "ls --filter name", "ls --filter ''"),
    each(
        "inspect finds names, ids and their beginnings",
        "json",
        "inspect {c}",
        "inspect $({cli} network ls -q --filter name={c})",
        "inspect $({cli} network ls -q --filter name={c} | cut -c1-6)",
        "inspect --verbose {c}",
        before="{cli} network create --subnet {net}.24.0/24 {c}",
    ),
    each(
        "inspect of what is not there",
        "all",
        "inspect {c}nosuch",
        "inspect -f '{{.Name}}' bridge {c}nosuch host",
        "inspect -f '{{.Nosuch}}' bridge",
        "inspect -f '{{' bridge",
    ),
    each(
        "templates of inspect",
        "out",
        "inspect -f '{{.Name}} {{.Driver}} {{.Scope}} {{.EnableIPv6}} {{.IPAM.Driver}} {{len .Containers}}' {c}",
        "inspect -f '{{range .IPAM.Config}}{{.Subnet}} [{{.Gateway}} {{.IPRange}}]{{end}}' {c}",
        "inspect -f '{{json .IPAM}}' {c}",
        "inspect -f '{{range $id, $it := .Containers}}{{$it.Name}} {{$it.IPv4Address}} {{$it.MacAddress}}{{end}}' {c}",
        before="""
            {cli} network create --subnet {net}.25.0/24 {c}
            {cli} run -d --name {c} --network {c} busybox sleep 1000
        """,
    ),
    Case(
        "inspect shows who is in it, while they run",
        """
        setup: {cli} network create --subnet {net}.26.0/24 {c}
        setup: {cli} create --name {c}a --network {c} busybox true
        json: {cli} network inspect {c}
        setup: {cli} run -d --name {c}b --network {c} --ip {net}.26.77 --mac-address 02:42:00:00:12:34 busybox sleep 1000
        json: {cli} network inspect {c}
        setup: {cli} stop -t 0 {c}b
        json: {cli} network inspect {c}
        """,
    ),
    Case(
        "the networks that are there from the beginning",
        """
        out: {cli} network ls --filter type=builtin --format '{{.Name}} {{.Driver}} {{.Scope}}' | sort
        json: {cli} network inspect none host
        code: {cli} network inspect -f '{{.Name}}' default
        """,
        ignore={"[[]].Containers": "whatever runs"},
    ),
]

REMOVED = [
    each(
        "rm: one, several, some that are not there",
        "all",
        "rm {c}a",
        "rm {c}b nosuch{c} {c}d",
        "rm nosuch{c}",
        "ls -q --filter name={c}",
        before="\n".join(
            f"{{cli}} network create --subnet {{net}}.{number}.0/24 {{c}}{name}"
            for number, name in ((27, "a"), (28, "b"), (29, "d"))
        ),
    ),
    each("rm of a predefined network", "all", "rm bridge", "rm host", "rm none"),
    each(
        "rm of a network with a running container in it",
        "all",
        "rm {c}",
        before="""
            {cli} network create --subnet {net}.30.0/24 {c}
            {cli} run -d --name {c} --network {c} busybox sleep 1000
        """,
        but={r" id [0-9a-f]{64}": "", r" \(name:.*\)": ""},  # newer ones say whose
    ),
    Case(
        "rm of a network that stopped containers have",
        """
        setup: {cli} network create --subnet {net}.31.0/24 {c}
        setup: {cli} create --name {c} --network {c} busybox true
        all: {cli} network rm {c}
        all: {cli} start {c}
        setup: {cli} network create --subnet {net}.31.0/24 {c}
        code: {cli} start {c}
        """,
        but={"failed to set up container networking: ": ""},  # Docker since 28
    ),
    Case(
        "prune takes what nobody uses",
        """
        setup: {cli} network create --label case={c} --subnet {net}.32.0/24 {c}a
        setup: {cli} network create --label case={c} --label keep --subnet {net}.33.0/24 {c}b
        setup: {cli} network create --label case={c} --subnet {net}.34.0/24 {c}d
        setup: {cli} run -d --network {c}d busybox sleep 1000
        out: {cli} network prune -f --filter label=case={c} --filter until=10h
        out: {cli} network prune -f --filter label=case={c} --filter label!=keep
        out: {cli} network ls --filter label=case={c} --format '{{.Name}}' | sort
        out: {cli} network prune -f --filter label=case={c}
        out: {cli} network prune -f --filter label=case={c}
        out: {cli} network prune --filter label=case={c} < /dev/null
        """,
    ),
]

CONNECTED = [
    Case(
        "connect and disconnect of a container that does not run",
        """
        setup: {cli} network create --subnet {net}.35.0/24 {c}
        setup: {cli} create --name {c} busybox sleep 1000
        all: {cli} network connect --ip {net}.35.9 --alias web {c} {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        all: {cli} network disconnect bridge {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        setup: {cli} start {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        """,
        ignore={"*.Aliases": "the row 'Fields of newer APIs'"},
    ),
    Case(
        "connect and disconnect of a running container",
        """
        setup: {cli} network create --subnet {net}.36.0/24 {c}
        setup: {cli} run -d --name {c} busybox sleep 1000
        all: {cli} network connect --ip {net}.36.9 --alias web --alias db {c} {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        json: {cli} network inspect {c}
        out: {cli} exec {c} ls /sys/class/net
        all: {cli} network disconnect {c} {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        out: {cli} exec {c} ls /sys/class/net
        all: {cli} network disconnect bridge {c}
        json: {cli} inspect -f '{{json .NetworkSettings.Networks}}' {c}
        out: {cli} exec {c} ls /sys/class/net
        all: {cli} network connect {c} {c}
        out: {cli} exec {c} ls /sys/class/net | wc -l
        """,
        ignore={"*.Aliases": "the row 'Fields of newer APIs'", "Aliases": "the same"},
    ),
    each(
        "connect: what is refused",
        "all",
        "connect {c} nosuch{c}",
        "connect nosuch{c} nosuch{c}",
        "connect nosuch{c} {c}",
        "connect none {c}",
        "connect {c} {c}",
        "connect --alias a bridge {c}b",
        before="""
            {cli} network create --subnet {net}.37.0/24 {c}
            {cli} run -d --name {c} --network {c} busybox sleep 1000
            {cli} run -d --name {c}b --network none busybox sleep 1000
        """,
        but={r"invalid endpoint settings:\n": ""},  # of newer ones
    ),
    each(
        "connect to an address that can't be",
        "code",
        "connect --ip x {c} {c}",
        "connect --ip {net}.38.5 {c} {c}",
        "connect --ip {net}.46.1 {c} {c}",
        before="""
            {cli} network create --subnet {net}.46.0/24 {c}
            {cli} run -d --name {c} busybox sleep 1000
        """,
    ),
    each(
        "connect to the host's network",
        "code",
        "connect host {c}",
        before="{cli} create --name {c} busybox true",
    ),
    each(
        "disconnect: what is refused",
        "all",
        "disconnect bridge {c}",
        "disconnect nosuch{c} {c}",
        "disconnect {c} nosuch{c}",
        "disconnect host {c}h",
        "disconnect -f {c} nosuch{c}",
        before="""
            {cli} network create --subnet {net}.38.0/24 {c}
            {cli} run -d --name {c} --network {c} busybox sleep 1000
            {cli} run -d --name {c}h --network host busybox sleep 1000
        """,
        but={
            "container cannot be disconnected from host network or connected to host network": (
                "cannot disconnect container from host network - container was created in host network mode"
            )  # Docker since 28
        },
    ),
    each(
        "connect to a container that has the host's or another's network",
        "all",
        "connect {c} {c}h",
        "connect {c} {c}j",
        before="""
            {cli} network create --subnet {net}.39.0/24 {c}
            {cli} run -d --name {c} busybox sleep 1000
            {cli} run -d --name {c}h --network host busybox sleep 1000
            {cli} run -d --name {c}j --network container:{c} busybox sleep 1000
        """,
    ),
    Case(
        "an address that another container has",
        """
        setup: {cli} network create --subnet {net}.40.0/24 {c}
        setup: {cli} run -d --name {c}a --network {c} --ip {net}.40.9 busybox sleep 1000
        code: {cli} run --rm --name {c}b --network {c} --ip {net}.40.9 busybox true
        code: {cli} run --rm --name {c}b --network {c} --ip {net}.40.1 busybox true
        code: {cli} run --rm --name {c}b --network {c} --ip {net}.41.9 busybox true
        code: {cli} run --rm --name {c}b --network {c} --ip x busybox true
        code: {cli} run --rm --name {c}b --network {c} --ip {net}.40.10 busybox true
        """,
    ),
    Case(
        "addresses where they can't be chosen",
        """
        setup: {cli} network create {c}
        code: {cli} run --rm --network {c} --ip 10.1.1.1 busybox true
        code: {cli} run --rm --network host --ip 10.1.1.1 busybox true
        code: {cli} run --rm --network none --ip 10.1.1.1 busybox true
        code: {cli} run --rm --network host --network-alias a busybox true
        """,
    ),
    Case(
        "a network with all its addresses in use",
        """
        setup: {cli} network create --subnet {net}.42.0/30 {c}
        setup: {cli} run -d --name {c}a --network {c} busybox sleep 1000
        all: {cli} run --rm --name {c}b --network {c} busybox true
        setup: {cli} rm -f {c}a
        all: {cli} run --rm --name {c}b --network {c} busybox true
        """,
        but={
            r"failed to set up container networking: ": "",
            r"(address pools).*": r"\1",
            r"\nAll addresses of .*": "",
        },
    ),
    Case(
        "auxiliary addresses and ranges decide what containers get",
        """
        setup: {cli} network create --subnet {net}.43.0/24 --ip-range {net}.43.64/29 --aux-address a={net}.43.65 --aux-address b={net}.43.66 {c}
        out: for i in 1 2 3; do {cli} run -d --network {c} busybox sleep 1000 >&2; done; \
            {cli} network inspect -f '{{range .Containers}}{{println .IPv4Address}}{{end}}' {c} | sort
        code: {cli} run --rm --network {c} --ip {net}.43.65 busybox true
        code: {cli} run --rm --network {c} --ip {net}.43.200 busybox true
        """,
    ),
    Case(
        "a network that is not there",
        """
        code: {cli} run --rm --network nosuch{c} busybox true
        code: {cli} run --rm --network '' busybox true
        code: {cli} run --rm --network container: busybox true
        code: {cli} run --rm --network container:nosuch{c} busybox true
        """,
    ),
    Case(
        "flags that the host's and another's network exclude",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        all: {cli} run --rm --network container:{c} --add-host a:1.1.1.1 busybox true
        all: {cli} run --rm --network container:{c} --dns 1.1.1.1 busybox true
        all: {cli} run --rm --network container:{c} --mac-address 02:42:00:00:00:01 busybox true
        all: {cli} run --rm --network container:{c} --expose 80 busybox true
        code: {cli} run --rm --network container:{c} --link {c}:x busybox true
        code: {cli} run --rm --network host --link {c}:x busybox true
        """,
    ),
    Case(
        "ports that are refused",
        "\n".join(
            f"all: {{cli}} create -p {spec} busybox true"
            for spec in ("x", "80:x", "99999:80", "80-81:80-82", "1.2.3:80:80", "80/xyz", "''")
        ),
    ),
    Case(
        "a port that is in use",
        """
        setup: {cli} run -d --name {c}a -p 127.0.0.1::80 busybox sleep 1000
        code: {cli} run --rm --name {c}b -p $({cli} port {c}a 80):80 busybox true
        out: {cli} ps -a --filter name={c}b --format '{{.Names}}'
        out: {cli} create --name {c}d -p $({cli} port {c}a 80):80 busybox true > /dev/null
        code: {cli} start {c}d
        out: {cli} inspect -f '{{.State.Status}} {{.NetworkSettings.Ports}}' {c}d
        """,
    ),
]

CASES = [*CREATED, *REFUSED, *SHOWN, *REMOVED, *CONNECTED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
