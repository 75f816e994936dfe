"""The training command comes back from whatever happens to it: the faults of
`experiments.reliability`.
"""

import pytest

from experiments.reliability.faults import (
    changed_data,
    damaged_checkpoints,
    full_disk,
    kills,
    lose_everything,
    no_place,
    not_finite,
    other_configuration,
    signals,
)
from tests.processes import quick_to_compile

# Processes one after the other, and each compiles: more than the default on a slow machine.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace for all: they compare with the same run that nothing happens to."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """What is struck is how a run goes on, not what the compiler makes of it."""
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())


@pytest.mark.slow
def test_killed_three_times_ends_bit_identical(place):
    """`python -m experiments.reliability` kills more often."""
    tally = kills(place, times=3, seed=1)
    assert (tally.times, tally.lost) == (3, [])
    in_a_save = int(tally.what.split(", ")[1].split()[0])
    assert in_a_save >= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [signals, full_disk, other_configuration, changed_data, not_finite, no_place]
)
def test_nothing_is_lost(fault, place):
    tally = fault(place)
    assert tally.times > 0
    assert tally.lost == []


@pytest.mark.slow
def test_damaged_checkpoints_lose_the_steps_since_the_one_before_alone(place):
    """In one way; tests/runs/test_faults_resume.py has all of them in one process."""
    tally = damaged_checkpoints(place, (lose_everything,))
    assert (tally.times, tally.lost) == (3, [])
