import io
import os
import pickle
import re
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.decode import READS_AVIF, encode_png
from arcface_jax.data.open import open_source
from arcface_jax.data.sources.folder import EXTENSIONS, FolderSource
from arcface_jax.errors import InputError


def picture(value: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture
def tree(tmp_path):
    """Three identities, one of them nested, with files that are not images beside them."""
    for number, name in enumerate(
        ("b/2.png", "b/10.PNG", "a/x.png", "deep/er/1.png", "a/notes.txt", "a/.hidden.png")
    ):
        path = tmp_path / "faces" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(picture(number)))
    return tmp_path / "faces"


def zipped(tree, target):
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(tree.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(tree))
    return target


def test_identities_and_images_are_sorted(tree):
    source = FolderSource(tree)
    assert list(source.identity_names) == ["a", "b", "deep/er"]
    assert [source.path(i) for i in range(len(source))] == [
        "a/x.png",
        "b/10.PNG",
        "b/2.png",
        "deep/er/1.png",
    ]
    np.testing.assert_array_equal(source.labels, [0, 1, 1, 2])
    assert source.labels.dtype == np.int32
    np.testing.assert_array_equal(source[1], picture(1))
    np.testing.assert_array_equal(source[-1], picture(3))
    with pytest.raises(IndexError):
        source[4]


def test_a_zip_archive_is_the_same_source(tree, tmp_path):
    folder, archive = FolderSource(tree), FolderSource(zipped(tree, tmp_path / "faces.zip"))
    assert list(archive.identity_names) == list(folder.identity_names)
    assert archive.fingerprint == folder.fingerprint
    for index in range(len(folder)):
        np.testing.assert_array_equal(archive[index], folder[index])


def test_the_fingerprint_follows_content_names_and_labels_but_not_times(tree):
    before = FolderSource(tree).fingerprint
    os.utime(tree / "a" / "x.png", (0, 0))
    assert FolderSource(tree).fingerprint == before
    content = (tree / "a" / "x.png").read_bytes()
    (tree / "a" / "x.png").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    changed = FolderSource(tree).fingerprint
    assert changed != before
    (tree / "a").rename(tree / "c")
    assert FolderSource(tree).fingerprint not in (before, changed)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_source_survives_pickling_and_many_threads(tree, tmp_path, kind):
    source = FolderSource(tree if kind == "folder" else zipped(tree, tmp_path / "faces.zip"))
    expected = [source[index] for index in range(4)]
    copy = pickle.loads(pickle.dumps(source))
    wrong = []

    def read():
        for _ in range(50):
            wrong.extend(
                index for index in range(4) if not np.array_equal(copy[index], expected[index])
            )

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_symbolic_links_are_followed_and_loops_end(tree):
    (tree / "b" / "loop").symlink_to(tree, target_is_directory=True)
    (tree / "twin").symlink_to(tree / "a", target_is_directory=True)
    (tree / "a" / "again").symlink_to(tree / "b", target_is_directory=True)
    source = FolderSource(tree)
    assert len(source) == 4
    assert len(source.identity_names) == 3


def test_a_pipe_is_not_opened_and_a_broken_link_is_named_on_access(tree):
    os.mkfifo(tree / "a" / "pipe.png")
    (tree / "a" / "zz.png").symlink_to(tree / "nowhere.png")
    source = FolderSource(tree)
    assert len(source) == 5
    with pytest.raises(InputError, match=r"a/zz\.png: cannot read this file \(No such file"):
        source[1]
    assert len(source.fingerprint) == 32  # so that a run can go on without the image


def test_an_unreadable_image_is_named_on_access(tree, tmp_path):
    (tree / "a" / "y.png").write_bytes(b"not an image")
    for source in (FolderSource(tree), FolderSource(zipped(tree, tmp_path / "faces.zip"))):
        with pytest.raises(InputError, match=r"a/y\.png: cannot decode"):
            source[1]


def test_bad_roots_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="missing: no such folder or zip file"):
        FolderSource(tmp_path / "missing")
    (tmp_path / "file").write_text("text")
    with pytest.raises(InputError, match="file: neither a folder nor a zip file"):
        FolderSource(tmp_path / "file")
    (tmp_path / "empty" / "person").mkdir(parents=True)
    with pytest.raises(InputError, match=r"empty: no image below it \(looked for \.jpg"):
        FolderSource(tmp_path / "empty")
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "1.png").write_bytes(encode_png(picture(0)))
    with pytest.raises(InputError, match=r"loose/1\.png: 1 image directly in the root"):
        FolderSource(tmp_path / "loose")


def test_only_the_given_extensions_count(tree):
    (tree / "a" / "z.data").write_bytes(encode_png(picture(7)))
    assert len(FolderSource(tree, extensions=[".data"])) == 1


def test_members_that_point_outside_a_zip_write_nothing(tmp_path):
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("../../evil/1.png", encode_png(picture(1)))
        archive.writestr("good/1.png", encode_png(picture(2)))
    source = FolderSource(tmp_path / "evil.zip")
    np.testing.assert_array_equal(source[len(source) - 1], picture(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.zip"]


def test_a_damaged_zip_member_is_named(tree, tmp_path):
    with zipfile.ZipFile(
        tmp_path / "faces.zip", "w"
    ) as archive:  # stored, so the bytes can be found
        archive.write(tree / "a" / "x.png", "a/x.png")
    content = bytearray((tmp_path / "faces.zip").read_bytes())
    content[content.index(b"IDAT") + 8] ^= 0xFF
    (tmp_path / "faces.zip").write_bytes(content)
    with pytest.raises(
        InputError, match=r"faces\.zip:a/x\.png: cannot read this file \(Bad CRC-32"
    ):
        FolderSource(tmp_path / "faces.zip")[0]


def test_real_archives(shared_data):
    faces = FolderSource(shared_data / "orl_faces.zip")
    assert (len(faces), len(faces.identity_names), faces[0].shape) == (400, 40, (112, 92, 3))
    characters = FolderSource(shared_data / "omniglot_background_small1.zip")
    assert (len(characters), len(characters.identity_names)) == (2720, 136)
    assert set(np.unique(characters[0])) == {0, 255}
    assert np.mean(characters[0]) > 200  # black on white


def write(root, *names, encode=encode_png):
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode(picture(number)))
    return root


@pytest.mark.parametrize("prefix", ["", "faces/"])
@pytest.mark.parametrize("pack", [False, True])
def test_splits_are_asked_for(tmp_path, prefix, pack):
    names = ("train/ann/1.png", "train/bob/1.png", "Val/ann/2.png", "test/ann/3.png")
    root = write(tmp_path / "d", *(prefix + name for name in names))
    if pack:
        root = zipped(root, tmp_path / "d.zip")
    with pytest.raises(InputError, match=rf"{root.name}: holds the splits Val, test, train; give"):
        open_source(root)
    if pack or not prefix:
        train = open_source(f"{root}:train")
        assert [name.split("/")[-1] for name in train.identity_names] == ["ann", "bob"]
        assert len(open_source(f"{root}:Val")) == 1
    with pytest.raises(InputError, match=r"has no split 'dev', but Val, test, train|no such file"):
        open_source(f"{root}:dev")


@pytest.mark.parametrize(
    "names",
    [
        ("train/ann/1.png", "train/bob/1.png"),  # one split only
        ("Val/1.png", "Dev/1.png", "Ann/1.png"),  # people
        ("ann/train/1.png", "bob/test/1.png"),  # not at the top
        ("test/ann/1.png", "cat/bob/1.png"),
    ],
)
def test_what_is_no_split(tmp_path, names):
    assert len(open_source(write(tmp_path / "d", *names))) == len(names)


def test_splits_without_people_in_them(tmp_path):
    with pytest.raises(InputError, match="holds the splits test, train"):
        open_source(write(tmp_path / "d", "train/1.png", "test/2.png"))


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (("a/ann/1.png", "b/ann/1.png"), "2 identities share .* such as a/ann and b/ann; each"),
        (("ann/1.png", "ann/old/2.png"), "1 identity lies in .* as ann/old in ann; each"),
        (("ann/1.png", "b/bob/1.png"), "identities are folders at 2 depths, such as ann and b/bob"),
    ],
)  # fmt: skip
def test_folders_that_may_be_one_person_are_said(tmp_path, caplog, names, remark):
    source = FolderSource(write(tmp_path / "d", *names))
    assert len(source.identity_names) == len(names)
    (said,) = source.remarks
    assert re.search(remark, said)
    assert said in caplog.text


@pytest.mark.parametrize("pack", [False, True])
def test_folders_without_an_image_are_named(tmp_path, pack):
    root = write(tmp_path / "d", "ann/1.png")
    for empty in ("bob", "cy/old/older", "cy/new", ".hidden", "ann/none"):
        (root / empty).mkdir(parents=True)
    (root / "bob" / "Thumbs.ini").write_text("")
    place = zipped(root, tmp_path / "d.zip") if pack else root
    source = FolderSource(place)
    _, noted = source.noted
    assert noted.text == f"{place}: 3 folders hold no image, such as ann/none"
    between = ":" if pack else "/"
    assert noted.files == tuple(f"{place}{between}{name}" for name in ("ann/none", "bob", "cy"))
    assert noted.kind == "empty folder"


def encoded_as(format):
    def encode(pixels):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format=format)
        return buffer.getvalue()

    return encode


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("1.jfif", "JPEG"), ("1.JPE", "JPEG"), ("1.gif", "GIF"), ("1.pnm", "PPM"),
        # told by their content, and counted
        ("1.jpg_large", "JPEG"), ("subject01.glasses", "GIF"), ("1", "PNG"), ("1.dib", "BMP"),
        ("1.img", "WEBP"), ("1.jpg1", "JPEG"), ("1.heic", "JPEG"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("pack", [False, True])
def test_images_of_every_suffix_are_read(tmp_path, name, format, pack):
    usual = name.lower().endswith(EXTENSIONS)
    root = write(tmp_path / "d", f"ann/{name}", encode=encoded_as(format))
    source = open_source(zipped(root, tmp_path / "d.zip") if pack else root)
    assert source[0].shape == (8, 8, 3)
    assert [remark.kind for remark in source.noted] == ([] if usual else ["by content"])


@pytest.mark.parametrize("pack", [False, True])
def test_files_that_are_no_images_are_counted(tmp_path, pack):
    root = write(tmp_path / "d", "ann/1.png", "ann/notes.txt")
    for name in ("ann/1.heic", "ann/2.HEIC", "ann/x.jxl", "ann/README", "pairs.csv"):
        (root / name).write_bytes(b"\0\0\0 ftypheic" if "heic" in name.lower() else b"BMW P5")
    source = FolderSource(zipped(root, tmp_path / "d.zip") if pack else root)
    assert len(source) == 1
    (remark,) = source.remarks
    for counted in (".heic (2)", ".jxl (1)", "no suffix (1)", ".txt (1)", ".csv (1)"):
        assert counted in remark
    assert remark.endswith("; convert .heic, .jxl to JPEG or PNG")
    (noted,) = source.noted
    assert (noted.text, noted.kind, len(noted.files)) == (remark, "no image", 6)
    assert any(name.endswith("ann/1.heic") for name in noted.files)
    (root / "ann" / "1.png").unlink()
    with pytest.raises(InputError, match=r"no image below it .*found .heic \(2\)"):
        FolderSource(root)


@pytest.mark.skipif(not READS_AVIF, reason="this Pillow has no AVIF")
def test_avif_is_an_image_where_pillow_reads_it(tmp_path):
    person = tmp_path / "ann"
    person.mkdir()
    for name in ("1.avif", "2"):
        Image.new("RGB", (8, 8), "white").save(person / name, format="AVIF")
    source = FolderSource(tmp_path)
    assert [source[index].min() for index in range(2)] == [255, 255]
    assert [remark.kind for remark in source.noted] == ["by content"]
