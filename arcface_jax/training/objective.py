"""What a training step asks of the head of a network: parameters, a loss, and what it remembers
between steps.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class Moment(NamedTuple):
    """When in a run a loss is evaluated.

    Attributes:
      step: int32 scalar, steps taken before this one.
      key: a PRNG key, new at every step and the same on all devices.
      learning_rate: of this step, for a head that updates itself.
    """

    step: jax.Array
    key: jax.Array
    learning_rate: jax.Array


class Outcome(NamedTuple):
    """What a head says of the examples of a batch.

    Attributes:
      loss: [n].
      hits: [m] booleans, whether an example's own class has the highest score, before any margin. m
        is n, or fewer where looking at every class for every example would cost as much as the
        loss.
      target_cosine: [m], cosine between the embedding and its own class.
      state: the head's new state.
    """

    loss: jax.Array
    hits: jax.Array
    target_cosine: jax.Array
    state: Any


class Gradients(NamedTuple):
    """Of the mean loss, by what goes into a head.

    Attributes:
      params: by its parameters.
      embeddings: [n, D].
    """

    params: Any
    embeddings: jax.Array


class Objective(Protocol):
    """A classifier over the training identities, with parameters of its own.

    A leaf called `class_weights`, and all of a state's part called `rows`, has a row for each
    class: it is what the sharded head splits over devices.
    """

    @property
    def splits_classes(self) -> bool:
        """Whether class rows are split over the devices that share a batch."""
        ...

    def init(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """What the optimiser trains, its class rows laid out for so many shards."""
        ...

    def init_state(
        self, key: jax.Array, num_classes: int, embedding_size: int, shards: int = 1
    ) -> dict[str, Any]:
        """What the head itself carries from step to step."""
        ...

    def gradients(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> tuple[Outcome, Gradients]:
        """Losses, new state, and gradients of their mean over these n examples.

        With `axis_name` it runs on each device of that axis, which share the batch: gradients of a
        replicated parameter, and of embeddings, are then to be averaged over the axis, as the mean
        losses are; those of class rows that are split over it are whole.
        """
        ...

    def class_weights(self, params: Any, state: Any) -> jax.Array | None:
        """[rows, D] or [rows, K, D] as they are laid out over the shards; None where a loss has
        no classes.
        """
        ...

    def expected_initial_loss(self, num_classes: int, embedding_size: int) -> float:
        """The mean loss to expect of an untrained network."""
        ...


class DifferentiableHead:
    """A head whose gradients are those of its `evaluate`."""

    def evaluate(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> Outcome:
        """Losses and the new state."""
        raise NotImplementedError

    def gradients(
        self, params: Any, state: Any, embeddings: jax.Array, *batch: Any, **options: Any
    ) -> tuple[Outcome, Gradients]:
        """See `Objective`."""

        def mean_loss(params: Any, embeddings: jax.Array) -> tuple[jax.Array, Outcome]:
            outcome = self.evaluate(params, state, embeddings, *batch, **options)
            return jnp.mean(outcome.loss), outcome

        (of_params, of_embeddings), outcome = jax.grad(mean_loss, argnums=(0, 1), has_aux=True)(
            params, embeddings
        )
        return outcome, Gradients(of_params, of_embeddings)
