"""CurricularFace: hard wrong classes count little at first and more as training goes on."""

import dataclasses
import functools
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from arcface_jax.arguments import check_between
from arcface_jax.heads.class_sums import Eta
from arcface_jax.losses.loss import AT_START, Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.losses.statistics import batch_statistics, moving_average
from arcface_jax.margins import ARCFACE, Psi, arcface


class CurricularFaceState(NamedTuple):
    """t, the running mean of the cosine between an embedding and its class; a scalar."""

    t: jax.Array


def curricularface_init() -> CurricularFaceState:
    """t = 0: every class far from every embedding."""
    return CurricularFaceState(jnp.zeros((), jnp.float32))


def curricularface_update(
    state: CurricularFaceState,
    target_cosine: jax.Array,
    valid: jax.Array,
    *,
    decay: float = 0.99,
    axis_name: Any = None,
) -> CurricularFaceState:
    """t ← decay·t + (1 − decay)·mean of cosθ_y; unchanged by a batch without a valid row.

    Args:
      state: the old state.
      target_cosine: cosθ_y before the margin, [N].
      valid: [N] booleans, false for padding.
      decay: in [0, 1].
      axis_name: of the devices that share the batch; the mean is then that of the whole batch.

    Returns: the new state, the same on every device; no gradient flows into it.
    """
    check_between("decay", decay, 0.0, 1.0)
    count, mean, _ = batch_statistics(jax.lax.stop_gradient(target_cosine), valid, axis_name)
    return CurricularFaceState(moving_average(state.t, mean, 1.0 - decay, count >= 1))


def curricular_cosines(cosine: jax.Array, threshold: jax.Array, t: jax.Array) -> jax.Array:
    """cosθ_j·(t + cosθ_j) where cosθ_j is above the row's threshold, cosθ_j elsewhere; at most 2 in
    all.

    Args:
      cosine: of the wrong classes, [N, C].
      threshold: psi(cosθ_y), [N, 1].
      t: the state's scalar.

    Returns: [N, C].
    """
    return jnp.where(cosine > threshold, cosine * (t + cosine), cosine)


@dataclasses.dataclass(frozen=True)
class CurricularFace(MarginSoftmax, name="curricularface"):
    """s·cos(θ + m); a wrong class with cosθ_j > psi(cosθ_y) has s·cosθ_j(t + cosθ_j).

    t is updated before it is used. The threshold is psi(cosθ_y) as the paper has it; the authors'
    code compares with cos(θ_y + m) even where its rule past π puts something else in the logit
    (arXiv:2004.00288, eq. 5 to 8).
    """

    any_kernel: ClassVar[bool] = False
    needs_target: ClassVar[bool] = True

    margin: float = 0.5
    """m, radians, in [0, π]."""
    past_pi: Literal["none", "linear", "easy", "clip", "reflect"] = "linear"
    """What stands for cos(θ + m) where θ + m is past π; linear is the authors'."""
    decay: float = 0.99
    """Of t, the running mean of the cosine between an embedding and its class."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("decay", self.decay, 0.0, 1.0)
        self.psi(AT_START)

    def formula(self) -> str:
        """The target logit over s, for people."""
        return f"cos(θ + {self.margin:g}), hard wrong classes {self.scale:g}·cosθ(t + cosθ)"

    def psi(self, context: Context) -> Psi:
        """The margin of the true class."""
        return arcface(self.margin, past_pi=self.past_pi)

    def init(self) -> dict[str, Any]:
        """t = 0."""
        return {"curricularface": curricularface_init()}

    def advance(self, state: dict[str, Any], context: Context) -> dict[str, Any]:
        """With the target cosines of this batch."""
        old, valid, axis = state["curricularface"], context.labels >= 0, context.axis_name
        new = curricularface_update(old, context.target, valid, decay=self.decay, axis_name=axis)
        return {"curricularface": new}

    def eta(self, context: Context) -> Eta:
        """Of wrong classes, by this batch's thresholds and t."""
        psi = self.sized_psi(context, np.size(context.class_counts))
        t = context.state["curricularface"].t
        return Partial(curricular_cosines, threshold=psi(context.target), t=t)


@dataclasses.dataclass(frozen=True)
class _OtherMargin(CurricularFace):
    other: Psi = ARCFACE

    def psi(self, context: Context) -> Psi:
        return self.other


def curricularface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    state: CurricularFaceState,
    *,
    psi: Psi | None = None,
    axis_name: Any = None,
    **numbers: Any,
) -> tuple[jax.Array, CurricularFaceState]:
    """`CurricularFace` as a function.

    Args:
      embeddings: [N, D].
      class_weights: [C, D].
      labels: [N] integers in [0, C), or −1 for a row to ignore, also in t.
      state: from `curricularface_init` or the previous step.
      psi: a margin in place of the authors'.
      axis_name: of the devices that share the batch.
      **numbers: fields of `CurricularFace`: scale, margin, past_pi, decay ….

    Returns: (loss [N], the new state).

    Raises:
      InputError: for a wrong shape, dtype, label or number.
    """
    params, context = {"class_weights": class_weights}, Context(axis_name=axis_name)
    kind = CurricularFace if psi is None else functools.partial(_OtherMargin, other=psi)
    out = kind(**numbers)(params, {"curricularface": state}, embeddings, labels, context)
    return out.loss, out.state["curricularface"]
