"""Draws the README's and the documentation's pictures from the library's own numbers.

python -m experiments.figures faces margins                  these two, into docs/figures
python -m experiments.figures layer --formats svg pdf        in other formats
python -m experiments.figures loss_gradient -- --scale 16    its own arguments; see -- --help
python -m experiments.figures --all                          every one, and a page that shows them

The page, figures.html, has each picture on a light and on a dark background: how pictures of this
library look. Those that commands draw from data are examples there, from made-up numbers.
"""

import dataclasses
import html
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
from arcface_jax.commands.html_page import page, paragraph
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.figures.data import augmentation_sheet
from arcface_jax.figures.examples import EXAMPLES
from arcface_jax.figures.geometry import GEOMETRY_FIGURES
from arcface_jax.figures.layer import layer
from arcface_jax.figures.margins import MARGIN_FIGURES
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import GREEN_INK, PALETTE, RED_INK, SMALLEST, WIDTH, save
from arcface_jax.files import write_whole


def faces() -> Figure:
    """Synthetic people, one a row: the neutral picture, then eight as training sees them."""
    people, pictures = 6, 8
    source = SyntheticFaces(people, pictures, first_identity=8)
    sheet = (
        source.render(np.arange(people * pictures)).reshape(people, pictures, 112, 112, 3).copy()
    )
    sheet[:, 0] = source.neutral(np.arange(people) * pictures)
    names = [str(name) for name in source.identity_names]
    captions = [["neutral", *(f"picture {number}" for number in range(1, pictures))]] * people
    return contact_sheet(sheet, "Who is who? One person a row", names, captions)


def augmentations() -> Figure:
    """Eight synthetic people under each augmentation, and under AdaFace's mixture."""
    people = 8
    source = SyntheticFaces(people, 1, first_identity=8)
    names = [f"person {number}" for number in range(1, people + 1)]
    return augmentation_sheet(source.neutral(np.arange(people)), names=names)


Drawing = Callable[..., Figure | Mapping[str, Figure]]

EXAMPLE = "example_"
"""Before the names of those that are drawn from made-up numbers."""
# By name, what draws it: one figure, or several by file name. Its arguments, such as a file to
# read, are options of the command after --; one without a default is needed, and --all leaves such
# a figure out.
FIGURES: dict[str, Drawing] = {
    "faces": faces,
    "augmentations": augmentations,
    "layer": layer,
    **GEOMETRY_FIGURES,
    **MARGIN_FIGURES,
    **{f"{EXAMPLE}{name}": drawing for name, drawing in EXAMPLES.items()},
}
PAGE = "figures.html"
"""The page of all pictures, in their folder."""


@dataclasses.dataclass(frozen=True)
class FiguresConfig:
    """What to draw, and where to."""

    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Names of figures."""
    all: bool = False
    """Draw every figure that needs no argument, and a page that shows them."""
    folder: pathlib.Path | None = None
    """Where the files go, NAME.png; docs/figures if not given, of --all runs/figures."""
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


def style_guide(files: Mapping[str, Sequence[str]]) -> str:
    """The page: every picture, by the names of its files, on both backgrounds."""
    colours = "".join(
        f'<span style="background: {colour}; padding: 0 1rem"></span> {colour} '
        for colour in (*PALETTE, GREEN_INK, RED_INK)
    )
    parts = [
        paragraph(
            f"A picture is at most {WIDTH:g} inches wide, so that a column of 700 pixels holds it, "
            f"and no letter is smaller than {SMALLEST:g} points. It has a white background of its "
            "own: on a light page and on a dark one it is the same. Right and wrong are a colour "
            "and a word. What a bar or a band is stands in the picture."
        ),
        f"<p>Colours, for every common colour blindness, then right and wrong: {colours}</p>",
    ]
    for name, of_name in files.items():
        parts.append(paragraph(name, "h2"))
        if not name.startswith(EXAMPLE):
            parts.append(paragraph(command(f"figures {name}"), "code"))
        images = "".join(
            f'<p><img alt="{html.escape(name)}" src="{html.escape(file)}"></p>'
            for file in of_name
            if not file.endswith(".pdf")
        )
        for scheme in ("light", "dark"):
            said = paragraph(f"On a {scheme} page.")
            parts.append(f'<div class="{scheme}">{said}{images}</div>')
    return page("How pictures look", parts)


def main() -> None:
    """Draws and says what was written."""
    arguments, options = split_arguments()
    own = ", ".join(name for name in FIGURES if not name.startswith(EXAMPLE))
    about = f"{__doc__}\n\nFigures: {own}; {EXAMPLE}NAME of each that a command draws from data"
    config = read_options(FiguresConfig, "figures", about, arguments)
    names = names_to_draw(config, options)
    folder = config.folder or pathlib.Path("runs" if config.all else "docs") / "figures"
    make_folder(folder)
    shown: dict[str, list[str]] = {}
    # Beside the names of the files.
    with progress_bar(new_console(stderr=True), "Drawing", len(names)) as move:
        for name in names:
            move(0, name)
            for file_name, figure in draw(name, options).items():
                files = save(figure, folder / file_name, config.formats)
                shown.setdefault(name, []).extend(file.name for file in files)
                print(*files, sep="\n")
            move(1, "")
    if config.all:
        write_whole(folder / PAGE, style_guide(shown))
        print(folder / PAGE)


if __name__ == "__main__":
    run_command(main)
