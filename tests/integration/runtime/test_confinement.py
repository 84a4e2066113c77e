"""AppArmor, on hosts that have it (tools/vm-test boots one)."""

from __future__ import annotations

from typing import Any

import pytest

from sampan.engine import apparmor
from sampan.errors import Unsupported

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        not apparmor.is_enabled() or apparmor.find_parser() is None,
        reason="this host does not confine by AppArmor",
    ),
]


def test_the_default_profile_confines_what_capabilities_would_allow(harbour: Any) -> None:
    assert apparmor.prepare() is True
    every = harbour.spec("x").process.capabilities
    names = (*every.bounding, "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH")
    process = {
        "apparmor_profile": apparmor.DEFAULT_PROFILE,
        "capabilities": type(every)(bounding=names, effective=names, permitted=names),
    }
    script = (
        "cat /proc/self/attr/current; mkdir /m; mount -t tmpfs x /m || echo no-mount;"
        "(echo 0 > /proc/sys/kernel/sysrq) || echo no-sysrq; kill -0 $$ && echo signal;"
        "echo text > /file && cat /file; echo 5 > /proc/self/oom_score_adj && echo own"
    )
    spec = harbour.spec("sh", "-c", script, process=process, linux={"masked_paths": (), "readonly_paths": ()})
    words = harbour.run(spec).output.split()
    assert words[:2] == ["docker-default", "(enforce)"]
    wanted = ["no-mount", "no-sysrq", "signal", "text", "own"]
    assert [word for word in words if word in wanted] == wanted


def test_a_profile_that_is_not_loaded_is_refused(harbour: Any) -> None:
    spec = harbour.spec("true", process={"apparmor_profile": "no-such-profile"})
    with pytest.raises(Unsupported, match="unable to apply apparmor profile 'no-such-profile'"):
        harbour.create(spec)
