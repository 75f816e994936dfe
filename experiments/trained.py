"""A trained run, ready to embed images."""

import dataclasses
import pathlib
from typing import Any

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.models.embed import EmbedFunction, embed_images, make_embed_function
from arcface_jax.training.checkpoints import Checkpoints
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import read_config
from arcface_jax.training.resume import restore_on_one_device
from arcface_jax.training.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The backbone and the class weights of a run at its last checkpoint.

    Attributes:
      name: the run folder's.
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


def load_trained(folder: pathlib.Path) -> TrainedRun:
    """Reads the newest checkpoint of a run folder.

    Raises:
      InputError: no run, or no checkpoint, lies there.
    """
    config = read_config(folder / CONFIG_FILE)
    path = folder / CHECKPOINTS_FOLDER
    if not path.is_dir():
        raise InputError(f"{folder}: holds no checkpoints; give the folder of a run that has reached its first one")
    checkpoints = Checkpoints(path)
    step = checkpoints.latest_step()
    if step is None:
        raise InputError(f"{path}: no complete checkpoint; let the run go on to its first one")
    program, state = restore_on_one_device(checkpoints, step, config)
    checkpoints.close()
    weights = program.objective.class_weights(state.params["head"], state.head_state)
    variables = state.average or state.backbone_variables
    return TrainedRun(
        folder.resolve().name,
        config,
        variables,
        None if weights is None else np.asarray(weights, np.float32),
        step,
        make_embed_function(program.backbone, program.train_step.pixels),
    )
