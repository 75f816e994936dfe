"""A trained run, ready to embed images."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from arcface_jax.interop.model import TrainedModel
from arcface_jax.training.config import Config
from arcface_jax.training.resume import restore_on_one_device
from arcface_jax.training.saved_runs import SavedRun


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The backbone and the class weights of a run at one of its checkpoints.

    Attributes:
      name: the run folder's; with the step where a checkpoint was named.
      config: the run's configuration.
      step: of the checkpoint.
      model: the backbone with the moving average of its weights where the run kept one, and the
        class weights, of sub-centres [C, K, D]; None for a loss without classes.
    """

    name: str
    config: Config
    step: int
    model: TrainedModel

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that the run was trained with."""
        return self.model.image_size

    @property
    def class_weights(self) -> np.ndarray | None:
        """The model's."""
        return self.model.class_weights

    @functools.cached_property
    def embed(self) -> Callable[[np.ndarray], np.ndarray]:
        """Of uint8 RGB [N, H, W, 3] images, float32 [N, D], not normalised."""
        return self.model.embedder()


def load_trained(run: SavedRun) -> TrainedRun:
    """Reads a checkpoint of a run.

    Raises:
      InputError: there is no checkpoint, or it is damaged.
    """
    config = run.config
    with run.opened() as (checkpoints, step):
        program, state = restore_on_one_device(checkpoints, step, config)
    weights = program.objective.class_weights(state.params["head"], state.head_state)
    model = TrainedModel(
        program.backbone,
        state.average or state.backbone_variables,
        program.train_step.pixels,
        config.data.size,
        f"{run.folder}, step {step}",
        None if weights is None else np.asarray(weights, np.float32),
    )
    return TrainedRun(run.name, config, step, model)
