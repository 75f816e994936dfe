"""Everything a training step changes."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from arcface_jax.training.objective import Objective


@flax.struct.dataclass
class TrainState:
    """The state of a run after `step` steps: what is checkpointed, and all that is needed to go on.

    Attributes:
      step: int32 scalar, steps taken. Random numbers and the position in the data
        follow from it and the seed, so that neither is stored.
      params: {"backbone": …, "head": …}.
      batch_stats: running statistics of the backbone's normalisations.
      optimiser_state: of the optax transformation over `params`.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    optimiser_state: optax.OptState

    @property
    def backbone_variables(self) -> dict[str, Any]:
        """What the backbone's `apply` takes."""
        return {"params": self.params["backbone"], "batch_stats": self.batch_stats}


def create_state(
    backbone: nn.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    num_classes: int,
    embedding_size: int,
    image_size: int,
    seed: int,
) -> TrainState:
    """Initialises the backbone, the head and the optimiser from `seed`."""
    backbone_key, head_key = jax.random.split(jax.random.key(seed))

    @jax.jit
    def create() -> TrainState:
        variables = backbone.init(backbone_key, jnp.zeros((1, image_size, image_size, 3), jnp.float32))
        params = {
            "backbone": variables["params"],
            "head": objective.init(head_key, num_classes, embedding_size),
        }
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            optimiser_state=optimiser.init(params),
        )

    return create()
