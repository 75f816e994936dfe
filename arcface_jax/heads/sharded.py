"""Margin softmax with the classes split over devices."""

from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.heads.chunked import margin_softmax_over
from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.heads.class_axis import AxisName, ClassAxis, shard_rows, shard_sizes
from arcface_jax.margins import ARCFACE, Psi


def shard_classes(rows: jax.Array, shards: int) -> jax.Array:
    """Splits an array with a row for each class over shards: [C, …] -> [shards, ⌈C/shards⌉, …].

    Shard r holds C // shards classes, and one more if r < C % shards; a shard with one fewer ends
    in a row of zeros. Flattened to [shards·⌈C/shards⌉, …], each shard's rows are what
    `jax.sharding.PartitionSpec(axis)` gives its device.

    Args:
      rows: class weights, or an optimiser's slot.
      shards: how many devices share the classes.

    Returns: the shards.

    Raises:
      InputError: for fewer than one shard.
    """
    num_classes = rows.shape[0]
    sizes, height = shard_sizes(num_classes, shards), shard_rows(num_classes, shards)
    full = sizes.count(height)
    whole, short = jnp.split(rows, [full * height])
    whole = whole.reshape(full, height, *rows.shape[1:])
    if full == shards:
        return whole
    short = short.reshape(shards - full, height - 1, *rows.shape[1:])
    padding = [(0, 0), (0, 1)] + [(0, 0)] * (rows.ndim - 1)
    return jnp.concatenate([whole, jnp.pad(short, padding)])


def unshard_classes(shards: jax.Array, num_classes: int) -> jax.Array:
    """The inverse of `shard_classes`: [shards, ⌈C/shards⌉, …] -> [C, …].

    Raises:
      InputError: if the shards are not those of so many classes.
    """
    count, height = shards.shape[:2]
    if height != shard_rows(num_classes, count):
        raise InputError(
            f"{count} shards of {height} rows do not hold {num_classes} classes; they need "
            f"{shard_rows(num_classes, count)} rows each"
        )
    full = shard_sizes(num_classes, count).count(height)
    tail = shards.shape[2:]
    whole = shards[:full].reshape(full * height, *tail)
    short = shards[full:, : height - 1].reshape((count - full) * (height - 1), *tail)
    return jnp.concatenate([whole, short])


def sharded_margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    axis_name: AxisName,
    num_classes: int,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    chunk: int = DEFAULT_CHUNK,
    shift: str = "running",
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    """The margin softmax over all classes, by devices that each hold a shard of them and a part of
    the batch.

    Called on each device of `axis_name`, inside shard_map, pmap or vmap(axis_name=…). Embeddings
    and labels are gathered over the axis; each device goes through its own classes in chunks; the
    partition function and the true class's cosine are summed over the axis, and each device keeps
    those of its own examples. What travels is O(N·D), whatever the number of classes; logits never
    do.

    Differentiate the sum over all devices' examples: outside shard_map, or inside pmap, vmap or
    shard_map with each device's own sum. The gradient of a shard of class weights then comes from
    all N examples and needs no further reduction over `axis_name`. On a mesh with another axis,
    over which the batch is split and the class weights repeated, shard_map's transpose adds up that
    axis; under nested pmap or vmap, use psum.

    Args:
      embeddings: this device's [n, D]; the same n on all.
      class_weights: this device's classes, [⌈C/devices⌉, D] or [⌈C/devices⌉, K, D]; see
        `shard_classes`.
      labels: this device's [n] integers in [0, C), or −1 for a row to ignore.
      axis_name: the mapped axis, or several (shard_map only).
      num_classes: C, of all devices together; any number.
      psi: the margin of this device's n examples.
      scale: s > 0; a number, a scalar array or [n].
      label_smoothing: ε in [0, 1].
      filter_threshold: leave wrong classes whose cosine is above this out of the softmax.
      chunk: the most classes at a time.
      shift: "running" or "fixed"; see `chunked_margin_softmax_loss`. "fixed" saves the reduction of
        a maximum, [N].
      precision: of the matrix products.

    Returns: the loss of this device's examples, [n].

    Raises:
      InputError: for a wrong shape, dtype, scale, smoothing, threshold, chunk or shift.

    References:
      An et al., Partial FC, arXiv:2010.05222, section 3.1, for the model-parallel softmax.
    """
    return margin_softmax_over(
        ClassAxis(axis_name, num_classes),
        embeddings,
        class_weights,
        labels,
        psi=psi,
        scale=scale,
        label_smoothing=label_smoothing,
        filter_threshold=filter_threshold,
        chunk=chunk,
        shift=shift,
        precision=precision,
    )
