"""One way to open faces in any format."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.data.pair_lists import cfp_labels, read_cfp_pairs, read_lfw_pairs, read_pair_list
from arcface_jax.data.pairs import Pairs, check_folds
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.arrays import ArraySource
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.data.sources.filetree import open_tree, packed_by
from arcface_jax.data.sources.folder import FolderSource, NoImagesError, in_words
from arcface_jax.data.sources.lists import SUFFIXES, ListSource
from arcface_jax.data.sources.parquet import ParquetSource
from arcface_jax.data.sources.recordio import RecordIOSource
from arcface_jax.data.sources.tar import TarSource
from arcface_jax.data.subset import Subset
from arcface_jax.data.text import read_rows
from arcface_jax.errors import InputError, concerning, readable

_KINDS = (
    "a folder or zip file of identity/image.jpg, or of .npy arrays, train.rec (or its folder), a "
    "list (.csv, .tsv, .txt, .lst), Parquet or .tar file(s), a .bin verification set, a prepared "
    "TFDS folder, or tfds:NAME"
)


def open_source(
    path: str | os.PathLike[str], list_root: str | os.PathLike[str] | None = None
) -> EncodedSource:
    """Opens the images at `path`, whatever their format.

    Args:
      path: a folder or zip archive of identity/image files or, where there are none, of .npy
        arrays; a `.rec` file or the folder with `train.rec`; a `.csv`, `.tsv`, `.txt` or `.lst`
        list; a `.parquet` or `.tar` file or a folder of such; a `.bin` verification set; the folder
        of a prepared TFDS data set; or "tfds:NAME" or "tfds:NAME:SPLIT" from TFDS's catalogue.
        "PATH:SPLIT" selects a split, such as train or test.
      list_root: folder or zip file that a list's paths are relative to; the list's own folder by
        default.

    Raises:
      InputError: nothing is there, or nothing that can be opened, or `list_root` is given without
        a list.
    """
    text, split = place_and_split(os.fspath(path))
    if list_root is not None and as_path(text).suffix.lower() not in SUFFIXES:
        raise InputError(
            f"list_root {os.fspath(list_root)}: is the root of a list's paths, and {text} is no "
            f"list ({', '.join(SUFFIXES)}); leave it out"
        )
    if text.startswith("tfds:"):
        return _tfds(*text.removeprefix("tfds:").split(":", 1))
    place = as_path(text)
    kinds_with_splits = (".parquet", ".tar", ".zip", *SUFFIXES)
    if split is not None and place.is_file() and place.suffix.lower() not in kinds_with_splits:
        raise InputError(f"{place}: has no splits; leave :{split} out")
    check_source(text)
    if place.is_dir():
        return _open_folder(place, split)
    match place.suffix.lower():
        case ".rec":
            return RecordIOSource(place)
        case suffix if suffix in SUFFIXES:
            return ListSource(place, list_root, split)
        case ".parquet":
            return ParquetSource(place, split=split)
        case ".bin":
            return BinSource(place)
        case ".tar":
            return TarSource(place, split)
        case ".zip":
            return _open_zip(place, split)
    with readable(text), place.open("rb") as file:
        packed = packed_by(file.read(16))
    if packed:
        raise InputError(
            f"{text}: is compressed by {packed}, where images cannot be read in place; extract it, "
            "or pack it anew as .zip, or as .tar without compression"
        )
    raise InputError(f"{text}: unknown kind of file; it can be {_KINDS}")


def _open_zip(place: pathlib.Path, split: str | None) -> EncodedSource:
    """Its images, or its arrays if it has no image."""
    listing = open_tree(place).walk()
    try:
        return FolderSource(place, split=split, listing=listing)
    except NoImagesError:
        if not any(name.lower().endswith(".npy") for name in listing.files):
            raise
        return ArraySource(place, split=split, listing=listing)


def check_source(path: str | os.PathLike[str]) -> None:
    """Refuses, without opening it, a source that is not there; TFDS's catalogue is not asked."""
    text, _ = place_and_split(os.fspath(path))
    if not text.startswith("tfds:") and not as_path(text).exists():
        raise InputError(f"{text}: no such file or folder; it can be {_KINDS}")


def place_and_split(text: str) -> tuple[str, str | None]:
    """PATH:SPLIT in parts; only a path if that exists, or has such a sub-folder."""
    if as_path(text).exists():
        return text, None
    place, colon, split = text.rpartition(":")
    while colon and not as_path(place).exists():  # one may be in the split, as train[:90%]
        place, colon, more = place.rpartition(":")
        split = f"{more}:{split}"
    if not place or not split:
        return text, None
    inner = as_path(place) / split
    return (str(inner), None) if inner.is_dir() else (place, split)


def _open_folder(place: pathlib.Path, split: str | None) -> EncodedSource:
    """Opens the first kind of files below a folder that holds images; reports what else is there.

    Parquet files come before images, which may belong to a data set's page; deeper tar and record
    files come after images.
    """
    # Files, for people can be called so too.
    if any((place / name).is_file() for name in ("dataset_dict.json", "state.json")):
        raise InputError(
            f"{place}: saved by Hugging Face's save_to_disk; save it with to_parquet instead"
        )
    listing = open_tree(place).walk()
    files = listing.files
    if (place / "train.rec").is_file() and split is None:
        return _and_else(RecordIOSource(place), place, _of_records("train.rec"), files)
    if (place / "dataset_info.json").is_file():
        return _and_else(_tfds(str(place), split or "train"), place, _OF_TFDS, files)
    tables, archives, records, arrays = (
        [name for name in files if name.lower().endswith(suffix)]
        for suffix in (".parquet", ".tar", ".rec", ".npy")
    )
    reasons: list[NoImagesError] = []
    kinds: tuple[tuple[list[str], Callable[..., EncodedSource], str], ...] = (
        (tables, ParquetSource, r".*\.parquet"),
        ([name for name in archives if "/" not in name], TarSource, r".*\.tar"),
        (files or [""], FolderSource, ""),
        (arrays, ArraySource, ""),
        (archives, TarSource, r".*\.tar"),
    )
    for there, open_kind, opened in kinds:
        try:
            if there:
                source = open_kind(place, split=split, listing=listing)
                return _and_else(source, place, opened, files)
        except NoImagesError as error:
            reasons.append(error)
    if prepared := [name for name in files if name.endswith("/dataset_info.json")]:
        return _open_prepared([str(place / name) for name in prepared], split)
    if len(records) == 1 and split is None:
        return _and_else(RecordIOSource(place / records[0]), place, _of_records(records[0]), files)
    if records:
        raise InputError(
            f"{place}: holds {number_of(len(records), 'record file')}, such as {records[0]}; give "
            "the path of one"
        )
    if any(".array_record-" in name for name in files):
        raise InputError(
            f"{place}: holds records of a TFDS data set without its dataset_info.json; fetch that "
            "too"
        )
    raise reasons[0]


def _open_prepared(infos: Sequence[str], split: str | None) -> EncodedSource:
    """The TFDS data set with its version folder below the given folder."""
    folders = [info.rpartition("/")[0] for info in infos]
    if len(folders) > 1:
        raise InputError(
            f"{as_path(os.path.commonpath(folders))}: holds {len(folders)} prepared TFDS data "
            f"sets; give one, as {folders[0]}"
        )
    return open_source(folders[0] + (f":{split}" if split else ""))


_OF_TFDS = r"[^/]*-of-[^/]*|[^/]*\.(json|txt)"


def _of_records(name: str) -> str:
    """The name pattern of a record file and of the files that belong to it."""
    folder, slash, _ = name.rpartition("/")
    return f"{re.escape(name[:-4])}\\.(rec|idx|lst)|{re.escape(folder + slash)}property"


def _and_else(
    source: EncodedSource, place: pathlib.Path, opened: str, files: Sequence[str]
) -> EncodedSource:
    """The source; reports files of the folder whose names do not match `opened`."""
    if isinstance(source, FolderSource):
        return source  # which has said itself what it leaves out
    left = [name for name in files if not re.fullmatch(opened, name, re.IGNORECASE | re.DOTALL)]
    if left:
        source.remark(
            f"{place}: not opened, besides "
            f"{number_of(len(files) - len(left), 'file', 'that are')}: {in_words(left)}; such as "
            f"{left[0]}",
            "not opened",
            (str(place / name) for name in left),
        )
    return source


def _tfds(name: str, split: str = "train") -> EncodedSource:
    from arcface_jax.data.sources.tfds import TfdsSource  # when needed: TFDS imports slowly

    return TfdsSource(name, split)


@dataclasses.dataclass(frozen=True)
class PeopleSet:
    """Images of people to verify on, and what is known about them.

    Attributes:
      name: of the set.
      source: its images; with a list of pairs, only those it names.
      labels: [N], who each image shows.
      pairs: the list to score; None without one.
      identities_known: whether different labels mean different people.
      content: equal for sets of the same images and pairs.
    """

    name: str
    source: FaceSource
    labels: np.ndarray
    pairs: Pairs | None
    identities_known: bool
    content: str


def open_set(specification: str, folds: int = 10) -> PeopleSet:
    """Opens "[NAME=]SOURCE[+PAIRS]". Leaves out images that PAIRS does not name, and counts them.

    Args:
      specification: SOURCE is whatever `open_source` opens; PAIRS is LFW's pairs.txt, CFP's
        Protocol/Split/FF or FP, or a list of path, path, 0 or 1. If SOURCE exists, "=" and "+" may
        be part of its name.
      folds: number of contiguous folds for a list that does not state it, or a `.bin` set.

    Raises:
      InputError: a source or list cannot be read; the pairs do not form such folds with both kinds
        in each; or, without a list, the images give no same or no different pair.
    """
    name, place, pair_file = _parts(specification)
    source = open_source(place)
    identities_known = not isinstance(source, BinSource)
    pairs = None
    if isinstance(source, BinSource):
        pairs = dataclasses.replace(source.pairs, num_folds=folds)
    labels = np.asarray(source.labels)
    if pair_file is not None:
        with concerning(specification):
            paths_of(source)
        if as_path(pair_file).is_dir():
            pairs, labels = read_cfp_pairs(pair_file, source), cfp_labels(source)
        elif _is_lfw_list(pair_file):
            pairs = read_lfw_pairs(pair_file, source)
        else:
            pairs = read_pair_list(pair_file, source, folds)
    if pairs is not None:
        with concerning(pair_file or place):
            check_folds(pairs.same, pairs.num_folds)
            if not identities_known and pairs.num_folds < 2:
                raise InputError("does not tell who is who, so it needs 2 folds or more")
    else:
        _, images_each = np.unique(labels, return_counts=True)
        if len(images_each) < 2 or images_each.max() < 2:
            raise InputError(
                f"{specification}: needs two people, and two images of one of them, or a list of "
                "pairs"
            )
    content = f"{source.fingerprint} {pair_file}"
    named: FaceSource = source
    if pairs is not None and pair_file is not None:
        named, labels, pairs = _only_named(source, labels, pairs, pair_file)
    return PeopleSet(name or _stem(place), named, labels, pairs, identities_known, content)


def _only_named(
    source: EncodedSource, labels: np.ndarray, pairs: Pairs, pair_file: str
) -> tuple[FaceSource, np.ndarray, Pairs]:
    """The images that the pairs name, their labels, and their pairs."""
    named = np.unique(np.concatenate([pairs.first, pairs.second]))
    if len(named) == len(source):
        return source, labels, pairs
    source.remark(
        f"{pair_file}: names {len(named):,} of {number_of(len(source), 'image')}; the others are "
        "left out",
        "in no pair",
    )
    first, second = np.searchsorted(named, pairs.first), np.searchsorted(named, pairs.second)
    return (
        Subset(source, named),
        labels[named],
        dataclasses.replace(pairs, first=first, second=second),
    )


def place_of_set(specification: str) -> tuple[str, str]:
    """(name, source) of what `open_set` opens; does not look at the pairs."""
    name, place, _ = _parts(specification)
    return name or _stem(place), place


def check_set(specification: str) -> None:
    """Refuses, without opening it, a set of which the source or the list of pairs is not there."""
    _, place, pair_file = _parts(specification)
    check_source(place)
    if pair_file is not None and not as_path(pair_file).exists():
        raise InputError(f"{pair_file}: no such file or folder; check the path of the pairs")


def _stem(place: str) -> str:
    return as_path(place.removeprefix("tfds:")).stem


def _parts(specification: str) -> tuple[str, str, str | None]:
    """(name or "", source, pair list or None): the first split whose source exists."""
    equals = [at for at, sign in enumerate(specification) if sign == "="]

    def there(text: str) -> bool:
        return as_path(place_and_split(text)[0]).exists()

    named = [("", specification), *((specification[:at], specification[at + 1 :]) for at in equals)]
    for name, rest in named:
        if there(rest):
            return name, rest, None
        for at in reversed([at for at, sign in enumerate(rest) if sign == "+"]):
            if there(rest[:at]):
                return name, rest[:at], rest[at + 1 :]
    name, rest = named[1] if equals else named[0]
    place, plus, pair_file = rest.rpartition("+")
    return (name, place, pair_file) if plus else (name, rest, None)


def _is_lfw_list(path: str) -> bool:
    """Whether the first line holds LFW's one or two numbers, of folds and of pairs."""
    _, words = next(read_rows(path), ("", []))
    words = [word for word in words if word]
    return len(words) in (1, 2) and all(word.isdecimal() for word in words)
