import collections
import filecmp
import itertools
import os
import tarfile

import numpy as np
import pytest
import tyro
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arcface_jax.data import convert_writers
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.convert import convert, verify_conversion
from arcface_jax.data.convert_names import FileNames
from arcface_jax.data.decode import decode, encode_png
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.landmarks import AlignedSource
from arcface_jax.data.open import open_source
from arcface_jax.data.pair_lists import read_lfw_pairs, read_pair_list
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
    assert [written.path(i) for i in range(6)] == [source.path(i) for i in range(6)]
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


@pytest.mark.parametrize("format", FORMATS)
def test_a_list_of_pairs_fits_what_is_encoded_anew(source, tmp_path, format):
    """Of a part of a source, cropped: the names of both are passed on."""
    part = Subset(source, np.array([0, 2, 5]))
    aligned = AlignedSource(part, np.tile(TEMPLATE * 12 / 112, (3, 1, 1)))
    assert convert(aligned, tmp_path / "out", format) == ()
    (tmp_path / "pairs.csv").write_text("a/deep/0.png,a/deep/2.png,1\na/deep/0.png,c/0,0\n")
    pairs = read_pair_list(tmp_path / "pairs.csv", open_source(tmp_path / "out"))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 0], [1, 2])


def test_the_members_of_a_tar_keep_their_names(source, tmp_path):
    with tarfile.open(tmp_path / "faces.tar", "w") as archive:
        archive.add(tmp_path / "faces", ".")
    convert(open_source(tmp_path / "faces.tar"), tmp_path / "out", "folder")
    assert files(tmp_path / "out") == files(tmp_path / "faces")


def test_photographs_of_lfw_keep_the_names_of_its_pairs(shared_data, tmp_path):
    people = {"Aaron_Peirsol": (1, 2), "Abdel_Madi_Shabneh": (1,), "Zhu_Rongji": (3, 8)}
    names = [
        f"{name}/{name}_{number:04d}.jpg" for name, numbers in people.items() for number in numbers
    ]
    points = " ".join(f"{value:.2f}" for value in (TEMPLATE + 69).ravel())
    (tmp_path / "photographs.csv").write_text(
        "".join(f"lfw_deepfunneled/{name},{name.split('/')[0]}\n" for name in names)
    )
    (tmp_path / "landmarks.txt").write_text(
        "".join(f"lfw_deepfunneled/{name} {points}\n" for name in names)
    )
    command(
        *(tmp_path / "photographs.csv", tmp_path / "crops", "--format", "folder", "--check"),
        *("--list-root", shared_data / "lfw_deepfunneled.zip"),
        *("--landmarks", tmp_path / "landmarks.txt"),
    )
    assert files(tmp_path / "crops") == [name.replace(".jpg", ".png") for name in names]
    (tmp_path / "pairs.txt").write_text(
        "1 2\nAaron_Peirsol 1 2\nZhu_Rongji 3 8\n"
        "Aaron_Peirsol 1 Abdel_Madi_Shabneh 1\nAbdel_Madi_Shabneh 1 Zhu_Rongji 8\n"
    )
    pairs = read_lfw_pairs(tmp_path / "pairs.txt", open_source(tmp_path / "crops"))
    assert pairs.first.tolist() == [0, 3, 0, 2]
    assert pairs.second.tolist() == [1, 4, 2, 4]


def test_a_list_may_have_its_paths_elsewhere(source, tmp_path):
    (tmp_path / "list.csv").write_text("b/0.png,Ann\nc/0.png,Bob\n")
    with pytest.raises(InputError, match=r"not there, nor are the next; .*\(--list-root"):
        command(tmp_path / "list.csv", tmp_path / "out", "--format", "folder")
    root = ("--list-root", tmp_path / "faces")
    command(tmp_path / "list.csv", tmp_path / "out", "--format", "folder", *root)
    assert files(tmp_path / "out") == ["Ann/0.png", "Bob/0.png"]
    with pytest.raises(InputError, match=r"list_root .*is no list"):
        command(tmp_path / "faces", tmp_path / "other", *root)


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
    monkeypatch.setattr(convert_writers, "_stores_bytes", lambda source: True)  # reads one
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
    folders = {name.rpartition("/")[0] for name in files(tmp_path / "deep" / "out")}
    assert len({folder.lower() for folder in folders}) == len(names)
    assert {"ok", "_../_../evil", "etc/passwd"} <= folders
    convert(source, tmp_path / "set", "array_record")
    verify_conversion(source, tmp_path / "set")


@pytest.mark.parametrize(
    ("suffix", "paths", "expected"),
    [
        (None, ["p/1.png", "p/b.JPG", "p/noext"], ["p/1.png", "p/b.JPG", "p/noext"]),
        (".png", ["p/1.png", "p/b.JPG", "p/c.jpeg"], ["p/1.png", "p/b.png", "p/c.png"]),
        (".png", ["p/noext", "p/J.R. Smith", "p/1.5"],
         ["p/noext.png", "p/J.R. Smith.png", "p/1.5.png"]),
        (".jpg", ["p/x.png", "p/x.tar.gz"], ["p/x.jpg", "p/x.tar.gz.jpg"]),
        # Two that would be one file.
        (".png", ["p/a.jpg", "p/a.png", "p/b.jpg"], ["p/a.jpg.png", "p/a.png.png", "p/b.png"]),
        (".png", ["p/a.jpg", "p/a.png", "p/a.jpg.png"],
         ["p/a-00000000.png", "p/a.png.png", "p/a.jpg.png"]),
        (None, ["p/A.jpg", "p/a.jpg"], ["p/A-00000000.jpg", "p/a-00000001.jpg"]),
        (None, ["p/e\u0301.jpg", "p/\u00e9.jpg"],
         ["p/e\u0301-00000000.jpg", "p/\u00e9-00000001.jpg"]),
        (None, ["p/a.jpg", "p/a.jpg", "p/a.jpg"],
         ["p/a.jpg", "p/a-00000001.jpg", "p/a-00000002.jpg"]),
        # Folders that are not the identity's.
        (None, ["x/1.png", "2.png", "p/q/3.png"], ["p/1.png", "p/2.png", "p/3.png"]),
        (None, ["p/front/1.png", "p/side/1.png"], ["p/front-1.png", "p/side-1.png"]),
        (".png", ["x/1.jpg", "y/1.jpg", "p/1.bmp"], ["p/x-1.png", "p/y-1.png", "p/1.png"]),
        # Names that lead elsewhere, hide a file, or are refused somewhere.
        (None, ["../p/1.png", "/etc/2.png", "p/.."], ["p/1.png", "p/2.png", "p/_.."]),
        (None, ["p/.hidden.png", "p/.png", "p/"], ["p/_.hidden.png", "p/_.png", "p/_"]),
        (None, ["p/a:b.png", "p/a\\b.png", "p/a\nb.png"],
         ["p/a_b-00000000.png", "p/a_b-00000001.png", "p/a_b-00000002.png"]),
        (None, ["p/CON.png", "p/lpt1", "p/console.png"],
         ["p/_CON.png", "p/_lpt1", "p/console.png"]),
        (None, ["p/end.", "p/end ", " x.png"], ["p/end.", "p/end_", "p/_x.png"]),
        (None, ["p/half\ud800.png", "p/byte\udcff.png"], ["p/half_.png", "p/byte\udcff.png"]),
        (".png", ["p/" + "x" * 252 + ".jpg"], ["p/" + "x" * 251 + ".png"]),
        (None, ["p/" + "人" * 100 + ".jpg"], ["p/" + "人" * 83 + ".jpg"]),
        (None, ["p/" + "人" * 84 + "a.jpg", "p/" + "人" * 84 + "b.jpg"],
         ["p/" + "人" * 80 + "-00000000.jpg", "p/" + "人" * 80 + "-00000001.jpg"]),
        (None, ["p/a.", "p/a", "p/B."], ["p/a.-00000000", "p/a-00000001", "p/B."]),
        (None, ["p/a:b.png", "p/a_b.png"], ["p/a_b-00000000.png", "p/a_b.png"]),
        (None, ["p/scan.txt", "p/x.parquet"], ["p/scan.txt.img", "p/x.parquet.img"]),
        (None, ["p/" + "x" * 251 + ".txt" + "y" * 9], ["p/" + "x" * 251 + ".tx_"]),
    ],
)  # fmt: skip
def test_a_name_stays_where_no_file_system_refuses_it_and_it_is_no_others(suffix, paths, expected):
    source = Named(["p"] * len(paths), paths)
    source.labels, source.identity_names = np.zeros(len(paths), np.int32), ["p"]
    names = FileNames(source, suffix)
    found = [names(index, index, b"\x89PNG") for index in range(len(paths))]
    assert found == expected
    assert all(len(os.fsencode(part)) <= 255 for name in found for part in name.split("/"))
    assert len({name.lower() for name in found}) == len(paths)


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (["a", "A", "a-1"], ["a", "A-1", "a-1-2"]),
        (["../../evil", "/etc/passwd", "a//b"], ["_../_../evil", "etc/passwd", "a/b"]),
        (["a:b", "a_b", "."], ["a_b-0", "a_b", "_."]),
        (["King Jr.", "King Jr", "J.R."], ["King Jr.", "King Jr-1", "J.R."]),
        (["", "/", "/".join("abcdefghijklmnopqrstuvwxyz")],
         ["identity-0", "identity-1", "identity-2"]),
        (["x" * 300, "x" * 299, "nul"], ["x" * 255, "x" * 253 + "-1", "_nul"]),
        (["Zoë", "Zoe\u0308", "Zoe"], ["Zoë", "Zoe\u0308-1", "Zoe"]),
        # What would be splits, and what would not.
        (["train", "test", "Val"], ["_train", "_test", "_Val"]),
        (["train", "Train", "TRAIN"], ["_train", "_Train-1", "_TRAIN-2"]),
        (["train/a", "test/b", "_train/a"], ["_train/a-0", "_test/b", "_train/a"]),
        (["train/a", "test/b", "c"], ["_train/a", "_test/b", "c"]),
        (["a/Val/x", "a/Dev/x", "a/c"], ["a/_Val/x", "a/_Dev/x", "a/c"]),
        (["train", "test", "Ann"], ["train", "test", "Ann"]),
        (["Val/x", "Dev", "Ann"], ["Val/x", "Dev", "Ann"]),
        (["train/a", "train/b", "train/test"], ["train/a", "train/b", "train/test"]),
    ],
)  # fmt: skip
def test_an_identitys_folder_is_no_others(names, folders):
    found = FileNames(Named(names), None)
    assert [found(index, index, b"\x89PNG") for index in range(3)] == [
        f"{folder}/{index:08d}.png" for index, folder in enumerate(folders)
    ]


HOSTILE_PEOPLE = (
    *("train", "test", "Val", "dev", "TEST", "train/ann", "test/ann", "val/bob", "_train"),
    *("train.rec", "dataset_info.json", "state.json", "dataset_dict.json", "property"),
    *("a.parquet", "b.tar", "c.zip", "d.txt", "e.jpg", ".git", "__MACOSX", "Ann", "ann"),
    *("faces-train.array_record-00000-of-00002", "", "..", "7", "007"),
)
HOSTILE_IMAGES = (
    *("1.png", "1", "train.rec", "a.parquet", "b.tar", "c.txt", "d.JSON", "e.zip", "f.cls"),
    *("dataset_info.json", ".png", "._1.png", "x" * 251 + ".txt" + "y", "g.heic", "h.img", "i.lst"),
    *("sub/1.png", "train/1.png", "Thumbs.db", "j.jpg.parquet", "k.parquet.jpg"),
)
CONTENTS = (encode_png(np.zeros((2, 2, 3), np.uint8)), b"GIF89a", b"damaged", b"", b"PAR1", b"BM")


class Stored(Named):
    """A source of these people, paths and bytes."""

    def __init__(self, rows):
        people = sorted({person for person, _, _ in rows})
        super().__init__(people, [f"{person}/{name}" for person, name, _ in rows])
        self.labels = np.array([people.index(person) for person, _, _ in rows], np.int32)
        self.encoded = lambda index: rows[index][2]


def people_of(source):
    """The images of each person, however they are called."""
    found = collections.defaultdict(list)
    for index, label in enumerate(source.labels):
        found[label].append(source.encoded(index))
    return sorted(sorted(images) for images in found.values())


images = st.tuples(
    st.sampled_from(HOSTILE_PEOPLE), st.sampled_from(HOSTILE_IMAGES), st.sampled_from(CONTENTS)
)


@settings(max_examples=25, deadline=None)
@example(rows=[("train", ".png", CONTENTS[0]), ("train", ".png", b"damaged")])
@given(rows=st.lists(images, min_size=1, max_size=16))
def test_a_folder_opens_as_what_was_converted_whatever_it_is_called(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile") / "out"
    source = Stored(rows)
    convert(source, folder, "folder")
    written = open_source(folder)
    assert isinstance(written, FolderSource)
    assert people_of(written) == people_of(source)
    for remark in written.noted:
        # Nothing is left out.
        assert remark.kind in ("files", "similar name", "by content"), remark


@pytest.mark.parametrize("format", ["recordio", "array_record"])
def test_records_open_as_what_was_converted_whatever_it_is_called(format, tmp_path):
    pairs = zip(itertools.cycle(HOSTILE_PEOPLE), HOSTILE_IMAGES * 2, strict=False)
    rows = [
        (person, name, encode_png(np.full((2, 2, 3), number, np.uint8)))
        for number, (person, name) in enumerate(pairs)
    ]
    source = Stored(rows)
    convert(source, tmp_path / "out", format)
    written = open_source(tmp_path / "out")
    assert people_of(written) == people_of(source)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["Ann", "Bob", "Zoë (2)"], None),
        (["Ann", " Bob", "Zoë"], "1 of 3 names, such as ' Bob'"),
        (["Ann", "", "a\nb"], "2 of 3 names, such as ''"),
        (["Ann", "Ann", "Bob"], "1 of 3 names, such as 'Ann'"),
        (["Ann", "byte\udcff", "Bob"], "1 of 3 names, such as"),
    ],
)
def test_names_that_a_set_of_tfds_cannot_hold_are_said(tmp_path, names, said):
    remarks = convert(Named(names), tmp_path / "out", "array_record")
    written = open_source(tmp_path / "out").identity_names
    if said is None:
        assert (list(written), remarks) == (names, ())
    else:
        assert list(written) == ["0", "1", "2"]
        assert f"identities are numbers, for {said}" in remarks[-1]


def test_a_file_is_not_called_as_a_folder_is():
    """A zip file can hold both."""
    source = Named(["a", "a/b"], ["a/b", "a/b/1.png"])
    names = FileNames(source, None)
    assert [names(index, index, b"") for index in (0, 1)] == ["a/b-00000000", "a/b/1.png"]


def test_what_changes_of_the_names_is_counted():
    source = Named(["a:b", "c", "d"], ["a:b/1.png", "x/2.png", "d/3?.png"])
    why = (
        "other names, as a file system refuses theirs, a reader takes them for something else, or "
        "two would be one: "
    )
    assert FileNames(source, None).remarks == (
        why + "1 of 3 identities, such as 'a:b' (now 'a_b')",
        "moved into the folder of their identity: 1 of 3 images, such as 'x/2.png' (now 'c/2.png')",
        why + "1 of 3 images, such as 'd/3?.png' (now 'd/3_.png')",
    )
    assert FileNames(Named(["a"], ["a/1.jpg"]), ".png").remarks == ()
    assert FileNames(Named(["a"]), ".png").remarks == ()


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

    (tmp_path / "photos" / "Ann").mkdir(parents=True)
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
    crop = decode((tmp_path / "crops" / "Ann" / "1.png").read_bytes(), "x")
    np.testing.assert_array_equal(crop, align(photo, np.round(points, 4)))
    with pytest.raises(InputError, match="give one of them"):
        command(
            tmp_path / "photos", tmp_path / "x", "--landmarks", tmp_path / "list.txt", "--detect"
        )


def test_a_source_is_not_converted_into_itself(source, tmp_path):
    """Every image would be there twice the next time, under two identities."""
    with pytest.raises(InputError, match=r"out: lies in .*faces, .* give a place outside"):
        run(Arguments(str(tmp_path / "faces"), tmp_path / "faces" / "b" / "out", "folder"))
