"""`inspect` of containers, images, networks and volumes, field by field: keys, types, null or [] or {}, values."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sampan.testing.differential.case import Case

pytestmark = pytest.mark.root


def created(name: str, *variants: str, **more: object) -> Case:
    """A container created with each variant of flags (and command, after the image), and inspected."""
    steps = []
    for number, variant in enumerate(variants):
        flags, _, rest = variant.partition(" | ")
        image, _, command = rest.partition(" ") if rest else ("busybox", "", "true")
        steps += [
            f"setup: {{cli}} create --name {{c}}-{number} {flags} {image} {command}",
            f"json: {{cli}} inspect {{c}}-{number}",
        ]
    return Case(name, "\n".join(steps), **more)  # type: ignore[arg-type]


CREATED = [
    created("a created container, nothing asked for", ""),
    created(
        "a command, an entry point and a user",
        "-u 1:2 -w /w --entrypoint /bin/echo | busybox a 'b c'",
        "--entrypoint= | busybox x",
    ),
    created("environment and labels", "-e A=1 -l a=b -l c --label d="),
    created("standard streams", "-i", "-t", "-it", "-a stdout", "-i -a stdin -a stdout"),
    created(
        "names of host and domain",
        "--hostname h --domainname example.org",
        "--network host",
        "--network none",
        "--uts host",
    ),
    created(
        "limits of memory",
        "-m 64m --memory-reservation 32m --memory-swap 128m --memory-swappiness 10",
        "-m 64m",
        "-m 64m --memory-swap -1",
        "--oom-score-adj 10 --oom-kill-disable -m 64m",
    ),
    created(
        "limits of the processor",
        "--cpus 1.5 -c 512 --cpuset-cpus 0-1 --cpuset-mems 0",
        "--cpu-period 50000 --cpu-quota 25000",
    ),
    created(
        "limits of processes",
        "--pids-limit 10 --ulimit nofile=10:20 --shm-size 1m",
        "--pids-limit -1",
        "--pids-limit 0",
    ),
    created("limits of input and output", "--device-read-bps /dev/vda:1mb --device-write-iops /dev/vda:10"),
    created(
        "capabilities and privileges",
        "--cap-add CAP_NET_ADMIN --cap-add CAP_SYS_TIME --cap-drop CAP_CHOWN",
        "--cap-drop ALL",
        "--privileged",
        "--cap-add ALL",
    ),
    created(
        "security options",
        "--security-opt no-new-privileges --security-opt label=disable",
        "--security-opt seccomp=unconfined",
        "--security-opt systempaths=unconfined",
    ),
    created(
        "namespaces",
        "--ipc host",
        "--ipc shareable",
        "--ipc private",
        "--ipc none",
        "--pid host",
        "--userns host",
        "--cgroupns private",
        "--cgroupns host",
        "--cgroup-parent /p",
    ),
    created("devices", "--device /dev/zero:/dev/z:r --device /dev/null --device-cgroup-rule 'c 1:3 rwm'"),
    created("read-only, init, sysctls", "--read-only --init --sysctl net.core.somaxconn=10", "--init=false"),
    created(
        "restart policies",
        "--restart no",
        "--restart always",
        "--restart on-failure",
        "--restart on-failure:3",
        "--restart unless-stopped",
        "--rm",
    ),
    created("signals and times of stopping", "--stop-signal INT --stop-timeout 3", "--stop-timeout 0"),
    created(
        "a health check",
        "--health-cmd 'exit 0' --health-interval 10s --health-timeout 3s --health-retries 2 --health-start-period 1s",
        "--no-healthcheck",
        "--health-interval 5s | rich id",
    ),
    created(
        "logging",
        "--log-driver json-file --log-opt max-size=1m --log-opt max-file=2",
        "--log-driver none",
        "--log-driver local",
    ),
    created(
        "name service and hosts", "--dns 1.1.1.1 --dns-search a.b --dns-opt ndots:2 --add-host h:1.2.3.4"
    ),
    created("ports", "-p 80", "-p 127.0.0.1:18081:81/udp --expose 90-91", "-P --expose 80"),
    created(
        "volumes, tmpfs and mounts",
        "-v {c}n:/n",
        "-v {c}r:/r:ro",
        "--mount type=volume,src={c}m,dst=/m,volume-nocopy,readonly",
        "--mount type=tmpfs,dst=/t,tmpfs-size=1m",
        "--tmpfs /t --tmpfs /u:size=1m",
    ),
    created("an anonymous volume", "-v /a"),
    Case(
        "bind mounts",
        """
        setup: mkdir d
        setup: {cli} create --name {c}a -v $PWD/d:/d busybox true
        json: {cli} inspect {c}a
        setup: {cli} create --name {c}e -v $PWD/d:/e:ro,z busybox true
        json: {cli} inspect {c}e
        setup: {cli} create --name {c}b --mount type=bind,src=$PWD/d,dst=/d,readonly,bind-propagation=rprivate busybox true
        json: {cli} inspect {c}b
        """,
    ),
    created(
        "an image's configuration inherited",
        " | rich",
        "-u 0 -w / -e GREETING=x --stop-signal TERM -l org.example.kind=y | rich pwd",
        "--entrypoint /bin/cat | rich",
    ),
    created(
        "additional groups and a MAC address",
        "--group-add 5 --group-add daemon",
        "--mac-address 92:d0:c6:0a:29:33",
        ignore={"*.bridge.MacAddress": "newer ones show it before the start too"},
    ),
    Case(
        "links and volumes of others",
        """
        setup: {cli} run -d --name {c}a -v {c}v:/v busybox sleep 1000
        setup: {cli} create --name {c}b --link {c}a:db --volumes-from {c}a:ro busybox true
        json: {cli} inspect {c}b
        setup: {cli} start {c}b
        json: {cli} inspect -f '{{json .HostConfig.Links}}' {c}b
        """,
    ),
]

STATES = [
    Case(
        "a running container on the bridge",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        json: {cli} inspect {c}
        setup: {cli} pause {c}
        json: {cli} inspect -f '{{json .State}}' {c}
        setup: {cli} unpause {c}
        setup: {cli} stop -t 0 {c}
        json: {cli} inspect {c}
        """,
    ),
    Case(
        "containers without and with the host's network",
        """
        setup: {cli} run -d --name {c}a --network none busybox sleep 1000
        json: {cli} inspect {c}a
        setup: {cli} run -d --name {c}b --network host busybox sleep 1000
        json: {cli} inspect {c}b
        setup: {cli} run -d --name {c}d --network container:{c}a busybox sleep 1000
        json: {cli} inspect {c}d
        """,
    ),
    Case(
        "a container that ended with a code, and one that never started",
        """
        setup: {cli} run --name {c} busybox sh -c 'exit 3' || true
        json: {cli} inspect {c}
        setup: {cli} run --name {c}x busybox nosuch || true
        json: {cli} inspect {c}x
        """,
        ignore={
            "[[]].State.Error": "each runtime's own words",
            "[[]].NetworkSettings.SandboxID": "made before the start failed",
            "[[]].NetworkSettings.Networks.bridge.NetworkID": "made before the start failed",
        },
    ),
    Case(
        "published ports of a running container",
        """
        setup: {cli} run -d --name {c} -p 127.0.0.1::80 -p 127.0.0.1::53/udp --expose 99 busybox sleep 1000
        json: {cli} inspect -f '{{json .NetworkSettings}}' {c}
        json: {cli} inspect -f '{{json .Config.ExposedPorts}} ' {c}
        shape: {cli} port {c} | sort
        shape: {cli} ps --filter name={c} --format '{{.Ports}}'
        """,
        ignore={"*HostPort": "any free port", "PublishedBy*": "sampan says how as well"},
    ),
    Case(
        "a running container on a network of one's own",
        """
        setup: {cli} network create --subnet {net}.1.0/24 {c}net
        setup: {cli} run -d --name {c} --network {c}net --network-alias web --ip {net}.1.9 busybox sleep 1000
        json: {cli} inspect {c}
        setup: {cli} network connect --alias more bridge {c} || {cli} network connect bridge {c}
        json: {cli} inspect -f '{{json .NetworkSettings}}' {c}
        json: {cli} network inspect {c}net
        """,
    ),
    Case(
        "execs are listed while they run",
        """
        setup: {cli} run -d --name {c} busybox sleep 1000
        json: {cli} inspect -f '{{json .ExecIDs}}' {c}
        setup: {cli} exec -d {c} sleep 1000
        json: {cli} inspect -f '{{json .ExecIDs}}' {c}
        """,
    ),
    Case(
        "sizes",
        """
        setup: {cli} run --name {c} busybox sh -c 'head -c 5000 /dev/zero > /x'
        json: {cli} inspect -s -f '{"rw":{{.SizeRw}}}' {c}
        """,
    ),
    Case(
        "a health check that has run",
        """
        setup: {cli} run -d --name {c} --health-cmd 'echo fine' --health-interval 0.2s busybox sleep 1000
        setup: until [ $({cli} inspect -f '{{.State.Health.Status}}' {c}) = healthy ]; do :; done
        json: {cli} inspect -f '{{json (index .State.Health.Log 0)}}' {c}
        json: {cli} inspect -f '{{json .State.Health.FailingStreak}}' {c}
        setup: {cli} rm -f {c}
        """,
    ),
]

OF_IMAGES = {
    "[[]].Size": "each engine's own way of keeping layers",
    "[[]].VirtualSize": "each engine's own way of keeping layers",
    "[[]].Config.Image": "the classic builder's image before the last step",
    "[[]].Parent": "the classic builder's image before the last step; BuildKit has none",
    "[[]].Comment": "BuildKit's mark",
}

OTHERS = [
    Case("the imported image", "json: {cli} image inspect busybox", ignore=OF_IMAGES),
    Case("the built image", "json: {cli} image inspect rich", ignore=OF_IMAGES),
    Case(
        "networks that are always there",
        """
        json: {cli} network inspect host
        json: {cli} network inspect none
        json: {cli} network inspect bridge
        """,
        ignore={
            "[[]].Containers": "whatever runs",
            "*enable_ip_masquerade": "the oracle runs with --iptables=false",
        },
    ),
    Case(
        "a network with everything set",
        """
        setup: {cli} network create --subnet {net}.2.0/24 --gateway {net}.2.254 --ip-range {net}.2.128/25 --internal --label a=b \
            --attachable -o com.docker.network.bridge.name={c}br --aux-address r={net}.2.7 {c}
        json: {cli} network inspect {c}
        json: {cli} network inspect -v {c}
        """,
    ),
    Case(
        "volumes themselves",
        """
        setup: {cli} volume create {c}a
        json: {cli} volume inspect {c}a
        setup: {cli} volume create --label a=b {c}b
        json: {cli} volume inspect {c}b
        setup: {cli} create -v {c}d:/v busybox true
        json: {cli} volume inspect {c}d
        """,
    ),
    Case(
        "templates over a container",
        """
        setup: {cli} create --name {c} -l a=b -e X=1 -v /v busybox sh -c 'a b'
        out: {cli} inspect -f '{{.Name}} {{.State.Status}} {{.Config.Cmd}} {{json .Config.Labels}} {{.HostConfig.Memory}}' {c}
        out: {cli} inspect -f '{{range .Mounts}}{{.Type}} {{.Destination}} {{.RW}}{{end}} {{index .Config.Labels "a"}}' {c}
        out: {cli} inspect -f '{{.HostConfig.NetworkMode}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.Isolation}}.' {c}
        all: {cli} inspect -f '{{.Nosuch}}' {c}
        out: {cli} inspect --type container -f '{{.Driver}}' {c}
        all: {cli} inspect --type image {c}
        out: {cli} inspect -f '{{.HostConfig.LogConfig.Type}} {{.Platform}} {{len .Args}} {{.Path}}' {c}
        """,
    ),
]

CASES = [*CREATED, *STATES, *OTHERS]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_docker_and_sampan_agree(agree: Callable[[Case], None], case: Case) -> None:
    agree(case)
