"""From embeddings and class weights to cosines, angles and logits."""

import functools

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_choice, check_dimensions, check_labels, check_positive
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


PRECISIONS = ("highest", "high", "bfloat16", "tf32")


def product(equation: str, a: jax.Array, b: jax.Array, precision: str) -> jax.Array:
    """The matrix product of two arrays, and of its gradients: every product of embeddings and class
    weights, and every product of their gradients, is this one, or a tile of it in Pallas; and so
    are those of a network in bfloat16 whose result is wanted in float32.

    - highest: float32 on every device; six bf16 products on a TPU.
    - high: TF32 on a GPU, three bf16 products on a TPU; float32 on a CPU.
    - bfloat16: both factors rounded to bf16, on every device, and summed in float32.
    - tf32: both factors rounded to the 10 bits of TF32, on every device: what "high" is on a GPU,
      simulated.

    The last two round the factors of the gradients' products too. With unit roundoff u, 2⁻⁸ for
    bfloat16 and 2⁻¹¹ for tf32, an element is off by at most (2u + u²)·Σ|a·b|, and the rounding of
    sums. They are differentiated in reverse mode only.

    Args:
      equation: of `jnp.einsum`, two factors; each letter is in two of the three terms.
      a: the first factor.
      b: the second.
      precision: one of `PRECISIONS`.

    Returns: the product, in float32, or float64 if a factor has it.

    Raises:
      InputError: for another precision.

    References:
      Micikevicius et al., Mixed precision training, arXiv:1710.03740, for sums in float32.
    """
    check_choice("precision", precision, PRECISIONS)
    if precision in ("highest", "high"):
        wide = head_dtype(a, b)
        return jnp.einsum(equation, a.astype(wide), b.astype(wide), precision=precision)
    return _rounded_product(equation, precision, a, b)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _rounded_product(equation: str, precision: str, a: jax.Array, b: jax.Array) -> jax.Array:
    if precision == "tf32":
        a_rounded, b_rounded = (jax.lax.reduce_precision(x, 8, 10) for x in (a, b))
        return jnp.einsum(equation, a_rounded, b_rounded, precision="highest")
    narrow = (x.astype(jnp.bfloat16) for x in (a, b))
    rounded = jnp.einsum(equation, *narrow, preferred_element_type=jnp.float32)
    return rounded.astype(head_dtype(a, b))


def _rounded_forward(
    equation: str, precision: str, a: jax.Array, b: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _rounded_product(equation, precision, a, b), (a, b)


def _rounded_backward(
    equation: str, precision: str, factors: tuple[jax.Array, jax.Array], slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    # JAX's own transpose would leave the slopes in float32, and so the product.
    terms, out = equation.split("->")
    (of_a, of_b), (a, b) = terms.split(","), factors
    return (
        product(f"{out},{of_b}->{of_a}", slopes, b, precision).astype(a.dtype),
        product(f"{of_a},{out}->{of_b}", a, slopes, precision).astype(b.dtype),
    )


_rounded_product.defvjp(_rounded_forward, _rounded_backward)


def cosine_logits(
    embeddings: jax.Array, class_weights: jax.Array, *, precision: str = "highest"
) -> jax.Array:
    """cosθ_ij between each embedding and each class weight: both normalised by row, then
    multiplied.

    With sub-centres, class_weights [C, K, D], a class's cosine is the largest of its K.

    Args:
      embeddings: [N, D], any floating-point dtype.
      class_weights: [C, D], one class a row, or [C, K, D].
      precision: of the matrix product: highest, high, bfloat16 or tf32; see `product`. Rounding
        the factors to bf16 moves a cosine by at most 2⁻⁷, by about 1e-4 in 512 dimensions.

    Returns: [N, C] in float32 (float64 for float64 inputs), within rounding of [−1, 1].

    Raises:
      InputError: for a wrong shape, dtype or precision.

    References:
      Deng et al., Sub-center ArcFace, ECCV 2020, for K > 1.
    """
    embeddings, class_weights = check_dimensions(embeddings, class_weights)
    dtype = head_dtype(embeddings, class_weights)
    embeddings = normalise_rows(embeddings.astype(dtype))
    class_weights = normalise_rows(class_weights.astype(dtype))
    equation = "nd,cd->nc" if class_weights.ndim == 2 else "nd,ckd->nck"
    cosine = product(equation, embeddings, class_weights, precision)
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


def own_cosines(embeddings: jax.Array, class_weights: jax.Array, labels: jax.Array) -> jax.Array:
    """Cosine of each embedding with its own class's weight, without the other classes'.

    Args:
      embeddings: [N, D].
      class_weights: [C, D], or [C, K, D] for K sub-centres.
      labels: [N] integers; of one that is no class, some other class's.

    Returns: [N], or [N, K], in float32 or wider.
    """
    own = normalise_rows(jnp.take(class_weights, labels, axis=0, mode="clip"))
    unit = normalise_rows(embeddings)
    return jnp.sum((unit if own.ndim == 2 else unit[:, None]) * own, axis=-1)


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
