import io

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.check import Row, check, check_source_labels, report
from arcface_jax.data.in_memory import MemorySource, load_source
from arcface_jax.data.scan import (
    eye_distance,
    find_unreadable,
    near_pairs,
    perceptual_hash,
    scan,
)
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.figures.data import identity_sheet


@pytest.fixture(scope="module")
def faces() -> MemorySource:
    return load_source(SyntheticFaces(20, 4), 112)


@pytest.fixture(scope="module")
def small_faces() -> MemorySource:
    return load_source(SyntheticFaces(40, 3, image_size=48, difficulty=0.5), 48)


def with_images(images, labels) -> MemorySource:
    labels = np.asarray(labels, np.int32)
    return MemorySource(
        np.asarray(images), labels, [f"person {label}" for label in range(labels.max() + 1)], "f"
    )


class Several(FaceSource):
    """Images of several sizes."""

    def __init__(self, images, labels):
        self._images, self.labels = list(images), np.array(labels, np.int32)
        self.identity_names = [f"person {label}" for label in range(self.labels.max() + 1)]

    def __getitem__(self, index):
        return self._images[index]


def recompressed(image: np.ndarray, quality: int = 70) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def darker(image: np.ndarray) -> np.ndarray:
    return (image * 0.8).astype(np.uint8)


def smaller(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((100, 100)).resize((112, 112)))


def rows_of(found) -> dict[str, list[tuple]]:
    """The (image, other) of each row, by the kind of the finding."""
    return {each.kind: [row[:2] for row in each.rows] for each in found.findings}


def test_a_clean_set_gives_no_finding(faces):
    found = check(faces)
    assert found.findings == ()
    assert (found.num_images, found.num_identities, found.aligned) == (80, 20, True)
    np.testing.assert_array_equal(found.images_per_identity, np.full(20, 4))


def test_copies_are_told_apart_by_how_equal_they_are_and_by_identity(faces):
    images, labels = list(faces.images), list(faces.labels)
    near_in_20 = [recompressed(images[9]), darker(images[13])]
    images += [images[5], *near_in_20, images[2], images[2], recompressed(images[30])]
    labels += [labels[5], labels[9], labels[13], 20, 20, 3]
    found = check(with_images(images, labels))
    assert rows_of(found) == {
        "exact copy": [(80, 5), (84, 83)],
        "exact copy, other identity": [(83, 2)],
        "near copy": [(82, 13), (81, 9)],  # the nearest first
        "near copy, other identity": [(85, 30)],
    }


def test_many_copies_of_one_image_are_a_row_each(faces):
    again = [recompressed(faces.images[0], 90 - 3 * k) for k in range(8)]
    rows = rows_of(check(with_images([faces.images[0]] * 100 + again, [0] * 50 + [1] * 58)))
    assert rows["exact copy, other identity"] == [(50, 0)]
    assert rows["exact copy"] == [(k, 0) for k in range(1, 50)] + [(k, 50) for k in range(51, 100)]
    near = {image for kind in ("near copy", "near copy, other identity") for image, _ in rows[kind]}
    assert near == set(range(100, 108))


@pytest.mark.parametrize(
    ("kind", "image", "number"),
    [
        ("blank", np.full((112, 112, 3), 255), 0),
        ("blank", np.full((112, 112, 3), (200, 10, 60)), 0),
        ("blank", np.clip(np.random.default_rng(0).normal(9, 2, (112, 112, 3)), 0, 255), None),
        ("noise", np.random.default_rng(0).integers(0, 256, (112, 112, 3)), None),
        ("noise", np.random.default_rng(1).integers(0, 256, (40, 50, 3)), None),
        ("noise", np.random.default_rng(2).integers(0, 256, (112, 112, 1)).repeat(3, 2), None),
        ("small", np.arange(64).reshape(8, 8, 1).repeat(3, 2) * 3, 14),
        ("small", np.arange(112 * 90).reshape(112, 90, 1).repeat(3, 2) % 199, 1.24),
        ("extreme aspect", np.arange(112 * 300).reshape(112, 300, 1).repeat(3, 2) % 199, 2.68),
        ("extreme aspect", np.arange(112 * 300).reshape(300, 112, 1).repeat(3, 2) % 199, 2.68),
    ],
)
def test_images_that_show_nothing_or_too_little(faces, kind, image, number):
    source = Several([*faces.images[:8], image.astype(np.uint8)], [*faces.labels[:8], 0])
    found = check(source)
    (finding,) = (each for each in found.findings if each.kind == kind)
    assert [row.image for row in finding.rows] == [8]
    if number is not None:
        assert finding.rows[0].number == pytest.approx(number, abs=0.01)


def test_sizes_that_are_scaled_down_are_no_finding(faces):
    shapes = [(112, 112), (250, 250), (224, 112), (113, 200)]
    images = [np.asarray(Image.fromarray(faces.images[0]).resize(each)) for each in shapes]
    source = Several(images, range(4))
    assert {"small", "extreme aspect"}.isdisjoint(rows_of(check(source)))
    wide = report(source, scan(source), (112, 40))
    assert rows_of(wide)["extreme aspect"] == [(2, None), (0, None), (1, None)]


def test_what_cannot_be_decoded_is_named(tmp_path, write_tree):
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 2, "c": 1})
    for name in ("b/0.png", "c/0.png"):
        (root / name).write_bytes(b"damaged")
    source = FolderSource(root)
    assert list(find_unreadable(source)) == [2, 4]
    found = check(source)
    finding = found.findings[0]
    assert finding.kind == "undecodable"
    assert [row.note.partition(":")[0] for row in finding.rows] == [
        str(root / name) for name in ("b/0.png", "c/0.png")
    ]
    assert finding.summary == "2 images cannot be decoded"
    emptied = found.findings[1]
    assert emptied.kind == "nothing left"
    assert emptied.rows == (Row(4, note="none of the 1 image of c can be decoded"),)
    assert rows_of(found)["one image"] == [(3, None)]


def test_people_none_of_whose_images_can_be_decoded_are_named(tmp_path, write_tree):
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 3, "c": 1, "d": 2})
    for name in ("a/0.png", "a/1.png", "b/0.png", "d/0.png", "d/1.png"):
        (root / name).write_bytes(b"damaged")
    (finding,) = (one for one in check(FolderSource(root)).findings if one.kind == "nothing left")
    assert finding.summary.startswith("2 identities have no image that can be decoded")
    assert [(row.image, row.note) for row in finding.rows] == [
        (0, "none of the 2 images of a can be decoded"),
        (6, "none of the 2 images of d can be decoded"),
    ]
    (root / "b/1.png").write_bytes(b"")
    (root / "b/2.png").write_bytes(b"")
    (root / "c/0.png").write_bytes(b"")
    (finding,) = (one for one in check(FolderSource(root)).findings if one.kind == "nothing left")
    assert [row.image for row in finding.rows] == [0, 2, 5, 6]


def test_what_a_source_leaves_out_is_a_finding(tmp_path, write_tree):
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 2})
    (root / "empty").mkdir()
    (root / "a" / "photo.heic").write_bytes(b"x")
    found = {
        each.kind: [row.file for row in each.rows] for each in check(FolderSource(root)).findings
    }
    assert found["no image"] == [str(root / "a" / "photo.heic")]
    assert found["empty folder"] == [str(root / "empty")]


def test_images_on_a_side_are_found_where_the_others_are_upright(small_faces):
    images = small_faces.images.copy()
    turns = {7: 1, 60: 2, 90: 3}
    for image, quarters in turns.items():
        images[image] = np.rot90(images[image], quarters)
    found = check(with_images(images, small_faces.labels))
    (finding,) = (each for each in found.findings if each.kind == "turned")
    to_right = {1: "by 90° clockwise", 2: "by 180°", 3: "by 90° counter-clockwise"}
    assert {row.image: row.note for row in finding.rows} == {
        image: f"looks upright when turned {to_right[quarters]}"
        for image, quarters in turns.items()
    }


def test_of_images_that_lie_anyhow_nothing_is_said(small_faces):
    turns = np.arange(120) * 7 % 4
    images = [np.rot90(each, turn) for each, turn in zip(small_faces.images, turns, strict=True)]
    assert np.isnan(scan(with_images(images, small_faces.labels)).upright).all()


@pytest.mark.parametrize("change", [recompressed, darker, smaller])
def test_perceptual_hashes_survive_what_copies_go_through(faces, change):
    distances = [
        np.bitwise_count(perceptual_hash(image) ^ perceptual_hash(change(image))).sum()
        for image in faces.images
    ]
    assert np.mean(np.array(distances) <= 15) > 0.9


def test_different_pictures_have_different_hashes(faces):
    hashes = np.stack([perceptual_hash(image) for image in faces.images])
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    assert distance[np.triu_indices(80, k=1)].min() > 40


def test_near_pairs_are_those_of_a_full_comparison():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, 32), dtype=np.uint8)
    hashes = np.concatenate([base, base, base])
    for row in range(40, 120):  # flip 0 … 30 bits
        flipped = rng.choice(256, rng.integers(0, 31), replace=False)
        hashes[row] ^= np.packbits(np.isin(np.arange(256), flipped))
    distance = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    expected = np.argwhere(np.triu(distance <= 15, k=1))
    found = {(i, j, d) for part in near_pairs(hashes, 15) for i, j, d in zip(*part, strict=True)}
    assert len(expected) > 20
    assert found == {(i, j, distance[i, j]) for i, j in expected}


def test_near_pairs_of_a_crowd_are_found():
    """More hashes than are compared with each other share their first words."""
    hashes = np.random.default_rng(0).integers(0, 256, (600, 32), dtype=np.uint8)
    hashes[:, :6] = 7
    hashes[599] = hashes[17]
    hashes[599, 31] ^= 3
    assert {
        tuple(map(int, pair)) for part in near_pairs(hashes) for pair in zip(*part, strict=True)
    } == {(17, 599, 2)}


def test_images_shared_with_a_test_set_are_found(faces):
    train = with_images(faces.images[:40], faces.labels[:40])
    copied = [faces.images[3], faces.images[4], recompressed(faces.images[20])]
    test = with_images(np.concatenate([faces.images[60:70], copied]), [0] * 13)
    other = with_images(faces.images[60:70], [0] * 10)
    tests = {"lfw": (test, scan(test)), "cfp": (other, scan(other))}
    found = report(train, scan(train), 112, tests)
    assert rows_of(found) == {
        "exact copy in lfw": [(3, 10), (4, 11)],
        "near copy in lfw": [(20, 12)],
    }
    assert all(each.other is test for each in found.findings)


@pytest.mark.parametrize("shift", [10, 20])
def test_faces_that_are_not_aligned_are_noticed(faces, shift):
    rng = np.random.default_rng(0)
    moved = [
        np.roll(image, rng.integers(-shift, shift + 1, 2), axis=(0, 1)) for image in faces.images
    ]
    found = check(with_images(moved, faces.labels))
    assert not found.aligned
    assert found.findings == ()


def test_loose_crops_are_noticed(faces):
    loose = [
        np.asarray(
            Image.fromarray(np.pad(image, ((30, 30), (30, 30), (0, 0)), mode="edge")).resize(
                (112, 112)
            )
        )
        for image in faces.images
    ]
    assert not check(with_images(loose, faces.labels)).aligned


def test_eye_distance_of_a_drawn_face():
    image = np.full((112, 112), 200.0)
    for x, y in ((38, 60), (73, 60)):
        image[y - 2 : y + 3, x - 3 : x + 4] = 40
    assert eye_distance(image) == pytest.approx(60 - 51.6, abs=1.0)


def test_real_faces_are_fine(shared_data):
    source = FolderSource(shared_data / "orl_faces.zip")
    people = report(source, scan(source), 80)
    assert people.aligned
    assert [(each.kind, len(each.rows)) for each in people.findings] == [("near copy", 8)]
    assert min(row.number for row in people.findings[0].rows) > 15  # of one moment


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, 2], 3, "1 label has no image, the first is 1"),
        ([0, 1], 3, "1 label has no image, the first is 2"),
        ([0, 3], 2, "labels are 0 … 3, but there are 2 identity names"),
        ([-1, 0], 2, "labels are -1 … 0"),
        ([0], 1, "has 2 images but 1 label"),
    ],
)
def test_labels_that_are_not_contiguous_are_refused(labels, names, message):
    images = np.zeros((2, 4, 4, 3), np.uint8)
    with pytest.raises(InputError, match=message):
        check_source_labels(MemorySource(images, np.array(labels, np.int32), ["x"] * names, "f"))
    with pytest.raises(InputError, match="no images"):
        check_source_labels(MemorySource(images[:0], np.zeros(0, np.int32), [], "f"))


def test_the_contact_sheet_shows_identities_and_marks_what_cannot_be_read(
    tmp_path, write_tree, faces
):
    assert identity_sheet(faces, rows=3).axes[0].get_title() == "3 of 20 identities, 80 images"
    root = write_tree(tmp_path / "faces", {"a": 2, "b": 1})
    (root / "a" / "0.png").write_bytes(b"damaged")
    (axes,) = identity_sheet(FolderSource(root), rows=9, columns=2).axes
    said = [text.get_text() for text in axes.texts]
    assert sorted(said) == ["0.png", "0.png", "1.png", "a", "b"]
    assert len(axes.images) == 3
    assert sum(bool((image.get_array() == 128).all()) for image in axes.images) == 1


def test_images_of_several_frames_are_counted(tmp_path):
    (tmp_path / "ann").mkdir()
    greys = [Image.new("L", (20, 16), 40 * number) for number in range(5)]
    for name, count in (("1.gif", 1), ("2.gif", 3), ("3.png", 5), ("4.tif", 2), ("5.webp", 2)):
        options = {"save_all": True, "append_images": greys[1:count]} if count > 1 else {}
        greys[0].save(tmp_path / "ann" / name, **options)
    findings = {finding.kind: finding for finding in check(FolderSource(tmp_path)).findings}
    found = findings["several frames"]
    assert found.rows == (Row(1, number=3), Row(2, number=5), Row(3, number=2), Row(4, number=2))
    assert found.measure == "frames or pages"
    assert found.summary.startswith(
        "4 images have several frames or pages, of which the first counts and 8 do not"
    )
