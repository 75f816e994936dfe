"""Where the margin of each example comes from: a constant, the image's quality, chance, or the
step of the run.
"""

import dataclasses
import math
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from arcface_jax.adaptive import (
    adaface_init,
    adaface_psi,
    adaface_update,
    elasticface_psi,
    magface_psi,
    magface_regulariser,
)
from arcface_jax.logits import row_norms
from arcface_jax.margins import CombinedMargin, Psi
from arcface_jax.training.objective import Moment


class Margin(NamedTuple):
    """The margins of a batch.

    Attributes:
      psi: cosines [n] -> target logits over s, [n].
      state: the rule's new state.
      penalty: added to each loss, a number or [n].
    """

    psi: Psi
    state: dict[str, Any]
    penalty: Any = 0.0


class MarginRule(Protocol):
    """How a batch's margins come about; frozen and hashable."""

    def init(self) -> dict[str, Any]:
        """The state to start from."""
        ...

    @property
    def learns_from_norms(self) -> bool:
        """Whether margin or penalty have a gradient by the embeddings' lengths."""
        ...

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        state: Any,
        moment: Moment,
        axis_name: str | None,
    ) -> Margin:
        """The margins of this device's n examples; `axis_name` names the devices that share the
        batch.
        """
        ...


@dataclasses.dataclass(frozen=True)
class FixedMargin:
    """One psi for all, brought in linearly over the first `warmup_steps`: m1 from 1, m2 and m3
    from 0.
    """

    psi: CombinedMargin
    warmup_steps: int = 0
    learns_from_norms = False

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        psi = self.psi
        angle = ("θ" if psi.m1 == 1 else f"{psi.m1:g}·θ") + (f" + {psi.m2:g}" if psi.m2 else "")
        formula = f"(cos({angle}) − {psi.m3:g})" if psi.m3 else f"cos({angle})"
        rule = "" if psi.past_pi == "none" else f", past π: {psi.past_pi}"
        gradient = "" if psi.gradient == "exact" else ", straight-through gradient"
        warmup = f", margin rising over {self.warmup_steps:,} steps" if self.warmup_steps else ""
        return f"{formula}{rule}{gradient}{warmup}"

    def init(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        state: Any,
        moment: Moment,
        axis_name: str | None,
    ) -> Margin:
        """See `MarginRule`."""
        if self.warmup_steps == 0:
            return Margin(self.psi, state)
        share = jnp.minimum(moment.step.astype(jnp.float32) / self.warmup_steps, 1.0)
        m1 = 1.0 + share * (self.psi.m1 - 1.0) if self.psi.m1 != 1.0 else 1.0
        psi = dataclasses.replace(self.psi, m1=m1, m2=share * self.psi.m2, m3=share * self.psi.m3)
        return Margin(psi, state)


@dataclasses.dataclass(frozen=True)
class AdaFaceMargin:
    """AdaFace's, from the embedding's length; see `arcface_jax.adaptive.adaface_psi`."""

    margin: float = 0.4
    learns_from_norms = False

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        return (
            f"cos(θ − {self.margin:g}·ẑ) − {self.margin:g}·(1 + ẑ), ẑ from the embedding's length"
        )

    def init(self) -> dict[str, Any]:
        """Running mean and deviation of the lengths."""
        return {"adaface": adaface_init()}

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        state: Any,
        moment: Moment,
        axis_name: str | None,
    ) -> Margin:
        """See `MarginRule`."""
        norms = row_norms(embeddings)
        running = adaface_update(state["adaface"], norms, labels >= 0, axis_name=axis_name)
        return Margin(adaface_psi(norms, running, margin=self.margin), {"adaface": running})


@dataclasses.dataclass(frozen=True)
class MagFaceMargin:
    """MagFace's, from the embedding's length, with its regulariser; see
    `arcface_jax.adaptive.magface_loss`.
    """

    regulariser_weight: float = 35.0
    learns_from_norms = True

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        return f"cos(θ + m(‖x‖)) where cosθ > 0, plus {self.regulariser_weight:g}·g(‖x‖)"

    def init(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        state: Any,
        moment: Moment,
        axis_name: str | None,
    ) -> Margin:
        """See `MarginRule`."""
        norms = row_norms(embeddings)
        return Margin(
            magface_psi(norms), state, self.regulariser_weight * magface_regulariser(norms)
        )


@dataclasses.dataclass(frozen=True)
class ElasticMargin:
    """ElasticFace's, drawn anew for every example; see `arcface_jax.adaptive.elasticface_psi`."""

    kind: str = "arc"
    mean: float = 0.5
    std: float = 0.0125
    plus: bool = False
    learns_from_norms = False

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        formula = "cos(θ + m)" if self.kind == "arc" else "cos(θ) − m"
        sorting = ", the largest to the farthest" if self.plus else ""
        return f"{formula}, m from N({self.mean:g}, {self.std:g}²){sorting}"

    def init(self) -> dict[str, Any]:
        """Nothing: the step's key is the draw's."""
        return {}

    def __call__(
        self,
        embeddings: jax.Array,
        labels: jax.Array,
        state: Any,
        moment: Moment,
        axis_name: str | None,
    ) -> Margin:
        """See `MarginRule`."""
        options: Any = {"kind": self.kind, "mean": self.mean, "std": self.std, "plus": self.plus}
        return Margin(
            elasticface_psi(moment.key, labels >= 0, axis_name=axis_name, **options), state
        )


def typical_margin(rule: MarginRule, cosine: float, embedding_size: int) -> tuple[float, float]:
    """(mean of psi about this cosine, mean penalty) at step 0 for embeddings of independent
    standard normal numbers.
    """
    embeddings = jax.random.normal(jax.random.key(0), (512, embedding_size))
    labels = jnp.zeros(len(embeddings), jnp.int32)
    now = Moment(jnp.zeros((), jnp.int32), jax.random.key(1), jnp.zeros(()))
    margin = rule(embeddings, labels, rule.init(), now, None)
    # Both sides of the cosine: the easy margin's psi jumps at a right angle, just where an
    # untrained network starts.
    around = [
        margin.psi(jnp.full(len(embeddings), cosine + side, jnp.float32)) for side in (-1e-6, 1e-6)
    ]
    return float(jnp.mean(jnp.stack(around))), float(jnp.mean(jnp.asarray(margin.penalty)))


def largest_of_normals(count: int) -> tuple[float, float]:
    """(mean, variance) of the largest of `count` independent standard normal numbers, by
    quadrature.
    """
    if count == 1:
        return 0.0, 1.0
    x = jnp.linspace(-8.0, 8.0, 4001)
    below = 0.5 * (1.0 + jax.scipy.special.erf(x / math.sqrt(2.0)))
    density = count * below ** (count - 1) * jnp.exp(-(x**2) / 2) / math.sqrt(2.0 * math.pi)
    weight = density * (x[1] - x[0])
    mean = float(jnp.sum(weight * x))
    return mean, float(jnp.sum(weight * x**2)) - mean**2
