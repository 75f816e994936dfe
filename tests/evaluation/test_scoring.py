import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.all_pairs import all_pairs_roc, all_pairs_tars, distractor_roc
from arcface_jax.evaluation.roc import (
    area_under_curve,
    equal_error_rate,
    operating_point,
    roc_curve,
    tar_at_far,
)
from arcface_jax.evaluation.scoring import HighestScores, score_pairs, score_tiles
from tests.evaluation import slow


def unit(seed: int, rows: int, size: int = 16) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_pairs_equal_numpy_in_any_block_and_on_any_number_of_devices() -> None:
    left, right = unit(0, 30), unit(1, 20)
    rng = np.random.default_rng(2)
    i, j = rng.integers(0, 30, 201), rng.integers(0, 20, 201)
    expected = np.einsum("pd,pd->p", left[i], right[j], dtype=np.float64)
    one = score_pairs(left, right, i, j, chunk=8, block=64)
    np.testing.assert_allclose(one, expected, atol=1e-6)
    for devices in (jax.devices()[:3], jax.devices()):
        assert np.array_equal(
            score_pairs(left, right, i, j, chunk=8, block=64, devices=devices), one
        )
    assert score_pairs(left, right, i[:0], j[:0]).shape == (0,)


def test_bad_pairs_name_the_position() -> None:
    x = unit(0, 5)
    with pytest.raises(InputError, match=r"second: element 2 is 5, outside 0 … 4"):
        score_pairs(x, x, np.array([0, 1, 2]), np.array([0, 1, 5]))
    with pytest.raises(InputError, match="first: element 1 is -1"):
        score_pairs(x, x, np.array([0, -1]), np.array([0, 1]))
    with pytest.raises(InputError, match="second: 1 row, but first has 2"):
        score_pairs(x, x, np.array([0, 1]), np.array([0]))
    with pytest.raises(InputError, match="integers"):
        score_pairs(x, x, np.array([0.5]), np.array([0]))


@settings(max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75]), max_size=9), max_size=9),
    st.integers(1, 8),
)
def test_highest_scores_are_exact(parts: list[list[float]], capacity: int) -> None:
    collector = HighestScores(capacity)
    for part in parts:
        collector.add(np.array(part, np.float32))
    everything = sorted((x for part in parts for x in part), reverse=True)
    assert sorted(collector.values().tolist(), reverse=True) == everything[:capacity]
    assert collector.count == len(everything)


@pytest.mark.parametrize("devices", [None, 3])
def test_tiles_cover_every_score_once(devices: int | None) -> None:
    rows, columns = unit(0, 11), unit(1, 7)
    full = np.full((11, 7), np.nan, np.float32)
    some = None if devices is None else jax.devices()[:devices]
    for row, column, tile in score_tiles(rows, columns, row_chunk=4, column_chunk=3, devices=some):
        part = full[row : row + tile.shape[0], column : column + tile.shape[1]]
        assert np.isnan(part).all()
        part[:] = tile
    np.testing.assert_allclose(full, rows @ columns.T, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.sampled_from([1, 7, 40, 10**6]))
def test_streamed_roc_is_the_full_roc_up_to_its_end(seed: int, keep: int) -> None:
    rng = np.random.default_rng(seed)
    embeddings, labels = slow.exact_units(rng, 19), rng.integers(0, 5, 19)
    i, j = np.triu_indices(19, 1)
    full = roc_curve((embeddings @ embeddings.T)[i, j], labels[i] == labels[j])
    tail = all_pairs_roc(embeddings, labels, keep=keep)
    length = len(tail.thresholds)
    if seed % 4 == 0:
        many = all_pairs_roc(embeddings, labels, keep=keep, devices=jax.devices()[:2])
        assert np.array_equal(many.false_accepts, tail.false_accepts)
    assert (tail.num_same, tail.num_different) == (full.num_same, full.num_different)
    for name in ("thresholds", "false_accepts", "true_accepts"):
        assert np.array_equal(getattr(tail, name), getattr(full, name)[:length])
    assert tail.complete == (keep >= full.num_different)
    assert not tail.complete or length == len(full.thresholds)
    assert tail.complete or full.false_accepts[length] >= keep  # nothing that is known is left out
    for rule in ("nearest", "at_most"):
        assert operating_point(tail, tail.far[-1] / 2, rule) <= operating_point(
            full, tail.far[-1] / 2, rule
        )


def test_a_tail_answers_only_what_it_knows() -> None:
    embeddings, labels = unit(3, 60), np.repeat(np.arange(20), 3)
    i, j = np.triu_indices(60, 1)
    tail, full = all_pairs_roc(embeddings, labels, keep=100), all_pairs_roc(embeddings, labels)
    assert tar_at_far(tail, 0.02) == tar_at_far(full, 0.02)
    assert equal_error_rate(full) == equal_error_rate(
        roc_curve(score_pairs(embeddings, embeddings, i, j), labels[i] == labels[j])
    )
    with pytest.raises(InputError, match="beyond the kept tail"):
        tar_at_far(tail, 0.5)
    with pytest.raises(InputError, match="tail"):
        area_under_curve(tail)
    with pytest.raises(InputError, match="tail"):
        equal_error_rate(tail)


def test_distractor_pairs() -> None:
    probes, distractors = unit(0, 6), unit(1, 50)
    same_scores = np.array([0.9, 0.4], np.float32)
    roc = distractor_roc(same_scores, probes, distractors)
    scores = np.concatenate([same_scores, (probes @ distractors.T).ravel()])
    expected = roc_curve(scores, np.arange(302) < 2)
    assert (roc.num_same, roc.num_different) == (2, 300)
    np.testing.assert_allclose(roc.thresholds, expected.thresholds, atol=1e-6)
    assert area_under_curve(roc) == pytest.approx(area_under_curve(expected), abs=1e-9)


def test_bad_streams_are_refused() -> None:
    with pytest.raises(InputError, match="labels: shape"):
        all_pairs_roc(unit(0, 5), np.arange(4))
    with pytest.raises(InputError, match="at least one pair of each kind"):
        all_pairs_roc(unit(0, 5), np.arange(5))
    with pytest.raises(InputError, match="capacity"):
        all_pairs_roc(unit(0, 5), np.arange(5), keep=0)


@pytest.mark.parametrize("seed", range(3))
def test_tars_over_all_pairs_are_those_of_every_score(seed: int) -> None:
    """Against NumPy: sorted scores of all N(N − 1)/2 pairs, the FAR nearest to the wanted one."""
    labels = np.random.default_rng(seed).integers(0, 30, 200)
    embeddings = unit(seed, 200) + 0.5 * unit(seed + 9, 30)[labels]
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    i, j = np.triu_indices(200, 1)
    scores, same = (embeddings @ embeddings.T)[i, j], labels[i] == labels[j]
    different = np.sort(scores[~same])[::-1]
    found = all_pairs_tars(embeddings, labels, (1e-2, 1e-3, 1e-4, 1e-6))
    assert list(found) == [1e-2, 1e-3, 1e-4]  # 19,000 different pairs do not tell of 1e-6
    for far, tar in found.items():
        threshold = different[round(far * len(different)) - 1]
        low, high = (np.mean(scores[same] >= threshold + sign * 1e-6) for sign in (1, -1))
        above = different[round(far * len(different))]  # the nearest point may lie up to there
        assert low <= tar <= max(high, np.mean(scores[same] > above))


@pytest.mark.parametrize(("fars", "tars"), [((0.01,), {0.01: 1.0}), ((1e-9,), {}), ((), {})])
def test_tars_of_embeddings_that_are_all_alike(fars, tars) -> None:
    """A network that has collapsed: no threshold parts its pairs."""
    embeddings = np.repeat(unit(0, 1), 400, 0)
    assert set(all_pairs_tars(embeddings, np.arange(400) // 4, fars)) == set(tars)
