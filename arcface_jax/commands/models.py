"""Opens whatever a model is stored in: a run, an export, or a file of one trained elsewhere."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import flax.traverse_util
import jax
import numpy as np
import tyro

from arcface_jax.commands.command import Checked
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.embedding_rule import FLIP
from arcface_jax.evaluation.verification import FlipRule
from arcface_jax.interop.card import CARD_FILE, ModelCard
from arcface_jax.interop.importing import import_model, takes_project
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.model import (
    EmbedImages,
    TrainedModel,
    check_finite,
)
from arcface_jax.interop.stablehlo import load_stablehlo
from arcface_jax.models.embed import check_embedded, default_batch_size, embed_images
from arcface_jax.runs.resume import restore_on_one_device
from arcface_jax.runs.saved_runs import SavedRun, find_run
from arcface_jax.training.config import Config


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run at one of its checkpoints: the backbone, with the moving average of its weights where
    the run kept one, and the class weights, of sub-centres [C, K, D].
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

    @property
    def flip(self) -> FlipRule:
        """The model's."""
        return self.model.flip

    @functools.cached_property
    def embed(self) -> EmbedImages:
        """Of uint8 RGB [N, H, W, 3] images, float32 [N, D], not normalised."""
        return self.model.embedder()


def load_trained(run: SavedRun) -> TrainedRun:
    """Reads a checkpoint of a run."""
    config = run.config
    with run.opened() as (checkpoints, step):
        program, state = restore_on_one_device(checkpoints, step, config)
    weights = state.class_weights
    variables = state.average or state.backbone_variables
    with concerning(f"{run.folder}, step {step}"):
        check_finite(flax.traverse_util.flatten_dict(dict(variables), sep="/"))
    model = TrainedModel(
        program.backbone,
        variables,
        program.pixels,
        config.data.size,
        f"{run.folder}, step {step}",
        None if weights is None else np.asarray(weights, np.float32),
        FLIP if config.data.flip_test else "none",
    )
    return TrainedRun(run.name, config, step, model)


STABLEHLO_FILE = "model.stablehlo"

MODEL_HELP = (
    "the folder of a run (RUN/checkpoints/STEP for one of its checkpoints) or of an export, a "
    "PyTorch checkpoint (.pt, .pth, .ckpt), or a .safetensors, .onnx or (MXNet's) .params file"
)


def check_model(path: pathlib.Path) -> None:
    """Refuses a model that is not there."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give {MODEL_HELP}")


Trained = Annotated[pathlib.Path, Checked(check_model)]
"""A model."""

Model = Annotated[
    Trained,
    tyro.conf.Positional,
    tyro.conf.arg(
        help="Folder of a run or an export, or a PyTorch, .safetensors, .onnx or .params file. "
        "MXNet's .params file needs its -symbol.json beside it."
    ),
]
"""The argument of every command that embeds with a model."""

Project = Annotated[
    str | None,
    tyro.conf.arg(
        metavar="NAME", help="Project of a PyTorch checkpoint, where its keys do not tell: adaface."
    ),
]
"""The option --project of every command that opens a model."""


@dataclasses.dataclass(frozen=True)
class Embedder:
    """Images of a size to unit embeddings, a batch at a time; with the card if it is an export, and
    with how mirror images are combined.
    """

    name: str
    image_size: tuple[int, int]
    card: ModelCard | None
    batch_size: int
    flip: FlipRule
    _function: Callable[[Any], jax.Array]

    def embed(
        self,
        images: np.ndarray,
        name_of: Callable[[int], str] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """float32 [N, D] of norm 1, of uint8 RGB [N, height, width, 3]; in batches of one shape.

        An embedding that is NaN or zero is an InputError; `name_of` names an image by its row.
        `progress` is called with the number of images done since the last call.
        """
        embeddings = embed_images(
            lambda _, batch: self._function(batch),
            {},
            images,
            batch_size=self.batch_size,
            progress=progress,
        )
        with concerning(self.name or "the model"):
            return check_embedded(embeddings, name_of)


@dataclasses.dataclass(frozen=True)
class ImportedModel:
    """A network trained elsewhere, as `TrainedRun` is one trained here; of an export, whose
    embeddings are combined with those of the mirror images by `flip`, `combined` is true.
    """

    name: str
    image_size: tuple[int, int]
    embed: EmbedImages
    flip: FlipRule
    combined: bool = False


def open_to_evaluate(
    path: pathlib.Path, project: str | None = None, flip: FlipRule | None = None
) -> TrainedRun | ImportedModel:
    """A run, an export, or a model trained elsewhere, to embed with and without the mirror image;
    an export has it in it, and must combine it by `flip` if that is given.
    """
    if is_export(path):
        embedder = open_embedder(path, flip=flip, project=project)

        def embed(images: np.ndarray, move: Callable[[int], None] | None = None) -> np.ndarray:
            return embedder.embed(images, progress=move)

        return ImportedModel(path.name, embedder.image_size, embed, embedder.flip, True)
    if (run := find_run(path)) is not None:
        return load_trained(run)
    model = open_trained(path, project)
    return ImportedModel(path.stem, model.image_size, model.embedder(), model.flip)


def is_export(path: pathlib.Path) -> bool:
    """Whether a folder is what the command export made."""
    return (path / CARD_FILE).exists()


def check_project(path: pathlib.Path, project: str | None) -> None:
    """Refuses a project where it would do nothing."""
    if project is not None and path.exists() and not takes_project(path):
        raise InputError(
            f"--project {project}: {path} is no PyTorch checkpoint, and says it itself; leave it "
            "out"
        )


def open_trained(path: pathlib.Path, project: str | None = None) -> TrainedModel:
    """A model with its weights, to export or to train on; an export has none to take out."""
    check_project(path, project)
    check_model(path)
    if (run := find_run(path)) is not None:
        return load_trained(run).model
    if path.is_dir():
        raise InputError(f"{path}: is no run; give {MODEL_HELP}")
    return import_model(path, project)


def open_embedder(
    path: pathlib.Path,
    *,
    flip: FlipRule | None = None,
    batch_size: int | None = None,
    project: str | None = None,
) -> Embedder:
    """A model to embed with, mirror images combined by `flip` or, if it is None, as the model does;
    an export as it was exported.

    Raises:
      InputError: an export was made by another rule, or nothing can be opened.
    """
    if batch_size is None:
        batch_size = default_batch_size()
    check_project(path, project)
    if batch_size < 1:
        raise InputError(f"batch_size: {batch_size}; give at least 1")
    if is_export(path):
        card = ModelCard.read(path)
        if flip not in (None, card.flip):
            raise InputError(
                f"--flip {flip}: {path} was exported with --flip {card.flip}, which is part of it; "
                "export the model again, or leave the option out"
            )
        function, size = load_stablehlo(path / STABLEHLO_FILE)
        return Embedder(card.name, size, card, batch_size, card.flip, function)
    model = open_trained(path, project)
    flip = model.flip if flip is None else flip
    function = jax.jit(unit_embedding(model, flip=flip))
    return Embedder(model.source, model.image_size, None, batch_size, flip, function)
