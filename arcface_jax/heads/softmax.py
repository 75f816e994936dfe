"""From sums over classes to losses: what the chunked, sharded, sampled and fused heads share."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_choice, check_floating, check_labels
from arcface_jax.errors import InputError
from arcface_jax.heads.class_axis import ClassAxis
from arcface_jax.heads.class_sums import SHIFTS, ClassSums, SumOptions
from arcface_jax.logits import head_dtype, normalise_rows
from arcface_jax.losses import apply_psi, blank_ignored, check_scale
from arcface_jax.margins import Psi


class Batch(NamedTuple):
    """This device's n examples, and all N of the devices that share the classes, checked and
    normalised.
    """

    labels: jax.Array  # [n]
    scale: jax.Array  # scalar or [n]
    unit: jax.Array  # [N, D]
    local_labels: jax.Array  # [N], numbered as this device's rows
    all_scales: jax.Array  # scalar or [N]


def check_options(
    *,
    chunk: int,
    shift: str,
    label_smoothing: float,
    filter_threshold: float | None,
    scale: Any,
    precision: jax.lax.PrecisionLike,
) -> SumOptions:
    """What a head was asked for, as options for the sums."""
    check_choice("shift", shift, SHIFTS)
    check_between("label_smoothing", label_smoothing, 0.0, 1.0)
    if filter_threshold is not None:
        check_between("filter_threshold", filter_threshold, -1.0, 1.0)
    return SumOptions(
        chunk=chunk,
        shift=shift,
        cosine_sum=label_smoothing > 0.0,
        scale_gradient=isinstance(scale, jax.Array),
        filter_threshold=filter_threshold,
        precision=precision,
    )


def check_head(
    embeddings: jax.Array, class_weights: jax.Array, axis: ClassAxis
) -> tuple[jax.Array, jax.Array]:
    """Embeddings and class weights as arrays that fit each other and the axis."""
    embeddings = check_floating("embeddings", embeddings, 2)
    class_weights = check_floating("class_weights", class_weights, (2, 3))
    if embeddings.shape[-1] != class_weights.shape[-1]:
        raise InputError(
            f"embeddings has shape {embeddings.shape} and class_weights {class_weights.shape}; "
            "their last axes, the dimension of the embedding, must agree"
        )
    axis.check_rows(class_weights.shape[0])
    return embeddings, class_weights


def share_batch(
    embeddings: jax.Array, labels: jax.Array, scale: Any, axis: ClassAxis, dtype: Any
) -> Batch:
    """Normalises the embeddings and gathers what every shard of the classes needs of them."""
    rows = embeddings.shape[0]
    labels = check_labels(labels, rows, axis.num_classes).astype(jnp.int32)
    check_scale(scale, rows)
    scale = jnp.asarray(scale, dtype)
    unit = normalise_rows(blank_ignored(embeddings, labels).astype(dtype))
    all_labels = axis.gather(labels)
    first = axis.first_class()
    return Batch(
        labels=labels,
        scale=scale,
        unit=axis.gather(unit),
        # An ignored label may not become a class's by subtraction of the first.
        local_labels=jnp.where(all_labels < 0, -1, all_labels - first),
        all_scales=axis.gather(scale) if scale.ndim else scale,
    )


def reduce_sums(sums: ClassSums, batch: Batch, axis: ClassAxis, options: SumOptions) -> ClassSums:
    """The sums over all shards for this device's n examples, from each shard's sums for all N."""
    if axis.name is None:
        return sums
    scales = jnp.broadcast_to(batch.all_scales, sums.target.shape)
    shift = (
        jnp.maximum(axis.largest(sums.log_partition), -scales)
        if options.shift == "running"
        else scales
    )
    parts = [jnp.exp(sums.log_partition - shift), sums.target]
    if options.cosine_sum:
        parts += [sums.cosine_sum, sums.wrong_classes]
    partition, target, *rest = axis.scatter_sum(jnp.stack(parts), 1)
    nothing = partition <= 0.0
    log_partition = axis.own(shift, target.shape[0]) + jnp.log(jnp.where(nothing, 1.0, partition))
    cosine_sum, count = rest or (jnp.zeros_like(target),) * 2
    return ClassSums(target, jnp.where(nothing, -jnp.inf, log_partition), cosine_sum, count)


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
    logit = scale * apply_psi(psi, sums.target)
    loss = jnp.logaddexp(sums.log_partition, logit) - (1.0 - smoothing) * logit
    if smoothing:
        loss -= smoothing * (logit + scale * sums.cosine_sum) / (1.0 + sums.wrong_classes)
    return jnp.where(valid, loss, 0.0)


def compute_dtype(embeddings: jax.Array, class_weights: jax.Array) -> Any:
    """float32, or float64 if either has it; bits of bfloat16 count as bfloat16."""
    return (
        head_dtype(embeddings)
        if class_weights.dtype == jnp.uint16
        else head_dtype(embeddings, class_weights)
    )
