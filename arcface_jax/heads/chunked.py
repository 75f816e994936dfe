"""Margin softmax on one device without ever holding the logits."""

from typing import Any

import jax

from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.heads.class_axis import ClassAxis
from arcface_jax.heads.class_sums import class_sums
from arcface_jax.heads.sampling import ClassSample, places_in_sample, take_rows
from arcface_jax.heads.softmax import (
    check_head,
    check_options,
    compute_dtype,
    losses_from_sums,
    reduce_sums,
    share_batch,
)
from arcface_jax.logits import has_class
from arcface_jax.margins import ARCFACE, Psi


def margin_softmax_over(
    axis: ClassAxis,
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi,
    scale: Any,
    label_smoothing: float,
    filter_threshold: float | None,
    chunk: int,
    shift: str,
    precision: jax.lax.PrecisionLike,
    sample: ClassSample | None = None,
) -> jax.Array:
    """The loss of this device's examples, with the classes split over `axis`, or a sample of them.

    See the functions that call it: `chunked_margin_softmax_loss`, `sharded_margin_softmax_loss` and
    `sampled_margin_softmax_loss`.
    """
    embeddings, class_weights = check_head(embeddings, class_weights, axis)
    options = check_options(
        chunk=chunk,
        shift=shift,
        label_smoothing=label_smoothing,
        filter_threshold=filter_threshold,
        scale=scale,
        precision=precision,
    )
    batch = share_batch(embeddings, labels, scale, axis, compute_dtype(embeddings, class_weights))
    places, valid = batch.local_labels, axis.classes_here()
    if sample is not None:
        class_weights, places, valid = (
            take_rows(class_weights, sample),
            places_in_sample(places, sample),
            sample.active,
        )
    sums = class_sums(batch.unit, class_weights, places, batch.all_scales, valid, options)
    sums = reduce_sums(sums, batch, axis, options)
    return losses_from_sums(
        sums, has_class(batch.labels, axis.num_classes), psi, batch.scale, label_smoothing
    )


def chunked_margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    chunk: int = DEFAULT_CHUNK,
    shift: str = "running",
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    r"""`arcface_jax.losses.margin_softmax_loss` without the logits: the classes are gone through in
    chunks.

        L = ln(e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) − s·psi(cosθ_y).

    The value and the gradient are the dense loss's to rounding. Beyond the arguments and their
    gradients the memory is O(N·chunk): the backward pass forms each chunk's cosines again, four
    products of N × C × D in all against three. Reverse-mode differentiation only, once.

    Args:
      embeddings: [N, D]; their lengths do not matter.
      class_weights: [C, D], or [C, K, D] for K sub-centres a class, of which the nearest counts.
      labels: y, [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin, any function of cosines [N]; for a margin of each example give it arrays [N].
      scale: s > 0; a number, a scalar array (which may be learnt) or [N].
      label_smoothing: ε in [0, 1].
      filter_threshold: leave wrong classes whose cosine is above this out of the softmax.
      chunk: the most classes at a time; it need not divide C.
      shift: what is subtracted before exponentials: "running", the largest logit so far, or
        "fixed", s. With "fixed" a row all of whose wrong classes have cosθ < 1 − 87/s underflows,
        and counts as one without wrong classes.
      precision: of the matrix products; see `arcface_jax.logits.cosine_logits`.

    Returns: the loss of each example, [N], float32 (float64 for float64 arguments).

    Raises:
      InputError: for a wrong shape, dtype, label, scale, smoothing, threshold, chunk or shift.

    References:
      Deng et al., ArcFace, arXiv:1801.07698. Wijmans et al., Cut Your Losses, arXiv:2411.09009, for
      losses without logits.
    """
    return margin_softmax_over(
        ClassAxis(None, class_weights.shape[0]),
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
