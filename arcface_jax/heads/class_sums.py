"""Sums over classes: a few numbers an example, from one pass over the class weights.

The margin touches the true class's cosine alone. So the loss is a function of [N] arrays: that
cosine, and sums over the wrong classes, by which every class but the example's own is meant.
`class_sums` forms them from all cosines at once, or chunk by chunk, forwards and backwards, with
no more than [N, chunk] logits alive. psi stays outside and is differentiated as any other function
of [N]. A loss whose wrong classes have other logits than s·cosθ_j gives their function, eta, which
is applied to each chunk.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from arcface_jax.cosine import inverse_norms, product
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import (
    Chunks,
    over_chunks,
    read_rows,
    split_classes,
    vary_over,
    varying_axes,
    write_rows,
)

Eta = Callable[[jax.Array], jax.Array]
"""Cosines of wrong classes [N, c] to their logits over s, which are −1 or more, with finite slopes.
A `jax.tree_util.Partial` may bind arrays to it: scalars, or [N], which reach it as [N, 1]."""


@dataclasses.dataclass(frozen=True)
class SumOptions:
    """How to form the sums; static.

    Attributes:
      chunk: the most classes at a time; None for all at once, their cosines kept for the backward
        pass, which is then differentiated by JAX as often as one likes, and in whichever mode
        unless `precision` rounds.
      cosine_sum: whether Σ cosθ_j is wanted.
      nearest_wrong: whether the largest cosine of a wrong class is wanted.
      scale_gradient: whether the scale is to be differentiated.
      filter_threshold: wrong classes with a cosine above this are left out of the sums.
      precision: of the matrix products; see `arcface_jax.cosine.product`.
      binary: whether Σ ln(1 + e^{s·η_j}) is wanted in place of ln Σ e^{s·η_j}.
      small_scale: that s ≤ 64, so that no e^{s·cosθ_j} over- or underflows float32, nor their sum,
        and their largest need not be found first.
      kernel: xla, or pallas, which has tiles of its own in place of chunks.
      skip: of pallas, δ; see `arcface_jax.heads.pallas_sums`.
    """

    chunk: int | None
    cosine_sum: bool = False
    nearest_wrong: bool = False
    scale_gradient: bool = False
    filter_threshold: float | None = None
    precision: str = "highest"
    binary: bool = False
    small_scale: bool = False
    kernel: str = "xla"
    skip: float = 0.0


class ClassSums(NamedTuple):
    """For each of N examples, over the classes at hand; η_j is eta(cosθ_j), cosθ_j without an eta.

    Attributes:
      target: cosθ_y, 0 where y is not among the classes.
      log_partition: ln Σ e^{s·η_j} over the wrong classes, −inf where there is none, or with
        `binary`.
      cosine_sum: Σ η_j over the wrong classes (0 unless asked for).
      wrong_classes: how many wrong classes there are (0 unless the cosine sum is asked for).
      nearest_wrong: the largest cosine of a wrong class, filtered or not (−2 where there is none,
        or unless asked for); no gradient.
      binary_sum: Σ ln(1 + e^{s·η_j}) over the wrong classes (0 unless asked for).
    """

    target: jax.Array
    log_partition: jax.Array
    cosine_sum: jax.Array
    wrong_classes: jax.Array
    nearest_wrong: jax.Array
    binary_sum: jax.Array


class ChunkView(NamedTuple):
    """A chunk's cosines and what its pull-back needs; K sub-centres lie on the middle axis."""

    rows: jax.Array  # [K·c, D]
    inverse_norms: jax.Array  # [K·c], 0 for a row that is too small to have a direction
    every_cosine: jax.Array  # [N, K, c]
    cosine: jax.Array  # [N, c], the largest of the K


def view_chunk(unit: jax.Array, rows: jax.Array, precision: str) -> ChunkView:
    """Cosines of unit embeddings [N, D] with the rows of a chunk, [c, D] or [c, K, D]."""
    chex.assert_rank([unit, rows], [2, {2, 3}])
    size, dim = rows.shape[0], rows.shape[-1]
    centres = rows.shape[1] if rows.ndim == 3 else 1
    if centres > 1:
        rows = jnp.moveaxis(rows, 1, 0)
    rows = rows.reshape(centres * size, dim)
    inverse = inverse_norms(jnp.sum(rows * rows, axis=-1))
    every = product("nd,cd->nc", unit, rows, precision) * inverse
    every = every.reshape(-1, centres, size)
    return ChunkView(rows, inverse, every, every[:, 0] if centres == 1 else jnp.max(every, axis=1))


def pull_back_chunk(
    view: ChunkView,
    slopes: jax.Array,
    unit: jax.Array,
    shape: tuple[int, ...],
    precision: str,
) -> tuple[jax.Array, jax.Array]:
    """From dL/dcosθ [N, c] to (dL/d unit embeddings [N, D], dL/d rows of `shape`)."""
    chex.assert_equal_shape([slopes, view.cosine])
    centres = view.every_cosine.shape[1]
    if centres == 1:
        every = slopes[:, None, :]
    else:
        nearest = (view.every_cosine == view.cosine[:, None, :]).astype(slopes.dtype)
        every = nearest * (slopes / jnp.sum(nearest, axis=1))[:, None, :]
    # cosθ = x·w/‖w‖: along the row itself there is no slope.
    along = jnp.sum(every * view.every_cosine, axis=0).reshape(-1)
    scaled = every.reshape(unit.shape[0], -1) * view.inverse_norms
    of_unit = product("nc,cd->nd", scaled, view.rows, precision)
    of_rows = product("nc,nd->cd", scaled, unit, precision)
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
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which of a chunk's cosines [N, c] are the true class's, a wrong class's, and one's that
    counts in the sums.
    """
    classes, fresh = chunks.classes_of(index, valid)
    target = (labels[:, None] == classes) & fresh
    wrong = ~target & fresh
    kept = wrong if filter_threshold is None else wrong & (view.cosine <= filter_threshold)
    return target, wrong, kept


def unchanged(cosine: jax.Array) -> jax.Array:
    """The eta of s·cosθ_j."""
    return cosine


def _apply(eta: Any, cosine: jax.Array) -> jax.Array:
    return jax.tree.map(lambda leaf: leaf[:, None] if leaf.ndim else leaf, eta)(cosine)


def _whole(
    options: SumOptions,
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: jax.Array,
    eta: Any,
) -> ClassSums:
    """The sums from all cosines at once."""
    chunks = split_classes(weights.shape[0], None)
    view = view_chunk(unit, weights.astype(unit.dtype), options.precision)
    target, wrong, kept = masks(view, chunks, 0, labels, valid, options.filter_threshold)
    scale = jnp.broadcast_to(scale, unit.shape[:1])
    values = _apply(eta, view.cosine)
    logits = scale[:, None] * values
    zeros = jnp.zeros_like(scale)
    largest = zeros
    if not options.small_scale:
        lowest = -jax.lax.stop_gradient(scale)
        largest = jax.lax.stop_gradient(jnp.max(jnp.where(kept, logits, lowest[:, None]), axis=1))
    # Masked before the exponential too, for a cosine that is not kept may be any number.
    shifted = jnp.where(kept, logits - largest[:, None], -jnp.inf)
    partition = jnp.sum(jnp.exp(shifted), axis=1)
    return ClassSums(
        target=jnp.sum(jnp.where(target, view.cosine, 0.0), axis=1),
        log_partition=log_partition(largest, zeros if options.binary else partition),
        cosine_sum=jnp.sum(jnp.where(kept, values, 0.0), axis=1) if options.cosine_sum else zeros,
        wrong_classes=jnp.sum(kept, axis=1, dtype=zeros.dtype) if options.cosine_sum else zeros,
        nearest_wrong=_largest(view.cosine, wrong) if options.nearest_wrong else zeros - 2.0,
        binary_sum=_softplus_sum(logits, kept) if options.binary else zeros,
    )


def _softplus_sum(logits: jax.Array, kept: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(kept, jax.nn.softplus(logits), 0.0), axis=1)


def _largest(cosine: jax.Array, where: jax.Array) -> jax.Array:
    return jnp.max(jnp.where(where, jax.lax.stop_gradient(cosine), -2.0), axis=1)


def log_partition(shift: jax.Array, partition: jax.Array) -> jax.Array:
    """shift + ln(partition); −inf, without a gradient, where nothing was summed."""
    nothing = partition <= 0.0
    return jnp.where(nothing, -jnp.inf, shift + jnp.log(jnp.where(nothing, 1.0, partition)))


def _forward(
    options: SumOptions,
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: jax.Array,
    eta: Any,
) -> ClassSums:
    """The sums chunk by chunk; the largest logit so far is subtracted before exponentials, unless
    the scale is small.
    """
    chunks = split_classes(weights.shape[0], options.chunk)
    axes = varying_axes(unit, weights, labels, scale, valid, eta)
    zeros = jnp.zeros(unit.shape[0], unit.dtype)
    scale = jnp.broadcast_to(scale, zeros.shape)
    shift = zeros if options.small_scale else -scale
    start = (shift, zeros, zeros, zeros, zeros, zeros - 2.0, zeros)

    def add_chunk(
        index: Any, weights: jax.Array, carry: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        shift, partition, target, cosine_sum, count, nearest, binary_sum = carry
        rows = read_rows(weights, chunks.start(index), chunks.size, unit.dtype)
        view = view_chunk(unit, rows, options.precision)
        is_target, wrong, kept = masks(view, chunks, index, labels, valid, options.filter_threshold)
        target += jnp.sum(jnp.where(is_target, view.cosine, 0.0), axis=1)
        values = _apply(eta, view.cosine)
        logits = scale[:, None] * values
        if options.binary:
            binary_sum += _softplus_sum(logits, kept)
        elif options.small_scale:
            partition += jnp.sum(jnp.where(kept, jnp.exp(logits), 0.0), axis=1)
        else:
            largest = jnp.maximum(shift, jnp.max(jnp.where(kept, logits, -scale[:, None]), axis=1))
            exponentials = jnp.where(kept, jnp.exp(logits - largest[:, None]), 0.0)
            partition = partition * jnp.exp(shift - largest) + jnp.sum(exponentials, axis=1)
            shift = largest
        if options.cosine_sum:
            cosine_sum += jnp.sum(jnp.where(kept, values, 0.0), axis=1)
            count += jnp.sum(kept, axis=1, dtype=count.dtype)
        if options.nearest_wrong:
            nearest = jnp.maximum(nearest, _largest(view.cosine, wrong))
        return shift, partition, target, cosine_sum, count, nearest, binary_sum

    shift, partition, target, *sums = over_chunks(
        chunks, weights, add_chunk, vary_over(axes, start)
    )
    return ClassSums(target, log_partition(shift, partition), *sums)


class Slopes(NamedTuple):
    """dL/dη_j of every class, in four numbers an example: `target` for y (of cosθ_y); for a wrong
    class weight·e^{s·η_j − log_partition} + constant, or weight·σ(s·η_j) with `binary`.
    """

    target: jax.Array
    weight: jax.Array
    log_partition: jax.Array
    constant: jax.Array


def cosine_slopes(
    slopes: Slopes, cosine: jax.Array, scale: jax.Array, is_target: jax.Array, kept: jax.Array
) -> jax.Array:
    """dL/dcosθ of a chunk, [N, c]; slopes and scale are [N, 1]."""
    # No class that is kept is above 1. The others may overflow: 0·∞ would be NaN.
    p = jnp.exp(jnp.minimum(scale * cosine - slopes.log_partition, 0.0))
    of_wrong = jnp.where(kept, slopes.weight * p + slopes.constant, 0.0)
    return jnp.where(is_target, slopes.target, of_wrong)


class EtaSlopes(NamedTuple):
    """Of a chunk: dL/dcosθ [N, c], dL/dη of the wrong classes [N, c], eta's values [N, c], and dL/d
    what is bound to eta.
    """

    of_cosine: jax.Array
    of_value: jax.Array
    values: jax.Array
    of_bound: Any


def eta_slopes(
    eta: Any,
    slopes: Slopes,
    cosine: jax.Array,
    scale: jax.Array,
    is_target: jax.Array,
    kept: jax.Array,
    *,
    binary: bool = False,
) -> EtaSlopes:
    """`cosine_slopes` through eta; slopes and scale are [N, 1]."""
    values, pull_back = jax.vjp(_apply, eta, cosine)
    if binary:
        of_value = slopes.weight * jax.nn.sigmoid(scale * values) + slopes.constant
        of_value = jnp.where(kept, of_value, 0.0)
    else:
        of_value = cosine_slopes(slopes, values, scale, is_target, kept)
        of_value = jnp.where(is_target, 0.0, of_value)
    of_bound, of_cosine = pull_back(of_value)
    return EtaSlopes(jnp.where(is_target, slopes.target, of_cosine), of_value, values, of_bound)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(options: SumOptions, *arguments: Any) -> ClassSums:
    return _forward(options, *arguments)


def _chunked_forward(options: SumOptions, *arguments: Any) -> tuple[ClassSums, tuple[Any, ...]]:
    sums = _forward(options, *arguments)
    return sums, (*arguments, sums.log_partition)


def _chunked_backward(
    options: SumOptions, saved: tuple[Any, ...], cotangents: ClassSums
) -> tuple[Any, ...]:
    unit, weights, labels, scale, valid, eta, log_partition = saved
    chunks = split_classes(weights.shape[0], options.chunk)
    axes = varying_axes(unit, weights, labels, scale, valid, eta)
    scales = jnp.broadcast_to(scale, log_partition.shape)
    of_sum = cotangents.binary_sum if options.binary else cotangents.log_partition
    slopes = Slopes(
        target=cotangents.target,
        weight=scales * of_sum,
        log_partition=jnp.where(jnp.isfinite(log_partition), log_partition, 0.0),
        constant=cotangents.cosine_sum,
    )
    columns = Slopes(*(each[:, None] for each in slopes))
    # XLA's CPU compiler would convert all of a bfloat16 gradient to write one chunk: bits instead.
    stored = jnp.uint16 if weights.dtype == jnp.bfloat16 else weights.dtype

    def add_chunk(
        index: Any, weights: jax.Array, carry: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        of_unit, of_weights, of_scale, of_eta = carry
        rows = read_rows(weights, chunks.start(index), chunks.size, unit.dtype)
        view = view_chunk(unit, rows, options.precision)
        is_target, _, kept = masks(view, chunks, index, labels, valid, options.filter_threshold)
        slope = eta_slopes(
            eta,
            columns,
            view.cosine,
            scales[:, None],
            is_target,
            kept,
            binary=options.binary,
        )
        of_unit_here, of_rows = pull_back_chunk(
            view, slope.of_cosine, unit, rows.shape, options.precision
        )
        if options.scale_gradient:
            through_sum = jnp.where(kept, slope.of_value - slopes.constant[:, None], 0.0)
            of_scale += jnp.sum(through_sum * slope.values, axis=1)
        of_eta = jax.tree.map(jnp.add, of_eta, slope.of_bound)
        written = write_rows(of_weights, of_rows, chunks.start(index))
        return of_unit + of_unit_here, written, of_scale, of_eta

    zeros = jnp.zeros_like(log_partition)
    start = (jnp.zeros_like(unit), jnp.zeros(weights.shape, stored), zeros)
    start = vary_over(axes, (*start, jax.tree.map(jnp.zeros_like, eta)))
    of_unit, of_weights, of_scale, of_eta = over_chunks(
        chunks, weights, add_chunk, start, backwards=True
    )
    of_weights = jax.lax.bitcast_convert_type(of_weights, weights.dtype)
    # s·weight was differentiated by cosθ; by s it is cosθ·weight, hence the division.
    of_scale = of_scale / scales
    of_scale = (of_scale if jnp.ndim(scale) else jnp.sum(of_scale)).astype(scale.dtype)
    none = tuple(np.zeros(array.shape, jax.dtypes.float0) for array in (labels, valid))
    return of_unit, of_weights, none[0], of_scale, none[1], of_eta


_chunked.defvjp(_chunked_forward, _chunked_backward)


def class_sums(
    unit: jax.Array,
    weights: jax.Array,
    labels: jax.Array,
    scale: jax.Array,
    valid: Any,
    options: SumOptions,
    eta: Partial | None = None,
) -> ClassSums:
    """The sums over the first `valid` of the classes at hand.

    In chunks they are differentiable in reverse mode, once, and the backward pass forms each
    chunk's cosines again: four products of N·C·D in all, against three.

    Args:
      unit: embeddings of length 1, [N, D], float32 or float64.
      weights: [C, D] or [C, K, D], of any floating dtype.
      labels: [N] int32, numbered as the rows of `weights`; any other number means that y is not
        among them.
      scale: s, scalar or [N].
      valid: how many rows count; an integer, which may be traced.
      options: how.
      eta: of the wrong classes' cosines, with arrays of all N examples bound to it; None leaves
        them as they are.

    Returns: the sums, in the dtype of `unit`.
    """
    chex.assert_rank([unit, weights, labels, scale], [2, {2, 3}, 1, {0, 1}])
    chex.assert_equal_shape_prefix([unit, labels], 1)
    scale = jnp.asarray(scale, unit.dtype)
    valid = jnp.asarray(valid, jnp.int32)
    arguments: tuple[Any, ...] = (unit, weights, labels.astype(jnp.int32), scale, valid)
    if options.kernel == "pallas":
        # Here, since it imports this module, and two compilers that nobody else needs.
        from arcface_jax.heads.pallas_sums import pallas_sums

        if options.binary or not (eta is None or eta.func is unchanged):
            raise InputError(
                "kernel pallas has the logits s·cosθ alone for wrong classes; use kernel xla"
            )
        if weights.ndim == 3:
            raise InputError(
                f"class_weights has shape {weights.shape}, and kernel pallas has no sub-centres; "
                "pass [C, D], or use kernel xla"
            )
        return pallas_sums(options, *vary_over(varying_axes(arguments), arguments))
    arguments += (Partial(unchanged) if eta is None else eta,)
    if arguments[-1].func is not unchanged:
        options = dataclasses.replace(options, small_scale=False)  # eta may be above 1
    if options.chunk is None:
        return _whole(options, *arguments)
    return _chunked(options, *vary_over(varying_axes(arguments), arguments))
