"""Everything a training step changes."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from arcface_jax.data.decode import height_and_width
from arcface_jax.training.objective import Objective

CLASS_ROWS = ("class_weights", "rows")
"""Names of the parts of a state that have a row for each class, and are split over devices by
the sharded head.
"""


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps: what is checkpointed, and all that is needed to go on.

    Attributes:
      step: int32 scalar, steps taken. Random numbers and the position in the data
        follow from it and the seed, so that neither is stored.
      params: {"backbone": …, "head": …}, what the optimiser trains.
      batch_stats: running statistics of the backbone's normalisations.
      optimiser_state: of the optax transformation over `params`.
      head_state: what the head carries itself: an adaptive loss's statistics, the rows of a fused
        head.
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
        """What the backbone's `apply` takes."""
        return {"params": self.params["backbone"], "batch_stats": self.batch_stats}


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths, "params/backbone/conv1/kernel", in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def is_class_rows(path: tuple[Any, ...], leaf: Any) -> bool:
    """Whether a leaf of a state, given its path, has a row for each class."""
    names = {getattr(key, "key", getattr(key, "name", None)) for key in path}
    return not names.isdisjoint(CLASS_ROWS) and leaf.ndim > 0


def initial_state(
    backbone: nn.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    num_classes: int,
    embedding_size: int,
    image_size: int | tuple[int, int],
    seed: int,
    shards: int = 1,
    average: bool = False,
) -> TrainState:
    """Backbone, head and optimiser at step 0, drawn from `seed`; a pure function, to be compiled or
    only shaped.

    Args:
      backbone: Flax module of `arcface_jax.models`.
      objective: the head.
      optimiser: optax transformation over {"backbone", "head"}.
      num_classes: C.
      embedding_size: D.
      image_size: side, or (height, width), in pixels.
      seed: of the initial weights.
      shards: devices that class rows are laid out for.
      average: whether moving averages of the backbone are kept.

    Returns: the state.
    """
    backbone_key, head_key = jax.random.split(jax.random.key(seed))
    variables = backbone.init(
        backbone_key, jnp.zeros((1, *height_and_width(image_size), 3), jnp.float32)
    )
    batch_stats = variables.get("batch_stats", {})
    params = {
        "backbone": variables["params"],
        "head": objective.init(head_key, num_classes, embedding_size, shards),
    }
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimiser_state=optimiser.init(params),
        head_state=objective.init_state(head_key, num_classes, embedding_size, shards),
        average={"params": variables["params"], "batch_stats": batch_stats} if average else {},
        bad_steps=jnp.zeros(2, jnp.int32),
    )
