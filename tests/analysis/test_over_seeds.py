import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arcface_jax.analysis.over_seeds import compare_order, paired_difference, summarise
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


def test_equal_differences_need_no_spread():
    ahead = paired_difference([0.75, 0.5], [0.5, 0.25])
    assert (ahead.mean, ahead.p_value, ahead.verdict) == (0.25, 0.0, "significant")
    assert paired_difference([0.5, 0.5], [0.5, 0.5]).p_value == 1.0


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
