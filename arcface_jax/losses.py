"""Losses over identities: margin softmax, plain softmax, and what is known of them before training.

Every loss comes back per example, [N]; the caller takes the mean. A label of −1 marks padding: its
loss is 0 and no gradient comes from its row. Labels, margins and scales are checked when they are
concrete; under `jit` a label outside [0, C) other than −1 counts as −1.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating, check_labels, check_positive
from arcface_jax.errors import InputError
from arcface_jax.logits import cosine_logits, head_dtype, take_target, target_mask
from arcface_jax.margins import ARCFACE, Psi, normface


def _cross_entropy(
    logits: jax.Array, mask: jax.Array, label_smoothing: float, kept: jax.Array | None = None
) -> jax.Array:
    """−Σ_j q_j log p_j with q = (1 − ε)·[j = y] + ε/C, over the kept classes; 0 for a row
    without a true class.
    """
    check_between("label_smoothing", label_smoothing, 0.0, 1.0)
    log_partition = jax.nn.logsumexp(logits, axis=-1, where=kept)
    loss = log_partition - (1.0 - label_smoothing) * take_target(logits, mask)
    if label_smoothing:
        loss = loss - label_smoothing * jnp.mean(logits, axis=-1, where=kept)
    return jnp.where(jnp.any(mask, axis=-1), loss, 0.0)


def margin_cross_entropy(
    cosine: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
) -> jax.Array:
    r"""Cross-entropy of scaled cosines with a margin on the true class:

        L = −log( e^{s·psi(cosθ_y)} / (e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) ).

    Args:
      cosine: cosθ, [N, C].
      labels: y, [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin, cosines [N] -> cosines [N].
      scale: s > 0; a number, a scalar array (which may be learnt) or [N].
      label_smoothing: ε in [0, 1]; the wanted distribution is (1 − ε)·[j = y] + ε/C.
      filter_threshold: leave a wrong class out of a row's softmax where its cosine is above this:
        it is likely the same person under another label. It takes part in neither the sum nor the
        gradient.

    Returns: [N] in float32, or float64 for float64 cosines.

    Raises:
      InputError: for a wrong shape, dtype, label, scale or smoothing.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, eq. 3 and 4. An et al., Partial FC, arXiv:2203.15565,
      for the filter.
    """
    cosine = check_floating("cosine", cosine, 2)
    cosine = cosine.astype(head_dtype(cosine))
    labels = check_labels(labels, *cosine.shape)
    scale = column_of_scales(scale, cosine.shape[0], cosine.dtype)
    mask = target_mask(labels, cosine.shape[1])
    logits = scale * jnp.where(mask, apply_psi(psi, take_target(cosine, mask))[:, None], cosine)
    kept = None
    if filter_threshold is not None:
        check_between("filter_threshold", filter_threshold, -1.0, 1.0)
        kept = mask | (cosine <= filter_threshold)
    return _cross_entropy(logits, mask, label_smoothing, kept)


def apply_psi(psi: Psi, cosine: jax.Array) -> jax.Array:
    """psi of the true class's cosines [N], [N] too.

    Raises:
      InputError: psi is no function, or gives another shape.
    """
    if not callable(psi):
        raise InputError(
            f"psi is {psi!r}; pass a margin, for instance arcface(0.5), or a function of cosines"
        )
    target = psi(cosine)
    if jnp.shape(target) != cosine.shape:
        raise InputError(
            f"psi gives shape {jnp.shape(target)} for cosines of shape {cosine.shape}; pass one "
            "that keeps it"
        )
    return target


def check_scale(scale: Any, rows: int) -> None:
    """Raises InputError unless the scale is positive (where concrete), and a number or an array
    of one a row.
    """
    check_positive("scale", scale)
    if jnp.shape(scale) not in ((), (rows,)):
        raise InputError(
            f"scale has shape {jnp.shape(scale)}; pass a number or one for each example, shape "
            f"{(rows,)}"
        )


def column_of_scales(scale: Any, rows: int, dtype: jnp.dtype) -> Any:
    """The scale as it multiplies [N, C]: a number as it is, an array in the head's dtype, [N]
    turned to [N, 1].

    Args:
      scale: s > 0; a number, a scalar array or [N].
      rows: N.
      dtype: of the cosines.

    Returns: a float, or an array of shape [] or [N, 1].

    Raises:
      InputError: for another shape, or a number that is not positive.
    """
    check_scale(scale, rows)
    if jnp.ndim(scale) == 0:
        return scale.astype(dtype) if isinstance(scale, jax.Array) else float(scale)
    return jnp.asarray(scale).astype(dtype)[:, None]


def blank_ignored(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """Zeros in the rows labelled −1, so that whatever a padding row holds, NaN included,
    reaches no gradient.
    """
    return jnp.where((labels >= 0)[:, None], embeddings, jnp.zeros_like(embeddings))


def margin_softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    psi: Psi = ARCFACE,
    scale: Any = 64.0,
    label_smoothing: float = 0.0,
    filter_threshold: float | None = None,
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    r"""Margin softmax: cosines between embeddings and class weights, a margin on the true class,
    cross-entropy.

        L = −log( e^{s·psi(cosθ_y)} / (e^{s·psi(cosθ_y)} + Σ_{j≠y} e^{s·cosθ_j}) ).

    The logarithm is never taken of a probability, so nothing saturates. Everything after the inputs
    is in float32, or float64 for float64 inputs.

    Args:
      embeddings: [N, D]; their lengths do not matter.
      class_weights: [C, D], or [C, K, D] for K sub-centres a class, of which the nearest counts.
      labels: y, [N] integers in [0, C), or −1 for a row to ignore.
      psi: the margin; see `arcface_jax.margins`. For a margin of each example give it arrays [N].
      scale: s > 0; a number, a scalar array (which may be learnt) or [N].
      label_smoothing: ε in [0, 1]; the wanted distribution is (1 − ε)·[j = y] + ε/C.
      filter_threshold: leave wrong classes whose cosine is above this out of the softmax; see
        `margin_cross_entropy`.
      precision: of the matrix product; see `cosine_logits`.

    Returns: the loss of each example, [N].

    Raises:
      InputError: for a wrong shape, dtype, label, scale or smoothing.

    References:
      Deng et al., ArcFace, arXiv:1801.07698.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    labels = check_labels(labels, embeddings.shape[0], jnp.shape(class_weights)[0])
    cosine = cosine_logits(blank_ignored(embeddings, labels), class_weights, precision=precision)
    return margin_cross_entropy(
        cosine,
        labels,
        psi=psi,
        scale=scale,
        label_smoothing=label_smoothing,
        filter_threshold=filter_threshold,
    )


def softmax_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    label_smoothing: float = 0.0,
    precision: jax.lax.PrecisionLike = "highest",
) -> jax.Array:
    """Plain softmax with bias, nothing normalised: cross-entropy of W·x + b. The ArcFace paper's
    baseline (its eq. 1).

    Args:
      embeddings: x, [N, D].
      class_weights: W, [C, D].
      bias: b, [C].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      label_smoothing: ε in [0, 1].
      precision: of the matrix product.

    Returns: the loss of each example, [N].

    Raises:
      InputError: for a wrong shape, dtype or label.
    """
    embeddings = check_floating("embeddings", embeddings, 2)
    class_weights = check_floating("class_weights", class_weights, 2)
    bias = check_floating("bias", bias, 1)
    if embeddings.shape[1] != class_weights.shape[1] or bias.shape[0] != class_weights.shape[0]:
        raise InputError(
            f"embeddings {embeddings.shape}, class_weights {class_weights.shape} and bias "
            f"{bias.shape} do not fit; pass [N, D], [C, D] and [C]"
        )
    labels = check_labels(labels, embeddings.shape[0], class_weights.shape[0])
    dtype = head_dtype(embeddings, class_weights, bias)
    embeddings = blank_ignored(embeddings, labels).astype(dtype)
    logits = (
        jnp.einsum("nd,cd->nc", embeddings, class_weights.astype(dtype), precision=precision) + bias
    )
    return _cross_entropy(logits, target_mask(labels, class_weights.shape[0]), label_smoothing)


def normface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    log_scale: jax.Array,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """NormFace: softmax over cosines with a learnt scale s = e^{log_scale}, which cannot become
    negative.

    A good start for log_scale is log(minimum_scale(C, 0.9)).

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      log_scale: a scalar array, a parameter beside the class weights.
      label_smoothing: ε in [0, 1].

    Returns: the loss of each example, [N].

    Raises:
      InputError: for a wrong shape, dtype or label.

    References:
      Wang et al., NormFace, arXiv:1704.06369.
    """
    scale = jnp.exp(check_floating("log_scale", log_scale, 0))
    return margin_softmax_loss(
        embeddings,
        class_weights,
        labels,
        psi=normface(),
        scale=scale,
        label_smoothing=label_smoothing,
    )


def expected_initial_loss(num_classes: int, margin: float | Psi, scale: float, dim: int) -> float:
    """What the loss of an untrained head should be near: −s·psi(0) + ln C + s²/(2d); for ArcFace
    s·sin m + ln C + ….

    Random embeddings and class weights in d dimensions have cosines near N(0, 1/d); the last two
    terms are the logarithm of C times the mean of e^{s·cosθ}. A first loss far from this says that
    something is wrong before any training (labels, normalisation, scale).

    Args:
      num_classes: C.
      margin: ArcFace's m in radians, or any psi.
      scale: s.
      dim: d, the dimension of the embedding.

    Returns: the loss, in nats.

    Raises:
      InputError: for a number of classes or dimension below 1, an impossible margin, or scale ≤ 0.
    """
    check_between("num_classes", num_classes, 1, math.inf)
    check_between("dim", dim, 1, math.inf)
    check_positive("scale", scale)
    if callable(margin):
        at_right_angle = float(margin(jnp.zeros(())))
    else:
        check_between("margin", margin, 0.0, math.pi)
        at_right_angle = -math.sin(margin)
    return -scale * at_right_angle + math.log(num_classes) + scale**2 / (2.0 * dim)


def minimum_scale(num_classes: int, probability: float) -> float:
    """The least s with which softmax over cosines can give the true class this probability.

        s ≥ (C − 1)/C · ln((C − 1)·P/(1 − P)),

    reached when the classes' weights form a regular simplex and every embedding sits on its own.

    Args:
      num_classes: C ≥ 2.
      probability: P, above 1/C and below 1.

    Returns: the scale.

    Raises:
      InputError: for fewer than two classes or a probability outside that range.

    References:
      Wang et al., CosFace, arXiv:1801.09414, eq. 6; Wang et al., NormFace, arXiv:1704.06369,
      proposition 2.
    """
    check_between("num_classes", num_classes, 2, math.inf)
    if not 1.0 / num_classes < probability < 1.0:
        raise InputError(
            f"probability is {probability:g}; pass a number above 1/num_classes and below 1"
        )
    return (
        (num_classes - 1)
        / num_classes
        * math.log((num_classes - 1) * probability / (1.0 - probability))
    )
