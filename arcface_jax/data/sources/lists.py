"""Images named by a list file: path and identity."""

import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from arcface_jax.data.sources.filetree import FileTree, TreeSource, open_tree
from arcface_jax.data.text import count, identity_of, is_heading, listed_path, number, read_rows
from arcface_jax.errors import InputError, printable

SUFFIXES = (".csv", ".tsv", ".txt", ".lst")
"""File names that are lists."""

_HEADINGS = (
    ("path", "file", "filename", "file_name", "filepath", "image", "image_path", "img"),
    ("identity", "label", "class", "person", "subject", "id", "identity_id", "class_id"),
)
_LOOKED_FOR = 8


class ListSource(TreeSource):
    """The images that a list file names: `.csv`, `.tsv`, `.txt` or `.lst`.

    A line has path and identity, separated by a tab, comma, semicolon or space. A first line may
    name the columns, of which one called path (or file, filename, image …) and one called identity
    (or label, class, person …) count. insightface's `train.lst` and the list of MXNet's im2rec
    are known by their columns (`read_lst`). Text is UTF-8, or UTF-16 as spreadsheets save it.

    Identities are any text, but a number must be a whole one from 0. Labels number them in sorted
    order, by value where all are numbers. Images keep the list's order.

    Args:
      path: the list file.
      root: folder or zip file that the paths are relative to; the list's own folder if None.
        Absolute paths must lie below it.

    Raises:
      InputError: a file is missing, a line has no two columns, a path leads out of the root or has
        two identities, or none of the first images is there. Another missing image is named when it
        is read.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None):
        path = pathlib.Path(path)
        base = path.parent if root is None else pathlib.Path(root)
        tree, entries = open_tree(base), list(_entries(path))
        if not entries:
            raise InputError(f"{path}: the list is empty")
        paths = [_found(tree, _inside(image, base, where)) for where, image, _ in entries]
        if not any(tree.size(image) for image in paths[:_LOOKED_FOR]):
            raise InputError(
                f"{entries[0][0]}: {printable(tree.where(paths[0]))} is not there, nor are the "
                "next; give the root of the paths (--list-root; of a run: --data.list-root)"
            )
        super().__init__(tree, paths)
        self.name_identities([entry[2] for entry in entries], str(path))
        self._check_repeated([where for where, _, _ in entries])

    def _check_repeated(self, places: list[str]) -> None:
        """Counts images that are listed twice; refuses them under two identities."""
        first: dict[str, int] = {}
        for index, path in enumerate(self._paths):
            earlier = first.setdefault(path, index)
            if self.labels[earlier] != self.labels[index]:
                names = [self.identity_names[self.labels[each]] for each in (earlier, index)]
                raise InputError(
                    f"{places[index]}: {printable(path)} is of {printable(names[1])!r} here and of "
                    f"{printable(names[0])!r} before; give it one identity"
                )
        if len(first) < len(self._paths):
            self.remark(
                f"{places[0].rpartition(' line ')[0]}: {len(self._paths) - len(first)} lines name "
                "an image that a line before names too",
                "listed twice",
                [self.where(at) for at, path in enumerate(self._paths) if first[path] != at],
            )


class ListLine(NamedTuple):
    """A line of a `.lst` file.

    Attributes:
      where: the file and the line's number.
      path: of the image.
      label: its identity.
      key: of its record, in im2rec's list; None in insightface's.
      landmarks: float64 [5, 2], (x, y) in the image, or None.
    """

    where: str
    path: str
    label: int
    key: int | None
    landmarks: np.ndarray | None


def read_lst(path: str | os.PathLike[str]) -> Iterator[ListLine]:
    """Reads insightface's `train.lst`, or the list of MXNet's im2rec.

    Lines of tab-separated columns. insightface's are aligned (0 or 1), path, label; then optionally
    a bounding box of 4 numbers; then optionally 10 numbers, the five landmarks x1 … x5 y1 … y5.
    im2rec's are the record's key, one label or several, and path last. The first line tells which;
    of several labels the first is the identity.

    Raises:
      InputError: a line has other columns, or a label is no whole number from 0; names file and
        line.
    """
    parse = None
    for where, columns in read_rows(path):
        parse = parse or (_im2rec_line if _is_im2rec(columns) else _insightface_line)
        yield parse(columns, where)


def _is_im2rec(columns: list[str]) -> bool:
    return (
        len(columns) >= 3
        and count(columns[0]) is not None
        and all(number(column) is not None for column in columns[1:-1])
        and number(columns[-1]) is None
    )


def _is_insightface(columns: list[str]) -> bool:
    return len(columns) in (3, 7, 17) and columns[0] in ("0", "1") and number(columns[1]) is None


def _im2rec_line(columns: list[str], where: str) -> ListLine:
    key = count(columns[0])
    if len(columns) < 3 or key is None:
        raise InputError(f"{where}: {_shown(columns)}; key, label and path are due")
    return ListLine(where, columns[-1], _label(columns[1], where), key, None)


def _insightface_line(columns: list[str], where: str) -> ListLine:
    if len(columns) not in (3, 7, 17):
        raise InputError(
            f"{where}: {len(columns)} columns; aligned, path, label [, 4 of a box [, 10 of "
            "landmarks]] are due"
        )
    if columns[0] not in ("0", "1"):
        raise InputError(f"{where}: aligned is {_shown(columns[:1])}; 0 or 1 is due")
    label, landmarks = _label(columns[2], where), None
    if len(columns) == 17:
        landmarks = np.array([number(word) for word in columns[7:]], np.float64)
        landmarks = landmarks.reshape(2, 5).T
        if not np.isfinite(landmarks).all():
            raise InputError(f"{where}: {_shown(columns[7:])}; 10 numbers are due")
    return ListLine(where, columns[1], label, None, landmarks)


def _label(cell: str, where: str) -> int:
    value = count(cell)
    if value is None:
        raise InputError(f"{where}: label {_shown([cell])}; a whole number from 0 is due")
    return value


def _shown(cells: list[str]) -> str:
    return printable(repr(" ".join(cells)[:80]))


def _entries(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """(where, image path, identity) of each line."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of list; use {', '.join(SUFFIXES)}")
    rows = read_rows(path, columns=2)
    where, first = next(rows, ("", []))
    if not first:
        return
    if path.suffix.lower() == ".lst" or _is_im2rec(first) or _is_insightface(first):
        for line in read_lst(path):
            yield line.where, listed_path(line.path), str(line.label)
        return
    image_column, identity_column = 0, 1
    if is_heading(first):
        image_column, identity_column = _named_columns(first, where)
    else:
        yield _entry(where, first, 0, 1)
    for where, row in rows:
        yield _entry(where, row, image_column, identity_column)


def _named_columns(names: list[str], where: str) -> tuple[int, int]:
    lower = [name.lower() for name in names]
    found = [
        next((lower.index(name) for name in known if name in lower), -1) for known in _HEADINGS
    ]
    if -1 in found:
        raise InputError(
            f"{where}: the columns are called {_shown(names)}; call those that count path and "
            "identity"
        )
    return found[0], found[1]


def _entry(
    where: str, row: list[str], image_column: int, identity_column: int
) -> tuple[str, str, str]:
    if len(row) <= max(image_column, identity_column):
        raise InputError(f"{where}: {len(row)} column(s), path and identity are due")
    return where, listed_path(row[image_column]), identity_of(row[identity_column], where)


def _inside(image: str, root: pathlib.Path, where: str) -> str:
    """The path relative to the root, in normal form."""
    relative = os.path.relpath(image, root) if os.path.isabs(image) else os.path.normpath(image)
    relative = relative.replace(os.sep, "/")
    if not image or relative.split("/")[0] == ".." or re.match("[A-Za-z]:", image):
        raise InputError(
            f"{where}: {printable(image)!r} is not below {root}; give the root that all paths lie "
            "in (--list-root; of a run: --data.list-root)"
        )
    return relative


def _found(tree: FileTree, path: str) -> str:
    """The path in the Unicode form that the tree has; as it is where the tree has none."""
    if path.isascii() or tree.size(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if tree.size(form)), path)
