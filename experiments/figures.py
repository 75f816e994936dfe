"""Draws the README's and the documentation's pictures from the library's own numbers.

python -m experiments.figures faces margins     these two, into docs/figures

python -m experiments.figures --all             every one
"""

import dataclasses
import pathlib
import sys
from collections.abc import Callable
from typing import Annotated

import numpy as np
import tyro
from matplotlib.figure import Figure

from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.figures.data import augmentation_sheet
from arcface_jax.figures.margins import MARGIN_FIGURES
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from experiments.command import help_text, run_command


def faces() -> Figure:
    """Synthetic people, one a row: the neutral picture, then eight as training sees them."""
    people, pictures = 6, 9
    source = SyntheticFaces(people, pictures, first_identity=8)
    sheet = source.render(np.arange(people * pictures)).reshape(people, pictures, 112, 112, 3).copy()
    sheet[:, 0] = source.neutral(np.arange(people) * pictures)
    return contact_sheet(sheet, "Who is who? One person a row; first the neutral picture")


def augmentations() -> Figure:
    """Eight synthetic people under each augmentation, always applied, and under AdaFace's mixture."""
    people = 8
    return augmentation_sheet(SyntheticFaces(people, 1, first_identity=8).neutral(np.arange(people)))


FIGURES: dict[str, Callable[[], Figure]] = {
    "faces": faces,
    "augmentations": augmentations,
    **MARGIN_FIGURES,
}


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """What to draw, and where to."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of figures."""
    all: bool = False
    """Draw every figure."""
    folder: pathlib.Path = pathlib.Path("docs/figures")
    """Where the files go, NAME.png."""


def main() -> None:
    """Draws and says what was written."""
    config = tyro.cli(
        FiguresConfig,
        args=sys.argv[1:],
        prog="python -m experiments.figures",
        description=f"{help_text(__doc__)}\n\nFigures: {', '.join(FIGURES)}",
    )
    names = tuple(FIGURES) if config.all else config.names
    if not names:
        raise InputError(f"no figure named; choose among {', '.join(FIGURES)}, or --all")
    for name in names:
        if name not in FIGURES:
            raise InputError(f"no figure is called {name!r}; choose among {', '.join(FIGURES)}, or --all")
        for file in save(FIGURES[name](), config.folder / name):
            print(file)


if __name__ == "__main__":
    run_command(main)
