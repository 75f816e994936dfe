import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.samples import contact_sheet


def test_every_image_is_on_the_sheet_in_its_row_and_column():
    images = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40 + np.zeros(
        (1, 1, 10, 8, 3), np.uint8
    )
    figure = contact_sheet(images, "six images", row_labels=["Ada", "Bo"])
    axes = figure.axes[0]
    sheet = np.asarray(axes.images[0].get_array())
    for row in range(2):
        for column in range(3):
            block = sheet[row * 11 : row * 11 + 10, column * 9 : column * 9 + 8]
            assert (block == images[row, column]).all()
    assert axes.get_title() == "six images"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Ada", "Bo"]
    assert list(axes.get_yticks()) == [5.0, 16.0]
    figure.canvas.draw()


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((1, 1, 8, 8, 3), np.float32),
        np.zeros((0, 1, 8, 8, 3), np.uint8),
    ],
)
def test_wrong_arrays_are_named(images):
    with pytest.raises(InputError, match="images"):
        contact_sheet(images, "none")


def test_labels_must_match_rows():
    with pytest.raises(InputError, match="row_labels"):
        contact_sheet(np.zeros((2, 1, 8, 8, 3), np.uint8), "two rows", row_labels=["one"])
