"""Damaged and hostile files: every reader gives an image or an InputError, nothing else.

Valid files are damaged at random: bits flipped, bytes set to extremes, parts cut
out, repeated or inserted, the end cut off. The slow tests do the same a
hundred times as often:

    python -m pytest -m slow tests/data/test_fuzz.py -s
"""

import io
import pathlib
import pickle
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import simplejpeg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from arcface_jax.data.convert import convert
from arcface_jax.data.decode import decode, encode_png
from arcface_jax.data.landmarks import read_landmarks
from arcface_jax.data.pair_lists import read_lfw_pairs, read_pair_list, read_ytf_splits
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.lists import ListSource, read_lst
from arcface_jax.data.sources.recordio import RecordIOSource
from arcface_jax.data.sources.tar import TarSource
from arcface_jax.data.sources.tfds import TfdsSource
from arcface_jax.errors import InputError

QUICK, THOROUGH = 40, 1000
PICTURE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)


def image_files() -> dict[str, bytes]:
    files = {"jpeg": simplejpeg.encode_jpeg(PICTURE, 90), "png": encode_png(PICTURE)}
    for name, image in (
        ("BMP", Image.fromarray(PICTURE)),
        ("PPM", Image.fromarray(PICTURE)),
        ("WEBP", Image.fromarray(PICTURE)),
        ("TIFF", Image.fromarray(PICTURE)),
        ("GIF", Image.fromarray(PICTURE[..., 0])),
    ):
        buffer = io.BytesIO()
        image.save(buffer, name)
        files[name.lower()] = buffer.getvalue()
    for name, image, options in (
        ("progressive jpeg", Image.fromarray(PICTURE), {"format": "JPEG", "progressive": True}),
        ("cmyk jpeg", Image.fromarray(PICTURE).convert("CMYK"), {"format": "JPEG"}),
        ("palette png", Image.fromarray(PICTURE).quantize(16), {"format": "PNG"}),
        (
            "deflated tiff",
            Image.fromarray(PICTURE),
            {"format": "TIFF", "compression": "tiff_deflate"},
        ),
    ):
        buffer = io.BytesIO()
        image.save(buffer, **options)
        files[name] = buffer.getvalue()
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", exif=exif)
    files["exif jpeg"] = buffer.getvalue()
    return files


IMAGES = image_files()


def edits(length: int) -> st.SearchStrategy[list[tuple[str, int, int, bytes]]]:
    """One to four changes: kind, place, amount, new bytes."""
    kinds = st.sampled_from(["flip", "set", "word", "cut", "remove", "repeat", "insert"])
    word = st.sampled_from([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80"])
    edit = st.tuples(
        kinds,
        st.integers(0, length - 1),
        st.integers(1, 40),
        word | st.binary(min_size=1, max_size=8),
    )
    return st.lists(edit, min_size=1, max_size=4)


def damage(content: bytes, changes: list[tuple[str, int, int, bytes]]) -> bytes:
    """`content` after the changes."""
    changed = bytearray(content)
    for kind, at, amount, new in changes:
        match kind:
            case "flip" if at < len(changed):
                changed[at] ^= 1 << amount % 8
            case "set" if at < len(changed):
                changed[at] = (0, 1, 0x7F, 0x80, 0xFF)[amount % 5]
            case "word":
                changed[at : at + len(new)] = new
            case "cut":
                del changed[at:]
            case "remove":
                del changed[at : at + amount]
            case "repeat":
                changed[at:at] = changed[at : at + amount]
            case "insert":
                changed[at:at] = new
    return bytes(changed)


def survives(action) -> None:
    """Runs `action`; only an InputError of one line may come out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # decoders warn of what they repair
        try:
            action()
        except InputError as error:
            message = str(error)
        else:
            return
    assert message
    assert message.isprintable()


def read_everything(source) -> None:
    """All that training, checks and conversion ask of a source; each image may fail by itself."""
    assert source.labels.dtype == np.int32
    assert len(source.labels) == len(source)
    assert source.labels.max() < len(source.identity_names)
    assert source.encoded_sizes().shape == (len(source),)
    for index in range(len(source)):
        survives(lambda index=index: check_image(source[index]))
    survives(lambda: source.fingerprint)


def check_image(image: np.ndarray) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


def fuzz(content: bytes, action, examples: int) -> None:
    """Calls action(damaged content) for `examples` different damages."""
    count = 0

    @settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(changes=edits(len(content)))
    def run(changes: list[tuple[str, int, int, bytes]]) -> None:
        nonlocal count
        count += 1
        survives(lambda: action(damage(content, changes)))

    run()
    print(f"survived {count} damaged inputs")


thoroughness = pytest.mark.parametrize(
    "examples", [QUICK, pytest.param(THOROUGH, marks=pytest.mark.slow)], ids=["quick", "thorough"]
)


@thoroughness
@pytest.mark.parametrize("name", IMAGES)
def test_damaged_images(name, examples):
    fuzz(IMAGES[name], lambda content: check_image(decode(content, "x")), examples)


@thoroughness
def test_random_bytes_as_images(examples):
    @settings(max_examples=examples, deadline=None, database=None)
    @given(
        start=st.sampled_from([b"", *(content[:20] for content in IMAGES.values())]),
        rest=st.binary(max_size=300),
    )
    def run(start, rest):
        survives(lambda: check_image(decode(start + rest, "x")))

    run()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("fuzz") / "faces"
    names = ["jpeg", "png", "webp", "bmp"]
    for index, name in enumerate(names):
        (root / f"p{index % 2}").mkdir(parents=True, exist_ok=True)
        (root / f"p{index % 2}" / f"p{index % 2}_{index:04d}.{name}").write_bytes(IMAGES[name])
    return root


@thoroughness
@pytest.mark.parametrize("part", ["rec", "idx", "no idx", "lst"])
def test_damaged_record_files(folder, tmp_path, part, examples):
    convert(FolderSource(folder), tmp_path / "set", "recordio")
    if part == "no idx":
        (tmp_path / "set" / "train.idx").unlink()
    path = tmp_path / "set" / ("train.rec" if part == "no idx" else f"train.{part}")

    def action(content: bytes) -> None:
        path.write_bytes(content)
        read_everything(RecordIOSource(tmp_path / "set"))

    fuzz(path.read_bytes(), action, examples)


@thoroughness
def test_a_damaged_golden_record_file(golden, tmp_path, examples):
    def action(content: bytes) -> None:
        (tmp_path / "x.rec").write_bytes(content)
        read_everything(RecordIOSource(tmp_path / "x.rec"))

    fuzz(golden.rec, action, examples)


@thoroughness
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_files(folder, tmp_path, compression, examples):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))

    def action(content: bytes) -> None:
        path.write_bytes(content)
        read_everything(FolderSource(path))

    fuzz(path.read_bytes(), action, examples)


@thoroughness
@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_tar_files(folder, tmp_path, layout, examples):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=layout) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.add(file, str(file.relative_to(folder)))
        member = tarfile.TarInfo(
            "a/" * 20 + "p0_0000.cls" if layout != tarfile.USTAR_FORMAT else "p0/p0_0000.cls"
        )
        member.size = 2
        archive.addfile(member, io.BytesIO(b"12"))

    def action(content: bytes) -> None:
        path.write_bytes(content)
        read_everything(TarSource(path))

    fuzz(path.read_bytes(), action, examples)


@thoroughness
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_bin_files(tmp_path, protocol, examples):
    images = [
        np.frombuffer(IMAGES[name], np.uint8) if name == "png" else IMAGES[name]
        for name in ("jpeg", "png")
    ]

    def action(content: bytes) -> None:
        (tmp_path / "x.bin").write_bytes(content)
        read_everything(BinSource(tmp_path / "x.bin"))

    fuzz(pickle.dumps((images * 2, [True, np.bool_(False)]), protocol), action, examples)


@thoroughness
def test_damaged_parquet_files(tmp_path, examples):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    from arcface_jax.data.sources.parquet import ParquetSource

    path = tmp_path / "x.parquet"
    table = pa.table({"image": [IMAGES["jpeg"], IMAGES["png"]] * 2, "label": ["a", "a", "b", "b"]})
    pq.write_table(table, path, row_group_size=2)

    def action(content: bytes) -> None:
        path.unlink()  # a mapped file must not shrink under its reader
        path.write_bytes(content)
        read_everything(ParquetSource(path))

    fuzz(path.read_bytes(), action, examples)


TEXTS = {
    "list.csv": ("p0/p0_0000.jpeg,1\np1/p1_0001.png,2\n", ListSource),
    "list.tsv": ("path\tidentity\np0/p0_0000.jpeg\t1\np1/p1_0001.png\t2\n", ListSource),
    "list.lst": ("1\tp0/p0_0000.jpeg\t1\n1\tp1/p1_0001.png\t2\n", ListSource),
}


@thoroughness
@pytest.mark.parametrize("name", TEXTS)
def test_damaged_lists(folder, name, examples):
    text, reader = TEXTS[name]

    def action(content: bytes) -> None:
        (folder.parent / name).write_bytes(content)
        read_everything(reader(folder.parent / name, folder))

    fuzz(text.encode(), action, examples)


@thoroughness
def test_damaged_text_files(folder, tmp_path, examples):
    source = FolderSource(folder)
    readers = {
        b"1\t1\np0\t0\t2\np0\t0\tp1\t1\n": lambda path: read_lfw_pairs(path, source),
        b"p0/p0_0000 p0/p0_0002 1\np0/p0_0000 p1/p1_0001 0\n": lambda path: read_pair_list(
            path, source
        ),
        b"split, a, b, same\n1, p/0, p/1, 1\n2, p/0, q/0, 0\n": lambda path: read_ytf_splits(
            path, ["p/0", "p/1", "q/0"]
        ),
        b"1\ta.jpg\t0\t1\t2\t3\t4\t0\t1\t2\t3\t4\t5\t6\t7\t8\t9\n": lambda path: list(
            read_lst(path)
        ),
        b"a.jpg 0 1 2 3 4 5 6 7 8 9\nb.jpg 0 1 2 3 4 5 6 7 8 9\n": read_landmarks,
    }
    for content, reader in readers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")

        def action(changed: bytes, reader=reader) -> None:
            (tmp_path / "x.txt").write_bytes(changed)
            reader(tmp_path / "x.txt")

        fuzz(content, action, examples)


@thoroughness
@pytest.mark.parametrize(
    "part", ["faces-train.array_record-00000-of-00001", "dataset_info.json", "features.json"]
)
def test_damaged_tfds_sets(folder, tmp_path, part, examples):
    convert(FolderSource(folder), tmp_path / "set", "array_record")
    path = tmp_path / "set" / part

    def action(content: bytes) -> None:
        path.unlink()  # the reader may still hold the last one
        path.write_bytes(content)
        read_everything(TfdsSource(tmp_path / "set"))

    fuzz(path.read_bytes(), action, examples // 4)
