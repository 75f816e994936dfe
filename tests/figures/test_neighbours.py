import io

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.neighbours import plane_figure


def test_each_person_and_centre_is_drawn_with_its_name():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(10), 3)
    centres = rng.normal(size=(10, 2))
    names = [f"p{person}" for person in range(10)]
    figure = plane_figure(centres[labels], labels, centres, names, "ten people")
    figure.savefig(io.BytesIO(), format="png")
    axes = figure.axes[0]
    assert axes.get_title() == "ten people"
    assert [text.get_text() for text in axes.texts] == names
    np.testing.assert_allclose(axes.collections[6].get_offsets(), np.repeat(centres[3:4], 3, 0))
    np.testing.assert_allclose(axes.collections[7].get_offsets(), centres[3:4])


def test_shapes_must_fit():
    with pytest.raises(InputError, match="do not fit"):
        plane_figure(np.zeros((3, 2)), np.zeros(3, int), np.zeros((2, 2)), ["one"], "")
