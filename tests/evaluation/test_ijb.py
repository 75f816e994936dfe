import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.errors import InputError
from arcface_jax.evaluation.ijb import (
    read_face_media,
    read_ijb_landmarks,
    read_template_matches,
    read_template_pairs,
    read_template_subjects,
    subjects_of_templates,
)


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[[str], pathlib.Path]:
    def to_file(text: str) -> pathlib.Path:
        path = tmp_path / "meta.txt"
        path.write_text(text)
        return path

    return to_file


def test_faces_templates_and_media(write: Callable[[str], pathlib.Path]) -> None:
    faces = read_face_media(write("1.jpg 1 69544\n2.jpg 1 69544\n\n3.jpg 7 12\n"))
    assert faces.names == ["1.jpg", "2.jpg", "3.jpg"]
    assert faces.template_ids.tolist() == [1, 1, 7]
    assert faces.media_ids.tolist() == [69544, 69544, 12]


def test_template_pairs(write: Callable[[str], pathlib.Path]) -> None:
    pairs = read_template_pairs(write("1 11065 1\n1 11066 0\n"))
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()) == (
        [1, 1],
        [11065, 11066],
        [True, False],
    )


def test_names_with_blanks_and_repeated_lines(
    write: Callable[[str], pathlib.Path], caplog: pytest.LogCaptureFixture
) -> None:
    faces = read_face_media(write("a b.jpg 1 5\nc 7 9\nc 7 8\n"))
    assert (faces.names, faces.media_ids.tolist()) == (["a b.jpg", "c", "c"], [5, 9, 8])
    assert read_face_media(write("a b,1,5\n")).names == ["a b"]
    assert not caplog.messages
    assert len(read_face_media(write("c 7 9\nb 7 9\nc 7 9\nc 7 9\n")).names) == 4
    assert len(read_template_pairs(write("1 2 1\n2 1 1\n4 4 1\n1 3 0\n"))) == 4
    lines, again, itself = caplog.messages
    assert "meta.txt: lines that are in the file before: 2 of 4, the first is " in lines
    assert lines.endswith("line 3; they count")
    assert "before (1 with the templates swapped): 1 of 4, the first is" in again
    assert "meta.txt: pairs of one template with itself: 1 of 4, the first is" in itself
    assert itself.endswith("line 3; they count")


def test_landmarks(write: Callable[[str], pathlib.Path]) -> None:
    found = read_ijb_landmarks(
        write("1.jpg 46.060 62.026 87.785 60.323 68.851 77.656 52.162 99.875 86.450 98.648 0.999\n")
    )
    assert found.points.shape == (1, 5, 2)
    assert found.points[0, 2].tolist() == [68.851, 77.656]
    assert found.scores.tolist() == [0.999]


def test_protocol_columns_are_found_by_name(write: Callable[[str], pathlib.Path]) -> None:
    text = "FILENAME,template_id,SUBJECT_ID\nimg/1.png,5,70\nimg/2.png,5,70\nframes/3.png,2,71\n"
    subjects = read_template_subjects(write(text))
    assert (subjects.template_ids.tolist(), subjects.subject_ids.tolist()) == ([5, 2], [70, 71])


def test_matches(write: Callable[[str], pathlib.Path], caplog: pytest.LogCaptureFixture) -> None:
    first, second = read_template_matches(write("1,9\n2,8\n"))
    assert (first.tolist(), second.tolist()) == ([1, 2], [9, 8])
    assert not caplog.messages
    first, second = read_template_matches(write("1,9\n2,8\n\n9,1\n1,9\n3,3\n"))
    assert (first.tolist(), second.tolist()) == ([1, 2, 9, 1, 3], [9, 8, 1, 9, 3])
    again, itself = caplog.messages
    assert "before (2 with the templates swapped): 2 of 5, the first is" in again
    assert again.endswith("line 4; they count")
    assert itself.endswith("line 6; they count")


@pytest.mark.parametrize(
    ("reader", "text", "message"),
    [
        (
            read_face_media,
            "1.jpg 1 5\n2.jpg 1\n",
            "line 2: 2 words; file name, template, medium are due",
        ),
        (read_face_media, "1.jpg one 5\n", "line 1: 'one' is not a whole number"),
        (read_face_media, "", "empty"),
        (
            read_face_media,
            "1.jpg 1 5\n1.jpg 1 7 9\n",
            "line 2: 4 words; file name, template, medium",
        ),
        (read_face_media, "a b 1 5\n", "line 1: 4 words; .* ends as an image's"),
        (read_face_media, "1.jpg,1,7,9\n", "line 1: 4 words"),
        (
            read_ijb_landmarks,
            "a.jpg 1 2 3 4 5 6 7 8 9 10 .5 7\n",
            "line 1: 13 words; file name, ten",
        ),
        (
            read_template_pairs,
            "1 2 1\n\n1 3 0\n2 1 0\n",
            "line 4: calls a pair different .* line 1",
        ),
        (read_template_pairs, "1 2 1\n3 3 0\n", "line 2: is of one template with itself, and call"),
        (read_template_pairs, "1 2 1\n\n1 2 0 4\n", "line 3: 4 words"),
        (read_template_pairs, "1 2 1\n1 x 0\n", "line 2: 'x' is not a whole number"),
        (read_template_pairs, "1 2 1\n1 2 3\n", "line 2: the label is 3"),
        (read_template_pairs, " \n", "empty"),
        (read_template_pairs, "1 1e999 0\n", "line 1: '1e999' is not a whole number"),
        (read_template_matches, "1,2\n3;4\n", "line 2: 1 word;"),
        (read_ijb_landmarks, "a.jpg 1 2 3 4 5 6 7 8 9 10\n", "line 1: 11 words"),
        (read_ijb_landmarks, "a.jpg 1 2 3 4 5 6 7 8 9 10 nan\n", "'nan' is not a number"),
        (
            read_template_subjects,
            "TEMPLATE_ID,SUBJECT\n1,2\n",
            "line 1: the columns TEMPLATE_ID and SUBJECT_ID",
        ),
        (
            read_template_subjects,
            "TEMPLATE_ID,SUBJECT_ID\n1,2\n1,3\n",
            "line 3: template 1 is of subject 3 and of 2",
        ),
        (read_template_subjects, "TEMPLATE_ID,SUBJECT_ID\n1\n", "line 2: 1 column;"),
        (read_template_subjects, "TEMPLATE_ID,SUBJECT_ID\n", "no templates"),
    ],
)
def test_a_bad_line_is_named(
    write: Callable[[str], pathlib.Path],
    reader: Callable[[pathlib.Path], object],
    text: str,
    message: str,
) -> None:
    path = write(text)
    with pytest.raises(InputError, match=message) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "reader",
    [
        read_face_media,
        read_template_pairs,
        read_ijb_landmarks,
        read_template_subjects,
        read_template_matches,
    ],
)
def test_a_missing_file_is_named(reader: Callable[[pathlib.Path], object]) -> None:
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot read"):
        reader(pathlib.Path("nowhere.txt"))


def test_many_pairs_are_read_whole(write: Callable[[str], pathlib.Path]) -> None:
    table = np.random.default_rng(0).integers(0, [30_000, 30_000, 2], (20_000, 3))
    pairs = read_template_pairs(write("\n".join(" ".join(map(str, row)) for row in table.tolist())))
    assert np.array_equal(np.stack([pairs.first, pairs.second, pairs.same], 1), table)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11), st.booleans()), max_size=25))
def test_subjects_are_what_same_pairs_connect(pairs: list[tuple[int, int, bool]]) -> None:
    groups = {template: {template} for template in range(12)}
    for a, b, same in pairs:
        if same and groups[a] is not groups[b]:
            groups[a] |= groups[b]
            for member in groups[b]:
                groups[member] = groups[a]
    table = np.array(pairs, int).reshape(-1, 3)
    found = subjects_of_templates(table[:, 0], table[:, 1], table[:, 2] == 1, 12)
    assert found.tolist() == [min(groups[template]) for template in range(12)]


def test_landmarks_by_axis_are_refused(tmp_path):
    faces = TEMPLATE + np.random.default_rng(0).normal(0, 2, (9, 5, 2))
    path = tmp_path / "ijbc_name_5pts_score.txt"

    def write(rows):
        path.write_text("".join(f"{' '.join(['a.jpg', *map(str, r.ravel())])} 0.9\n" for r in rows))

    write(faces)
    np.testing.assert_array_equal(read_ijb_landmarks(path).points, faces)
    write(faces.swapaxes(1, 2))
    with pytest.raises(InputError, match=r"score\.txt: its numbers look like x1 … x5 y1 … y5, and"):
        read_ijb_landmarks(path)
