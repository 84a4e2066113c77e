"""Bodies as Go's decoder takes them (encoding/json: names match in any case, the exact one is preferred)."""

from __future__ import annotations

import pytest

from sampan.engine.config import CreateBody, HostConfig, decode_docker
from sampan.errors import Invalid


def test_names_may_be_in_any_case_at_every_depth() -> None:
    raw = b"""{"image": "x", "CMD": ["a", "b"], "labels": {"Case": "kept"},
        "hostconfig": {"memory": 5, "UTSMODE": "host", "restartpolicy": {"name": "always"},
            "ulimits": [{"name": "core", "HARD": 1}], "portBindings": {"80/tcp": [{"hostport": "8080"}]},
            "mounts": [{"type": "bind", "bindoptions": {"propagation": "rslave"}}]},
        "networkingConfig": {"endpointsconfig": {"Net": {"ipamconfig": {"ipv4address": "1.2.3.4"}}}}}"""
    body = decode_docker(raw, CreateBody)
    assert (body.image, body.cmd, body.labels) == ("x", ("a", "b"), {"Case": "kept"})
    host = body.host_config
    assert (host.memory, host.uts_mode, host.restart_policy.name) == (5, "host", "always")
    assert host.ulimits is not None and (host.ulimits[0].name, host.ulimits[0].hard) == ("core", 1)
    assert host.port_bindings is not None and (host.port_bindings["80/tcp"] or ())[0].host_port == "8080"
    assert host.mounts is not None and host.mounts[0].bind_options is not None
    assert host.mounts[0].bind_options.propagation == "rslave"
    endpoint = body.networking_config.endpoints_config["Net"]
    assert endpoint.ipam_config is not None and endpoint.ipam_config.ipv4_address == "1.2.3.4"


def test_the_exact_name_wins_null_is_not_given_and_unknown_names_are_ignored() -> None:
    host = decode_docker(b'{"memory": 1, "Memory": 2, "Binds": null, "Foo": {"a": null}}', HostConfig)
    assert (host.memory, host.binds) == (2, None)
    assert decode_docker(b'{"Memory": 2, "memory": 1}', HostConfig).memory == 2


@pytest.mark.parametrize("raw", [b"[]", b'{"hostconfig": []}', b'{"Cmd": {"a": 1}}', b"[" * 5000])
def test_what_does_not_fit_is_refused(raw: bytes) -> None:
    with pytest.raises(Invalid, match="invalid JSON"):
        decode_docker(raw, CreateBody)
