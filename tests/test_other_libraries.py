"""What the guides for users of other libraries call the same, beside those libraries' formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax import margin_softmax_loss
from arcface_jax.cosine import row_norms
from arcface_jax.losses import ArcFace, NormFace, margin_cross_entropy
from arcface_jax.margins import arcface, normface, sphereface_original

RNG = np.random.default_rng(0)
EMBEDDINGS, WEIGHTS = RNG.normal(size=(12, 6)), RNG.normal(size=(9, 6))
LABELS = RNG.integers(0, 9, 12)
EMBEDDINGS[0], EMBEDDINGS[1] = WEIGHTS[LABELS[0]], -WEIGHTS[LABELS[1]]  # 0° and 180°
EMBEDDINGS[2] = -1.5 * WEIGHTS[LABELS[2]] + 0.2
ROWS = np.arange(12)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def cross_entropy(logits):
    highest = logits.max(axis=1, keepdims=True)
    sums = np.log(np.exp(logits - highest).sum(axis=1)) + highest[:, 0]
    return sums - logits[ROWS, LABELS]


def with_target(psi):
    """The cosines, psi(θ) in the place of each true class's."""
    cosines = unit(EMBEDDINGS) @ unit(WEIGHTS).T
    angles = np.arccos(np.clip(cosines[ROWS, LABELS], -1, 1))
    cosines[ROWS, LABELS] = psi(angles)
    return cosines


def arcface_in_degrees(margin=28.6, scale=64):
    margin = np.radians(margin)

    def psi(angles):
        linear = np.cos(angles) - margin * np.sin(margin)
        return np.where(angles <= np.pi - margin, np.cos(angles + margin), linear)

    return cross_entropy(scale * with_target(psi))


def sphereface(margin=4):
    def psi(angles):
        k = np.floor(angles / (np.pi / margin))
        return (-1) ** k * np.cos(margin * angles) - 2 * k

    return cross_entropy(with_target(psi) * np.linalg.norm(EMBEDDINGS, axis=1)[:, None])


def normalised_softmax(temperature=0.05):
    return cross_entropy(unit(EMBEDDINGS) @ unit(WEIGHTS).T / temperature)


def proxy_nca(scale=8):
    distances = np.linalg.norm(unit(EMBEDDINGS)[:, None] - unit(WEIGHTS)[None], axis=-1) ** 2
    return cross_entropy(-scale * distances)


ARRAYS = jnp.asarray(EMBEDDINGS), jnp.asarray(WEIGHTS), jnp.asarray(LABELS)


def object_loss(loss):
    return loss({"class_weights": ARRAYS[1]}, {}, ARRAYS[0], ARRAYS[2]).loss


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (
            arcface_in_degrees,
            lambda: margin_softmax_loss(*ARRAYS, psi=arcface(0.4992, past_pi="linear")),
        ),
        (arcface_in_degrees, lambda: object_loss(ArcFace(margin=0.4992, past_pi="linear"))),
        (
            sphereface,
            lambda: margin_softmax_loss(
                *ARRAYS, psi=sphereface_original(4, weight=0.0), scale=row_norms(ARRAYS[0])
            ),
        ),
        (normalised_softmax, lambda: object_loss(NormFace(scale=20.0))),
        (proxy_nca, lambda: object_loss(NormFace(scale=16.0))),
    ],
    ids=["ArcFaceLoss", "ArcFaceLoss, object", "SphereFaceLoss", "NormalizedSoftmax", "ProxyNCA"],
)
def test_losses_of_pytorch_metric_learning(theirs, ours):
    """To the guard in the sine (1e-3·sin m at 0° and 180°, times the scale) and 28.6°'s digits."""
    np.testing.assert_allclose(ours(), theirs(), rtol=1e-3, atol=0.05)


def test_the_guard_in_the_sine_moves_the_margin_as_the_guide_says():
    psi = arcface(0.5)
    assert float(psi(1.0)) == pytest.approx(0.87710, abs=5e-6)
    assert np.cos(0.5) == pytest.approx(0.87758, abs=5e-6)
    angles = np.radians(np.linspace(30, 150, 200))
    with jax.enable_x64(True):
        away = np.asarray(psi(jnp.asarray(np.cos(angles)))) - np.cos(angles + 0.5)
    assert 2e-7 < np.abs(away).max() < 5e-7


def test_the_loss_that_arcface_torch_shows_ends_and_its_gradient_goes_on():
    """It clamps p at 1e-30 in the value alone. Ours is s·2 at 180° from the own class and 0° from
    another, with the same gradient s(p − 1), p = 0.
    """
    assert -np.log(1e-30) == pytest.approx(69.08, abs=5e-3)

    def loss(cosine):
        return margin_cross_entropy(cosine, jnp.array([0]), psi=normface(), scale=64.0)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array([[-1.0, 1.0]]))
    assert float(value) == pytest.approx(128.0)
    assert gradient[0].tolist() == pytest.approx([-64.0, 64.0])
