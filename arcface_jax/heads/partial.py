"""Margin softmax over a part of the classes: Partial FC's random part, or the classes nearest
to the batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.heads.chunked import margin_softmax_over
from arcface_jax.heads.chunks import (
    DEFAULT_CHUNK,
    over_chunks,
    read_rows,
    split_classes,
    vary_over,
    varying_axes,
)
from arcface_jax.heads.class_axis import AxisName, class_axis
from arcface_jax.heads.class_sums import ClassSums, SumOptions, class_sums, view_chunk
from arcface_jax.heads.sampling import (
    ClassSample,
    best_rows,
    places_in_sample,
    present_classes,
    take_rows,
)
from arcface_jax.heads.softmax import check_head, compute_dtype, reduce_sums, share_batch
from arcface_jax.margins import ARCFACE, Psi


def sampled_margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    sample: ClassSample,
    *,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    chunk: int = DEFAULT_CHUNK,
    shift: str = "running",
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    r"""Margin softmax over the sampled classes S alone, which hold every example's own:

        L = ln(e^{s·psi(cosθ_y)} + Σ_{j∈S, j≠y} e^{s·cosθ_j}) − s·psi(cosθ_y).

    Differentiated by all class weights, it gives the rows outside the sample a gradient of zero:
    with any optimiser that is Partial FC V2. For V1, and for either without a gradient of all rows,
    see `arcface_jax.heads.fused.fused_head_step`.

    Args:
      embeddings: [N, D]; on several devices, this one's.
      class_weights: [C, D] or [C, K, D]; on several devices, this one's shard.
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      sample: from `sample_classes` or `hard_classes`, with these labels.
      axis_name: the mapped axis that classes and examples are split over, if any.
      num_classes: C of all devices together; needed with `axis_name`.
      psi, scale, label_smoothing, filter_threshold, chunk, shift, precision: as
        `chunked_margin_softmax_loss` has them; smoothing spreads ε over the sample.

    Returns: the loss of each example, [N].

    Raises:
      InputError: for a wrong shape, dtype, label or option.

    References:
      An et al., Partial FC, arXiv:2010.05222 and arXiv:2203.15565.
    """
    return margin_softmax_over(
        class_axis(axis_name, num_classes, class_weights.shape[0]),
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
        sample=sample,
    )


def hard_classes(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    count: int,
    axis_name: AxisName | None = None,
    num_classes: int | None = None,
    chunk: int = DEFAULT_CHUNK,
    precision: jax.lax.PrecisionLike = "highest",
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
      precision: of the product.

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
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    r"""How much of the exact partition function a sample holds: Σ_{j∈S, j≠y} e^{s·cosθ_j} / Σ_{j≠y}
    e^{s·cosθ_j}.

    Args:
      embeddings, class_weights, labels, sample, scale, axis_name, num_classes, chunk, precision: as
        in `sampled_margin_softmax_loss`.

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
