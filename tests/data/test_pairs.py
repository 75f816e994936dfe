import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.pairs import Pairs, all_pairs, draw_pairs, same_pairs
from arcface_jax.errors import InputError


def laws(pairs: Pairs, labels: np.ndarray) -> None:
    first, second = pairs.first, pairs.second
    assert np.array_equal(pairs.same, labels[first] == labels[second])
    assert (first != second).all()
    assert len(
        {frozenset(pair) for pair in zip(first.tolist(), second.tolist(), strict=True)}
    ) == len(pairs)
    folds = pairs.same.reshape(pairs.num_folds, -1)
    half = folds.shape[1] // 2
    assert folds[:, :half].all()
    assert not folds[:, half:].any()
    members = [
        set(labels[part].ravel())
        for part in np.split(np.stack([first, second], 1), pairs.num_folds)
    ]
    overlap = any(members[i] & members[j] for i in range(len(members)) for j in range(i))
    if pairs.disjoint_folds:
        assert not overlap


def test_lfw_size_with_disjoint_folds() -> None:
    labels = np.repeat(np.arange(400), 9)
    pairs = draw_pairs(labels, 6000, seed=0)
    assert len(pairs) == 6000
    assert pairs.disjoint_folds
    laws(pairs, labels)


def test_equal_seed_gives_equal_pairs_and_another_seed_does_not() -> None:
    labels = np.random.default_rng(0).integers(0, 30, 300)
    one, again, other = (draw_pairs(labels, 200, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.first, again.first)
    assert np.array_equal(one.second, again.second)
    assert not np.array_equal(one.first, other.first)


def test_same_pairs_are_spread_over_identities_whatever_their_size() -> None:
    labels = np.concatenate([np.zeros(200, int), np.repeat(np.arange(1, 40), 4)])
    pairs = draw_pairs(labels, 160, seed=3, num_folds=1)
    counts = np.bincount(labels[pairs.first[pairs.same]], minlength=40)
    assert counts.tolist() == [2] * 40


def test_few_pairs_give_a_shorter_balanced_list() -> None:
    labels = np.array([0, 0, 1, 1, 2, 3])  # two same pairs
    pairs = draw_pairs(labels, 6000, seed=0, num_folds=2)
    laws(pairs, labels)
    assert len(pairs) == 4
    assert pairs.disjoint_folds


def test_folds_share_identities_only_when_they_must() -> None:
    labels = np.array([0] * 6 + [1] * 6)  # two identities cannot fill three folds
    pairs = draw_pairs(labels, 12, seed=0, num_folds=3)
    laws(pairs, labels)
    assert not pairs.disjoint_folds
    assert len(pairs) == 12


def test_every_different_pair_is_taken_when_all_are_needed() -> None:
    labels = np.array([0] * 8 + [1])
    pairs = draw_pairs(labels, 16, seed=0, num_folds=1)
    laws(pairs, labels)
    assert sorted(pairs.first[~pairs.same] + pairs.second[~pairs.same] - 8) == list(range(8))


@settings(max_examples=80)
@given(
    st.lists(st.integers(-3, 5), min_size=1, max_size=30),
    st.integers(0, 60),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_laws_hold_or_the_request_is_refused(
    labels: list[int], wanted: int, seed: int, folds: int
) -> None:
    array = np.array(labels)
    sizes = np.unique(array, return_counts=True)[1]
    same = int((sizes * (sizes - 1) // 2).sum())
    different = len(labels) * (len(labels) - 1) // 2 - same
    per_fold = min(wanted // 2, same, different) // folds
    if per_fold == 0:
        with pytest.raises(InputError):
            draw_pairs(array, wanted, seed, folds)
    else:
        pairs = draw_pairs(array, wanted, seed, folds)
        laws(pairs, array)
        assert len(pairs) == 2 * per_fold * folds


def test_different_pairs_are_uniform_over_equal_identities() -> None:
    labels = np.repeat(np.arange(4), 50)
    pairs = draw_pairs(labels, 6000, seed=0, num_folds=1)
    low, high = np.sort(labels[np.stack([pairs.first, pairs.second])][:, ~pairs.same], axis=0)
    counts = np.bincount(low * 4 + high, minlength=16)
    assert np.count_nonzero(counts) == 6
    assert np.abs(counts[counts > 0] - 500).max() < 5 * np.sqrt(500)


def test_all_pairs_of_four_images() -> None:
    pairs = all_pairs(np.array([5, 5, 7, 5]))
    assert pairs.first.tolist() == [0, 0, 0, 1, 1, 2]
    assert pairs.second.tolist() == [1, 2, 3, 2, 3, 3]
    assert pairs.same.tolist() == [True, False, True, False, True, False]


def test_same_pairs_are_those_of_all_pairs() -> None:
    labels = np.array([4, 2, 4, 4, 9, 2])
    every = all_pairs(labels)
    expected = set(
        zip(every.first[every.same].tolist(), every.second[every.same].tolist(), strict=True)
    )
    first, second = same_pairs(labels)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == expected
    assert len(first) == 4


@pytest.mark.parametrize(
    ("labels", "wanted", "message"),
    [
        ([0, 0, 0], 20, "one identity only"),
        ([0, 1, 2], 20, "no identity has two images"),
        ([0, 0, 1, 1], 2, "use fewer folds"),
        ([0.5, 1.0], 20, "integers"),
        ([], 20, "non-empty"),
    ],
)
def test_impossible_requests_say_why(labels: list[float], wanted: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_pairs(np.array(labels), wanted, seed=0)


def test_no_folds_is_refused() -> None:
    with pytest.raises(InputError, match="num_folds: 0"):
        draw_pairs(np.array([0, 0, 1]), 20, seed=0, num_folds=0)


@pytest.mark.parametrize("wanted", [0, -1, -6000, 19])
def test_fewer_pairs_than_folds_need_are_refused(wanted):
    with pytest.raises(InputError, match=rf"^num_pairs: {wanted} wanted in 10 folds, but the data"):
        draw_pairs(np.repeat(np.arange(10), 5), wanted, 0)
