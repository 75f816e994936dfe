"""ElasticFace: a margin drawn anew for every example at every step.

With `plus` the authors' code applies the sorting permutation where its inverse is meant; this
follows the paper.

References:
  Boutros et al., ElasticFace, arXiv:2109.09416, section 3.3.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, Self

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_choice
from arcface_jax.errors import InputError
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.margins import CombinedMargin, Psi

KINDS = ("arc", "cos")


def elastic_margins(
    key: jax.Array,
    target_cosine: jax.Array,
    valid: jax.Array,
    *,
    mean: float,
    std: float,
    plus: bool = False,
    axis_name: Any = None,
) -> jax.Array:
    """Margins drawn from N(mean, std²); with `plus`, the farther from its class, the larger an
    example's margin.

    Args:
      key: a PRNG key; under `axis_name` the same on every device, which then hold the parts of one
        draw.
      target_cosine: cosθ_y, [N], by which `plus` sorts.
      valid: [N] booleans; `plus` sorts these rows among themselves.
      mean: of the normal distribution.
      std: its standard deviation.
      plus: whether to sort.
      axis_name: of the devices that share the batch.

    Returns: [N], in the dtype of the cosines; no gradient.
    """
    rows, dtype = target_cosine.shape[0], target_cosine.dtype
    cosine = jax.lax.stop_gradient(target_cosine)
    start: Any = 0
    if axis_name is not None:
        start = rows * jax.lax.axis_index(axis_name)
        cosine = jax.lax.all_gather(cosine, axis_name, tiled=True)
        valid = jax.lax.all_gather(valid, axis_name, tiled=True)
    margins = mean + std * jax.random.normal(key, cosine.shape, dtype)
    if plus:
        # Padding goes last on both sides, so that valid rows share out the margins drawn for valid
        # rows.
        ascending = jnp.sort(jnp.where(valid, margins, jnp.inf))
        nearest_first = jnp.argsort(jnp.where(valid, -cosine, jnp.inf))
        margins = jnp.where(
            valid, jnp.zeros_like(margins).at[nearest_first].set(ascending), margins
        )
    return jax.lax.dynamic_slice_in_dim(margins, start, rows)


def _check_numbers(kind: str, mean: float, std: float) -> None:
    check_choice("kind", kind, KINDS)
    check_between("mean", mean, 0.0, math.pi)
    check_between("std", std, 0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class _DrawnMargin:
    """psi with `share` of the margins that are drawn for cosines [N]."""

    draw: Callable[[jax.Array], jax.Array]
    kind: str
    share: Any = 1.0

    def __call__(self, cosine: jax.Array) -> jax.Array:
        margins = self.share * self.draw(cosine)
        margin = CombinedMargin(**{"m2" if self.kind == "arc" else "m3": margins})
        return margin(cosine)

    def scaled(self, share: Any) -> Self:
        return dataclasses.replace(self, share=self.share * share)


def elasticface_psi(
    key: jax.Array,
    valid: jax.Array,
    *,
    kind: str = "arc",
    mean: float = 0.5,
    std: float = 0.0125,
    plus: bool = False,
    axis_name: Any = None,
) -> Psi:
    """psi(cosθ) = cos(θ + m) (kind "arc") or cosθ − m (kind "cos") with m from `elastic_margins`.

    Args:
      key: a PRNG key.
      valid: [N] booleans.
      kind: arc or cos.
      mean: of m.
      std: of m.
      plus: whether the margins are sorted.
      axis_name: of the devices that share the batch.

    Returns: psi, a function of cosines [N].

    Raises:
      InputError: for an unknown kind or a number out of range.
    """
    _check_numbers(kind, mean, std)
    drawn = {"mean": mean, "std": std, "plus": plus, "axis_name": axis_name}
    return _DrawnMargin(functools.partial(elastic_margins, key, valid=valid, **drawn), kind)


@dataclasses.dataclass(frozen=True)
class ElasticFace(MarginSoftmax, name="elasticface"):
    """s·cos(θ + m) with m drawn from N(mean, std²) for every example (arXiv:2109.09416)."""

    kind: Literal["arc", "cos"] = "arc"
    """arc: cos(θ + m). cos: cosθ − m."""
    mean: float = 0.5
    """Of m; radians for arc."""
    std: float = 0.0125
    """Standard deviation σ of m."""
    plus: bool = False
    """Give the largest margins to the examples farthest from their class (ElasticFace+)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_numbers(self.kind, self.mean, self.std)

    def formula(self) -> str:
        """The target logit over s, for people."""
        formula = "cos(θ + m)" if self.kind == "arc" else "cos(θ) − m"
        sorting = ", the largest to the farthest" if self.plus else ""
        return f"{formula}, m from N({self.mean:g}, {self.std:g}²){sorting}"

    def psi(self, context: Context) -> Psi:
        """Drawn with this step's key.

        Raises:
          InputError: the context has no key.
        """
        if context.key is None:
            raise InputError("context.key is None; pass a PRNG key, new at every step")
        return elasticface_psi(
            context.key,
            context.labels >= 0,
            kind=self.kind,
            mean=self.mean,
            std=self.std,
            plus=self.plus,
            axis_name=context.axis_name,
        )


@dataclasses.dataclass(frozen=True)
class ElasticFacePlus(ElasticFace, name="elasticface_plus"):
    """s·cos(θ + m), m from N(mean, std²), the largest to the farthest (arXiv:2109.09416)."""

    std: float = 0.0175
    plus: bool = True


@dataclasses.dataclass(frozen=True)
class ElasticCosFace(ElasticFace, name="elasticface_cos"):
    """s·(cosθ − m) with m drawn from N(mean, std²) for every example (arXiv:2109.09416)."""

    kind: Literal["arc", "cos"] = "cos"
    mean: float = 0.35


@dataclasses.dataclass(frozen=True)
class ElasticCosFacePlus(ElasticCosFace, name="elasticface_cos_plus"):
    """s·(cosθ − m), m from N(mean, std²), the largest to the farthest (arXiv:2109.09416)."""

    std: float = 0.025
    plus: bool = True


def elasticface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    key: jax.Array,
    *,
    axis_name: Any = None,
    **numbers: Any,
) -> jax.Array:
    """`ElasticFace` as a function.

    The paper's settings: Arc 0.5 ± 0.0125 and, with `plus`, 0.5 ± 0.0175; Cos 0.35 ± 0.0125 and
    0.35 ± 0.025.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore.
      key: a PRNG key, new at every step; under `axis_name` the same on every device.
      axis_name: of the devices that share the batch, which then draw what one device with the whole
        batch would.
      **numbers: fields of `ElasticFace`: kind, mean, std, plus, scale ….

    Returns: [N].

    Raises:
      InputError: for a wrong shape, dtype, label, kind or number.
    """
    params, context = {"class_weights": class_weights}, Context(key=key, axis_name=axis_name)
    return ElasticFace(**numbers)(params, {}, embeddings, labels, context).loss
