"""From embeddings and class weights to cosines, angles and logits."""

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_dimensions, check_labels, check_positive
from arcface_jax.margins import arcface, guarded_sine


def head_dtype(*arrays: jax.Array) -> jnp.dtype:
    """The dtype heads and losses compute in: float32, or float64 if any of the arrays has it."""
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


def row_norms(x: jax.Array) -> jax.Array:
    """‖x‖₂ over the last axis, in float32 or wider; the gradient of a zero row is zero, not NaN.

    Args:
      x: [..., D].

    Returns: [...].
    """
    x = x.astype(head_dtype(x))
    square = jnp.sum(x * x, axis=-1)
    usable = square >= jnp.finfo(x.dtype).tiny
    return jnp.where(usable, jnp.sqrt(jnp.where(usable, square, 1.0)), 0.0)


def normalise_rows(x: jax.Array) -> jax.Array:
    """x/‖x‖₂ over the last axis, in float32 or wider.

    A row whose squared norm is too small for the dtype (a norm below about 1e-19 in float32) gives
    zeros and a zero gradient. A row that holds NaN or infinity, or whose squared norm overflows
    (above about 1e19), gives NaN, so that a run that has diverged shows it. Otherwise the gradient
    is (g − (g·u)u)/‖x‖ with u the result, orthogonal to the row.

    Args:
      x: [..., D].

    Returns: [..., D], rows of length 1 (or 0).
    """
    x = x.astype(head_dtype(x))
    return x * inverse_norms(jnp.sum(x * x, axis=-1, keepdims=True))


def inverse_norms(square: jax.Array) -> jax.Array:
    """1/‖x‖₂ of ‖x‖₂²: 0, without a gradient, where that is too small for the dtype; NaN where
    it is not finite.
    """
    too_small = square < jnp.finfo(square.dtype).tiny
    inverse = jnp.where(
        jnp.isfinite(square), jax.lax.rsqrt(jnp.where(too_small, 1.0, square)), jnp.nan
    )
    return jnp.where(too_small, 0.0, inverse)


def cosine_logits(
    embeddings: jax.Array, class_weights: jax.Array, *, precision: jax.lax.PrecisionLike = "highest"
) -> jax.Array:
    """cosθ_ij between each embedding and each class weight: both normalised by row, then
    multiplied.

    With sub-centres, class_weights [C, K, D], a class's cosine is the largest of its K.

    Args:
      embeddings: [N, D], any floating-point dtype.
      class_weights: [C, D], one class a row, or [C, K, D].
      precision: of the matrix product. "highest" is float32 on every device; lower ones let an
        accelerator round the factors to bf16 or TF32 first, which moves a cosine by about 1e-3.

    Returns: [N, C] in float32 (float64 for float64 inputs), within rounding of [−1, 1].

    Raises:
      InputError: for a wrong shape or dtype.

    References:
      Deng et al., Sub-center ArcFace, ECCV 2020, for K > 1.
    """
    embeddings, class_weights = check_dimensions(embeddings, class_weights)
    dtype = head_dtype(embeddings, class_weights)
    embeddings = normalise_rows(embeddings.astype(dtype))
    class_weights = normalise_rows(class_weights.astype(dtype))
    cosine = jnp.einsum("nd,...d->n...", embeddings, class_weights, precision=precision)
    return cosine if cosine.ndim == 2 else jnp.max(cosine, axis=-1)


def angle(cosine: jax.Array) -> jax.Array:
    """θ = atan2(sinθ, cosθ) with the guarded sine: arccos with a finite slope everywhere.

    It differs from arccos by at most 1e-3 rad, at θ = 0 and π, and by 5e-7/tanθ elsewhere.

    Args:
      cosine: cosθ, any shape.

    Returns: θ in radians, an array like `cosine`.
    """
    return jnp.arctan2(guarded_sine(cosine), cosine)


def has_class(labels: jax.Array, num_classes: int) -> jax.Array:
    """Whether a label is a class, [N] booleans: not −1, nor, in a trace that could not check
    it, out of range.
    """
    return (labels >= 0) & (labels < num_classes)


def target_mask(labels: jax.Array, num_classes: int) -> jax.Array:
    """Whether class j is the row's true class: [N, C] booleans; all false in the row of an
    ignored label, −1.
    """
    return labels[:, None] == jnp.arange(num_classes)[None, :]


def take_target(values: jax.Array, mask: jax.Array) -> jax.Array:
    """The value at the true class: [N, C], [N, C] -> [N]; zero for an ignored row.

    A masked sum rather than a gather: its transpose fuses with what surrounds it instead of
    scattering.
    """
    return jnp.sum(jnp.where(mask, values, 0.0), axis=-1)


def arcface_logits(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    *,
    margin: float = 0.5,
    scale: float = 64.0,
) -> tuple[jax.Array, jax.Array]:
    """The ArcFace head: s·cos(θ_j + m·[j = y]).

    With W and x normalised by row, cosθ_j = W_j·x, sinθ = sqrt(1 − cos²θ + 1e-6), and for the true
    class alone phi = cosθ·cos m − sinθ·sin m in place of cosθ; all times s. The formula is used for
    every angle: nothing is switched past θ + m = π.

    Args:
      embeddings: x, [N, D].
      class_weights: W, [C, D], one class a row.
      labels: y, [N] integers in [0, C); a row labelled −1 gets no margin. Under `jit` the range is
        not checked and a label outside it acts as −1.
      margin: m in radians, in [0, π].
      scale: s, the radius of the sphere of features.

    Returns: (logits [N, C], the normalised embeddings [N, D]).

    Raises:
      InputError: for a wrong shape, dtype, label, margin or scale.

    References:
      Deng et al., ArcFace, arXiv:1801.07698, eq. 3.
    """
    check_positive("scale", scale)
    psi = arcface(margin)
    cosine = cosine_logits(embeddings, class_weights)
    labels = check_labels(labels, *cosine.shape)
    mask = target_mask(labels, cosine.shape[1])
    phi = psi(take_target(cosine, mask))
    return scale * jnp.where(mask, phi[:, None], cosine), normalise_rows(jnp.asarray(embeddings))
