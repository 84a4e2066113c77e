"""Who must agree before a step may do more than an ordinary one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sampan.build.consent import (
    NETWORK_HOST,
    SECURITY_INSECURE,
    check_granted,
    parse_entitlements,
    require,
    wanted_by,
)
from sampan.build.dockerfile.parse import parse
from sampan.build.dockerfile.plan import plan
from sampan.daemon.options import parse_options
from sampan.errors import Denied, Invalid, Unsupported


def test_only_stages_that_are_built_ask_for_consent() -> None:
    text = (
        "FROM a AS unused\nRUN --security=insecure x\nFROM b AS lower\nRUN --network=host y\n"
        "RUN --network=none z\nFROM lower\nRUN --security=insecure --network=host w\nRUN --security=sandbox v\n"
    )
    planned = plan(
        parse(text.encode(), "Dockerfile"),
        build_args={},
        target="",
        build_platform="linux/amd64",
        target_platform="linux/amd64",
    )
    assert [(instruction.place().line, wanted) for instruction, wanted in wanted_by(planned)] == [
        (4, {NETWORK_HOST}),
        (7, {NETWORK_HOST, SECURITY_INSECURE}),
    ]


def test_the_person_who_builds_and_the_engines_owner_must_agree() -> None:
    granted = parse_entitlements(["network.host", "security.insecure"])
    require(granted, granted)
    with pytest.raises(Denied, match=r"^security\.insecure is not allowed$"):
        require(granted, frozenset((NETWORK_HOST,)))
    with pytest.raises(
        Denied, match=r"granting entitlement security\.insecure is not allowed by build daemon"
    ):
        check_granted(granted, frozenset((NETWORK_HOST,)))


def test_unknown_entitlements_are_refused() -> None:
    with pytest.raises(Invalid, match="unknown entitlement everything"):
        parse_entitlements(["everything"])
    with pytest.raises(Unsupported, match="device"):
        parse_entitlements(["device=vendor.com/x"])


@pytest.mark.parametrize(
    ("stored", "flags", "allowed"),
    [
        ({}, (), {NETWORK_HOST}),
        ({"security-insecure": True}, (), {NETWORK_HOST, SECURITY_INSECURE}),
        ({"network-host": False}, (), set()),
        ({"network-host": False}, ("--builder-entitlement", "security.insecure"), {SECURITY_INSECURE}),
        ({"security-insecure": True}, ("--builder-entitlement", "none"), set()),
    ],
)
def test_the_daemon_says_what_may_be_granted(
    tmp_path: Path, stored: dict[str, bool], flags: tuple[str, ...], allowed: set[str]
) -> None:
    file = tmp_path / "daemon.json"
    file.write_text(json.dumps({"builder": {"entitlements": stored}}))
    assert parse_options(["--config-file", str(file), *flags]).settings.builder_entitlements == allowed


def test_a_mistake_in_the_daemons_entitlements_is_told(tmp_path: Path) -> None:
    file = tmp_path / "daemon.json"
    for stored, words in (({"x": True}, "unknown key 'x'"), ({"network-host": 1}, "expected true or false")):
        file.write_text(json.dumps({"builder": {"entitlements": stored}}))
        with pytest.raises(Invalid, match=words):
            parse_options(["--config-file", str(file)])
