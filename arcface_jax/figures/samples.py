"""Contact sheets: what a data set looks like."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.figures.style import check_images, new_figure, style

_SHEET_WIDTH = 9.0  # inches


@style()
def contact_sheet(
    images: np.ndarray, title: str, row_labels: Sequence[str] | None = None
) -> Figure:
    """One row an identity, one column an image of it.

    Args:
      images: uint8 [rows, columns, height, width, 3], RGB.
      title: above the sheet.
      row_labels: left of each row, or None.

    Returns: the figure; pixels are not interpolated.

    Raises:
      InputError: wrong shape or type, or not one label a row.
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
