import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.folds import (
    best_threshold,
    fold_numbers,
    ten_fold_accuracy,
    threshold_between,
    val_at_far,
)
from arcface_jax.evaluation.published import (
    published_ten_fold_accuracy,
    published_val_at_far,
    squared_distances,
)
from arcface_jax.evaluation.verification import (
    hardest_pairs,
    pair_similarities,
    verify_pairs,
    verify_similarities,
)
from tests.evaluation import slow

tied_or_not = st.one_of(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), st.floats(-1, 1, width=32))
pair_lists = st.lists(st.tuples(tied_or_not, st.booleans()), min_size=3, max_size=24)


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    rows = rng.normal(size=shape)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def lfw_like(seed: int = 0, num_pairs: int = 6000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    same = np.tile(np.arange(num_pairs // 10) < num_pairs // 20, 10)
    first = unit(rng, num_pairs, 16)
    second = np.where(
        same[:, None], first + 0.25 * rng.normal(size=first.shape), rng.normal(size=first.shape)
    )
    return first, second / np.linalg.norm(second, axis=1, keepdims=True), same


@settings(max_examples=100)
@given(pair_lists, st.sampled_from([2, 3]), st.sampled_from([np.float32, np.float64]))
def test_folds_equal_the_slow_version(
    pairs: list[tuple[float, bool]], folds: int, dtype: type
) -> None:
    scores, same = np.array([s for s, _ in pairs], dtype), np.array([y for _, y in pairs])
    assert ten_fold_accuracy(scores, same, folds).per_fold.tolist() == slow.ten_fold(
        scores, same, folds
    )
    kinds = [same[part] for part in np.array_split(np.arange(len(same)), folds)]
    if any(part.all() or not part.any() for part in kinds):
        with pytest.raises(InputError, match=r"of \d holds no"):
            val_at_far(scores, same, 0.25, folds)
        return
    result = val_at_far(scores, same, 0.25, folds)
    expected = np.array(slow.val(scores, same, 0.25, folds))
    assert (result.val, result.far) == tuple(expected.mean(0))
    assert result.std == expected[:, 0].std()


@settings(max_examples=12)
@given(
    st.lists(
        st.tuples(
            st.one_of(st.sampled_from([0.0, 0.01, 0.5, 4.0]), st.floats(0, 4)), st.booleans()
        ),
        min_size=4,
    ),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_published_grid_equals_the_published_loop(
    pairs: list[tuple[float, bool]], far: float
) -> None:
    distances, same = np.array([d for d, _ in pairs]), np.array([y for _, y in pairs])
    assert published_ten_fold_accuracy(
        distances, same, 2
    ).per_fold.tolist() == slow.published_ten_fold(distances, same, 2)
    if all(0 < part.sum() < len(part) for part in np.array_split(same, 2)):
        result = published_val_at_far(distances, same, far, 2)
        expected = np.array(slow.published_val(distances, same, far, 2))
        np.testing.assert_allclose(
            [result.val, result.far, result.std], [*expected.mean(0), expected[:, 0].std()]
        )


def test_published_switch_gives_the_published_numbers_on_lfw_size() -> None:
    first, second, same = lfw_like()
    result = verify_pairs(first, second, same, published_scripts=True)
    distances = squared_distances(first, second)
    accuracies = slow.published_ten_fold(distances, same, 10)
    val = np.array(slow.published_val(distances, same, 1e-3, 10))
    assert (result.accuracy, result.accuracy_std) == (np.mean(accuracies), np.std(accuracies))
    assert (result.val, result.val_std, result.val_far) == (
        val[:, 0].mean(),
        val[:, 0].std(),
        val[:, 1].mean(),
    )
    exact = verify_pairs(first, second, same)
    assert (exact.eer, exact.auc, exact.tar) == (result.eer, result.auc, result.tar)
    assert exact.accuracy != result.accuracy


def test_published_quirk_identical_images_are_rejected_at_threshold_zero() -> None:
    # Distance 0 for half of the same pairs, and different pairs closer than any grid step: strict <
    # 0.01 accepts all.
    distances = np.tile([0.0, 0.001], 4)
    same = np.tile([True, False], 4)
    assert published_ten_fold_accuracy(distances, same, 2).per_fold.tolist() == [0.5, 0.5]
    assert published_ten_fold_accuracy(distances, same, 2).thresholds.tolist() == [0.0, 0.0]
    assert ten_fold_accuracy(-distances, same, 2).per_fold.tolist() == [1.0, 1.0]


def test_folds_are_contiguous_and_the_first_are_larger() -> None:
    assert fold_numbers(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert np.array_equal(fold_numbers(6000), np.arange(6000) // 600)
    for folds in (1, 8):
        with pytest.raises(InputError, match="num_folds"):
            fold_numbers(7, folds)


def test_threshold_lies_between_even_for_neighbouring_numbers() -> None:
    lower = np.float32(0.5)
    upper = np.nextafter(lower, np.float32(1))
    assert threshold_between(upper, lower) == upper
    assert threshold_between(np.float64(0.5), np.float64(0.25)) == 0.375


def test_best_threshold_takes_the_strictest_of_equals() -> None:
    threshold, accuracy = best_threshold(
        np.array([0.9, 0.7, 0.5, 0.3]), np.array([True, False, True, False])
    )
    assert (threshold, accuracy) == (0.8, 0.75)
    nothing, accuracy = best_threshold(np.array([0.9, 0.7]), np.array([False, False]))
    assert nothing > 0.9
    assert accuracy == 1.0
    everything, accuracy = best_threshold(np.array([0.9, 0.7]), np.array([True, True]))
    assert (everything, accuracy) == (0.7, 1.0)


def test_weights_are_repetitions() -> None:
    rng = np.random.default_rng(1)
    scores, same = rng.normal(size=60).round(1), rng.random(60) < 0.5
    weights = np.tile([2, 0, 1], 20)
    assert best_threshold(scores, same, weights)[1] == pytest.approx(
        best_threshold(np.repeat(scores, weights), np.repeat(same, weights))[1]
    )
    weighted = ten_fold_accuracy(
        scores, same, 4, weights
    )  # 15 pairs and a total weight of 15 a fold
    repeated = ten_fold_accuracy(np.repeat(scores, weights), np.repeat(same, weights), 4)
    np.testing.assert_allclose(weighted.per_fold, repeated.per_fold)


def test_val_with_weights_is_val_of_repeated_pairs() -> None:
    rng = np.random.default_rng(2)
    scores, same = rng.normal(size=60).round(1), np.tile([True, False], 30)
    weights = np.tile([2, 0, 1, 0, 1, 2], 10)  # 15 pairs and a total weight of 15 a fold
    plain = val_at_far(np.repeat(scores, weights), np.repeat(same, weights), 0.2, 4)
    weighted = val_at_far(scores, same, 0.2, 4, weights)
    assert (weighted.val, weighted.std, weighted.far) == pytest.approx(
        (plain.val, plain.std, plain.far)
    )
    nothing = val_at_far(scores, same, 0.2, 4, same.astype(int))
    assert np.isnan(nothing.val)


def test_perfect_and_useless_embeddings() -> None:
    same = lfw_like(num_pairs=200)[2]
    perfect = verify_similarities(np.where(same, 0.9, 0.1), same)
    assert (perfect.accuracy, perfect.val, perfect.auc, perfect.eer, perfect.threshold) == (
        1,
        1,
        1,
        0,
        0.5,
    )
    useless = verify_similarities(np.full(200, 0.5), same)
    assert (useless.accuracy, useless.eer, useless.auc) == (0.5, 0.5, 0.5)


def test_numbers_are_flat_and_named() -> None:
    first, second, same = lfw_like(num_pairs=200)
    numbers = verify_pairs(first, second, same, fars=(0.1, 1e-3)).numbers()
    assert {
        "accuracy",
        "accuracy_std",
        "val",
        "eer",
        "auc",
        "tar@far=0.1",
        "tar@far=0.001",
    } <= numbers.keys()
    assert all(np.isfinite(value) for value in numbers.values())


def test_similarity_is_summed_in_float64() -> None:
    first, second, _ = lfw_like(num_pairs=40)
    single = pair_similarities(first.astype(np.float32), second.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, (first * second).sum(1), atol=1e-6)


def test_bad_embeddings_name_the_row() -> None:
    first, second, same = lfw_like(num_pairs=40)
    with pytest.raises(InputError, match="second: row 7 has norm 2, not 1"):
        verify_pairs(first, np.where(np.arange(40)[:, None] == 7, 2 * second, second), same)
    with pytest.raises(InputError, match="first: row 3 holds NaN"):
        verify_pairs(np.where(np.arange(40)[:, None] == 3, np.nan, first), second, same)
    with pytest.raises(InputError, match="second: shape"):
        verify_pairs(first, second[:-1], same)
    with pytest.raises(InputError, match="same: shape"):
        verify_pairs(first, second, same[:-1])
    with pytest.raises(InputError, match="fold 6 of 10 holds no same pair"):
        verify_pairs(first, second, np.sort(same)[::-1])


def test_hardest_pairs_are_the_most_wrong() -> None:
    similarities = np.array([0.9, 0.1, 0.8, 0.8, 0.3, 0.2])
    same = np.array([True, True, False, False, True, False])
    accepts, rejects = hardest_pairs(similarities, same, 2)
    assert accepts.tolist() == [2, 3]
    assert rejects.tolist() == [1, 4]
    assert hardest_pairs(similarities, same, 99)[1].tolist() == [1, 4, 0]
