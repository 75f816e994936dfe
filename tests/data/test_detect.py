"""Which face counts, and what a search keeps; with detectors that are told what to find."""

import csv
import dataclasses
import io
import re
import threading

import numpy as np
import pytest
import tyro
from rich.console import Console

from arcface_jax.commands import photos
from arcface_jax.commands.evaluation_inputs import load_set
from arcface_jax.data import detect
from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.detect import Detection, Finding, Tally, choose, find_face, find_faces
from arcface_jax.data.landmarks import by_path, read_landmarks
from arcface_jax.data.open import open_source
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.progress import unseen
from experiments import convert


def face(x: float, y: float, side: float, score: float = 0.9) -> Detection:
    """A square face with its middle at (x, y)."""
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])
    return Detection(box, TEMPLATE / 112 * side + box[:2], score)


@pytest.mark.parametrize(
    ("faces", "middle", "largest"),
    [
        ([face(125, 125, 100)], 0, 0),
        ([face(125, 125, 100), face(40, 125, 110)], 0, 1),  # LFW's bystanders
        ([face(225, 60, 118), face(130, 120, 105)], 1, 0),
        ([face(125, 125, 12), face(60, 125, 90)], 1, 1),  # a picture on a T-shirt
        ([face(125, 50, 100), face(125, 200, 60)], 0, 0),  # a portrait, its head high up
        ([face(0, 0, 60), face(125, 125, 12.1)], 1, 0),  # a corner: five times as wide
        ([face(0, 0, 60), face(125, 125, 11.9)], 0, 0),
        ([face(100, 125, 50, 0.6), face(150, 125, 50, 0.8)], 1, 1),  # equal but for the score
        ([face(100, 125, 50), face(150, 125, 50)], 0, 0),  # equal: the first
        ([face(100, 125, 0), face(150, 125, 0)], 0, 0),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_face_that_counts(faces, middle, largest, scale):
    """In a photograph of 250×250 pixels, or of 3000×3000."""
    scaled = [each._replace(box=each.box * scale) for each in faces]
    size = (round(250 * scale),) * 2
    assert choose(scaled, size) is scaled[middle]
    assert choose(scaled, size, "largest") is scaled[largest]


def test_height_and_width_are_not_mixed_up():
    faces = [face(200, 50, 20), face(50, 200, 20)]
    assert choose(faces, (100, 400)) is faces[0]
    assert choose(faces, (400, 100)) is faces[1]


class Told:
    """Finds in a photograph what its first pixel says: its faces."""

    description = "told"

    def __init__(self, *faces):
        self.faces, self.searched, self.fails_at = faces, [], None

    def detect(self, image):
        index = int(image[0, 0, 0])
        if index == self.fails_at:
            raise KeyboardInterrupt
        self.searched.append(index)
        return self.faces[index]


def test_what_is_found_in_a_photograph():
    photo = np.zeros((250, 250, 3), np.uint8)
    wide, near = face(20, 125, 110), face(125, 125, 100, 0.8)
    found = find_face(Told([wide, near]), photo, "middle")
    assert (found.score, found.faces, found.note) == (0.8, 2, "")
    np.testing.assert_array_equal(found.landmarks, near.landmarks)
    assert find_face(Told([wide, near]), photo, "largest").score == 0.9
    assert find_face(Told([]), photo, "middle") == Finding(None, 0.0, 0, "no face found")
    turned = near._replace(landmarks=near.landmarks[[1, 0, 2, 3, 4]])
    for points in (turned.landmarks, np.full((5, 2), 3.0), np.full((5, 2), np.nan)):
        # Another face than the chosen one would be somebody else's.
        found = find_face(Told([wide, near._replace(landmarks=points)]), photo, "middle")
        assert found == (None, 0.8, 2, "a face that cannot be aligned (confidence 0.80)")


def test_what_was_found_is_counted():
    tally = Tally()
    for place, score, faces in (("a", 0.9, 1), ("b", 0.7, 3), ("c", 0.76, 2)):
        tally.add(place, Finding(TEMPLATE, score, faces))
    tally.add("d", Finding(None, 0.0, 0, "no face found"))
    assert list(tally.lines("middle")) == [
        "2 photographs had several faces: the one nearest the middle, weighed with its size, was "
        "taken",
        "1 photograph had no face that can be aligned",
        "1 face was found with a confidence below 0.75; look at it: b (0.70)",
    ]
    many = dataclasses.replace(
        tally, several=1, without=0, unsure=[f"{n} (0.60)" for n in "abcdefg"]
    )
    assert list(many.lines("largest", "out.faces.csv")) == [
        "1 photograph had several faces: the largest was taken",
        "7 faces were found with a confidence below 0.75; look at them: a (0.60), b (0.60), "
        "c (0.60), d (0.60), e (0.60) and 2 more in out.faces.csv",
    ]
    assert not list(Tally().lines("middle"))


@pytest.fixture
def photographs(tmp_path):
    """Six photographs, the first pixel of each its number."""
    from arcface_jax.data.decode import encode_png

    names = ["Ann/1, left.png", "Ann/2.png", "Bob/#3.png", 'Bob/4 "four".png', "é/5.png", "é/6.png"]
    for index, name in enumerate(names):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((250, 250, 3), index, np.uint8)
        (tmp_path / "photos" / name).write_bytes(encode_png(pixels))
    return FolderSource(tmp_path / "photos")


@pytest.fixture
def detector():
    near, wide = face(125, 125, 100.1, 0.71), face(20, 125, 110)
    return Told([near], [wide, near], [], [wide], [near], [near, wide])


def test_landmarks_are_kept_as_they_are_found(photographs, detector, tmp_path):
    found = find_faces(photographs, detector, "middle", tmp_path / "faces.csv")
    assert [each.faces for each in found] == [1, 2, 0, 1, 1, 2]
    lines = (tmp_path / "faces.csv").read_text().splitlines()
    assert lines[0].startswith("# faces of middle by told in ")
    assert lines[1] == "path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5,score,faces,note"
    assert list(csv.reader(lines[2:]))[2] == ["Bob/#3.png", *[""] * 10, "0.0", "0", "no face found"]
    listed = by_path(photographs, read_landmarks(tmp_path / "faces.csv"))
    for points, each in zip(listed, found, strict=True):
        expected = np.full((5, 2), np.nan) if each.landmarks is None else each.landmarks
        np.testing.assert_array_equal(points, expected)


@pytest.mark.parametrize("torn", [b"", b"Bob/4", b'"Bob/4 ""fo', "é".encode()[:1]])
@pytest.mark.parametrize("fails_at", range(6))
def test_an_interrupted_search_goes_on(
    photographs, detector, tmp_path, monkeypatch, fails_at, torn
):
    whole = find_faces(photographs, detector, "middle", tmp_path / "whole.csv")
    monkeypatch.setattr(detect.os, "cpu_count", lambda: 1)
    detector.fails_at, file = fails_at, tmp_path / "faces.csv"
    with pytest.raises(KeyboardInterrupt):
        find_faces(photographs, detector, "middle", file)
    kept = len(file.read_text().splitlines()) - 2
    assert kept >= fails_at - 2
    with file.open("ab") as lines:
        lines.write(torn)
    detector.fails_at, detector.searched, done = None, [], []
    again = find_faces(photographs, detector, "middle", file, progress=done.append)
    assert sum(done) == 6
    assert sorted(detector.searched) == list(range(kept, 6))
    assert file.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for one, other in zip(again, whole, strict=True):
        np.testing.assert_array_equal(one.landmarks, other.landmarks)
        assert one[1:] == other[1:]


def test_what_was_found_elsewhere_is_not_gone_on_with(photographs, detector, tmp_path):
    file = tmp_path / "faces.csv"
    find_faces(photographs, detector, "middle", file)
    content = file.read_text()
    for which, description in (("largest", "told"), ("middle", "another detector")):
        detector.description = description
        with pytest.raises(InputError, match=r"faces\.csv: lists the faces of other photographs"):
            find_faces(photographs, detector, which, file)
    detector.description = "told"
    for wrong, message in (
        ("", "other photographs"),
        ("x", "other photographs"),
        (content.replace("Ann/2", "Ann/3"), r"faces\.csv line 4: is not of photograph 2, Ann/2"),
        (content + content.splitlines()[-1] + "\n", "line 9: is not of photograph 7"),
        (content.replace(",0,no face", ",x,no face"), "line 5: not all numbers"),
        (re.sub("Ann/2.png,[^,]*", "Ann/2.png,nan", content), "line 4: not all numbers"),
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match=message):
            find_faces(photographs, detector, "middle", file)
        assert file.read_text() == wrong


def test_photographs_that_cannot_be_decoded_are_noted(photographs, detector, tmp_path):
    (tmp_path / "photos" / "Ann" / "2.png").write_bytes(b"damaged")
    found = find_faces(FolderSource(tmp_path / "photos"), detector, "middle", tmp_path / "f.csv")
    assert found[1].note.startswith("cannot decode this image")


def test_several_photographs_are_searched_at_once(photographs, detector, tmp_path, monkeypatch):
    monkeypatch.setattr(detect.os, "cpu_count", lambda: 2)
    both = threading.Barrier(2, timeout=5)

    class Waiting(Told):
        def detect(self, image):
            both.wait()
            return super().detect(image)

    found = find_faces(photographs, Waiting(*detector.faces), "middle", tmp_path / "faces.csv")
    assert [each.faces for each in found] == [1, 2, 0, 1, 1, 2]


def test_the_command_finds_keeps_and_says(photographs, detector, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(convert, "FaceDetector", lambda: detector)

    def command(*arguments):
        words = [str(tmp_path / "photos"), str(tmp_path / "crops"), "--format", "folder"]
        convert.run(tyro.cli(convert.Arguments, args=[*words, *map(str, arguments)]))
        return capsys.readouterr().out

    detector.fails_at = 5
    with pytest.raises(KeyboardInterrupt):
        command("--detect")
    detector.fails_at = None
    capsys.readouterr()
    said = command("--detect")
    assert "Going on with the faces in" in said
    assert "Bob/#3.png: no face found" in said
    assert "2 photographs had several faces: the one nearest the middle" in said
    assert "1 photograph had no face that can be aligned" in said
    assert "4 faces were found with a confidence below 0.75" in said
    names = sorted(str(file.relative_to(tmp_path / "crops")) for file in tmp_path.glob("crops/*/*"))
    assert names == ["Ann/1, left.png", "Ann/2.png", "Bob/4 _four_.png", "é/5.png", "é/6.png"]

    searched = len(detector.searched)
    with pytest.raises(InputError, match="crops: exists"):
        command("--detect", "--face", "largest")
    (tmp_path / "crops").rename(tmp_path / "first")
    with pytest.raises(InputError, match=r"crops\.faces\.csv: .*another choice of them; remove it"):
        command("--detect", "--face", "largest")
    assert len(detector.searched) == searched
    with pytest.raises(InputError, match=r"--face largest: .*--detect finds; add it"):
        command("--face", "largest")
    said = command("--landmarks", tmp_path / "crops.faces.csv")
    assert "Bob/#3.png: no face, says the list" in said
    crops, first = open_source(tmp_path / "crops"), open_source(tmp_path / "first")
    assert crops.fingerprint == first.fingerprint


def test_an_evaluation_searches_the_photographs_that_its_pairs_name(
    photographs, detector, tmp_path, monkeypatch
):
    """Once for all models, and goes on after an interruption; without a face the middle counts."""
    monkeypatch.setattr(photos, "FaceDetector", lambda: detector)
    (tmp_path / "pairs.csv").write_text(
        '"Ann/1, left.png",Ann/2.png,1\nAnn/2.png,Bob/#3.png,0\n'
        "é/6.png,é/5.png,1\né/6.png,Bob/#3.png,0\n"
    )
    specification = f"LFW={tmp_path / 'photos'}+{tmp_path / 'pairs.csv'}"
    said = io.StringIO()

    def load(size):
        finder = photos.FaceFinder(tmp_path / "out", "middle", Console(file=said, width=400))
        options = photos.PhotoOptions(detect=True)
        return load_set(specification, size, 2, unseen, options, finder=finder)

    detector.fails_at = 4
    with pytest.raises(KeyboardInterrupt):
        load((112, 112))
    detector.fails_at = None
    loaded = load((112, 112))
    assert set(detector.searched) == {0, 1, 2, 4, 5}  # not 3
    searched = len(detector.searched)
    assert load((56, 48)).images.shape == (5, 56, 48, 3)
    assert len(detector.searched) == searched

    assert loaded.pairs.first.tolist() == [0, 1, 4, 4]
    assert loaded.pairs.second.tolist() == [1, 2, 3, 2]
    expected = np.stack([np.full((112, 112, 3), number, np.uint8) for number in (0, 1, 2, 4, 5)])
    found = align(photographs[1], face(125, 125, 100.1, 0.71).landmarks, 112)
    np.testing.assert_array_equal(loaded.images[2:3], expected[2:3])
    np.testing.assert_array_equal(loaded.images[1], found)
    lines = said.getvalue().splitlines()
    assert lines[0] == "Bob/#3.png: no face found; its middle is taken"
    assert "1 photograph had no face that can be aligned" in lines
    assert (
        lines[-1]
        == f"{tmp_path / 'out' / 'LFW.faces.csv'}: what was found in each of 5 photographs"
    )
