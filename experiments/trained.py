"""A trained run, ready to embed images."""

import dataclasses
from typing import Any

import numpy as np

from arcface_jax.models.embed import EmbedFunction, embed_images, make_embed_function
from arcface_jax.training.config import Config
from arcface_jax.training.resume import restore_on_one_device
from arcface_jax.training.saved_runs import SavedRun


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The backbone and the class weights of a run at one of its checkpoints.

    Attributes:
      name: the run folder's; with the step where a checkpoint was named.
      config: the run's configuration.
      variables: of the backbone; the moving average where the run kept one.
      class_weights: float32 [C, D] or [C, K, D], of the head, not normalised; None for a loss without classes.
      step: of the checkpoint.
    """

    name: str
    config: Config
    variables: Any
    class_weights: np.ndarray | None
    step: int
    _embed: EmbedFunction

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that the run was trained with."""
        return self.config.data.size

    def embed(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D], not normalised, of uint8 [N, H, W, 3] RGB images."""
        return embed_images(self._embed, self.variables, images)


def load_trained(run: SavedRun) -> TrainedRun:
    """Reads a checkpoint of a run.

    Raises:
      InputError: there is no checkpoint, or it is damaged.
    """
    config = run.config
    with run.opened() as (checkpoints, step):
        program, state = restore_on_one_device(checkpoints, step, config)
    weights = program.objective.class_weights(state.params["head"], state.head_state)
    variables = state.average or state.backbone_variables
    return TrainedRun(
        run.name,
        config,
        variables,
        None if weights is None else np.asarray(weights, np.float32),
        step,
        make_embed_function(program.backbone, program.train_step.pixels),
    )
