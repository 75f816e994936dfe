"""The first loss of random embeddings and class weights, against simulations in NumPy."""

import itertools
import math

import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.losses import ArcFace, expected_initial_loss
from arcface_jax.losses.untrained import first_loss_tolerance, mean_log_sum, random_cosines
from arcface_jax.margins import arcface, cosface
from arcface_jax.training.config import Config, DataConfig, ModelConfig, RunConfig
from arcface_jax.training.program import create_program

MARGIN = 0.5


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def first_loss(random, classes, scale, dim, batch, shift=0.0):
    """The mean ArcFace loss of a batch; with a shift all embeddings lean to one side, as those of a
    trained network do.
    """
    embeddings = random.normal(size=(batch, dim)) + shift * random.normal(size=dim)
    cosine = unit(embeddings) @ unit(random.normal(size=(classes, dim))).T
    own = np.arange(batch), random.integers(0, classes, batch)
    logits = scale * cosine
    logits[own] = scale * np.cos(np.arccos(cosine[own]) + MARGIN)
    largest = logits.max(axis=1)
    log_sum = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float(np.mean(log_sum - logits[own]))


@pytest.mark.parametrize(
    ("classes", "scale", "dim"),
    [(2, 64.0, 16), (6, 64.0, 128), (3, 8.0, 16), (100, 64.0, 16), (300, 30.0, 64)],
)
def test_it_is_the_mean_of_random_heads(classes, scale, dim):
    random = np.random.default_rng(0)
    losses = [first_loss(random, classes, scale, dim, 64) for _ in range(100)]
    error = np.std(losses) / 10
    expected = expected_initial_loss(classes, MARGIN, scale, dim)
    assert abs(expected - np.mean(losses)) < 4 * error
    assert expected == pytest.approx(expected_initial_loss(classes, arcface(MARGIN), scale, dim))


def test_two_classes_on_a_circle_by_hand():
    """In two dimensions angles are uniform: E ln(e^{s·psi} + e^{s·cos}) by a double sum."""
    angles = (np.arange(400) + 0.5) * math.pi / 400
    own = np.cos(angles) - 0.35
    loss = np.logaddexp(2.0 * own[:, None], 2.0 * np.cos(angles)) - 2.0 * own[:, None]
    assert expected_initial_loss(2, cosface(0.35), 2.0, 2) == pytest.approx(loss.mean(), rel=1e-5)


@pytest.mark.parametrize(("classes", "formula"), [(10_572, 43.95), (85_742, 46.04)])
def test_many_classes_have_the_published_formula(classes, formula):
    """s·sin m + ln C + s²/(2d) is a little above: the cosine has no tails as long as a normal's."""
    expected = expected_initial_loss(classes, MARGIN, 64.0, 512)
    assert formula - 0.1 < expected < formula
    assert expected_initial_loss(10**7, MARGIN, 8.0, 512) == pytest.approx(
        8 * math.sin(MARGIN) + math.log(10**7) + 64 / 1024, abs=0.01
    )


@pytest.mark.parametrize(("scale", "shift"), [*itertools.product((8.0, 64.0), (0.0, 0.7))])
def test_no_random_batch_is_a_surprise(scale, shift):
    """A hundred seeds for each number of classes and size of embedding."""
    random = np.random.default_rng(1)
    for classes, dim in itertools.product((2, 6, 50), (16, 128)):
        expected = expected_initial_loss(classes, MARGIN, scale, dim)
        for seed in range(100):
            batch = (16, 64)[seed % 2]
            seen = first_loss(random, classes, scale, dim, batch, shift)
            assert abs(seen - expected) < first_loss_tolerance(expected, scale, dim, batch)


@pytest.mark.parametrize("people", [1, 2, 8])
def test_no_batch_of_few_people_is_a_surprise(people):
    """Whose images are alike to the last, and of no margin: then little is expected."""
    random = np.random.default_rng(2)
    config = Config(
        model=ModelConfig(embedding_size=128),
        loss=ArcFace(scale=64.0, margin=0.0),
        data=DataConfig(sampler="balanced", images_each=128 // people),
        run=RunConfig(batch_size=128, devices=1),
    )
    program = create_program(config, 20)
    expected = expected_initial_loss(20, 0.0, 64.0, 128)
    for _ in range(200):
        embeddings = unit(random.normal(size=(people, 128)))
        logits = 64.0 * embeddings @ unit(random.normal(size=(20, 128))).T
        own = logits[np.arange(people), random.permutation(20)[:people]]
        largest = logits.max(axis=1)
        losses = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)) - own
        assert program.may_start_with(float(losses.mean()), expected)


@pytest.mark.parametrize("classes", [100, 10**6])
def test_what_is_wrong_is_a_surprise(classes):
    """Another scale, no margin, and all classes answering alike."""
    expected = expected_initial_loss(classes, MARGIN, 64.0, 512)
    tolerance = first_loss_tolerance(expected, 64.0, 512, 128)
    for wrong in (
        expected_initial_loss(classes, MARGIN, 16.0, 512),
        expected_initial_loss(classes, 0.0, 64.0, 512),
        math.log(classes),
    ):
        assert abs(wrong - expected) > tolerance


def test_the_mean_logarithm_of_known_sums():
    certain = np.ones(1)
    logits = np.array([-2.0]), certain, np.array([1.5]), certain
    assert mean_log_sum(*logits, 3) == pytest.approx(np.log(np.exp(-2.0) + 3 * np.exp(1.5)))
    assert mean_log_sum(*logits, 0) == pytest.approx(-2.0, abs=1e-6)
    two = mean_log_sum(np.array([60.0, -60.0]), np.array([0.25, 0.75]), *logits[2:], 1)
    assert two == pytest.approx(0.25 * 60 + 0.75 * 1.5, rel=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 16, 1024])
def test_random_cosines_have_the_moments_of_a_sphere(dim):
    cosines, weights = random_cosines(dim)
    assert weights.sum() == pytest.approx(1.0)
    assert weights @ cosines == pytest.approx(0.0, abs=1e-12)
    assert weights @ cosines**2 == pytest.approx(1 / dim, rel=1e-3)
    assert weights @ cosines**4 == pytest.approx(3 / (dim * (dim + 2)), rel=2e-3)


def test_the_largest_of_some_cosines():
    """In three dimensions a cosine is uniform, and the mean largest of K is (K − 1)/(K + 1)."""
    for count in (2, 3, 10):
        cosines, weights = random_cosines(3, count)
        assert weights @ cosines == pytest.approx((count - 1) / (count + 1), abs=2e-3)


@pytest.mark.parametrize(("classes", "sub_centers"), [(50, 1), (2, 3)])
def test_a_loss_knows_of_smoothing_by_hand(classes, sub_centers):
    """ε of the target goes to the mean of all logits, whose other ones are cosines."""
    plain, smooth = (
        ArcFace(scale=16.0, sub_centers=sub_centers, label_smoothing=share).expected_initial_loss(
            classes, 64
        )
        for share in (0.0, 0.2)
    )
    cosines, weights = random_cosines(64, sub_centers)
    mean = weights @ np.asarray(arcface(0.5)(jnp.asarray(cosines, jnp.float32)), np.float64)
    expected = 16.0 * 0.2 * (1 - 1 / classes) * (mean - weights @ cosines)
    assert smooth - plain == pytest.approx(float(expected), rel=5e-3)
