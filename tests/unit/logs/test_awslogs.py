"""The awslogs driver: options, events within the service's limits, and batches that are sent until they are taken."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from sampan.errors import Invalid
from sampan.logs import awslogs
from sampan.logs.awslogs.destination import AwsLogsDestination
from sampan.logs.awslogs.events import Assembler, Event, batch_length, split
from sampan.logs.awslogs.outcome import Outcome
from sampan.logs.awslogs.settings import Settings, parse
from sampan.logs.undelivered import Undelivered
from sampan.testing.log_drivers import MOMENT, entry

# https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_PutLogEvents.html
LARGEST_EVENT = 256 * 1024
LARGEST_BATCH = 1_048_576
DAY = 24 * 3600 * 1000
GROUP = {"awslogs-group": "g"}


def texts(events: Sequence[Event]) -> list[str]:
    return [event.text for event in events]


def test_an_event_has_milliseconds_and_the_size_that_the_service_counts() -> None:
    assert Assembler().feed(entry("grüße".encode())) == [Event(MOMENT // 10**6, "grüße", 7 + 26)]
    assert Assembler().feed(entry(b"")) == []  # the service refuses empty events


def test_bytes_that_are_no_text_become_replacement_characters_of_three_bytes() -> None:
    assert split(b"a\xffb", 1) == [Event(1, "a\ufffdb", 5 + 26)]


def test_a_line_too_long_for_an_event_is_split_between_characters() -> None:
    events = split(("a" + "ü" * 300_000).encode(), 1)
    assert "".join(texts(events)) == "a" + "ü" * 300_000
    assert len(events) == 3
    for event in events:
        assert len(event.text.encode()) + 26 == event.size <= LARGEST_EVENT


def test_pieces_of_a_line_are_joined() -> None:
    assembler = Assembler()
    assert assembler.feed(entry(b"a", partial=True)) == []
    assert texts(assembler.feed(entry(b"other", stream=2))) == ["other"]
    assert assembler.holds
    assert texts(assembler.feed(entry(b"b"))) == ["ab"]
    assert not assembler.holds


def test_a_line_without_end_does_not_grow_for_ever() -> None:
    assembler = Assembler()
    found = []
    for _ in range(40):
        found += assembler.feed(entry(b"x" * 16384, partial=True))
    assert sum(map(len, texts(found))) >= 24 * 16384
    assert "".join(texts(found + assembler.flush())) == "x" * 40 * 16384


def test_lines_that_follow_a_match_are_one_event() -> None:
    assembler = Assembler(r"^\d{4}-")
    lines = [b"2026-1 boom", b"  at a", b"  at b", b"2026-2 next"]
    found = [event for line in lines for event in assembler.feed(entry(line))]
    assert texts(found) == ["2026-1 boom\n  at a\n  at b\n"]
    assert texts(assembler.flush()) == ["2026-2 next\n"]


def test_a_date_format_is_a_pattern() -> None:
    # The format and the line of Docker's documentation.
    pattern = parse(GROUP | {"awslogs-datetime-format": r"\[%b %d, %Y %H:%M:%S\]"}).multiline
    assembler = Assembler(pattern)
    found = assembler.feed(entry(b"[May 01, 2017 19:00:01] A message was logged"))
    found += assembler.feed(entry(b"Another multiline message was logged"))
    found += assembler.feed(entry(b"[May 01, 2017 19:00:04] Another"))
    assert texts(found) == [
        "[May 01, 2017 19:00:01] A message was logged\nAnother multiline message was logged\n"
    ]


def test_a_batch_keeps_to_each_limit_of_the_service() -> None:
    small = [Event(1, "x", 27)] * 10_001
    assert batch_length(small) == 10_000
    large = [Event(1, "", LARGEST_EVENT)] * 5
    assert batch_length(large) == 4 and 4 * LARGEST_EVENT == LARGEST_BATCH
    assert batch_length([Event(5, "x", 27), Event(DAY + 4, "x", 27), Event(DAY + 5, "x", 27)]) == 2
    assert batch_length([Event(DAY + 5, "x", 27), Event(5, "x", 27)]) == 1
    assert batch_length([]) == 0


class FakeStream:
    """Answers as `answers` say, and from then on takes everything."""

    def __init__(self, *answers: Outcome) -> None:
        self.answers = list(answers)
        self.taken: list[list[Event]] = []
        self.puts = 0
        self.changed = threading.Condition()
        self.closed = False

    def put(self, events: Sequence[Event]) -> tuple[Outcome, list[Event], str]:
        with self.changed:
            self.puts += 1
            outcome = self.answers.pop(0) if self.answers else Outcome.TAKEN
            if outcome is Outcome.TAKEN:
                self.taken.append(list(events))
            self.changed.notify_all()
            return outcome, [], "" if outcome is Outcome.TAKEN else "throttled"

    def close(self) -> None:
        self.closed = True

    def wait_for_puts(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.puts >= count, 10)


def test_events_wait_for_the_interval_unless_a_batch_is_full() -> None:
    stream = FakeStream()
    destination = AwsLogsDestination(Settings("g", flush_interval=3600, max_buffered_events=3), stream)
    destination.send([entry(b"1"), entry(b"2")])
    assert stream.puts == 0
    destination.send([entry(b"3")])
    stream.wait_for_puts(1)
    assert [texts(batch) for batch in stream.taken] == [["1", "2", "3"]]
    destination.send([entry(b"4")])
    destination.close()
    assert texts(stream.taken[1]) == ["4"] and stream.closed


def test_the_interval_also_ends_what_waits_for_more_lines() -> None:
    stream = FakeStream()
    destination = AwsLogsDestination(Settings("g", flush_interval=1, multiline="^begin"), stream)
    destination.send([entry(b"begin"), entry(b"more")])
    stream.wait_for_puts(1)
    assert texts(stream.taken[0]) == ["begin\nmore\n"]
    destination.close()


def test_a_throttled_batch_is_sent_again_and_nothing_is_lost() -> None:
    stream = FakeStream(Outcome.LATER)
    destination = AwsLogsDestination(Settings("g", flush_interval=3600, max_buffered_events=2), stream)
    destination.send([entry(b"1"), entry(b"2")])
    stream.wait_for_puts(1)
    destination.close()  # ends the pause
    assert [texts(batch) for batch in stream.taken] == [["1", "2"]]
    assert destination.losses.entries == 0


def test_while_the_service_takes_nothing_a_full_buffer_says_what_it_did_not_take() -> None:
    stream = FakeStream(*[Outcome.LATER] * 1000)
    settings = Settings("g", flush_interval=3600, max_buffered_events=2)
    destination = AwsLogsDestination(settings, stream, room_timeout=0.1, close_grace=0.1)
    with pytest.raises(Undelivered, match="throttled") as caught:
        destination.send([entry(b"1"), entry(b"2"), entry(b"3")])
    assert caught.value.delivered == 2
    destination.close()
    assert (destination.losses.entries, destination.losses.bytes) == (2, 2)


def test_what_the_service_will_never_take_is_lost_and_counted() -> None:
    stream = FakeStream(Outcome.NEVER)
    destination = AwsLogsDestination(Settings("g", flush_interval=3600, max_buffered_events=2), stream)
    destination.send([entry(b"1"), entry(b"2")])
    stream.wait_for_puts(1)
    destination.send([entry(b"3")])
    destination.close()
    assert [texts(batch) for batch in stream.taken] == [["3"]]
    assert destination.losses.entries == 2


# The words are dockerd 20.10.24's, and later versions' for the options that it has not.
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"foo": "1"}, "unknown log opt 'foo' for awslogs log driver"),
        ({"awslogs-group": "g", "labels": "x"}, "unknown log opt 'labels' for awslogs log driver"),
        ({}, "must specify a value for log opt 'awslogs-group'"),
        (
            GROUP | {"awslogs-create-group": "q"},
            "must specify valid value for log opt 'awslogs-create-group': "
            'strconv.ParseBool: parsing "q": invalid syntax',
        ),
        (
            GROUP | {"awslogs-force-flush-interval-seconds": "0"},
            "must specify a positive integer for log opt 'awslogs-force-flush-interval-seconds': 0",
        ),
        (
            GROUP | {"awslogs-max-buffered-events": "x"},
            "must specify a positive integer for log opt 'awslogs-max-buffered-events': x",
        ),
        (
            GROUP | {"awslogs-datetime-format": "%Y", "awslogs-multiline-pattern": "a"},
            "you cannot configure log opt 'awslogs-datetime-format' and 'awslogs-multiline-pattern' "
            "at the same time",
        ),
        (
            GROUP | {"awslogs-credentials-endpoint": "@evil.example/"},
            "must specify a path for log opt 'awslogs-credentials-endpoint': @evil.example/",
        ),
        (GROUP | {"awslogs-format": "xml"}, "unsupported log format 'xml'"),
    ],
)
def test_wrong_options_are_refused_in_dockers_words(options: dict[str, str], words: str) -> None:
    with pytest.raises(Invalid) as caught:
        awslogs.check_options(options)
    assert caught.value.message == words


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(Invalid, match="could not parse multiline pattern"):
        awslogs.check_options(GROUP | {"awslogs-multiline-pattern": "("})
