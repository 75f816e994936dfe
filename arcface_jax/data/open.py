"""One way to open whatever faces are stored in."""

import os
import pathlib

from arcface_jax.data.encoded import EncodedSource
from arcface_jax.data.folder import FolderSource
from arcface_jax.data.lists import ListSource
from arcface_jax.data.parquet import ParquetSource
from arcface_jax.data.recordio import RecordIOSource
from arcface_jax.data.tar import TarSource
from arcface_jax.data.verification_sets import BinSource
from arcface_jax.errors import InputError

KINDS = (
    "a folder or zip file of identity/image.jpg, train.rec (or its folder), a list (.csv, .tsv, .txt, .lst), "
    "Parquet or .tar file(s), a .bin verification set, a prepared TFDS folder, or tfds:NAME"
)


def open_source(path: str | os.PathLike[str]) -> EncodedSource:
    """Opens the images at `path`, by what lies there.

    Args:
      path: a folder or zip archive of identity/image files; a `.rec` file or the
        folder with `train.rec`; a `.csv`, `.tsv`, `.txt` or `.lst` list; a
        `.parquet` or `.tar` file or a folder of such; a `.bin` verification set; the
        folder of a prepared TFDS data set; or "tfds:NAME" or
        "tfds:NAME:SPLIT" for one of TFDS's catalogue.

    Raises:
      InputError: nothing is there, or nothing that can be opened.
    """
    text = os.fspath(path)
    if text.startswith("tfds:"):
        return _tfds(*text.removeprefix("tfds:").split(":", 1))
    place = pathlib.Path(text)
    if not place.exists():
        raise InputError(f"{text}: no such file or folder; it can be {KINDS}")
    if place.is_dir():
        if (place / "train.rec").exists():
            return RecordIOSource(place)
        if (place / "dataset_info.json").exists():
            return _tfds(text)
        if next(place.glob("*.parquet"), None) is not None:
            return ParquetSource(place)
        if next(place.glob("*.tar"), None) is not None:
            return TarSource(place)
        return FolderSource(place)
    match place.suffix.lower():
        case ".rec":
            return RecordIOSource(place)
        case ".csv" | ".tsv" | ".txt" | ".lst":
            return ListSource(place)
        case ".parquet":
            return ParquetSource(place)
        case ".bin":
            return BinSource(place)
        case ".tar":
            return TarSource(place)
        case ".zip":
            return FolderSource(place)
    raise InputError(f"{text}: unknown kind of file; it can be {KINDS}")


def _tfds(name: str, split: str = "train") -> EncodedSource:
    from arcface_jax.data.tfds import TfdsSource  # imported when needed: TFDS takes a while to import

    return TfdsSource(name, split)
