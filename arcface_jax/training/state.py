"""Everything a training step changes."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from arcface_jax.heads import RowSgd, init_head, shard_classes
from arcface_jax.heads.chunks import load
from arcface_jax.losses import Loss
from arcface_jax.training.config import HeadConfig

DATA_AXIS = "data"
"""The mesh and pmap axis over which a batch, and the classes of a sharded head, are split."""


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps: what is checkpointed, and all that is needed to go on.

    Attributes:
      step: int32 scalar, steps taken. Random numbers and the position in the data follow from it
        and the seed, so that neither is stored.
      params: {"backbone": …, "head": …}, what the optimiser trains.
      batch_stats: running statistics of the backbone's normalisations.
      optimiser_state: of the optax transformation over `params`.
      head_state: what the loss carries itself, and the rows of a head fused with its update.
      average: moving averages of the backbone's {"params", "batch_stats"}; empty without.
      bad_steps: int32 [2], steps in a row, and in all, that were skipped since loss or gradient
        were not finite.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimiser_state: optax.OptState
    head_state: Any
    average: Any
    bad_steps: jax.Array

    @property
    def updates(self) -> jax.Array:
        """How often the parameters were updated: what schedules go by, as the optimiser's own
        counts do.
        """
        return self.step - self.bad_steps[1]

    @property
    def backbone_variables(self) -> dict[str, Any]:
        """What a Flax backbone's `apply` takes."""
        return {"params": self.params["backbone"], "batch_stats": self.batch_stats}

    @property
    def class_weights(self) -> jax.Array | None:
        """[rows, D] or [rows, K, D] as they are laid out over the shards; None for a loss without
        classes.
        """
        if "rows" in self.head_state:
            return load(self.head_state["rows"].weights)
        weights: jax.Array | None = self.params["head"].get("class_weights")
        return weights


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, "params/backbone/conv1/kernel", in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def is_class_rows(path: tuple[Any, ...]) -> bool:
    """Whether a leaf with this path in a state has a row for each class.

    Those are head/class_weights, of the parameters, their gradients and the optimiser's state, and
    rows/weights and rows/slots of a fused head; all else is the same on every device.
    """
    names = [getattr(key, "key", getattr(key, "name", None)) for key in path]
    pairs = set(itertools.pairwise(names))
    return not pairs.isdisjoint({("head", "class_weights"), ("rows", "weights"), ("rows", "slots")})


def with_class_rows(tree: Any, change: Callable[[str, Any], Any]) -> Any:
    """The tree with `change(name, leaf)` for each leaf that has class rows, its name as in
    `named_leaves`.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(_name(path), leaf) if is_class_rows(path) else leaf, tree
    )


def class_row_specs(tree: Any) -> Any:
    """Of each leaf, how it is laid out over the devices of a sharded head."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: PartitionSpec(DATA_AXIS) if is_class_rows(path) else PartitionSpec(),
        tree,
    )


def initial_state(
    variables: Mapping[str, Any],
    loss: Loss,
    optimiser: optax.GradientTransformation,
    key: jax.Array,
    *,
    num_classes: int,
    embedding_size: int,
    head: HeadConfig = HeadConfig(),
    row_optimiser: RowSgd = RowSgd(),
    shards: int = 1,
    average: bool = False,
) -> TrainState:
    """The state at step 0; a pure function, to be compiled or only shaped.

    Args:
      variables: the backbone's {"params"} and perhaps {"batch_stats"}.
      loss: the loss.
      optimiser: optax transformation over {"backbone", "head"}.
      key: of the class weights.
      num_classes: C.
      embedding_size: D.
      head: how the classes are gone over.
      row_optimiser: of a head fused with its update.
      shards: devices that class rows are laid out for; the same classes for any number.
      average: whether moving averages of the backbone are kept.

    Returns: the state.
    """
    of_loss = loss.init_params(key, num_classes, embedding_size)
    head_state = loss.init_state(num_classes)
    if shards > 1:
        split = shard_classes(of_loss["class_weights"], shards)
        of_loss["class_weights"] = split.reshape(-1, *split.shape[2:])
    if head.update == "fused":
        weights = of_loss.pop("class_weights")
        fused = init_head(weights, row_optimiser, dtype=jnp.dtype(head.dtype))
        head_state = {"rows": fused, **head_state}
    params = {"backbone": variables["params"], "head": of_loss}
    batch_stats = variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimiser_state=optimiser.init(params),
        head_state=head_state,
        average={"params": variables["params"], "batch_stats": batch_stats} if average else {},
        bad_steps=jnp.zeros(2, jnp.int32),
    )
