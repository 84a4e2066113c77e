"""Where COPY puts what, and how, over plain directories; root because owners are set."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from sampan.errors import SampanError
from sampan.testing.build_bench import BuildBench, paths

pytestmark = pytest.mark.root


def test_a_source_that_is_an_unset_variable_is_the_whole_context(bench: BuildBench) -> None:
    """As with BuildKit."""
    bench.file("a.txt")
    bench.file("sub/b.txt")
    tree = bench.tree("FROM base\nCOPY a.txt $NOTHING /d/\n")
    assert paths(tree, "/d") == ["a.txt", "sub", "sub/b.txt"]


def test_from_scratch_holds_only_what_was_copied(bench: BuildBench) -> None:
    bench.file("a.txt")
    tree = bench.tree("FROM scratch\nCOPY a.txt /bin/\n")
    assert paths(tree, "/") == ["bin", "bin/a.txt"]


def test_an_image_can_be_copied_from_by_name(bench: BuildBench) -> None:
    bench.worker.add_image("tools:1", {"/usr/bin/tool": "t"})
    tree = bench.tree("FROM scratch\nCOPY --from=tools:1 /usr/bin/tool /t\n")
    assert (tree / "t").read_text() == "t"


def test_here_documents_become_files_and_scripts(bench: BuildBench) -> None:
    tree = bench.tree(
        "FROM base\nENV W=world\nCOPY <<EOF <<'RAW' /d/\nhello $W\nEOF\nhello $W\nRAW\n"
        "COPY <<-one /single\n\ttext\n\tone\nRUN <<X\nwrite /made by-script\nX\n"
    )
    assert (tree / "d/EOF").read_text() == "hello world\n"
    assert (tree / "d/RAW").read_text() == "hello $W\n"
    assert (tree / "single").read_text() == "text\n"
    assert (tree / "made").read_text() == "by-script"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("COPY ../x /", "file not found in build context or excluded by .dockerignore: stat x"),
        (
            "COPY nothere /",
            "COPY failed: file not found in build context or excluded by .dockerignore: stat nothere",
        ),
        ("COPY a d /new", "cannot copy to non-directory: /new"),
        ("COPY d /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
        ("COPY a /etc/passwd/", "cannot copy to non-directory: /etc/passwd"),
        ("COPY a /etc/passwd/x", "cannot copy to non-directory: /etc/passwd"),
        ("COPY --chown=nobody2 a /", "no such user: nobody2"),
        ("COPY outside /x", "file not found in build context"),
    ],
)
def test_a_copy_that_can_not_work_is_refused(bench: BuildBench, line: str, message: str) -> None:
    for name in ("a", "b", "d/x"):
        bench.file(name)
    (bench.context / "outside").symlink_to("../../../etc/hostname")
    with pytest.raises(SampanError, match=message):
        bench.build(f"FROM base\n{line}\n")
    assert bench.worker.open_snapshots == []


# Source -> destination -> where things must be; expected values from Docker's documentation of COPY and from
# dockerd 20.10 with the same context.
COPY_MATRIX: list[tuple[str, list[str]]] = [
    ("COPY a /t", ["t"]),
    ("COPY a /t/", ["t", "t/a"]),
    ("COPY a b /t/", ["t", "t/a", "t/b"]),
    ("COPY d /t", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY d/ /t/", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY d/sub d/x /t/", ["t", "t/x", "t/y"]),
    ("COPY d/* /t/", ["t", "t/x", "t/y"]),
    ("COPY ? /t/", ["t", "t/a", "t/b", "t/sub", "t/sub/y", "t/x"]),
    ('COPY ["a", "/t/with space"]', ["t", "t/with space"]),
    ("COPY link /t", ["t"]),
    ("COPY link /t/", ["t", "t/link"]),
    ("COPY dlink /t", ["t", "t/sub", "t/sub/y", "t/x"]),
    ("COPY a /deep/er/t", ["deep", "deep/er", "deep/er/t"]),
    ("WORKDIR /w\nCOPY a .", ["w", "w/a"]),
    ("WORKDIR /w\nCOPY a b ./", ["w", "w/a", "w/b"]),
    ("WORKDIR /w\nCOPY a b .", ["w", "w/a", "w/b"]),
    ("WORKDIR /w\nCOPY a sub/n", ["w", "w/sub", "w/sub/n"]),
    ("COPY a /t\nCOPY b /t", ["t"]),
    # As BuildKit does it; the classic builder refuses them.
    ("COPY a b /t", ["t"]),
    ("ADD a* b* /t", ["t"]),
    ("COPY d a /t", ["t", "t/a", "t/sub", "t/sub/y", "t/x"]),
    ("COPY --parents d/sub/y a /t/", ["t", "t/a", "t/d", "t/d/sub", "t/d/sub/y"]),
    ("COPY --parents ./d/./sub/y /t/", ["t", "t/sub", "t/sub/y"]),
    ("COPY --exclude=sub d /t", ["t", "t/x"]),
]


@pytest.mark.parametrize(("lines", "expected"), COPY_MATRIX, ids=[lines for lines, _ in COPY_MATRIX])
def test_copies_land_where_docker_puts_them(bench: BuildBench, lines: str, expected: list[str]) -> None:
    for name in ("a", "b", "d/x", "d/sub/y"):
        bench.file(name, name)
    (bench.context / "link").symlink_to("a")
    (bench.context / "dlink").symlink_to("d")
    tree = bench.tree(f"FROM scratch\n{lines}\n")
    assert paths(tree, "/") == expected
    if lines == "COPY link /t/":
        assert not (tree / "t/link").is_symlink() and (tree / "t/link").read_text() == "a"
    if expected == ["t"] and " b" in lines:
        assert (tree / "t").read_text() == "b"
        warned = any("files replace each other" in line for line in bench.text.splitlines())
        assert warned == (lines.count("COPY") < 2)


def test_what_buildkit_accepts_is_accepted(bench: BuildBench) -> None:
    """Values from Docker 28 with the same Dockerfiles."""
    nothing = bench.worker.images[bench.build("FROM scratch\n")]
    assert (nothing.rootfs.diff_ids, nothing.history) == ((), ())
    assert nothing.defaults.working_dir == "/"
    bench.file("a")
    bench.build("FROM base\nRUN\nRUN --mount=type=cache,target=/c\n")
    assert [run.args[-1] for run in bench.worker.runs] == ["", ""]
    tree = bench.tree("FROM base\nCOPY --chown=: a /1\nCOPY --chown=7: a /2\nCOPY --chown=:8 a /3\n")
    owners = [(status.st_uid, status.st_gid) for status in ((tree / name).stat() for name in "123")]
    assert owners == [(0, 0), (7, 0), (0, 8)]


def test_links_inside_a_copied_directory_stay_links(bench: BuildBench) -> None:
    bench.file("d/x")
    (bench.context / "d/l").symlink_to("/nowhere")
    tree = bench.tree("FROM scratch\nCOPY d /t\n")
    assert os.readlink(tree / "t/l") == "/nowhere"


def test_a_destination_behind_a_link_stays_inside_the_image(bench: BuildBench) -> None:
    bench.file("a", "new")
    image = bench.worker.add_image("links", {"/usr/lib/x": ""})
    top = bench.worker.top(image.diff_ids)
    (top / "lib").symlink_to("usr/lib")
    (top / "abs").symlink_to("/usr/lib")
    (top / "out").symlink_to("../../../../../../tmp")
    bench.file("root/lib/y")
    tree = bench.tree("FROM links\nCOPY a /abs/\nCOPY root/ /\nCOPY a /out/sampan-escaped\n")
    assert (tree / "usr/lib/a").read_text() == "new"
    assert (tree / "usr/lib/y").exists() and (tree / "lib").is_symlink()
    assert (tree / "tmp/sampan-escaped").exists() and not Path("/tmp/sampan-escaped").exists()


def test_owners_modes_and_times_are_dockers(bench: BuildBench) -> None:
    source = bench.file("d/x", mode=0o640)
    (bench.context / "d").chmod(0o750)
    os.chown(source, 1000, 1000)
    os.utime(source, (1_000_000_000, 1_000_000_000))
    tree = bench.tree(
        "FROM base\nCOPY d /plain\nCOPY --chown=web d /named\nCOPY --chown=web:ops --chmod=600 d/x /x\n"
        "COPY --chown=7:8 d/x /made/x\n"
    )
    info = (tree / "plain/x").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777, info.st_mtime) == (0, 0, 0o640, 1_000_000_000)
    assert ((tree / "named/x").stat().st_uid, (tree / "named/x").stat().st_gid) == (33, 44)
    assert (tree / "named").stat().st_uid == 33
    info = (tree / "x").stat()
    assert (info.st_uid, info.st_gid, info.st_mode & 0o7777) == (33, 55, 0o600)
    assert ((tree / "made").stat().st_uid, (tree / "made").stat().st_gid) == (7, 8)


def test_hard_links_inside_a_copied_directory_stay_one_file(bench: BuildBench) -> None:
    os.link(bench.file("d/x"), bench.context / "d/hard")
    tree = bench.tree("FROM scratch\nCOPY d /t\n")
    assert (tree / "t/hard").stat().st_ino == (tree / "t/x").stat().st_ino


def test_files_of_a_stage_keep_their_owner(bench: BuildBench) -> None:
    bench.file("x")
    tree = bench.tree("FROM base AS a\nCOPY --chown=5:6 x /d/x\nFROM base\nCOPY --from=a /d/x /y\n")
    assert ((tree / "y").stat().st_uid, (tree / "y").stat().st_gid) == (5, 6)


def test_a_directory_that_exists_below_the_destination_takes_over_the_sources_attributes(
    bench: BuildBench,
) -> None:
    bench.file("d/sub/x").parent.chmod(0o750)
    top = bench.tree("FROM base\nADD --chown=5:6 d /t\nWORKDIR /t/other\nCOPY --chown=7:8 d /t\n")
    found = (top / "t/sub").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (7, 8, 0o750)
    assert (top / "t").stat().st_uid == 5  # the destination itself is whose it was


def test_a_file_copied_to_a_link_to_a_file_is_written_behind_the_link(bench: BuildBench) -> None:
    bench.file("a", "new")
    (bench.context / "links").mkdir()
    (bench.context / "links/to").symlink_to("file")
    bench.file("links/file", "old")
    top = bench.tree("FROM base\nCOPY links /l\nCOPY a /l/to\n")
    assert (top / "l/to").is_symlink()
    assert (top / "l/file").read_text() == "new"


def test_of_files_with_one_name_that_of_the_later_source_stays(bench: BuildBench) -> None:
    for name in ("one", "two"):
        bench.file(f"{name}/f", name)
    with tarfile.open(bench.context / "a.tar", "w") as tar:
        member = tarfile.TarInfo("f")
        member.size = 7
        tar.addfile(member, io.BytesIO(b"archive"))
    lines = (
        "ADD a.tar one /a/\nADD one a.tar /b/\nCOPY one/f two/f one/f /c/\nADD one <<f a.tar /d/\ndoc\nf\n"
    )
    tree = bench.tree(f"FROM base\n{lines}")
    assert [(tree / name / "f").read_text() for name in "abcd"] == ["one", "archive", "one", "doc\n"]


def test_a_mode_does_not_get_to_directories_that_are_there_with_a_link_either(bench: BuildBench) -> None:
    bench.file("a.conf")
    tree = bench.tree("FROM base\nCOPY --link --chmod=600 a.conf /etc/\n")
    assert (tree / "etc/a.conf").stat().st_mode & 0o777 == 0o600
    assert (tree / "etc").stat().st_mode & 0o777 == 0o755
