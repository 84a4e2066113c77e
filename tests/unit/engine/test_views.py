"""What is shown of containers: times, status texts, statistics, changes, frames, filters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.engine.containers.attach import frame, parse_detach_keys
from sampan.engine.containers.changes import changes_of
from sampan.engine.containers.files import absolute, go_mode, without_places
from sampan.engine.containers.inspect import human_duration, status_text
from sampan.engine.containers.listing import check_list_filters
from sampan.engine.containers.observe import parse_ps
from sampan.engine.copy_tree import copy_tree
from sampan.engine.filters import label_matches, parse_duration, parse_time
from sampan.engine.health import after_result, command_of, times_of
from sampan.engine.model import Health, HealthResult, State, epoch_ns, rfc3339
from sampan.engine.stats import parse_interfaces, parse_system_cpu
from sampan.errors import Invalid
from sampan.oci.image import Healthcheck
from sampan.storage.removal import remove_tree

SECOND = 1_000_000_000
AT = 1_700_000_000 * SECOND


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        # github.com/docker/go-units, duration_test.go, has these pairs.
        (0.45, "Less than a second"),
        (1, "1 second"),
        (45, "45 seconds"),
        (60, "About a minute"),
        (3 * 60, "3 minutes"),
        (60 * 60, "About an hour"),
        (45 * 60, "45 minutes"),
        (24 * 3600, "24 hours"),
        (36 * 3600, "36 hours"),
        (3 * 86400, "3 days"),
        (14 * 86400, "2 weeks"),
        (60 * 86400, "2 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_durations_read_as_dockers(seconds: float, text: str) -> None:
    assert human_duration(int(seconds * SECOND)) == text


def test_the_status_tells_state_age_exit_code_and_health() -> None:
    started = rfc3339(AT)
    later = AT + 3 * 60 * SECOND
    assert status_text(State(), later) == "Created"
    assert status_text(State("running", started_at=started), later) == "Up 3 minutes"
    assert status_text(State("paused", started_at=started), later) == "Up 3 minutes (Paused)"
    ended = State("exited", exit_code=4, started_at=started, finished_at=rfc3339(AT + 60 * SECOND))
    assert status_text(ended, later) == "Exited (4) 2 minutes ago"
    checked = State("running", started_at=started, health=Health("starting"))
    assert status_text(checked, later) == "Up 3 minutes (health: starting)"


def test_times_keep_their_nanoseconds() -> None:
    assert rfc3339(AT + 120_000_000) == "2023-11-14T22:13:20.12Z"
    assert epoch_ns(rfc3339(AT + 123_456_789)) == AT + 123_456_789


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", AT),
        ("1700000000.5", AT + SECOND // 2),
        ("2023-11-14T22:13:20Z", AT),
        ("2023-11-14T22:13:20.25Z", AT + SECOND // 4),
        ("2023-11-14T23:13:20+01:00", AT),
    ],
)
def test_moments_are_read_in_all_of_the_apis_forms(text: str, expected: int) -> None:
    assert parse_time(text) == expected


def test_durations_are_gos() -> None:
    assert parse_duration("1h30m") == 5400
    for text in ("", "5", "5 s", "m5"):
        with pytest.raises(Invalid):
            parse_duration(text)


def test_labels_are_matched_by_name_and_by_value() -> None:
    labels = {"a": "1", "b": ""}
    assert label_matches(labels, {"label": ["a", "b"]})
    assert label_matches(labels, {"label": ["a=1"]})
    assert not label_matches(labels, {"label": ["a=2"]})
    assert not label_matches(labels, {"label!": ["a"]})


def test_unknown_filters_and_values_are_refused() -> None:
    for filters in ({"foo": ["bar"]}, {"status": ["foo"]}, {"exited": ["x"]}, {"is-task": ["x"]}):
        with pytest.raises(Invalid, match="invalid filter"):
            check_list_filters(filters)
    with pytest.raises(Invalid, match="Unrecognised filter value for health: x"):
        check_list_filters({"health": ["x"]})
    for name, value, problem in (
        ("publish", "foo", "invalid syntax"),
        ("expose", "1-65536", "value out of range"),
    ):
        with pytest.raises(Invalid, match=f"error while looking up for {name} {value}: .*{problem}"):
            check_list_filters({name: [value]})


def test_frames_have_dockers_header() -> None:
    # Engine API, "Stream format": STREAM_TYPE, 0, 0, 0, SIZE1..4 (big endian).
    assert frame(2, b"hello") == b"\x02\x00\x00\x00\x00\x00\x00\x05hello"


def test_detach_keys_are_control_letters_and_letters() -> None:
    assert parse_detach_keys(None) == b"\x10\x11"
    assert parse_detach_keys("ctrl-a,x,ctrl-[") == b"\x01x\x1b"
    assert parse_detach_keys("") == b""
    with pytest.raises(Invalid, match="Invalid detach keys"):
        parse_detach_keys("alt-a")


def test_modes_are_gos() -> None:
    # Go's os package: ModeDir 1<<31, ModeSymlink 1<<27, ModeSetuid 1<<23, ModeSticky 1<<20.
    assert go_mode(0o040755) == 1 << 31 | 0o755
    assert go_mode(0o120777) == 1 << 27 | 0o777
    assert go_mode(0o104755) == 1 << 23 | 0o755
    assert go_mode(0o041777) == 1 << 31 | 1 << 20 | 0o777


def test_paths_can_not_climb_above_the_root() -> None:
    assert absolute("../../etc") == "/etc"
    assert absolute("//a//b/../c") == "/a/c"


def test_only_the_containers_rows_of_ps_are_shown() -> None:
    output = "  PID USER COMMAND\n    7 root sh -c a b\n   70 root other\n"
    assert parse_ps(output, {7}) == {
        "Titles": ["PID", "USER", "COMMAND"],
        "Processes": [["7", "root", "sh -c a b"]],
    }
    with pytest.raises(Invalid, match="PID"):
        parse_ps("USER\nroot\n", {7})


def test_kernel_counters_are_read() -> None:
    text = "cpu  100 0 50 1000 10 0 5 0 7 0\ncpu0 1 2 3\n"
    assert parse_system_cpu(text, 100) == 1165 * 10_000_000
    table = "Inter-|\n face |\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 0 0 0 0 0 0 20 3 0 1 0 0 0 0\n"
    assert parse_interfaces(table) == {
        "eth0": {
            "rx_bytes": 10, "rx_packets": 2, "rx_errors": 0, "rx_dropped": 0,
            "tx_bytes": 20, "tx_packets": 3, "tx_errors": 0, "tx_dropped": 1,
        }
    }  # fmt: skip


def result(code: int) -> HealthResult:
    return HealthResult("", "", code, "")


def test_health_needs_as_many_failures_as_retries_and_one_success() -> None:
    times = times_of(Healthcheck(("CMD", "x"), retries=2))
    health = after_result(Health(), result(1), times, running_for=100)
    assert (health.status, health.failing_streak) == ("starting", 1)
    health = after_result(health, result(1), times, running_for=100)
    assert health.status == "unhealthy"
    health = after_result(health, result(0), times, running_for=100)
    assert (health.status, health.failing_streak, len(health.log)) == ("healthy", 0, 3)


def test_failures_in_the_start_period_do_not_count() -> None:
    times = times_of(Healthcheck(("CMD", "x"), retries=1, start_period=10 * SECOND))
    health = after_result(Health(), result(1), times, running_for=5)
    assert (health.status, health.failing_streak) == ("starting", 0)
    assert after_result(health, result(1), times, running_for=11).status == "unhealthy"


def test_the_log_of_checks_keeps_five() -> None:
    health = Health()
    for code in range(8):
        health = after_result(health, result(code), times_of(Healthcheck()), running_for=0)
    assert [entry.exit_code for entry in health.log] == [3, 4, 5, 6, 7]


def test_checks_run_directly_or_in_the_shell() -> None:
    assert command_of(Healthcheck(("CMD", "a", "b")), None) == ("a", "b")
    assert command_of(Healthcheck(("CMD-SHELL", "a b")), None) == ("/bin/sh", "-c", "a b")
    assert command_of(Healthcheck(("NONE",)), None) == ()
    assert command_of(None, None) == ()


def test_added_and_changed_files_are_told_apart(tmp_path: Path) -> None:
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for directory in (upper / "etc", upper / "new", lower / "etc"):
        directory.mkdir(parents=True)
    (lower / "etc" / "passwd").write_text("old")
    (upper / "etc" / "passwd").write_text("new")
    (upper / "new" / "file").write_text("x")
    upper_fd, lower_fd = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (upper, lower))
    try:
        assert changes_of(upper_fd, lower_fd) == [
            ("/etc", 0), ("/etc/passwd", 0), ("/new", 1), ("/new/file", 1),
        ]  # fmt: skip
    finally:
        os.close(upper_fd)
        os.close(lower_fd)


def test_the_engines_own_mount_points_are_no_changes() -> None:
    changes = [("/etc", 0), ("/etc/hosts", 1), ("/tmp", 0), ("/tmp/x", 1)]
    assert without_places(changes, {"/etc/hosts"}) == [("/tmp", 0), ("/tmp/x", 1)]
    assert without_places([*changes, ("/etc/new", 1)], {"/etc/hosts"})[0] == ("/etc", 0)


def test_copying_many_hard_links_leaves_no_descriptor_open(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "names").mkdir(parents=True)
    target.mkdir()
    for number in range(50):
        (source / f"file{number}").write_text(str(number))
        os.link(source / f"file{number}", source / "names" / f"name{number}")
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    before = len(os.listdir("/proc/self/fd"))
    try:
        copy_tree(*descriptors)
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    for number in range(50):
        assert (target / f"file{number}").samefile(target / "names" / f"name{number}")


def test_a_tree_nested_without_end_is_an_error_of_the_system(tmp_path: Path) -> None:
    descriptors = []
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
        descriptors.append(os.open(tmp_path / name, os.O_RDONLY | os.O_DIRECTORY))
    at = os.dup(descriptors[0])
    for _ in range(400):
        os.mkdir("d", dir_fd=at)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(at)
    try:
        with pytest.raises(OSError, match="nested too deeply"):
            copy_tree(*descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        for name in ("source", "target"):
            remove_tree(tmp_path / name)


def test_a_copied_tree_keeps_modes_links_and_times(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "inner").mkdir(parents=True)
    target.mkdir()
    (source / "inner" / "file").write_text("text")
    os.link(source / "inner" / "file", source / "hard")
    (source / "soft").symlink_to("/nowhere")
    os.chmod(source / "inner", 0o2751)
    os.utime(source / "inner" / "file", ns=(AT, AT + 5))
    descriptors = [os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (source, target)]
    try:
        copy_tree(*descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert (target / "inner" / "file").read_text() == "text"
    assert (target / "hard").stat().st_ino == (target / "inner" / "file").stat().st_ino
    assert os.readlink(target / "soft") == "/nowhere"
    assert (target / "inner").stat().st_mode & 0o7777 == 0o2751
    assert (target / "inner" / "file").stat().st_mtime_ns == AT + 5
