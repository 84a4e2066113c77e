"""From flags to the body of a create request. The differential tests compare many more with Docker's client."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sampan.cli.create import checks
from sampan.cli.create.body import build_body
from sampan.cli.create.flags import CREATE_FLAGS
from sampan.cli.create.ports import parse_expose, parse_publish
from sampan.cli.flags import parse


def body(*arguments: str) -> dict[str, Any]:
    values, rest, _ = parse(CREATE_FLAGS, arguments, interspersed=False)
    return build_body(values, rest[0], rest[1:])


def test_a_plain_container_asks_for_nothing_special() -> None:
    made = body("busybox", "true")
    assert made["Image"] == "busybox" and made["Cmd"] == ["true"]
    assert (made["AttachStdin"], made["AttachStdout"], made["AttachStderr"]) == (False, True, True)
    assert made["HostConfig"]["NetworkMode"] == "default"
    assert made["HostConfig"]["RestartPolicy"] == {"Name": "no", "MaximumRetryCount": 0}
    assert made["NetworkingConfig"] == {"EndpointsConfig": {}}


def test_an_interactive_container_ends_its_input_with_the_client() -> None:
    made = body("-i", "busybox")
    assert made["OpenStdin"] and made["StdinOnce"] and made["AttachStdin"]


def test_sources_that_begin_with_a_dot_are_relative_to_here(monkeypatch: Any, tmp_path: Any) -> None:
    monkeypatch.chdir(tmp_path)
    made = body("-v", "./a:/b:ro", "-v", "name:/c", "-v", "/d", "busybox")
    assert made["HostConfig"]["Binds"] == [f"{tmp_path}/a:/b:ro", "name:/c"]
    assert made["Volumes"] == {"/d": {}}


def test_network_options_belong_to_the_first_network() -> None:
    made = body(
        "--network", "n1", "--network", "name=n2,alias=b", "--network-alias", "a", "--ip", "10.0.0.9", "x"
    )
    assert made["HostConfig"]["NetworkMode"] == "n1"
    assert made["NetworkingConfig"]["EndpointsConfig"] == {
        "n1": {"Aliases": ["a"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}},
        "n2": {"Aliases": ["b"]},
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rm", "--restart", "always", "x"], "conflicting options: cannot specify both --restart and --rm"),
        (
            ["--network-alias", "a", "x"],
            "network-scoped aliases are only supported for user-defined networks",
        ),
        (
            ["--network", "a", "--network", "host", "x"],
            "conflicting options: cannot attach both user-defined",
        ),
        (["--security-opt", "foo", "x"], 'Invalid --security-opt: "foo"'),
        (["--pid", "foo", "x"], "--pid: invalid PID mode"),
        (["--device", "a:b:c", "x"], "bad mode specified: c"),
        (["--mac-address", "x", "x"], "x is not a valid mac address"),
        (["--mac-address", "02-42:ac:11:00:97", "x"], "02-42:ac:11:00:97 is not a valid mac address"),
        (["--memory-swappiness", "101", "x"], "invalid value: 101. Valid memory swappiness range is 0-100"),
    ],
)
def test_what_contradicts_itself_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        body(*arguments)
    assert message in str(caught.value)


def test_a_mac_address_in_fours_of_digits_is_one_in_pairs() -> None:
    assert body("--mac-address", "0242.ac11.0097", "x")["MacAddress"] == "02:42:ac:11:00:97"


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("driver-opt=x", "invalid key value pair format in driver options"),
        ("driver-opt==x", "invalid key value pair format in driver options"),
        ("gw-priority=x", "invalid gw-priority (x): invalid syntax"),
        (f"gw-priority={1 << 63}", f"invalid gw-priority ({1 << 63}): value out of range"),
    ],
)
def test_bad_fields_of_a_network_are_named_in_dockers_words(field: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        checks.network(f"name=n,{field}")


def test_a_port_range_maps_one_to_one() -> None:
    assert parse_publish(["127.0.0.1:8000-8001:80-81/udp"]) == {
        "80/udp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}],
        "81/udp": [{"HostIp": "127.0.0.1", "HostPort": "8001"}],
    }


def test_one_port_may_take_any_of_a_range() -> None:
    assert parse_publish(["8000-8010:80/"]) == {"80/tcp": [{"HostIp": "", "HostPort": "8000-8010"}]}


def test_the_long_form_of_a_port() -> None:
    assert parse_publish(["published=8080,target=80,protocol=udp"]) == {
        "80/udp": [{"HostIp": "", "HostPort": "8080"}]
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x", "Invalid containerPort: x"),
        ("x:80", "Invalid hostPort: x"),
        ("300.1.1.1:80:80", "Invalid ip address: 300.1.1.1"),
        ("80:", "No port specified: 80:<empty>"),
        ("80/foo", "Invalid proto: foo"),
        ("1-3:4-5", "Invalid ranges specified for container and host Ports: 4-5 and 1-3"),
        ("80:70000", "Invalid containerPort: 70000"),
    ],
)
def test_bad_ports_are_named_in_dockers_words(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_publish([text])
    assert str(caught.value) == message


def test_exposed_ranges_are_spelled_out() -> None:
    assert parse_expose(["80", "90-91/UDP"]) == ["80/tcp", "90/udp", "91/udp"]


@pytest.mark.parametrize("text", ["example.org", "lan", "a-b.c.", " corp.test ", "x1.y2", "."])
def test_a_search_domain_is_a_domain_or_a_dot(text: str) -> None:
    assert checks.dns_search(text) == text.strip()


@pytest.mark.parametrize("text", ["", "a..b", ".a", "-a.b", "a-.b", "1.2", "a b", "ü.de", "a/b", "a" * 256])
def test_what_is_no_domain_is_no_search_domain(text: str) -> None:
    with pytest.raises(ValueError, match="is not a valid domain"):
        checks.dns_search(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name=x,gw-priority=x", r"invalid gw-priority \(x\): invalid syntax"),
        ("name=x,driver-opt=foo", "invalid key value pair format in driver options"),
        ("name=x,driver-opt==a", "invalid key value pair format in driver options"),
    ],
)
def test_settings_of_a_network_that_are_none_are_refused_in_dockers_words(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        checks.network(text)


@pytest.mark.parametrize("mode", ["-1", "0o7", "9", "x"])
def test_a_mode_of_a_tmpfs_is_an_octal_number(mode: str) -> None:
    with pytest.raises(ValueError, match=f"invalid value for tmpfs-mode: {mode}"):
        checks.mount(f"type=tmpfs,dst=/x,tmpfs-mode={mode}")


def test_both_spellings_of_a_flag_give_one_list_in_the_order_they_were_said() -> None:
    sent = body(
        "--dns-opt", "timeout:3", "--dns-option", "rotate", "--dns-opt", "attempts:2",
        "--net", "a", "--network", "b", "--net-alias", "x", "--network-alias", "y", "--net-alias", "z", "busybox",
    )  # fmt: skip
    assert sent["HostConfig"]["DnsOptions"] == ["timeout:3", "rotate", "attempts:2"]
    assert sent["HostConfig"]["NetworkMode"] == "a"
    assert sent["NetworkingConfig"]["EndpointsConfig"]["a"]["Aliases"] == ["x", "y", "z"]
    assert list(sent["NetworkingConfig"]["EndpointsConfig"]) == ["a", "b"]
