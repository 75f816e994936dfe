"""Pictures of a data set: random identities, augmented images, aligned crops."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from arcface_jax.counts import number_of
from arcface_jax.data import augment
from arcface_jax.data.decode import resize
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError
from arcface_jax.figures.samples import contact_sheet

_SIZE = 112


def identity_sheet(source: FaceSource, rows: int = 8, columns: int = 8, seed: int = 0) -> Figure:
    """A contact sheet of random identities, one per row, with up to `columns` random images each,
    above their files' names.

    Wrong labels, unaligned crops and unusual images show at a glance. Images that cannot be decoded
    are grey; identities with fewer images leave white cells.

    Args:
      source: where the images are.
      rows: identities; all if there are fewer.
      columns: images of each.
      seed: selects them.
    """
    rng = np.random.default_rng(seed)
    labels = np.asarray(source.labels)
    chosen = rng.permutation(len(source.identity_names))[:rows]
    sheet = np.full((len(chosen), columns, _SIZE, _SIZE, 3), 255, np.uint8)
    files = [[""] * columns for _ in chosen]
    for row, label in enumerate(chosen):
        images = rng.permutation(np.flatnonzero(labels == label))[:columns]
        for column, index in enumerate(images):
            files[row][column] = file_of(source, int(index))
            try:
                sheet[row, column] = resize(source[int(index)], _SIZE)
            except InputError:
                sheet[row, column] = 128
    names = [str(source.identity_names[int(label)]) for label in chosen]
    people = number_of(len(source.identity_names), "identity")
    title = f"{len(chosen)} of {people}, {number_of(len(source), 'image')}"
    return contact_sheet(sheet, title, names, files)


def file_of(source: FaceSource, index: int) -> str:
    """The name of an image's file, without its folders; for a caption."""
    return (source.path(index) or source.where(index)).rpartition("/")[2]


def augmentation_sheet(
    images: np.ndarray, seed: int = 0, names: Sequence[str] | None = None
) -> Figure:
    """One row per augmentation, always applied; the last row is AdaFace's mixture at its own rates.

    Args:
      images: uint8 [columns, height, width, 3], aligned crops.
      seed: of the augmentations.
      names: [columns], below each image; none if not given.
    """
    kinds = {
        "original": augment.Augmentation(flip=0.0),
        "flip": augment.Augmentation(flip=1.0),
        "crop": augment.Augmentation(flip=0.0, crop=1.0),
        "low resolution": augment.Augmentation(flip=0.0, low_resolution=1.0),
        "photometric": augment.Augmentation(flip=0.0, photometric=1.0),
        "erasing": augment.Augmentation(flip=0.0, erasing=1.0),
        "mask": augment.Augmentation(flip=0.0, mask=1.0),
        "AdaFace's rates": augment.ADAFACE_AUGMENTATION,
    }
    keys = augment.example_keys(jax.random.key(seed), 0, len(images))
    rows = [np.asarray(augment.augment(jnp.asarray(images), keys, kind)) for kind in kinds.values()]
    captions = None if names is None else [list(names)] * len(kinds)
    return contact_sheet(np.stack(rows), "Augmentation on the device", list(kinds), captions)
