"""Generated faces beside the people they stand for."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.figures.samples import group_sheet
from arcface_jax.figures.style import check_images, style


@style()
def inversion_figure(
    rows: Sequence[tuple[str, np.ndarray]],
    notes: Sequence[str],
    title: str = "Faces out of a model",
    names: Sequence[str] | None = None,
    files: Sequence[str] | None = None,
) -> Figure:
    """The images of each person side by side, such as real and generated.

    Args:
      rows: (name, uint8 [P, height, width, 3]) of each kind, one image per person.
      notes: [P], below each person's images, such as similarities.
      title: above.
      names: [P], who each person is, or None.
      files: [P], of each person's first image, or None.

    Raises:
      InputError: no row, images of another type, or not one of anything for each person.
    """
    if not rows:
        raise InputError("rows: nothing to draw; give at least one kind of image")
    sides = []
    for number, (name, images) in enumerate(rows):
        check_images(name, images)
        if len(images) != len(notes):
            raise InputError(
                f"{name}: {number_of(len(images), 'image')} for {len(notes)} notes; give one each"
            )
        of_first = files if number == 0 else None
        sides.append(
            (images, [[name, *([of_first[at]] if of_first else [])] for at in range(len(images))])
        )
    for what, given in (("names", names), ("files", files)):
        if given is not None and len(given) != len(notes):
            raise InputError(
                f"{what}: {len(given)} for {number_of(len(notes), 'person')}; give one each"
            )
    told = (
        notes
        if names is None
        else [f"{who}\n{note}" for who, note in zip(names, notes, strict=True)]
    )
    return group_sheet(sides, told, title)
