"""Checks at creation. The messages are those that dockerd 20.10 gave for the same requests."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine import merge, names, validate
from sampan.engine.config import (
    ContainerConfig,
    DeviceRequest,
    HostConfig,
    LogConfig,
    RestartPolicy,
    Ulimit,
    decode_docker,
)
from sampan.engine.host_facts import HostFacts
from sampan.engine.security import parse_security
from sampan.engine.signals import parse_signal
from sampan.errors import Invalid
from sampan.oci.image import ContainerDefaults, Healthcheck

TWO_CPUS = HostFacts(cpus=2, cpuset="0-1")
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"memory": MIB}, "Minimum memory limit allowed is 6MB"),
        (
            {"memory": 64 * MIB, "memory_swap": 32 * MIB},
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            {"memory_swap": 64 * MIB},
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        ({"nano_cpus": 99 * 10**9}, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        ({"nano_cpus": -1}, "Range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available"),
        ({"cpu_quota": 10}, "CPU cfs quota can not be less than 1ms (i.e. 1000)"),
        ({"cpuset_cpus": "9"}, "Requested CPUs are not available - requested 9, available: 0-1"),
        ({"restart_policy": RestartPolicy("foo")}, "invalid restart policy 'foo'"),
        (
            {"log_config": LogConfig("json-file", {"foo": "bar"})},
            "unknown log opt 'foo' for json-file log driver",
        ),
        (
            {"log_config": LogConfig("foo")},
            'error looking up logging plugin foo: plugin "foo" not found',
        ),
        (
            {"ulimits": (Ulimit("nofile", hard=3, soft=5),)},
            "ulimit soft limit must be less than or equal to hard limit: 5 > 3",
        ),
    ],
)
def test_bad_host_configurations_are_refused_in_dockers_words(host: dict[str, Any], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        validate.check_host(HostConfig(**host), TWO_CPUS)
    assert caught.value.message == message


def test_swap_is_twice_the_memory_unless_given() -> None:
    host, _ = validate.check_host(HostConfig(memory=64 * MIB), TWO_CPUS)
    assert host.memory_swap == 128 * MIB
    host, _ = validate.check_host(HostConfig(memory=64 * MIB, memory_swap=-1), TWO_CPUS)
    assert host.memory_swap == -1


def test_defaults_are_filled_in_as_inspect_shows_them() -> None:
    host, warnings = validate.check_host(HostConfig(), TWO_CPUS)
    assert (host.shm_size, host.ipc_mode, host.network_mode) == (67108864, "private", "default")
    assert host.restart_policy.name == "no"
    assert warnings == []


def test_what_has_no_effect_is_warned_of() -> None:
    _, warnings = validate.check_host(HostConfig(network_mode="host", publish_all_ports=True), TWO_CPUS)
    assert warnings == ["Published ports are discarded when using host network mode"]
    _, warnings = validate.check_host(HostConfig(oom_kill_disable=True), TWO_CPUS)
    assert "OOM killer is disabled for the container, but no memory limit is set" in warnings[0]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"working_dir": "relative"},
            "the working directory 'relative' is invalid, it needs to be an absolute path",
        ),
        ({"stop_signal": "FOO"}, "Invalid signal: FOO"),
        ({"hostname": "two\nlines"}, "invalid hostname format"),
        ({"env": ("=x",)}, "invalid environment variable: =x"),
        ({"healthcheck": Healthcheck(("WHAT",))}, "Unknown Type 'WHAT' in HEALTHCHECK"),
        (
            {"healthcheck": Healthcheck(("CMD", "x"), interval=5)},
            "Interval in Healthcheck cannot be less than 1ms",
        ),
    ],
)
def test_bad_configurations_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        validate.check_config(ContainerConfig(**config))
    assert words in caught.value.message


def test_sysctls_of_the_host_can_not_be_set() -> None:
    with pytest.raises(Invalid, match=r'sysctl "vm\.swappiness" is not in a separate kernel namespace'):
        validate.check_host(HostConfig(sysctls={"vm.swappiness": "1"}), TWO_CPUS)
    with pytest.raises(Invalid, match="not allowed"):
        validate.check_host(HostConfig(sysctls={"net.core.somaxconn": "1"}, network_mode="host"), TWO_CPUS)
    with pytest.raises(Invalid, match='conflicts with the OCI "hostname" field'):
        validate.check_host(HostConfig(sysctls={"kernel.hostname": "x"}), TWO_CPUS)
    with pytest.raises(Invalid, match="not in a separate kernel namespace"):
        validate.check_host(HostConfig(sysctls={"kernel.domainname": "x"}, uts_mode="host"), TWO_CPUS)
    validate.check_host(HostConfig(sysctls={"net.core.somaxconn": "1", "kernel.shmmax": "1"}), TWO_CPUS)


@pytest.mark.parametrize(
    ("config", "host", "words"),
    [
        (
            ContainerConfig(hostname="h"),
            HostConfig(network_mode="container:x"),
            "hostname and the network mode",
        ),
        (ContainerConfig(hostname="h"), HostConfig(uts_mode="host"), "hostname and the UTS mode"),
        (
            ContainerConfig(exposed_ports={"80/tcp": {}}),
            HostConfig(network_mode="container:x"),
            "port exposing and the container type network mode",
        ),
        (
            ContainerConfig(),
            HostConfig(network_mode="container:x", dns=("1.1.1.1",)),
            "dns and the network mode",
        ),
    ],
)
def test_a_joined_network_has_no_settings_of_ones_own(
    config: ContainerConfig, host: HostConfig, words: str
) -> None:
    with pytest.raises(Invalid, match=f"conflicting options: {words}"):
        validate.check_joined(config, host)


@pytest.mark.parametrize(
    ("text", "number"),
    [("KILL", 9), ("SIGTERM", 15), ("hup", 1), ("9", 9), ("RTMIN+3", 37), ("SIGRTMAX-1", 63)],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "FOO", "0", "65", "SIG_DFL", "RTMIN+99"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="Invalid signal"):
        parse_signal(text)


def test_security_options_are_read() -> None:
    found = parse_security(("no-new-privileges", "seccomp=unconfined", "systempaths=unconfined"))
    assert (found.no_new_privileges, found.seccomp, found.paths_unconfined) == (True, "unconfined", True)
    assert parse_security(("no-new-privileges:false",)).no_new_privileges is False
    with pytest.raises(Invalid) as caught:
        parse_security(("foo=bar",))
    assert caught.value.message == 'invalid --security-opt 2: "foo=bar"'
    with pytest.raises(Invalid, match="Decoding seccomp profile failed"):
        parse_security(("seccomp={",))


def test_an_entry_point_of_ones_own_drops_the_images_command() -> None:
    image = ContainerDefaults(entrypoint=("/init",), cmd=("serve",), env=("A=1", "B=2"), user="app")
    assert merge.merge(ContainerConfig(), image).argv == ("/init", "serve")
    assert merge.merge(ContainerConfig(cmd=("other",)), image).argv == ("/init", "other")
    assert merge.merge(ContainerConfig(entrypoint=("/mine",)), image).argv == ("/mine",)
    assert merge.merge(ContainerConfig(entrypoint=("",), cmd=("sh",)), image).argv == ("sh",)


def test_a_container_without_a_command_is_refused() -> None:
    with pytest.raises(Invalid, match="no command specified"):
        merge.merge(ContainerConfig(), ContainerDefaults())


def test_environment_labels_and_ports_are_united_and_the_containers_win() -> None:
    image = ContainerDefaults(
        cmd=("x",), env=("A=1", "B=2"), labels={"a": "1", "b": "2"}, exposed_ports={"80/tcp": {}}
    )
    merged = merge.merge(
        ContainerConfig(env=("B=3",), labels={"b": "3"}, exposed_ports={"53/udp": {}}), image
    )
    assert merged.env == ("B=3", "A=1")
    assert merged.labels == {"a": "1", "b": "3"}
    assert merged.exposed_ports == {"80/tcp": {}, "53/udp": {}}


def test_null_members_count_as_not_given() -> None:
    body = b'{"Cmd": null, "Env": ["A=b"], "Labels": null, "Unknown": 1, "StopTimeout": null}'
    assert decode_docker(body, ContainerConfig) == ContainerConfig(env=("A=b",))


def test_a_member_of_the_wrong_type_is_named() -> None:
    with pytest.raises(Invalid) as caught:
        decode_docker(b'{"Memory": "much"}', HostConfig)
    assert "Memory" in caught.value.message


@pytest.mark.parametrize("body", [b'{"Image": "\xff"}', b'{"\xfe": 1}', b'{"Image": "bb', b"[" * 100_000])
def test_a_body_that_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Invalid, match="invalid JSON"):
        decode_docker(body, ContainerConfig)


@pytest.mark.parametrize("number", [1 << 63, 1 << 64, 10**40, -(1 << 63) - 1])
def test_a_number_beyond_64_bits_is_refused(number: int) -> None:
    with pytest.raises(Invalid, match="Memory"):
        decode_docker(b'{"Memory": %d}' % number, HostConfig)


@pytest.mark.parametrize("name", ["a", "*", "-x", "a b", "", "a/b", "ä1"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        names.check_name(name)
    assert (
        caught.value.message == f"Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )


def test_made_up_names_are_valid_and_free() -> None:
    class Everything:
        def __contains__(self, name: object) -> bool:
            return True

    assert names.check_name(names.generate(()))
    assert names.generate(Everything()).startswith("container_")


def test_what_is_not_offered_is_said_so() -> None:
    with pytest.raises(Invalid, match=r'could not select device driver "" with capabilities: \[\[gpu\]\]'):
        validate.check_host(HostConfig(device_requests=(DeviceRequest(capabilities=(("gpu",),)),)), TWO_CPUS)
    with pytest.raises(Invalid, match="invalid PID mode: private"):
        validate.check_host(HostConfig(pid_mode="private"), TWO_CPUS)


@pytest.mark.parametrize(
    "field",
    [
        {"extra_hosts": ("a:192.0.2.1\n192.0.2.9 bank",)},
        {"extra_hosts": ("a\n192.0.2.9 bank:192.0.2.1",)},
        {"extra_hosts": ("a\x0bb:192.0.2.1",)},
        {"extra_hosts": ("a#:192.0.2.1",)},
        {"extra_hosts": ("a:nowhere",)},
        {"dns": ("192.0.2.1\nnameserver 192.0.2.9",)},
        {"dns": ("fe80::1%e\nx",)},
        {"dns": ("192.0.2.1#\nnameserver 192.0.2.9",)},
        {"dns": ("192.0.2.1#5353\nnameserver 192.0.2.9",)},
        {"dns": ("192.0.2.1#x",)},
        {"dns": ("nowhere",)},
        {"dns_search": ("a\nnameserver 192.0.2.9",)},
        {"dns_options": ("a\nnameserver 192.0.2.9",)},
    ],
)
def test_an_entry_of_hosts_or_resolv_conf_is_one_line_there(field: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        validate.check_host(HostConfig(**field), TWO_CPUS)


def test_entries_of_hosts_and_resolv_conf_that_make_sense_are_taken() -> None:
    host = HostConfig(
        extra_hosts=("a:192.0.2.1", "b=[2001:db8::1]", "c:2001:db8::1", "d:host-gateway", "e=host-gateway"),
        dns=("192.0.2.1", "fe80::1%eth0", "192.0.2.1#5353"),
        dns_search=("example.com", "."),
        dns_options=("ndots:2", "timeout:1 attempts:2"),
    )
    validate.check_host(host, TWO_CPUS)
