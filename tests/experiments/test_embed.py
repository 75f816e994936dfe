"""The embed command, as a person types it, and when it is interrupted."""

import csv
import dataclasses
import io
import os
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from arcface_jax.commands import photos
from arcface_jax.commands.evaluation_inputs import read_embeddings
from arcface_jax.commands.gallery import read_gallery
from arcface_jax.commands.models import STABLEHLO_FILE, Embedder, open_embedder
from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.decode import resize
from arcface_jax.data.detect import Detection
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.torch import import_torch
from experiments import embed, export
from tests.bin_set import write_bin

main = embed.main


@pytest.fixture
def expected(small_checkpoint, crowd):
    source = FolderSource(crowd)
    images = jnp.stack([source[index] for index in range(len(source))])
    return np.asarray(jax.jit(unit_embedding(import_torch(small_checkpoint), flip="add"))(images))


def test_rows_are_the_images_in_order(type_command, small_checkpoint, crowd, tmp_path, expected):
    status, out, _ = type_command(
        main, small_checkpoint, crowd, tmp_path / "e.npy", "--batch-size", 6
    )
    assert status == 0
    assert "16 embeddings of 6 numbers" in out
    rows = np.load(tmp_path / "e.npy")
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    with (tmp_path / "e.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["identity"] for row in table] == [
        f"p{person}" for person in range(4) for _ in range(4)
    ]
    assert table[5]["image"].endswith("p1/1.png")
    assert not list(tmp_path.glob("*.partial*"))


def test_parquet_holds_images_identities_and_embeddings(
    type_command, small_checkpoint, crowd, tmp_path, expected
):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert type_command(main, small_checkpoint, crowd, tmp_path / "e.parquet")[0] == 0
    table = parquet.read_table(tmp_path / "e.parquet").to_pydict()
    np.testing.assert_allclose(table["embedding"], expected, atol=1e-5)
    assert table["identity"][15] == "p3"
    assert not list(tmp_path.glob("*.partial*"))


def test_npz_is_what_the_evaluation_reads(
    type_command, small_checkpoint, crowd, tmp_path, expected
):
    assert type_command(main, small_checkpoint, crowd, tmp_path / "e.npz")[0] == 0
    entry = read_embeddings(tmp_path / "e.npz", None, 1)
    np.testing.assert_allclose(entry.data.embeddings, expected, atol=1e-5)
    np.testing.assert_array_equal(entry.data.labels, np.repeat(np.arange(4), 4))
    assert not list(tmp_path.glob("*.partial*"))


def test_a_verification_set_keeps_its_pairs(type_command, small_checkpoint, tmp_path):
    entries = []
    for name, seed in (("lfw", 0), ("agedb", 1)):
        source = write_bin(tmp_path / f"{name}.bin", seed)
        assert type_command(main, small_checkpoint, source, tmp_path / f"{name}.npz")[0] == 0
        entries.append(read_embeddings(tmp_path / f"{name}.npz", None, 10))
    first, second = entries
    assert not first.data.identities_known
    assert first.rule == EmbeddingRule("add", "aligned")
    assert first.data.pairs.first.tolist() == list(range(0, 40, 2))
    assert first.data.pairs.same.tolist() == [True, False] * 10
    assert first.content != second.content  # other images, whatever their labels


def test_an_image_that_cannot_be_decoded_stops_or_is_left_out(
    type_command, small_checkpoint, crowd, tmp_path
):
    (crowd / "p3" / "3.png").write_bytes(b"damaged")
    arguments = (main, small_checkpoint, crowd, tmp_path / "e.npz", "--batch-size", 4)
    status, _, err = type_command(*arguments)
    assert (status, "p3/3.png" in err) == (2, True)
    status, out, _ = type_command(*arguments, "--unreadable", "skip")
    assert status == 0
    assert "Going on after 12 images" in out  # what was done when it stopped is not done again
    assert "p3/3.png: unreadable" in out
    assert len(read_gallery(tmp_path / "e.npz").names) == 15


def test_an_interrupted_run_goes_on(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, expected
):
    monkeypatch.setattr(embed, "_IMAGES_A_SAVE", 4)
    arguments = (main, small_checkpoint, crowd, tmp_path / "e.npy", "--batch-size", 4)
    read = []

    def breaks(image, size):
        read.append(0)
        if len(read) > 13:
            raise KeyboardInterrupt
        return resize(image, size)

    monkeypatch.setattr(photos, "resize", breaks)
    assert type_command(*arguments)[0] == 130
    assert not (tmp_path / "e.npy").exists()
    read.clear()
    status, out, _ = type_command(*arguments)
    assert status == 0
    assert "Going on after" in out
    assert len(read) < 13
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(("name", "writer"), [("e.npz", "savez"), ("e.npy", "replace_whole")])
def test_a_disk_that_fills_at_the_end_costs_no_embedding(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, expected, name, writer
):
    def full(*_, **__):
        raise OSError(28, "No space left on device", name)

    arguments = (main, small_checkpoint, crowd, tmp_path / name)
    with monkeypatch.context() as patch:
        patch.setattr(np if writer == "savez" else embed, writer, full)
        status, _, err = type_command(*arguments)
    assert status == 2
    assert "No space left" in err
    assert not (tmp_path / name).exists()
    for beside in ("e.csv", "e.rule.json"):
        (tmp_path / beside).unlink(missing_ok=True)
    monkeypatch.setattr(photos, "resize", lambda *_: pytest.fail("an image was embedded again"))
    status, out, _ = type_command(*arguments)
    assert status == 0
    assert "Going on after 16 images" in out
    np.testing.assert_allclose(read_gallery(tmp_path / name).embeddings, expected, atol=1e-5)
    assert not list(tmp_path.glob("*.partial*"))


def test_parquet_without_its_package_is_refused_at_once(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = type_command(main, small_checkpoint, crowd, tmp_path / "e.parquet")
    assert status == 2
    assert "pip install -r requirements-parquet.txt" in err
    assert not list(tmp_path.glob("e.parquet*"))


def test_a_list_is_not_overwritten_by_the_one_beside_the_embeddings(
    type_command, small_checkpoint, crowd, tmp_path
):
    """Here it is the source itself."""
    listed = tmp_path / "faces.csv"
    listed.write_text("".join(f"crowd/p{person}/0.png,p{person}\n" for person in range(4)))
    before = listed.read_bytes()
    status, _, err = type_command(main, small_checkpoint, listed, tmp_path / "faces.npy")
    assert status == 2
    assert "faces.csv: exists already, and a list is to be written there beside faces.npy" in err
    assert listed.read_bytes() == before
    assert type_command(main, small_checkpoint, listed, tmp_path / "faces.npz")[0] == 0


@pytest.fixture
def interrupted(monkeypatch):
    """Makes the next command stop after eight images of four a batch; returns how to let them
    through again.
    """
    monkeypatch.setattr(embed, "_IMAGES_A_SAVE", 4)
    images = []

    def breaks(image, size):
        images.append(image)
        if len(images) > 13:
            raise KeyboardInterrupt
        return resize(image, size)

    monkeypatch.setattr(photos, "resize", breaks)
    return lambda: monkeypatch.setattr(photos, "resize", resize)


def test_a_run_that_has_come_to_another_step_is_embedded_anew(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, interrupted
):
    arguments = (main, small_checkpoint, crowd, tmp_path / "e.npz", "--batch-size", 4)
    for step in (100, 200):
        monkeypatch.setattr(
            embed,
            "open_embedder",
            lambda *a, step=step, **k: dataclasses.replace(
                open_embedder(*a, **k), name=f"run, step {step}"
            ),
        )
        status, out, _ = type_command(*arguments)
        assert status == (130 if step == 100 else 0)
        interrupted()
    assert "Going on" not in out


def test_an_export_made_anew_is_embedded_anew(
    type_command, small_checkpoint, crowd, tmp_path, interrupted
):
    """Its folder's own time stays as it was."""
    export.run(export.Arguments(small_checkpoint, tmp_path / "out"))
    arguments = (main, tmp_path / "out", crowd, tmp_path / "e.npz", "--batch-size", 4)
    assert type_command(*arguments)[0] == 130
    interrupted()
    os.utime(tmp_path / "out" / STABLEHLO_FILE, (1e9, 1e9))
    status, out, _ = type_command(*arguments)
    assert status == 0
    assert "Going on" not in out


@pytest.mark.parametrize("name", ["e.npz", "e.npy"])
def test_photos_without_a_face_are_left_out(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, name
):
    """With a detector that finds faces in some photos, at the template's place."""
    without = [FolderSource(crowd)[index] for index in (0, 5)]

    class Detector:
        def detect(self, photo):
            if any(np.array_equal(photo, each) for each in without):
                return []
            return [Detection(np.zeros(4), TEMPLATE * 32 / 112, 1.0)]

    monkeypatch.setattr(photos, "FaceDetector", Detector)
    status, out, _ = type_command(main, small_checkpoint, crowd, tmp_path / name, "--detect")
    assert status == 0
    assert "14 embeddings of 6 numbers" in out
    assert [
        line.rpartition("crowd/")[2] for line in out.splitlines() if line.startswith("left out")
    ] == [
        "p0/0.png: no face found",
        "p1/1.png: no face found",
    ]
    assert "Images left out: 2 of 16.\n" in out
    gallery = read_gallery(tmp_path / name)
    assert gallery.rule == EmbeddingRule("add", "face")
    assert [place.rpartition("crowd/")[2] for place in gallery.places[:5]] == [
        "p0/1.png", "p0/2.png", "p0/3.png", "p1/0.png", "p1/2.png"
    ]  # fmt: skip
    source = FolderSource(crowd)
    crops = jnp.stack([align(source[index], TEMPLATE * 32 / 112, 32) for index in (1, 2, 3, 4, 6)])
    aligned = jax.jit(unit_embedding(import_torch(small_checkpoint), flip="add"))(crops)
    np.testing.assert_allclose(gallery.embeddings[:5], aligned, atol=1e-5)
    assert not list(tmp_path.glob("*.partial*"))


def test_the_face_nearest_the_middle_counts_and_that_is_said(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch
):
    """Of two in each photo, and also where the run was interrupted."""
    near = Detection(np.array([8.0, 8, 24, 24]), TEMPLATE * 16 / 112 + 8, 0.7)
    wide = Detection(np.array([0.0, 0, 20, 20]), TEMPLATE * 20 / 112, 0.9)
    calls = []

    class Detector:
        def detect(self, photo):
            calls.append(0)
            if len(calls) == 11:
                raise KeyboardInterrupt
            return [wide, near]

    monkeypatch.setattr(photos, "FaceDetector", Detector)
    monkeypatch.setattr(embed, "_IMAGES_A_SAVE", 4)
    arguments = (main, small_checkpoint, crowd, tmp_path / "e.npz", "--batch-size", 4, "--detect")
    assert type_command(*arguments)[0] == 130
    status, out, _ = type_command(*arguments)
    assert status == 0
    assert "Going on after" in out
    assert "16 photographs had several faces: the one nearest the middle, weighed" in out
    assert "16 faces were found with a confidence below 0.75; look at them: " in out
    assert " and 11 more\n" in out
    expected = photos.Cropper((32, 32), detect=True).crop(FolderSource(crowd)[0], "photo")
    np.testing.assert_array_equal(expected, align(FolderSource(crowd)[0], near.landmarks, 32))
    network = jax.jit(unit_embedding(import_torch(small_checkpoint), flip="add"))
    found = read_gallery(tmp_path / "e.npz").embeddings[0]
    np.testing.assert_allclose(found, network(jnp.asarray(expected)[None])[0], atol=1e-5)
    largest = photos.Cropper((32, 32), detect=True, face="largest")
    np.testing.assert_array_equal(
        largest.crop(FolderSource(crowd)[0], "photo"),
        align(FolderSource(crowd)[0], wide.landmarks, 32),
    )
    assert list(largest.tally.lines("largest")) == [
        "1 photograph had several faces: the largest was taken"
    ]
    with pytest.raises(InputError, match="--face largest: chooses among the faces that --detect"):
        photos.Cropper((32, 32), face="largest")


def test_a_list_may_have_its_paths_elsewhere(type_command, small_checkpoint, crowd, tmp_path):
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.csv").write_text("p1/0.png,Ann\np2/3.png,Bob\n")
    arguments = (main, small_checkpoint, tmp_path / "lists" / "some.csv", tmp_path / "e.npz")
    status, _, err = type_command(*arguments)
    assert (status, "give the root of the paths (--list-root" in err) == (2, True)
    assert type_command(*arguments, "--list-root", crowd)[0] == 0
    assert read_gallery(tmp_path / "e.npz").names.tolist() == ["Ann", "Bob"]


def test_no_face_at_all_is_an_error(type_command, small_checkpoint, crowd, tmp_path, monkeypatch):
    monkeypatch.setattr(
        photos, "FaceDetector", lambda: type("Blind", (), {"detect": lambda self, photo: []})()
    )
    status, _, err = type_command(main, small_checkpoint, crowd, tmp_path / "e.npz", "--detect")
    assert status == 2
    assert "none of the 16 photos is left; each is left out (no face found)" in err


def test_people_who_lose_all_images_are_named():
    """As embed and convert say them."""
    source = SyntheticFaces(12, 2, image_size=32)
    for kept, said in (
        (np.arange(24), ""),
        (np.arange(1, 24), "Images left out: 1 of 24.\n"),
        (
            np.arange(3, 24),
            f"Images left out: 3 of 24; people without any image left: 1 "
            f"({source.identity_names[0]}).\n",
        ),
        (
            np.array([5]),
            "Images left out: 23 of 24; people without any image left: 11 "
            f"({', '.join(n for i, n in enumerate(source.identity_names[:11]) if i != 2)}, …).\n",
        ),
    ):
        console = Console(file=io.StringIO(), width=1000)
        photos.say_left_out(console, source, kept)
        assert console.file.getvalue() == said


def test_another_recipe_begins_anew(type_command, small_checkpoint, crowd, tmp_path, expected):
    """What an interrupted run of other options left behind is not gone on with."""
    partial = embed.Partial(tmp_path / "e.npy", 16, 6, {"flip": True})
    partial.rows[:] = 7
    partial.save(12)
    status, out, _ = type_command(main, small_checkpoint, crowd, tmp_path / "e.npy")
    assert status == 0
    assert "Going on" not in out
    np.testing.assert_allclose(np.load(tmp_path / "e.npy"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["small.pth", "crowd", "e.txt"], "e.txt: give a file that ends with"),
        (["small.pth", "crowd", "no/e.npy"], "its folder does not exist"),
        (["small.pth", "absent", "e.npy"], "absent"),
        (["small.pth", "crowd", "e.npy", "--batch-size", "0"], "--batch-size is 0"),
        (["small.pth", "crowd", "e.npy", "--threads", "0"], "--threads is 0"),
    ],
)
def test_bad_input_is_one_line(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_command(main, *arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_no_embedding_that_is_no_number_is_written(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, value
):
    """Where the weights are numbers, but what the network makes of one image is none."""
    broken = FolderSource(crowd)[5]

    def function(images):
        found = np.ones((len(images), 6), np.float32)
        found[(np.asarray(images) == broken).all(axis=(1, 2, 3))] = value
        return found

    embedder = Embedder("small.pth", (32, 32), None, 3, "add", function)
    monkeypatch.setattr(embed, "open_embedder", lambda *_, **__: embedder)
    status, _, error = type_command(main, small_checkpoint, crowd, tmp_path / "e.npy")
    assert status == 2
    assert "small.pth: " in error
    assert "p1/1.png: the model's embedding is" in error
    assert not (tmp_path / "e.npy").exists()
