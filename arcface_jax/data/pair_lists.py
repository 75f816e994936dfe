"""Published lists of pairs as text: LFW's `pairs.txt`, three columns."""

import collections
import os
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from arcface_jax.data.filetree import without_extension
from arcface_jax.data.messages import printable
from arcface_jax.data.pairs import Pairs
from arcface_jax.errors import InputError


class HasPaths(Protocol):
    """A source whose images have relative paths: a folder, a zip archive, a list."""

    labels: np.ndarray

    def __len__(self) -> int:
        """The number of images."""
        ...

    def path(self, index: int) -> str:
        """The path of image `index`."""
        ...


def read_lfw_pairs(path: str | os.PathLike[str], source: HasPaths) -> Pairs:
    """LFW's `pairs.txt` (or `pairsDevTrain.txt`) over a folder of LFW images.

    The first line has the number of folds, where there are any, and of same
    pairs in each; then each fold lists its same pairs as "name i j" and as many
    different pairs as "name i name j". Image i of a name is
    `name/name_000i` with any extension, at any depth of the source.

    Raises:
      InputError: a line cannot be read, names an image the source lacks, or
        the number of lines is not the announced one.
    """
    path = os.fspath(path)
    lines = _lines(path)
    try:
        header = [int(word) for word in lines[0][1].split()] if lines else []
        num_folds, each = header if len(header) == 2 else (1, *header)
    except ValueError:
        raise InputError(f"{path} line 1: the number of folds and of same pairs are due, such as 10 300") from None
    if min(num_folds, each) < 1 or len(lines) - 1 != 2 * num_folds * each:
        raise InputError(f"{path}: {len(lines) - 1} pairs, but line 1 announces {num_folds} folds of 2 · {each}")
    find = _finder(source, lambda stem: "/".join(stem.split("/")[-2:]))
    rows = []
    for number, line in lines[1:]:
        words = line.split("\t") if "\t" in line else line.split()
        where = f"{path} line {number}"
        if len(words) not in (3, 4):
            raise InputError(f"{where}: {len(words)} words; name i j, or name i name j, is due")
        left, right = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
        indices = [find(f"{name}/{name}_{number.zfill(4)}", where) for name, number in (left, right)]
        rows.append((*indices, len(words) == 3))
    return _as_pairs(rows, source, num_folds)


def read_pair_list(path: str | os.PathLike[str], source: HasPaths, num_folds: int = 1) -> Pairs:
    """A plain list of pairs: path, path, and 1 for same or 0 for different.

    Columns are separated by tabs, commas or spaces. Paths are the source's,
    with or without extension.

    Args:
      path: the list file.
      source: where the images are.
      num_folds: contiguous folds that the list is arranged in.

    Raises:
      InputError: a line cannot be read or names an image the source lacks, or
        the list cannot be divided into so many folds.
    """
    path = os.fspath(path)
    find = _finder(source, lambda stem: stem)
    rows = []
    for number, line in _lines(path):
        where = f"{path} line {number}"
        delimiter = next((mark for mark in "\t," if mark in line), None)
        words = [word.strip() for word in line.split(delimiter)]
        if len(words) != 3 or words[2] not in ("0", "1"):
            raise InputError(f"{where}: path, path, 0 or 1 is due, got {line[:80]!r}")
        rows.append((find(words[0], where), find(words[1], where), words[2] == "1"))
    if not rows or num_folds < 1 or len(rows) % num_folds:
        raise InputError(f"{path}: {len(rows)} pairs cannot be {num_folds} equal folds")
    return _as_pairs(rows, source, num_folds)


def _as_pairs(rows: list[tuple[Any, ...]], source: HasPaths, num_folds: int) -> Pairs:
    first, second, same = (np.array(column) for column in zip(*rows, strict=True))
    labels = np.asarray(source.labels)
    folds = np.arange(len(rows)) // (len(rows) // num_folds)
    seen = np.unique(np.stack([np.concatenate([labels[first], labels[second]]), np.tile(folds, 2)]), axis=1)
    disjoint = len(np.unique(seen[0])) == seen.shape[1]
    return Pairs(first.astype(np.int64), second.astype(np.int64), same.astype(bool), num_folds, disjoint)


def _lines(path: str) -> list[tuple[int, str]]:
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot read this list ({error.strerror})") from None
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _finder(source: HasPaths, key: Callable[[str], str]) -> Callable[[str, str], int]:
    """A function from a listed path to the source's index; `key` says which part of a path counts."""
    index_of: dict[str, int] = {}
    ambiguous = collections.Counter()  # type: ignore[var-annotated]
    for index in range(len(source)):
        name = key(without_extension(source.path(index)))
        ambiguous[name] += name in index_of
        index_of[name] = index

    def find(listed: str, where: str) -> int:
        for name in (key(listed), key(without_extension(listed)) if listed else ""):
            if name in index_of:
                if ambiguous[name]:
                    raise InputError(f"{where}: the source has more than one image {printable(name)}")
                return index_of[name]
        raise InputError(f"{where}: the source has no image {listed!r}")

    return find
