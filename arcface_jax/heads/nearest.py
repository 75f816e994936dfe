"""Which class an embedding is nearest to, over all classes, without their logits."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.heads.chunks import (
    DEFAULT_CHUNK,
    over_chunks,
    read_rows,
    split_classes,
    vary_over,
    varying_axes,
)
from arcface_jax.heads.class_axis import AxisName, class_axis
from arcface_jax.heads.class_sums import view_chunk
from arcface_jax.heads.softmax import check_head, compute_dtype, share_batch


class NearestClass(NamedTuple):
    """What `nearest_class` found for each of this device's n examples.

    Attributes:
      label: int32 [n], the class with the largest cosine, the first of equals.
      own_cosine: [n], cosθ_y; 0 for a label of −1.
    """

    label: jax.Array
    own_cosine: jax.Array


def nearest_class(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    chunk: int = DEFAULT_CHUNK,
    precision: jax.lax.PrecisionLike = "highest",
) -> NearestClass:
    """The class of the largest cosine and the cosine with the own class, a chunk of classes at a
    time; no gradient.

    Args:
      embeddings: [N, D]; on several devices, this one's.
      class_weights: [C, D] or [C, K, D]; on several devices, this one's shard.
      labels: [N] integers in [0, C), or −1.
      axis_name: the mapped axis that classes and examples are split over, if any.
      num_classes: C of all devices together; needed with `axis_name`.
      chunk: the most classes at a time.
      precision: of the product.

    Returns: for each example.

    Raises:
      InputError: for a wrong shape, dtype, label or chunk.
    """
    axis = class_axis(axis_name, num_classes, class_weights.shape[0])
    embeddings, class_weights = jax.lax.stop_gradient(check_head(embeddings, class_weights, axis))
    batch = share_batch(embeddings, labels, 1.0, axis, compute_dtype(embeddings, class_weights))
    unit, own_rows, here = (
        jax.lax.stop_gradient(batch.unit),
        batch.local_labels,
        axis.classes_here(),
    )
    chunks = split_classes(class_weights.shape[0], chunk)

    def look(index: Any, weights: jax.Array, found: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        best, row, own = found
        cosine = view_chunk(
            unit, read_rows(weights, chunks.start(index), chunks.size, unit.dtype), precision
        ).cosine
        rows, fresh = chunks.classes_of(index, here)
        cosine = jnp.where(fresh, cosine, -2.0)
        place = jnp.argmax(cosine, axis=1)
        largest = jnp.take_along_axis(cosine, place[:, None], axis=1)[:, 0]
        better = largest > best
        own = own + jnp.sum(jnp.where((own_rows[:, None] == rows) & fresh, cosine, 0.0), axis=1)
        return jnp.where(better, largest, best), jnp.where(better, rows[place], row), own

    axes = varying_axes(unit, class_weights, own_rows)
    start = (
        jnp.full(unit.shape[0], -3.0, unit.dtype),
        jnp.zeros(unit.shape[0], jnp.int32),
        jnp.zeros_like(unit[:, 0]),
    )
    best, row, own = over_chunks(
        chunks, vary_over(axes, class_weights), look, vary_over(axes, start)
    )
    count = embeddings.shape[0]
    if axis.name is None:
        return NearestClass(row, own)
    last = jnp.iinfo(jnp.int32).max
    candidate = jnp.where(best >= axis.largest(best), row + axis.first_class(), last)
    label = axis.own(jax.lax.pmin(candidate, axis.name), count)
    return NearestClass(label.astype(jnp.int32), axis.scatter_sum(own, 0))
