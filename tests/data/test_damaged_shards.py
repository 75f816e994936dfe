"""A damaged shard of a set is named, when the set is opened or when an image of it is read."""

import os
import shutil

import pytest

from arcface_jax.data.convert import convert
from arcface_jax.data.open import open_source
from arcface_jax.data.pipeline import batches
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError

IMAGES = 240


@pytest.fixture(scope="module")
def sets(tmp_path_factory, write_tree):
    """{kind: folder of a set of 240 images in several shards}."""
    root = tmp_path_factory.mktemp("sets")
    tree = write_tree(root / "tree", {f"{part}/{who}": 20 for part in "abc" for who in range(4)})
    source = FolderSource(tree)
    (root / "tar").mkdir()
    for part in "abc":
        shutil.make_archive(str(root / "tar" / part), "tar", tree / part)
    table, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    (root / "parquet").mkdir()
    for number, part in enumerate("abc"):
        own = range(number * 80, number * 80 + 80)
        rows = {
            "image": [source.encoded(at) for at in own],
            "label": source.labels[own.start : own.stop].tolist(),
        }
        file = root / f"parquet/{part}.parquet"
        table.write_table(pyarrow.table(rows), file, row_group_size=16, compression="snappy")
    convert(source, root / "recordio", "recordio")
    convert(source, root / "array_record", "array_record")
    return root


def cut(content: bytearray) -> bytes:
    return bytes(content[: len(content) * 2 // 3])


def overwritten(content: bytearray) -> bytes:
    middle = len(content) // 2
    content[middle : middle + 3000] = os.urandom(3000)
    return bytes(content)


def zeroed(content: bytearray) -> bytes:
    content[len(content) // 3 : len(content) // 3 + 4096] = bytes(4096)
    return bytes(content)


@pytest.mark.parametrize("change", [cut, overwritten, zeroed])
@pytest.mark.parametrize(
    ("kind", "shard"),
    [
        ("tar", "b.tar"),
        ("parquet", "b.parquet"),
        ("recordio", "train.rec"),
        ("array_record", "faces-train.array_record-00000-of-00001"),
    ],
)
def test_a_damaged_shard_is_named(sets, tmp_path, kind, shard, change):
    shutil.copytree(sets / kind, tmp_path / "set")
    path = tmp_path / "set" / shard
    path.write_bytes(change(bytearray(path.read_bytes())))
    with pytest.raises(InputError, match=shard) as error:  # an epoch in a batch
        next(batches(open_source(tmp_path / "set"), IMAGES, 12, seed=0, threads=1))
    assert "\n" not in str(error.value)
    # The other shards are not blamed.
    assert not any(other in str(error.value) for other in ("a.tar", "c.tar", "a.pa", "c.pa"))


def test_records_of_a_part_of_a_split_are_found_in_their_file(sets):
    source = open_source(f"{sets / 'array_record'}:train[:10]+train[200:]")
    assert len(source) == 50
    assert source.where(49).endswith("faces-train.array_record-00000-of-00001 record 49")
