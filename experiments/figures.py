"""Draws the README's and the documentation's pictures from the library's own numbers.

python -m experiments.figures faces margins                  these two, into docs/figures
python -m experiments.figures layer --formats svg pdf        in other formats
python -m experiments.figures loss_gradient -- --scale 16    its own arguments; see -- --help
python -m experiments.figures --all                          every one that needs no argument
"""

import dataclasses
import inspect
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure

from arcface_jax.command_name import command
from arcface_jax.commands.command import (
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    split_arguments,
)
from arcface_jax.commands.help_page import unknown
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.figures.data import augmentation_sheet
from arcface_jax.figures.geometry import GEOMETRY_FIGURES
from arcface_jax.figures.layer import layer
from arcface_jax.figures.margins import MARGIN_FIGURES
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save


def faces() -> Figure:
    """Synthetic people, one a row: the neutral picture, then eight as training sees them."""
    people, pictures = 6, 9
    source = SyntheticFaces(people, pictures, first_identity=8)
    sheet = (
        source.render(np.arange(people * pictures)).reshape(people, pictures, 112, 112, 3).copy()
    )
    sheet[:, 0] = source.neutral(np.arange(people) * pictures)
    return contact_sheet(sheet, "Who is who? One person per row; first the neutral picture")


def augmentations() -> Figure:
    """Eight synthetic people under each augmentation, and under AdaFace's mixture."""
    people = 8
    return augmentation_sheet(
        SyntheticFaces(people, 1, first_identity=8).neutral(np.arange(people))
    )


Drawing = Callable[..., Figure | Mapping[str, Figure]]

# By name, what draws it: one figure, or several by file name. Its arguments, such as a file to
# read, are options of the command after --; one without a default is needed, and --all leaves such
# a figure out.
FIGURES: dict[str, Drawing] = {
    "faces": faces,
    "augmentations": augmentations,
    "layer": layer,
    **GEOMETRY_FIGURES,
    **MARGIN_FIGURES,
}


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """What to draw, and where to."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of figures."""
    all: bool = False
    """Draw every figure that needs no argument."""
    folder: pathlib.Path = pathlib.Path("docs/figures")
    """Where the files go, NAME.png."""
    formats: tuple[Literal["png", "svg", "pdf"], ...] = ("png",)
    """Formats of the files."""


def needs_arguments(drawing: Drawing) -> bool:
    """Whether it cannot be drawn without being told something."""
    return any(
        parameter.default is parameter.empty
        for parameter in inspect.signature(drawing).parameters.values()
    )


def draw(name: str, options: Sequence[str] = ()) -> dict[str, Figure]:
    """Draws an entry of FIGURES by its own options: figures by file name."""
    drawn = read_options(FIGURES[name], f"figures {name} --", None, list(options))
    return {name: drawn} if isinstance(drawn, Figure) else dict(drawn)


def names_to_draw(config: FiguresConfig, options: Sequence[str]) -> list[str]:
    """The figures a command line asks for."""
    if config.all:
        if config.names or options:
            raise InputError(
                f"--all and {' '.join([*config.names, *options])}; name figures or draw all, "
                "not both"
            )
        return [name for name, drawing in FIGURES.items() if not needs_arguments(drawing)]
    if not config.names:
        raise InputError(f"no figure named; choose among {', '.join(FIGURES)}, or --all")
    for name in config.names:
        if name not in FIGURES:
            raise unknown("figure", name, FIGURES)
        if needs_arguments(FIGURES[name]) and not options:
            raise InputError(
                f"figure {name!r} needs arguments; {command(f'figures {name}')} -- --help tells"
            )
    if options and len(config.names) > 1:
        raise InputError(
            f"options after -- are for one figure, not for {', '.join(config.names)}; draw one at "
            "a time"
        )
    return list(config.names)


def main() -> None:
    """Draws and says what was written."""
    arguments, options = split_arguments()
    about = f"{__doc__}\n\nFigures: {', '.join(FIGURES)}"
    config = read_options(FiguresConfig, "figures", about, arguments)
    names = names_to_draw(config, options)
    make_folder(config.folder)
    # Beside the names of the files.
    with progress_bar(new_console(stderr=True), "Drawing", len(names)) as move:
        for name in names:
            move(0, name)
            for file_name, figure in draw(name, options).items():
                for file in save(figure, config.folder / file_name, config.formats):
                    print(file)
            move(1, "")


if __name__ == "__main__":
    run_command(main)
