"""Lists, Parquet, TFDS: the same pictures through every door."""

import io
import json
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import tensorflow_datasets

from arcface_jax.data.convert import convert
from arcface_jax.data.decode import encode_png
from arcface_jax.data.open import open_source
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.lists import ListSource
from arcface_jax.data.sources.tfds import TfdsSource, image_example
from arcface_jax.errors import InputError


@pytest.fixture
def tree(tmp_path, write_tree):
    return write_tree(tmp_path / "faces", {"a": 2, "b": 3})


def check(source, picture, labels, names):
    """The source has pictures 0, 1, 2 … with these labels, also after pickling."""
    for reader in (source, pickle.loads(pickle.dumps(source))):
        assert len(reader) == len(labels)
        for index in range(len(labels)):
            np.testing.assert_array_equal(reader[index], picture(index))
        np.testing.assert_array_equal(reader.labels, labels)
        assert reader.labels.dtype == np.int32
        assert list(reader.identity_names) == names
        assert reader.fingerprint == source.fingerprint
        assert reader.encoded_sizes().shape == (len(labels),)
        assert all(isinstance(reader.where(index), str) for index in range(len(labels)))
        with pytest.raises(IndexError):
            reader[len(labels)]


FILES = [("a/0.png", "10"), ("a/1.png", "10"), ("b/0.png", "9"), ("b/1.png", "9"), ("b/2.png", "9")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "".join(f"{path},{who}\n" for path, who in FILES)),
        (
            "list.csv",
            "identity,note,path\n" + "".join(f'{who},"x,y",{path}\n' for path, who in FILES),
        ),
        ("list.tsv", "".join(f"{path}\t{who}\r\n" for path, who in FILES)),
        ("list.txt", "\ufeff" + "\n".join(f"./{path}\t{who}" for path, who in FILES)),
        ("list.lst", "".join(f"1\t{path}\t{who}\n" for path, who in FILES)),
    ],
)
def test_a_list_names_paths_and_identities(tree, picture, name, text):
    (tree / name).write_text(text, encoding="utf-8", newline="")
    check(ListSource(tree / name), picture, [1, 1, 0, 0, 0], ["9", "10"])
    (tree.parent / name).write_text(text, encoding="utf-8", newline="")
    check(ListSource(tree.parent / name, root=tree), picture, [1, 1, 0, 0, 0], ["9", "10"])
    assert isinstance(open_source(tree / name), ListSource)


def test_a_list_reads_from_a_zip_and_takes_absolute_paths_below_its_root(tree, picture):
    (tree / "list.csv").write_text("".join(f"{tree / path},x{who}\n" for path, who in FILES))
    check(ListSource(tree / "list.csv"), picture, [0, 0, 1, 1, 1], ["x10", "x9"])
    with zipfile.ZipFile(tree.parent / "faces.zip", "w") as archive:
        for path, _ in FILES:
            archive.write(tree / path, path)
    (tree.parent / "list.csv").write_text("".join(f"{path},{who}\n" for path, who in FILES))
    check(
        ListSource(tree.parent / "list.csv", tree.parent / "faces.zip"),
        picture,
        [1, 1, 0, 0, 0],
        ["9", "10"],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "list.csv: the list is empty"),
        ("a/0.png\n", r"list\.csv line 1: 1 column"),
        ("a/0.png,1\n../secret.png,1\n", r"list\.csv line 2: '\.\./secret\.png' is not below"),
        ("a/../../secret.png,1\n", "is not below"),
        ("/etc/passwd,1\n", "'/etc/passwd' is not below"),
        (",1\n", "'' is not below"),
    ],
)
def test_a_bad_list_is_refused(tree, text, message):
    (tree / "list.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        ListSource(tree / "list.csv")


def test_a_listed_image_that_is_missing_is_named_on_access(tree):
    (tree / "list.csv").write_text("a/0.png,1\na/zz.png,1\n")
    with pytest.raises(InputError, match=r"a/zz\.png: cannot read this file"):
        ListSource(tree / "list.csv")[1]
    for name, message in (
        ("none.csv", "cannot read this list"),
        ("list.json", "unknown kind of list"),
    ):
        with pytest.raises(InputError, match=message):
            ListSource(tree / name)


def parquet_table(picture, *, wrapped: bool, identity):
    import pyarrow as pa

    images = [encode_png(picture(index)) for index in range(5)]
    cells = [{"bytes": image, "path": None} for image in images] if wrapped else images
    return pa.table({"image": cells, "label": identity})


@pytest.mark.parametrize("wrapped", [True, False])
def test_parquet(tmp_path, picture, wrapped):
    pq = pytest.importorskip("pyarrow.parquet")
    table = parquet_table(picture, wrapped=wrapped, identity=[4, 4, 11, 11, 11])
    pq.write_table(table, tmp_path / "one.parquet", row_group_size=2)
    check(open_source(tmp_path / "one.parquet"), picture, [0, 0, 1, 1, 1], ["4", "11"])
    (tmp_path / "many").mkdir()
    pq.write_table(table.slice(0, 3), tmp_path / "many" / "0.parquet", row_group_size=2)
    pq.write_table(table.slice(3), tmp_path / "many" / "1.parquet", row_group_size=2)
    check(open_source(tmp_path / "many"), picture, [0, 0, 1, 1, 1], ["4", "11"])


@pytest.mark.parametrize(
    ("paths", "found", "first", "without"),
    [
        (["a/1.jpg", "a/2.jpg", "b/1.jpg"], ["a/1.jpg", "a/2.jpg", "b/1.jpg"], None, 0),
        ([None, None, ""], [None] * 3, None, 3),
        (["a/1.jpg", None, "b/1.jpg"], [None] * 3, "row group 0 row 1", 1),
        ([None, "a/2.jpg", ""], [None] * 3, "row group 0 row 0", 2),
        (["a/1.jpg", "a/2.jpg", ""], [None] * 3, "row group 1 row 0", 1),
    ],
)
def test_parquet_has_the_paths_of_its_image_column(tmp_path, picture, paths, found, first, without):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": encode_png(picture(n)), "path": path} for n, path in enumerate(paths)]
    table = pa.table({"image": cells, "label": [0, 0, 1]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=2)
    source = open_source(tmp_path / "x.parquet")
    assert [source.path(index) for index in range(3)] == found
    assert source.remarks == (
        ()
        if first is None
        else (
            f"{tmp_path / 'x.parquet'} {first}: no path; {without} of 3 rows have none, "
            "so the paths of the others are not used either",
        )
    )


@pytest.mark.parametrize("dictionary", [False, True])
@pytest.mark.parametrize(
    ("kind", "first", "message"),
    [
        ("float16", 2**11 - 5, None),
        ("float16", 2**11 - 4, "row 4: label 2048 is 2¹¹ or more, where float16 merges identities"),
        ("float32", 2**24 - 5, None),
        ("float32", 2**24, "row 0: label 16777216 is 2²⁴ or more, where float32 merges"),
        ("float32", 1e8, "row 0: label 100000000 is 2²⁴ or more, where float32 merges"),
        ("float64", 2**24, None),
        ("int32", 2**24, None),
        ("float64", 2**53, "label '9007199254740992"),
    ],
)
def test_labels_that_their_type_of_number_merges(
    tmp_path, picture, kind, first, message, dictionary
):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    labels = pa.array((first + np.arange(5)).astype(kind))
    if dictionary and kind != "float16":
        labels = labels.dictionary_encode()
    path = tmp_path / "x.parquet"
    pq.write_table(parquet_table(picture, wrapped=False, identity=labels), path)
    if message is None:
        names = [str(first + number) for number in range(5)]
        check(open_source(path), picture, [0, 1, 2, 3, 4], names)
    else:
        with pytest.raises(InputError, match=message):
            open_source(path)


def test_parquet_names_classes_as_hugging_face_does(tmp_path, picture):
    pq = pytest.importorskip("pyarrow.parquet")
    from arcface_jax.data.sources.parquet import ParquetSource

    feature = {"names": ["Ann", "Bob", "Cid"], "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    table = parquet_table(picture, wrapped=True, identity=[0, 0, 2, 2, 2]).replace_schema_metadata(
        metadata
    )
    pq.write_table(table, tmp_path / "x.parquet")
    check(ParquetSource(tmp_path / "x.parquet"), picture, [0, 0, 1, 1, 1], ["Ann", "Cid"])


def test_bad_parquet_is_refused(tmp_path, picture):
    pq = pytest.importorskip("pyarrow.parquet")
    from arcface_jax.data.sources.parquet import ParquetSource

    path = tmp_path / "x.parquet"
    with pytest.raises(InputError, match=r"x\.parquet: no such file"):
        ParquetSource(path)
    path.write_bytes(b"PAR1 nonsense")
    with pytest.raises(InputError, match=r"x\.parquet: damaged, or not a Parquet file"):
        ParquetSource(path)
    pq.write_table(parquet_table(picture, wrapped=True, identity=["x", "x", None, "y", "y"]), path)
    with pytest.raises(InputError, match=r"x\.parquet row 2: no identity; give each image one"):
        ParquetSource(path)
    pq.write_table(parquet_table(picture, wrapped=True, identity=list("xxyyy")), path)
    with pytest.raises(InputError, match="no column 'face'; it has image, label"):
        ParquetSource(path, image_column="face")
    with pytest.raises(InputError, match="row group 0 row 1: no image bytes in column 'label'"):
        ParquetSource(path, image_column="label").encoded(1)


def test_parquet_keeps_few_row_groups(tmp_path, picture, monkeypatch):
    pq = pytest.importorskip("pyarrow.parquet")
    from arcface_jax.data.sources import parquet

    pq.write_table(
        parquet_table(picture, wrapped=False, identity=list("xxyyy")),
        tmp_path / "x.parquet",
        row_group_size=1,
    )
    monkeypatch.setattr(parquet, "_CACHE_BYTES", 1200)
    source = parquet.ParquetSource(tmp_path / "x.parquet")
    for index in [0, 1, 2, 3, 4, 0, 2, 4]:
        np.testing.assert_array_equal(source[index], picture(index))
        assert len(source._cache) <= 2


def test_tfds_reads_converted_sets_without_tensorflow(tree, picture, tmp_path):
    convert(FolderSource(tree), tmp_path / "set", "array_record")
    check(open_source(tmp_path / "set"), picture, [0, 0, 1, 1, 1], ["a", "b"])
    assert len(TfdsSource(tmp_path / "set", split="train[:2]").identity_names) == 1
    assert "tensorflow" not in sys.modules


class DrawnFaces(tensorflow_datasets.core.GeneratorBasedBuilder):
    """As `lfw` in the catalogue: a text identity under another name."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        return tensorflow_datasets.core.DatasetInfo(
            builder=self,
            features=tensorflow_datasets.features.FeaturesDict(
                {
                    "face": tensorflow_datasets.features.Image(shape=(12, 12, 3)),
                    "who": tensorflow_datasets.features.Text(),
                    "age": np.int64,
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for index in range(5):
            image = np.random.default_rng(index).integers(0, 256, (12, 12, 3), dtype=np.uint8)
            yield (
                index,
                {
                    "face": io.BytesIO(encode_png(image)),
                    "who": "Zoe" if index < 2 else "Ann",
                    "age": index,
                },
            )


def test_tfds_by_catalogue_name_with_a_text_identity(tmp_path, picture):
    DrawnFaces(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    source = TfdsSource("drawn_faces", data_dir=tmp_path, image_key="face", identity_key="who")
    assert list(source.identity_names) == ["Ann", "Zoe"]
    images = sorted(source[index].tobytes() for index in range(5))  # TFDS shuffles while preparing
    assert images == sorted(picture(index).tobytes() for index in range(5))
    for index in range(5):
        number = next(n for n in range(5) if np.array_equal(source[index], picture(n)))
        assert source.labels[index] == (1 if number < 2 else 0)
    with pytest.raises(InputError, match="no column 'label'; it has"):
        TfdsSource("drawn_faces", data_dir=tmp_path, image_key="face")
    with pytest.raises(InputError, match=r"split test: no split 'test'; it has train"):
        TfdsSource("drawn_faces", "test", data_dir=tmp_path, image_key="face", identity_key="who")


def test_tfds_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="no_such_set: TFDS has no such data set, and there"):
        open_source("tfds:no_such_set")
    with pytest.raises(InputError, match="lfw split train: is not prepared; call download"):
        TfdsSource("lfw", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"no dataset_info\.json in it"):
        TfdsSource(tmp_path)


def test_examples_keep_the_encoded_bytes(picture):
    encoded = encode_png(picture(0))
    assert image_example(encoded, 3)["image"].getvalue() == encoded


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def test_webdataset_shards(tmp_path, picture):
    for shard, numbers in enumerate(([0, 1], [2, 3, 4])):
        members = []
        for number in numbers:
            image = (f"{number:06d}.png", encode_png(picture(number)))
            identity = (f"{number:06d}.cls", b"10" if number < 2 else b"9\n")
            members += [image, identity] if number % 2 else [identity, image]
        write_tar(tmp_path / f"shard-{shard}.tar", members)
    check(open_source(tmp_path), picture, [1, 1, 0, 0, 0], ["9", "10"])


def test_a_tar_file_of_folders(tmp_path, picture):
    members = [
        (f"{name}.png", encode_png(picture(i)))
        for i, name in enumerate(("a/0", "a/1", "b/0", "b/1", "../b/2"))
    ]
    members += [("a/.hidden.png", b"x"), ("a/notes.md", b"x")]
    write_tar(tmp_path / "x.tar", members)
    check(open_source(tmp_path / "x.tar"), picture, [1, 1, 2, 2, 0], ["../b", "a", "b"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_the_keys_of_webdataset(tmp_path, picture):
    image = [encode_png(picture(number)) for number in range(3)]
    members = [
        ("./b/001.left.png", image[0]), ("./b/001.cls", b"7"), ("./b/001.txt", b"a smiling man"),
        ("./b/001.right.png", image[1]), ("./b/002.jfif", image[2]), ("./b/002.cls", b"9"),
        ("./b/002.json", b"{}"), ("./b/003.mp4", b"film"),
    ]  # fmt: skip
    write_tar(tmp_path / "x.tar", members)
    source = open_source(tmp_path / "x.tar")
    check(source, picture, [0, 0, 1], ["7", "9"])
    assert source.remarks == (
        f"{tmp_path / 'x.tar'}: left out as no images: .txt (1), .json (1), .mp4 (1)",
    )


def test_captions_are_no_identities(tmp_path, picture):
    image = encode_png(picture(0))
    write_tar(tmp_path / "x.tar", [("ann/1.png", image), ("ann/1.txt", b"a smiling woman")])
    assert open_source(tmp_path / "x.tar").identity_names == ["ann"]
    write_tar(tmp_path / "x.tar", [("1.png", image), ("1.txt", b"a smiling woman")])
    with pytest.raises(InputError, match=r"1\.png: no identity; put the image .*1\.cls"):
        open_source(tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.png", b""), ("1.cls", b"")], r"member 1\.cls of 0 bytes; an identity is due"),
        ([("1.png", b""), ("1.cls", b"x" * 2000)], r"member 1\.cls of 2,000 bytes"),
        (
            [("a/1.png", b""), ("a/2.png", b""), ("a/1.cls", b"5")],
            r"a/2\.png: no identity; write its",
        ),
        ([("1.png", b""), ("1.cls", b"5"), ("1.b.cls", b"6")], r"1\.b\.cls holds another identity"),
        ([("train/a/1.png", b""), ("test/a/1.png", b"")], "holds the splits test, train; give"),
    ],
)
def test_archives_that_contradict_themselves(tmp_path, members, message):
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(InputError, match=message):
        open_source(tmp_path / "x.tar")


@pytest.mark.parametrize("folder", ["", "data", "a/b"])
def test_splits_of_tar_files(tmp_path, picture, folder):
    root = tmp_path / "set"
    (root / folder).mkdir(parents=True)
    for name, numbers in (("train-000", [0]), ("train-001", [1]), ("val_000", [2])):
        members = [(f"{name[0]}/{number}.png", encode_png(picture(number))) for number in numbers]
        write_tar(root / folder / f"{name}.tar", members)
    with pytest.raises(InputError, match=r"holds the splits train, val; give one .*set:train"):
        open_source(root)
    check(open_source(f"{root}:train"), picture, [0, 0], ["t"])
    with pytest.raises(InputError, match=r"has no split 'test', but train, val"):
        open_source(f"{root}:test")


@pytest.mark.parametrize(
    "files",
    [
        {"data/train-0-of-2": [0, 1], "data/train-1-of-2": [2], "data/test-0-of-1": [3, 4]},
        {"train-0": [0, 1, 2], "validation-0": [3, 4]},
        {"default/train/0000": [0, 1, 2], "default/test/0000": [3, 4]},
    ],
)  # fmt: skip
def test_the_root_of_a_parquet_repository_and_its_splits(tmp_path, picture, files):
    pq = pytest.importorskip("pyarrow.parquet")
    table = parquet_table(picture, wrapped=True, identity=[4, 4, 11, 11, 11])
    for name, rows in files.items():
        path = tmp_path / "set" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.take(rows), path)
    (tmp_path / "set" / "README.md").write_text("a card")
    with pytest.raises(InputError, match=r"set: holds the splits .*train.*; give one of them, as"):
        open_source(tmp_path / "set")
    check(open_source(f"{tmp_path / 'set'}:train"), picture, [0, 0, 1], ["4", "11"])


def test_roots_of_other_repositories(tmp_path, picture, write_tree):
    write_tree(tmp_path / "faces", {"a": 2, "b": 3})
    convert(FolderSource(tmp_path / "faces"), tmp_path / "set" / "packed", "recordio")
    check(open_source(tmp_path / "set"), picture, [0, 0, 1, 1, 1], ["a", "b"])
    (tmp_path / "set" / "val.rec").write_bytes(b"x")
    with pytest.raises(InputError, match="set: holds 2 record files, such as"):
        open_source(tmp_path / "set")
    with pytest.raises(InputError, match=r"train\.rec: has no splits; leave :test out"):
        open_source(f"{tmp_path / 'set' / 'packed' / 'train.rec'}:test")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="saved: saved by Hugging Face's save_to_disk"):
        open_source(tmp_path / "saved")


def test_bad_tar_files_are_refused(tmp_path, picture):
    path = tmp_path / "x.tar"
    image = encode_png(picture(0))
    write_tar(path, [("1.png", image)])
    with pytest.raises(InputError, match=r"x\.tar:1\.png: no identity; put the image in a folder"):
        open_source(path)
    write_tar(path, [("a/1.md", b"x")])
    with pytest.raises(InputError, match="no image in it"):
        open_source(path)
    write_tar(path, [("a/1.png", image)], "w:gz")
    with pytest.raises(InputError, match="is compressed by gzip, where"):
        open_source(path)
    write_tar(path, [("a/1.png", image)])
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match=r"a/1\.png is longer than the archive"):
        open_source(path)
    write_tar(path, [("a/1.png", image)])
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(InputError, match="the archive ends"):
        source[0]


def test_open_source_refuses_what_it_does_not_know(tmp_path):
    with pytest.raises(
        InputError, match="missing: no such file or folder; it can be a folder or zip file"
    ):
        open_source(tmp_path / "missing")
    (tmp_path / "x.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match=r"x\.mp4: unknown kind of file"):
        open_source(tmp_path / "x.mp4")
