"""T-norm and S-norm against their equations."""

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.roc import area_under_curve, roc_curve
from arcface_jax.evaluation.score_norm import ScoreNorm, normalise_scores


def unit_rows(seed, count, size=8, shift=0.0):
    rows = np.random.default_rng(seed).normal(size=(count, size)) + shift
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["t", "s"])
@pytest.mark.parametrize("top", [None, 2, 7, 40])
def test_against_a_loop_in_float64(kind, top):
    unit, cohort = unit_rows(0, 12), 3 * unit_rows(1, 40)
    first, second = np.triu_indices(12, k=1)
    found = normalise_scores(
        (unit @ unit.T)[first, second], unit, first, second, ScoreNorm(cohort, kind, top)
    )
    expected = []
    for a, b in zip(first, second, strict=True):
        parts = []
        for image in (a, b):
            cosines = sorted(float(unit[image] @ c) / float(np.linalg.norm(c)) for c in cohort)
            used = cosines if top is None else cosines[-top:]
            mean = sum(used) / len(used)
            deviation = (sum((x - mean) ** 2 for x in used) / len(used)) ** 0.5
            parts.append((float(unit[a] @ unit[b]) - mean) / deviation)
        expected.append(parts[1] if kind == "t" else sum(parts) / 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_s_norm_does_not_know_first_from_second_and_t_norm_does():
    unit, first, second = unit_rows(0, 6), np.array([0, 1, 4]), np.array([2, 3, 5])
    scores = (unit @ unit.T)[first, second]
    for kind, symmetric in (("s", True), ("t", False)):
        norm = ScoreNorm(unit_rows(1, 20), kind)
        one = normalise_scores(scores, unit, first, second, norm)
        other = normalise_scores(scores, unit, second, first, norm)
        assert np.allclose(one, other) == symmetric


def test_images_that_are_alike_to_everybody_no_longer_decide():
    """Half of the people's images share a direction with the cohort's like ones."""
    rng = np.random.default_rng(0)
    common = np.eye(16)[0]

    def images(people, each):
        centres = np.repeat(rng.normal(size=(people, 16)), each, axis=0)
        blurred = np.repeat(np.arange(people) % 2, each)[:, None]
        rows = centres + 0.5 * rng.normal(size=centres.shape) + 6 * blurred * common
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    unit, cohort, who = images(20, 4), images(20, 4), np.repeat(np.arange(20), 4)
    first, second = np.triu_indices(80, k=1)
    scores, same = (unit @ unit.T)[first, second], who[first] == who[second]
    norm = ScoreNorm(cohort, top=20)
    normalised = normalise_scores(scores, unit, first, second, norm)
    before, after = (area_under_curve(roc_curve(each, same)) for each in (scores, normalised))
    assert 1 - after < 0.2 * (1 - before)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cohort": unit_rows(1, 1)}, "cohort: 1 of 1 embedding; give from 2"),
        ({"top": 1}, "cohort: 1 of 9 embeddings; give from 2 to all of them"),
        ({"top": 10}, "cohort: 10 of 9 embeddings"),
        ({"kind": "z"}, "kind: 'z' is unknown; use t or s"),
        ({"cohort": unit_rows(1, 9, 5)}, "cohort: embeddings of 5 numbers, but the set has 8"),
        ({"cohort": np.zeros((9, 8))}, "cohort: row 0 is zero"),
        ({"cohort": np.full((9, 8), np.nan)}, "cohort: row 0 holds NaN"),
        ({"cohort": np.ones((9, 8))}, "cohort: all of it is equally alike to image 0"),
        ({"cohort": unit_rows(0, 6)}, "cohort: holds image 0 of the set itself; give other"),
    ],
)
def test_a_cohort_that_tells_nothing_is_refused(options, said):
    unit = unit_rows(0, 6)

    def normalise():
        norm = ScoreNorm(**({"cohort": unit_rows(1, 9)} | options))
        return normalise_scores(np.zeros(1), unit, np.array([0]), np.array([1]), norm)

    with pytest.raises(InputError, match=said):
        normalise()


def test_it_says_what_it_does():
    assert str(ScoreNorm(unit_rows(1, 9))) == "S-norm by 9"
    assert str(ScoreNorm(unit_rows(1, 9), "t", 5)) == "T-norm by the 5 most alike of 9"
