"""Pictures of a data set: random identities, augmented images, aligned crops."""

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from arcface_jax.data import augment
from arcface_jax.data.decode import resize
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError
from arcface_jax.figures.samples import contact_sheet

_SIZE = 112


def identity_sheet(source: FaceSource, rows: int = 8, columns: int = 10, seed: int = 0) -> Figure:
    """A contact sheet of random identities, one per row, with up to `columns` random images each.

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
    for row, label in enumerate(chosen):
        images = rng.permutation(np.flatnonzero(labels == label))[:columns]
        for column, index in enumerate(images):
            try:
                sheet[row, column] = resize(source[int(index)], _SIZE)
            except InputError:
                sheet[row, column] = 128
    names = [str(source.identity_names[int(label)])[-24:] for label in chosen]
    title = f"{len(chosen)} of {len(source.identity_names):,} identities, {len(source):,} images"
    return contact_sheet(sheet, title, names)


def augmentation_sheet(images: np.ndarray, seed: int = 0) -> Figure:
    """One row per augmentation, always applied; the last row is AdaFace's mixture at its own rates.

    Args:
      images: uint8 [columns, height, width, 3], aligned crops.
      seed: of the augmentations.
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
    return contact_sheet(np.stack(rows), "Augmentation on the device", list(kinds))
