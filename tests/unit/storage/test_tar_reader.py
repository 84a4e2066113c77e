"""The tar reader against archives that GNU tar and Python's tarfile made, and against hostile ones."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampan.errors import Invalid, SampanError
from sampan.storage import tar_format as tf
from sampan.storage.tar_format import Member, TarLimits
from sampan.storage.tar_reader import TarReader

needs_tar = pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def content(reader: TarReader, member: Member) -> bytes:
    """The file as it was, holes filled."""
    stored = reader.read()
    if member.sparse is None:
        return stored
    data = bytearray(member.size)
    for offset, length in member.sparse:
        data[offset : offset + length] = stored[:length]
        stored = stored[length:]
    return bytes(data)


def read_all(
    data: bytes, chunk: int = 1 << 20, limits: TarLimits | None = None
) -> list[tuple[Member, bytes]]:
    reader = TarReader(pieces(data, chunk), limits)
    return [(member, content(reader, member)) for member in reader]


def make(kind: int = tarfile.PAX_FORMAT, **attributes: object) -> bytes:
    """An archive with one member, by Python's tarfile."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        info = tarfile.TarInfo()
        body = attributes.pop("body", b"")
        assert isinstance(body, bytes)
        for name, value in attributes.items():
            setattr(info, name, value)
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def header(**changes: bytes) -> bytes:
    """One ustar header block with raw fields and a right checksum."""
    fields = {
        "name": b"file", "mode": b"0000644\0", "uid": b"0000000\0", "gid": b"0000000\0",
        "size": b"00000000000\0", "mtime": b"00000000000\0", "sum": b" " * 8, "type": b"0", "link": b"",
        "magic": b"ustar\0", "version": b"00", "uname": b"", "gname": b"", "major": b"", "minor": b"", "prefix": b"",
    } | changes  # fmt: skip
    widths = (100, 8, 8, 8, 12, 12, 8, 1, 100, 6, 2, 32, 32, 8, 8, 155)
    block = b"".join(value.ljust(width, b"\0") for value, width in zip(fields.values(), widths, strict=True))
    block = block.ljust(512, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


END = bytes(1024)


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_what_python_tarfile_writes_in_every_format(kind: int) -> None:
    long_name = "d" * 80 + "/" + "n" * 60 if kind == tarfile.USTAR_FORMAT else "d" * 120 + "/" + "ü" * 100
    data = make(
        kind,
        name=long_name,
        mode=0o4751,
        uid=1234,
        gid=99,
        mtime=1700000000,
        uname="joe",
        gname="staff",
        body=b"x" * 700,
    )
    ((member, body),) = read_all(data)
    assert member.name == long_name.encode()
    assert (member.mode, member.uid, member.gid, member.mtime) == (0o4751, 1234, 99, 1700000000)
    assert (member.uname, member.gname, member.size, body) == (b"joe", b"staff", 700, b"x" * 700)


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_reads_numbers_too_large_for_octal_digits(kind: int) -> None:
    ((member, _),) = read_all(make(kind, name="a", uid=3_000_000_000, gid=4_000_000_000, mtime=-5))
    assert (member.uid, member.gid, member.mtime) == (3_000_000_000, 4_000_000_000, -5)


def test_keeps_nanoseconds_of_pax_times() -> None:
    data = make(name="a", pax_headers={"mtime": "1234567890.123456789"})
    ((member, _),) = read_all(data)
    assert (member.mtime, member.mtime_nsec) == (1234567890, 123456789)


def test_a_negative_fractional_time_is_rounded_down() -> None:
    ((member, _),) = read_all(make(name="a", pax_headers={"mtime": "-1.25"}))
    assert (member.mtime, member.mtime_nsec) == (-2, 750_000_000)


def test_reads_extended_attributes_with_binary_values() -> None:
    value = bytes(range(256))
    text = value.decode("utf-8", "surrogateescape")
    ((member, _),) = read_all(make(name="a", pax_headers={"SCHILY.xattr.security.capability": text}))
    assert member.xattrs == {b"security.capability": value}


@pytest.mark.parametrize(
    ("kind", "link", "expected"),
    [
        (tarfile.SYMTYPE, "../" * 60 + "target", tf.SYMLINK),
        (tarfile.LNKTYPE, "other", tf.HARD_LINK),
        (tarfile.FIFOTYPE, "", tf.FIFO),
        (tarfile.DIRTYPE, "", tf.DIRECTORY),
    ],
)
def test_reads_links_and_special_files(kind: bytes, link: str, expected: bytes) -> None:
    ((member, _),) = read_all(make(name="a", type=kind, linkname=link))
    assert (member.type, member.link, member.size) == (expected, link.encode(), 0)


def test_reads_device_numbers() -> None:
    ((member, _),) = read_all(make(name="null", type=tarfile.CHRTYPE, devmajor=1, devminor=3))
    assert (member.type, member.major, member.minor) == (tf.CHAR_DEVICE, 1, 3)


def test_names_need_not_be_utf8() -> None:
    ((member, _),) = read_all(header(name=b"\xff\xfe/caf\xe9") + END)
    assert member.name == b"\xff\xfe/caf\xe9"


def test_global_pax_records_apply_to_all_members_until_a_local_one() -> None:
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers={"uname": "everybody"}
    ) as archive:
        for name, own in (("a", {}), ("b", {"uname": "one"}), ("c", {})):
            info = tarfile.TarInfo(name)
            info.pax_headers = own
            archive.addfile(info)
    assert [member.uname for member, _ in read_all(out.getvalue())] == [b"everybody", b"one", b"everybody"]


@pytest.mark.parametrize("chunk", [1, 7, 511, 512, 513, 5000])
def test_the_size_of_the_chunks_makes_no_difference(chunk: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for number in range(5):
            info = tarfile.TarInfo("n" * 90 * (number + 1))
            info.size = number * 300
            archive.addfile(info, io.BytesIO(bytes([number]) * info.size))
    assert read_all(out.getvalue(), chunk) == read_all(out.getvalue())


def test_content_that_nobody_takes_is_passed_over() -> None:
    data = make(name="a", body=b"1" * 5000)[:5632] + make(name="b", body=b"2")
    assert [member.name for member in TarReader(pieces(data, 1000))] == [b"a", b"b"]


@needs_tar
@pytest.mark.parametrize("kind", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_reads_what_gnu_tar_writes_in_every_format(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "s"
    (source / "dir").mkdir(parents=True)
    (source / "dir" / "file").write_bytes(b"content" * 200)
    os.link(source / "dir" / "file", source / "hard")
    (source / "soft").symlink_to("dir/file")
    data = subprocess.run(
        ["tar", f"--format={kind}", "--sort=name", "-C", source, "-cf", "-", "dir", "hard", "soft"],
        check=True,
        capture_output=True,
    ).stdout
    found = {member.name: (member.type, member.link, body) for member, body in read_all(data)}
    assert found == {
        b"dir/": (tf.DIRECTORY, b"", b""),
        b"dir/file": (tf.REGULAR, b"", b"content" * 200),
        b"hard": (tf.HARD_LINK, b"dir/file", b""),
        b"soft": (tf.SYMLINK, b"dir/file", b""),
    }


@needs_tar
@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=posix", "--sparse-version=0.0"],
        ["--format=posix", "--sparse-version=0.1"],
        ["--format=posix", "--sparse-version=1.0"],
    ],
)
def test_reads_every_sparse_format_of_gnu_tar(tmp_path: Path, options: list[str]) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        for number in range(60):  # more pieces than a header and two extension blocks hold
            file.seek(number * 65536)
            file.write(b"%d" % number * 10)
        file.truncate(60 * 65536 + 12345)
    data = subprocess.run(
        ["tar", "--sparse", *options, "-C", tmp_path, "-cf", "-", "sparse"], check=True, capture_output=True
    ).stdout
    assert len(data) < 1 << 20
    ((member, body),) = read_all(data)
    assert (member.name, member.size) == (b"sparse", path.stat().st_size)
    assert body == path.read_bytes()


@needs_tar
def test_reads_multi_kilobyte_names_of_gnu_tar(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 200] * 8)
    deep.mkdir(parents=True)
    (deep / "f").symlink_to("t" * 3000)
    data = subprocess.run(
        ["tar", "--format=gnu", "-C", tmp_path, "-cf", "-", "."], check=True, capture_output=True
    ).stdout
    last = read_all(data)[-1][0]
    assert last.name == b"./" + b"/".join([b"d" * 200] * 8) + b"/f"
    assert last.link == b"t" * 3000


def test_an_old_v7_directory_is_told_by_its_slash() -> None:
    ((member, _),) = read_all(header(name=b"old/", type=b"\0", magic=b"", version=b"") + END)
    assert member.type == tf.DIRECTORY


def test_the_archive_ends_at_two_zero_blocks_and_the_rest_is_used_up() -> None:
    reader = TarReader(pieces(make(name="a") + b"rubbish" * 1000, 4096))
    assert [member.name for member in reader] == [b"a"]
    assert reader.offset == len(make(name="a")) + 7000


def test_an_archive_without_end_blocks_is_complete() -> None:
    assert len(read_all(header())) == 1
    assert read_all(b"") == []


def test_data_after_a_lone_zero_block_is_refused() -> None:
    with pytest.raises(Invalid, match="at byte 1024: data after a lone zero block"):
        read_all(header() + bytes(512) + header())


@pytest.mark.parametrize("chunk", [1, 512, 612, 1 << 20])
def test_an_archive_that_ends_without_its_last_padding_is_taken_as_by_gos_reader(chunk: int) -> None:
    data = header(size=b"00000000144\0") + b"x" * 100
    ((member, content),) = read_all(data, chunk)
    assert (member.name, content) == (b"file", b"x" * 100)
    with pytest.raises(Invalid, match="at byte 613: unexpected end"):
        read_all(data + b"\0", chunk)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header()[:300], "at byte 300: unexpected end"),
        (header(size=b"00000001750\0") + b"x" * 100, "at byte 612: unexpected end"),
        (b"x" * 512, "at byte 0: header checksum does not match"),
        (header(size=b"-0000000001\0"), "malformed number"),
        (header(size=b"0000000000x\0"), "malformed number"),
        (header(size=b"\xff" * 12), "a file of"),
        (header(size=b"\x80" + b"\xff" * 11), "a file of"),
        (header(name=b""), "name"),
        (header(uid=b"\xff" * 8), "owner"),
        (header(type=b"x", size=b"77777777777\0"), "extended header of an impossible size"),
        (header(type=b"L", size=b"\xff" * 12), "extended header of an impossible size"),
        (header(type=b"x", size=b"00000000010\0") + b"99 a=b\n\n".ljust(512, b"\0"), "pax record"),
        (header(type=b"x", size=b"00000000010\0") + b"8 abcde\n".ljust(512, b"\0"), "pax record"),
        (header(type=b"x", size=b"00000000010\0") + b"-8 a=bc\n".ljust(512, b"\0"), "pax record"),
        (header(type=b"x", size=b"00000000014\0") + b"12 size=-12\n".ljust(512, b"\0") + header(), "not a number"),
        (header(type=b"x", size=b"00000000012\0") + b"10 path=\0\n".ljust(512, b"\0") + header(), "name"),
        (make(name="s", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}), "realsize is not a number"),
        (header(type=b"L", size=b"00000000004\0") + b"name".ljust(512, b"\0"), "without a member"),
    ],
)  # fmt: skip
def test_a_malformed_archive_is_refused_with_the_place(data: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        read_all(data)


def sparse_header(pieces: list[tuple[int, int]], size: int, stored: int) -> bytes:
    block = bytearray(header(type=b"S", magic=b"ustar ", version=b" \0", size=b"%011o\0" % stored))
    for number, (offset, length) in enumerate(pieces):
        block[386 + 24 * number : 410 + 24 * number] = b"%011o\0%011o\0" % (offset, length)
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(-(-stored // 512) * 512)


@pytest.mark.parametrize(
    ("sparse", "size", "stored"),
    [
        ([(0, 10), (5, 10)], 100, 20),  # overlapping
        ([(50, 10), (0, 10)], 100, 20),  # backwards
        ([(95, 10)], 100, 10),  # behind the end
        ([(0, 10)], 100, 20),  # less than stored
        ([(0, 1000)], 1000, 20),  # more than stored
    ],
)
def test_an_impossible_sparse_map_is_refused(sparse: list[tuple[int, int]], size: int, stored: int) -> None:
    with pytest.raises(Invalid, match="sparse map"):
        read_all(sparse_header(sparse, size, stored))


def test_limits_are_kept() -> None:
    with pytest.raises(Invalid, match="more than 1 members"):
        read_all(header() * 2, limits=TarLimits(members=1))
    with pytest.raises(Invalid, match="name"):
        read_all(make(name="n" * 200), limits=TarLimits(name=100))
    with pytest.raises(Invalid, match="extended header of an impossible size"):
        read_all(make(name="n" * 2000), limits=TarLimits(extended=1000))
    with pytest.raises(Invalid, match="extended attributes"):
        read_all(
            make(name="n", pax_headers={"SCHILY.xattr.user.a": "v" * 500}), limits=TarLimits(xattr_bytes=400)
        )
    with pytest.raises(Invalid, match="a file of 20 bytes"):
        read_all(make(name="n", body=b"x" * 20), limits=TarLimits(file_size=19))


def test_a_size_that_is_only_promised_takes_no_memory() -> None:
    tracemalloc.start()
    with pytest.raises(Invalid, match="unexpected end"):
        read_all(header(size=b"17777777777\0") + bytes(100))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def samples() -> list[bytes]:
    archives = [make(kind, name="n" * 150, uid=5_000_000, body=b"b" * 600) for kind in (1, 2)]
    archives.append(make(name="x", pax_headers={"SCHILY.xattr.user.a": "v", "mtime": "1.5"}, body=b"body"))
    archives.append(sparse_header([(0, 10), (50, 10)], 100, 20) + header(type=b"2", link=b"to"))
    one_zero = b"1\n0\n600\n".ljust(512, b"\0") + b"d" * 600
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "700"}
    archives.append(make(name="s", pax_headers=records, body=one_zero))
    return archives


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_no_mutation_of_an_archive_raises_anything_but_our_errors(data: st.DataObject) -> None:
    archive = bytearray(data.draw(st.sampled_from(samples())))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, min(len(archive), 2560) - 1))
        archive[at] = data.draw(st.sampled_from(b"\0 0179-=x\n\x80\xff"))
        block = at - at % 512
        if data.draw(st.booleans()):  # get past the checksum
            archive[block + 148 : block + 156] = b" " * 8
            archive[block + 148 : block + 156] = b"%06o\0 " % sum(archive[block : block + 512])
    cut = data.draw(st.integers(0, len(archive)))
    for variant in (bytes(archive), bytes(archive[:cut])):
        try:
            read_all(variant, 700)
        except SampanError as error:
            assert "at byte" in str(error)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(
                st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)),
                min_size=1,
                max_size=300,
            ),
            st.binary(max_size=1500),
            st.integers(0, 2**32 - 2),
            st.integers(0, 2**40),
        ),
        max_size=6,
    ),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.integers(1, 3000),
)
def test_reads_any_archive_of_tarfile_as_tarfile_does(
    entries: list[tuple[str, bytes, int, int]], kind: int, chunk: int
) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, body, uid, mtime in entries:
            info = tarfile.TarInfo(name)
            info.size, info.uid, info.mtime = len(body), uid, mtime
            archive.addfile(info, io.BytesIO(body))
    ours = [(m.name, m.uid, m.mtime, body) for m, body in read_all(out.getvalue(), chunk)]
    expected = [(name.strip("/") and name, body, uid, mtime) for name, body, uid, mtime in entries]
    assert [(uid, mtime, body) for _, uid, mtime, body in ours] == [(u, t, b) for _, b, u, t in expected]
    out.seek(0)
    with tarfile.open(fileobj=out) as archive:
        theirs = [info.name.encode() for info in archive]
    assert [name.rstrip(b"/") for name, *_ in ours] == [name.rstrip(b"/") for name in theirs]
