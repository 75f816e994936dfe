import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.inversion import inversion_figure
from tests.figures.legible import check_legible


def test_each_person_has_its_images_side_by_side_with_name_file_and_note():
    rows = [
        (name, np.full((3, 6, 5, 3), grey, np.uint8))
        for name, grey in (("real", 10), ("generated", 200))
    ]
    names, files = ["Ann", "Bo", "Cy"], ["1.jpg", "2.jpg", "3.jpg"]
    figure = inversion_figure(rows, ["a", "b", "c"], names=names, files=files)
    check_legible(figure)
    (axes,) = figure.axes
    assert [int(image.get_array()[0, 0, 0]) for image in axes.images] == [10, 200] * 3
    said = [text.get_text() for text in axes.texts]
    assert said[:3] == ["real\n1.jpg", "generated", "Ann\na"]
    assert said[3:6] == ["real\n2.jpg", "generated", "Bo\nb"]
    with pytest.raises(InputError, match="names: 1 for 3 people"):
        inversion_figure(rows, ["a", "b", "c"], names=["Ann"])


def test_bad_rows_are_named():
    with pytest.raises(InputError, match="rows"):
        inversion_figure([], [])
    with pytest.raises(InputError, match="real: 2 images for 1 notes"):
        inversion_figure([("real", np.zeros((2, 4, 4, 3), np.uint8))], ["one note"])
