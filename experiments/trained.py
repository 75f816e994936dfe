"""A trained run, ready to embed images."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.models.embed import EmbedFunction, embed_images, make_embed_function
from arcface_jax.training.checkpoints import Checkpoints
from arcface_jax.training.config import Config
from arcface_jax.training.objective import create_objective
from arcface_jax.training.run_folder import CONFIG_FILE
from arcface_jax.training.setup import create_backbone, create_optimiser, create_schedule, state_of


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """The backbone and the class weights of a run at its last checkpoint.

    Attributes:
      name: the run folder's.
      config: the run's configuration.
      variables: of the backbone.
      class_weights: float32 [C, D], of the head, not normalised.
      step: of the checkpoint.
    """

    name: str
    config: Config
    variables: Any
    class_weights: np.ndarray
    step: int
    _embed: EmbedFunction

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) that the run was trained with."""
        return self.config.data.image_size, self.config.data.image_size

    def embed(self, images: np.ndarray) -> np.ndarray:
        """float32 [N, D], not normalised, of uint8 [N, H, W, 3] RGB images."""
        return embed_images(self._embed, self.variables, images)


def load_trained(folder: pathlib.Path) -> TrainedRun:
    """Reads the newest checkpoint of a run folder.

    Raises:
      InputError: no run, or no checkpoint, lies there.
    """
    config = Config.from_json_file(folder / CONFIG_FILE)
    path = folder / "checkpoints"
    if not path.is_dir():
        raise InputError(f"{folder}: holds no checkpoints; give the folder of a run that has reached its first one")
    checkpoints = Checkpoints(path)
    step = checkpoints.latest_step()
    if step is None:
        raise InputError(f"{path}: no complete checkpoint; let the run go on to its first one")
    optimiser = create_optimiser(config, create_schedule(config.optimiser, config.run.steps))
    backbone = create_backbone(config)
    num_classes = int(checkpoints.metadata(step)["num_classes"])
    objective = create_objective(config.loss)
    shapes = jax.eval_shape(lambda: state_of(config, backbone, objective, optimiser, num_classes))
    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)
    state = checkpoints.restore(step, like)
    checkpoints.close()
    return TrainedRun(
        folder.resolve().name,
        config,
        state.backbone_variables,
        np.asarray(state.params["head"]["class_weights"]),
        step,
        make_embed_function(backbone),
    )
