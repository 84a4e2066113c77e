"""Log options, checked in Docker's words: the messages are those of Docker Engine 20.10."""

from __future__ import annotations

import pytest

from sampan.errors import Invalid
from sampan.logs.options import (
    Delivery,
    FileOptions,
    cache_options,
    check_log_options,
    delivery_options,
    file_options,
    own_options,
)

MIB = 1024 * 1024


def test_rotation_is_on_by_default() -> None:
    assert file_options("json-file", {}) == FileOptions(10_000_000, 3, compress=False)
    assert file_options("local", {}) == FileOptions(20 * MIB, 5, compress=True)


@pytest.mark.parametrize(
    ("text", "decimal", "binary"),
    [
        ("10m", 10_000_000, 10 * MIB),
        ("1.5g", 1_500_000_000, 1536 * MIB),
        ("500kB", 500_000, 512_000),
        ("42", 42, 42),
        ("-1", None, None),
        ("7 K", 7000, 7168),
    ],
)
def test_sizes_are_decimal_for_json_file_and_binary_for_local(
    text: str, decimal: int | None, binary: int | None
) -> None:
    assert file_options("json-file", {"max-size": text, "max-file": "5"}) == FileOptions(decimal, 5)
    assert file_options("local", {"max-size": text}) == FileOptions(binary, 5, compress=True)


@pytest.mark.parametrize(
    ("driver", "options", "text"),
    [
        ("json-file", {"foo": "1"}, "unknown log opt 'foo' for json-file log driver"),
        ("local", {"foo": "1"}, "unknown log opt 'foo' for log driver local"),
        ("syslog", {"foo": "1"}, "unknown log opt 'foo' for syslog log driver"),
        ("syslog", {"cache-foo": "x"}, "unknown log opt 'cache-foo' for syslog log driver"),
        ("json-file", {"max-size": "abc"}, "invalid size: 'abc'"),
        ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
        ("json-file", {"max-size": "m"}, "invalid size: 'm'"),
        ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
        ("json-file", {"max-size": "1k", "max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
        ("json-file", {"compress": "maybe"}, 'strconv.ParseBool: parsing "maybe": invalid syntax'),
        (
            "json-file",
            {"compress": "true", "max-size": "1k", "max-file": "1"},
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("local", {"max-size": "abc"}, "invalid value for max-size: abc: invalid size: 'abc'"),
        (
            "local",
            {"compress": "x"},
            'error reading compress log option: strconv.ParseBool: parsing "x": invalid syntax',
        ),
        (
            "local",
            {"max-file": "1", "compress": "true"},
            "compression cannot be enabled when max file count is 1",
        ),
        ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
        (
            "json-file",
            {"max-buffer-size": "1m"},
            "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
        ),
        (
            "json-file",
            {"mode": "non-blocking", "max-buffer-size": "x"},
            "error parsing option max-buffer-size: invalid size: 'x'",
        ),
        ("syslog", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
        ("floppy", {}, "logger: no log driver named 'floppy' is registered"),
    ],
)
def test_what_can_not_work_is_refused_in_dockers_words(
    driver: str, options: dict[str, str], text: str
) -> None:
    with pytest.raises(Invalid) as caught:
        check_log_options(driver, options)
    assert caught.value.message == text


@pytest.mark.parametrize("name", ["labels-regex", "env-regex"])
def test_an_expression_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match=r"error parsing regexp: .*`\(`"):
        check_log_options("json-file", {name: "("})


@pytest.mark.parametrize(
    ("driver", "options"),
    [
        ("none", {"anything": "1"}),
        ("json-file", {"mode": "non-blocking", "max-buffer-size": "0"}),
        ("json-file", {"cache-disabled": "true"}),
        ("json-file", {"compress": "true", "labels": "a", "env-regex": "^A", "tag": "{{.Name}}"}),
        ("syslog", {"cache-disabled": "true", "mode": "blocking"}),
        ("gelf", {"gelf-address": "udp://127.0.0.1:1", "cache-max-size": "1m", "cache-compress": "false"}),
    ],
)
def test_what_docker_takes_is_taken(driver: str, options: dict[str, str]) -> None:
    check_log_options(driver, options)


def test_a_buffer_has_a_mebibyte_unless_told_otherwise() -> None:
    assert delivery_options({}) == Delivery(drops=False, buffer=MIB)
    assert delivery_options({"mode": "non-blocking"}) == Delivery(drops=True, buffer=MIB)
    assert delivery_options({"mode": "non-blocking", "max-buffer-size": "4k"}) == Delivery(True, 4096)


def test_the_copy_of_what_is_sent_away_is_bounded_and_can_be_switched_off() -> None:
    assert cache_options({"syslog-facility": "user"}) == FileOptions(20 * MIB, 5, compress=True)
    given = {"cache-max-size": "1m", "cache-max-file": "2", "cache-compress": "false"}
    assert cache_options(given) == FileOptions(MIB, 2)
    assert cache_options({"cache-disabled": "1"}) is None
    with pytest.raises(Invalid, match=r"options of the log cache: .*invalid size: 'x'"):
        cache_options({"cache-max-size": "x"})


def test_a_driver_sees_its_own_options_only() -> None:
    options = {
        "mode": "non-blocking",
        "max-buffer-size": "1m",
        "cache-disabled": "1",
        "syslog-facility": "user",
    }
    assert own_options({**options, "tag": "x"}) == {"syslog-facility": "user", "tag": "x"}
