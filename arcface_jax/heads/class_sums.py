"""What a margin softmax needs of the classes: four numbers an example, from one pass over the class
weights.

The margin touches the true class's cosine alone. So the loss is a function of [N] arrays: that
cosine, and sums over the wrong classes. `class_sums` forms them chunk by chunk, forwards and
backwards, with no more than [N, chunk] logits alive; psi, whatever it is, stays outside and is
differentiated as any other function of [N].
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.heads.chunks import (
    Chunks,
    over_chunks,
    read_rows,
    split_classes,
    vary_over,
    varying_axes,
    write_rows,
)
from arcface_jax.logits import inverse_norms

SHIFTS = ("running", "fixed")


@dataclasses.dataclass(frozen=True)
class SumOptions:
    """How to form the sums; static.

    Attributes:
      chunk: the most classes at a time.
      shift: "running" subtracts the largest logit so far before exponentials; "fixed" subtracts s,
        which no logit of a wrong class exceeds: one reduction less, but a row all of whose wrong
        classes have cosθ < 1 − 87/s is lost.
      cosine_sum: whether Σ cosθ_j is wanted.
      scale_gradient: whether the scale is to be differentiated.
      filter_threshold: wrong classes with a cosine above this are left out.
      precision: of the matrix products.
    """

    chunk: int
    shift: str = "running"
    cosine_sum: bool = False
    scale_gradient: bool = False
    filter_threshold: float | None = None
    precision: jax.lax.PrecisionLike = "highest"


class ClassSums(NamedTuple):
    """For each of N examples, over the classes at hand; the wrong ones are those but y that no
    filter leaves out.

    Attributes:
      target: cosθ_y, 0 where y is not among the classes.
      log_partition: ln Σ e^{s·cosθ_j} over the wrong classes, −inf where there is none.
      cosine_sum: Σ cosθ_j over the wrong classes (0 unless asked for).
      wrong_classes: how many wrong classes there are (0 unless the cosine sum is asked for).
    """

    target: jax.Array
    log_partition: jax.Array
    cosine_sum: jax.Array
    wrong_classes: jax.Array


class ChunkView(NamedTuple):
    """A chunk's cosines and what its pull-back needs; K sub-centres lie on the middle axis."""

    rows: jax.Array  # [K·c, D]
    inverse_norms: jax.Array  # [K·c], 0 for a row that is too small to have a direction
    every_cosine: jax.Array  # [N, K, c]
    cosine: jax.Array  # [N, c], the largest of the K


def view_chunk(unit: jax.Array, rows: jax.Array, precision: jax.lax.PrecisionLike) -> ChunkView:
    """Cosines of unit embeddings [N, D] with the rows of a chunk, [c, D] or [c, K, D]."""
    size, dim = rows.shape[0], rows.shape[-1]
    centres = rows.shape[1] if rows.ndim == 3 else 1
    if centres > 1:
        rows = jnp.moveaxis(rows, 1, 0)
    rows = rows.reshape(centres * size, dim)
    inverse = inverse_norms(jnp.sum(rows * rows, axis=-1))
    every = (jnp.einsum("nd,cd->nc", unit, rows, precision=precision) * inverse).reshape(
        -1, centres, size
    )
    return ChunkView(rows, inverse, every, every[:, 0] if centres == 1 else jnp.max(every, axis=1))


def pull_back_chunk(
    view: ChunkView,
    slopes: jax.Array,
    unit: jax.Array,
    shape: tuple[int, ...],
    precision: jax.lax.PrecisionLike,
) -> tuple[jax.Array, jax.Array]:
    """From dL/dcosθ [N, c] to (dL/d unit embeddings [N, D], dL/d rows of `shape`, [c, D] or [c,
    K, D]).
    """
    centres = view.every_cosine.shape[1]
    if centres == 1:
        every = slopes[:, None, :]
    else:
        nearest = (view.every_cosine == view.cosine[:, None, :]).astype(slopes.dtype)
        every = nearest * (slopes / jnp.sum(nearest, axis=1))[:, None, :]
    # cosθ = x·w/‖w‖: along the row itself there is no slope.
    along = jnp.sum(every * view.every_cosine, axis=0).reshape(-1)
    scaled = every.reshape(unit.shape[0], -1) * view.inverse_norms
    of_unit = jnp.einsum("nc,cd->nd", scaled, view.rows, precision=precision)
    of_rows = jnp.einsum("nc,nd->cd", scaled, unit, precision=precision)
    of_rows = of_rows - (along * view.inverse_norms**2)[:, None] * view.rows
    if centres > 1:
        of_rows = jnp.moveaxis(of_rows.reshape(centres, -1, unit.shape[1]), 0, 1)
    return of_unit, of_rows.reshape(shape)


def masks(
    view: ChunkView,
    chunks: Chunks,
    index: Any,
    labels: jax.Array,
    valid: Any,
    filter_threshold: float | None,
) -> tuple[jax.Array, jax.Array]:
    """Which of a chunk's cosines [N, c] belong to the true class, and which to a wrong class
    that counts.
    """
    classes, fresh = chunks.classes_of(index, valid)
    target = (labels[:, None] == classes) & fresh
    wrong = ~target & fresh
    if filter_threshold is not None:
        wrong &= view.cosine <= filter_threshold
    return target, wrong


def _forward(
    options: SumOptions,
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: jax.Array,
) -> ClassSums:
    chunks = split_classes(weights.shape[0], options.chunk)
    axes = varying_axes(unit, weights, labels, scale, valid)
    zeros = jnp.zeros(unit.shape[0], unit.dtype)
    scale = jnp.broadcast_to(scale, zeros.shape)
    start = (-scale if options.shift == "running" else scale, zeros, zeros, zeros, zeros)

    def add_chunk(
        index: Any, weights: jax.Array, carry: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        shift, partition, target, cosine_sum, count = carry
        rows = read_rows(weights, chunks.start(index), chunks.size, unit.dtype)
        view = view_chunk(unit, rows, options.precision)
        is_target, wrong = masks(view, chunks, index, labels, valid, options.filter_threshold)
        target += jnp.sum(jnp.where(is_target, view.cosine, 0.0), axis=1)
        logits = scale[:, None] * view.cosine
        if options.shift == "running":
            largest = jnp.maximum(shift, jnp.max(jnp.where(wrong, logits, -scale[:, None]), axis=1))
            partition = partition * jnp.exp(shift - largest)
            shift = largest
        partition += jnp.sum(jnp.where(wrong, jnp.exp(logits - shift[:, None]), 0.0), axis=1)
        if options.cosine_sum:
            cosine_sum += jnp.sum(jnp.where(wrong, view.cosine, 0.0), axis=1)
            count += jnp.sum(wrong, axis=1, dtype=count.dtype)
        return shift, partition, target, cosine_sum, count

    shift, partition, target, cosine_sum, count = over_chunks(
        chunks, weights, add_chunk, vary_over(axes, start)
    )
    return ClassSums(target, shift + jnp.log(partition), cosine_sum, count)


class Slopes(NamedTuple):
    """dL/dcosθ_j of every class, in four numbers an example: `target` for y; for a wrong class
    weight·e^{s·cosθ_j − log_partition} + constant.
    """

    target: jax.Array
    weight: jax.Array
    log_partition: jax.Array
    constant: jax.Array


def cosine_slopes(
    slopes: Slopes, cosine: jax.Array, scale: jax.Array, is_target: jax.Array, wrong: jax.Array
) -> jax.Array:
    """dL/dcosθ of a chunk, [N, c]."""
    # No wrong class's is above 1. The others, and all of a row whose sum is lost, may overflow: 0·∞
    # would be NaN.
    p = jnp.exp(jnp.minimum(scale[:, None] * cosine - slopes.log_partition[:, None], 0.0))
    of_wrong = jnp.where(wrong, slopes.weight[:, None] * p + slopes.constant[:, None], 0.0)
    return jnp.where(is_target, slopes.target[:, None], of_wrong)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _class_sums(
    options: SumOptions,
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: jax.Array,
) -> ClassSums:
    return _forward(options, unit, weights, labels, scale, valid)


def _class_sums_forward(
    options: SumOptions, *arguments: jax.Array
) -> tuple[ClassSums, tuple[Any, ...]]:
    sums = _forward(options, *arguments)
    return sums, (*arguments, sums.log_partition)


def _class_sums_backward(
    options: SumOptions, saved: tuple[Any, ...], cotangents: ClassSums
) -> tuple[Any, ...]:
    unit, weights, labels, scale, valid, log_partition = saved
    chunks = split_classes(weights.shape[0], options.chunk)
    axes = varying_axes(unit, weights, labels, scale, valid)
    scales = jnp.broadcast_to(scale, log_partition.shape)
    slopes = Slopes(
        target=cotangents.target,
        weight=scales * cotangents.log_partition,
        log_partition=jnp.where(jnp.isfinite(log_partition), log_partition, 0.0),
        constant=cotangents.cosine_sum,
    )
    # The bits of bfloat16, because XLA's CPU compiler would convert all of the gradient to write
    # one chunk of it.
    stored = jnp.uint16 if weights.dtype == jnp.bfloat16 else weights.dtype

    def add_chunk(
        index: Any, weights: jax.Array, carry: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        of_unit, of_weights, of_scale = carry
        rows = read_rows(weights, chunks.start(index), chunks.size, unit.dtype)
        view = view_chunk(unit, rows, options.precision)
        is_target, wrong = masks(view, chunks, index, labels, valid, options.filter_threshold)
        slope = cosine_slopes(slopes, view.cosine, scales, is_target, wrong)
        of_unit_here, of_rows = pull_back_chunk(view, slope, unit, rows.shape, options.precision)
        if options.scale_gradient:
            through_partition = jnp.where(wrong, slope - slopes.constant[:, None], 0.0)
            of_scale += jnp.sum(through_partition * view.cosine, axis=1)
        return (
            of_unit + of_unit_here,
            write_rows(of_weights, of_rows, chunks.start(index)),
            of_scale,
        )

    start = (jnp.zeros_like(unit), jnp.zeros(weights.shape, stored), jnp.zeros_like(log_partition))
    start = vary_over(axes, start)
    of_unit, of_weights, of_scale = over_chunks(chunks, weights, add_chunk, start, backwards=True)
    of_weights = jax.lax.bitcast_convert_type(of_weights, weights.dtype)
    # s·weight was differentiated by cosθ; by s it is cosθ·weight, hence the division.
    of_scale = of_scale / scales
    of_scale = (
        of_scale.astype(scale.dtype) if jnp.ndim(scale) else jnp.sum(of_scale).astype(scale.dtype)
    )
    no_gradient = (
        np.zeros(labels.shape, jax.dtypes.float0),
        np.zeros(valid.shape, jax.dtypes.float0),
    )
    return of_unit, of_weights, no_gradient[0], of_scale, no_gradient[1]


_class_sums.defvjp(_class_sums_forward, _class_sums_backward)


def class_sums(
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: Any,
    options: SumOptions,
) -> ClassSums:
    """The sums over the first `valid` of the classes at hand, differentiable in reverse mode.

    Args:
      unit: embeddings of length 1, [N, D], float32 or float64.
      weights: [C, D] or [C, K, D], of any floating dtype.
      labels: [N] int32, numbered as the rows of `weights`; any other number means that y is not
        among them.
      scale: s, scalar or [N].
      valid: how many rows count; an integer, which may be traced.
      options: how.

    Returns: the sums, in the dtype of `unit`. The number of wrong classes has no gradient.
    """
    scale = jnp.asarray(scale, unit.dtype)
    valid = jnp.asarray(valid, jnp.int32)
    arguments = (unit, weights, labels.astype(jnp.int32), scale, valid)
    return _class_sums(options, *vary_over(varying_axes(arguments), arguments))
