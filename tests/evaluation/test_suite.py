import dataclasses

import numpy as np
import pytest

from arcface_jax.data.pairs import Pairs, draw_pairs
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import angle_statistics
from arcface_jax.evaluation.bootstrap import Resampling
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.identification import identify
from arcface_jax.evaluation.retrieval import retrieve
from arcface_jax.evaluation.roc import equal_error_rate, roc_curve
from arcface_jax.evaluation.suite import EmbeddedSet, EvaluationOptions, evaluate_set
from arcface_jax.evaluation.verification import verify_pairs

OPTIONS = EvaluationOptions(deployment_fars=(1e-2,), resampling=Resampling(20))


def faces(people: int = 40, each: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, 16] of unequal length and labels that are not 0 … C − 1."""
    rng = np.random.default_rng(0)
    labels = np.repeat(100 + 3 * np.arange(people), each)
    centres = np.repeat(rng.normal(size=(people, 16)), each, axis=0)
    quality = rng.uniform(0.5, 3, (len(labels), 1))
    noisy = centres + 1.2 / quality * rng.normal(size=centres.shape)
    return noisy / np.linalg.norm(noisy, axis=1, keepdims=True) * quality, labels


def test_all_pairs_search_angles_and_quality_of_labelled_images() -> None:
    embeddings, labels = faces()
    result = evaluate_set(EmbeddedSet("set", embeddings, labels), OPTIONS)
    unit = unit_embeddings(embeddings)
    i, j = np.triu_indices(200, 1)
    roc = roc_curve(np.einsum("pd,pd->p", unit[i], unit[j]), labels[i] == labels[j])
    assert result.figures["eer"].estimate == pytest.approx(equal_error_rate(roc), abs=1e-4)
    assert result.figures["angle intra"].estimate == pytest.approx(
        angle_statistics(unit, labels)["intra"]
    )
    for name in result.figures.keys() - {
        "num_gallery",
        "num_enrolled",
        "num_unknown",
    }:  # everyone has five images
        assert result.figures[name].low < result.figures[name].high, name
    search = result.search
    assert search is not None
    assert (search.enrolled.sum(), (~search.enrolled).sum()) == (20 * 4, 20 * 5)
    assert (result.gallery_size, result.figures["num_gallery"].estimate) == (20, 20)
    for name, value in identify(search, ranks=OPTIONS.ranks, fpirs=OPTIONS.fpirs).numbers().items():
        assert result.figures[name].estimate == value
    assert result.reject is not None
    assert (
        result.reject.frr[-1] < 0.7 * result.reject.frr[0]
    )  # short embeddings are the bad ones here
    assert result.thresholds[0].far <= 0.01
    assert result.groups is None


def test_retrieval_and_few_shot_episodes_of_any_classes() -> None:
    embeddings, labels = faces()
    options = dataclasses.replace(OPTIONS, retrieval="cosine", few_shot=True)
    figures = evaluate_set(EmbeddedSet("set", embeddings, labels), options).figures
    unit = unit_embeddings(embeddings)
    for name, value in retrieve(unit, labels).numbers().items():
        assert figures[name].estimate == pytest.approx(value)
        assert figures[f"macro {name}"].estimate == pytest.approx(value)  # all have five images
    assert [name for name in figures if name.endswith("shot")] == ["5-way 1-shot", "20-way 1-shot"]
    assert figures["5-way 1-shot"].estimate > figures["20-way 1-shot"].estimate
    again = evaluate_set(
        EmbeddedSet("set", embeddings, labels), dataclasses.replace(options, retrieval="reranked")
    )
    assert again.figures["map"].estimate != figures["map"].estimate
    with pytest.raises(InputError, match="set: few-shot episodes need five classes of two images"):
        evaluate_set(EmbeddedSet("set", embeddings[:20], labels[:20]), options)
    bin_set = EmbeddedSet(
        "lfw", embeddings, labels, draw_pairs(labels, 60, 0), identities_known=False
    )
    with pytest.raises(InputError, match="lfw: its labels do not tell who is who"):
        evaluate_set(bin_set, options)


def test_ranks_beyond_the_gallery_are_left_out() -> None:
    embeddings, labels = faces(people=10)
    result = evaluate_set(EmbeddedSet("set", embeddings, labels), OPTIONS)
    assert result.gallery_size == 5
    assert [name for name in result.figures if name.startswith("rank")] == ["rank-1"]


def test_a_pair_list_is_scored_in_its_folds() -> None:
    embeddings, labels = faces()
    pairs = draw_pairs(labels, 400, seed=0)
    result = evaluate_set(EmbeddedSet("set", embeddings, labels, pairs=pairs), OPTIONS)
    unit = unit_embeddings(embeddings)
    expected = verify_pairs(unit[pairs.first], unit[pairs.second], pairs.same)
    assert result.figures["accuracy"].estimate == expected.accuracy
    assert result.figures["accuracy"].low < expected.accuracy < result.figures["accuracy"].high


def test_the_published_scripts_numbers_stand_beside_the_exact_ones() -> None:
    embeddings, labels = faces()
    pairs = draw_pairs(labels, 400, seed=0)
    data = EmbeddedSet("set", embeddings, labels, pairs=pairs)
    options = dataclasses.replace(OPTIONS, published_scripts=True)
    exact, both = evaluate_set(data, OPTIONS).figures, evaluate_set(data, options).figures
    unit = unit_embeddings(embeddings)
    rows = unit[pairs.first], unit[pairs.second], pairs.same
    published = verify_pairs(*rows, published_scripts=True).numbers()
    added = both.keys() - exact.keys()
    assert added == {
        f"published_{name}" for name in ("accuracy", "accuracy_std", "val", "val_std", "val_far")
    }
    assert {name: both[name] for name in exact} == exact
    for name in added:
        assert both[name].estimate == both[name].low == published[name.removeprefix("published_")]
    assert both["published_accuracy"].estimate != exact["accuracy"].estimate
    with pytest.raises(InputError, match="num_folds: 1 fold of"):
        evaluate_set(dataclasses.replace(data, pairs=None), options)


def test_without_identities_folds_are_resampled_and_nothing_is_searched() -> None:
    embeddings, labels = faces()
    pairs = draw_pairs(labels, 400, seed=0)
    unknown = np.arange(200)
    data = EmbeddedSet(
        "lfw", unit_embeddings(embeddings), unknown, pairs=pairs, identities_known=False
    )
    result = evaluate_set(data, OPTIONS)
    assert result.search is None
    assert result.reject is None
    assert "angle intra" not in result.figures
    assert np.array_equal(result.first_cluster, np.arange(400) // 40)
    flat = EmbeddedSet(
        "lfw",
        embeddings,
        unknown,
        Pairs(pairs.first, pairs.second, pairs.same),
        identities_known=False,
    )
    with pytest.raises(InputError, match="lfw: neither identities nor folds"):
        evaluate_set(flat, OPTIONS)


def test_given_quality_and_groups_are_used() -> None:
    embeddings, labels = faces()
    data = EmbeddedSet(
        "set",
        unit_embeddings(embeddings),
        labels,
        groups=np.where(labels < 160, "a", "b"),
        quality=np.linalg.norm(embeddings, axis=1),
    )
    result = evaluate_set(data, OPTIONS)
    assert result.reject is not None
    assert result.reject.frr[-1] < 0.7 * result.reject.frr[0]
    assert result.groups is not None
    assert set(result.groups.far) == {"a", "b", "mixed"}


def test_a_person_in_one_image_each_leaves_no_search() -> None:
    embeddings, _ = faces(people=6, each=2)
    labels = np.array([0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
    data = EmbeddedSet("set", embeddings, labels)
    options = EvaluationOptions(deployment_fars=(0.1,), enrolled=0.0, resampling=Resampling(5))
    assert evaluate_set(data, options).search is None


def test_bad_sets_are_named() -> None:
    embeddings, labels = faces()
    with pytest.raises(InputError, match=r"mine: labels: shape \(199,\) for 200"):
        evaluate_set(EmbeddedSet("mine", embeddings, labels[1:]), OPTIONS)
    with pytest.raises(InputError, match="mine: embeddings: row 3 holds NaN"):
        evaluate_set(
            EmbeddedSet("mine", np.where(np.arange(200)[:, None] == 3, np.nan, embeddings), labels),
            OPTIONS,
        )
    far_off = Pairs(np.array([0, 200]), np.array([1, 2]), np.array([True, False]))
    with pytest.raises(InputError, match=r"mine: pairs\.first: element 1 is 200, outside 0 … 199"):
        evaluate_set(EmbeddedSet("mine", embeddings, labels, far_off), OPTIONS)
