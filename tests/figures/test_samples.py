import matplotlib.colors
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.figures.samples import Mark, contact_sheet, face_sheet, name_and_file
from arcface_jax.figures.style import GREEN_INK, RED_INK, fitted, save
from tests.figures.legible import check_legible


def test_every_image_is_on_the_sheet_in_its_row_and_column():
    images = np.arange(2 * 3, dtype=np.uint8).reshape(2, 3, 1, 1, 1) * 40 + np.zeros(
        (1, 1, 10, 8, 3), np.uint8
    )
    files = [["a1.jpg", "a2.jpg", ""], ["b1.jpg", "b2.jpg", "b3.jpg"]]
    figure = contact_sheet(images, "six images", ["Ada", "Bo"], files)
    (axes,) = figure.axes
    check_legible(figure)
    assert axes.get_title() == "six images"
    assert [int(image.get_array()[0, 0, 0]) for image in axes.images] == [0, 40, 120, 160, 200]
    lefts = [image.get_extent()[0] for image in axes.images]
    np.testing.assert_allclose(lefts[:2], lefts[2:4])
    assert lefts[2] < lefts[3] < lefts[4]
    said = [text.get_text() for text in axes.texts]
    assert said == ["Ada", "a1.jpg", "a2.jpg", "Bo", "b1.jpg", "b2.jpg", "b3.jpg"]


def test_a_sheet_of_many_columns_shows_the_end_of_each_file():
    images = np.zeros((1, 8, 4, 4, 3), np.uint8)
    files = [[f"Hamid_Karzai_{number:04d}.jpg" for number in range(8)]]
    figure = contact_sheet(images, "eight", ["Hamid_Karzai"], files)
    said = [text.get_text() for text in figure.axes[0].texts]
    assert said[1:] == [f"Hami…{number:04d}.jpg" for number in range(8)]


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
    captions = [["Ann 0.812", f"Ann/{number}.jpg"] for number in range(7)]
    captions[1] = ["$x$ 0.5", "\u5c0f\u660e/1.jpg"]  # no formula, and no letters of the font
    marks = [Mark("right", right=True)] * 5 + [None, Mark("wrong name", right=False)]
    figure = face_sheet(images, captions, "seven", marks, columns=3)
    (axes,) = figure.axes
    assert axes.get_title() == "seven"
    np.testing.assert_array_equal(axes.images[6].get_array(), images[6])
    said = [text.get_text() for text in axes.texts]
    assert [text for text in said if "Ann/" in text] == [
        f"Ann 0.812\nAnn/{number}.jpg" for number in (0, 2, 3, 4, 5, 6)
    ]
    assert [text for text in said if text[0] in "✓✗"] == ["✓ right"] * 5 + ["✗ wrong name"]
    frames = [matplotlib.colors.to_hex(patch.get_edgecolor()) for patch in axes.patches]
    assert frames == [GREEN_INK.lower()] * 5 + [RED_INK.lower()]
    assert save(figure, tmp_path / "sheet")[0].exists()


def test_a_long_place_is_written_over_two_lines():
    images = np.zeros((1, 8, 6, 3), np.uint8)
    place = "lfw_deepfunneled/Hamid_Karzai/Hamid_Karzai_0001.jpg"
    figure = face_sheet(images, [[place]], "one", columns=4)
    (said,) = (text.get_text() for text in figure.axes[0].texts)
    folder, file = said.split("\n")
    assert folder.endswith("id_Karzai/")
    assert file == "Hamid_Karzai_0001.jpg"


@pytest.mark.parametrize(
    ("name", "file", "lines"),
    [
        ("Ann", "Ann/1.jpg", ["Ann", "1.jpg"]),
        ("Ann", "faces/Ann/1.jpg", ["Ann", "faces/Ann/1.jpg"]),
        ("", "Ann/1.jpg", ["Ann/1.jpg"]),
        ("Ann", "", ["Ann"]),
        ("identity 3", "image 12", ["identity 3", "image 12"]),
    ],
)
def test_a_folder_that_is_the_name_is_not_written_twice(name, file, lines):
    assert name_and_file(name, file) == lines


def test_a_long_line_loses_its_middle():
    assert fitted("Ann/1.jpg", 9) == "Ann/1.jpg"
    assert fitted("Annabelle/Annabelle_0001.jpg", 13) == "Anna…0001.jpg"
    assert fitted("a\nb", 9) == "a\N{REPLACEMENT CHARACTER}b"


@pytest.mark.parametrize(
    ("captions", "marks"), [([["a"]], None), ([["a"], ["b"]], [None]), ([], None)]
)
def test_each_face_needs_a_caption_and_a_mark(captions, marks):
    with pytest.raises(InputError, match="captions, notes, marks"):
        face_sheet(np.zeros((2, 8, 8, 3), np.uint8), captions, "two", marks)


def test_each_image_of_a_sheet_needs_a_caption():
    with pytest.raises(InputError, match="captions: give 1 times 2"):
        contact_sheet(np.zeros((1, 2, 8, 8, 3), np.uint8), "two", captions=[["a.jpg"]])
