"""The data of a run in memory: training images, and held-out people to verify."""

import dataclasses

import numpy as np

from arcface_jax.data.folder import FolderSource
from arcface_jax.data.memory import load_images
from arcface_jax.data.pairs import Pairs, draw_pairs
from arcface_jax.data.source import FaceSource
from arcface_jax.data.split import split_identities
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.training.config import DataConfig

NUM_FOLDS = 10
"""Folds of the verification protocol."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """Images uint8 [N, size, size, 3] with their labels, and the test pairs."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    pairs: Pairs
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Identities to train on, C."""
        return int(self.train_labels.max()) + 1

    @property
    def num_test_identities(self) -> int:
        """Identities held out."""
        return int(self.test_labels.max()) + 1


def open_source(config: DataConfig, seed: int) -> FaceSource:
    """The source that `config` names.

    Raises:
      InputError: a folder is wanted and none given, or one given and not used.
    """
    if config.source == "folder":
        if config.root is None:
            raise InputError("data.root is missing: --data.source folder needs --data.root DIR")
        return FolderSource(config.root)
    if config.root is not None:
        raise InputError(f"data.root {config.root} is not used by source {config.source}; add --data.source folder")
    return SyntheticFaces(config.identities, config.images_per_identity, image_size=config.image_size, seed=seed)


def load_data(config: DataConfig, seed: int) -> RunData:
    """Opens, splits by identity, and reads everything into memory."""
    if config.image_size < 16:
        raise InputError(f"data.image_size {config.image_size} is too small; 16 is the least, 112 the published size")
    source = open_source(config, seed)
    train, test = split_identities(source, config.test_fraction, seed)
    return RunData(
        train_images=load_images(train, config.image_size),
        train_labels=train.labels,
        test_images=load_images(test, config.image_size),
        test_labels=test.labels,
        pairs=draw_pairs(test.labels, config.pairs, seed, num_folds=NUM_FOLDS),
        fingerprint=source.fingerprint,
    )
