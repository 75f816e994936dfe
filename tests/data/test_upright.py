"""What is upright, learnt of the images themselves."""

import numpy as np
import pytest

from arcface_jax.data.upright import fit_upright, is_turned, turned, upright_features


@pytest.fixture(scope="module")
def greys():
    """200 pictures: bright above, a dark bar on the left, and noise."""
    rng = np.random.default_rng(0)
    images = np.tile(np.linspace(200, 60, 32)[:, None], (200, 1, 32))
    images[:, 8:24, 6:10] -= 50
    return np.clip(images + rng.normal(0, 12, images.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_features_of_a_turned_image_are_the_turned_features(greys, quarters):
    rotated = upright_features(np.rot90(greys[:5], quarters, (1, 2)))
    np.testing.assert_allclose(rotated, turned(upright_features(greys[:5]), quarters), atol=1e-4)


def test_turned_images_are_found_with_the_turn_that_rights_them(greys):
    images, turns = greys.copy(), {3: 1, 50: 2, 121: 3}
    for image, quarters in turns.items():
        images[image] = np.rot90(images[image], quarters)
    features, halves = upright_features(images), np.arange(200) % 2
    margin, quarters = fit_upright(features, halves).judge(features, halves)
    assert np.flatnonzero(is_turned(margin)).tolist() == [3, 50, 121]
    assert {image: (-quarters[image]) % 4 for image in turns} == turns
    # Images of neither half are judged by both.
    margin, _ = fit_upright(features[:150], halves[:150]).judge(upright_features(greys[150:]))
    assert (margin > 0).all()


@pytest.mark.parametrize("kind", ["few", "one half", "no upright", "blank"])
def test_where_there_is_no_upright_nothing_is_said(greys, kind):
    halves = np.arange(200) % 2
    if kind == "few":
        greys, halves = greys[:79], halves[:79]
    if kind == "one half":
        halves = np.zeros(200, int)
    if kind == "no upright":
        greys = np.stack([np.rot90(image, k // 2) for k, image in enumerate(greys)])
    if kind == "blank":
        greys = np.full_like(greys, 9)
    assert fit_upright(upright_features(greys), halves) is None


@pytest.mark.parametrize(
    ("margins", "found"),
    [
        ([0.8, 0.7, 0.9, 0.8, -0.46], [4]),
        ([0.8, 0.7, 0.9, 0.8, -0.44], []),  # not by .45
        ([0.1, 0.9, 0.3, 0.6, -0.5], []),  # within 4 deviations, 4·1.48·.25, of the median .45
        ([0.8, np.nan, 0.8, -0.6], [3]),
        ([np.nan, np.nan], []),
    ],
)
def test_a_turned_image_stands_out(margins, found):
    assert np.flatnonzero(is_turned(np.array(margins))).tolist() == found
