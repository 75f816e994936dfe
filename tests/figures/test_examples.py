"""Every picture has an example, and every example keeps the laws of all pictures."""

import importlib
import inspect
import pkgutil

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from arcface_jax import figures
from arcface_jax.figures.examples import EXAMPLES
from arcface_jax.figures.geometry import GEOMETRY_FIGURES
from arcface_jax.figures.margins import MARGIN_FIGURES
from arcface_jax.figures.style import WIDTH, new_figure, save, style
from tests.figures.legible import check_legible, contrast

_DRAWN_OTHERWISE = {
    "augmentation_sheet": "figures augmentations",
    "identity_sheet": "contact_sheet",
    "group_sheet": "face_sheet and pair_sheet",
    "margin_curves": "the margins",
    "rule_curves": "the margins",
    "layer": "figures layer",
    "new_figure": "all",
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_can_be_read_in_a_column(name):
    check_legible(EXAMPLES[name]())


def test_every_picture_is_on_the_page_of_pictures():
    """Whatever function returns a figure is called by an example or drawn by name."""
    shown = inspect.getsource(importlib.import_module("arcface_jax.figures.examples"))
    by_name = {drawing.__name__ for drawing in GEOMETRY_FIGURES.values()}
    by_name |= {getattr(drawing, "__name__", "") for drawing in MARGIN_FIGURES.values()}
    for found in pkgutil.iter_modules(figures.__path__):
        module = importlib.import_module(f"arcface_jax.figures.{found.name}")
        for name, function in vars(module).items():
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if not own or name.startswith("_") or found.name == "examples":
                continue
            if inspect.signature(function).return_annotation is Figure:
                assert name in by_name | set(_DRAWN_OTHERWISE) or f"{name}(" in shown, name


def test_a_dark_notebook_changes_no_picture(tmp_path):
    def drawn(name):
        figure = new_figure(2.0, 1.0)
        figure.subplots().plot([0, 1], [1, 0])
        (file,) = save(figure, tmp_path / name)
        return np.asarray(Image.open(file).convert("RGBA"))

    plain = style()(drawn)("plain")
    dark = {"figure.facecolor": "black", "axes.facecolor": "black", "text.color": "white"}
    dark |= {"axes.labelcolor": "white", "axes.edgecolor": "white", "savefig.transparent": True}
    dark |= {"xtick.color": "white", "ytick.color": "white", "savefig.facecolor": "none"}
    with matplotlib.rc_context(dark):
        np.testing.assert_array_equal(style()(drawn)("dark"), plain)
    assert plain[0, 0].tolist() == [255, 255, 255, 255]


def test_contrast_is_that_of_the_guidelines():
    assert contrast("white", "black") == pytest.approx(21.0)
    assert contrast("#777777", "white") == pytest.approx(4.48, abs=0.01)


def test_a_column_of_700_pixels_shows_letters_of_eleven():
    assert pytest.approx(11.1, abs=0.1) == 8.0 / 72 * 700 / WIDTH
