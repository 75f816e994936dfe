"""ArcFace and its family: margins of fixed numbers, brought in gradually by choice."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between, check_floating
from arcface_jax.losses.loss import Context
from arcface_jax.losses.softmax import MarginSoftmax
from arcface_jax.losses.untrained import automatic_scale
from arcface_jax.margins import (
    LARGEST_M1,
    CombinedMargin,
    Psi,
    arcface,
    combined,
    cosface,
    normface,
    sphereface,
)


@dataclasses.dataclass(frozen=True)
class FixedMargin(MarginSoftmax):
    """s·(cos(m1·θ + m2) − m3); `full_psi` says which."""

    margin_warmup: float = 0.0
    """Share of the run over which the margin rises linearly from none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("margin_warmup", self.margin_warmup, 0.0, 1.0)
        self.full_psi()  # its numbers are checked

    def full_psi(self) -> CombinedMargin:
        """The margin after its warm-up."""
        raise NotImplementedError

    def psi(self, context: Context) -> Psi:
        """The margin at this step: m1 from 1, m2 and m3 from 0."""
        full = self.full_psi()
        if self.margin_warmup == 0.0:
            return full
        steps = max(1, round(self.margin_warmup * context.total_steps))
        return full.scaled(jnp.minimum(jnp.asarray(context.step, jnp.float32) / steps, 1.0))

    def suitable_scale(self, num_classes: int) -> float:
        """`automatic_scale` for its whole margin."""
        return automatic_scale(num_classes, self.full_psi())

    def formula(self) -> str:
        """The target logit over s, for people."""
        psi = self.full_psi()
        angle = ("θ" if psi.m1 == 1 else f"{psi.m1:g}·θ") + (f" + {psi.m2:g}" if psi.m2 else "")
        formula = f"(cos({angle}) − {psi.m3:g})" if psi.m3 else f"cos({angle})"
        rule = "" if psi.past_pi == "none" else f", past π: {psi.past_pi}"
        gradient = "" if psi.gradient == "exact" else ", straight-through gradient"
        share = self.margin_warmup
        warmup = f", margin rising over {share:.0%} of the run" if share else ""
        return f"{formula}{rule}{gradient}{warmup}"


@dataclasses.dataclass(frozen=True)
class AngularMargin(FixedMargin):
    """A fixed margin on the angle, which may carry it past π."""

    past_pi: Literal["none", "linear", "easy", "clip", "reflect"] = "none"
    """What stands for the target cosine where its angle is past π: none, the formula goes on
    (arcface_torch); linear; easy; clip; reflect.
    """
    gradient: Literal["exact", "straight_through"] = "exact"
    """exact: of the margin as written. straight_through: the margin counts as a constant
    (arcface_torch).
    """
    exact_from: float = 0.0
    """Share of the run after which gradient exact begins; until then it is straight_through."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_between("exact_from", self.exact_from, 0.0, 1.0)

    def psi(self, context: Context) -> Psi:
        """The margin at this step, with its gradient at this step."""
        psi: Any = super().psi(context)
        if not self.exact_from or self.gradient != "exact":
            return psi
        exact = jnp.asarray(context.step, jnp.float32) >= self.exact_from * context.total_steps
        return dataclasses.replace(psi, exactness=exact.astype(jnp.float32))

    def formula(self) -> str:
        """The target logit over s, for people."""
        share = self.exact_from if self.gradient == "exact" else 0.0
        later = f", straight-through gradient for {share:.0%} of the run" if share else ""
        return super().formula() + later


@dataclasses.dataclass(frozen=True)
class ArcFace(AngularMargin, name="arcface"):
    """s·cos(θ + m): the additive angular margin (Deng et al., arXiv:1801.07698, eq. 3)."""

    margin: float = 0.5
    """m, radians, in [0, π]; on the command line also auto: `automatic_margin`."""

    def full_psi(self) -> CombinedMargin:
        """The margin after its warm-up."""
        return arcface(self.margin, past_pi=self.past_pi, gradient=self.gradient)


@dataclasses.dataclass(frozen=True)
class SphereFace(AngularMargin, name="sphereface"):
    """s·cos(m·θ), as the ArcFace paper re-tuned SphereFace (Liu et al., arXiv:1704.08063)."""

    margin: float = 1.35
    """m, a factor, in (0, 10]."""

    def full_psi(self) -> CombinedMargin:
        """The margin after its warm-up."""
        check_between("margin", self.margin, 0.0, LARGEST_M1, open_low=True)
        return sphereface(self.margin, past_pi=self.past_pi, gradient=self.gradient)


@dataclasses.dataclass(frozen=True)
class CosFace(FixedMargin, name="cosface"):
    """s·(cosθ − m): the additive cosine margin (Wang et al., arXiv:1801.09414)."""

    margin: float = 0.35
    """m, of the cosine, in [0, 2]."""

    def full_psi(self) -> CombinedMargin:
        """The margin after its warm-up."""
        return cosface(self.margin)


@dataclasses.dataclass(frozen=True)
class CM1(AngularMargin, name="cm1"):
    """s·(cos(m1·θ + m2) − m3), the ArcFace paper's combined margin CM1 (its eq. 4)."""

    m1: float = 1.0
    """Multiplies the angle; in (0, 10]."""
    m2: float = 0.3
    """Is added to the angle; radians, in [0, π]."""
    m3: float = 0.2
    """Is subtracted from the cosine; in [0, 2]."""

    def full_psi(self) -> CombinedMargin:
        """The margin after its warm-up."""
        margins = self.m1, self.m2, self.m3
        return combined(*margins, past_pi=self.past_pi, gradient=self.gradient)


@dataclasses.dataclass(frozen=True)
class CM2(CM1, name="cm2"):
    """s·(cos(m1·θ + m2) − m3), the ArcFace paper's combined margin CM2 (its eq. 4)."""

    m1: float = 0.9
    m2: float = 0.4
    m3: float = 0.15


@dataclasses.dataclass(frozen=True)
class NormFace(MarginSoftmax, name="normface"):
    """s·cosθ: softmax over cosines without a margin (Wang et al., arXiv:1704.06369)."""

    learn_scale: bool = False
    """Learn s, as the paper does, starting from scale; without, it stays (the ArcFace paper's
    baseline).
    """

    def psi(self, context: Context) -> Psi:
        """No margin."""
        return normface()

    def suitable_scale(self, num_classes: int) -> float:
        """`automatic_scale` without a margin."""
        return automatic_scale(num_classes, normface())

    def formula(self) -> str:
        """The target logit over s, for people."""
        return "cos(θ)" + (", s learnt" if self.learn_scale else "")

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """{"class_weights"}, and {"log_scale"} where the scale is learnt."""
        params = super().init_params(key, num_classes, embedding_size)
        if self.learn_scale:
            params["log_scale"] = jnp.asarray(math.log(self.scale), jnp.float32)
        return params

    def radius(self, params: dict[str, Any]) -> Any:
        """e^log_scale, which cannot become negative, where it is learnt."""
        return jnp.exp(params["log_scale"]) if self.learn_scale else self.scale


def normface_loss(
    embeddings: jax.Array,
    class_weights: jax.Array,
    labels: jax.Array,
    log_scale: jax.Array,
    *,
    label_smoothing: float = 0.0,
) -> jax.Array:
    """NormFace with a learnt scale s = e^{log_scale}; a good start is log(minimum_scale(C, 0.9)).

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
    params = {
        "class_weights": class_weights,
        "log_scale": check_floating("log_scale", log_scale, 0),
    }
    loss = NormFace(learn_scale=True, label_smoothing=label_smoothing)
    return loss(params, {}, embeddings, labels).loss
