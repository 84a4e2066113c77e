"""What containers are called, and whom they ask."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine.config import ContainerConfig, EndpointSettings, HostConfig
from sampan.engine.containers import names
from sampan.engine.containers.names import has_ndots, links, member
from sampan.engine.model import ContainerRecord, Endpoint
from sampan.network.model import EndpointSpec
from sampan.network.resolvconf import ResolvConf


def record(hostname: str = "", host: HostConfig | None = None, **endpoints: Endpoint) -> ContainerRecord:
    return ContainerRecord(
        "0123456789ab" + "f" * 52,
        "Web",
        "2026-01-01T00:00:00Z",
        "",
        "",
        (),
        ContainerConfig(hostname=hostname),
        host or HostConfig(),
        endpoints=endpoints,
    )


def endpoint(*aliases: str, **more: Any) -> Endpoint:
    spec = EndpointSpec("e", "n", "10.0.0.2/24", address6="fd00::2/64")
    return Endpoint("n", EndpointSettings(aliases=aliases, **more), spec)


def test_a_container_has_its_name_aliases_short_id_and_hostname_also_with_the_networks_name() -> None:
    place = endpoint("frontend", "Web")
    found = member(record("box", front=place), "front", place)
    plain = ("web", "frontend", "0123456789ab", "box")
    assert set(found.names) == {*plain, *(f"{name}.front" for name in plain)}
    assert found.addresses == ("10.0.0.2", "fd00::2")
    assert found.pointer == "Web.front"


def test_links_of_an_endpoint_and_of_the_host_configuration_are_names() -> None:
    linked = record(host=HostConfig(links=("cache",)), front=endpoint(links=("db:Base", "other:thing")))
    assert dict(links(linked)) == {"base": "db", "thing": "other", "cache": "cache"}


def test_ndots_counts_wherever_it_stands() -> None:
    assert has_ndots(("timeout:1", "ndots:2"))
    assert not has_ndots(("timeout:1",))


@pytest.mark.parametrize(
    ("host", "dns", "expected"),
    [
        (("127.0.0.1", "::1"), (), True),
        (("192.0.2.1", "127.0.0.1"), (), False),
        (("127.0.0.1",), ("192.0.2.1",), False),  # the engine's own are taken instead
        ((), (), False),  # there is nobody whom the name server could ask either
        (("fd00::53",), (), True),  # not from a container with IPv4 alone
    ],
)
def test_the_hosts_resolvers_are_out_of_reach_when_all_are_on_its_loopback(
    monkeypatch: pytest.MonkeyPatch, host: tuple[str, ...], dns: tuple[str, ...], expected: bool
) -> None:
    monkeypatch.setattr(names.host_resolvers, "read", lambda: (ResolvConf(host), None))
    assert names.out_of_reach(dns) is expected
    assert not names.out_of_reach(dns, ipv6=True) or "fd00::53" not in host
