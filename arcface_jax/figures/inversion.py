"""Generated faces beside the people they stand for."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import check_images, new_figure, style

_CELL = 1.15  # inches


@style()
def inversion_figure(
    rows: Sequence[tuple[str, np.ndarray]],
    notes: Sequence[str],
    title: str = "Faces out of a model",
) -> Figure:
    """One column per person, one row per kind of image, such as real and generated.

    Args:
      rows: (name, uint8 [P, height, width, 3]) of each kind, one image per person.
      notes: [P], below each column, such as similarities.
      title: above.

    Raises:
      InputError: no row, images of another type, or rows of different lengths.
    """
    if not rows:
        raise InputError("rows: nothing to draw; give at least one kind of image")
    for name, images in rows:
        check_images(name, images)
        if len(images) != len(notes):
            raise InputError(f"{name}: {len(images)} images for {len(notes)} notes; give one each")
    height, width = rows[0][1].shape[1:3]
    figure = new_figure(_CELL * len(notes) + 1.0, _CELL * height / width * len(rows) + 1.1)
    figure.suptitle(title)
    grid = figure.subplots(len(rows), len(notes), squeeze=False)
    for line, (name, images) in zip(grid, rows, strict=True):
        for axes, image in zip(line, images, strict=True):
            axes.imshow(image, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(name, fontsize=10)
    for axes, note in zip(grid[-1], notes, strict=True):
        axes.set_xlabel(note, fontsize=9)
    return figure
