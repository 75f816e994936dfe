"""A sample of the classes in place of all: drawn at random (Partial FC), or the nearest."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import (
    DEFAULT_CHUNK,
    over_chunks,
    read_rows,
    split_classes,
    vary_over,
    varying_axes,
)
from arcface_jax.heads.class_sums import ClassSums, SumOptions, class_sums, view_chunk
from arcface_jax.heads.shards import AxisName, ClassAxis, class_axis, shard_rows
from arcface_jax.heads.softmax import check_head, compute_dtype, reduce_sums, share_batch


class ClassSample(NamedTuple):
    """Some of this device's classes.

    Attributes:
      rows: [S] their row numbers, ascending; after `active` of them, the number of rows, which
        stands for none.
      active: how many there are, at most S.
    """

    rows: jax.Array
    active: jax.Array


def present_classes(labels: jax.Array, axis: ClassAxis) -> jax.Array:
    """Whether each of this device's rows is the class of an example on any device, [rows]."""
    rows = shard_rows(axis.num_classes, axis.size)
    labels = axis.gather(labels.astype(jnp.int32))
    local = labels - axis.first_class()
    local = jnp.where((labels < 0) | (local < 0) | (local >= axis.classes_here()), rows, local)
    return jnp.zeros(rows, bool).at[local].set(True, mode="drop")


def best_rows(
    scores: jax.Array, present: jax.Array, wanted: Any, size: int, classes_here: Any
) -> ClassSample:
    """The present classes and, up to `wanted` in all, those with the largest scores.

    Args:
      scores: [rows], int32 below the largest int32 and not negative, or float32 that is finite.
      present: [rows], the classes to keep whatever their score.
      wanted: how many classes in all; more if more are present.
      size: S, at least the larger of the two.
      classes_here: rows from here on are padding.

    Returns: the sample.
    """
    rows = scores.shape[0]
    whole_numbers = jnp.issubdtype(scores.dtype, jnp.integer)
    first, last = (jnp.iinfo(scores.dtype).max, -1) if whole_numbers else (jnp.inf, -jnp.inf)
    padding = jnp.arange(rows) >= classes_here
    scores = jnp.where(padding, last, jnp.where(present, first, scores))
    order = jax.lax.top_k(scores, size)[1].astype(jnp.int32)
    active = jnp.maximum(jnp.asarray(wanted, jnp.int32), jnp.sum(present, dtype=jnp.int32))
    return ClassSample(jnp.sort(jnp.where(jnp.arange(size) < active, order, rows)), active)


def sample_classes(
    key: jax.Array,
    labels: jax.Array,
    *,
    num_classes: int,
    rate: float,
    axis_name: AxisName | None = None,
) -> ClassSample:
    """Partial FC's sample: the batch's own classes and, up to ⌊rate·C_local⌋ in all, others drawn
    uniformly.

    The size of the arrays is fixed by `rate`, C and N; how many classes the sample really has is
    `active`, which exceeds ⌊rate·C_local⌋ only where the batch has more classes on the device than
    that.

    Args:
      key: a PRNG key, new at every step and the same on all devices, which draw different numbers
        from it.
      labels: this device's [n] integers, or −1.
      num_classes: C, of all devices together.
      rate: in (0, 1].
      axis_name: the mapped axis that classes and examples are split over, if any.

    Returns: this device's sample.

    Raises:
      InputError: for a rate out of range.

    References:
      An et al., Partial FC, arXiv:2010.05222 and arXiv:2203.15565.
    """
    check_between("rate", rate, 0.0, 1.0, open_low=True)
    axis = ClassAxis(axis_name, num_classes)
    rows = shard_rows(num_classes, axis.size)
    examples = labels.shape[0] * axis.size
    # A shard without the padding row has one class more, and may want one more.
    wanted = jnp.where(
        jnp.asarray(axis.classes_here()) == rows, int(rate * rows), int(rate * (rows - 1))
    )
    size = max(int(rate * rows), min(rows, examples))
    key = jax.random.fold_in(key, axis.index())
    scores = (jax.random.bits(key, (rows,), jnp.uint32) >> 2).astype(jnp.int32)
    return best_rows(scores, present_classes(labels, axis), wanted, size, axis.classes_here())


def take_rows(array: jax.Array, sample: ClassSample) -> jax.Array:
    """[S, …] rows of the sample; what stands after the active ones is some other row."""
    return jnp.take(array, sample.rows, axis=0, mode="clip")


def put_rows(array: jax.Array, rows: jax.Array, sample: ClassSample) -> jax.Array:
    """The array with the sample's active rows in place."""
    return array.at[sample.rows].set(rows, mode="drop")


def places_in_sample(local_labels: jax.Array, sample: ClassSample) -> jax.Array:
    """Labels numbered as the rows of the device, numbered as the rows of the sample; −1 where
    they are not in it.
    """
    place = jnp.minimum(jnp.searchsorted(sample.rows, local_labels), sample.rows.shape[0] - 1)
    found = (sample.rows[place] == local_labels) & (place < sample.active)
    return jnp.where(found, place, -1).astype(jnp.int32)


def hard_classes(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    count: int,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    chunk: int = DEFAULT_CHUNK,
    precision: str = "highest",
) -> ClassSample:
    """The batch's own classes and, up to `count` in all, those whose centre is nearest to an
    embedding of the batch.

    A class's score is its largest cosine with any example; rows to ignore have none. Finding them
    costs one of the four products of the exact loss; `partition_recall` says how much of the
    softmax they hold. A sample may serve several steps.

    Args:
      embeddings: [N, D]; on several devices, this one's.
      class_weights: [C, D] or [C, K, D]; on several devices, this one's shard.
      labels: [N] integers in [0, C), or −1.
      count: how many classes, on each device; from 1 to the number of rows.
      axis_name: the mapped axis that classes and examples are split over, if any.
      num_classes: C of all devices together; needed with `axis_name`.
      chunk: the most classes at a time.
      precision: of the product; see `arcface_jax.cosine.product`.

    Returns: this device's sample; no gradient flows into it.

    Raises:
      InputError: for a wrong shape, dtype, label, count or chunk.
    """
    axis = class_axis(axis_name, num_classes, class_weights.shape[0])
    embeddings, class_weights = check_head(embeddings, class_weights, axis)
    rows = class_weights.shape[0]
    if not 1 <= count <= rows:
        raise InputError(
            f"count is {count}; pass a number of classes from 1 to {rows}, those on a device"
        )
    batch = share_batch(embeddings, labels, 1.0, axis, compute_dtype(embeddings, class_weights))
    unit = jax.lax.stop_gradient(batch.unit)
    class_weights = jax.lax.stop_gradient(class_weights)
    counts = axis.gather(batch.labels) >= 0
    chunks = split_classes(rows, chunk)

    def score_chunk(index: Any, weights: jax.Array, scores: jax.Array) -> jax.Array:
        view = view_chunk(
            unit, read_rows(weights, chunks.start(index), chunks.size, unit.dtype), precision
        )
        best = jnp.max(jnp.where(counts[:, None], view.cosine, -2.0), axis=0)
        return jax.lax.dynamic_update_slice_in_dim(scores, best, chunks.start(index), 0)

    axes = varying_axes(unit, class_weights, counts)
    start = vary_over(axes, jnp.zeros(rows, unit.dtype))
    scores = over_chunks(chunks, vary_over(axes, class_weights), score_chunk, start)
    size = max(count, min(rows, counts.shape[0]))
    wanted = jnp.minimum(count, axis.classes_here())
    return best_rows(scores, present_classes(labels, axis), wanted, size, axis.classes_here())


def partition_recall(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    sample: ClassSample,
    *,
    scale: Any = 64.0,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    chunk: int = DEFAULT_CHUNK,
    precision: str = "highest",
) -> jax.Array:
    r"""How much of the exact partition function a sample holds: Σ_{j∈S, j≠y} e^{s·cosθ_j} / Σ_{j≠y}
    e^{s·cosθ_j}.

    Args:
      embeddings: [N, D]; on several devices, this one's.
      class_weights: [C, D] or [C, K, D]; on several devices, this one's shard.
      labels: [N] integers in [0, C), or −1.
      sample: from `sample_classes` or `hard_classes`, with these labels.
      scale: s.
      axis_name: the mapped axis that classes and examples are split over, if any.
      num_classes: C of all devices together; needed with `axis_name`.
      chunk: the most classes at a time.
      precision: of the products; see `arcface_jax.cosine.product`.

    Returns: [N], in [0, 1]: 1 where there is no wrong class.

    Raises:
      InputError: for a wrong shape, dtype, label, scale or chunk.
    """
    axis = class_axis(axis_name, num_classes, class_weights.shape[0])
    embeddings, class_weights = check_head(embeddings, class_weights, axis)
    options = SumOptions(chunk=chunk, precision=precision)
    batch = share_batch(embeddings, labels, scale, axis, compute_dtype(embeddings, class_weights))

    def sums(weights: jax.Array, places: jax.Array, valid: Any) -> ClassSums:
        return reduce_sums(
            class_sums(batch.unit, weights, places, batch.all_scales, valid, options),
            batch,
            axis,
            options,
        )

    every = sums(class_weights, batch.local_labels, axis.classes_here())
    sampled = sums(
        take_rows(class_weights, sample),
        places_in_sample(batch.local_labels, sample),
        sample.active,
    )
    empty = jnp.isneginf(every.log_partition)
    ratio = jnp.exp(sampled.log_partition - jnp.where(empty, 0.0, every.log_partition))
    return jnp.where(empty, 1.0, jnp.minimum(ratio, 1.0))
