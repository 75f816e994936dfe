"""Retrieval against the definitions, query by query, and against pytorch-metric-learning."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation import retrieval
from arcface_jax.evaluation.bootstrap import Resampling, retrieval_intervals
from arcface_jax.evaluation.few_shot import few_shot
from arcface_jax.evaluation.reranking import reranked
from arcface_jax.evaluation.retrieval import Retrieval, retrieve, retrieve_scores
from tests.evaluation import slow

NAMES = ("recall@1", "recall@5", "recall@10", "r_precision", "map@r", "map")


def rows(rng, count, dim=8):
    values = rng.normal(size=(count, dim)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def slow_figures(scores, query_labels, labels, itself, k=(1, 5, 10)):
    """[Q, 6] by the definitions, from the sorted gallery; NaN without a mate."""
    found = np.full((len(scores), 6), np.nan)
    for q, row in enumerate(scores):
        others = [g for g in range(len(labels)) if not (itself and g == q)]
        # Of equal scores, those of another class come first.
        others.sort(key=lambda g: (-row[g], labels[g] == query_labels[q]))
        mate = np.array([labels[g] == query_labels[q] for g in others])
        if mate.any():
            r = mate.sum()
            precision = np.cumsum(mate) / np.arange(1, len(mate) + 1)
            at_r = (precision * mate)[:r].sum() / r
            recalls = [mate[:n].any() for n in k]
            found[q] = *recalls, mate[:r].mean(), at_r, (precision * mate).sum() / r
    return found


def as_array(found: Retrieval):
    figures = np.stack([found.figures()[name] for name in NAMES], axis=1)
    return np.where(found.mates[:, None] > 0, figures, np.nan)


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.booleans())
def test_every_query_is_that_of_the_sorted_gallery(seed, leave_one_out):
    """With exact scores, so that there are many ties, and classes of one."""
    rng = np.random.default_rng(seed)
    queries, own = slow.exact_units(rng, 13), rng.integers(0, 6, 13)
    if leave_one_out:
        found, gallery, labels = retrieve(queries, own), queries, own
    else:
        gallery, labels = slow.exact_units(rng, 21), rng.integers(0, 8, 21)
        found = retrieve(queries, own, gallery, labels)
    expected = slow_figures(queries @ gallery.T, own, labels, leave_one_out)
    np.testing.assert_allclose(as_array(found), expected, atol=1e-12)


def test_in_chunks_it_is_the_same(monkeypatch):
    rng = np.random.default_rng(1)
    queries, own = rows(rng, 30), rng.integers(0, 5, 30)
    whole = retrieve(queries, own)
    monkeypatch.setattr(retrieval, "SCORES_AT_ONCE", 70)  # two queries at a time
    for one, other in zip(as_array(retrieve(queries, own)), as_array(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_a_million_entries_need_no_matrix_of_a_million_by_a_million():
    rng = np.random.default_rng(0)
    gallery, labels = rows(rng, 10**6, 4), rng.integers(0, 10**5, 10**6)
    tracemalloc.start()
    found = retrieve(gallery[:40], labels[:40], gallery, labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (found.first_rank == 1).all()  # each is in the gallery too
    assert peak < 2e9


def test_by_hand():
    """Two classes on a line; the third image of the first stands with the second."""
    angles = np.radians([0, 10, 50, 60, 71])
    queries, labels = np.stack([np.cos(angles), np.sin(angles)], axis=1), np.array([0, 0, 0, 1, 1])
    found = retrieve(queries, labels)
    assert found.mates.tolist() == [2, 2, 2, 1, 1]
    # Of the image at 50° the nearest are 60°, 71° (1), then 10°, 0° (0).
    assert found.first_rank.tolist() == [1, 1, 3, 2, 1]
    assert found.r_precision.tolist() == [1, 1, 0, 0, 1]
    assert found.map_at_r.tolist() == [1, 1, 0, 0, 1]
    np.testing.assert_allclose(
        found.average_precision, [1, 1, (1 / 3 + 2 / 4) / 2, 1 / 2, 1], atol=1e-12
    )
    assert found.numbers((1, 2))["recall@1"] == 0.6
    assert found.numbers((1, 2))["recall@2"] == 0.8
    assert found.numbers((1,), macro=True)["recall@1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.cmc(4).tolist() == [0.6, 0.8, 1.0, 1.0]


def test_a_network_that_maps_all_to_one_point_retrieves_nothing():
    found = retrieve(np.tile(np.float32([1, 0]), (6, 1)), np.array([0, 0, 1, 1, 2, 2]))
    assert found.first_rank.tolist() == [5] * 6
    assert found.numbers((1,))["recall@1"] == 0.0


@pytest.mark.parametrize("macro", [False, True])
@pytest.mark.parametrize("leave_one_out", [False, True])
def test_it_is_pytorch_metric_learnings_calculator(macro, leave_one_out):
    pytest.importorskip("torch")
    pytest.importorskip("pytorch_metric_learning")
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    rng = np.random.default_rng(2)
    names = (
        "precision_at_1",
        "r_precision",
        "mean_average_precision_at_r",
        "mean_average_precision",
    )
    calculator = AccuracyCalculator(
        include=names, avg_of_avgs=macro, knn_func=CustomKNN(CosineSimilarity())
    )
    queries, own = rows(rng, 90), rng.integers(0, 30, 90)
    arguments, theirs = (queries, own), (queries, own)
    if not leave_one_out:
        arguments = theirs = (queries, own, rows(rng, 120), rng.integers(0, 33, 120))
    wanted = calculator.get_accuracy(*map(torch.as_tensor, theirs))
    found = retrieve(*arguments).numbers(macro=macro)
    for name, ours in zip(names, ("recall@1", "r_precision", "map@r", "map"), strict=True):
        assert found[ours] == pytest.approx(wanted[name], abs=1e-6)


def test_intervals_resample_classes():
    rng = np.random.default_rng(3)
    queries, own = rows(rng, 60), rng.integers(0, 12, 60)
    found, resampling = retrieve(queries, own), Resampling(num_replicates=200)
    numbers = found.numbers()
    intervals = retrieval_intervals(found, resampling=resampling)
    assert {name: one.estimate for name, one in intervals.items()} == pytest.approx(numbers)
    assert all(one.low < one.estimate < one.high for one in intervals.values())
    macro = retrieval_intervals(found, macro=True, resampling=resampling)
    assert macro["map"].estimate == pytest.approx(found.numbers(macro=True)["map"])


def slow_reranking(queries, gallery, k1, k2, original):
    """Zhong et al.'s published code, densely."""
    every = np.concatenate([queries, gallery]).astype(np.float64)
    d = 2 - 2 * every @ every.T
    d = d / d.max(axis=1, keepdims=True)
    rank, count = np.argsort(d, axis=1, kind="stable"), len(every)

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        return forward[[i in rank[j, : k + 1] for j in forward]]

    v = np.zeros((count, count))
    for i in range(count):
        core = own = reciprocal(i, k1)
        for j in core:
            other = reciprocal(j, int(np.around(k1 / 2)))
            if len(np.intersect1d(other, core)) > 2 / 3 * len(other):
                own = np.append(own, other)
        own = np.unique(own)
        v[i, own] = np.exp(-d[i, own]) / np.exp(-d[i, own]).sum()
    v = np.stack([v[rank[i, :k2]].mean(axis=0) for i in range(count)])
    shared = np.array([[np.minimum(a, b).sum() for b in v] for a in v])
    jaccard = 1 - shared / (2 - shared)
    return (original * d + (1 - original) * jaccard)[: len(queries), len(queries) :]


@pytest.mark.parametrize(("k1", "k2", "original"), [(6, 3, 0.3), (5, 1, 0.0), (20, 6, 1.0)])
def test_reranking_is_the_published_code(k1, k2, original):
    rng = np.random.default_rng(4)
    queries, gallery = rows(rng, 12), rows(rng, 25)
    found = reranked(queries, gallery, k1=k1, k2=k2, original=original)
    np.testing.assert_allclose(found, slow_reranking(queries, gallery, k1, k2, original), atol=1e-5)


def test_reranking_of_a_set_with_itself_helps_where_neighbours_agree():
    """Two rings of points, each nearer to its neighbours than to the other ring's."""
    rng = np.random.default_rng(5)
    centres, labels = rows(rng, 8, 32), np.repeat(np.arange(8), 12)
    noisy = centres[labels] + 0.22 * rng.normal(size=(96, 32)).astype(np.float32)
    unit = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    plain = retrieve(unit, labels).numbers()["map"]
    assert retrieve_scores(-reranked(unit, k1=8), labels).numbers()["map"] > plain + 0.02


def test_scores_are_ranked_as_embeddings_are():
    rng = np.random.default_rng(6)
    queries, own = rows(rng, 20), rng.integers(0, 5, 20)
    scores = queries @ queries.T
    kept = scores.copy()
    np.testing.assert_array_equal(
        as_array(retrieve_scores(scores, own)), as_array(retrieve(queries, own))
    )
    np.testing.assert_array_equal(scores, kept)
    gallery, labels = rows(rng, 9), rng.integers(0, 5, 9)
    np.testing.assert_array_equal(
        as_array(retrieve_scores(queries @ gallery.T, own, labels)),
        as_array(retrieve(queries, own, gallery, labels)),
    )


def test_few_shot_episodes_by_hand_and_by_chance():
    labels = np.repeat(np.arange(6), 4)
    apart = np.eye(6, dtype=np.float32)[labels]
    assert few_shot(apart, labels, ways=5, episodes=20).tolist() == [1.0] * 20
    rng = np.random.default_rng(7)
    unit, many = rows(rng, 600), np.repeat(np.arange(30), 20)
    accuracies = few_shot(unit, many, ways=5, shots=1, episodes=100)
    assert accuracies.shape == (100,)
    assert accuracies.mean() == pytest.approx(0.2, abs=0.03)
    np.testing.assert_array_equal(accuracies, few_shot(unit, many, episodes=100))
    centres = rows(rng, 30)[many]
    noisy = centres + 0.6 * rng.normal(size=(600, 8)).astype(np.float32)
    unit = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    means = [
        few_shot(unit, many, ways=w, shots=s, episodes=60).mean()
        for w, s in ((5, 5), (5, 1), (20, 1))
    ]
    assert means[0] > means[1] > means[2]


def test_an_episode_is_that_of_the_definition():
    rng = np.random.default_rng(8)
    unit, labels = rows(rng, 12), np.repeat([3, 7], 6)
    found = few_shot(unit, labels, ways=2, shots=2, queries=9, episodes=3, seed=11)
    generator = np.random.default_rng(11)
    for accuracy in found:
        order = generator.choice(2, 2, replace=False)  # then the images of each class drawn
        images = [generator.permutation(np.flatnonzero(labels == [3, 7][c])) for c in order]
        means = [unit[one[:2]].mean(axis=0) for one in images]
        hits = [
            np.argmax([unit[i] @ m / np.linalg.norm(m) for m in means]) == way
            for way, one in enumerate(images)
            for i in one[2:]
        ]
        assert accuracy == pytest.approx(np.mean(hits))


def test_bad_input_is_named():
    unit, labels = rows(np.random.default_rng(0), 6), np.arange(6)
    for call, what in (
        (lambda: retrieve(unit, labels[:5]), r"query_labels: shape \(5,\) for 6 queries"),
        (lambda: retrieve(unit, labels, unit), "gallery, gallery_labels: one is missing"),
        (lambda: retrieve(unit, labels, unit[:, :3], labels), r"gallery: shape \(6, 3\), queries"),
        (lambda: retrieve(2 * unit, labels), "queries: row 0 has norm 2, not 1"),
        (lambda: retrieve(unit, labels, 2 * unit, labels), "columns: row 0 has norm 2, not 1"),
        (lambda: retrieve(unit, labels).numbers(), "labels: no query has a mate"),
        (lambda: retrieve(unit, labels // 2).numbers((0,)), r"ks: \(0,\); give ranks from 1 on"),
        (lambda: retrieve_scores(unit, labels), r"scores: shape \(6, 8\); give \(6, 6\)"),
        (lambda: retrieve_scores(np.full((6, 6), np.nan), labels), "scores: row 0 holds NaN"),
        (lambda: reranked(unit, k1=6), r"k1 6, k2 6, original 0.3; give k1 from 1 to 5"),
        (lambda: few_shot(unit, labels), "5 ways, 1 shots, 15 queries, 600 episodes: 0 classes"),
    ):
        with pytest.raises(InputError, match=what):
            call()
