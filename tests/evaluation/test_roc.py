import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.roc import (
    area_under_curve,
    equal_error_rate,
    operating_point,
    roc_curve,
    roc_numbers,
    tar_at_far,
)
from tests.evaluation import slow

# Scores from a handful of values, so that ties, within and across kinds, are the rule.
tied_pairs = st.lists(
    st.tuples(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=25
)
any_pairs = st.lists(st.tuples(st.floats(-1, 1, width=32), st.booleans()), min_size=2, max_size=25)


def arrays(pairs: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([score for score, _ in pairs]), np.array([same for _, same in pairs])


@settings(max_examples=150)
@given(st.one_of(tied_pairs, any_pairs), st.sampled_from([0.0, 1e-3, 0.1, 0.25, 0.5, 1.0]))
def test_equals_the_slow_version(pairs: list[tuple[float, bool]], far: float) -> None:
    scores, same = arrays(pairs)
    if same.all() or not same.any():
        with pytest.raises(InputError, match="no ROC"):
            roc_curve(scores, same)
        return
    roc = roc_curve(scores, same)
    assert list(zip(roc.far.tolist(), roc.tar.tolist(), strict=True)) == slow.roc_points(
        scores, same
    )
    assert roc.thresholds.tolist() == [np.inf, *sorted(set(scores.tolist()), reverse=True)]
    assert tar_at_far(roc, far) == slow.tar_nearest(scores, same, far)
    assert equal_error_rate(roc) == pytest.approx(slow.equal_error(scores, same), abs=1e-12)
    assert area_under_curve(roc) == pytest.approx(slow.mann_whitney(scores, same), abs=1e-12)
    found = roc_numbers(roc, (far,))
    assert found.tar == {far: tar_at_far(roc, far)}
    assert (found.eer, found.auc) == (equal_error_rate(roc), area_under_curve(roc))
    assert found.numbers() == {
        f"tar@far={far:g}": found.tar[far],
        "eer": found.eer,
        "auc": found.auc,
    }
    strict = operating_point(roc, far, "at_most")
    assert roc.tar[strict] == max(y for x, y in slow.roc_points(scores, same) if x <= far)
    assert roc.far[strict] <= far


@settings(max_examples=60)
@given(tied_pairs, st.data())
def test_integer_weights_are_repetitions(
    pairs: list[tuple[float, bool]], data: st.DataObject
) -> None:
    scores, same = arrays(pairs)
    weights = np.array(
        data.draw(st.lists(st.integers(0, 3), min_size=len(same), max_size=len(same)))
    )
    repeated, repeated_same = np.repeat(scores, weights), np.repeat(same, weights)
    if not repeated_same.any() or repeated_same.all():
        return
    weighted, plain = roc_curve(scores, same, weights), roc_curve(repeated, repeated_same)
    assert area_under_curve(weighted) == pytest.approx(area_under_curve(plain), abs=1e-12)
    assert equal_error_rate(weighted) == pytest.approx(equal_error_rate(plain), abs=1e-12)
    assert tar_at_far(weighted, 0.3) == tar_at_far(plain, 0.3)


def test_a_curve_worked_out_by_hand() -> None:
    #               same: .9 .8 .4        different: .8 .3 .2 .1
    roc = roc_curve(np.array([0.9, 0.8, 0.4, 0.8, 0.3, 0.2, 0.1]), np.array([1, 1, 1, 0, 0, 0, 0]))
    assert roc.far.tolist() == [0, 0, 0.25, 0.25, 0.5, 0.75, 1]
    np.testing.assert_allclose(roc.tar, [0, 1 / 3, 2 / 3, 1, 1, 1, 1])
    assert tar_at_far(roc, 0.25) == 1.0  # two points have FAR ¼: the larger TAR
    assert tar_at_far(roc, 0.125) == 1.0  # 0 and ¼ are equally near: the larger TAR
    assert tar_at_far(roc, 0.124) == pytest.approx(1 / 3)
    assert equal_error_rate(roc) == pytest.approx(0.25)
    assert area_under_curve(roc) == pytest.approx(1 - 1.5 / 12)


def test_equal_scores_carry_no_information() -> None:
    roc = roc_curve(np.full(10, 0.3), np.arange(10) < 4)
    assert roc.far.tolist() == [0, 1]
    assert equal_error_rate(roc) == 0.5
    assert area_under_curve(roc) == 0.5


def test_order_of_pairs_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    scores, same = rng.normal(size=500).round(1), rng.random(500) < 0.3
    order = np.argsort(-scores)
    one, other = roc_curve(scores, same), roc_curve(scores[order], same[order])
    assert np.array_equal(one.false_accepts, other.false_accepts)
    assert np.array_equal(one.true_accepts, other.true_accepts)


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, np.nan], [True, False], "element 1 is nan"),
        ([np.inf, 0.1], [True, False], "element 0 is inf"),
        ([0.1, 0.2], [True], "2 scores"),
        ([0.1, 0.2], [0, 2], "element 1 is 2"),
        ([[0.1, 0.2]], [True, False], "vector"),
        (["a", "b"], [True, False], "real numbers"),
    ],
)
def test_bad_input_names_the_position(scores: list, same: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        roc_curve(np.array(scores), np.array(same))


def test_bad_weights_rates_and_rules_are_refused() -> None:
    roc = roc_curve(np.array([0.1, 0.2]), np.array([False, True]))
    with pytest.raises(InputError, match="element 1 is -1"):
        roc_curve(np.array([0.1, 0.2]), np.array([False, True]), np.array([1, -1]))
    with pytest.raises(InputError, match=r"far: 1\.5"):
        tar_at_far(roc, 1.5)
    with pytest.raises(InputError, match="rule: 'best'"):
        tar_at_far(roc, 0.1, "best")  # type: ignore[arg-type]
