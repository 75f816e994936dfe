"""How every picture looks: one palette, one width, one way to save.

A picture is at most `WIDTH` inches wide and no letter in it is smaller than `SMALLEST` points. So a
column of 700 pixels, as of a page on the web, shows every letter 11 pixels high or higher. Pictures
have a white background of their own, so that they look alike on light and on dark pages.
"""

import pathlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from arcface_jax.arguments import check_choice
from arcface_jax.buckets import written_locally
from arcface_jax.errors import InputError, printable

# Okabe and Ito's palette: distinguishable with every common colour blindness.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BLUE_INK, RED_INK, GREEN_INK = PALETTE[0], "#B54A00", "#00755A"
"""Of letters: as near the palette as can be read on white."""
# In the palette's order, so that lines differ without colour too.
_DASHES = ((0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
LINE_STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", *_DASHES)

WIDTH = 7.0
"""Inches: of the widest picture."""
SMALLEST = 8.0
"""Points: of the smallest letters."""

_INK, _PAPER = "black", "white"
_SETTINGS: dict[Any, Any] = {
    "figure.dpi": 110,
    "savefig.dpi": 150,
    "axes.prop_cycle": cycler(color=PALETTE),
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "legend.frameon": False,
    "text.parse_math": False,  # a name with two dollar signs is no formula
    # The caller's may be those of a dark notebook.
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), _PAPER),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "axes.titlecolor"), _INK),
    "savefig.transparent": False,
    "grid.color": "#b0b0b0",
    "svg.hashsalt": "arcface_jax",  # equal pictures give equal files
}


@contextmanager
def style() -> Iterator[None]:
    """Draws with this library's settings, in a block or as a decorator; keeps the caller's."""
    with matplotlib.rc_context(_SETTINGS):
        yield


def new_figure(width: float = WIDTH, height: float = 4.2) -> Figure:
    """An empty figure, sizes in inches, made without pyplot.

    So it needs no screen, is freed like any object, and does not change the back end of a notebook.
    """
    return Figure(figsize=(width, height), layout="constrained")


def one_axes(width: float = WIDTH, height: float = 4.2) -> tuple[Figure, Axes]:
    """A `new_figure` with one pair of axes in it."""
    figure = new_figure(width, height)
    return figure, figure.subplots()


def centred_text(
    axes: Axes, x: float, y: float, text: str, fontsize: float = 10, **options: Any
) -> None:
    """Writes text centred at a point of the axes."""
    axes.text(x, y, text, ha="center", va="center", fontsize=fontsize, **options)


def fitted(text: str, letters: int) -> str:
    """The printable text; a longer one loses its middle, as the end of a path and the beginning of
    a name tell most.
    """
    text = printable(text)
    if len(text) <= letters:
        return text
    kept = letters - 1
    return f"{text[: kept // 3]}…{text[-(kept - kept // 3) :]}"


def check_images(name: str, images: np.ndarray, lengths: str = "P") -> None:
    """Raises unless `images` are uint8 [*lengths, height, width, 3] and not empty."""
    wanted = f"[{lengths}, height, width, 3]"
    right_rank = images.ndim == wanted.count(",") + 1
    if not right_rank or images.shape[-1] != 3 or images.dtype != np.uint8 or not images.size:
        raise InputError(f"{name}: {images.dtype} of shape {images.shape}; give uint8 {wanted}")


class _PowersOfTen(LogFormatter):
    """1e-4, .1, 1, 1000, 1e5: what matplotlib writes otherwise is a formula."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return (
            super().__call__(x, pos).replace("\u2212", "-").replace("e-0", "e-").replace("e+0", "e")
        )


def logarithmic(axes: Axes, *names: Literal["x", "y"]) -> None:
    """Makes axes logarithmic, with ticks in plain text."""
    for name in names:
        axes.set(**{f"{name}scale": "log"})
        axis = axes.xaxis if name == "x" else axes.yaxis
        axis.set_major_formatter(_PowersOfTen())
        axis.set_minor_formatter(_PowersOfTen(labelOnlyBase=False))


def end_at(axes: Axes, most: float, bottom: float | None = None) -> None:
    """Ends the vertical axis at `most`, such as 100 %; a line that runs there is drawn whole.

    Args:
      axes: with the lines.
      most: the highest value there can be.
      bottom: where the axis begins; by default a little below the lowest line.
    """
    axes.set_ylim(bottom=axes.get_ylim()[0] if bottom is None else bottom, top=most)
    for line in axes.lines:
        line.set_clip_on(False)


def legend_above(axes: Axes) -> None:
    """A legend over the axes, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)


def line_style(number: int) -> dict[str, Any]:
    """Colour and line style of line `number`, for `plot`."""
    return {"color": PALETTE[number % len(PALETTE)], "ls": LINE_STYLES[number % len(LINE_STYLES)]}


FORMATS = ("png", "svg", "pdf")
# Without the date of drawing, so that equal pictures give equal files.
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


@style()
def save(
    figure: Figure, path: pathlib.Path, formats: Sequence[str] = ("png",)
) -> list[pathlib.Path]:
    """Writes a figure to files; equal figures give equal files.

    Args:
      figure: what to write.
      path: of the files, without extension.
      formats: of FORMATS: png at 150 dots per inch, svg, pdf.

    Returns: the files, path.png and so on.

    Raises:
      InputError: for another format.
    """
    for extension in formats:
        check_choice("format", extension, FORMATS)
    path.parent.mkdir(parents=True, exist_ok=True)
    files = []
    with warnings.catch_warnings():
        # A name in a script that no font here has is drawn as boxes; tables have its letters.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")
        for extension in formats:
            file = path.parent / f"{path.name}.{extension}"
            with written_locally(file) as local:
                figure.savefig(local, metadata=_UNDATED.get(extension))
            files.append(file)
    return files
