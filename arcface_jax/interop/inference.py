"""A trained model as one function of image bytes, as every export contains it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings
from arcface_jax.evaluation.verification import FlipRule
from arcface_jax.interop.fold import fold_batch_norm
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.quantise import WeightType, dequantise, quantise
from arcface_jax.models.any_network import brings_weights
from arcface_jax.models.depthwise import ShiftedDepthwise
from arcface_jax.pixels import normalise

ImageFunction = Callable[[jax.Array], jax.Array]


def unit_embedding(
    model: TrainedModel,
    *,
    fold: bool = True,
    flip: FlipRule = "none",
    weights: WeightType = "float32",
    shift_depthwise: bool = True,
    directions: np.ndarray | None = None,
) -> ImageFunction:
    """Builds the function from uint8 RGB images [N, height, width, 3] to unit embeddings [N, D].

    Args:
      model: the trained model.
      fold: fold batch normalisations into the layers before them.
      flip: how to combine the embeddings of image and mirror image, at twice the cost; see
        `evaluation.verification.combine_flip`.
      weights: storage type of the kernels.
      shift_depthwise: compute depthwise convolutions in a way that is fast on CPUs, if compiled for
        one; pass False for ONNX, which has its own convolution.
      directions: [D, d] of `principal_directions`, to shorten embeddings to d numbers.

    Returns: a function to jit, export or convert. An embedding of norm 0 stays 0; D doubles for
      flip "concatenate".
    """
    network: Any = model.backbone
    variables: Any = model.variables
    if fold and not brings_weights(network):  # whose layers have other paths than its weights
        network, variables = fold_batch_norm(model.backbone, model.variables, model.image_size)
    if shift_depthwise:
        network = ShiftedDepthwise(network)
    packed = quantise(variables, weights)

    def embed(images: jax.Array) -> jax.Array:
        unpacked = dequantise(packed)
        embeddings = network.apply(unpacked, normalise(images, model.pixels))
        if flip != "none":
            mirrored = network.apply(unpacked, normalise(images[:, :, ::-1, :], model.pixels))
            both = (embeddings, mirrored)
            embeddings = sum(both) if flip == "add" else jnp.concatenate(both, axis=-1)
        return _unit(embeddings)

    def shortened(images: jax.Array) -> jax.Array:
        return _unit(jnp.matmul(embed(images), jnp.asarray(directions), precision="highest"))

    return embed if directions is None else shortened


def _unit(rows: jax.Array) -> jax.Array:
    # Not cosine.normalise_rows: its cases for gradients and divergence would be nodes of every
    # exported graph.
    squared = jnp.sum(jnp.square(rows.astype(jnp.float32)), axis=-1, keepdims=True)
    return rows / jnp.sqrt(jnp.maximum(squared, 1e-24))


def principal_directions(embeddings: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """What an embedding can be shortened to: the d orthonormal directions P that keep most of x.

        P = the d eigenvectors of Σ x xᵀ with the largest eigenvalues;  x ↦ Pᵀx / ‖Pᵀx‖

    The mean is not taken off, so that with d = D every cosine stays as it is.

    Args:
      embeddings: [N, D], unit rows, of images like those that will be embedded.
      size: d.

    Returns: (float32 [D, d], the share of the squared length that is kept, mean over the images).

    Raises:
      InputError: d is not below D, or there are fewer than d images.
    """
    embeddings = check_embeddings(embeddings).astype(np.float64)
    count, dimensions = embeddings.shape
    if not 0 < size < dimensions:
        raise InputError(
            f"size {size}: the embedding has {number_of(dimensions, 'number')}; give fewer, 1 to "
            f"{dimensions - 1}"
        )
    if count < size:
        raise InputError(f"size {size}: needs as many images, and there are {count}; give more")
    values, vectors = np.linalg.eigh(embeddings.T @ embeddings)
    return vectors[:, ::-1][:, :size].astype(np.float32), float(values[-size:].sum() / count)
