"""Probabilities from scores, and how rarely strangers look as alike."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

from arcface_jax.data.in_memory import load_images
from arcface_jax.data.pairs import all_pairs
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.evaluation import calibration
from arcface_jax.evaluation.bootstrap import Resampling
from arcface_jax.evaluation.calibration import (
    Calibration,
    calibration_intervals,
    calibration_loss,
    fit_calibration,
    held_out_reliability,
    percent,
    telling_scores,
)
from arcface_jax.evaluation.impostor_tail import (
    ImpostorTail,
    at_least_once,
    impostor_tail,
    rate_of_each,
)
from arcface_jax.evaluation.verification import combine_flip, pair_similarities
from arcface_jax.interop.torch import import_torch
from arcface_jax.models.embed import mirror


def pairs_of_people(seed, people=30, images=4, spread=1.0):
    """(scores, same, first and second person) of all pairs of points around people's centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(people, 1, 12))
    unit = (centres + spread * rng.normal(size=(people, images, 12))).reshape(-1, 12)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    who = np.repeat(np.arange(people), images)
    first, second = np.triu_indices(len(who), k=1)
    return (unit @ unit.T)[first, second], who[first] == who[second], who[first], who[second]


def slow_loss(parameters, scores, same, counts):
    """The sum of `fit_calibration`'s docstring, pair by pair."""
    n_same, n_different = counts[same].sum(), counts[~same].sum()
    total = 0.0
    for score, is_same, count in zip(scores, same, counts, strict=True):
        z = parameters[0] * score + parameters[1]
        target = (n_same + 1) / (n_same + 2) if is_same else 1 / (n_different + 2)
        weight = count / (2 * (n_same if is_same else n_different))
        total += weight * (math.log1p(math.exp(-abs(z))) + max(z, 0.0) - target * z)
    return total


@pytest.mark.parametrize("weighted", [False, True])
def test_equal_to_a_slow_version(weighted):
    scores, same, *_ = pairs_of_people(0, people=6)
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 4, len(scores)) if weighted else np.ones(len(scores))
    found = fit_calibration(scores, same, counts if weighted else None)
    options = {"xatol": 1e-9, "fatol": 1e-14, "maxiter": 4000}
    arguments = (scores, same, counts.astype(float))
    slow = minimize(slow_loss, (1.0, 0.0), arguments, method="Nelder-Mead", options=options)
    np.testing.assert_allclose((found.slope, found.offset), slow.x, rtol=1e-4)
    assert (found.num_same, found.num_different) == (counts[same].sum(), counts[~same].sum())


@pytest.mark.parametrize("weighted", [False, True])
def test_many_pairs_are_counted_in_cells_without_a_difference(monkeypatch, weighted):
    rng = np.random.default_rng(0)
    same = np.arange(50_000) < 1000
    scores = np.where(same, 0.55, 0.05) + 0.15 * rng.normal(size=len(same))
    counts = rng.integers(0, 4, len(same)) if weighted else None
    found = fit_calibration(scores, same, counts)
    monkeypatch.setattr(calibration, "_CELLS", len(same))
    exact = fit_calibration(scores, same, counts)
    assert exact != found
    np.testing.assert_allclose((found.slope, found.offset), (exact.slope, exact.offset), rtol=1e-6)


def test_known_ratios_are_found():
    """Of normal distributions around 1 and 0, both of deviation ½: LR = e^(4s − 2)."""
    rng = np.random.default_rng(0)
    same = np.arange(200_000) < 20_000  # the share of same pairs does not matter
    scores = np.where(same, 1.0, 0.0) + 0.5 * rng.normal(size=len(same))
    found = fit_calibration(scores, same)
    assert (found.slope, found.offset) == (pytest.approx(4, abs=0.1), pytest.approx(-2, abs=0.1))
    assert found.probability(np.array(0.5)) == pytest.approx(0.5, abs=0.02)
    # One thousand strangers and one who is the person: P = LR/(LR + 1000).
    ratio = math.exp(found.slope * 1.5 + found.offset)
    prior = 1 / 1001
    assert found.probability(np.array(1.5), prior) == pytest.approx(ratio / (ratio + 1000))
    loss = calibration_loss(found.log_ratio(scores), same)
    assert loss["ece"] < 0.01
    assert 0.3 < loss["cllr"] < 0.6


@settings(max_examples=25)
@given(st.integers(0, 30), st.floats(0.01, 100.0), st.floats(-5.0, 5.0))
def test_monotone_and_the_same_in_any_order_and_unit(seed, unit, shift):
    scores, same, *_ = pairs_of_people(seed, people=4, images=3)
    found = fit_calibration(scores, same)
    grid = np.linspace(-1, 1, 101)
    assert found.slope > 0
    assert (np.diff(found.probability(grid)) >= 0).all()
    order = np.random.default_rng(seed).permutation(len(scores))
    shuffled = fit_calibration(scores[order], same[order])
    np.testing.assert_allclose(shuffled.log_ratio(grid), found.log_ratio(grid), atol=1e-6)
    scaled = fit_calibration(unit * scores + shift, same)
    expected, again = found.log_ratio(grid), scaled.log_ratio(unit * grid + shift)
    np.testing.assert_allclose(again, expected, atol=1e-5)


def test_separable_pairs_are_bounded_and_said():
    scores = np.array([0.9, 0.8, 0.1, 0.0, -0.1])
    same = np.array([True, True, False, False, False])
    found = fit_calibration(scores, same)
    assert found.separable
    assert np.isfinite([found.slope, found.offset]).all()
    # LR at most 3 + 1 and at least 1/(2 + 1).
    assert found.probability(np.array(1.0)) == pytest.approx(4 / 5)
    assert found.probability(np.array(-1.0)) == pytest.approx(1 / 4)
    assert not fit_calibration(np.array([0.9, 0.0, 0.1, 0.0]), same[:4]).separable


@pytest.mark.parametrize(
    ("scores", "same", "said"),
    [
        ([0.1, 0.2], [1, 1], "same: holds no different pair"),
        ([0.1, 0.2], [0, 0], "same: holds no same pair"),
        ([0.3, 0.3], [0, 1], r"scores: all are 0\.3"),
        ([0.1, 0.2], [1, 0], "scores: same pairs do not score higher than different ones"),
        ([0.1, np.nan], [1, 0], "scores: element 1 is nan"),
        ([], [], "give a non-empty vector"),
        ([0.1, 0.2], [1, 2], "same: element 1 is 2"),
        ([0.1, 0.2, 0.3], [1, 0], "same: shape"),
    ],
)
def test_what_cannot_be_calibrated_is_named(scores, same, said):
    with pytest.raises(InputError, match=said):
        fit_calibration(np.array(scores), np.array(same))


def test_a_prior_is_a_probability():
    for prior in (0, 1, -1, 2, math.nan):
        with pytest.raises(InputError, match=r"prior: .* give a probability"):
            Calibration(1.0, 0.0, 10, 10).probability(np.zeros(1), prior)


def test_the_losses_against_their_equations():
    ratios, same = np.array([2.0, -1.0, 0.5, -3.0, 0.0]), np.array([1, 1, 0, 0, 0], bool)
    p = [1 / (1 + math.exp(-r)) for r in ratios]
    expected = (
        -sum(math.log2(each) for each in p[:2]) / 2 - sum(math.log2(1 - each) for each in p[2:]) / 3
    ) / 2
    # Each pair in a bin of its own but for .6225 and none other: |p − 1|/4 or p/6 each.
    gaps = (1 - p[0]) / 4 + (1 - p[1]) / 4 + (p[2] + p[3] + p[4]) / 6
    found = calibration_loss(ratios, same)
    assert found == {"cllr": pytest.approx(expected), "ece": pytest.approx(gaps)}
    assert calibration_loss(np.zeros(2), np.array([True, False]))["cllr"] == pytest.approx(1)
    twice = calibration_loss(np.r_[ratios, ratios[:1]], np.r_[same, same[:1]])
    weighted = calibration_loss(ratios, same, np.array([2, 1, 1, 1, 1]))
    assert twice == {name: pytest.approx(value) for name, value in weighted.items()}


def test_intervals_over_people():
    pairs = pairs_of_people(0)
    found = calibration_intervals(*pairs, (0.5,), resampling=Resampling(40))
    fitted = fit_calibration(*pairs[:2])
    assert list(found) == ["slope", "offset", "probability@0.5"]
    estimates = [figure.estimate for figure in found.values()]
    expected = [fitted.slope, fitted.offset, fitted.probability(np.array(0.5))]
    np.testing.assert_allclose(estimates, expected)
    for figure in found.values():
        assert figure.low < figure.estimate < figure.high
    with pytest.raises(InputError, match="same pairs do not score higher"):
        calibration_intervals(-pairs[0], *pairs[1:], (), resampling=Resampling(3))


def test_it_is_judged_on_people_it_was_not_fitted_to():
    found = held_out_reliability(*pairs_of_people(0), resampling=Resampling(40))
    assert list(found.figures) == ["cllr", "ece"]
    assert 0 < found.figures["cllr"].low < found.figures["cllr"].estimate < 1
    assert len(found.probability) == len(found.share) == len(found.num_pairs) <= 10
    assert (np.diff(found.probability) > 0).all()
    # Pairs between both halves of the people are left out.
    assert found.num_pairs.sum() == 2 * (60 * 59 // 2)


def test_people_that_are_too_few_are_said():
    with pytest.raises(InputError, match="half of the 2 people have only one kind of pair"):
        held_out_reliability(*pairs_of_people(0, people=2), resampling=Resampling(3))


def test_the_tail_against_counting():
    rng = np.random.default_rng(0)
    scores = np.round(rng.normal(size=5000), 2)  # with ties
    same = rng.random(5000) < 0.1
    tail, different = impostor_tail(scores, same), scores[~same]
    assert tail.num_different == len(different)
    assert len(tail.scores) < 90
    assert tail.scores[0] == different.max()
    for count, kept in zip(tail.accepted, tail.scores, strict=True):
        assert count == np.count_nonzero(different >= kept)
        assert tail.rate(kept) == count / len(different)
    for score in np.linspace(different.min(), different.max(), 300):
        exact = np.mean(different >= score)
        assert exact <= tail.rate(score) <= max(1.2 * exact, exact + 20 / len(different))
    assert tail.rate(different.max() + 1e-9) == 0
    assert tail.rate(-10) == 1
    for far in (0.5, 0.1, 0.01, 1e-3):
        accepted = np.mean(different >= tail.threshold(far))
        assert 0.8 * far - 2 / len(different) <= accepted <= far


def test_what_the_tail_cannot_tell_is_refused():
    tail = ImpostorTail(500, (1, 5, 500), (0.9, 0.5, -0.4))
    assert tail.threshold(0.002) == 0.9
    assert tail.threshold(0.5) == 0.5
    said = (
        r"0\.001 for each comparison is beyond what 500 different pairs can tell; 1,000 are needed "
        "at the least, and 30,000 to know it within 30 %"
    )
    with pytest.raises(InputError, match=said):
        tail.threshold(1e-3)
    for far in (0, 1, -1, math.nan):
        with pytest.raises(InputError, match="give a false accept rate between 0 and 1"):
            tail.threshold(far)
    with pytest.raises(InputError, match="holds no different pair"):
        impostor_tail(np.ones(2), np.ones(2, bool))


@pytest.mark.parametrize(
    ("score", "said"),
    [
        (0.95, "fewer than one in 500"),
        (0.9, "one in 500"),
        (0.7, "one in 120"),  # four at most: 500/4 = 125
        (0.5, "one in 100"),
        (-0.4, "most"),
    ],
)
def test_the_tail_in_words(score, said):
    tail = ImpostorTail(500, (1, 5, 500), (0.9, 0.5, -0.4))
    assert tail.words(score) == said
    assert tail.words(0.9, 100) == "one in 5"  # 1 − .998¹⁰⁰ = .1814
    assert tail.words(0.99, 100) == "fewer than one in 5"
    assert tail.words(0.5, 100) == "most"


@given(st.floats(1e-9, 0.999), st.integers(1, 100_000))
def test_many_comparisons_and_each_of_them(rate, comparisons):
    each = rate_of_each(rate, comparisons)
    assert each <= rate * (1 + 1e-12)
    assert at_least_once(each, comparisons) == pytest.approx(rate, rel=1e-6)
    assert at_least_once(1, comparisons) == 1
    assert rate_of_each(rate, 1) == rate


def test_many_comparisons_in_numbers():
    assert at_least_once(1e-3, 1000) == pytest.approx(1 - 0.999**1000)
    assert rate_of_each(0.01, 100) == pytest.approx(1 - 0.99**0.01)
    with pytest.raises(InputError, match="far: 1; give a rate between 0 and 1"):
        rate_of_each(1, 3)


@pytest.mark.parametrize(
    ("probability", "said"),
    [
        (0.5, "50 %"),
        (0.974, "97 %"),
        (0.99, "99 %"),
        (0.9967, "99.7 %"),
        (0.99978, "99.98 %"),
        (0.0034, "0.3 %"),
        (0.999999, "99.9999 %"),
    ],
)
def test_a_probability_in_percent(probability, said):
    assert percent(probability) == said


@pytest.fixture(scope="module")
def orl(shared_data):
    """(unit embeddings, whom they show) of the ORL faces by a model trained elsewhere."""
    source = FolderSource(shared_data / "orl_faces.zip")
    model = import_torch(shared_data / "mobilefacenet_casia_arcface.ckpt")
    images, embed = load_images(source, model.image_size), model.embedder(50)
    return combine_flip(embed(images), embed(mirror(images))), np.asarray(source.labels)


@pytest.mark.slow
@pytest.mark.parametrize(("people", "cllrs"), [(20, [0.125, 0.132]), (8, [0.139, 0.164])])
def test_on_orl_a_logistic_fit_misleads_less_than_a_monotone_one(orl, people, cllrs):
    """Cllr on people it was not fitted to, over a hundred draws of those it is fitted to."""
    unit, who = orl
    pairs = all_pairs(who)
    scores = pair_similarities(unit[pairs.first], unit[pairs.second])
    first, second, losses = who[pairs.first], who[pairs.second], []
    for seed in range(100):
        drawn = np.random.default_rng(seed).permutation(40) < people
        fitted, tested = drawn[first] & drawn[second], ~drawn[first] & ~drawn[second]
        known = scores[fitted], pairs.same[fitted]
        ratios = (
            fit_calibration(*known).log_ratio(scores[tested]),
            pav_log_ratios(*known, scores[tested]),
        )
        losses.append([calibration_loss(each, pairs.same[tested])["cllr"] for each in ratios])
    assert np.mean(losses, axis=0) == pytest.approx(cllrs, abs=0.002)


@pytest.mark.slow
def test_on_orl_strangers_are_accepted_at_the_rate_that_was_asked_for(orl):
    """Ten people enrolled with a photo each, ten strangers; the tail is of twenty others."""
    unit, who = orl
    accepted = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        people = rng.permutation(40)
        measured = np.flatnonzero(np.isin(who, people[:20]))
        pairs = all_pairs(who[measured])
        cosines = pair_similarities(unit[measured[pairs.first]], unit[measured[pairs.second]])
        tail = impostor_tail(cosines, pairs.same)
        gallery = [rng.choice(np.flatnonzero(who == person)) for person in people[20:30]]
        best = (unit[np.isin(who, people[30:])] @ unit[gallery].T).max(axis=1)
        fars = (rate_of_each(0.1, 10), rate_of_each(0.01, 10), 0.1)
        accepted.append([np.mean(best >= tail.threshold(far)) for far in fars])
    assert np.mean(accepted, axis=0) == pytest.approx([0.095, 0.015, 0.589], rel=0.05)


def pav_log_ratios(scores, same, asked):
    """The alternative: the best monotone probability, with a pseudo-pair of each kind at each end
    so that it is never 0 or 1.
    """
    order = np.argsort(scores)
    s, y = np.r_[-2.0, -2.0, scores[order], 2.0, 2.0], np.r_[1, 0, same[order], 1, 0].astype(float)
    w = np.where(y == 1, 0.5 / same.sum(), 0.5 / (~same).sum())
    p = isotonic_regression(y, weights=w).x
    at = np.clip(np.searchsorted(s, asked, side="right") - 1, 0, len(s) - 1)
    return np.log(p[at] / (1 - p[at]))


@settings(deadline=None)
@given(
    st.floats(-0.9, 0.9),
    st.floats(1e-3, 0.4),
    st.integers(0, 9),
)
def test_the_scores_to_tell_the_probability_of_lie_where_the_pairs_do(middle, spread, seed):
    """Round, evenly spaced, about ten, and from the lower end of one kind to the other's upper."""
    rng, same = np.random.default_rng(seed), np.arange(300) < 100
    scores = np.clip(middle + spread * (rng.normal(size=300) * 0.3 + same), -1, 1)
    rows = np.array(telling_scores(scores, same))
    low, high = np.quantile(scores[~same], 0.05), np.quantile(scores[same], 0.95)
    step = rows[1] - rows[0]
    np.testing.assert_allclose(np.diff(rows), step, rtol=1e-6)
    assert 4 <= len(rows) <= 12
    assert low - step <= rows[0] <= low + 1e-9
    assert high - 1e-9 <= rows[-1] <= high + step
    assert -1 <= rows[0] < rows[-1] <= 1
    assert len({f"{row:g}" for row in rows}) == len(rows)


def test_scores_that_hardly_differ_still_have_rows():
    same = np.array([True, True, False, False])
    rows = telling_scores(np.array([0.9999999, 0.9999998, 0.9999997, 0.9999997]), same)
    assert rows[-1] == 1.0
    assert len(rows) == len({f"{row:g}" for row in rows}) >= 1
