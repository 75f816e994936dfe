import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arcface_jax.analysis.over_seeds import compare_order, paired_difference, standings, summarise
from arcface_jax.errors import InputError


def test_summary_of_known_values():
    summary = summarise([0.8, 0.9, 0.7])
    assert (summary.median, summary.low, summary.high, summary.count) == (0.8, 0.7, 0.9, 3)
    assert summary.mean == pytest.approx(0.8)
    assert summary.deviation == pytest.approx(0.1)
    assert math.isnan(summarise([1.0]).deviation)


def test_paired_difference_is_scipys_paired_t_test():
    first, second = [0.91, 0.88, 0.93, 0.90], [0.89, 0.87, 0.90, 0.91]
    found, test = paired_difference(first, second), stats.ttest_rel(first, second)
    assert found.p_value == pytest.approx(float(test.pvalue))
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == (
        pytest.approx(float(interval.low)),
        pytest.approx(float(interval.high)),
    )
    assert (found.wins, found.count, found.verdict) == (3, 4, "noise")


def test_equal_differences_have_the_p_value_of_equal_signs():
    """Of figures of few pairs they are often equal by chance: the t test would be certain."""
    ahead = paired_difference([0.75, 0.5, 0.4], [0.5, 0.25, 0.15])  # 0.25 but for rounding
    assert (ahead.mean, ahead.p_value, ahead.verdict) == (pytest.approx(0.25), 0.25, "noise")
    six = paired_difference([0.7] * 6, [0.6] * 6)
    assert (six.p_value, six.verdict) == (1 / 32, "significant")
    assert paired_difference([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]).p_value == 1.0
    assert paired_difference([0.9, 0.8], [0.5, 0.1]).verdict == "too few seeds"


SEEDS = range(5)
FIGURES = {
    "good": [0.90, 0.91, 0.89, 0.92, 0.90],
    "alike": [0.90, 0.90, 0.90, 0.91, 0.89],
    "bad": [0.80, 0.82, 0.79, 0.83, 0.78],
}


def of(figures, sign=1.0):
    return {
        name: dict(zip(SEEDS, (sign * value for value in values), strict=False))
        for name, values in figures.items()
    }


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_who_stands_where_is_told_by_holm_s_paired_tests(sign):
    found = standings(of(FIGURES, sign), lower_is_better=sign < 0)
    p = {
        name: float(stats.ttest_rel(FIGURES["good"], FIGURES[name]).pvalue)
        for name in ("alike", "bad")
    }
    assert p["bad"] < 0.01 < 0.05 < p["alike"]
    assert found["bad"] == ("worse", pytest.approx(2 * p["bad"]))
    assert found["alike"] == ("not told apart", pytest.approx(p["alike"]))
    assert found["good"].verdict == "best"


def test_few_seeds_take_no_part():
    lucky = FIGURES | {"lucky": [0.99, 0.99]}
    found = standings(of(lucky))
    assert found["lucky"].verdict == "too few seeds"
    assert found["good"].verdict == "best"
    assert {one.verdict for one in standings(of({"a": [0.9], "b": [0.8, 0.7]})).values()} == {
        "too few seeds"
    }
    # Enough of each, but not of the same.
    apart = {"a": {0: 0.9, 1: 0.8, 2: 0.9}, "b": {2: 0.1, 3: 0.2, 4: 0.1}}
    assert standings(apart)["b"].verdict == "too few seeds"
    assert standings({}) == {}


def test_equal_results_are_not_told_apart():
    found = standings(of({"a": [1.0] * 5, "b": [1.0] * 5}))
    assert [one.verdict for one in found.values()] == ["best", "not told apart"]
    assert found["b"].p_value == 1.0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=6))
def test_swapping_the_two_turns_the_difference_over(pairs):
    first, second = np.array(pairs).T
    one, other = paired_difference(first, second), paired_difference(second, first)
    assert one.mean == pytest.approx(-other.mean)
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == pytest.approx(other.p_value)


def test_one_seed_cannot_be_tested():
    with pytest.raises(InputError, match="two seeds or more"):
        paired_difference([0.9], [0.8])
    with pytest.raises(InputError, match="at least one"):
        summarise([])
    with pytest.raises(InputError, match="finite"):
        summarise([0.5, float("nan")])


def test_order_names_the_pairs_that_differ():
    ours = {"a": 3.0, "b": 2.0, "c": 1.0, "only ours": 9.0}
    same = compare_order(ours, {"a": 30.0, "b": 20.0, "c": 10.0})
    assert (same.tau, same.swapped, same.num_pairs) == (pytest.approx(1.0), (), 3)
    other = compare_order(ours, {"a": 20.0, "b": 30.0, "c": 10.0})
    assert other.swapped == (("a", "b"),)
    assert other.tau == pytest.approx(1 / 3)
    assert math.isnan(compare_order(ours, {"a": 1.0, "b": 1.0}).tau)
    with pytest.raises(InputError, match="at least two"):
        compare_order(ours, {"a": 1.0})
