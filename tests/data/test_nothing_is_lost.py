"""A reader accounts for every record, row, file and label: what is left out is counted and named.

A source that holds fewer images than its own index, list or names promise is an error.
"""

import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import tarfile
import types
import unicodedata
import zipfile

import numpy as np
import pytest
import tensorflow_datasets

from arcface_jax.data.convert import convert
from arcface_jax.data.decode import encode_png
from arcface_jax.data.open import open_source
from arcface_jax.data.pair_lists import read_pair_list
from arcface_jax.data.sources.filetree import open_tree
from arcface_jax.data.sources.tfds import TfdsSource, image_example, image_features
from arcface_jax.errors import InputError

BLOCK = 512


def image(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return encode_png(pixels)


SIX = [(f"{name}/{number}.png", image(number)) for number, name in enumerate("aabbcc")]


def tar_of(members) -> bytes:
    """A tar file of (name, content); content that begins with → is a link, with ⇒ a hard one."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type = {"→": tarfile.SYMTYPE, "⇒": tarfile.LNKTYPE, "|": tarfile.FIFOTYPE}[
                    content[0]
                ]
                member.linkname = content[1:]
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def write(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_tar(tmp_path, members):
    return write(tmp_path, {"x.tar": tar_of(members)}) / "x.tar"


def write_as(kind, place, files):
    """The files as a folder, a zip file or a tar file; where it is."""
    if kind == "folder":
        return write(place / "d", files)
    if kind == "tar":
        return write_tar(place, files.items())
    return write(place, {"x.zip": zip_of(files.items())}) / "x.zip"


def people(source) -> list[str]:
    """The identity of each image."""
    return [source.identity_names[label] for label in source.labels]


# Archives that are damaged, cut off, or joined
# ----------------------------------------------------------------------------------------

WHOLE = tar_of(SIX)
STEP = BLOCK * (1 + (len(SIX[0][1]) + BLOCK - 1) // BLOCK)


def flipped(at):
    return WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (flipped(2 * STEP), rf"x\.tar: damaged or cut off at byte {2 * STEP}, after member a/1"),
        (flipped(2 * STEP + 130), "damaged or cut off at byte"),
        (flipped(0), "damaged, or not a tar file"),
        (gzip.compress(WHOLE), r"x\.tar: is compressed by gzip, .* extract it, or pack it anew"),
        (bz2.compress(WHOLE), "is compressed by bzip2, where"),
        (lzma.compress(WHOLE), "is compressed by xz, where"),
        (b"PK\3\4" + WHOLE, r"x\.tar: is a zip file; call it \.zip"),
        (WHOLE[: 2 * STEP + 200], f"damaged or cut off at byte {2 * STEP}"),
        (WHOLE[: 2 * STEP + BLOCK + 9], r"b/2\.png is longer than the archive"),
        (WHOLE[: 2 * STEP] + bytes(2 * BLOCK) + WHOLE[2 * STEP + 2 * BLOCK :], "and goes on at"),
        (WHOLE[: 2 * STEP] + bytes(BLOCK) + WHOLE[2 * STEP + BLOCK :], "and goes on at byte"),
        (WHOLE[: 2 * STEP], rf"stops at byte {2 * STEP}, after member a/1\.png, without the end"),
        (WHOLE[: 6 * STEP] + bytes(100), "without the end of an archive"),
        (WHOLE + WHOLE, "several archives joined"),
        (WHOLE + b"<html>", "has an end at byte .* and goes on"),
        (bytes(10240), "10240 zeros and no member"),
        (b"", "empty file"),
    ],
)  # fmt: skip
def test_an_archive_is_read_to_its_end_or_refused(tmp_path, content, message):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "x.tar")
    (tmp_path / "y.tar").write_bytes(WHOLE)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("end", [BLOCK, 2 * BLOCK, 8000])
def test_an_archive_may_end_in_few_or_many_zeros(tmp_path, end):
    (tmp_path / "x.tar").write_bytes(WHOLE[: 6 * STEP] + bytes(end))
    source = open_source(tmp_path / "x.tar")
    assert (len(source), source.remarks) == (6, ())


def test_an_archive_that_ends_in_too_many_zeros_is_named(tmp_path):
    (tmp_path / "x.tar").write_bytes(WHOLE[: 2 * STEP] + bytes(1 << 20))
    source = open_source(tmp_path / "x.tar")
    assert len(source) == 2
    (remark,) = source.noted
    assert "end in more zeros than are usual, and may have been cut off there: 1, " in remark.text
    assert remark.files == (str(tmp_path / "x.tar"),)


# Members: links, names that come twice
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("bob/2.png", "⇒ann/1.png"),
        ("bob/2.png", "⇒./ann/1.png"),
        ("bob/2.png", "→../ann/1.png"),
        ("./bob/2.png", "→../bob/../ann/1.png"),
        ("bob/2.png", "→../ann/again.png"),
    ],
)
def test_a_link_in_an_archive_is_the_file_that_it_leads_to(tmp_path, link, target):
    members = [("ann/1.png", image(1)), (link, target), ("ann/again.png", "→1.png")]
    source = open_source(write_tar(tmp_path, members))
    assert people(source) == ["ann", "bob", "ann"]
    assert [source.encoded(index) for index in range(3)] == [image(1)] * 3
    first, second = source.noted
    assert "1 image is by links the same file as one of another identity" in first.text
    assert "1 image is by links the same file as another of their identity" in second.text


@pytest.mark.parametrize("target", ["→../ann", "→/etc/passwd", "→2.png", "⇒gone.png"])
def test_a_link_to_no_file_of_the_archive_is_named(tmp_path, target):
    path = write_tar(tmp_path, [("ann/1.png", image(1)), ("bob/2.png", target)])
    source = open_source(path)
    assert people(source) == ["ann"]
    assert source.remarks == (
        f"{path}: left out as links to no file in the archive: 1, such as {path}:bob/2.png",
    )


def test_a_pipe_in_an_archive_is_named(tmp_path):
    source = open_source(write_tar(tmp_path, [("a/1.png", image(1)), ("a/2.png", "|")]))
    assert "left out as devices or pipes: 1, such as" in source.remarks[0]


@pytest.mark.parametrize("second", ["ann/1.png", "./ann/1.png", "ann//1.png", "/ann/1.png"])
def test_the_later_of_one_name_counts_and_is_said(tmp_path, second):
    members = [("ann/1.png", image(1)), (second, image(2)), ("bob/1.png", image(3))]
    source = open_source(write_tar(tmp_path, members))
    assert people(source) == ["ann", "bob"]
    assert source.encoded(0) == image(2)
    (remark,) = source.remarks
    assert "files that a later one of their name replaces: 1, such as" in remark
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("ann/1.png", image(1))
        archive.writestr("./ann/1.png", image(2))
    source = open_source(tmp_path / "x.zip")
    assert (people(source), source.encoded(0)) == (["ann"], image(2))
    assert (
        "files that a later one of their name replaces: 1, such as ann/1.png" in source.remarks[0]
    )


# Identities in .cls members
# ----------------------------------------------------------------------------------------

A, B = image(1), image(2)


@pytest.mark.parametrize(
    ("members", "found", "said"),
    [
        ({"1.left.png": A, "1.right.png": B, "1.cls": b"7"}, ["7", "7"], ""),
        ({"1.left.png": A, "1.right.png": B, "1.person.cls": b"7"}, ["7", "7"], ""),
        ({"1.png": A, "1.cls": b"7.0"}, ["7"], ""),
        ({"1.png": A, "1.cls": b"7", "2.png": B, "2.cls": b"7.0\n"}, ["7", "7"], ""),
        ({"1.png": A, "1.cls": b"7", "2.png": B, "2.cls": b"007"}, ["7", "007"], "in spelling"),
        ({"1.png": A, "1.cls": b"\xef\xbb\xbf7"}, ["7"], ""),
        ({"1.png": A, "1.cls": "José".encode("utf-16")}, ["José"], ""),
        ({"1.png": A, "1.png.cls": b"7"}, ["7"], ""),
        ({"v1.0.png": A, "v1.0.cls": b"a", "v1.1.png": B, "v1.1.cls": b"b"}, ["a", "b"], ""),
        ({"1.png": A, "1.l.png": B, "1.cls": b"7"}, ["7", "7"], "without a .cls of their own"),
        ({"1.png": A, "1.cls": b"7", "1.b.cls": b"7"}, ["7"], ""),
        ({"1.png": A, "1.cls": b"7", "2.heic": b"x", "2.cls": b"8"}, ["7"], ".heic (1)"),
        ({"1.png": A, "1.cls": b"7", "2.png": "→1.png", "2.cls": "⇒1.cls"}, ["7", "7"], "by links"),
    ],
)  # fmt: skip
def test_identities_of_samples(tmp_path, members, found, said):
    source = open_source(write_tar(tmp_path, members.items()))
    assert people(source) == found
    assert len(source.remarks) == bool(said)
    assert said in "".join(source.remarks)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"1.cls": b"7", "2.png": A, "2.cls": b"7"}, r"member 1\.cls has an identity, and"),
        ({"1.cls": b"7", "1.txt": b"x", "2.png": A, "2.cls": b"7"}, r"1\.cls has an identity"),
        ({"v1.0_a.png": A, "v1.0_a.cls": b"a", "v1.1_b.png": B}, r"v1\.1_b\.png: no identity; "
         r"write its identity into v1\.1_b\.cls, as other"),
        ({"1.a.png": A, "1.a.cls": b"a", "1.png": B}, r"1\.png: no identity"),
        ({"1.l.png": A, "1.x.cls": b"a", "1.y.cls": b"b"}, "no identity"),
        ({"1.png": A, "1.cls": b"-1"}, r"1\.cls: label '-1'; a whole number from 0 is due"),
        ({"1.png": A, "1.cls": b"1.5"}, r"1\.cls: label '1\.5'; a whole number"),
        ({"1.png": A, "1.cls": b" \n"}, r"1\.cls: no identity; give"),
        ({"1.png": A, "1.cls": b"\x05\0\0\0"}, "not one line of text in UTF-8"),
        ({"1.png": A, "1.cls": b"7\0\0\0"}, "not one line of text in UTF-8"),
        ({"1.png": A, "1.cls": b"7\n8"}, "not one line of text in UTF-8"),
        ({"1.png": A, "1.cls": b"Jos\xe9"}, "not one line of text in UTF-8"),
    ],
)  # fmt: skip
def test_samples_that_do_not_tell_who_is_on_them(tmp_path, members, message):
    with pytest.raises(InputError, match=message):
        open_source(write_tar(tmp_path, members.items()))


def test_a_sample_comes_once(tmp_path):
    members = [("0.png", A), ("0.cls", b"a"), ("0.png", B), ("0.cls", b"b")]
    with pytest.raises(InputError, match=r"member 0\.png comes twice; number the samples through"):
        open_source(write_tar(tmp_path, members))


def test_archives_with_and_without_cls_do_not_mix(tmp_path):
    write(tmp_path, {"a.tar": tar_of([("1.png", A), ("1.cls", b"7")]), "b.tar": tar_of(SIX)})
    with pytest.raises(
        InputError, match=r"b\.tar:a/0\.png: no identity; write its identity into a/0\.cls"
    ):
        open_source(tmp_path)


# Tables
# ----------------------------------------------------------------------------------------


def parquet(labels, names=None):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"image": [image(number) for number in range(len(labels))], "label": labels})
    if names is not None:
        info = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("shards", "found"),
    [
        ([([0, 1], ["ann", "bob"]), ([0, 1], ["bob", "cid"])], ["ann", "bob", "bob", "cid"]),
        ([([0, 1], ["ann", "bob"]), (["bob"], None)], ["ann", "bob", "bob"]),
        ([([7, 8], None), (["7"], None)], ["7", "8", "7"]),
        ([(["7", "7.0", "ann"], None)], ["7", "7", "ann"]),
        ([([7.0, 8.0], None)], ["7", "8"]),
        ([(["7"], None), (["ann"], None)], ["7", "ann"]),
        ([([0, 1], ["7", "7.0"])], ["7", "7.0"]),
    ],
)
def test_labels_of_tables_have_the_names_of_their_own_file(tmp_path, shards, found):
    files = {f"{number}.parquet": parquet(*shard) for number, shard in enumerate(shards)}
    source = open_source(write(tmp_path / "d", files))
    assert people(source) == found
    assert source.remarks == ()


@pytest.mark.parametrize(
    ("shards", "message"),
    [
        ([([0, -1], ["ann", "bob"])], r"0\.parquet row 1: label '-1'; a whole number from 0"),
        ([([0, -1], None)], r"0\.parquet row 1: label '-1'"),
        ([([0, 2], ["ann", "bob"])], r"row 1: label 2, and the file names 2 classes, from 0 on"),
        ([([0], ["ann"]), ([0], None)], r"1\.parquet: its identities are numbers, and"),
        ([(["ann"], None), ([0], None)], r"1\.parquet: its identities are numbers"),
        ([(["ann", ""], None)], r"row 1: no identity; give each image one"),
        ([([1.0, None], None)], r"row 1: no identity; give each image one"),
        ([([1.0, float("nan")], None)], r"row 1: no identity, but nan"),
        ([([1.5], None)], r"row 0: label '1\.5'; a whole number"),
        ([([True, False], None)], "row 0: its identity is no whole number or text, but True"),
        ([([[1], [2]], None)], "row 0: its identity is no whole number or text; give another"),
        ([([b"ann"], None)], "row 0: its identity is no whole number or text; give another"),
        ([([0, 1], ["ann", ""])], "row 1: label 1 is of a class without a name"),
        ([([0, 1], ["ann", "ann"])], "two of its classes are called 'ann'"),
    ],
)  # fmt: skip
def test_rows_that_do_not_tell_who_is_on_them(tmp_path, shards, message):
    files = {f"{number}.parquet": parquet(*shard) for number, shard in enumerate(shards)}
    with pytest.raises(InputError, match=message):
        open_source(write(tmp_path / "d", files))


# Shards and splits
# ----------------------------------------------------------------------------------------

ONE = tar_of([("ann/1.png", A)])


@pytest.mark.parametrize(
    "names",
    [
        ("imagenet-train-000", "imagenet-val-000"),
        ("ds-train-00000-of-00001", "ds-test-00000-of-00001"),
        ("default/partial-train/0000", "default/test/0000"),
        ("imagenetTrain000", "imagenetTest000"),
        ("test-faces-train-0", "test-faces-test-0"),
        ("ILSVRC2012_img_train", "ILSVRC2012_img_val"),
        ("train2017", "val2017"),
    ],
)
def test_splits_are_told_by_any_word_of_a_name(tmp_path, names):
    root = write(tmp_path / "d", {f"{name}.tar": ONE for name in names})
    with pytest.raises(InputError, match=r"d: holds the splits .*; give one of them"):
        open_source(root)
    train = "Train" if "Train" in names[0] else "train"
    assert len(open_source(f"{root}:{train}")) == 1


def test_a_split_among_files_without_one_is_said(tmp_path):
    root = write(tmp_path / "d", {"faces.tar": ONE, "faces-test.tar": ONE})
    (remark,) = open_source(root).remarks
    assert remark.startswith(f"{root}: 1 of 2 files are of the split test, such as faces-test.tar")
    assert len(open_source(f"{root}:test")) == 1


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train-00000-of-00003", "train-00002-of-00003"), r"2 of 3 files are there; "
         r"train-00001-of-00003\.tar is missing; fetch"),
        (("train-00001-of-00003", "train-00002-of-00003"), r"train-0000[03]-of-00003\.tar is"),
        (("x-0-of-2",), r"1 of 2 files are there; x-1-of-2\.tar is missing"),
        (("d/x_0_of_2",), "1 of 2 files are there"),
        (("train-0-of-2", "train-1-of-2", "train-0-of-1"), "of two numberings"),
        (("sub1/train-0-of-1", "sub2/train-0-of-1"), r"folders sub1, sub2; give one .*d/sub1"),
        (("sub1/train-0-of-2", "sub1/train-1-of-2", "sub2/train-0-of-1"), "folders sub1, sub2"),
        (("sub1/train/0000", "sub2/train/0000"), "folders sub1, sub2"),
    ],
)  # fmt: skip
def test_shards_that_names_promise_are_there(tmp_path, names, message):
    root = write(tmp_path / "d", {f"{name}.tar": ONE for name in names})
    with pytest.raises(InputError, match=message):
        open_source(root)


@pytest.mark.parametrize(
    ("names", "remark"),
    [
        (
            ("s-0", "s-2", "s-3"),
            r"the shards up to s-3\.tar 1 are not there, the first .* number 1",
        ),
        (("d/s00", "d/s01", "d/s03"), r"up to d/s03\.tar 1 are not there, the first .* number 2"),
        (("a/s0", "b/s0"), r"2 files have the name of another .* a/s0\.tar and b/s0\.tar; all"),
        (("s-0", "s-1", "s-2"), ""),
        (("s-1", "s-2"), ""),
        (("faces_2017", "faces_2019"), ""),
        (("part-00000-1f-c000", "part-00002-1f-c000"), r"part-00002-1f-c000\.tar 1 are not there"),
        (
            ("s-0", "s-1", "s-500"),
            r"up to s-500\.tar 498 are not there, the first of them number 2",
        ),
        (("x-1-of-2", "x-2-of-2"), ""),
        (("a-0-of-2-0123456789abcdef", "a-1-of-2-fedcba9876543210"), ""),
    ],
)
def test_gaps_in_numbers_are_said(tmp_path, names, remark):
    source = open_source(write(tmp_path / "d", {f"{name}.tar": ONE for name in names}))
    assert len(source) == len(names)
    assert len(source.remarks) == bool(remark)
    assert re.search(remark, "".join(source.remarks))


# What lies together
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "number", "left"),
    [
        ({"a.tar": WHOLE, "ann/1.jpg": A}, 6, ".jpg (1)"),
        ({"a.tar": WHOLE, "b.tar.gz": b"x", "c.tgz": b"x"}, 6, "(1); extract .gz, .tgz"),
        ({"a.tar": WHOLE, "b.tar.part": b"x", "c.crdownload": b"x"}, 6, ".crdownload (1)"),
        ({"a.TAR": WHOLE}, 6, ""),
        ({"a.tar": WHOLE, "b.TAR": WHOLE}, 12, ""),
        ({"ann/1.png": A, "old/a.tar": WHOLE}, 1, ".tar (1)"),
        ({"logo.png": A, "data/a.tar": WHOLE}, 6, ".png (1)"),
    ],
)  # fmt: skip
def test_what_is_not_opened_is_counted(tmp_path, files, number, left):
    source = open_source(write(tmp_path / "d", files))
    assert len(source) == number
    assert left in "".join(source.remarks)
    assert bool(source.remarks) == bool(left)


@pytest.mark.parametrize(
    ("files", "number", "left"),
    [
        ({"a.parquet": ["p"], "B.PARQUET": ["q"], "ann/1.png": A}, 2, ".png (1)"),
        ({"data/train-0-of-1.parquet": ["p", "q"], "assets/logo.png": A}, 2, ".png (1)"),
        ({"data/x.parquet": ["p"], "logo.png": A, "README.md": b""}, 1, ".md (1), .png (1)"),
        ({"a.parquet": ["p"], "b.tar": WHOLE}, 1, ".tar (1)"),
    ],
)
def test_tables_count_before_pictures(tmp_path, files, number, left):
    files = {
        name: parquet(content) if isinstance(content, list) else content
        for name, content in files.items()
    }
    source = open_source(write(tmp_path / "d", files))
    assert len(source) == number
    (remark,) = source.remarks
    opened = len(files) - left.count("(")
    besides = "1 file that is" if opened == 1 else f"{opened} files that are"
    assert f"d: not opened, besides {besides}: {left}" in remark


def test_a_table_without_images_is_passed_over(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    root = write(tmp_path / "d", {"ann/1.png": A})
    pq.write_table(pa.table({"age": [3]}), root / "ages.parquet")
    source = open_source(root)
    assert people(source) == ["ann"]
    assert "left out as no images: .parquet (1)" in source.remarks[0]


# Files of folders and zip archives
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_hidden_people_are_counted(tmp_path, kind):
    files = {
        "ann/1.png": A, ".bob/1.png": B, "ann/.2.png": B, ".bob/notes.md": b"",
        "ann/.DS_Store": b"", "__MACOSX/ann/._1.png": b"", "ann/._1.png": b"",
    }  # fmt: skip
    source = open_source(write_as(kind, tmp_path, files))
    assert people(source) == ["ann"]
    (remark,) = source.noted
    assert "left out as hidden images: 2, such as " in remark.text
    assert sorted(os.path.basename(name) for name in remark.files) == [".2.png", "1.png"]


def test_a_link_to_a_folder_that_is_there_is_named(tmp_path):
    root = write(tmp_path / "d", {"mia/1.png": A})
    (root / "zoe").symlink_to(root / "mia")
    (root / "ann").symlink_to(root / "mia")
    source = open_source(root)
    assert people(source) == ["mia"]
    assert source.remarks == (
        f"{root}: left out as links to a folder that counts already: 2, such as ann",
    )
    assert source.noted[0].files == (f"{root}/ann", f"{root}/zoe")


def test_a_link_to_a_hidden_folder_is_its_person(tmp_path):
    root = write(tmp_path / "d", {".store/x/1.png": A})
    (root / "ann").symlink_to(root / ".store" / "x")
    assert people(open_source(root)) == ["ann"]


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_person_without_a_readable_image_is_named(tmp_path, kind):
    files = {"ann/1.png": A, "zoe/1.heic": b"x", "zoe/2.heic": b"x"}
    root = write(tmp_path / "d", files) if kind == "folder" else write_tar(tmp_path, files.items())
    first, second = open_source(root).remarks
    assert ".heic (2); convert .heic" in first
    assert second.endswith("1 folder holds no image, such as zoe")


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("Ann", "ann"), "'Ann' and 'ann'"),
        (("José", unicodedata.normalize("NFD", "José")), " of 5 characters and "),
        (("Bo Li", "Bo_Li"), "'Bo Li' and 'Bo_Li'"),
        (("7", "007"), "'007' and '7'"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar", "zip", "parquet", "list"])
def test_names_that_differ_in_spelling_only_are_said(tmp_path, names, shown, kind):
    files = {f"{name}/{number}.png": image(number) for number, name in enumerate(names)}
    match kind:
        case "folder":
            root = write(tmp_path / "d", files)
        case "tar":
            root = write_tar(tmp_path, files.items())
        case "zip":
            root = tmp_path / "d.zip"
            with zipfile.ZipFile(root, "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
        case "list":
            lines = "".join(f"{number}.png,{name}\n" for number, name in enumerate(names))
            write(tmp_path, {"0.png": A, "1.png": B, "x.csv": lines.encode()})
            root = tmp_path / "x.csv"
        case "parquet":
            root = write(tmp_path, {"x.parquet": parquet(list(names))}) / "x.parquet"
    source = open_source(root)
    assert len(source.identity_names) == 2
    (remark,) = source.remarks
    assert "2 identities have a name that differs from another's only in spelling" in remark
    assert shown in remark


def test_a_zip_with_backslashes_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in (
            "d\\",
            "d\\ann\\",
            "d\\ann\\1.png",
            "d\\bob\\1.png",
            "d\\cy\\",
        ):
            archive.writestr(name, image(1) if name.endswith("g") else b"")
    source = open_source(tmp_path / "x.zip")
    assert people(source) == ["d/ann", "d/bob"]
    assert source.encoded(1) == image(1)
    assert source.remarks == (f"{tmp_path / 'x.zip'}: 1 folder holds no image, such as d/cy",)


def test_links_in_a_zip_are_the_files_that_they_lead_to(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("ann/1.png", A)
        for name, target in (("bob/1.png", "../ann/1.png"), ("bob/2.png", "gone.png")):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, target)
    source = open_source(tmp_path / "x.zip")
    assert (people(source), source.encoded(1)) == (["ann", "bob"], A)
    assert "links to no file in the archive: 1, such as bob/2.png" in source.remarks[0]


def test_joined_zip_archives_are_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("ann/1.png", A)
    (tmp_path / "x.zip").write_bytes(content.getvalue() * 2)
    with pytest.raises(InputError, match=r"x\.zip: .* bytes of another archive are before"):
        open_source(tmp_path / "x.zip")


def zip_of(members, comment=b"", **options):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", **options) as archive:
        for name, data in members:
            archive.writestr(name, data)
        archive.comment = comment
    return content.getvalue()


def end_of(content):
    return content.rfind(b"PK\5\6")


def counting(number):
    """Changes how many members the end of an archive counts."""

    def change(content):
        at, two = end_of(content), number.to_bytes(2, "little")
        return content[: at + 8] + two * 2 + content[at + 12 :]

    return change


def large(number):
    """As a large archive: the count is in a record of its own before the end."""

    def change(content):
        at = end_of(content)
        size, start = (int.from_bytes(content[at + k : at + k + 4], "little") for k in (12, 16))
        numbers = b"".join(value.to_bytes(8, "little") for value in (number, number, size, start))
        record = b"PK\6\6" + (44).to_bytes(8, "little") + bytes([45, 0, 45, 0]) + bytes(8) + numbers
        locator = b"PK\6\7" + bytes(4) + at.to_bytes(8, "little") + (1).to_bytes(4, "little")
        end = content[at : at + 8] + b"\xff" * 12 + content[at + 20 :]
        return content[:at] + record + locator + end

    return change


def flagged(content):
    """The second member is encrypted, by its flag in the directory."""
    at = content.rfind(b"PK\1\2")
    return content[: at + 8] + b"\1\0" + content[at + 10 :]


def packed_by_deflate64(content):
    at = content.rfind(b"PK\1\2")
    return content[: at + 10] + b"\x09\0" + content[at + 12 :]


def without_directory_entry(content):
    """The second member is in the file, and not in its directory."""
    at, end = content.rfind(b"PK\1\2"), end_of(content)
    size = int.from_bytes(content[end + 12 : end + 16], "little") - (end - at)
    tail = content[end : end + 12] + size.to_bytes(4, "little") + content[end + 16 :]
    return content[:at] + tail


@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\6\6"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content, None),
        (counting(2), None),
        (counting(3), r"lists 2 members, and its end counts 3; it is damaged"),
        (counting(1), r"lists 2 members, and its end counts 1"),
        (counting(0), r"lists 2 members, and its end counts 0"),
        (large(2), None),
        (large(3), r"lists 2 members, and its end counts 3"),
        (large(65538), r"lists 2 members, and its end counts 65538"),
        (without_directory_entry, r"lists 1 member, and its end counts 2"),
        (flagged, r"1 of 2 members, such as bob/1.png, are encrypted; extract it with its passw"),
        (packed_by_deflate64, r"1 of 2 members, such as bob/1.png, are packed by a rare method"),
        (lambda content: counting(3)(content) + b"more", r"lists 2 members, and its end counts 3"),
        (lambda content: b"#!/bin/sh\n" + content, None),
        (lambda content: content[:-32], r"x\.zip: a zip file that is cut off, for its end .* anew"),
        (lambda content: content[:60], r"x\.zip: a zip file that is cut off, for its end"),
        (gzip.compress, r"x\.zip: no zip file, but packed by gzip; extract it"),
        (lambda content: b"<html>", r"x\.zip: neither a folder nor a zip file; give one of these"),
    ],
)
def test_a_zip_has_the_members_that_it_counts(tmp_path, change, message, comment):
    content = change(zip_of([("ann/1.png", A), ("bob/1.png", B)], comment))
    (tmp_path / "x.zip").write_bytes(content)
    if message is None:
        assert people(open_source(tmp_path / "x.zip")) == ["ann", "bob"]
        return
    with pytest.raises(InputError, match=message) as error:
        open_source(tmp_path / "x.zip")
    assert "\n" not in str(error.value)


def test_a_zip_may_count_its_members_modulo_65536(tmp_path):
    """As Archive Utility of macOS and older programs do, without the record of a large archive."""
    empty = [(f"a/{number}.txt", b"") for number in range(3)]
    content = zip_of([("ann/1.png", A), *empty])
    (tmp_path / "x.zip").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "x.zip") as archive:
        members = archive.infolist() * (1 << 14)
    tree = open_tree(tmp_path / "x.zip")
    archive = types.SimpleNamespace(infolist=lambda: members, comment=b"")
    with pytest.raises(InputError, match=r"lists 65,536 members, and its end counts 4"):
        tree._check_whole(archive)
    (tmp_path / "x.zip").write_bytes(counting(0)(content))
    tree._check_whole(archive)


@pytest.mark.parametrize(
    ("members", "found", "remark"),
    [
        ([("/ann/1.png", A), ("bob/1.png", B)], ["ann", "bob"], None),
        ([("./ann/1.png", A), ("ann//1.png", B)], ["ann"], "that a later one of their name replac"),
        ([("a/../ann/1.png", A), ("ann/1.png", B)], ["ann"], "that a later one of their name"),
        ([("../faces/ann/1.png", A), ("../faces/bob/1.png", B)],
         ["../faces/ann", "../faces/bob"], None),
        ([("C:\\faces\\ann\\1.png", A)], ["C:/faces/ann"], None),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_in_a_zip_that_lead_elsewhere_are_names_only(tmp_path, members, found, remark):
    (tmp_path / "x.zip").write_bytes(zip_of(members))
    source = open_source(tmp_path / "x.zip")
    assert people(source) == found
    assert [remark in each for each in source.remarks] == [True] * (remark is not None)
    assert [path.name for path in tmp_path.iterdir()] == ["x.zip"]


@pytest.mark.parametrize("target", ["/etc/passwd", "../../ann/1.png", "../ann", "2.png", ""])
def test_a_link_in_a_zip_that_leads_to_no_file_of_it_is_named(tmp_path, target):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("ann/1.png", A)
        info = zipfile.ZipInfo("bob/2.png")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, target)
    source = open_source(tmp_path / "x.zip")
    assert people(source) == ["ann"]
    assert "links to no file in the archive: 1, such as bob/2.png" in source.remarks[0]


def test_labels_of_tfds_that_are_no_class(tmp_path, monkeypatch):
    root = write(tmp_path / "d", {"ann/1.png": A, "bob/1.png": B})
    convert(open_source(root), tmp_path / "set", "array_record")
    record = TfdsSource._record
    for label, message in (
        (-1, "record 1: label '-1'; a whole number"),
        (2, "record 1: label 2, and"),
    ):
        monkeypatch.setattr(
            TfdsSource,
            "_record",
            lambda self, index, label=label: (
                record(self, index) | ({"label": label} if index else {})
            ),
        )
        with pytest.raises(InputError, match=message):
            open_source(tmp_path / "set")


class OddLabels(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Images with a label each, of a feature that a test sets."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")
    feature: object
    values: tuple

    def _info(self):
        image = image_features(["ann"])["image"]
        features = tensorflow_datasets.features.FeaturesDict(
            {"image": image, "label": self.feature}
        )
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for number, value in enumerate(self.values):
            yield number, {"image": io.BytesIO(image(number)), "label": value}


FEATURES = tensorflow_datasets.features
FLOAT = FEATURES.Scalar(np.float32)


@pytest.mark.parametrize(
    ("feature", "values", "found"),
    [
        (FLOAT, (0.0, 1.0, 1.0), ["0", "1", "1"]),
        (FLOAT, (0.0, 2.0**24 - 1), ["0", "16777215"]),
        (FLOAT, (0.0, 0.5), r"record 1: label '0\.5'; a whole number from 0 is due"),
        (FLOAT, (0.0, np.nan), "record 1: no identity, but nan; give each image one"),
        (FLOAT, (np.inf, 1.0), "record 0: no identity, but inf"),
        (FLOAT, (0.0, -1.0), r"record 1: label '-1\.0'; a whole number"),
        (FLOAT, (0.0, 1e9), r"record 1: label 1e\+09 is 2²⁴ or more, where float32 merges"),
        (FLOAT, (0.0, 2.0**24), "record 1: label 16777216 is 2²⁴ or more"),
        (FEATURES.Scalar(np.float64), (0.0, 1e9), "is 2²⁴ or more, where float32 merges"),
        (FEATURES.Scalar(np.float16), (0.0, 2048.0), "is 2¹¹ or more, where float16 merges"),
        (FEATURES.Scalar(np.int64), (2**53 + 1, 2**53 + 2), [str(2**53 + 1), str(2**53 + 2)]),
        (FEATURES.Scalar(np.int64), (3, -1), "record 1: label '-1'; a whole number"),
        (FEATURES.Scalar(np.bool_), (True, False), "record 0: its identity is no whole number or "),
        (FEATURES.Tensor(shape=(2,), dtype=np.int64), ([1, 2], [3, 4]), "record 0: its identity"),
        (FEATURES.Tensor(shape=(1,), dtype=np.int64), ([1], [3]), "record 0: its identity"),
        (FEATURES.Text(), ("ann", "bob"), ["ann", "bob"]),
        (FEATURES.Text(), ("ann", ""), "record 1: no identity; give each image one"),
        (FEATURES.ClassLabel(names=["ann", " "]), (0, 1), r"label\.labels\.txt: names 1 of 2 clas"),
        (FEATURES.ClassLabel(names=["ann", "bob"]), (0, 1), ["ann", "bob"]),
    ],
)  # fmt: skip
def test_labels_of_tfds_are_checked(tmp_path, monkeypatch, feature, values, found):
    monkeypatch.setattr(OddLabels, "feature", feature, raising=False)
    monkeypatch.setattr(OddLabels, "values", values, raising=False)
    builder = OddLabels(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare()
    if isinstance(found, list):
        source = open_source(builder.data_dir)
        assert (people(source), source.remarks) == (found, ())
    else:
        with pytest.raises(InputError, match=found):
            open_source(builder.data_dir)


def test_a_set_of_tfds_without_names_says_so(tmp_path, prepared):
    shutil.copytree(prepared / "drawn_people" / "1.0.0", tmp_path / "d")
    assert open_source(tmp_path / "d").remarks == ()
    (tmp_path / "d" / "label.labels.txt").unlink()
    source = open_source(tmp_path / "d")
    assert list(source.identity_names) == ["0", "1", "2"]
    (remark,) = source.remarks
    assert remark.endswith(
        "identities are called by their numbers, for there is no label.labels.txt beside "
        "features.json; restore it if they have names"
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A TFDS data set by its own builder: 9 images in train and 3 in test, in 3 shards each."""

    class DrawnPeople(tensorflow_datasets.core.GeneratorBasedBuilder):
        VERSION = tensorflow_datasets.core.Version("1.0.0")

        def _info(self):
            features = image_features(["ann", "bob", "cy"])
            return tensorflow_datasets.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(9), "test": self._generate_examples(3)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, image_example(image(number), number % 3)

    root = tmp_path_factory.mktemp("tfds")
    builder = DrawnPeople(data_dir=root, file_format="array_record")
    shards = tensorflow_datasets.download.DownloadConfig(num_shards=3)
    builder.download_and_prepare(download_config=shards)
    return root


def description(change):
    """Changes dataset_info.json."""

    def edit(folder):
        text = json.loads((folder / "dataset_info.json").read_text())
        change(text, text["splits"][[one["name"] for one in text["splits"]].index("train")])
        (folder / "dataset_info.json").write_text(json.dumps(text))

    return edit


def shard(number, change):
    def edit(folder):
        change(sorted(folder.glob("*train*"))[number])

    return edit


def counts(number):
    return description(lambda text, train: train["shardLengths"].__setitem__(1, str(number)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shard(1, lambda path: path.unlink()), r"array_record-00001-of-00003: is missing; fetch"),
        (shard(2, lambda path: path.unlink()), r"array_record-00002-of-00003: is missing; fetch"),
        (shard(0, lambda path: path.write_bytes(b"")), r"00000-of-00003: cannot be read \(Array"),
        (shard(0, lambda path: path.write_bytes(path.read_bytes()[:-65536])), r"00000-of-00003: "),
        (counts(1), r"00001-of-00003: holds 3 records, and dataset_info.json counts 1; fetch both"),
        (counts(5), r"00001-of-00003: holds 3 records, and dataset_info.json counts 5; fetch both"),
        (lambda d: (d / "dataset_info.json").unlink(), r"records of a TFDS data set without its"),
        (lambda d: (d / "dataset_info.json").write_text("{"), r"TFDS cannot open it \(Failed"),
        (lambda d: (d / "dataset_info.json").write_text(""), r"TFDS cannot open it \(Failed"),
        (lambda d: (d / "features.json").unlink(), r"no features.json beside dataset_info.json"),
        (lambda d: (d / "features.json").write_text("{"), r"TFDS cannot open it"),
        (description(lambda text, _: text.update(fileFormat="tfrecord")),
         r"is prepared as tfrecord, which has no order to read from; prepare it as array_record"),
        (description(lambda text, _: text.update(splits=[])), r"is not prepared; call download_an"),
        (description(lambda text, _: text.pop("fileFormat")), r"is prepared as tfrecord"),
        (description(lambda _, train: train.update(filepathTemplate="{DATASET}-{SHAT}")),
         r"split train: cannot be read \(it is damaged, or of another kind\)"),
    ],
)  # fmt: skip
def test_a_prepared_set_is_as_it_is_described(tmp_path, prepared, change, message):
    shutil.copytree(prepared / "drawn_people" / "1.0.0", tmp_path / "d")
    change(tmp_path / "d")
    with pytest.raises(InputError, match=message) as error:
        open_source(tmp_path / "d")
    assert str(tmp_path / "d") in str(error.value)
    assert len(str(error.value)) < 400
    assert not re.search(r"object|AssertionError|\n", str(error.value))


@pytest.mark.parametrize(
    ("split", "found"),
    [
        ("", 9),
        (":test", 3),
        (":train[:2]", 2),
        (":train[50%:]", 5),
        (":train[2:4]+test", 5),
        (":train + test", 12),
        (":all", 12),
        (":val", r"split val: no split 'val'; it has train, test"),
        (":train+val", r"no split 'val'; it has train, test"),
        (":val[:2]", r"no split 'val'; it has train, test"),
        (":train[:x]", r"split train\[:x\]: cannot be read"),
        (":train[:0]", r"no record in it"),
    ],
)
def test_splits_of_a_prepared_set(prepared, split, found):
    place = f"{prepared / 'drawn_people' / '1.0.0'}{split}"
    if isinstance(found, int):
        assert len(open_source(place)) == found
    else:
        with pytest.raises(InputError, match=found):
            open_source(place)


def test_a_prepared_set_below_a_folder(tmp_path, prepared):
    for above in (prepared, prepared / "drawn_people"):
        assert len(open_source(above)) == 9
        assert len(open_source(f"{above}:test")) == 3
    for version in ("1.0.0", "2.0.0"):
        shutil.copytree(prepared / "drawn_people" / "1.0.0", tmp_path / "people" / version)
    with pytest.raises(InputError, match=r"holds 2 prepared TFDS data sets; give one, as .*1\.0"):
        open_source(tmp_path)


def test_files_beside_a_prepared_set_or_records_are_named(tmp_path):
    root = write(tmp_path / "d", {"ann/1.png": A, "bob/1.png": B})
    for format in ("array_record", "recordio"):
        place = tmp_path / format
        convert(open_source(root), place, format)
        assert open_source(place).remarks == ()
        write(place, {"val.rec": b"x", "lfw.bin": b"x", "cy/1.jpg": A})
        (remark,) = open_source(place).noted
        assert "files that are: .bin (1), .rec (1), .jpg (1); such as lfw.bin" in remark.text
        assert remark.files == tuple(
            f"{place}/{name}" for name in ("lfw.bin", "val.rec", "cy/1.jpg")
        )


# One file by several names, and names of no image
# ----------------------------------------------------------------------------------------

TWO_NAMES = "1 image is by links the same file as one of another identity, so that a face has two"
TWICE = "1 image is by links the same file as another of their identity, such as"


@pytest.mark.parametrize(
    ("link", "target", "said"),
    [
        ("bob/2.png", "ann/1.png", TWO_NAMES),
        ("ann/2.png", "ann/1.png", TWICE),
        ("zoe/2.png", "ann/1.png", TWO_NAMES),
        ("bob/2.png", ".store/9.png", None),
        ("bob/2.png", "../outside.png", None),
    ],
)
@pytest.mark.parametrize("kind", ["symbolic", "hard", "list", "list through a folder", "zip"])
def test_one_file_by_two_names_is_said(tmp_path, link, target, said, kind):
    root = write(tmp_path / "d", {"ann/1.png": A, "bob/1.png": B, ".store/9.png": image(9)})
    write(tmp_path, {"outside.png": image(8)})
    (root / link).parent.mkdir(exist_ok=True)
    if kind == "hard":
        (root / link).hardlink_to(root / target)
    elif kind != "list through a folder":
        (root / link).symlink_to(os.path.relpath(root / target, (root / link).parent))
    images = ["ann/1.png", "bob/1.png", link]
    if kind == "list through a folder":
        (root / "other").symlink_to((root / target).parent)
        images[2] = f"other/{target.rpartition('/')[2]}"
    if kind.startswith("list"):
        names = [name.partition("/")[0] for name in ("ann/1.png", "bob/1.png", link)]
        lines = "".join(f"{path},{name}\n" for path, name in zip(images, names, strict=True))
        root = write(root, {"x.csv": lines.encode()}) / "x.csv"
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "d.zip", "w") as archive:
            for name in ("ann/1.png", "bob/1.png", ".store/9.png"):
                archive.write(root / name, name)
            info = zipfile.ZipInfo(link)
            info.create_system, info.external_attr = 3, 0o120777 << 16
            archive.writestr(info, os.path.relpath(target, os.path.dirname(link)))
        root = tmp_path / "d.zip"
    source = open_source(root)
    linked = [one for one in source.noted if one.kind.startswith("linked")]
    if said is None:
        assert linked == []
        return
    (remark,) = linked
    assert said in remark.text
    assert len(remark.files) == 1
    assert len(source) == 3


def test_hard_links_of_many_files_are_counted(tmp_path):
    files = {f"ann/{number}.png": image(number) for number in range(5)}
    root = write(tmp_path / "d", files)
    (root / "bob").mkdir()
    for number in range(1, 5):
        (root / f"bob/{number}.png").hardlink_to(root / f"ann/{number}.png")
    (remark,) = open_source(root).noted
    assert remark.text.startswith(f"{root}: 4 images are by links the same file as one of another")
    assert remark.files == tuple(f"{root}/bob/{number}.png" for number in range(1, 5))


def test_a_folder_of_links_to_images_has_each_once(tmp_path):
    store = write(tmp_path / "store", {f"{number}.png": image(number) for number in range(4)})
    for number in range(4):
        person = tmp_path / "d" / "aabb"[number]
        person.mkdir(parents=True, exist_ok=True)
        (person / f"{number}.png").symlink_to(store / f"{number}.png")
    source = open_source(tmp_path / "d")
    assert (people(source), source.remarks) == (["a", "a", "b", "b"], ())


@pytest.mark.parametrize(
    "name",
    [
        *("y.jpg.part", "y.png.partial", "y.filepart", "Unconfirmed 12.crdownload", "y.download"),
        *("y.opdownload", "y.png.tmp", "y.TEMP", "y.aria2", "y.png.!qB", "y.!ut", "y.unfinished"),
        *("z.bak", "z.png.BAK", "z.backup", "z.old", "z.orig", "x1.png~", "x1.png.~1~", "#x.png#"),
        *("x.swp", "x.png_original", "x.png_exiftool_tmp", "y.incomplete"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_unfinished_downloads_and_backups_are_no_images(tmp_path, kind, name):
    files = {"ann/1.png": A, f"ann/{name}": B}
    source = open_source(write_as(kind, tmp_path, files))
    assert people(source) == ["ann"]
    assert source.encoded(0) == A
    (remark,) = source.noted
    assert "left out as unfinished downloads or backups of images: 1, such as " in remark.text
    assert remark.files[0].endswith(name)


@pytest.mark.parametrize("name", ["1", "1.jpg.1", "1.jpg?size=large", "1.dat", "a.partly", "part"])
@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_images_by_content_alone_are_counted(tmp_path, kind, name):
    files = {"ann/1.png": A, f"ann/{name}": B, "ann/1 (1).png": image(3), "ann/2.part.png": A}
    source = open_source(write_as(kind, tmp_path, files))
    assert people(source) == ["ann"] * 4
    (remark,) = source.noted
    assert (
        "images by their content, whose names do not end as an image's: 1, such as " in remark.text
    )
    assert remark.kind == "by content"


def test_unfinished_downloads_alone_are_no_source(tmp_path):
    root = write(tmp_path / "d", {"ann/1.png.part": A})
    with pytest.raises(InputError, match=r"no image below it .*; found \.part \(1\)"):
        open_source(root)


def test_a_listed_image_that_is_called_a_backup_survives_conversion(tmp_path):
    root = write(tmp_path / "d", {"1.png.part": A, "x.csv": b"1.png.part,ann\n"})
    convert(open_source(root / "x.csv"), tmp_path / "faces", "folder")
    source = open_source(tmp_path / "faces")
    assert [source.encoded(0)] == [A]


# What a message says to do
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"img": [A], "identity": ["ann"]}, r"no column 'image'; it has img, identity; rename the "
         r"column of the images' bytes to image and that of who they show to label"),
        ({"image": [A], "person": ["ann"]}, r"no column 'label'; it has image, person; rename"),
        ({"image": ["a.png"], "label": [0]}, r"row 0: no image bytes in column 'image', but the te"
         r"xt 'a\.png'; write the images' files themselves into the table"),
        ({"image": [{"bytes": None, "path": "/x/1.png"}], "label": [0]}, "but the text '/x/1.png'"),
        ({"image": [[1, 2]], "label": [0]}, "but something else; write the images' files"),
    ],
)  # fmt: skip
def test_what_to_do_with_other_columns(tmp_path, columns, message):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "x.parquet").encoded(0)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('1.png,ann\n"1.png,ann\n1.png,ann\n', 2),
        ('1.png,ann\n1.png,"ann\n', 2),
        ('"1.png" x,ann\n', 1),
        ('1.png,ann\n"1.png,ann\n1.png,"bob"\n', 2),
        ('1.png,ann\n"1.png,ann\n' + "1.png,ann\n" * 20000, 2),
    ],
)
def test_a_quote_that_does_not_end_is_named_by_its_line(tmp_path, text, line):
    write(tmp_path, {"1.png": A, "x.csv": text.encode()})
    with pytest.raises(InputError, match=rf'x\.csv line {line}: has a quote \("\) that does not e'):
        open_source(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.xz", "x.7z", "x"])
def test_a_packed_file_is_to_be_extracted(tmp_path, name):
    content = lzma.compress(WHOLE) if name.endswith("xz") else gzip.compress(WHOLE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        InputError, match=r"is compressed by (gzip|xz), where .*; extract it, or pa"
    ):
        open_source(tmp_path / name)


# Spellings of a path
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "listed",
    [
        *("ann/1.png", "./ann/1.png", "././ann/1.png", "ann//1.png", "ann/./1.png", "/ann/1.png"),
        *("bob/../ann/1.png", "ann\\1.png", ".\\ann\\1.png", ".//ann/x/..//1.png", "ann/1"),
        *("././ann/1", "ann/1.jpg", "./ann\\1.png".replace("/", "\\")),
    ],
)
def test_spellings_of_a_path_in_a_list_of_pairs(tmp_path, listed):
    root = write(tmp_path / "d", {"ann/1.png": A, "ann/2.png": image(4), "bob/1.png": B})
    (tmp_path / "pairs.csv").write_text(f"{listed},ann/2.png,1\n")
    pairs = read_pair_list(tmp_path / "pairs.csv", open_source(root))
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0], [1])


@pytest.mark.parametrize(
    "listed", ["../ann/1.png", "ann/3.png", "d/ann/1.png", "../../x", "..", ""]
)
def test_a_path_that_is_not_there_is_named_with_what_is(tmp_path, listed):
    root = write(tmp_path / "d", {"ann/1.png": A, "ann/2.png": image(4), "bob/1.png": B})
    (tmp_path / "pairs.csv").write_text(f"{listed},ann/2.png,1\n")
    name = re.escape(repr(listed or "."))
    with pytest.raises(
        InputError,
        match=rf"pairs\.csv line 1: the source has no image {name}; its 3 are called such as "
        r"ann/1\.png; list what is there",
    ):
        read_pair_list(tmp_path / "pairs.csv", open_source(root))
