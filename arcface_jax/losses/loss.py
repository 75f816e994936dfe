"""What every loss is: a frozen dataclass of its numbers, with a state and a pure call."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from arcface_jax.cosine import normalise_rows
from arcface_jax.errors import InputError
from arcface_jax.import_path import load_attribute


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """When in a run, and on what data, a loss is evaluated; all of it has a default.

    Attributes:
      step: steps taken before this one, an int32 scalar.
      key: a PRNG key, new at every step and the same on all devices.
      class_counts: [C], training images of each class; None where nobody counted.
      total_steps: of the run.
      axis_name: the mapped axis of the devices that share the batch, if any.
      precision: of the products with the class weights; see `arcface_jax.cosine.product`.
      labels: [n], of the examples at hand; these last five are filled in by the loss itself.
      norms: [n], lengths of their embeddings, without a gradient unless the loss `needs_norms`.
      target: [n], their cosθ_y, without a gradient; None unless the loss `needs_target`.
      state: the loss's own state, this batch counted in.
      dim: D of the embeddings.
    """

    step: Any = 0
    key: Any = None
    class_counts: Any = None
    total_steps: int = dataclasses.field(default=1, metadata={"static": True})
    axis_name: Any = dataclasses.field(default=None, metadata={"static": True})
    precision: str = dataclasses.field(default="highest", metadata={"static": True})
    labels: Any = None
    norms: Any = None
    target: Any = None
    state: Any = None
    dim: int = dataclasses.field(default=0, metadata={"static": True})


AT_START = Context()
"""Step 0, no key, nobody counted, one device."""


class LossOutput(NamedTuple):
    """What a loss says of n examples.

    Attributes:
      loss: [n]; 0 for a row labelled −1.
      state: the new state.
      target_cosine: [n], cosine between each embedding and its own class.
      hit: [n] booleans, whether no other class scores as high, before any margin.
    """

    loss: jax.Array
    state: dict[str, Any]
    target_cosine: jax.Array
    hit: jax.Array


LOSSES: dict[str, type["Loss"]] = {}
"""The losses of the library by the names that `--loss.name` takes."""


@dataclasses.dataclass(frozen=True)
class Loss:
    """A loss over identities.

    What a notebook calls, the command line sets (`--loss.FIELD`) and the trainer steps are one
    object. Fields are numbers, strings or None, so that JSON can hold them. A subclass defined with
    `name=` is known to `--loss.name` by it, any other by its import path, module:Class.

    `any_head` says whether the classes may be gone over in chunks, over devices, or as a sample;
    `any_kernel`, whether in tiles of Pallas, whose wrong classes have the logits s·cosθ alone;
    `needs_norms`, whether the gradient by the embeddings goes through their lengths too;
    `over_pairs`, whether it compares the examples of a batch, of which some must be of one class.
    """

    any_head: ClassVar[bool] = False
    any_kernel: ClassVar[bool] = True
    needs_norms: ClassVar[bool] = False
    over_pairs: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        if name is not None:
            LOSSES[name] = cls

    def init_params(self, key: jax.Array, num_classes: int, embedding_size: int) -> dict[str, Any]:
        """What is learnt beside the backbone: {"class_weights": [C, D]}, and perhaps more.

        Rows are normalised in the loss, so their length sets only how fast they turn; .01 is
        arcface_torch's.
        """
        rows = jax.random.normal(key, (num_classes, embedding_size), jnp.float32)
        return {"class_weights": 0.01 * rows}

    def init(self) -> dict[str, Any]:
        """The state before the first step: what the loss itself carries from step to step."""
        return {}

    def init_state(self, num_classes: int) -> dict[str, Any]:
        """The same for so many classes, of a loss that has numbers of each."""
        return self.init()

    def __call__(
        self,
        params: dict[str, Any],
        state: dict[str, Any],
        embeddings: jax.Array,
        labels: jax.Array,
        context: Context = AT_START,
    ) -> LossOutput:
        """Losses of the examples.

        Where `any_head` holds it also takes chunk, kernel, skip, axis_name, num_classes and sample
        of `margin_softmax_loss`, which say how to go over the classes.

        Args:
          params: as `init_params` has them.
          state: from `init` or the last call.
          embeddings: [n, D], not normalised; with context.axis_name, this device's.
          labels: [n] integers in [0, C), or −1 for a row to ignore.
          context: when and on what data.
        """
        raise NotImplementedError

    def expected_initial_loss(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        class_counts: Any = None,
        norm: float | None = None,
        sample_rate: float = 1.0,
    ) -> float:
        """The mean loss to expect of an untrained network: by simulation.

        Args:
          num_classes: C.
          embedding_size: D.
          class_counts: [C], by which examples are drawn; all classes alike without.
          norm: of the embeddings; √D without, as a batch normalisation leaves them.
          sample_rate: share of the classes in the softmax.
        """
        params = self.init_params(jax.random.key(0), num_classes, embedding_size)
        embeddings, labels = simulated_batch(64, num_classes, embedding_size, class_counts, norm)
        context = Context(key=jax.random.key(3), class_counts=class_counts)
        losses = jax.jit(lambda params, state: self(params, state, embeddings, labels, context))
        return float(jnp.mean(losses(params, self.init_state(num_classes)).loss))


def loss_class(name: str) -> type[Loss]:
    """The class that `--loss.name` names: one of `LOSSES`, or module:Class on the Python path or in
    the working folder.

    Raises:
      InputError: there is none, or it is no loss.
    """
    if name in LOSSES:
        return LOSSES[name]
    if ":" not in name:
        raise InputError(
            f"loss.name {name}: no such loss; choose one of {', '.join(LOSSES)}, or module:Class "
            "of your own"
        )
    found = load_attribute(name, "loss.name")
    if not (isinstance(found, type) and issubclass(found, Loss)):
        raise InputError(f"loss.name {name}: is no subclass of arcface_jax.losses.Loss")
    return found


def loss_name(loss: Loss | type[Loss]) -> str:
    """What `loss_class` finds it by."""
    cls = loss if isinstance(loss, type) else type(loss)
    known = next((name for name, one in LOSSES.items() if one is cls), None)
    return known or f"{cls.__module__}:{cls.__qualname__}"


def simulated_batch(
    rows: int, num_classes: int, embedding_size: int, class_counts: Any, norm: float | None
) -> tuple[jax.Array, jax.Array]:
    """Embeddings of independent normal numbers, and labels as a run draws them."""
    embeddings = jax.random.normal(jax.random.key(1), (rows, embedding_size))
    if norm is not None:
        embeddings = normalise_rows(embeddings) * norm
    if class_counts is None:
        return embeddings, jnp.arange(rows) % num_classes
    logits = jnp.log(jnp.asarray(class_counts, jnp.float32))
    return embeddings, jax.random.categorical(jax.random.key(2), logits, shape=(rows,))


def seen_by_scores(
    scores: jax.Array, mask: jax.Array, embeddings: jax.Array, class_weights: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(target cosines, hits) of an output, from the scores of all classes; no gradient.

    Args:
      scores: [n, C], before any margin.
      mask: [n, C], the true class's.
      embeddings: [n, D].
      class_weights: [C, D].
    """
    scores, embeddings, weights = jax.lax.stop_gradient((scores, embeddings, class_weights))
    own = jnp.max(jnp.where(mask, scores, -jnp.inf), axis=-1)
    other = jnp.max(jnp.where(mask, -jnp.inf, scores), axis=-1)
    rows = jnp.take(weights, jnp.argmax(mask, axis=-1), axis=0)
    cosine = jnp.sum(normalise_rows(embeddings) * normalise_rows(rows), axis=-1)
    return jnp.where(jnp.any(mask, axis=-1), cosine, 0.0), own > other
