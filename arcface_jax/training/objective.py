"""The head of a network: what is learnt beside the backbone, its loss and its scores."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_positive
from arcface_jax.errors import InputError
from arcface_jax.logits import cosine_logits
from arcface_jax.losses import expected_initial_loss, margin_softmax_loss, softmax_loss
from arcface_jax.margins import CombinedMargin, arcface, cm1, cm2, cosface, normface, sphereface
from arcface_jax.training.config import LossConfig

DEFAULT_SCALE = 16.0
"""Radius of the sphere where a configuration names none."""


class Objective(Protocol):
    """A classifier over the training identities, with parameters of its own."""

    def init(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, jax.Array]:
        """The head's parameters; each has `class_weights` [C, D]."""
        ...

    def loss(self, params: Any, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        """Loss of each example, [N]."""
        ...

    def scores(self, params: Any, embeddings: jax.Array) -> jax.Array:
        """[N, C], higher for likelier classes, without the margin."""
        ...

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """The mean loss to expect of an untrained network."""
        ...


def _class_weights(key: jax.Array, num_classes: int, embedding_size: int) -> jax.Array:
    # Rows are normalised in the loss, so their length sets only how fast they turn; .01 is arcface_torch's.
    return 0.01 * jax.random.normal(key, (num_classes, embedding_size), jnp.float32)


@dataclasses.dataclass(frozen=True)
class MarginSoftmax:
    """Softmax cross-entropy of s·cosines, with a margin on the true class."""

    psi: CombinedMargin
    scale: float

    def __str__(self) -> str:
        """The target logit as a formula, for people."""
        psi = self.psi
        angle = ("θ" if psi.m1 == 1 else f"{psi.m1:g}·θ") + (f" + {psi.m2:g}" if psi.m2 else "")
        rule = "" if psi.past_pi == "none" else f", past π: {psi.past_pi}"
        gradient = "" if psi.gradient == "exact" else ", straight-through gradient"
        return f"{self.scale:g}·{f'(cos({angle}) − {psi.m3:g})' if psi.m3 else f'cos({angle})'}{rule}{gradient}"

    def init(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, jax.Array]:
        """{"class_weights": [C, D]}."""
        return {"class_weights": _class_weights(key, num_classes, embedding_size)}

    def loss(self, params: Any, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        """Margin softmax loss of each example, [N]."""
        return margin_softmax_loss(embeddings, params["class_weights"], labels, psi=self.psi, scale=self.scale)

    def scores(self, params: Any, embeddings: jax.Array) -> jax.Array:
        """The cosines, [N, C]."""
        return cosine_logits(embeddings, params["class_weights"])

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """See `arcface_jax.losses.expected_initial_loss`; psi at a right angle stands for the margin."""
        return float(expected_initial_loss(num_classes, self.psi, self.scale, embedding_size))


@dataclasses.dataclass(frozen=True)
class PlainSoftmax:
    """Softmax cross-entropy of a dense layer with bias: the paper's baseline, no sphere, no margin."""

    def __str__(self) -> str:
        """The logit as a formula, for people."""
        return "w·x + b, nothing normalised"

    def init(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, jax.Array]:
        """{"class_weights": [C, D], "bias": [C]}."""
        return {
            "class_weights": _class_weights(key, num_classes, embedding_size),
            "bias": jnp.zeros((num_classes,), jnp.float32),
        }

    def loss(self, params: Any, embeddings: jax.Array, labels: jax.Array) -> jax.Array:
        """Softmax loss of each example, [N]."""
        return softmax_loss(embeddings, params["class_weights"], params["bias"], labels)

    def scores(self, params: Any, embeddings: jax.Array) -> jax.Array:
        """The logits, [N, C]."""
        return embeddings @ params["class_weights"].T + params["bias"]

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """ln C and half the variance of the logits, whose weights have standard deviation .01."""
        return float(jnp.log(num_classes)) + embedding_size * 0.01**2 / 2


_ANGULAR: dict[str, Callable[..., CombinedMargin]] = {
    "arcface": arcface,
    "sphereface": sphereface,
    "cm1": cm1,
    "cm2": cm2,
}
_WITHOUT_MARGIN_TO_SET = ("softmax", "normface", "cm1", "cm2")


def create_objective(config: LossConfig) -> Objective:
    """Builds the objective that `config` names.

    Raises:
      InputError: a setting is out of range, or does nothing with this loss.
    """
    unused = {
        "margin": config.margin is not None and config.name in _WITHOUT_MARGIN_TO_SET,
        "scale": config.scale is not None and config.name == "softmax",
        "past_pi": config.past_pi != LossConfig.past_pi and config.name not in _ANGULAR,
        "gradient": config.gradient != LossConfig.gradient and config.name not in _ANGULAR,
    }
    for name, is_unused in unused.items():
        if is_unused:
            value = getattr(config, name)
            raise InputError(f"loss.{name} {value} does nothing with loss.name {config.name}; leave it out")
    if config.name == "softmax":
        return PlainSoftmax()
    scale = DEFAULT_SCALE if config.scale is None else config.scale
    check_positive("loss.scale", scale)
    margin = () if config.margin is None else (config.margin,)
    if config.name in _ANGULAR:
        psi = _ANGULAR[config.name](*margin, past_pi=config.past_pi, gradient=config.gradient)
    else:
        psi = cosface(*margin) if config.name == "cosface" else normface()
    return MarginSoftmax(psi, scale)
