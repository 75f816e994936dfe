"""What the studies of a trained model start from: the model, and people it can be asked about.
`begin` shows work that takes long.
"""

import dataclasses
import pathlib

import numpy as np

from arcface_jax.commands.models import load_trained, open_trained
from arcface_jax.commands.small_model import SmallRecipe, train_small
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.open import open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import class_centres
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.interop.model import TrainedModel
from arcface_jax.progress import Begin, unseen
from arcface_jax.runs.dataset import load_data
from arcface_jax.runs.saved_runs import find_run

DEFAULT_PEOPLE, DEFAULT_IMAGES, DEFAULT_SIZE = 40, 30, 32
_DEFAULT_RECIPE = SmallRecipe(128, margin=0.3, scale=24.0, steps=600, learning_rate=0.05)


@dataclasses.dataclass(frozen=True)
class People:
    """Images [N, H, W, 3] of people 0 … P − 1, and their source, to read them at another size."""

    source: FaceSource
    images: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]

    def at_size(self, image_size: tuple[int, int]) -> np.ndarray:
        """The same images, height × width."""
        if self.images.shape[1:3] == image_size:
            return self.images
        return load_source(self.source, image_size).images


def default_source(first_identity: int = 0) -> SyntheticFaces:
    """The synthetic people of a study without data."""
    return SyntheticFaces(
        DEFAULT_PEOPLE,
        DEFAULT_IMAGES,
        image_size=DEFAULT_SIZE,
        difficulty=0.5,
        first_identity=first_identity,
    )


def default_model(seed: int, begin: Begin = unseen) -> TrainedModel:
    """A small network trained on `default_source`, for a study without a model."""
    sample = load_source(default_source(), DEFAULT_SIZE)
    with begin("Training a small model", _DEFAULT_RECIPE.steps) as move:
        return train_small(sample.images, sample.labels, _DEFAULT_RECIPE, seed, lambda _: move(1))


def open_analysed(
    path: pathlib.Path | None, seed: int = 0, project: str | None = None, begin: Begin = unseen
) -> tuple[TrainedModel, FaceSource | None]:
    """(a run, file or `default_model`; the source of its training people, or None)."""
    if path is None:
        if project is not None:
            raise InputError(
                f"--project {project}: there is no checkpoint that it could be of; give one"
            )
        return default_model(seed, begin), default_source()
    found = find_run(path)
    if found is None:
        with begin(f"Opening {path}", None):
            return open_trained(path, project), None
    with begin(f"Opening {path}", None):
        run = load_trained(found)
    return run.model, load_data(run.config.data, run.config.run.seed, begin).train


def choose_people(
    source: FaceSource, count: int, image_size: tuple[int, int], begin: Begin = unseen
) -> People:
    """All images of the first `count` people of a source."""
    labels = np.asarray(source.labels)
    chosen = Subset(source, np.flatnonzero(labels < count))
    if len(chosen.identity_names) < 2:
        raise InputError(
            f"people: {len(chosen.identity_names)} of them; give a source of at least two"
        )
    with begin("Decoding people", len(chosen)) as move:
        sample = load_source(chosen, image_size, progress=move)
    return People(chosen, sample.images, sample.labels, tuple(chosen.identity_names))


def open_people(
    people: str | None,
    own: FaceSource | None,
    count: int,
    image_size: tuple[int, int],
    begin: Begin = unseen,
) -> People:
    """The people that `--people` names, or else the model's own."""
    if people is not None:
        return choose_people(open_source(people), count, image_size, begin)
    if own is None:
        raise InputError(
            "--people: a model that was not trained here comes without people; give a source of "
            "them"
        )
    return choose_people(own, count, image_size, begin)


def embed_people(
    model: TrainedModel, people: People, begin: Begin = unseen
) -> tuple[np.ndarray, np.ndarray]:
    """(unit embeddings [N, D], each person's centre [P, D])."""
    with begin("Embedding people", len(people.images)) as move:
        embeddings = unit_embeddings(model.embedder()(people.at_size(model.image_size), move))
    return embeddings, class_centres(embeddings, people.labels, len(people.names))
