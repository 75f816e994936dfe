import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from arcface_jax.analysis.inversion import (
    LayerStatistics,
    Prior,
    cosine_loss,
    inversion_loss,
    invert,
    likeness,
    standardised_distance,
    total_variation,
)
from arcface_jax.errors import InputError

RNG = np.random.default_rng(0)
PROJECTION = RNG.normal(size=(48, 5)).astype(np.float32)


def linear_network(images):
    """A stand-in for a backbone: one linear map, and the statistics of the colours against
    N(0.2, 0.25).
    """
    colours = (jnp.mean(images, (0, 1, 2)), jnp.var(images, (0, 1, 2)))
    return images.reshape(len(images), -1) @ PROJECTION, [
        LayerStatistics(*colours, jnp.full(3, 0.2, images.dtype), jnp.full(3, 0.25, images.dtype))
    ]


def test_distance_of_statistics_is_in_units_of_the_running_deviation():
    mean, variance, running_mean = (RNG.normal(size=6).astype(np.float32) for _ in range(3))
    running_variance = RNG.uniform(0.5, 2.0, 6).astype(np.float32)
    layer = LayerStatistics(mean, variance, running_mean, running_variance)
    sigma = running_variance.astype(np.float64) + 1e-5
    expected = np.mean((mean - running_mean) ** 2 / sigma) + np.mean(
        ((variance - running_variance) / sigma) ** 2
    )
    assert standardised_distance([layer, layer]) == pytest.approx(2 * expected, rel=1e-5)
    scaled = LayerStatistics(1e3 * mean, 1e6 * variance, 1e3 * running_mean, 1e6 * running_variance)
    assert standardised_distance([scaled]) == pytest.approx(expected, rel=1e-3)
    assert standardised_distance([]) == 0


def test_total_variation_is_the_length_of_both_differences():
    images = RNG.normal(size=(2, 4, 5, 3))
    expected = np.linalg.norm(np.diff(images, axis=1)) + np.linalg.norm(np.diff(images, axis=2))
    assert total_variation(jnp.asarray(images, jnp.float32)) == pytest.approx(expected, rel=1e-5)
    flat = jnp.ones((1, 4, 4, 3))
    assert total_variation(flat) == 0
    assert not jax.grad(total_variation)(flat).any()


def test_loss_is_the_weighted_sum_and_its_gradient_is_right():
    images = RNG.normal(size=(3, 4, 4, 3)).astype(np.float32)
    targets = RNG.normal(size=(3, 5)).astype(np.float32)
    prior = Prior(0.3, 0.2, 0.1)
    embeddings = images.reshape(3, -1) @ PROJECTION
    cosines = (
        np.sum(embeddings * targets, 1)
        / np.linalg.norm(embeddings, axis=1)
        / np.linalg.norm(targets, axis=1)
    )
    parts = (
        np.mean(1 - cosines),
        0.3 * standardised_distance(linear_network(images)[1]),
        0.2 * total_variation(jnp.asarray(images)),
        0.1 * np.linalg.norm(images),
    )
    wanted = cosine_loss(jnp.asarray(targets))
    assert inversion_loss(linear_network, wanted, jnp.asarray(images), prior) == pytest.approx(
        float(sum(parts)), rel=1e-5
    )
    with jax.enable_x64(True):
        wanted = cosine_loss(jnp.asarray(targets, jnp.float64))
        function = jax.jit(lambda x: inversion_loss(linear_network, wanted, x, prior))
        check_grads(function, (jnp.asarray(images, jnp.float64),), order=1, modes=["rev"], eps=1e-5)


def test_inversion_reaches_the_target_inside_the_bounds_and_follows_the_prior():
    targets = jnp.asarray(RNG.normal(size=(4, 5)), jnp.float32)
    start = 0.1 * jax.random.normal(jax.random.key(0), (4, 4, 4, 3))

    def symmetric(images):  # so that the mirror image has the same embedding
        return linear_network(0.5 * (images + images[:, :, ::-1]))

    steps = []
    options = {"key": jax.random.key(1), "steps": 120, "bounds": (-0.9, 1.1)}
    found = invert(
        symmetric,
        cosine_loss(targets),
        start,
        on_step=lambda step, _: steps.append(step),
        **options,
    )
    embeddings = np.asarray(symmetric(jnp.asarray(found.images))[0])
    assert (np.asarray(cosine_loss(targets)(jnp.asarray(embeddings))) < 0.02).all()
    assert found.images.min() >= -0.9
    assert found.images.max() <= 1.1
    assert steps == list(range(120))
    assert found.losses.shape == (120,)
    assert found.losses[-1] < 0.2 * found.losses[0]

    def off(prior):
        images = jnp.asarray(
            invert(symmetric, cosine_loss(targets), start, prior=prior, **options).images
        )
        return float(standardised_distance(symmetric(images)[1]))

    assert off(Prior(statistics=1.0)) < 0.1 * off(Prior(statistics=0.0))


def test_likeness_is_counted_by_hand():
    centres = np.eye(3)
    faces = np.array([[0.8, 0.6, 0.0], [0.6, 0.6, 0.5291503], [0.0, 1.0, 0.0]])
    found = likeness(faces, centres, np.array([0, 1, 2]))
    np.testing.assert_allclose(found.own, [0.8, 0.6, 0.0])
    np.testing.assert_allclose(found.nearest_other, [0.6, 0.6, 1.0])
    assert found.rank.tolist() == [1, 2, 3]  # a tie counts against the face
    assert found.numbers() == pytest.approx(
        {"own": 1.4 / 3, "nearest_other": 2.2 / 3, "rank_1": 1 / 3}
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"start": jnp.zeros((4, 4, 3))}, "start has shape"),
        ({"steps": 0}, "steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"bounds": (1.0, -1.0)}, "bounds: .1.0, -1.0."),
    ],
)
def test_bad_settings_are_named(changed, said):
    settings = {"start": jnp.zeros((1, 4, 4, 3)), "key": jax.random.key(0)} | changed
    with pytest.raises(InputError, match=said):
        invert(linear_network, cosine_loss(jnp.ones((1, 5))), **settings)


def test_people_must_fit():
    with pytest.raises(InputError, match="do not fit"):
        likeness(np.eye(3), np.eye(4), np.arange(3))
    with pytest.raises(InputError, match="two people"):
        likeness(np.ones((1, 2)), np.ones((1, 2)), np.zeros(1, int))
