"""Which URLs a registry is asked at."""

from __future__ import annotations

import pytest

from sampan.registry.config import RegistryConfig, is_insecure, mirror_endpoints, origin_endpoints


def urls(domain: str, config: RegistryConfig, *, own_ca: bool = False) -> list[tuple[str, bool]]:
    return [(one.url, one.verify) for one in origin_endpoints(domain, config, own_ca=own_ca)]


def test_docker_hub_is_asked_at_its_registry_host() -> None:
    assert urls("docker.io", RegistryConfig()) == [("https://registry-1.docker.io", True)]


def test_another_host_is_asked_over_verified_https_only() -> None:
    assert urls("quay.io", RegistryConfig()) == [("https://quay.io", True)]


@pytest.mark.parametrize("host", ["127.0.0.1:5000", "127.9.9.9", "localhost:5000", "[::1]:5000"])
def test_a_loopback_registry_is_insecure_by_default(host: str) -> None:
    assert urls(host, RegistryConfig()) == [(f"https://{host}", False), (f"http://{host}", False)]


def test_a_ca_for_a_loopback_registry_makes_it_verified() -> None:
    assert urls("127.0.0.1:5000", RegistryConfig(), own_ca=True) == [("https://127.0.0.1:5000", True)]
    listed = RegistryConfig(insecure_registries=("127.0.0.1:5000",))
    assert len(urls("127.0.0.1:5000", listed, own_ca=True)) == 2


@pytest.mark.parametrize(
    ("entry", "host", "insecure"),
    [
        ("reg.lan:5000", "reg.lan:5000", True),
        ("reg.lan:5000", "reg.lan:5001", False),
        ("reg.lan", "reg.lan:5001", True),
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.0.0.0/8", "11.1.2.3:5000", False),
        ("10.0.0.0/8", "reg.lan", False),
    ],
)
def test_insecure_registries_are_named_by_host_or_network(entry: str, host: str, insecure: bool) -> None:
    assert is_insecure(host, RegistryConfig(insecure_registries=(entry,))) is insecure


def test_any_registry_can_have_mirrors() -> None:
    config = RegistryConfig(mirrors={"quay.io": ("https://m1.lan/proxy", "http://127.0.0.1:5000")})
    found = [(one.url, one.verify, one.mirror) for one in mirror_endpoints("quay.io", config)]
    assert found == [("https://m1.lan/proxy", True, True), ("http://127.0.0.1:5000", False, True)]
    assert mirror_endpoints("docker.io", config) == ()
