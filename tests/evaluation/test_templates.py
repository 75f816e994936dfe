import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.evaluation.identification import identify
from arcface_jax.evaluation.ijb import TemplateSubjects
from arcface_jax.evaluation.roc import roc_curve
from arcface_jax.evaluation.templates import (
    IJB_FARS,
    NO_MATCH,
    Templates,
    pool_templates,
    score_templates,
    search_templates,
    verify_templates,
)
from tests.evaluation import slow


def images(seed: int, count: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 6)).astype(np.float32) * rng.uniform(
        5, 30, (count, 1)
    ).astype(np.float32)
    return features, rng.integers(100, 108, count), rng.integers(0, 4, count)


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.booleans())
def test_pooling_equals_the_slow_version(
    seed: int, keep_norms: bool, weighted: bool, flip: bool
) -> None:
    features, template_ids, media_ids = images(seed)
    rng = np.random.default_rng(seed)
    detector = rng.uniform(0.5, 1, 30).astype(np.float32) if weighted else None
    mirrored = rng.normal(size=features.shape).astype(np.float32) if flip else None
    pooled = pool_templates(
        features,
        template_ids,
        media_ids,
        mirrored=mirrored,
        detector_scores=detector,
        norm_weighting=keep_norms,
    )
    summed = features if mirrored is None else features + mirrored
    expected = slow.pool(summed, template_ids, media_ids, detector, keep_norms)
    assert pooled.ids.tolist() == list(expected)
    np.testing.assert_allclose(pooled.embeddings, list(expected.values()), atol=1e-5)


def test_a_video_weighs_as_much_as_one_image() -> None:
    features = np.array([[1, 0], [0, 1], [0, 1], [0, 1]], np.float32)
    pooled = pool_templates(features, np.full(4, 7), np.array([1, 2, 2, 2]))
    np.testing.assert_allclose(pooled.embeddings, [[np.sqrt(0.5)] * 2], atol=1e-6)
    as_one_video = pool_templates(features, np.full(4, 7), np.full(4, 7))
    np.testing.assert_allclose(as_one_video.embeddings, np.array([[1, 3]]) / np.sqrt(10), atol=1e-6)


def test_many_images_are_pooled_in_parts_with_the_same_result() -> None:
    count = 140_000
    rng = np.random.default_rng(0)
    template_ids, media_ids = rng.integers(0, 2000, count), rng.integers(0, 3, count)
    features = rng.normal(size=(count, 2)).astype(np.float32) + 3
    pooled = pool_templates(features, template_ids, media_ids)
    chosen = np.isin(template_ids, [0, 999, 1999])
    expected = slow.pool(features[chosen], template_ids[chosen], media_ids[chosen], None, True)
    rows = pooled.rows(np.array([0, 999, 1999]))
    np.testing.assert_allclose(pooled.embeddings[rows], list(expected.values()), atol=1e-5)


def test_verification_of_templates_and_the_same_on_several_devices() -> None:
    features, template_ids, media_ids = images(3)
    templates = pool_templates(features, template_ids, media_ids)
    i, j = np.triu_indices(len(templates.ids), 1)
    same = np.arange(len(i)) % 5 == 0
    arguments = (templates, templates.ids[i], templates.ids[j], same)
    result, roc = verify_templates(*arguments, fars=(0.1, 0.5))
    expected = roc_curve(
        np.einsum("pd,pd->p", templates.embeddings[i], templates.embeddings[j]), same
    )
    np.testing.assert_array_equal(roc.true_accepts, expected.true_accepts)
    scores = np.einsum("pd,pd->p", templates.embeddings[i], templates.embeddings[j])
    assert result.tar == {far: slow.tar_nearest(scores, same, far) for far in (0.1, 0.5)}
    assert result.numbers()["num_same"] == same.sum()
    assert IJB_FARS == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # as papers tabulate
    many, _ = verify_templates(*arguments, fars=(0.1, 0.5), devices=jax.devices())
    assert many == result


def test_bad_templates_name_the_position() -> None:
    features, template_ids, media_ids = images(0)
    templates = pool_templates(features, template_ids, media_ids)
    with pytest.raises(
        InputError, match="second_ids: element 1 asks for template 555, which has no image"
    ):
        verify_templates(
            templates, np.array([100, 101]), np.array([100, 555]), np.array([True, False])
        )
    with pytest.raises(InputError, match="same: shape"):
        verify_templates(templates, np.array([100, 101]), np.array([100, 101]), np.array([True]))
    with pytest.raises(InputError, match="media_ids: shape"):
        pool_templates(features, template_ids, media_ids[1:])
    with pytest.raises(InputError, match="template_ids: shape"):
        pool_templates(features, template_ids * 1.5, media_ids)
    with pytest.raises(InputError, match="mirrored: shape"):
        pool_templates(features, template_ids, media_ids, mirrored=features[1:])
    with pytest.raises(InputError, match="detector_scores: element 4"):
        pool_templates(
            features,
            template_ids,
            media_ids,
            detector_scores=np.where(np.arange(30) == 4, np.nan, 1),
        )
    with pytest.raises(InputError, match="template 1 sums to zero"):
        pool_templates(
            np.array([[1, 0], [1, 0], [-1, 0]]), np.array([0, 1, 1]), np.array([0, 0, 1])
        )
    with pytest.raises(InputError, match="features: row 5 holds NaN"):
        pool_templates(
            np.where(np.arange(30)[:, None] == 5, np.nan, features), template_ids, media_ids
        )
    zero = (np.arange(30) != 5)[:, None]
    with pytest.raises(InputError, match="mirrored: row 5 is zero, or that of features is, but"):
        pool_templates(features * zero, template_ids, media_ids, mirrored=features)
    with pytest.raises(InputError, match="all 30 rows are zero: no image has a usable face"):
        pool_templates(0 * features, template_ids, media_ids)


@pytest.mark.parametrize("keep_norms", [True, False])
def test_an_image_without_a_usable_face_counts_nowhere(keep_norms: bool) -> None:
    features, template_ids, media_ids = images(1)
    unusable = (np.arange(30) % 4 == 0) | (template_ids == 103)
    pool = functools.partial(pool_templates, norm_weighting=keep_norms)
    templates = pool(np.where(unusable[:, None], 0, features), template_ids, media_ids)
    others = pool(features[~unusable], template_ids[~unusable], media_ids[~unusable])
    assert templates.ids.tolist() == sorted({*template_ids.tolist()})
    np.testing.assert_array_equal(templates.embeddings[templates.enrolled], others.embeddings)
    failed = templates.ids[~templates.enrolled]
    assert 103 in failed
    assert not {*failed} & {*template_ids[~unusable]}


def test_a_template_that_failed_to_enrol_matches_nobody() -> None:
    """Neither a wrong one, which would be a false accept, nor its own, nor itself."""
    embeddings = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 2, 3, 3]]
    embeddings[[1, 5]] = 0
    templates = Templates(np.arange(7), embeddings)
    pairs = np.array([[0, 1], [2, 3], [0, 2], [1, 3], [5, 6], [5, 5]])
    scores = score_templates(templates, *pairs.T)
    np.testing.assert_array_equal(scores, [NO_MATCH, 1, 0, NO_MATCH, NO_MATCH, NO_MATCH])
    same = np.array([True, True, False, False, True, True])
    result, _ = verify_templates(templates, *pairs.T, same, fars=(0.5,))
    assert result.tar[0.5] == 0.25

    # Subjects 0, 1 and 3 are enrolled, 3 by a failed template alone; 2 is unknown.
    gallery = TemplateSubjects(np.array([5, 0, 2]), np.array([3, 0, 1]))
    probes = TemplateSubjects(np.array([1, 3, 4, 6]), np.array([0, 1, 2, 3]))
    search = search_templates(templates, gallery, probes)
    np.testing.assert_array_equal(search.enrolled, [True, True, False, True])
    np.testing.assert_array_equal(search.mate, [NO_MATCH, 1, -np.inf, NO_MATCH])
    np.testing.assert_array_equal(search.impostor, [NO_MATCH, 0, 0, 0])
    np.testing.assert_array_equal(search.impostor_index, [-1, 1, 1, 1])
    found = identify(search, ranks=(1, 10), fpirs=(1.0,))
    assert found.rank == {1: 1 / 3, 10: 1 / 3}
    assert found.tpir[1.0] == 1 / 3
    assert (found.num_enrolled, found.num_unknown) == (3, 1)

    unknown = TemplateSubjects(np.array([1, 4]), np.array([8, 9]))
    search = search_templates(templates, gallery, unknown)
    np.testing.assert_array_equal(search.impostor, [NO_MATCH, 0])  # no false accept of the first
    failed = TemplateSubjects(np.array([1, 5]), np.array([0, 3]))
    for name, chosen in (("gallery", (failed, probes)), ("probes", (gallery, failed))):
        with pytest.raises(InputError, match=f"{name}: none of the 2 templates has a usable face"):
            search_templates(templates, *chosen)
