from __future__ import annotations

import errno
import os

import pytest

from sampan.errors import Internal, Unsupported
from sampan.linux import namespaces
from sampan.oci.spec import IdMapping
from sampan.runtime.usernamespace import host_id, make_user_namespace

IDS = (IdMapping(0, 100000, 10), IdMapping(10, 5000, 5))


def test_no_more_user_namespaces_is_said_with_the_kernels_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(flags: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(namespaces, "unshare", full)
    with pytest.raises(Unsupported, match="a new user namespace can't be made: no space left on device"):
        make_user_namespace(IDS, IDS)


def test_the_hosts_id_is_that_of_the_range_which_holds_it() -> None:
    assert [host_id(IDS, number) for number in (0, 9, 10, 14)] == [100000, 100009, 5000, 5004]
    with pytest.raises(Internal, match="15 is not mapped"):
        host_id(IDS, 15)
