"""Faces out of a model: change pixels until the model takes them for a wanted identity.

A face model stores what it has learnt of a person in its weights and in the running statistics of
its batch normalisations. Gradient descent on the pixels recovers both: it pulls the embedding to a
target, and the statistics of the generated batch to the running ones.

References:
  Deng et al., ArcFace (arXiv:1801.07698v4), the section on inverting the model; Yin et al.,
  Dreaming to Distill (arXiv:1912.08795), for the prior from batch statistics.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax.arguments import check_between, check_floating, check_positive
from arcface_jax.cosine import normalise_rows, row_norms
from arcface_jax.errors import InputError


class LayerStatistics(NamedTuple):
    """Statistics of one batch normalisation, of a batch and of training; each [channels], float32.

    Attributes:
      mean: of the batch.
      variance: of the batch.
      running_mean: of training.
      running_variance: of training.
    """

    mean: jax.Array
    variance: jax.Array
    running_mean: jax.Array
    running_variance: jax.Array


Network = Callable[[jax.Array], tuple[jax.Array, Sequence[LayerStatistics]]]
"""Normalised images [N, H, W, 3] -> (embeddings [N, D], one entry per batch normalisation)."""

EmbeddingLoss = Callable[[jax.Array], jax.Array]
"""Embeddings [N, D] -> the loss of each, [N]."""


@dataclasses.dataclass(frozen=True)
class Prior:
    """Weights of the terms that make an image likely, beside the identity. Defaults: ArcFace's.

    Attributes:
      statistics: weight of `standardised_distance`.
      total_variation: weight of `total_variation`.
      l2: weight of the length of the images.
    """

    statistics: float = 0.05
    total_variation: float = 1e-3
    l2: float = 1e-4


def cosine_loss(targets: jax.Array) -> EmbeddingLoss:
    """1 − cos(x_i, t_i) of embeddings x and targets t, both [N, D] of any length."""
    directions = normalise_rows(check_floating("targets", targets, 2))
    return lambda embeddings: 1.0 - jnp.sum(normalise_rows(embeddings) * directions, axis=-1)


def standardised_distance(layers: Sequence[LayerStatistics], epsilon: float = 1e-5) -> jax.Array:
    r"""Distance of a batch's statistics from the running ones, in units of the running deviation.

        R = Σ_layers mean_channels [ (μ − μ̂)²/σ̂² + (σ²/σ̂² − 1)² ]

    The plain squared distance Σ‖μ − μ̂‖² + ‖σ² − σ̂²‖² depends on each layer's units, so with large
    activations it would dominate the loss. Standardised, one weight suits every network.

    Args:
      layers: one entry per batch normalisation.
      epsilon: added to σ̂².

    Returns: R, a scalar; 0 without layers.

    References: Yin et al., Dreaming to Distill (arXiv:1912.08795), eq. 4, for the plain distance.
    """
    total = jnp.zeros(())
    for layer in layers:
        variance = layer.running_variance + epsilon
        total += jnp.mean(jnp.square(layer.mean - layer.running_mean) / variance)
        total += jnp.mean(jnp.square((layer.variance - layer.running_variance) / variance))
    return total


def total_variation(images: jax.Array) -> jax.Array:
    """‖∂x/∂row‖₂ + ‖∂x/∂column‖₂ of a batch [N, H, W, C], by differences of neighbouring pixels."""
    return _length(images[:, 1:] - images[:, :-1]) + _length(images[:, :, 1:] - images[:, :, :-1])


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The result of an inversion.

    Attributes:
      images: float32 [N, H, W, 3], normalised, inside the bounds.
      losses: float32 [steps], the minimised loss.
    """

    images: np.ndarray
    losses: np.ndarray


def inversion_loss(
    network: Network, embedding_loss: EmbeddingLoss, images: jax.Array, prior: Prior = Prior()
) -> jax.Array:
    """mean_i loss(x_i) + w_s·R + w_tv·TV + w_2·‖x‖₂, a scalar; what `invert` minimises.

    Args:
      network: embeddings and statistics of images.
      embedding_loss: the loss of each embedding.
      images: x, [N, H, W, 3], normalised.
      prior: the weights.
    """
    embeddings, layers = network(images)
    likely = prior.statistics * standardised_distance(
        layers
    ) + prior.total_variation * total_variation(images)
    return jnp.mean(embedding_loss(embeddings)) + likely + prior.l2 * _length(images)


def invert(
    network: Network,
    embedding_loss: EmbeddingLoss,
    start: jax.Array,
    *,
    key: jax.Array,
    prior: Prior = Prior(),
    steps: int = 200,
    learning_rate: float = 0.25,
    bounds: tuple[Any, Any] = (-1.0, 1.0),
    on_step: Callable[[int, float], None] | None = None,
) -> Inversion:
    """Changes pixels by Adam until a network embeds them as wanted and finds them likely.

    Each step shows the network the batch or, half of the time at random, its mirror image. The
    learning rate falls to 0 along a half cosine. Pixels stay inside the bounds, so that an image
    file can hold them.

    Args:
      network: gives embeddings and batch statistics of normalised images, see `with_statistics`.
      embedding_loss: the loss of each embedding, such as `cosine_loss`.
      start: [N, H, W, 3], normalised, usually noise. The statistics are over the whole batch: N
        different identities resemble a training batch, one does not.
      key: of the mirroring.
      prior: weights beside the identity.
      steps: of Adam.
      learning_rate: at the start.
      bounds: least and greatest value of a pixel, or of each channel [3].
      on_step: called with the step and the loss.

    Returns: the images.

    Raises:
      InputError: for a wrong shape, no step, empty bounds, or a learning rate that is not positive.

    References: Deng et al., ArcFace (arXiv:1801.07698v4).
    """
    images = check_floating("start", start, 4)
    check_positive("learning_rate", learning_rate)
    check_between("steps", steps, 1, math.inf)
    low, high = bounds
    if not np.all(np.less(low, high)):
        raise InputError(f"bounds: {bounds}; give the least and the greatest value of a pixel")
    optimiser = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    @jax.jit
    def update(
        images: jax.Array, state: optax.OptState, step: jax.Array
    ) -> tuple[jax.Array, optax.OptState, jax.Array]:
        mirrored = jax.random.bernoulli(jax.random.fold_in(key, step))

        def loss(x: jax.Array) -> jax.Array:
            return inversion_loss(
                network, embedding_loss, jnp.where(mirrored, x[:, :, ::-1], x), prior
            )

        value, gradient = jax.value_and_grad(loss)(images)
        change, state = optimiser.update(gradient, state)
        return jnp.clip(images + change, low, high), state, value

    state, losses = optimiser.init(images), []
    for step in range(steps):
        images, state, value = update(images, state, jnp.asarray(step))
        losses.append(value)
        if on_step is not None:
            on_step(step, float(value))
    return Inversion(np.asarray(images), np.asarray(jnp.stack(losses)))


@dataclasses.dataclass(frozen=True)
class Likeness:
    """Cosine of each generated face to the person it stands for, and to others.

    Attributes:
      own: float64 [P], to its own person.
      nearest_other: float64 [P], to the most similar other person.
      rank: int [P], 1 + the number of other people at least as similar as its own.
    """

    own: np.ndarray
    nearest_other: np.ndarray
    rank: np.ndarray

    def numbers(self) -> dict[str, float]:
        """Means over the faces, and the share whose own person comes first."""
        return {
            "own": float(self.own.mean()),
            "nearest_other": float(self.nearest_other.mean()),
            "rank_1": float(np.mean(self.rank == 1)),
        }


def likeness(embeddings: np.ndarray, centres: np.ndarray, people: np.ndarray) -> Likeness:
    """Compares generated faces with people.

    Args:
      embeddings: [N, D], unit rows, of the generated faces.
      centres: [P, D], unit rows, one per person; P ≥ 2.
      people: int [N], whom each face stands for, a row of `centres`.

    Raises:
      InputError: for shapes that do not fit, or fewer than two people.
    """
    embeddings = np.asarray(embeddings, np.float64)
    centres = np.asarray(centres, np.float64)
    people = np.asarray(people)
    fits = embeddings.ndim == centres.ndim == 2 and embeddings.shape[1:] == centres.shape[1:]
    if not fits or people.shape != embeddings.shape[:1] or len(centres) < 2:
        raise InputError(
            f"embeddings {embeddings.shape}, centres {centres.shape} and people {people.shape} do "
            "not fit; give [N, D], [P, D] of at least two people, and [N]"
        )
    cosines = embeddings @ centres.T
    rows = np.arange(len(people))
    own = cosines[rows, people]
    cosines[rows, people] = -np.inf
    return Likeness(own, cosines.max(axis=1), 1 + np.sum(cosines >= own[:, None], axis=1))


def _length(x: jax.Array) -> jax.Array:
    """‖x‖₂ over all axes, whose gradient at 0 is 0."""
    return row_norms(x.reshape(-1))
