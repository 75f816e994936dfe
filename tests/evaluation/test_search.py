import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.distractors import distractor_identification
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.identification import (
    cumulative_match,
    identify,
    mean_of_galleries,
    open_set_roc,
    published_tpir,
)
from arcface_jax.evaluation.roc import tar_at_far
from arcface_jax.evaluation.search import Search, search_candidates, search_gallery
from tests.evaluation import slow

seeds = st.integers(0, 10**6)


def problem(seed: int, entries: int = 21, num_probes: int = 13) -> tuple[np.ndarray, ...]:
    """A gallery with several entries of some, probes of whom some are unknown; every score is
    exact and ties abound.
    """
    rng = np.random.default_rng(seed)
    gallery, probes = slow.exact_units(rng, entries), slow.exact_units(rng, num_probes)
    return gallery, rng.integers(0, 12, entries), probes, rng.integers(0, 16, num_probes)


def as_rows(search: Search) -> list[tuple[float, float, int, int]]:
    columns = (search.mate, search.impostor, search.impostor_index, search.rank)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=25)
@given(seeds, st.sampled_from([4, 8, 64]), st.sampled_from([5, 64]))
def test_search_equals_the_slow_version_for_every_chunk_size(
    seed: int, gallery_chunk: int, probe_chunk: int
) -> None:
    arguments = problem(seed)
    expected = slow.search(*arguments)
    found = search_gallery(*arguments, gallery_chunk=gallery_chunk, probe_chunk=probe_chunk)
    assert as_rows(found) == expected
    assert found.enrolled.tolist() == [rank > 0 for _, _, _, rank in expected]
    ranks = [rank for _, _, _, rank in expected if rank]
    if ranks:
        curve = [np.mean([rank <= k for rank in ranks]) for k in range(1, 8)]
        assert cumulative_match(found, 7).tolist() == curve
    if ranks and not found.enrolled.all():
        for fpir in (0.0, 0.1, 0.5, 1.0):
            assert tar_at_far(open_set_roc(found), fpir) == slow.tpir(expected, fpir)


def test_several_devices_give_the_same_numbers() -> None:
    arguments = problem(5, entries=37)
    one = search_gallery(*arguments, gallery_chunk=16)
    many = search_gallery(*arguments, gallery_chunk=16, devices=jax.devices()[:4])
    assert as_rows(one) == as_rows(many) == slow.search(*arguments)
    gallery, _, probes, _ = arguments
    candidates = [
        search_candidates(gallery, probes, 6, gallery_chunk=16, devices=d)
        for d in (None, jax.devices()[:4])
    ]
    assert np.array_equal(candidates[0].indices, candidates[1].indices)
    assert np.array_equal(candidates[0].scores, candidates[1].scores)


@settings(max_examples=15)
@given(seeds, st.sampled_from([1, 3, 21]))
def test_candidates_equal_a_stable_sort(seed: int, k: int) -> None:
    gallery, _, probes, _ = problem(seed)
    scores = probes @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = search_candidates(gallery, probes, k, gallery_chunk=8, probe_chunk=5)
    assert np.array_equal(found.indices, order)
    assert np.array_equal(found.scores, np.take_along_axis(scores, order, axis=1))
    assert np.array_equal(found.accepted(0.5), scores.max(axis=1) >= 0.5)


def test_a_collapsed_network_never_finds_anyone() -> None:
    rng = np.random.default_rng(0)
    everyone = np.repeat(unit_embeddings(rng.normal(size=(1, 33))), 40, axis=0)
    found = search_gallery(
        everyone, np.arange(40), everyone[:30], np.arange(30), gallery_chunk=16, probe_chunk=8
    )
    assert cumulative_match(found, 1).tolist() == [0.0]
    assert set(found.rank) == {40}
    trials = distractor_identification(
        everyone[:4], np.array([0, 0, 1, 1]), everyone, sizes=(1, 10, 40), max_rank=3
    )
    assert not trials.rank_1.any()


def test_identify_and_the_mean_of_two_galleries() -> None:
    # Gallery 1: probes 0 and 1 enrolled, probe 1 confused with entry 0 (score .9 over its mate's
    # .6); probe 2 unknown.
    first = Search(
        mate=np.array([0.8, 0.6, -np.inf]),
        enrolled=np.array([True, True, False]),
        impostor=np.array([0.1, 0.9, 0.5]),
        impostor_index=np.array([1, 0, 0]),
        rank=np.array([1, 2, 0]),
    )
    one = identify(first, ranks=(1, 2), fpirs=(0.0, 1.0))
    assert one.rank == {1: 0.5, 2: 1.0}
    assert one.tpir == {0.0: 0.5, 1.0: 0.5}
    both = mean_of_galleries(
        [
            one,
            identify(
                Search(
                    first.mate,
                    first.enrolled,
                    first.impostor,
                    first.impostor_index,
                    np.array([1, 1, 0]),
                ),
                ranks=(1, 2),
                fpirs=(0.0, 1.0),
            ),
        ]
    )
    assert both.rank == {1: 0.75, 2: 1.0}
    assert both.tpir == {0.0: 0.75, 1.0: 0.75}
    assert both.numbers()["tpir@fpir=0"] == 0.75
    assert both.numbers()["num_unknown"] == 2
    with pytest.raises(InputError, match="different ranks"):
        mean_of_galleries([one, identify(first, ranks=(1,))])
    with pytest.raises(InputError, match="none given"):
        mean_of_galleries([])


def test_rates_that_do_not_exist_are_refused() -> None:
    gallery, labels, probes, _ = problem(0)
    strangers = search_gallery(gallery, labels, probes, np.full(13, 99))
    with pytest.raises(InputError, match="no probe has a mate"):
        cumulative_match(strangers)
    with pytest.raises(InputError, match="enrolled person"):
        open_set_roc(strangers)
    known = search_gallery(gallery, labels, probes, np.full(13, labels[0]))
    with pytest.raises(InputError, match="unknown person"):
        open_set_roc(known)
    assert identify(known).tpir == {}
    with pytest.raises(InputError, match="max_rank: 0"):
        cumulative_match(known, 0)


def test_published_rule_counts_scores_not_searches() -> None:
    # Two probes of entries 0 and 1. One probe holds both of the highest non-mate scores.
    gallery = np.eye(4, dtype=np.float32)
    probes = np.array([[0.5, 0.5, 0.5, 0.5], [0, 1, 0, 0]], np.float32)
    labels, probe_labels = np.arange(4), np.array([0, 1])
    rates = published_tpir(gallery, labels, probes, probe_labels, fpirs=(0.5, 1.0))
    assert rates == {
        0.5: 0.5,
        1.0: 0.5,
    }  # non-mates .5 .5 .5 0 0 0: thresholds .5 and .5; mates .5 and 1, strictly
    rng = np.random.default_rng(0)
    gallery, probes = slow.exact_units(rng, 30), slow.exact_units(rng, 20)
    scores, mates = probes @ gallery.T, np.arange(20)
    negatives = np.sort(scores[mates[:, None] != np.arange(30)])[::-1]
    expected = {
        x: np.mean(scores[mates, mates] > negatives[int(np.ceil(20 * x)) - 1]) for x in (0.1, 0.7)
    }
    assert published_tpir(gallery, np.arange(30), probes, mates, fpirs=(0.1, 0.7)) == expected
    with pytest.raises(InputError, match="probe 1 has 0 mates"):
        published_tpir(gallery, np.arange(30), probes[:2], np.array([3, 77]))
    with pytest.raises(InputError, match="fpirs"):
        published_tpir(gallery, np.arange(30), probes, mates, fpirs=(0.0,))


@settings(max_examples=10)
@given(seeds)
def test_distractors_equal_the_slow_version(seed: int) -> None:
    rng = np.random.default_rng(seed)
    probes, distractors, labels = (
        slow.exact_units(rng, 7),
        slow.exact_units(rng, 25),
        np.array([0, 0, 0, 1, 1, 2, 2]),
    )
    result = distractor_identification(
        probes, labels, distractors, sizes=(1, 5, 25, 100), max_rank=3
    )
    assert result.sizes.tolist() == [1, 5, 25]
    trials = [(i, j) for i in range(7) for j in range(7) if i != j and labels[i] == labels[j]]
    assert result.num_trials == len(trials)
    for size, cmc in zip(result.sizes, result.cmc, strict=True):
        ranks = [
            1 + int((distractors[:size] @ probes[i] >= probes[i] @ probes[j]).sum())
            for i, j in trials
        ]
        assert cmc.tolist() == [np.mean([rank <= k for rank in ranks]) for k in (1, 2, 3)]


def test_bad_input_names_the_row() -> None:
    gallery, labels, probes, probe_labels = problem(0)
    broken = gallery.copy()
    broken[17, 0] = np.nan
    with pytest.raises(InputError, match="gallery: row 17 holds NaN"):
        search_gallery(broken, labels, probes, probe_labels, gallery_chunk=8)
    with pytest.raises(InputError, match="probes: row 2 has norm 3"):
        search_gallery(
            gallery, labels, probes * np.where(np.arange(13) == 2, 3, 1)[:, None], probe_labels
        )
    with pytest.raises(InputError, match="gallery_labels: shape"):
        search_gallery(gallery, labels[1:], probes, probe_labels)
    with pytest.raises(InputError, match="gallery: shape"):
        search_gallery(gallery[:, :5], labels, probes, probe_labels)
    with pytest.raises(InputError, match="k: 22 candidates of 21"):
        search_candidates(gallery, probes, 22)
    with pytest.raises(InputError, match="sizes"):
        distractor_identification(probes, probe_labels, gallery, sizes=(100,))
    with pytest.raises(InputError, match="no person has two"):
        distractor_identification(probes, np.arange(13), gallery, sizes=(10,))
    with pytest.raises(InputError, match=r"probe_labels: shape \(12,\) for 13"):
        distractor_identification(probes, np.arange(12), gallery, sizes=(10,))
