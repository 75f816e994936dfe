"""Contact sheets: what a data set looks like, and what was said about each face."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import check_images, fitted, new_figure, style

_SHEET_WIDTH = 9.0  # inches
_CELL, _LINE = 1.7, 0.125  # inches: a face's width, and the height of a line below it
_LETTERS = 28  # that fit below a face


@style()
def contact_sheet(
    images: np.ndarray, title: str, row_labels: Sequence[str] | None = None
) -> Figure:
    """One row per identity, one column per image.

    Args:
      images: uint8 [rows, columns, height, width, 3], RGB.
      title: above the sheet.
      row_labels: left of each row, or None.

    Returns: the figure; pixels are not interpolated.

    Raises:
      InputError: wrong shape or type, or not one label per row.
    """
    check_images("images", images, "rows, columns")
    rows, columns, height, width, _ = images.shape
    if row_labels is not None and len(row_labels) != rows:
        raise InputError(f"row_labels must name {rows} rows, got {len(row_labels)}")
    gap = max(1, round(0.03 * width))
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + gap), column * (width + gap)
            sheet[top : top + height, left : left + width] = images[row, column]
    labels_width = 0.2 + 0.11 * max((len(label) for label in row_labels or ()), default=0)
    figure = new_figure(
        _SHEET_WIDTH + labels_width, _SHEET_WIDTH * sheet.shape[0] / sheet.shape[1] + 0.4
    )
    figure.set_layout_engine("constrained", w_pad=0.1)
    axes = figure.subplots()
    axes.imshow(sheet, interpolation="nearest")
    axes.set_title(title)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set(xticks=[], yticks=[])
    if row_labels is not None:
        middles = [row * (height + gap) + height / 2 for row in range(rows)]
        axes.set_yticks(middles, labels=list(row_labels))
        axes.tick_params(length=0)
    return figure


@style()
def face_sheet(
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    title: str,
    colours: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Faces with lines of text below each: the claimed identity and the file.

    Args:
      images: uint8 [P, height, width, 3], RGB.
      captions: P times the lines below a face; long lines are cut in the middle.
      title: above the sheet.
      colours: P, of the frames; no frames if None.
      columns: faces in a row.

    Raises:
      InputError: wrong shape or type, or not a caption and a colour for each face.
    """
    check_images("images", images)
    if len(captions) != len(images) or len(colours or captions) != len(images):
        raise InputError(
            f"captions, colours: {len(captions)} and {len(colours or captions)} for {len(images)} "
            "images; give one each"
        )
    height, width = images.shape[1:3]
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    lines = max(len(caption) for caption in captions)
    below = _LINE * (lines + 1)
    figure = new_figure(
        max(_CELL * columns, 5.0), (_CELL * 0.94 * height / width + below) * rows + 0.4
    )
    figure.suptitle(title)
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(image, interpolation="nearest")
        axes.grid(False)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(colours is not None)
        if colours is not None:
            axes.spines[:].set(color=colours[number], linewidth=3)
        text = "\n".join(fitted(line, _LETTERS) for line in caption)
        axes.set_xlabel(text, fontsize=7, linespacing=1.2)
    return figure
