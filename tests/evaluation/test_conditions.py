"""Groups, quality and thresholds to deploy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.bootstrap import Resampling
from arcface_jax.evaluation.groups import group_rates, pair_groups, verify_by_group
from arcface_jax.evaluation.quality import error_versus_reject
from arcface_jax.evaluation.thresholds import deployment_threshold, fars_told, too_few_pairs
from arcface_jax.evaluation.verification import verify_similarities


def population(seed: int, people: int = 80, each: int = 3) -> tuple[np.ndarray, ...]:
    """(scores, same, first, second, labels) of all pairs of some images; people < 40 are easier."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(people), each)
    first, second = np.triu_indices(len(labels), 1)
    same = labels[first] == labels[second]
    easy = (labels[first] < people // 2) & (labels[second] < people // 2)
    mean = np.where(same, np.where(easy, 0.7, 0.45), np.where(easy, 0.0, 0.1))
    return mean + 0.15 * rng.normal(size=len(first)), same, first, second, labels


def test_group_rates_are_plain_counts_and_the_gap_is_their_range() -> None:
    scores, same, first, second, labels = population(0)
    groups = pair_groups(np.where(labels < 40, "a", "b"), first, second)
    rates = group_rates(
        scores, same, groups, 0.35, labels[first], labels[second], resampling=Resampling(60)
    )
    for group in ("a", "b", "mixed"):
        inside = groups == group
        assert rates.far[group].estimate == np.mean(scores[inside & ~same] >= 0.35)
    for group in ("a", "b"):
        assert rates.frr[group].estimate == np.mean(scores[(groups == group) & same] < 0.35)
        assert rates.frr[group].low <= rates.frr[group].estimate <= rates.frr[group].high
    assert "mixed" not in rates.frr
    assert rates.gaps["far"].estimate == pytest.approx(
        abs(rates.far["a"].estimate - rates.far["b"].estimate)
    )
    assert rates.gaps["frr"].estimate == pytest.approx(
        abs(rates.frr["a"].estimate - rates.frr["b"].estimate)
    )
    assert rates.frr["a"].high < rates.frr["b"].low  # the harder group is told apart


def test_groups_by_the_ten_folds() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(np.repeat([True, False], 10), 20)
    scores = np.where(same, 0.5, 0.0) + 0.3 * rng.normal(size=400)
    groups = np.repeat(["African", "Asian"], 200)
    results = verify_by_group(scores, same, groups)
    assert results["African"] == verify_similarities(scores[:200], same[:200])
    assert results["Asian"] == verify_similarities(scores[200:], same[200:])
    assert list(verify_by_group(scores, same, np.where(groups == "Asian", "mixed", groups))) == [
        "African"
    ]


def test_bad_groups_are_named() -> None:
    scores, same, first, second, labels = population(0, people=4)
    with pytest.raises(InputError, match="groups: shape"):
        group_rates(scores, same, np.array(["a"]), 0.3, labels[first], labels[second])
    with pytest.raises(InputError, match="first: element 0 is 99"):
        pair_groups(np.array(["a", "b"]), np.array([99]), np.array([0]))


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.1, 0.3]))
def test_reject_curve_equals_the_slow_version(seed: int, far: float) -> None:
    rng = np.random.default_rng(seed)
    quality = rng.integers(0, 6, 15).astype(float)
    first, second = np.triu_indices(15, 1)
    same = rng.random(len(first)) < 0.3
    scores = rng.integers(0, 10, len(first)) / 10
    fractions = (0.0, 0.2, 0.4, 0.8)
    curve = error_versus_reject(scores, same, first, second, quality, far=far, fractions=fractions)
    allowed = [t for t in [np.inf, *scores] if np.mean(scores[~same] >= t) <= far]
    assert np.mean(scores[same] >= curve.threshold) == max(
        np.mean(scores[same] >= t) for t in allowed
    )
    for k, fraction in enumerate(fractions):
        gone = [i for i in range(15) if np.sum(quality <= quality[i]) <= round(fraction * 15, 9)]
        left = np.array(
            [i not in gone and j not in gone for i, j in zip(first, second, strict=True)]
        )
        assert curve.rejected[k] == len(gone) / 15
        expected = np.mean(scores[left & same] < curve.threshold) if (left & same).any() else np.nan
        np.testing.assert_equal(curve.frr[k], expected)


def test_rejecting_blurred_images_lowers_the_error() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(50), 4)
    quality = rng.random(200)
    first, second = np.triu_indices(200, 1)
    same = labels[first] == labels[second]
    scores = np.where(same, np.minimum(quality[first], quality[second]), 0.0) + 0.1 * rng.normal(
        size=len(first)
    )
    good = error_versus_reject(scores, same, first, second, quality)
    useless = error_versus_reject(scores, same, first, second, rng.random(200))
    assert (np.diff(good.frr) < 0.02).all()
    assert good.frr[-1] < 0.5 * good.frr[0]
    assert good.area < 0.8 * useless.area
    assert np.array_equal(good.rejected, good.fractions)
    np.testing.assert_allclose(good.fractions, np.arange(11) / 20)  # up to a half


def test_bad_quality_is_named() -> None:
    scores, same, first, second, labels = population(0, people=4)
    quality = np.ones(len(labels))
    with pytest.raises(InputError, match="quality: element 2 is nan"):
        error_versus_reject(
            scores, same, first, second, np.where(np.arange(12) == 2, np.nan, quality)
        )
    with pytest.raises(InputError, match="second: element 10 is 11"):
        error_versus_reject(scores, same, first, second, quality[:-1])
    for fractions in ((0.5, 0.1), (-0.1, 0.5), (0.5, 1.0), (0.5,)):
        with pytest.raises(InputError, match="fractions"):
            error_versus_reject(scores, same, first, second, quality, fractions=fractions)
    with pytest.raises(InputError, match="first, second: 65"):
        error_versus_reject(scores, same, first[1:], second[1:], quality)


def test_threshold_to_deploy_keeps_the_wanted_rate_and_says_how_sure_it_is() -> None:
    scores, same, first, second, labels = population(1)
    found = deployment_threshold(
        scores, same, labels[first], labels[second], 1e-2, resampling=Resampling(100)
    )
    impostors = scores[~same]
    assert np.mean(impostors >= found.threshold.estimate) == found.far <= 1e-2
    assert np.mean(impostors >= np.max(scores[scores < found.threshold.estimate])) > 1e-2
    assert found.tar.estimate == np.mean(scores[same] >= found.threshold.estimate)
    assert found.threshold.low < found.threshold.estimate < found.threshold.high
    assert found.num_different == len(impostors)
    assert found.warning is None


def test_too_few_impostors_are_said() -> None:
    scores, same, first, second, labels = population(1, people=10)
    found = deployment_threshold(
        scores, same, labels[first], labels[second], 1e-6, resampling=Resampling(20)
    )
    assert found.far == 0.0
    assert found.warning is not None
    assert (
        "cannot tell whether the FAR is below 1e-06 at all; collect at least 30,000,000"
        in found.warning
    )
    assert too_few_pairs(30_000, 1e-3) is None
    assert "more than 30 %; collect at least 30,000" in str(too_few_pairs(29_999, 1e-3))
    assert "at all" in str(too_few_pairs(2_999, 1e-3))


def test_threshold_above_everything_when_the_highest_score_is_false() -> None:
    scores, same = np.array([0.9, 0.5, 0.2]), np.array([False, True, False])
    found = deployment_threshold(
        scores, same, np.array([0, 1, 0]), np.array([1, 1, 2]), 0.1, resampling=Resampling(5)
    )
    assert found.threshold.estimate > 0.9
    assert (found.far, found.tar.estimate) == (0.0, 0.0)
    with pytest.raises(InputError, match="far: 0"):
        deployment_threshold(scores, same, np.zeros(3), np.ones(3), 0.0)


def test_rates_that_the_pairs_cannot_tell_apart_are_left_out():
    """Each rate that stays accepts another number of pairs, and one at the least."""
    assert fars_told((1e-2, 1e-3), 1000) == ((1e-2, 1e-3), None)
    told, said = fars_told((1e-5, 1e-2, 1e-4, 1e-3), 1000)
    assert told == (1e-2, 1e-3)
    assert "FAR 0.0001, 1e-05 are left out: of 1,000 different pairs" in said
    assert "10,000 are needed at the least for 0.0001" in said
    told, said = fars_told((1e-4, 1e-3), 5)
    assert told == (1e-3,)
    assert "FAR 0.0001 is left out" in said
    with pytest.raises(InputError, match="far: 0"):
        fars_told((0.0,), 5)
