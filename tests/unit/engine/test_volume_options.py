"""Options of local volumes. Expected messages: dockerd 28.5's own answers; flags: mount(2)."""

from __future__ import annotations

import pytest

from sampan.engine.volumes.local_options import (
    LocalMount,
    check_options,
    local_mount,
    quota_of,
    with_address,
    without_passwords,
)
from sampan.errors import Invalid

RDONLY, NOSUID, NOEXEC, BIND, REC, SLAVE = 1, 2, 8, 4096, 16384, 1 << 19


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "bar"}, 'create v: invalid option: "foo"'),
        ({"type": "tmpfs"}, 'create v: missing required option: "device"'),
        ({"device": "tmpfs"}, 'create v: missing required option: "type"'),
        ({"o": "size=1m"}, 'create v: missing required option: "device"'),
        ({"size": "bogus"}, "create v: invalid size: 'bogus'"),
        (
            {"type": "cifs", "device": "//host:80/x"},
            "create v: port not allowed in CIFS device URL, include 'port' in 'o='",
        ),
        ({"type": "none", "device": "/a\0b", "o": "bind"}, 'create v: option "device" contains a zero byte'),
    ],
)
def test_bad_options_are_refused_in_dockers_words(options: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        check_options("v", options)
    assert caught.value.message == words


def test_options_that_mount_2_would_cut_off_are_refused() -> None:
    with pytest.raises(Invalid, match="longer than 4095 characters"):
        check_options("v", {"type": "tmpfs", "device": "tmpfs", "o": "x" * 4096})


def test_a_volume_without_a_device_is_no_mount_and_can_have_a_limit() -> None:
    assert local_mount({}) is None
    assert local_mount({"size": "10m"}) is None
    assert quota_of("v", {"size": "10m"}) == 10 * 1024 * 1024
    assert quota_of("v", {}) == 0


def test_options_become_flags_and_the_rest_the_file_systems_data() -> None:
    wanted = local_mount({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,ro,nosuid,uid=7,noexec,exec"})
    assert wanted == LocalMount("tmpfs", "tmpfs", RDONLY | NOSUID, "size=1m,uid=7")
    bound = local_mount({"type": "none", "device": "/d", "o": "rbind,rslave"})
    assert bound == LocalMount("none", "/d", BIND | REC, "", SLAVE | REC)


def test_the_servers_name_becomes_an_address() -> None:
    names = {"server": "192.0.2.7", "six": "2001:db8::7"}

    def nfs(device: str, data: str) -> LocalMount:
        return with_address(LocalMount("nfs", device, 0, data), names.__getitem__)

    assert nfs(":/export", "addr=server,rw,nfsvers=4").data == "addr=192.0.2.7,rw,nfsvers=4"
    assert nfs(":/export", "addr=192.0.2.9").data == "addr=192.0.2.9"
    assert nfs("server:/export", "nfsvers=4").data == "nfsvers=4,addr=192.0.2.7"
    assert nfs("[2001:db8::1]:/export", "").data == "addr=2001:db8::1"
    assert nfs(":/export", "").data == ""
    cifs = with_address(LocalMount("cifs", "//server/share%20x", 0, "username=a"), names.__getitem__)
    assert (cifs.device, cifs.data) == ("//192.0.2.7/share x", "username=a")
    cifs = with_address(LocalMount("cifs", "//server/share", 0, "addr=six"), names.__getitem__)
    assert (cifs.device, cifs.data) == ("//server/share", "addr=2001:db8::7")
    tmpfs = LocalMount("tmpfs", "server", 0, "addr=server")
    assert with_address(tmpfs, names.__getitem__) is tmpfs


def test_messages_do_not_show_passwords() -> None:
    data = "username=a,password=secret,vers=3.0"
    assert without_passwords(f"data: {data}: denied", data) == (
        "data: username=a,password=********,vers=3.0: denied"
    )
