"""Long work speaks: the lines, by a clock that the tests move."""

import pytest

from arcface_jax import progress
from arcface_jax.progress import Lines, in_words, rate_in_words, unseen


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    moved = Clock()
    monkeypatch.setattr(progress, "clock", moved)
    # The watching thread looks at real seconds; the tests look themselves.
    monkeypatch.setattr(progress, "_LOOK_EVERY", 3600.0)
    return moved


def work(clock, said, total, calls, title="Detecting"):
    """`calls`: (seconds since the beginning, count, at) each; count None: nobody calls."""
    with Lines(said.append, title, total) as move:
        for seconds, count, at in calls:
            clock.now = 100.0 + seconds
            if count is None:
                move.speak_if_due()
            else:
                move(count, at)


def test_a_line_every_ten_seconds_says_done_total_rate_and_time_left(clock):
    said = []
    calls = [(half / 2, 10 + half % 2, None) for half in range(1, 63)]
    work(clock, said, 13_233, [(0, 0, None), *calls])
    assert said == [
        "Detecting: 210 of 13,233 (1 %), 21.0 a second, 10 min 20 s left",
        "Detecting: 420 of 13,233 (3 %), 21.0 a second, 10 min 10 s left",
        "Detecting: 630 of 13,233 (4 %), 21.0 a second, 10 min 0 s left",
        "Detecting: 651 of 13,233 (4 %) in 31 s",
    ]


def test_work_under_ten_seconds_says_nothing(clock):
    said = []
    work(clock, said, 10, [(second, 1, None) for second in range(10)])
    assert said == []


def test_single_things_that_take_long_are_named_and_spoken_of_while_they_last(clock):
    said = []
    calls = [(0, 0, "arcface-casia"), (9, None, None), (11, None, None), (15, None, None)]
    calls += [(22, None, None), (30, 1, ""), (30, 0, "cosface"), (41, None, None), (60, 1, "")]
    work(clock, said, 2, calls, "Planning")
    assert said == [
        "Planning: 0 of 2 (0 %), 11 s so far; arcface-casia",
        "Planning: 0 of 2 (0 %), 22 s so far; arcface-casia",
        "Planning: 1 of 2 (50 %), 1.5 a minute, 41 s left; cosface",
        "Planning: 2 of 2 (100 %), 2.0 a minute, 0 s left",
        "Planning: 2 of 2 (100 %) in 1 min 0 s",
    ]


def test_what_an_interrupted_run_had_done_does_not_make_the_rate(clock):
    said = []
    work(clock, said, 2_000, [(0, 1_000, None), (10, 20, None)])
    assert said[0] == "Detecting: 1,020 of 2,000 (51 %), 2.0 a second, 8 min 10 s left"


def test_without_a_total_the_time_is_told(clock):
    said = []
    work(clock, said, None, [(12, None, None)], "Evaluating lfw")
    assert said == ["Evaluating lfw: 12 s so far", "Evaluating lfw: done in 12 s"]
    said.clear()
    clock.now = 100.0
    work(clock, said, None, [(1, 100, None), (11, 100, None)], "Reading")
    assert said == ["Reading: 200, 10.0 a second, 11 s so far", "Reading: 200 in 11 s"]


def test_nothing_at_all_is_counted_without_a_fault(clock):
    said = []
    work(clock, said, 0, [(11, 0, None)])
    assert said == ["Detecting: 0, 11 s so far", "Detecting: 0 in 11 s"]


def test_work_that_failed_is_not_said_to_be_done(clock):
    said = []

    def fail():
        with Lines(said.append, "Writing", 3) as move:
            move(1)
            clock.now += 11
            move(1)
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="the disk is full"):
        fail()
    assert said == ["Writing: 2 of 3 (66 %), 5.5 a minute, 11 s left"]


def test_the_watch_speaks_where_nobody_calls(monkeypatch):
    moved = Clock()
    monkeypatch.setattr(progress, "clock", moved)
    monkeypatch.setattr(progress, "_LOOK_EVERY", 0.001)
    said = []
    spoken = progress.threading.Event()

    def say(line):
        said.append(line)
        spoken.set()

    with Lines(say, "Planning", None):
        moved.now += 10
        assert spoken.wait(5)
    assert said == ["Planning: 10 s so far", "Planning: done in 10 s"]


def test_unseen_work_takes_the_same_calls():
    with unseen("Decoding", 3) as move:
        move(1)
        move(0, at="x")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (564, "9 min 24 s"),
        (3_599.6, "1 h 0 min"),
        (7_500, "2 h 5 min"),
        (360_000, "100 h 0 min"),
    ],
)
def test_seconds_in_words(seconds, words):
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (21.34, "21.3 a second"),
        (1_234.5, "1,234 a second"),
        (1.0, "1.0 a second"),
        (0.5, "30.0 a minute"),
        (1 / 120, "30.0 an hour"),
    ],
)
def test_rates_in_words(rate, words):
    assert rate_in_words(rate) == words
