"""From sums over classes to losses: what the margin softmax and the fused head share."""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from arcface_jax.arguments import (
    check_between,
    check_choice,
    check_dimensions,
    check_labels,
    check_positive,
)
from arcface_jax.cosine import head_dtype, normalise_rows
from arcface_jax.errors import InputError
from arcface_jax.heads.class_sums import ClassSums, Eta, SumOptions, log_partition, unchanged
from arcface_jax.heads.shards import ClassAxis
from arcface_jax.margins import Psi

KERNELS = ("xla", "pallas")


class SharedBatch(NamedTuple):
    """This device's n examples, and all N of the devices that share the classes, normalised."""

    labels: jax.Array  # [n]
    scale: jax.Array  # scalar or [n]
    unit: jax.Array  # [N, D]
    local_labels: jax.Array  # [N], numbered as this device's rows
    all_scales: jax.Array  # scalar or [N]


def apply_psi(psi: Psi, cosine: jax.Array) -> jax.Array:
    """psi of the true class's cosines [N], [N] too.

    Raises:
      InputError: psi is no function, or gives another shape.
    """
    if not callable(psi):
        shown = repr(psi) if isinstance(psi, str) else "no function"
        raise InputError(
            f"psi is {shown}; pass a margin, for instance arcface(0.5), or a function of cosines"
        )
    target = psi(cosine)
    if jnp.shape(target) != cosine.shape:
        raise InputError(
            f"psi gives shape {jnp.shape(target)} for cosines of shape {cosine.shape}; pass one "
            "that keeps it"
        )
    return target


def bind_eta(eta: Eta | None, axis: ClassAxis, dtype: Any) -> Partial:
    """eta with what is bound to it as arrays, [n] of this device gathered to [N] of all."""

    def whole(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf, dtype)
        return axis.gather(leaf) if leaf.ndim else leaf

    return jax.tree.map(whole, eta if isinstance(eta, Partial) else Partial(eta or unchanged))


def check_scale(scale: Any, rows: int) -> None:
    """Raises InputError unless the scale is positive, and a number or an array of one a row."""
    check_positive("scale", scale)
    if jnp.shape(scale) not in ((), (rows,)):
        raise InputError(
            f"scale has shape {jnp.shape(scale)}; pass a number or one for each example, shape "
            f"{(rows,)}"
        )


def blank_ignored(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """Zeros in the rows labelled −1, so that whatever a padding row holds, NaN included, reaches no
    gradient.
    """
    return jnp.where((labels >= 0)[:, None], embeddings, jnp.zeros_like(embeddings))


def sum_options(
    *,
    chunk: int | None,
    label_smoothing: float,
    filter_threshold: float | None,
    scale: Any,
    precision: str,
    nearest_wrong: bool = False,
    kernel: str = "xla",
    skip: float = 0.0,
    binary: bool = False,
) -> SumOptions:
    """What a head was asked for, checked, as options for the sums."""
    check_choice("kernel", kernel, KERNELS)
    check_between("skip", skip, 0.0, 1.0)
    if skip and kernel == "xla":
        raise InputError(f"skip {skip:g} does nothing with kernel xla; leave it out")
    if kernel == "pallas":
        check_choice("precision", precision, ("highest", "high", "bfloat16"))
        if chunk is not None:
            raise InputError(f"chunk {chunk} does nothing with kernel pallas; leave it out")
    check_between("label_smoothing", label_smoothing, 0.0, 1.0)
    if filter_threshold is not None:
        check_between("filter_threshold", filter_threshold, -1.0, 1.0)
    return SumOptions(
        chunk=chunk,
        cosine_sum=label_smoothing > 0.0,
        nearest_wrong=nearest_wrong,
        scale_gradient=isinstance(scale, jax.Array),
        small_scale=isinstance(scale, (int, float)) and scale <= 64,
        filter_threshold=filter_threshold,
        precision=precision,
        binary=binary,
        kernel=kernel,
        skip=skip,
    )


def check_head(
    embeddings: jax.Array, class_weights: jax.Array, axis: ClassAxis
) -> tuple[jax.Array, jax.Array]:
    """Embeddings and class weights as arrays that fit each other and the axis."""
    embeddings, class_weights = check_dimensions(embeddings, class_weights)
    axis.check_rows(class_weights.shape[0])
    return embeddings, class_weights


def share_batch(
    embeddings: jax.Array, labels: jax.Array, scale: Any, axis: ClassAxis, dtype: Any
) -> SharedBatch:
    """Normalises the embeddings and gathers what every shard of the classes needs of them."""
    rows = embeddings.shape[0]
    labels = check_labels(labels, rows, axis.num_classes).astype(jnp.int32)
    check_scale(scale, rows)
    scale = jnp.asarray(scale, dtype)
    unit = normalise_rows(blank_ignored(embeddings, labels).astype(dtype))
    all_labels = axis.gather(labels)
    return SharedBatch(
        labels=labels,
        scale=scale,
        unit=axis.gather(unit),
        # An ignored label may not become a class's by subtraction of the first.
        local_labels=jnp.where(all_labels < 0, -1, all_labels - axis.first_class()),
        all_scales=axis.gather(scale) if scale.ndim else scale,
    )


def reduce_sums(
    sums: ClassSums, batch: SharedBatch, axis: ClassAxis, options: SumOptions
) -> ClassSums:
    """This device's n examples' sums over all shards, from each shard's sums for all N."""
    if axis.name is None:
        return sums
    scales = jnp.broadcast_to(batch.all_scales, sums.target.shape)
    shift = jnp.maximum(axis.largest(sums.log_partition), -scales)
    parts = [jnp.exp(sums.log_partition - shift), sums.target]
    if options.cosine_sum:
        parts += [sums.cosine_sum, sums.wrong_classes]
    if options.binary:
        parts.append(sums.binary_sum)
    partition, target, *rest = axis.scatter_sum(jnp.stack(parts), 1)
    binary_sum = rest.pop() if options.binary else jnp.zeros_like(target)
    cosine_sum, count = rest or (jnp.zeros_like(target),) * 2
    rows = target.shape[0]
    nearest = jnp.full_like(target, -2.0)
    if options.nearest_wrong:
        nearest = axis.own(axis.largest(sums.nearest_wrong), rows)
    total = log_partition(axis.own(shift, rows), partition)
    return ClassSums(target, total, cosine_sum, count, nearest, binary_sum)


def losses_from_sums(
    sums: ClassSums, valid: jax.Array, psi: Psi, scale: jax.Array, smoothing: float
) -> jax.Array:
    r"""The margin softmax of each example:

        ln(e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) − (1 − ε)·s·psi(cosθ_y) − ε·(mean of all
        logits).

    Args:
      sums: over all classes.
      valid: [n], false for a row to ignore.
      psi: the margin.
      scale: s, scalar or [n].
      smoothing: ε.

    Returns: [n], 0 for the rows to ignore.
    """
    chex.assert_equal_shape([sums.target, sums.log_partition, valid])
    logit = scale * apply_psi(psi, sums.target)
    loss = jnp.logaddexp(sums.log_partition, logit) - (1.0 - smoothing) * logit
    if smoothing:
        loss -= smoothing * (logit + scale * sums.cosine_sum) / (1.0 + sums.wrong_classes)
    return jnp.where(valid, loss, 0.0)


def compute_dtype(embeddings: jax.Array, class_weights: jax.Array) -> Any:
    """float32, or float64 if either has it; bits of bfloat16 count as bfloat16."""
    if class_weights.dtype == jnp.uint16:
        return head_dtype(embeddings)
    return head_dtype(embeddings, class_weights)
