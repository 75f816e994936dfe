"""Messages are for the person who has the file: one line that names it, and no part of a program.

The law is held by the source: what a message may be made of. And by damaged files of every kind.
"""

import ast
import functools
import io
import json
import pathlib
import pickle
import re
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from arcface_jax.commands.evaluation_inputs import read_embeddings
from arcface_jax.commands.gallery import read_gallery
from arcface_jax.data.convert import convert
from arcface_jax.data.decode import decode
from arcface_jax.data.landmarks import read_landmarks
from arcface_jax.data.open import open_source
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import CUT_OFF, DAMAGED, InputError, reason
from arcface_jax.interop.card import ModelCard
from arcface_jax.interop.stablehlo import load_stablehlo
from arcface_jax.interop.torch import import_torch
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import config_to_json, read_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
INTERNAL = re.compile(
    r"NoneType|ndarray|\bopcode|pickl|\bcodec|\bindices\b|object at|has no attribute|0x[0-9a-f]{4}"
    r"|\b(dict|tuple|str)\b|b'|b\"|\\x|\wError\b|Exception|unpack|__|<class|\bargument"
)


def errors():
    """(file, the handlers it stands in, the call) of every InputError of the package."""
    for folder in ("arcface_jax", "experiments"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            pending = [(ast.parse(file.read_text()), ())]
            while pending:
                node, handlers = pending.pop()
                if isinstance(node, ast.ExceptHandler):
                    handlers = (*handlers, node)
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "InputError":
                    yield file.relative_to(ROOT).as_posix(), handlers, node
                pending += [(child, handlers) for child in ast.iter_child_nodes(node)]


EVERY = list(errors())


def test_no_message_has_the_name_of_an_internal_in_its_own_words():
    said = [
        f"{file}:{call.lineno}: {part.value}"
        for file, _, call in EVERY
        for part in ast.walk(call)
        if isinstance(part, ast.Constant)
        and isinstance(part.value, str)
        and re.search(r"NoneType|ndarray|opcode|pickle|\bindices\b|\bdict\b|\btuple\b", part.value)
    ]
    assert len(EVERY) > 500
    assert said == []


TYPES_THAT_PEOPLE_KNOW = ("type(backbone).__name__", "type(model.backbone).__name__")
"""The class of a network is its name: IResNet."""
OF_PROGRAMMERS = {"arcface_jax/import_path.py", "arcface_jax/models/any_network.py"}
"""Their own module failed to be imported, or gave something: a class says why, or what."""


def test_no_message_has_the_type_of_an_object():
    said = [
        f"{file}:{call.lineno}: {ast.unparse(part)}"
        for file, _, call in EVERY
        for part in ast.walk(call)
        if (isinstance(part, ast.Attribute) and part.attr in ("__name__", "__class__"))
        or (isinstance(part, ast.Call) and getattr(part.func, "id", "") in ("repr", "vars"))
        if ast.unparse(part) not in TYPES_THAT_PEOPLE_KNOW and file not in OF_PROGRAMMERS
    ]
    assert said == []


OWN_ERRORS = {"InputError", "UnreadableError"}


def test_what_another_library_says_goes_through_reason():
    """`{error}` as it is only where the error is one of ours, or the system's `strerror`."""
    said = []
    for file, handlers, call in EVERY:
        for handler in handlers:
            if handler.name is None or ast.unparse(handler.type) in OWN_ERRORS:
                continue
            taken = [part for part in ast.walk(call) if isinstance(part, ast.FormattedValue)]
            for part in taken:
                names = {inner.id for inner in ast.walk(part.value) if isinstance(inner, ast.Name)}
                text = ast.unparse(part.value)
                name = handler.name
                allowed = ("reason(", "_reason(", f"{name}.strerror", f"{name}.filename")
                if name in names and not text.startswith(allowed) and file not in OF_PROGRAMMERS:
                    said.append(f"{file}:{call.lineno}: {text}")
    assert said == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pickle.UnpicklingError("invalid load key, '\\x00'."), DAMAGED),
        (pickle.UnpicklingError("pickle data was truncated"), CUT_OFF),
        (ValueError("at position 5, opcode b'\\n' unknown"), DAMAGED),
        (AttributeError("'NoneType' object has no attribute 'decode'"), DAMAGED),
        (TypeError("cannot unpack non-iterable int object"), DAMAGED),
        (struct.error("unpack_from requires a buffer of at least 4 bytes"), DAMAGED),
        (KeyError("thresholds"), "it has no thresholds"),
        (KeyError(17), DAMAGED),
        (
            KeyError("There is no item named 'a' in the archive"),
            "There is no item named 'a' in the archive",
        ),
        (EOFError(), CUT_OFF),
        (ValueError(), DAMAGED),
        (ValueError("No data left in file"), "No data left in file"),
        (IndexError("list index out of range"), DAMAGED),
        (OSError("cannot identify image file <_io.BytesIO object at 0x7f00aa>"), DAMAGED),
        (SyntaxError("bad header checksum in b'IDAT'"), "bad header checksum in IDAT"),
        (zlib.error("incorrect data check"), "incorrect data check"),
        (zipfile.BadZipFile("Bad CRC-32 for file 'a.png'"), "Bad CRC-32 for file 'a.png'"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OSError(22, "Invalid argument"), DAMAGED),
        (
            ValueError('DATA_LOSS: Error opening "zarr" driver: metadata does not match'),
            DAMAGED,
        ),
        (
            ValueError('Error writing "zarr" [ENOSPC]: No space left on device in OCDBT'),
            "No space left on device",
        ),
        (MemoryError(), "it asks for more memory than there is"),
        (InputError("x.png: says it itself"), "x.png: says it itself"),
        (ValueError("two\nlines"), "two lines"),
    ],
)
def test_reason_keeps_what_people_can_use_and_nothing_else(error, words):
    assert reason(error) == words


def test_reason_of_text_files():
    with pytest.raises(json.JSONDecodeError) as broken:
        json.loads('{"a": \n x}')
    assert reason(broken.value) == "at line 2, column 2"
    with pytest.raises(UnicodeDecodeError) as broken:
        b"\xff".decode()
    assert reason(broken.value) == "it is no text in UTF-8, or damaged"


# Damaged files of every kind
# ----------------------------------------------------------------------------------------


def photo(format):
    content = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(content, format)
    return content.getvalue()


def read_photo(path):
    decode(path.read_bytes(), str(path))


def read_all(path):
    source = open_source(str(path))
    for index in range(len(source)):
        source[index]


def zip_file():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for number in range(2):
            archive.writestr(f"p{number}/0.png", photo("PNG"))
    return content.getvalue()


def tar_file():
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, part in (("0.png", photo("PNG")), ("0.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(part)
            archive.addfile(member, io.BytesIO(part))
    return content.getvalue()


def arrays_file():
    content = io.BytesIO()
    arrays = {"embeddings": np.eye(4, dtype=np.float32), "labels": np.arange(4)}
    np.savez(content, **arrays, identities=np.array(["a", "b", "c", "d"]))
    return content.getvalue()


def array_file():
    content = io.BytesIO()
    np.save(content, np.eye(2, dtype=np.float32))
    return content.getvalue()


def read_npy_gallery(path):
    path.with_suffix(".csv").write_text("image,identity\na,a\nb,b\n")
    read_gallery(path)


def read_card(path):
    path.rename(path.with_name("model_card.json"))
    ModelCard.read(path.parent)


def parquet_file():
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    content = io.BytesIO()
    table = arrow.table({"image": [photo("PNG")] * 2, "label": [0, 1]})
    pyarrow.parquet.write_table(table, content)
    return content.getvalue()


@functools.cache
def record_file(folder):
    convert(SyntheticFaces(2, 1, image_size=16), folder / "records", "recordio")
    return (folder / "records" / "train.rec").read_bytes()


KINDS = {
    **{
        f"photo.{form.lower()}": (functools.partial(photo, form), read_photo)
        for form in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
    },
    "pairs.bin": (
        lambda: pickle.dumps(([photo("JPEG"), photo("PNG")], [True])),
        read_all,
    ),
    "faces.zip": (zip_file, read_all),
    "faces.tar": (tar_file, read_all),
    "faces.parquet": (parquet_file, read_all),
    "faces.rec": (None, read_all),
    "faces.csv": (lambda: b"path,identity\na/1.png,x\n", read_all),
    "faces.lst": (lambda: b"0\t0\ta/1.png\n", read_all),
    "landmarks.txt": (lambda: b"a.png 1 2 3 4 5 6 7 8 9 10\n", read_landmarks),
    "found.npz": (arrays_file, lambda path: read_embeddings(path, "add", 1)),
    "gallery.npz": (arrays_file, read_gallery),
    "gallery.npy": (array_file, read_npy_gallery),
    "config.json": (lambda: config_to_json(Config()).encode(), read_config),
    "card.json": (lambda: b'{"thresholds": [], "image_size": [8, 8]}', read_card),
    "model.safetensors": (
        lambda: safetensors.numpy.save({"a.weight": np.eye(2, dtype=np.float32)}),
        import_torch,
    ),
    "model.pt": (lambda: pickle.dumps({"a.weight": [1, 2]}, 2), import_torch),
    "model.zip.pt": (zip_file, import_torch),
    "model.stablehlo": (lambda: b"\x20\0\0\0" + bytes(64), load_stablehlo),
}


def damages(content):
    """The ways in which a file comes to be unreadable: cut, overwritten, or another file."""
    yield from (b"", b"hello\nworld\n", b"<!DOCTYPE html><html><body>404</body></html>")
    yield from (bytes(99), b"\xff" * 99, b"\xff\xfeh\0i\0", b"null", b"[]", b"3", b"{}")
    yield from (content[: len(content) // 2], content[:9], content[len(content) // 3 :])
    random = np.random.default_rng(1)
    for place in [*range(0, min(len(content), 60), 4), *random.integers(0, len(content), 6)]:
        changed = bytearray(content)
        changed[place] ^= 0x55
        yield bytes(changed)


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_told_in_one_line_that_begins_with_it(name, tmp_path):
    make, read = KINDS[name]
    content = record_file(tmp_path) if make is None else make()
    told = 0
    for number, damaged in enumerate(damages(content)):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        path = folder / name
        path.write_bytes(damaged)
        try:
            read(path)
        except InputError as error:
            said = str(error)
            told += 1
            own = said.removeprefix("configuration ").replace("model_card.json", "card.json")
            beside = own.startswith(str(folder))  # what a damaged list names
            assert beside, said
            assert "\n" not in said
            assert not INTERNAL.search(said.replace(str(tmp_path), "")), said
            assert said.isprintable()
    assert told >= 5
