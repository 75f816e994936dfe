import io

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.inversion import inversion_figure


def test_each_person_has_a_column_with_its_note():
    rows = [
        (name, np.full((3, 6, 5, 3), grey, np.uint8))
        for name, grey in (("real", 10), ("generated", 200))
    ]
    figure = inversion_figure(rows, ["a", "b", "c"])
    figure.savefig(io.BytesIO(), format="png")
    assert [axes.images[0].get_array()[0, 0, 0] for axes in figure.axes] == [10] * 3 + [200] * 3
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "", "", "a", "b", "c"]
    assert [figure.axes[at].get_ylabel() for at in (0, 3)] == ["real", "generated"]


def test_bad_rows_are_named():
    with pytest.raises(InputError, match="rows"):
        inversion_figure([], [])
    with pytest.raises(InputError, match="real: 2 images for 1 notes"):
        inversion_figure([("real", np.zeros((2, 4, 4, 3), np.uint8))], ["one note"])
