import matplotlib.colors
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.samples import contact_sheet, face_sheet
from arcface_jax.figures.style import fitted, save


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


def test_each_face_has_its_lines_and_its_frame(tmp_path):
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1) * 30 + np.zeros(
        (7, 8, 6, 3), np.uint8
    )
    captions = [["Ann 0.812", "right", f"Ann/{number}.jpg"] for number in range(7)]
    captions[1] = ["$x$ 0.5", "\u5c0f\u660e/1.jpg"]  # no formula, and no letters of the font
    figure = face_sheet(images, captions, "seven", ["#009E73"] * 6 + ["#D55E00"], columns=3)
    assert figure.get_suptitle() == "seven"
    assert len(figure.axes) == 7
    axes = figure.axes[6]
    assert axes.get_xlabel() == "Ann 0.812\nright\nAnn/6.jpg"
    np.testing.assert_array_equal(axes.images[0].get_array(), images[6])
    assert matplotlib.colors.to_hex(axes.spines["left"].get_edgecolor()) == "#d55e00"
    assert save(figure, tmp_path / "sheet")[0].exists()


def test_a_long_line_loses_its_middle():
    assert fitted("Ann/1.jpg", 9) == "Ann/1.jpg"
    assert fitted("Annabelle/Annabelle_0001.jpg", 13) == "Anna…0001.jpg"
    assert fitted("a\nb", 9) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("captions", "colours"), [([["a"]], None), ([["a"], ["b"]], ["red"]), ([], None)]
)
def test_each_face_needs_a_caption_and_a_colour(captions, colours):
    with pytest.raises(InputError, match="captions, colours"):
        face_sheet(np.zeros((2, 8, 8, 3), np.uint8), captions, "two", colours)
