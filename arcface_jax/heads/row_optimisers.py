"""Optimisers whose update of a class's row needs nothing but that row: what a head can apply chunk
by chunk.

Each is a frozen, hashable object with three methods. An update is made in two halves, because a
chunk of one array is written before the next array's is formed from it (see
`arcface_jax.heads.fused`): `advance` gives the new slots, `move` the new rows from the slots as
they were stored.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp

Slots = tuple[jax.Array, ...]


class RowOptimiser(Protocol):
    """What `fused_head_step` asks of an optimiser; arrays have the rows of a chunk first."""

    def init(self, weights: jax.Array) -> Slots:
        """The slots of new class weights, stored as `weights` are or smaller."""
        ...

    def advance(self, rows: jax.Array, gradient: jax.Array, slots: Slots) -> Slots:
        """The new slots, from the old rows and slots."""
        ...

    def move(
        self,
        rows: jax.Array,
        gradient: jax.Array,
        slots: Slots,
        learning_rate: jax.Array,
        step: jax.Array,
    ) -> jax.Array:
        """The new rows, from the old rows and the new slots; `step` counts from 1."""
        ...


def _number_dtype(weights: jax.Array) -> Any:
    """What a number a row is kept in: float32 (float64 beside float64), also where weights are
    kept in bfloat16.
    """
    return jnp.float64 if weights.dtype == jnp.float64 else jnp.float32


@dataclasses.dataclass(frozen=True)
class RowSgd:
    """SGD with momentum and weight decay: v ← μ·v + g + λ·w, w ← w − η·v.

    The same as optax.chain(optax.add_decayed_weights(λ), optax.sgd(η, μ)). One slot, of the size of
    the weights.

    Attributes:
      momentum: μ.
      weight_decay: λ.
    """

    momentum: float = 0.9
    weight_decay: float = 5e-4

    def init(self, weights: jax.Array) -> Slots:
        """A velocity of zero."""
        return (jnp.zeros_like(weights),)

    def advance(self, rows: jax.Array, gradient: jax.Array, slots: Slots) -> Slots:
        """The velocity."""
        return (self.momentum * slots[0] + gradient + self.weight_decay * rows,)

    def move(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots, learning_rate: Any, step: Any
    ) -> jax.Array:
        """Along the velocity."""
        return rows - learning_rate * slots[0]


@dataclasses.dataclass(frozen=True)
class RowAdagrad:
    """Row-wise Adagrad: a ← a + mean(g²) over the row, w ← w − η·g/(√a + ε), g with λ·w added.

    One number a row.

    Attributes:
      weight_decay: λ.
      initial: a before the first step.
      epsilon: ε.
    """

    weight_decay: float = 0.0
    initial: float = 0.0
    epsilon: float = 1e-10

    def init(self, weights: jax.Array) -> Slots:
        """The accumulator."""
        return (jnp.full(weights.shape[:-1], self.initial, _number_dtype(weights)),)

    def advance(self, rows: jax.Array, gradient: jax.Array, slots: Slots) -> Slots:
        """With this gradient added."""
        return (slots[0] + jnp.mean((gradient + self.weight_decay * rows) ** 2, axis=-1),)

    def move(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots, learning_rate: Any, step: Any
    ) -> jax.Array:
        """Against the gradient, over the root of the accumulator."""
        rate = learning_rate / (jnp.sqrt(slots[0]) + self.epsilon)
        return rows - rate[..., None] * (gradient + self.weight_decay * rows)


@dataclasses.dataclass(frozen=True)
class RowAdam:
    """Adam with one second moment a row, and decoupled weight decay.

    m ← β₁·m + (1 − β₁)·g, v ← β₂·v + (1 − β₂)·mean(g²) over the row,
    w ← w − η·(m/(1 − β₁ᵗ)/(√(v/(1 − β₂ᵗ)) + ε) + λ·w). One slot of the size of the weights and one
    number a row.

    Attributes:
      beta1: β₁.
      beta2: β₂.
      epsilon: ε.
      weight_decay: λ.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def init(self, weights: jax.Array) -> Slots:
        """Both moments zero."""
        return jnp.zeros_like(weights), jnp.zeros(weights.shape[:-1], _number_dtype(weights))

    def advance(self, rows: jax.Array, gradient: jax.Array, slots: Slots) -> Slots:
        """Both moments."""
        first, second = slots
        square = jnp.mean(gradient**2, axis=-1)
        return (
            self.beta1 * first + (1.0 - self.beta1) * gradient,
            self.beta2 * second + (1.0 - self.beta2) * square,
        )

    def move(
        self, rows: jax.Array, gradient: jax.Array, slots: Slots, learning_rate: Any, step: Any
    ) -> jax.Array:
        """Along the first moment over the root of the second, both freed of their start at zero."""
        first, second = slots
        second = second / (1.0 - self.beta2**step)
        direction = first / (1.0 - self.beta1**step) / (jnp.sqrt(second) + self.epsilon)[..., None]
        return rows - learning_rate * (direction + self.weight_decay * rows)
