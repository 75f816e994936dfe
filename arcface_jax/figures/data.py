"""Pictures of a data set: random identities, augmented images, aligned crops."""

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.data.decode import resize
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError
from arcface_jax.figures.samples import contact_sheet

_SIZE = 112


def identity_sheet(source: FaceSource, rows: int = 8, columns: int = 10, seed: int = 0) -> Figure:
    """A contact sheet of random identities, a row each, with up to `columns` random images of it.

    Wrong labels, crops that are not aligned and unusual images show at a glance.
    Images that cannot be decoded are grey; identities with fewer images leave
    white places.

    Args:
      source: where the images are.
      rows: identities; all of them where there are fewer.
      columns: images of each.
      seed: which ones.
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
