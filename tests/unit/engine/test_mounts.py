"""Mount specifications. Expected values: Docker's documentation of -v and --mount, and dockerd's answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from sampan.engine.config import (
    BindOptions,
    HostConfig,
    ImageOptions,
    MountRequest,
    TmpfsOptions,
    VolumeOptions,
)
from sampan.engine.containers.specs import check_subpath
from sampan.engine.model import MountPoint
from sampan.engine.mounts import (
    collect,
    inherit,
    mount_order,
    parse_bind,
    parse_mount,
    parse_tmpfs,
    parse_volumes_from,
)
from sampan.errors import Invalid, NotFound


def test_a_place_in_a_volume_is_in_the_volume(tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "inner/deep").mkdir(parents=True)
    (volume / "out").symlink_to("/etc")
    (volume / "up").symlink_to("../../../../etc")
    (volume / "inner/here").symlink_to("../inner")
    (volume / "rooted").symlink_to("/inner/deep")
    (volume / "file").touch()

    def check(path: str) -> None:
        check_subpath(MountPoint("volume", "/x", source=f"{volume}/{path}", name="v", subpath=path))

    for good in ("inner", "inner/deep", "file", "inner/here/deep", "rooted"):
        check(good)
    for missing in ("nothing", "inner/nothing", "file/below", "out", "out/passwd", "up", "up/passwd"):
        with pytest.raises(NotFound, match="cannot access path"):
            check(missing)
    assert sorted(entry.name for entry in volume.iterdir()) == ["file", "inner", "out", "rooted", "up"]


def test_a_path_as_source_is_a_bind_that_may_be_created() -> None:
    point = parse_bind("/host/dir:/in/side:ro")
    assert (point.type, point.source, point.destination, point.rw) == ("bind", "/host/dir", "/in/side", False)
    assert point.propagation == "rprivate"
    assert point.create


def test_a_name_as_source_is_a_volume_that_is_filled() -> None:
    point = parse_bind("data:/var/lib/x")
    assert (point.type, point.name, point.mode, point.copy) == ("volume", "data", "z", True)
    assert not parse_bind("data:/x:nocopy").copy


def test_a_destination_alone_is_an_anonymous_volume() -> None:
    point = parse_bind("/data")
    assert (point.type, point.name, point.anonymous) == ("volume", "", True)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("/a:b", "invalid mount path: 'b' mount path must be absolute"),
        ("x:/", "destination can't be '/'"),
        ("/x:/y:foo", "invalid mode: foo"),
        ("/x:/y:ro,rw", "invalid mode: ro,rw"),
        ("vol:/y:rshared", "invalid mode: rshared"),
        ("a/b:/x", '"a/b" includes invalid characters for a local volume name'),
        ("::", "invalid volume specification: '::'"),
    ],
)
def test_a_bad_bind_is_refused_in_dockers_words(spec: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_bind(spec)
    assert words in caught.value.message


def test_destinations_are_normalised_and_can_not_climb() -> None:
    assert parse_bind("/h:/a/../../b//c/").destination == "/b/c"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (MountRequest(type="bind", target="/x"), "field Source must not be empty"),
        (MountRequest(type="tmpfs", source="/a", target="/x"), "field Source must not be specified"),
        (MountRequest(type="volume", source="v", target="x"), "mount path must be absolute"),
        (MountRequest(type="npipe", source="v", target="/x"), "mount type unknown"),
        (
            MountRequest(type="bind", source="/a", target="/x", volume_options=VolumeOptions(no_copy=True)),
            "field VolumeOptions must not be specified",
        ),
        (
            MountRequest(
                type="volume", source="vv", target="/x", volume_options=VolumeOptions(subpath="../up")
            ),
            "subpath must be a relative path",
        ),
        (
            MountRequest(
                type="image", source="i", target="/x", image_options=ImageOptions(subpath="a/../..")
            ),
            'type "image": subpath must be a relative path within the volume',
        ),
        (MountRequest(type="image", target="/x"), "field Source must not be empty"),
        (
            MountRequest(type="bind", source="/a", target="/x", image_options=ImageOptions(subpath="a")),
            "field ImageOptions must not be specified",
        ),
        (
            MountRequest(type="volume", target="/x", read_only=True),
            "must not set ReadOnly mode when using anonymous volumes",
        ),
        (
            MountRequest(type="volume", target="/x", volume_options=VolumeOptions(subpath="a")),
            "must not set Subpath when using anonymous volumes",
        ),
        (MountRequest(type="tmpfs", target="/x", id_map="idmap"), "field IDMap must not be specified"),
    ],
)
def test_a_bad_mount_is_refused(request_: MountRequest, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        parse_mount(request_)
    assert words in caught.value.message


def test_mount_options_are_taken_over() -> None:
    bind = parse_mount(
        MountRequest("bind", "/a", "/x", True, bind_options=BindOptions("rshared", non_recursive=True))
    )
    assert (bind.rw, bind.propagation, bind.recursive, bind.create) == (False, "rshared", False, False)
    tmpfs = parse_mount(MountRequest("tmpfs", "", "/t", tmpfs_options=TmpfsOptions(1048576, 0o1777)))
    assert tmpfs.options == ("size=1048576", "mode=1777")


def test_sub_paths_are_normalised_by_their_text() -> None:
    def subpath(text: str) -> str:
        return parse_mount(
            MountRequest("volume", "vv", "/x", volume_options=VolumeOptions(subpath=text))
        ).subpath

    assert [subpath(text) for text in ("a/../b", "a//b/", ".", "")] == ["b", "a/b", "", ""]


def test_an_image_is_mounted_to_be_read() -> None:
    point = parse_mount(MountRequest("image", "tools:1", "/x", image_options=ImageOptions("bin")))
    assert (point.name, point.rw, point.subpath, point.propagation) == ("tools:1", False, "bin", "rprivate")
    assert inherit([point], read_only=False)[0].name == "tools:1"


def test_mapped_ids_are_an_option_of_binds_and_volumes() -> None:
    assert parse_bind("/h:/x:ro,idmap").id_map == "idmap"
    assert parse_bind("name:/x:idmap=uids=1-2-3").id_map == "uids=1-2-3"
    assert parse_bind("/h:/x:ro").id_map == ""
    assert parse_mount(MountRequest("bind", "/h", "/x", id_map="gids=1-2-3")).id_map == "gids=1-2-3"
    with pytest.raises(Invalid, match="invalid idmap"):
        parse_bind("/h:/x:idmap=1")


def test_tmpfs_options_are_checked() -> None:
    assert parse_tmpfs("/t", "size=1m,noexec").options == ("size=1m", "noexec")
    with pytest.raises(Invalid, match="invalid tmpfs option"):
        parse_tmpfs("/t", "foo")
    with pytest.raises(Invalid, match="mount path must be absolute"):
        parse_tmpfs("relative", "")


def test_two_mounts_at_one_place_are_refused() -> None:
    with pytest.raises(Invalid, match="Duplicate mount point: /y"):
        collect(HostConfig(binds=("/x:/y", "/z:/y/")), ())


def test_image_volumes_give_way_to_what_was_asked_for() -> None:
    points = collect(
        HostConfig(binds=("named:/data",), tmpfs={"/scratch": ""}), ("/data", "/scratch", "/more")
    )
    assert [(point.destination, point.name) for point in points] == [("/data", "named"), ("/more", "")]


def test_relative_volumes_of_an_image_begin_at_the_root() -> None:
    points = collect(HostConfig(), ("data", "../up", "a//b/"))
    assert [point.destination for point in points] == ["/data", "/up", "/a/b"]


@pytest.mark.parametrize("path", ["/", "/..", "."])
def test_a_volume_over_the_root_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="invalid specification: destination can't be '/'"):
        collect(HostConfig(), (path,))


def test_inherited_mounts_are_not_filled_and_can_be_read_only() -> None:
    inherited = inherit(collect(HostConfig(binds=("named:/data", "/h:/h")), ()), read_only=True)
    assert [(point.rw, point.copy) for point in inherited] == [(False, False), (False, False)]
    own = collect(HostConfig(binds=("other:/data",)), (), inherited)
    assert {point.destination: point.name for point in own} == {"/data": "other", "/h": ""}


def test_volumes_from_has_a_mode() -> None:
    assert parse_volumes_from("other") == ("other", False)
    assert parse_volumes_from("other:ro") == ("other", True)
    with pytest.raises(Invalid):
        parse_volumes_from("other:foo")


def test_parents_are_mounted_before_their_children() -> None:
    points = collect(HostConfig(binds=("/1:/a/b/c", "/2:/a", "/3:/a/b")), ())
    assert [point.destination for point in mount_order(points)] == ["/a", "/a/b", "/a/b/c"]


def test_a_target_that_no_kernel_takes_is_refused() -> None:
    """limits.h: a name has at most 255 bytes, a path 4095."""
    longest = "/" + "/".join(["é" * 127 + "a"] * 15) + "/" + "b" * 254
    assert len(longest.encode()) == 4095
    assert parse_bind(f"vol:{longest}").destination == longest
    for long in (longest + "b", "/" + "é" * 128):
        with pytest.raises(Invalid, match=r"invalid mount path: .* file name too long"):
            parse_mount(MountRequest(type="volume", source="vol", target=long))
        with pytest.raises(Invalid, match="file name too long"):
            parse_tmpfs(long, "")
