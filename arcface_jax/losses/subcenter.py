"""Cleaning a noisy training set with sub-centres: find each class's dominant centre, drop what lies
far from it.

Training itself needs nothing from here: give any loss class_weights [C, K, D], and a class's cosine
is the largest of its K. Afterwards:

    # One pass over the training set,
    counts = sum(subcenter_counts(e, weights, y) for e, y in batches)
    centres = dominant_centres(weights, counts)  # [C, D], an ordinary head
    # and a second: False is noise.
    keep = within_angle(e, centres, y)

References:
  Deng et al., Sub-center ArcFace, ECCV 2020.
"""

import math

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels
from arcface_jax.cosine import has_class, own_cosines
from arcface_jax.errors import InputError


def subcenter_counts(
    embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array
) -> jax.Array:
    """How many examples of each class have each of its sub-centres nearest; add the counts of
    batches together.

    Args:
      embeddings: [N, D].
      class_weights: [C, K, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.

    Returns: [C, K] integers.

    Raises:
      InputError: for a wrong shape, dtype or label.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    class_weights = check_floating("class_weights", class_weights, 3)
    classes, centres, _ = class_weights.shape
    labels = check_labels(labels, embeddings.shape[0], classes)
    nearest = jnp.argmax(own_cosines(embeddings, class_weights, labels), axis=-1)
    usable = has_class(labels, classes)
    slot = jnp.where(usable, labels * centres + nearest, classes * centres)
    return (
        jnp.zeros(classes * centres, jnp.int32)
        .at[slot]
        .add(1, mode="drop")
        .reshape(classes, centres)
    )


def dominant_centres(class_weights: jax.Array, counts: jax.Array) -> jax.Array:
    """The sub-centre of each class that most of its examples are nearest to (the first of equals).

    Args:
      class_weights: [C, K, D].
      counts: [C, K], from `subcenter_counts` over the training set.

    Returns: [C, D].

    Raises:
      InputError: for shapes that do not fit.
    """
    class_weights = check_floating("class_weights", class_weights, 3)
    if jnp.shape(counts) != class_weights.shape[:2]:
        raise InputError(
            f"counts has shape {jnp.shape(counts)}; pass one for each sub-centre, "
            f"{class_weights.shape[:2]}"
        )
    dominant = jnp.argmax(jnp.asarray(counts), axis=-1)
    return jnp.take_along_axis(class_weights, dominant[:, None, None], axis=1)[:, 0]


def within_angle(
    embeddings: jax.Array, centres: jax.Array, labels: jax.Array, *, max_degrees: float = 75.0
) -> jax.Array:
    """Whether each example is at most so many degrees from its class's dominant centre: the ones to
    keep.

    Args:
      embeddings: [N, D].
      centres: [C, D], from `dominant_centres`.
      labels: [N] integers in [0, C), or −1.
      max_degrees: in [0, 180]; the paper drops what is beyond 75.

    Returns: [N] booleans; False for the label −1.

    Raises:
      InputError: for a wrong shape, dtype, label or angle.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    centres = check_floating("centres", centres, 2)
    labels = check_labels(labels, embeddings.shape[0], centres.shape[0])
    check_between("max_degrees", max_degrees, 0.0, 180.0)
    cosine = own_cosines(embeddings, centres, labels)
    return has_class(labels, centres.shape[0]) & (cosine >= math.cos(math.radians(max_degrees)))
