"""Data in object storage gives what it gives on a disk."""

import io
import pickle
import shutil
import tarfile
import uuid

import numpy as np
import pytest

from arcface_jax.buckets import as_path
from arcface_jax.data.convert import convert
from arcface_jax.data.open import check_set, open_set, open_source
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from tests.bin_set import write_bin


def upload(folder):
    """The same files in a bucket."""
    place = as_path(f"memory://{uuid.uuid4().hex}/data")
    for file in folder.rglob("*"):
        if file.is_file():
            (place / file.relative_to(folder).as_posix()).write_bytes(file.read_bytes())
    return place


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_tree):
    """One data set in every format: {how it is given: folder below}."""
    root = tmp_path_factory.mktemp("data")
    tree = write_tree(root / "tree", {"a": 2, "b": 3, "c/c": 1})
    source = FolderSource(tree)
    convert(source, root / "recordio", "recordio")
    convert(source, root / "array_record", "array_record")
    (root / "scanned").mkdir()
    shutil.copy(root / "recordio/train.rec", root / "scanned/other.rec")
    shutil.make_archive(str(root / "faces"), "zip", tree)
    with tarfile.open(root / "faces.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for index in range(len(source)):
            content = source.encoded(index)
            member = tarfile.TarInfo(source.path(index))
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    lines = [f"{source.path(at)},{source.labels[at]}\n" for at in range(len(source))]
    (root / "tree/list.csv").write_text("".join(lines))
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = {
        "image": [source.encoded(at) for at in range(len(source))],
        "label": source.labels.tolist(),
    }
    (root / "tables").mkdir()
    parquet.write_table(pyarrow.table(rows), root / "tables/train.parquet", row_group_size=2)
    write_bin(root / "pairs.bin")
    return root, upload(root)


@pytest.mark.parametrize(
    "name",
    [
        "tree",
        "tree/list.csv",
        "recordio",
        "recordio/train.rec",
        "scanned/other.rec",
        "array_record",
        "faces.zip",
        "faces.tar",
        "tables",
        "tables/train.parquet",
        "tables:train",
        "pairs.bin",
    ],
)
def test_every_format_gives_the_same_from_a_bucket(data, name):
    local, bucket = data
    here, there = open_source(f"{local}/{name}"), open_source(f"{bucket}/{name}")
    for source in (there, pickle.loads(pickle.dumps(there))):
        assert len(source) == len(here)
        assert list(source.identity_names) == list(here.identity_names)
        np.testing.assert_array_equal(source.labels, here.labels)
        np.testing.assert_array_equal(source.encoded_sizes(), here.encoded_sizes())
        assert [source.encoded(at) for at in range(len(source))] == [
            here.encoded(at) for at in range(len(here))
        ]
        assert source.fingerprint == here.fingerprint
        said = [text.replace(str(bucket), str(local)) for text in source.remarks]
        assert said == list(here.remarks)
    assert str(bucket) in there.where(0) or name == "array_record"


def test_sets_with_pairs_are_read_from_a_bucket(data):
    local, bucket = data
    (local / "tree/pairs.txt").write_text("a/0.png a/1.png 1\nb/0.png a/1.png 0\n" * 2)
    shutil.copy(local / "tree/pairs.txt", local / "of.txt")
    (bucket / "of.txt").write_bytes((local / "of.txt").read_bytes())
    (bucket / "tree/pairs.txt").write_bytes((local / "of.txt").read_bytes())
    for given in ("{}/pairs.bin", "mine={}/pairs.bin", "mine={0}/tree+{0}/of.txt"):
        check_set(given.format(bucket))
        here, there = (open_set(given.format(place), 2) for place in (local, bucket))
        assert there.name == here.name
        np.testing.assert_array_equal(there.pairs.first, here.pairs.first)
        np.testing.assert_array_equal(there.pairs.same, here.pairs.same)
    with pytest.raises(InputError, match=r"memory://.*none: no such file or folder; it can be"):
        check_set(f"{bucket}/none")
    with pytest.raises(InputError, match=r"memory://.*none: no such file or folder; check the"):
        check_set(f"{bucket}/tree+{bucket}/none")


def test_a_data_set_is_converted_into_a_bucket(data):
    local, bucket = data
    convert(open_source(f"{bucket}/tree/list.csv"), bucket / "new", "recordio")
    there = open_source(bucket / "new")
    assert there.encoded(0) == open_source(local / "recordio").encoded(0)
    with pytest.raises(InputError, match="exists; remove it"):
        convert(there, bucket / "new", "recordio")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.rec", b"\x0a\x23\xd7\xce\xff\x00\x00\x00", r"cut\.rec at offset 0: damaged record"),
        ("empty.rec", b"", r"empty\.rec: empty file, not a record file"),
        ("cut.tar", b"x" * 700, r"cut\.tar: damaged, or not a tar file"),
        ("no.zip", b"PK\3\4 and no end", r"no\.zip: a zip file that is cut off"),
        ("no.bin", b"no pickle", r"no\.bin: not a verification set"),
        ("no.parquet", b"PAR1", r"no\.parquet: damaged, or not a Parquet file"),
        ("what.xyz", b"1", r"what\.xyz: unknown kind of file"),
    ],
)
def test_what_is_damaged_in_a_bucket_is_said_in_a_line(name, content, said):
    place = as_path(f"memory://{uuid.uuid4().hex}") / name
    place.write_bytes(content)
    with pytest.raises(InputError, match=rf"memory://\w+/{said}"):
        open_source(place)
