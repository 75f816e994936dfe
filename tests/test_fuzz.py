"""Damaged and hostile files: every reader gives what it promises or an InputError, nothing else.

Valid files are damaged at random: bits flipped, bytes set to extremes, parts cut
out, repeated or inserted, the end cut off. The slow tests do so more often, and a
night's run as often as it is told:

    python -m pytest tests/test_fuzz.py --fuzz-inputs 50000 --timeout 36000
"""

import io
import math
import pathlib
import pickle
import tarfile
import warnings
import zipfile
from random import Random

import jax
import numpy as np
import pytest
import safetensors.numpy
import simplejpeg
from PIL import Image

from arcface_jax.commands.evaluation_inputs import read_embeddings
from arcface_jax.commands.gallery import read_gallery
from arcface_jax.data.convert import convert
from arcface_jax.data.decode import decode, encode_png
from arcface_jax.data.landmarks import read_landmarks
from arcface_jax.data.open import open_source
from arcface_jax.data.pair_lists import (
    read_cfp_pairs,
    read_lfw_pairs,
    read_pair_list,
    read_ytf_splits,
)
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.recordio_format import RecordWriter, format_index, pack
from arcface_jax.errors import InputError
from arcface_jax.evaluation.ijb import (
    read_face_media,
    read_ijb_landmarks,
    read_template_matches,
    read_template_pairs,
    read_template_subjects,
)
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.mxnet import import_mxnet
from arcface_jax.interop.mxnet_file import read_params
from arcface_jax.interop.onnx import import_onnx
from arcface_jax.interop.torch import import_torch, read_class_weights, save_safetensors
from arcface_jax.models.iresnet import IResNet
from arcface_jax.pixels import ARCFACE_TORCH
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import config_to_json, read_config
from tests.interop import mxnet_networks
from tests.interop.mxnet_networks import V0, V1, V2, V3, params_file

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


WORDS = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def damage(content: bytes, random: Random) -> bytes:
    """`content` after one to four changes."""
    changed = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at, amount = random.randrange(len(changed) + 1), random.randint(1, 40)
        new = random.choice((*WORDS, random.randbytes(random.randint(1, 8))))
        match random.choice(("flip", "set", "word", "cut", "remove", "repeat", "insert")):
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


@pytest.fixture(params=[40, pytest.param(1000, marks=pytest.mark.slow)], ids=["quick", "thorough"])
def fuzz(request, record_property):
    """fuzz(content, action) calls action(damaged content) for many damages; `content` may be a
    function of a random generator too. What fails tells its number, which makes it again.
    """
    asked = request.config.getoption("--fuzz-inputs")

    def run(content, action, share: float = 1.0) -> None:
        for number in range(math.ceil(share * (asked or request.param))):
            random = Random(number)
            made = damage(content, random) if isinstance(content, bytes) else content(random)
            run.count += 1
            try:
                survives(lambda made=made: action(made))
            except BaseException as error:
                error.add_note(f"input {number}: {made[:2000]!r}")
                raise

    run.count = 0
    yield run
    record_property("inputs", run.count)


def of_file(path: pathlib.Path, read):
    """An action that writes its input to `path` and reads that."""

    def action(content: bytes) -> None:
        path.unlink(missing_ok=True)  # a mapped file must not shrink under its reader
        path.write_bytes(content)
        read(path)

    return action


@pytest.mark.parametrize("name", IMAGES)
def test_damaged_images(name, fuzz):
    fuzz(IMAGES[name], lambda content: check_image(decode(content, "x")))


def test_random_bytes_as_images(fuzz):
    starts = [b"", *(content[:20] for content in IMAGES.values())]

    def make(random: Random) -> bytes:
        return random.choice(starts) + random.randbytes(random.randint(0, 300))

    fuzz(make, lambda content: check_image(decode(content, "x")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("fuzz") / "faces"
    names = ["jpeg", "png", "webp", "bmp"]
    for index, name in enumerate(names):
        (root / f"p{index % 2}").mkdir(parents=True, exist_ok=True)
        (root / f"p{index % 2}" / f"p{index % 2}_{index:04d}.{name}").write_bytes(IMAGES[name])
    return root


@pytest.mark.parametrize("part", ["rec", "idx", "no idx", "lst"])
def test_damaged_record_files(folder, tmp_path, part, fuzz):
    convert(FolderSource(folder), tmp_path / "set", "recordio")
    if part == "no idx":
        (tmp_path / "set" / "train.idx").unlink()
    path = tmp_path / "set" / ("train.rec" if part == "no idx" else f"train.{part}")
    fuzz(path.read_bytes(), of_file(path, lambda _: read_everything(open_source(path.parent))))


@pytest.mark.parametrize("indexed", [True, False])
def test_damaged_record_files_of_others(tmp_path, indexed, fuzz):
    """Several labels a record, a header record, and a payload that must be cut in two."""
    path = tmp_path / "x.rec"
    writer = RecordWriter(path)
    offsets = [writer.write(pack([3.0, 4.0], 0))]
    for key, name in ((1, "jpeg"), (2, "png")):
        offsets.append(writer.write(pack([key, 30.0, 1.0], key, IMAGES[name])))
    offsets.append(writer.write(pack(7.0, 3, IMAGES["bmp"] + b"\x0a\x23\xd7\xce" * 2)))
    writer.close()
    if indexed:
        (tmp_path / "x.idx").write_text(format_index(range(4), offsets))
    fuzz(path.read_bytes(), of_file(path, lambda _: read_everything(open_source(path))))


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_files(folder, tmp_path, compression, fuzz):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
    fuzz(path.read_bytes(), of_file(path, lambda _: read_everything(open_source(path))))


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_damaged_tar_files(folder, tmp_path, layout, fuzz):
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w", format=layout) as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.add(file, str(file.relative_to(folder)))
        member = tarfile.TarInfo(
            "a/" * 20 + "p0_0000.cls" if layout != tarfile.USTAR_FORMAT else "p0/p0_0000.cls"
        )
        member.size = 2
        archive.addfile(member, io.BytesIO(b"12"))
    fuzz(path.read_bytes(), of_file(path, lambda _: read_everything(open_source(path))))


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_damaged_bin_files(tmp_path, protocol, fuzz):
    images = [
        np.frombuffer(IMAGES[name], np.uint8) if name == "png" else IMAGES[name]
        for name in ("jpeg", "png")
    ]
    content = pickle.dumps((images * 2, [True, np.bool_(False)]), protocol)
    fuzz(content, of_file(tmp_path / "x.bin", lambda path: read_everything(open_source(path))))


def test_damaged_parquet_files(tmp_path, fuzz):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    path = tmp_path / "x.parquet"
    table = pa.table({"image": [IMAGES["jpeg"], IMAGES["png"]] * 2, "label": ["a", "a", "b", "b"]})
    pq.write_table(table, path, row_group_size=2)
    fuzz(path.read_bytes(), of_file(path, lambda _: read_everything(open_source(path))))


@pytest.mark.parametrize(
    "part", ["faces-train.array_record-00000-of-00001", "dataset_info.json", "features.json"]
)
def test_damaged_tfds_sets(folder, tmp_path, part, fuzz):
    convert(FolderSource(folder), tmp_path / "set", "array_record")
    path = tmp_path / "set" / part
    read = of_file(path, lambda _: read_everything(open_source(path.parent)))
    fuzz(path.read_bytes(), read, share=0.25)


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1")
LISTS = {
    "list.csv": "p0/p0_0000.jpeg,1\np1/p1_0001.png,2\n",
    "named.tsv": "path\tidentity\np0/p0_0000.jpeg\t1\np1/p1_0001.png\t2\n",
    "list.txt": "p0/p0_0000.jpeg Åsa\r\np1/p1_0001.png 2\r\n",
    "insightface.lst": "1\tp0/p0_0000.jpeg\t1\n1\tp1/p1_0001.png\t2\n",
    "im2rec.lst": "0\t1.000000\tp0/p0_0000.jpeg\n1\t2.000000\tp1/p1_0001.png\n",
}


@pytest.mark.parametrize("name", LISTS)
def test_damaged_lists(folder, tmp_path, name, fuzz):
    read = of_file(tmp_path / name, lambda path: read_everything(open_source(path, folder)))
    for encoding in ENCODINGS:
        fuzz(LISTS[name].encode(encoding), read, share=1 / len(ENCODINGS))


TEXTS = {
    "LFW's pairs": ("1\t1\np0\t0\t2\np0\t0\tp1\t1\n", read_lfw_pairs),
    "pairs": (
        "p0/p0_0000 p0/p0_0002 1\np0/p0_0000 p1/p1_0001 0\n",
        read_pair_list,
    ),
    "YTF's splits": (
        "split, a, b, same\n1, p/0, p/1, 1\n2, p/0, q/0, 0\n",
        lambda path, _: read_ytf_splits(path, ["p/0", "p/1", "q/0"]),
    ),
    "landmarks": (
        "a.jpg 0 1 2 3 4 5 6 7 8 9\nb.jpg 0 1 2 3 4 5 6 7 8 9\n",
        lambda path, _: read_landmarks(path),
    ),
    "CelebA's landmarks": (
        "2\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y ml_x ml_y mr_x mr_y\n"
        "a.jpg 0 1 2 3 4 5 6 7 8 9\nb.jpg 0 1 2 3 4 5 6 7 8 9\n",
        lambda path, _: read_landmarks(path),
    ),
    "landmarks.lst": (
        "1\ta.jpg\t0\t1\t2\t3\t4\t0\t1\t2\t3\t4\t5\t6\t7\t8\t9\n",
        lambda path, _: read_landmarks(path),
    ),
    "IJB's media": ("a.jpg 1 2\nb c.jpg 1 3\n", lambda path, _: read_face_media(path)),
    "IJB's pairs": ("1 2 1\n1 3 0\n", lambda path, _: read_template_pairs(path)),
    "IJB's landmarks": (
        "a.jpg 0 1 2 3 4 5 6 7 8 9 0.99\nb.jpg 0 1 2 3 4 5 6 7 8 9 1\n",
        lambda path, _: read_ijb_landmarks(path),
    ),
    "IJB's gallery": (
        'TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,7,"a, b.jpg"\n1,7,c.jpg\n2,8,d.jpg\n',
        lambda path, _: read_template_subjects(path),
    ),
    "IJB's matches": ("1,2\n1,3\n", lambda path, _: read_template_matches(path)),
    "configuration": (config_to_json(Config()), lambda path, _: read_config(path)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_damaged_text_files(folder, tmp_path, name, fuzz):
    text, read = TEXTS[name]
    source = FolderSource(folder)
    suffix = ".lst" if name.endswith(".lst") else ".txt"
    action = of_file(tmp_path / f"x{suffix}", lambda path: read(path, source))
    for encoding in ENCODINGS:
        fuzz(text.encode(encoding), action, share=1 / len(ENCODINGS))


def test_damaged_lists_of_cfp(folder, tmp_path, fuzz):
    split = tmp_path / "Split" / "FF"
    (split / "01").mkdir(parents=True)
    (tmp_path / "Pair_list_F.txt").write_text("1 ../x/p0/p0_0000.jpg\n2 ../x/p1/p1_0001.jpg\n")
    for name in ("same", "diff"):
        (split / "01" / f"{name}.txt").write_text("1,1\n" if name == "same" else "1,2\n")
    source = FolderSource(folder)
    for path in sorted(tmp_path.rglob("*.txt")):
        content = path.read_bytes()
        fuzz(content, of_file(path, lambda _: read_cfp_pairs(split, source)), share=1 / 3)
        path.write_bytes(content)


def arrays() -> dict[str, np.ndarray]:
    """As `embed` keeps them."""
    embeddings = np.eye(4, 3, dtype=np.float32) + 1
    labels, names = np.array([0, 0, 1, 1]), np.array(["a", "a", "b", "b"])
    return {"embeddings": embeddings, "labels": labels, "identities": names}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", ["embeddings", "gallery"])
def test_damaged_arrays(tmp_path, save, kind, fuzz):
    path = tmp_path / "x.npz"
    save(path, **arrays())
    read = {"gallery": read_gallery, "embeddings": lambda file: read_embeddings(file, "none", 2)}
    fuzz(path.read_bytes(), of_file(path, read[kind]))


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_damaged_galleries(tmp_path, suffix, fuzz):
    np.save(tmp_path / "x.npy", arrays()["embeddings"])
    (tmp_path / "x.csv").write_text("image,identity\n" + "a.jpg,Åsa\n" * 4)
    path = tmp_path / f"x{suffix}"
    fuzz(path.read_bytes(), of_file(path, lambda _: read_gallery(tmp_path / "x.npy")))


WEIGHTS = {
    "backbone": {
        "layer1.0.conv1.weight": np.ones((2, 2, 3, 3), np.float32),
        "fc.weight": np.ones((6, 8), np.float32),
    },
    "head": {"weight": np.ones((5, 6), np.float32)},
}


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_of_torch(tmp_path, zipped, fuzz):
    torch = pytest.importorskip("torch")
    content = {
        part: {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
        for part, arrays in WEIGHTS.items()
    }
    path = tmp_path / "x.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)

    def read(path: pathlib.Path) -> None:
        survives(lambda: import_torch(path))
        read_class_weights(path, 6)

    fuzz(path.read_bytes(), of_file(path, read))


def test_damaged_safetensors(tmp_path, fuzz):
    flat = {f"{part}.{key}": a for part, arrays in WEIGHTS.items() for key, a in arrays.items()}
    path = tmp_path / "x.safetensors"

    def read(path: pathlib.Path) -> None:
        survives(lambda: import_torch(path))
        read_class_weights(path, 6)

    fuzz(safetensors.numpy.save(flat), of_file(path, read))


@pytest.fixture(scope="module")
def network() -> TrainedModel:
    """As small as its kind goes."""
    backbone = IResNet((1, 1, 1, 1), 4, 1)
    images = np.zeros((1, 16, 16, 3), np.float32)
    variables = jax.device_get(jax.jit(backbone.init)(jax.random.key(0), images))
    return TrainedModel(backbone, variables, ARCFACE_TORCH, (16, 16), "arcface_torch")


def test_damaged_networks(tmp_path, network, fuzz):
    path = tmp_path / "x.safetensors"
    save_safetensors(network, path)
    fuzz(path.read_bytes(), of_file(path, import_torch), share=0.1)


@pytest.mark.parametrize("version", [V0, V1, V2, V3])
def test_damaged_parameters_of_mxnet(tmp_path, version, fuzz):
    arrays = {"arg:a": np.ones((1, 2), np.float32), "aux:b": np.ones(3, np.float16)}
    fuzz(params_file(arrays, version), of_file(tmp_path / "x.params", read_params))


@pytest.mark.parametrize("part", ["model-0000.params", "model-symbol.json"])
def test_damaged_models_of_mxnet(tmp_path, monkeypatch, part, fuzz):
    """The comparison, which compiles, is left out; what the graph computes is not."""
    monkeypatch.setattr("arcface_jax.interop.mxnet.check_same", lambda *_: None)
    model = mxnet_networks.iresnet().write(tmp_path)
    path = tmp_path / part
    fuzz(path.read_bytes(), of_file(path, lambda _: import_mxnet(model)), share=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter of the published packs
def test_damaged_onnx_files(tmp_path, fuzz):
    pytest.importorskip("onnx")
    torch = pytest.importorskip("torch")
    from tests.interop import torch_networks

    path = tmp_path / "x.onnx"
    network = torch_networks.randomise(torch_networks.IResNet((1, 1, 1, 1)))
    torch.onnx.export(network, torch.zeros(1, 3, 32, 32), path, dynamo=False)
    fuzz(path.read_bytes(), of_file(path, import_onnx), share=0.1)
