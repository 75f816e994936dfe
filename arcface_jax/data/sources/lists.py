"""Images named by a list file: path and identity."""

import itertools
import os
import pathlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.buckets import BucketPath, as_path
from arcface_jax.counts import number_of
from arcface_jax.data.sources.filetree import FileTree, TreeSource, open_tree
from arcface_jax.data.sources.splits import choose_split
from arcface_jax.data.text import (
    PATH_NAMES,
    count,
    heading,
    identity_of,
    is_heading,
    label_of,
    listed_path,
    names_image,
    number,
    number_of_columns,
    read_rows,
    without_mark,
)
from arcface_jax.errors import InputError, printable

SUFFIXES = (".csv", ".tsv", ".txt", ".lst")
"""Suffixes of lists."""

_IDENTITY_NAMES = (
    *("identity", "label", "class", "person", "subject"),
    *("identity_id", "class_id", "person_id", "subject_id", "label_id"),
)
_PERHAPS_IDENTITY = ("name", "id")  # or a row's number, or a file's name
_SPLIT_NAMES = ("split", "subset", "partition")
_LOOKED_FOR = 8


class ListSource(TreeSource):
    """The images that a list file names: `.csv`, `.tsv`, `.txt` or `.lst`.

    A line has path and identity, separated by a tab, comma, semicolon or space. A first line may
    name the columns. Then one called path (or file, filename, image …) and one called identity (or
    label, class, person, subject; or else name or id) count; if several fit, `remarks` tell which
    counts. If a column is called split (or subset, partition), one part must be chosen.
    insightface's `train.lst` and the list of MXNet's im2rec are recognised by their columns
    (`read_lst`). Text is UTF-8, or UTF-16 as from spreadsheets. Lines that begin with "# " are left
    out; `remarks` count them.

    Any text is an identity except those for none (nan, NULL, None, N/A); a number must be whole and
    at least 0. Labels number the identities in sorted order, by value if all are numbers. Images
    keep the list's order.

    Args:
      path: the list file.
      root: folder or zip file that the paths are relative to; the list's own folder if None.
        Absolute paths must lie below it.
      split: the wanted part of the list, such as train.

    Raises:
      InputError: a file is missing; a line has fewer than two columns or no identity; further
        columns have no names; two columns give different identities; a path leads out of the root
        or has two identities; the list has several splits and none is chosen; or none of the first
        images exists. Any other missing image raises on reading.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        split: str | None = None,
    ):
        path = as_path(path)
        base = path.parent if root is None else as_path(root)
        tree, (entries, notes) = open_tree(base), _read(path)
        if not entries:
            raise InputError(f"{path}: the list is empty")
        chosen = choose_split([entry.split for entry in entries], split, path)
        entries = list(itertools.compress(entries, chosen))
        paths = [_found(tree, _inside(entry.image, base, entry.where)) for entry in entries]
        _check_words(tree, entries, paths)
        _check_start(tree, entries, paths)
        super().__init__(tree, paths)
        self.name_identities([entry.identity for entry in entries], str(path))
        if no_text := [entry for entry in entries if not _is_unicode(entry.identity)]:
            notes.append(
                f"identities whose text is not UTF-8: {len(no_text)}, the first in "
                f"{no_text[0].where}; save the list as UTF-8"
            )
        for note in notes:
            self.remark(f"{path}: {note}", "list")
        self._check_repeated(path, entries)

    def _check_repeated(self, path: pathlib.Path, entries: Sequence["_Entry"]) -> None:
        """Counts images that are listed twice; refuses them under two identities."""
        first: dict[str, int] = {}
        for index, image in enumerate(self._paths):
            earlier = first.setdefault(image, index)
            if self.labels[earlier] != self.labels[index]:
                names = [self.identity_names[self.labels[each]] for each in (earlier, index)]
                raise InputError(
                    f"{entries[index].where}: {image} is of {printable(names[1])!r} "
                    f"here and of {printable(names[0])!r} before; give it one identity"
                )
        self.remark_links(str(path), self._tree.files([*first]), np.array([*first.values()]))
        if len(first) < len(self._paths):
            self.remark(
                f"{path}: {number_of(len(self._paths) - len(first), 'line', 'name')} an image "
                "that a line before names too",
                "listed twice",
                [self.where(at) for at, image in enumerate(self._paths) if first[image] != at],
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
    im2rec's are the record's key, one or several labels, and last the path. The first line decides;
    of several labels the first is the identity.

    Raises:
      InputError: a line has other columns, or a label is no whole number from 0; the message names
        file and line.
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
    return ListLine(where, columns[-1], label_of(columns[1], where), key, None)


def _insightface_line(columns: list[str], where: str) -> ListLine:
    if len(columns) not in (3, 7, 17):
        raise InputError(
            f"{where}: {number_of(len(columns), 'column')}; aligned, path, label [, 4 of a box [, "
            "10 of landmarks]] are due"
        )
    if columns[0] not in ("0", "1"):
        raise InputError(f"{where}: aligned is {_shown(columns[:1])}; 0 or 1 is due")
    label, landmarks = label_of(columns[2], where), None
    if len(columns) == 17:
        landmarks = np.array([number(word) for word in columns[7:]], np.float64)
        landmarks = landmarks.reshape(2, 5).T
        if not np.isfinite(landmarks).all():
            raise InputError(f"{where}: {_shown(columns[7:])}; 10 numbers are due")
    return ListLine(where, columns[1], label, None, landmarks)


def _shown(cells: list[str]) -> str:
    return printable(repr(" ".join(cells).strip()[:80]))


class _Entry(NamedTuple):
    """A line of a list: its place, the image's path, its identity, its split or ""."""

    where: str
    image: str
    identity: str
    split: str


def _read(path: pathlib.Path) -> tuple[list[_Entry], list[str]]:
    """The lines of a list, and remarks about reading them."""
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(f"{path}: unknown kind of list; use {', '.join(SUFFIXES)}")
    if path.suffix.lower() == ".lst":
        return _lst_entries(path), []
    comments: list[list[str]] = []
    rows: list[tuple[str, list[str]]] = []
    names: list[str] | None = None
    for where, row in read_rows(path, number_of_columns(path, _are_names, PATH_NAMES, 2)):
        if row[0].startswith("#"):
            bare = without_mark(row)
            if not rows and names is None and _are_names(bare):
                names = bare
                continue
            if _are_names(bare):
                raise _names_again(where, row)
            # "#foto persona" at the beginning has names too, which are not known.
            unknown_names = not rows and names is None and is_heading(bare)
            if row[0].lstrip("#")[:1] in ("", " ") or unknown_names:
                comments.append(row)
                continue
        if not rows and names is None and is_heading(row):
            names = row
            continue
        if not rows and names is None and (_is_im2rec(row) or _is_insightface(row)):
            return _lst_entries(path), []
        if names is None and any(row[2:]):
            raise InputError(
                f"{where}: {number_of(len(row), 'column')}, and nothing says which is the "
                "identity; name them in a first line, such as path,identity,note"
            )
        if names is not None and any(row[len(names) :]):
            raise InputError(
                f"{where}: {number_of(len(row), 'column')}, but {number_of(len(names), 'name')} of "
                "columns"
            )
        rows.append((where, row))
    notes = []
    if comments:
        notes.append(
            f'lines that begin with "#" and are left out: {len(comments)}, the first is '
            f"{_shown(comments[0])}"
        )
    columns = _Columns(0, 1, None)
    if names is not None:
        columns, more = _choose_columns([heading(name) for name in names], rows, path)
        notes += more
    entries = [_entry(where, row, columns) for where, row in rows]
    without = sum(not entry.split for entry in entries)
    if columns.split is not None and 0 < without < len(entries):
        notes.append(f"lines that are in no split: {without} of {len(entries)}")
    return entries, notes


def _lst_entries(path: pathlib.Path) -> list[_Entry]:
    return [_Entry(one.where, listed_path(one.path), str(one.label), "") for one in read_lst(path)]


def _are_names(row: list[str]) -> bool:
    """Whether a row names the columns of path and identity."""
    names = {heading(cell) for cell in row}
    return bool(names & {*PATH_NAMES}) and bool(names & {*_IDENTITY_NAMES, *_PERHAPS_IDENTITY})


class _Columns(NamedTuple):
    """The columns that count, by their number."""

    image: int
    identity: int
    split: int | None


def _choose_columns(
    names: list[str], rows: list[tuple[str, list[str]]], path: pathlib.Path
) -> tuple[_Columns, list[str]]:
    """The columns that count, by their names; and a remark if several fit."""
    notes = []
    words = {*PATH_NAMES, *_IDENTITY_NAMES, *_PERHAPS_IDENTITY, *_SPLIT_NAMES}
    for name in names:
        if name in words and names.count(name) > 1:
            raise InputError(f"{path}: two columns are called {_shown([name])}; rename one")
    images = [names.index(name) for name in PATH_NAMES if name in names]
    sure = [names.index(name) for name in _IDENTITY_NAMES if name in names]
    perhaps = [names.index(name) for name in _PERHAPS_IDENTITY if name in names]
    if not images or not sure + perhaps:
        raise InputError(
            f"{path}: the columns are called {_shown(names)}; call those that count path and "
            "identity"
        )
    if len(images) > 1:
        notes.append(_taken("path", names, images))

    def cells(column: int) -> list[str]:
        return [row[column] if column < len(row) else "" for _, row in rows]

    values = {column: cells(column) for column in sure + perhaps}
    if not sure:
        # A number or name of its own in each line is no identity where another column has fewer.
        distinct = {column: len({*values[column]}) for column in perhaps}
        sure = [column for column in perhaps if distinct[column] < len(rows)] or perhaps
        if distinct[sure[0]] == len(rows) > 1:
            notes.append(
                f"the column {names[sure[0]]} has another value in each of "
                f"{number_of(len(rows), 'line')}, so each image is a person of its own"
            )
    for other in sure[1:]:
        both = len({*zip(values[sure[0]], values[other], strict=True)})
        if both > len({*values[sure[0]]}) or both > len({*values[other]}):
            raise InputError(
                f"{path}: the columns {names[sure[0]]} and {names[other]} do not agree on who is "
                "the same person; leave the one out that is not the identity"
            )
    if len(values) > 1:
        notes.append(_taken("identity", names, [sure[0], *(values.keys() - {sure[0]})]))
    splits = [names.index(name) for name in _SPLIT_NAMES if name in names]
    return _Columns(images[0], sure[0], splits[0] if splits else None), notes


def _taken(what: str, names: list[str], columns: list[int]) -> str:
    others = " and ".join(names[column] for column in columns[1:])
    return f"the {what} is of the column {names[columns[0]]}; {others} could be it too"


def _entry(where: str, row: list[str], columns: _Columns) -> _Entry:
    if len(row) <= max(columns[:2]):
        raise InputError(f"{where}: {len(row)} column(s), path and identity are due")
    identity = identity_of(row[columns.identity], where)
    split = "" if columns.split is None else "".join(row[columns.split : columns.split + 1])
    return _Entry(where, listed_path(row[columns.image]), identity, split)


def _check_start(tree: FileTree, entries: Sequence[_Entry], paths: Sequence[str]) -> None:
    """Refuses a list if none of its first images exists; reports swapped columns."""
    where, image, identity, _ = entries[0]
    first = range(min(_LOOKED_FOR, len(paths)))
    there = any(tree.start(paths[at]) for at in first)
    turned = any(
        tree.start(os.path.normpath(entries[at].identity).replace(os.sep, "/"))
        for at in first
        if names_image(entries[at].identity)
    )
    if turned and there:
        raise InputError(
            f"{where}: {printable(identity)!r} is an image too, and an identity is due beside its "
            "path"
        )
    if turned:
        raise InputError(
            f"{where}: {printable(image)!r} is no image, but {printable(identity)!r} is: the "
            "columns are swapped; put the path first, or name the columns in a first line"
        )
    if not there and tree.start(image.partition(" ")[0]):
        raise InputError(
            f"{where}: {_shown([image, identity])} has more than path and identity; name the "
            "columns in a first line, such as path identity note"
        )
    if not there:
        raise InputError(
            f"{where}: {tree.where(paths[0])} is not there, nor are the "
            "next; give the root of the paths (--list-root; of a run: --data.list-root)"
        )


def _check_words(tree: FileTree, entries: Sequence[_Entry], paths: Sequence[str]) -> None:
    """Refuses column names below the first line, and paths in another encoding."""
    for entry, path in zip(entries, paths, strict=True):
        words = entry.identity.lower(), entry.image.lstrip("# ").lower()
        if (words[0] in _IDENTITY_NAMES or words[1] in PATH_NAMES) and not tree.start(path):
            raise _names_again(entry.where, [entry.image, entry.identity])
        if not _is_unicode(path) and not tree.start(path):
            raise InputError(
                f"{entry.where}: {tree.where(path)} is not there, and the line's text "
                "is not UTF-8; save the list as UTF-8"
            )


def _names_again(where: str, row: list[str]) -> InputError:
    return InputError(
        f"{where}: {_shown(row)} names columns, as only the first line may; leave the line out"
    )


def _is_unicode(text: str) -> bool:
    """Whether text was UTF-8 in its file; see `text.read_lines`."""
    return text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text)


def _inside(image: str, root: pathlib.Path, where: str) -> str:
    """The path relative to the root, in normal form."""
    if image.startswith(f"{root}/") and isinstance(root, BucketPath):
        image = image.removeprefix(f"{root}/")
    relative = os.path.relpath(image, root) if os.path.isabs(image) else os.path.normpath(image)
    relative = relative.replace(os.sep, "/")
    if not image or relative.split("/")[0] == ".." or re.match("[A-Za-z]:", image):
        raise InputError(
            f"{where}: {printable(image)!r} is not below {root}; give the root that all paths lie "
            "in (--list-root; of a run: --data.list-root)"
        )
    return relative


def _found(tree: FileTree, path: str) -> str:
    """The path in the Unicode form that the tree has; unchanged if the tree lacks it."""
    if path.isascii() or tree.size(path):
        return path
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if tree.size(form)), path)
