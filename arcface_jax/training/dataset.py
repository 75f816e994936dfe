"""The data of a run: people to train on, and held-out people to verify."""

import dataclasses

import numpy as np

from arcface_jax.data.checks import check_labels
from arcface_jax.data.folder import FolderSource
from arcface_jax.data.memory import MemorySource, OnUnreadable, load
from arcface_jax.data.open import open_source as open_path
from arcface_jax.data.pairs import Pairs, draw_pairs
from arcface_jax.data.source import FaceSource
from arcface_jax.data.split import split_identities
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.data.views import Subset
from arcface_jax.errors import InputError
from arcface_jax.training.config import DataConfig

NUM_FOLDS = 10
"""Folds of the verification protocol."""


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run's training source, its test images, and the pairs of these to verify.

    Attributes:
      train: source of the training images, in memory or not.
      test: the held-out people's images, in memory.
      pairs: drawn from the test images.
      fingerprint: of the whole source, before the split.
    """

    train: FaceSource
    test: MemorySource
    pairs: Pairs
    fingerprint: str

    @property
    def num_classes(self) -> int:
        """Identities to train on, C."""
        return len(self.train.identity_names)

    @property
    def skipped(self) -> tuple[str, ...]:
        """A message for each image that was left out because it cannot be decoded."""
        return self.test.skipped + (self.train.skipped if isinstance(self.train, MemorySource) else ())


def open_source(config: DataConfig, seed: int) -> FaceSource:
    """The source that `config` names.

    Raises:
      InputError: a folder is wanted and none given, or one given and not used.
    """
    if config.source == "synthetic":
        if config.root is not None:
            raise InputError(f"data.root {config.root} is not used by source synthetic; add --data.source folder")
        return SyntheticFaces(config.identities, config.images_per_identity, image_size=config.image_size, seed=seed)
    if config.root is None:
        raise InputError(f"data.root is missing: --data.source {config.source} needs --data.root DIR")
    return FolderSource(config.root) if config.source == "folder" else open_path(config.root)


def load_data(config: DataConfig, seed: int) -> RunData:
    """Opens the source, splits it by identity, and decodes what is to be in memory.

    Raises:
      InputError: a setting is out of range, the source cannot be opened or split, or (unless
        config.unreadable is "skip") an image cannot be decoded.
    """
    if config.image_size < 16:
        raise InputError(f"data.image_size {config.image_size} is too small; 16 is the least, 112 the published size")
    source = open_source(config, seed)
    check_labels(source)
    train, test = split_identities(source, config.test_fraction, seed)
    on_unreadable: OnUnreadable = "raise" if config.unreadable == "stop" else "skip"
    in_memory = load(test, config.image_size, on_unreadable=on_unreadable)
    return RunData(
        train=train if config.loading == "stream" else load(train, config.image_size, on_unreadable=on_unreadable),
        test=in_memory,
        pairs=draw_pairs(in_memory.labels, config.pairs, seed, num_folds=NUM_FOLDS),
        fingerprint=source.fingerprint,
    )


def sample_images(source: FaceSource, count: int, image_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random sample of a source: (images uint8 [n, size, size, 3], labels [n]), in the source's order."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:count])
    sample = load(Subset(source, chosen), image_size, on_unreadable="skip")
    own_labels = np.unique(np.asarray(source.labels)[chosen])  # a subset renumbers them, in this order
    return sample.images, own_labels[sample.labels]
