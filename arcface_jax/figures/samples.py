"""Sheets of faces: each with its name and file, and whether the answer about it is right."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.figures.style import (
    GREEN_INK,
    RED_INK,
    SMALLEST,
    WIDTH,
    check_images,
    fitted,
    new_figure,
    style,
)

# Inches.
_GAP = 0.07
_LINE = 0.14  # of small letters
_TITLE, _HEADING = 0.34, 0.22
_LETTER = 0.6 * SMALLEST / 72

Side = tuple[np.ndarray, Sequence[Sequence[str]]]
"""Images uint8 [P, height, width, 3], and P times the lines below one."""


@dataclasses.dataclass(frozen=True)
class Mark:
    """What an answer is worth, drawn in a colour and in words.

    Attributes:
      word: such as "wrong name".
      right: whether the answer is right.
    """

    word: str
    right: bool

    @property
    def colour(self) -> str:
        """Green or red, dark enough for letters."""
        return GREEN_INK if self.right else RED_INK

    def __str__(self) -> str:
        """E.g. "✗ wrong name"."""
        return f"{'✓' if self.right else '✗'} {self.word}"


@style()
def contact_sheet(
    images: np.ndarray,
    title: str,
    row_labels: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """One row per identity, one column per image.

    Args:
      images: uint8 [rows, columns, height, width, 3], RGB.
      title: above the sheet.
      row_labels: above each row, or None.
      captions: [rows][columns], below each image, such as its file; an empty one for a place
        without an image, which is left white.

    Returns: the figure; pixels are not interpolated.

    Raises:
      InputError: wrong shape or type, not one label per row, or not one caption per image.
    """
    check_images("images", images, "rows, columns")
    rows, columns, height, width, _ = images.shape
    if row_labels is not None and len(row_labels) != rows:
        raise InputError(f"row_labels must name {number_of(rows, 'row')}, got {len(row_labels)}")
    if captions is not None and [len(row) for row in captions] != [columns] * rows:
        raise InputError(f"captions: give {rows} times {columns}, one for each image")
    face = WIDTH / columns - _GAP
    above = _HEADING if row_labels is not None else 0.0
    below = _LINE + _GAP if captions is not None else 0.0
    step = above + face * height / width + below + _GAP
    figure, axes = _sheet(title, rows * step)
    for row in range(rows):
        top = _TITLE + row * step
        if row_labels is not None:
            text = fitted(row_labels[row], int(WIDTH / _LETTER))
            axes.text(_GAP, top + above / 2, text, fontsize=SMALLEST + 1, va="center")
        for column in range(columns):
            left = _GAP / 2 + column * (face + _GAP)
            caption = [] if captions is None else [captions[row][column]]
            if caption != [""]:
                _face(axes, images[row, column], left, top + above, face, caption)
    return figure


@style()
def face_sheet(
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
    title: str,
    marks: Sequence[Mark | None] | None = None,
    columns: int = 4,
) -> Figure:
    """Faces with lines of text below each: the claimed identity and the file.

    Args:
      images: uint8 [P, height, width, 3], RGB.
      captions: P times the lines below a face; long lines are cut in the middle.
      title: above the sheet.
      marks: P, whether what is said of a face is right: a word above it and a frame around it;
        without for a None.
      columns: faces in a row.

    Raises:
      InputError: wrong shape or type, or not a caption and a mark for each face.
    """
    return group_sheet([(images, captions)], None, title, marks, columns)


@style()
def group_sheet(
    sides: Sequence[Side],
    notes: Sequence[str] | None,
    title: str,
    marks: Sequence[Mark | None] | None = None,
    columns: int = 3,
) -> Figure:
    """Faces that belong together side by side, such as the two of a pair.

    Args:
      sides: the first face of every group, the second, and so on, each with the lines below it.
      notes: P, below each group, or None.
      title: above the sheet.
      marks: P, a word above each group and a frame around it, as for `face_sheet`.
      columns: groups in a row.

    Raises:
      InputError: wrong shape or type, or not one of everything for each group.
    """
    if not sides:
        raise InputError("sides: no images; give at least one side")
    count = len(sides[0][0])
    for images, captions in sides:
        check_images("images", images)
        numbers = [len(given) for given in (images, captions, notes, marks) if given is not None]
        if numbers != [count] * len(numbers):
            said = ", ".join(map(str, numbers[1:]))
            raise InputError(
                f"captions, notes, marks: {said} for {len(images)} of {number_of(count, 'image')}; "
                "give one for each"
            )
    columns = min(columns, count)
    cell = WIDTH / max(columns, 3 if len(sides) == 1 else 2)
    face = (cell - 2 * _GAP) / len(sides)
    height = max(face * images.shape[1] / images.shape[2] for images, _ in sides)
    captions_of = [
        [_broken(lines, face) for lines in captions] for _, captions in sides
    ]  # [sides][P]
    lines = max(len(one) for captions in captions_of for one in captions)
    of_notes = [] if notes is None else [note.split("\n") for note in notes]
    lines += max(map(len, of_notes), default=0)
    above = 0.0 if marks is None else _HEADING
    step = above + height + lines * _LINE + 3 * _GAP
    figure, axes = _sheet(title, math.ceil(count / columns) * step)
    for number in range(count):
        top = _TITLE + number // columns * step
        left = number % columns * cell + _GAP
        mark = None if marks is None else marks[number]
        foot = top + above + height + _GAP
        for side, (images, _) in enumerate(sides):
            x = left + side * face
            _face(axes, images[number], x, top + above, face, captions_of[side][number])
        under = max(len(captions[number]) for captions in captions_of)
        if notes is not None:
            text = "\n".join(
                fitted(line, int((cell - _GAP) / _LETTER)) for line in of_notes[number]
            )
            _small(axes, left + cell / 2 - _GAP, foot + under * _LINE, text)
        if mark is not None:
            corner, width = (left, top + above), cell - 2 * _GAP
            axes.add_patch(
                Rectangle(corner, width, height, fill=False, lw=2.5, edgecolor=mark.colour)
            )
            axes.text(
                left + width / 2,
                top + above / 2,
                str(mark),
                color=mark.colour,
                weight="bold",
                fontsize=SMALLEST + 1,
                ha="center",
                va="center",
            )
    return figure


def name_and_file(name: str, file: str) -> list[str]:
    """The lines below a face: a name, then the file, without the folder that has the same name."""
    inside = file.removeprefix(f"{name}/") if name else file
    return [line for line in (name, inside) if line]


def _sheet(title: str, height: float) -> tuple[Figure, Axes]:
    """A picture with its title, and axes over all of it, in inches from its upper left corner."""
    figure = new_figure(WIDTH, _TITLE + height)
    figure.set_layout_engine("none")  # everything has its place
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, WIDTH), ylim=(_TITLE + height, 0))
    axes.axis("off")
    axes.set_title(title, fontsize=11, y=1.0, pad=-16)
    return figure, axes


def _face(
    axes: Axes, image: np.ndarray, left: float, top: float, width: float, lines: Sequence[str]
) -> None:
    """An image with small lines below it."""
    height = width * image.shape[0] / image.shape[1]
    extent = (left, left + width, top + height, top)
    axes.imshow(image, extent=extent, interpolation="nearest", aspect="auto")
    text = "\n".join(fitted(line, int((width + _GAP) / _LETTER)) for line in lines)
    _small(axes, left + width / 2, top + height + _GAP, text)


def _small(axes: Axes, x: float, y: float, text: str) -> None:
    if text:
        axes.text(x, y, text, fontsize=SMALLEST, ha="center", va="top", linespacing=1.2)


def _broken(lines: Sequence[str], width: float) -> list[str]:
    """The lines, and of a file's place that is too long for its width its folder and name apart."""
    broken: list[str] = []
    for line in lines:
        folder, slash, name = line.rpartition("/")
        too_long = len(line) > int((width + _GAP) / _LETTER)
        broken += [f"{folder}/", name] if slash and too_long else [line]
    return broken
