from __future__ import annotations

import pytest

from sampan.cli import flags
from sampan.cli.failure import UsageError
from sampan.cli.flags import Flag, parse

DECLARED = (
    Flag("all", "a", "bool"),
    Flag("detach", "d", "bool"),
    Flag("env", "e", "list"),
    Flag("memory", "m", "bytes"),
    Flag("publish", "p", "list"),
    Flag("rm", "", "bool"),
    Flag("sig-proxy", "", "bool", default=True),
    Flag("time", "t", "int", default=10),
    Flag("cache-from", "", "strings"),
    Flag("filter", "f", "filter"),
    Flag("name", "", "string"),
)


def test_values_are_taken_in_every_spelling() -> None:
    values, rest, _ = parse(
        DECLARED, ["-ad", "-p8080:80", "-p=81", "-e", "A=1", "--name=x", "--memory", "1.5g", "img"]
    )
    assert values["all"] and values["detach"]
    assert values["publish"] == ["8080:80", "81"]
    assert values["env"] == ["A=1"]
    assert values["name"] == "x"
    assert values["memory"] == 3 << 29
    assert rest == ["img"]


def test_a_boolean_can_be_switched_off() -> None:
    values, _, _ = parse(DECLARED, ["--sig-proxy=false", "--rm=0"])
    assert values["sig-proxy"] is False and values["rm"] is False
    assert values.changed("rm") and not values.changed("all")


def test_flags_may_stand_between_arguments() -> None:
    values, rest, _ = parse(DECLARED, ["one", "-a", "two", "--", "-d", "three"])
    assert rest == ["one", "two", "-d", "three"]
    assert values["all"] and not values["detach"]


def test_flags_end_at_the_first_argument_where_a_command_follows() -> None:
    values, rest, _ = parse(DECLARED, ["-a", "img", "ls", "-d"], interspersed=False)
    assert rest == ["img", "ls", "-d"]
    assert not values["detach"]


def test_a_dash_is_an_argument() -> None:
    assert parse(DECLARED, ["-"])[1] == ["-"]


def test_lists_with_commas_and_filters_are_collected() -> None:
    values, _, _ = parse(
        DECLARED, ["--cache-from", 'a,"b,c"', "--cache-from", "d", "-f", "Label=x=y", "-f", "label=z"]
    )
    assert values["cache-from"] == ["a", "b,c", "d"]
    assert flags.collect_filters(values["filter"]) == {"label": ["x=y", "z"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--foo"], "unknown flag: --foo"),
        (["--nmae", "x"], "unknown flag: --nmae (did you mean --name?)"),
        (["-aZ"], "unknown shorthand flag: 'Z' in -Z"),
        (["--name"], "flag needs an argument: --name"),
        (["-p"], "flag needs an argument: 'p' in -p"),
        (
            ["-t", "x"],
            'invalid argument "x" for "-t, --time" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (["--rm=x"], 'invalid argument "x" for "--rm" flag: strconv.ParseBool: parsing "x": invalid syntax'),
        (["-m", "x"], 'invalid argument "x" for "-m, --memory" flag: invalid size: \'x\''),
        (
            ["-f", "x"],
            'invalid argument "x" for "-f, --filter" flag: bad format of filter (expected name=value)',
        ),
    ],
)
def test_mistakes_are_named_in_dockers_words(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(DECLARED, arguments)
    assert caught.value.message == message
    assert caught.value.status == 125


@pytest.mark.parametrize(
    ("text", "nano"), [("1", 10**9), ("1.5", 1_500_000_000), (".25", 250_000_000), ("0.000000001", 1)]
)
def test_cpus_are_counted_in_billionths(text: str, nano: int) -> None:
    assert flags.parse_decimal(text) == nano


@pytest.mark.parametrize("text", ["x", "", "1e3", "1.0000000001"])
def test_what_is_no_number_of_cpus_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rational number|too precise"):
        flags.parse_decimal(text)


def test_help_is_laid_out_as_dockers() -> None:
    text = flags.flag_help(
        (
            Flag("detach", "d", "bool", "Run container in background and print container ID"),
            Flag("cpuset-cpus", "", "string", "CPUs in which to allow execution (0-3, 0,1)"),
            Flag("add-host", "", "list", "Add a custom host-to-IP mapping (host:ip)"),
            Flag("blkio-weight-device", "", "list", "Weight"),
            Flag("sig-proxy", "", "bool", "Proxy received signals to the process", default=True),
        ),
        width=80,
    )
    # The layout of `docker run --help` for the same texts.
    assert text.splitlines() == [
        "      --add-host list              Add a custom host-to-IP mapping (host:ip)",
        "      --blkio-weight-device list   Weight",
        "      --cpuset-cpus string         CPUs in which to allow execution (0-3, 0,1)",
        "  -d, --detach                     Run container in background and print",
        "                                   container ID",
        "      --sig-proxy                  Proxy received signals to the process",
        "                                   (default true)",
    ]
