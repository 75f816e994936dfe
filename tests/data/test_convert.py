import filecmp
import os

import numpy as np
import pytest
import tyro

from arcface_jax.data import convert_writers
from arcface_jax.data.convert import convert, verify_conversion
from arcface_jax.data.convert_writers import FileNames
from arcface_jax.data.decode import decode
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.open import open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.recordio import RecordIOSource
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError
from experiments.convert import Arguments, run

COUNTS = {"b": 2, "a/deep": 3, "c": 1}
FORMATS = ("recordio", "array_record", "folder")


@pytest.fixture
def source(tmp_path, write_tree):
    return FolderSource(write_tree(tmp_path / "faces", COUNTS))


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_keeps_bytes_labels_and_names(source, tmp_path, format):
    done = []
    convert(source, tmp_path / "out", format, progress=done.append)
    assert sum(done) == len(source)
    written = open_source(tmp_path / "out")
    assert [written.encoded(i) for i in range(6)] == [source.encoded(i) for i in range(6)]
    np.testing.assert_array_equal(written.labels, source.labels)
    assert list(written.identity_names) == list(source.identity_names)
    verify_conversion(source, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_a_folder_comes_back_from_recordio_file_for_file(source, tmp_path):
    convert(source, tmp_path / "packed", "recordio")
    convert(open_source(tmp_path / "packed"), tmp_path / "back", "folder")
    names = files(tmp_path / "faces")
    assert files(tmp_path / "back") == names
    assert filecmp.cmpfiles(tmp_path / "back", tmp_path / "faces", names, shallow=False) == (
        names,
        [],
        [],
    )


def test_the_text_files_beside_a_rec(source, tmp_path):
    convert(source, tmp_path / "out", "recordio")
    assert (tmp_path / "out" / "property").read_text() == "3,12,12"
    assert files(tmp_path / "out") == ["property", "train.idx", "train.lst", "train.rec"]
    (tmp_path / "out" / "train.lst").unlink()
    numbered = RecordIOSource(tmp_path / "out")
    assert list(numbered.identity_names) == ["0", "1", "2"]
    (tmp_path / "out" / "train.idx").unlink()
    assert RecordIOSource(tmp_path / "out").fingerprint == numbered.fingerprint


def test_labels_need_not_be_in_order(source, tmp_path):
    shuffled = Subset(source, np.array([5, 0, 3, 1, 4, 2]))
    for format in FORMATS:
        convert(shuffled, tmp_path / format, format)
        verify_conversion(shuffled, tmp_path / format)


def test_pixels_are_stored_without_loss_unless_asked(source, tmp_path):
    memory = load_source(source, 8)
    for format in FORMATS:
        convert(memory, tmp_path / format, format)
        verify_conversion(memory, tmp_path / format)
        written = open_source(tmp_path / format)
        for index in range(6):
            np.testing.assert_array_equal(written[index], memory[index])
    convert(source, tmp_path / "small", "folder", image_size=8)
    np.testing.assert_array_equal(open_source(tmp_path / "small")[2], memory[2])
    convert(source, tmp_path / "jpeg", "folder", jpeg_quality=90)
    verify_conversion(source, tmp_path / "jpeg", jpeg_quality=90)
    assert all(name.endswith(".jpg") for name in files(tmp_path / "jpeg"))


class StopHere(Exception):  # noqa: N818 — not an error
    pass


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("stop", range(1, 6))
def test_an_interrupted_conversion_goes_on(source, tmp_path, monkeypatch, format, stop):
    for writer in (
        convert_writers.RecordIOWriter,
        convert_writers.FolderWriter,
        convert_writers.ArrayRecordWriter,
    ):
        monkeypatch.setattr(writer, "chunk", 2)
    monkeypatch.setattr(convert_writers, "_SHARD", 2)
    convert(source, tmp_path / "whole", format)
    reads = []
    encoded = FolderSource.encoded

    def failing(self, index):
        reads.append(index)
        if len(reads) == limit:
            raise StopHere
        return encoded(self, index)

    fingerprint = source.fingerprint  # reads every image, which is not what is counted here
    assert fingerprint
    monkeypatch.setattr(FolderSource, "encoded", failing)
    limit = stop
    with pytest.raises(StopHere):
        convert(source, tmp_path / "out", format)
    assert not (tmp_path / "out").exists()
    if format == "recordio":  # a crash in the middle of a write
        with open(tmp_path / "out.partial" / "train.rec", "ab") as file:
            file.write(b"half a record")
    limit, before = -1, len(reads)
    convert(source, tmp_path / "out", format)
    assert len(reads) - before == 6 - 2 * ((stop - 1) // 2) + (
        format == "recordio"
    )  # one for `property`
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    for name in files(tmp_path / "out"):
        assert (tmp_path / "out" / name).read_bytes() == (
            tmp_path / "whole" / name
        ).read_bytes() or format == "array_record"
    verify_conversion(source, tmp_path / "out")


def test_what_is_in_the_way_is_refused(source, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out: exists"):
        convert(source, tmp_path / "out", "folder")
    (tmp_path / "new.partial").mkdir()
    with pytest.raises(InputError, match=r"new\.partial: left by another conversion"):
        convert(source, tmp_path / "new", "folder")
    for options, message in (
        ({"jpeg_quality": 101}, "jpeg_quality = 101"),
        ({"image_size": 0}, "image_size = 0"),
    ):
        with pytest.raises(InputError, match=message):
            convert(source, tmp_path / "other", "folder", **options)


def test_an_empty_image_is_refused(source, tmp_path):
    (tmp_path / "faces" / "b" / "0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"b/0\.png: empty image"):
        convert(FolderSource(tmp_path / "faces"), tmp_path / "out", "recordio")


def test_verify_finds_a_changed_moved_or_missing_image(source, tmp_path):
    convert(source, tmp_path / "out", "folder")
    out = tmp_path / "out"
    os.rename(out / "b" / "0.png", out / "c" / "x.png")
    with pytest.raises(InputError, match="the images of identity b are not the source's"):
        verify_conversion(source, out)
    os.rename(out / "c" / "x.png", out / "b" / "0.png")
    (out / "b" / "0.png").write_bytes((out / "b" / "1.png").read_bytes())
    with pytest.raises(InputError, match="the images of identity b"):
        verify_conversion(source, out)
    (out / "b" / "0.png").write_bytes(b"damaged")
    with pytest.raises(InputError, match=r"b/0\.png: cannot decode"):
        verify_conversion(source, out)
    (out / "b" / "0.png").unlink()
    with pytest.raises(InputError, match="5 images, but the source has 6"):
        verify_conversion(source, out)


class Named(FaceSource):
    """A source with these identity names and paths, one image each."""

    fingerprint = "f"

    def __init__(self, names, paths=None):
        self.identity_names = names
        self.labels = np.arange(len(names), dtype=np.int32)
        if paths is not None:
            self.path = lambda index: paths[index]

    def __getitem__(self, index):
        return np.full((4, 4, 3), index, np.uint8)


def test_hostile_names_stay_inside_the_destination(tmp_path):
    names = [
        "../../evil",
        "/etc/passwd",
        "a/../../b",
        "ok",
        "OK",
        "",
        ".hidden",
        "c:\\x",
        "nul\0byte",
        "x" * 300,
        "a//b",
    ]
    source = Named(names)
    convert(source, tmp_path / "deep" / "out", "folder")
    verify_conversion(source, tmp_path / "deep" / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    folders = sorted(path.name for path in (tmp_path / "deep" / "out").iterdir())
    assert len({folder.lower() for folder in folders}) == len(names)
    assert "ok" in folders
    convert(source, tmp_path / "set", "array_record")
    verify_conversion(source, tmp_path / "set")


def test_paths_are_kept_only_where_they_are_harmless_and_name_the_identity():
    source = Named(["a", "b", "c"], ["a/1.png", "../b/2.png", "elsewhere/3.png"])
    names = FileNames(source, keeps_bytes=True)
    png = b"\x89PNG"
    assert [names(index, index, png) for index in range(3)] == [
        "a/1.png",
        "b/00000001.png",
        "c/00000002.png",
    ]
    assert FileNames(source, keeps_bytes=False)(0, 7, b"\xff\xd8\xff") == "a/00000007.jpg"
    twice = Named(["a", "b"], ["a/1.png", "a/1.png"])
    assert FileNames(twice, keeps_bytes=True)(0, 0, b"?") == "a/00000000.img"


def command(*arguments):
    run(tyro.cli(Arguments, args=[str(argument) for argument in arguments]))


def test_the_command(source, tmp_path, capsys):
    command(tmp_path / "faces", tmp_path / "out", "--format", "recordio", "--check")
    assert "6 images of 3 identities, read back and equal" in " ".join(
        capsys.readouterr().out.split()
    )
    command(tmp_path / "faces", tmp_path / "out", "--check")
    assert "is only checked" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(InputError, match="out: exists"):
        command(tmp_path / "faces", tmp_path / "out")
    (tmp_path / "faces" / "b" / "0.png").write_bytes(b"damaged")
    command(
        tmp_path / "faces",
        tmp_path / "skipped",
        "--format",
        "folder",
        "--skip-unreadable",
        "--check",
    )
    assert "left out:" in capsys.readouterr().out
    assert len(open_source(tmp_path / "skipped")) == 5


def test_the_command_aligns(source, tmp_path, picture):
    from arcface_jax.data.align import align
    from arcface_jax.data.aligned_crop import TEMPLATE

    (tmp_path / "photos" / "Ann").mkdir(parents=True)
    from arcface_jax.data.decode import encode_png

    photo = picture(0, 200, 220)
    (tmp_path / "photos" / "Ann" / "1.png").write_bytes(encode_png(photo))
    points = TEMPLATE * 1.2 + [20, 10]
    (tmp_path / "list.txt").write_text(
        "Ann/1.png " + " ".join(f"{value:.4f}" for value in points.ravel())
    )
    command(
        tmp_path / "photos",
        tmp_path / "crops",
        "--format",
        "folder",
        "--landmarks",
        tmp_path / "list.txt",
        "--check",
    )
    crop = decode((tmp_path / "crops" / "Ann" / "00000000.png").read_bytes(), "x")
    np.testing.assert_array_equal(crop, align(photo, np.round(points, 4)))
    with pytest.raises(InputError, match="give one of them"):
        command(
            tmp_path / "photos", tmp_path / "x", "--landmarks", tmp_path / "list.txt", "--detect"
        )
