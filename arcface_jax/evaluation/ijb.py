"""Readers of the metadata files of IJB-B and IJB-C: plain text, checked line by line.

Two families are in use. NIST's protocol files are CSV with named columns (`ijbc_1N_gallery_G1.csv`,
`ijbc_1N_probe_mixed.csv`, `ijbc_11_G1_G2_matches.csv`). Those that come with aligned crops are
lists with spaces (`ijbc_face_tid_mid.txt`, `ijbc_template_pair_label.txt`,
`ijbc_name_5pts_score.txt`).
"""

import dataclasses
import itertools
import logging
import os
import warnings
from collections.abc import Iterator

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.aligned_crop import check_order
from arcface_jax.data.pairs import Pairs, check_listed
from arcface_jax.data.text import (
    encoding_of,
    is_heading,
    names_image,
    number,
    read_rows,
    separator_of,
)
from arcface_jax.errors import InputError, printable, readable

FilePath = str | os.PathLike[str]


@dataclasses.dataclass(frozen=True)
class FaceMedia:
    """Which template and medium each image belongs to.

    Attributes:
      names: file name of each image.
      template_ids: int64 [N].
      media_ids: int64 [N].
    """

    names: list[str]
    template_ids: np.ndarray
    media_ids: np.ndarray


def read_face_media(path: FilePath) -> FaceMedia:
    """`ijb?_face_tid_mid.txt`: each line has file name, template, medium.

    Repeated lines count each time; the logger arcface_jax warns how many there are.
    """
    names, numbers = [], []
    seen: set[tuple[str, ...]] = set()
    again = []
    for where, (name, *words) in _lines(path, 3, "file name, template, medium", named=True):
        names.append(name)
        numbers.append([_integer(word, where) for word in words])
        if (name, *words) in seen:
            again.append(where)
        seen.add((name, *words))
    if again:
        logging.getLogger("arcface_jax").warning(
            printable(
                f"{os.fspath(path)}: lines that are in the file before: {len(again)} of "
                f"{len(names)}, the first is {again[0]}; they count"
            )
        )
    template_ids, media_ids = np.array(numbers, np.int64).T
    return FaceMedia(names, template_ids, media_ids)


def read_template_pairs(path: FilePath) -> Pairs:
    """`ijb?_template_pair_label.txt`: lines of template, template, 1 (same) or 0 (different).

    Raises:
      InputError: a line cannot be read, or lines contradict each other (`pairs.check_listed`, which
        also warns about oddities).
    """
    table = _integer_table(path, 3, "template, template, 0 or 1")
    wrong = (table[:, 2] != 0) & (table[:, 2] != 1)
    if wrong.any():
        where, words = _line(path, 3, int(np.argmax(wrong)))
        raise InputError(f"{where}: the label is {words[2]}; 0 or 1 is due")
    return _listed_pairs(path, table, table[:, 2] == 1)


@dataclasses.dataclass(frozen=True)
class Landmarks:
    """What the detector found in each image.

    Attributes:
      names: file name of each image.
      points: float64 [N, 5, 2], x and y of left eye, right eye, nose, mouth corners, in pixels.
      scores: float64 [N], the detector's confidence.
    """

    names: list[str]
    points: np.ndarray
    scores: np.ndarray


def read_ijb_landmarks(path: FilePath) -> Landmarks:
    """`ijb?_name_5pts_score.txt`: lines of file name, x and y of five points, detector score.

    Raises:
      InputError: a line has other columns, or the points are in the order x1 … x5 y1 … y5.
    """
    names, numbers = [], []
    for where, (name, *words) in _lines(path, 12, "file name, ten coordinates, score", named=True):
        names.append(name)
        numbers.append([_real(word, where) for word in words])
    table = np.array(numbers)
    points = table[:, :10].reshape(-1, 5, 2)
    check_order(points, path, "write x and y of each point side by side")
    return Landmarks(names, points, table[:, 10])


@dataclasses.dataclass(frozen=True)
class TemplateSubjects:
    """A gallery or probe set: its templates and their subjects.

    Attributes:
      template_ids: int64 [T], each template once, in the file's order.
      subject_ids: int64 [T].
    """

    template_ids: np.ndarray
    subject_ids: np.ndarray


def read_template_subjects(path: FilePath) -> TemplateSubjects:
    """A protocol CSV with the columns TEMPLATE_ID and SUBJECT_ID, such as `ijbc_1N_gallery_G1.csv`.

    Other columns are allowed. A template has one line per image and is returned once.

    Raises:
      InputError: a column is missing, a number cannot be read, or a template has two subjects.
    """
    subject_of: dict[int, int] = {}
    rows = read_rows(path, kind="file")
    _, header = next(rows, ("", []))
    names = [name.strip().upper() for name in header]
    if not {"TEMPLATE_ID", "SUBJECT_ID"} <= set(names):
        raise InputError(
            f"{os.fspath(path)} line 1: the columns TEMPLATE_ID and SUBJECT_ID are due, got "
            f"{printable(', '.join(header))[:80] or 'none'}"
        )
    columns = names.index("TEMPLATE_ID"), names.index("SUBJECT_ID")
    for where, row in rows:
        if len(row) <= max(columns):
            raise InputError(
                f"{where}: {number_of(len(row), 'column')}; the header names {len(names)}"
            )
        template, subject = (_integer(row[column], where) for column in columns)
        if subject_of.setdefault(template, subject) != subject:
            raise InputError(
                f"{where}: template {template} is of subject {subject} and of "
                f"{subject_of[template]}"
            )
    if not subject_of:
        raise InputError(f"{os.fspath(path)}: no templates in this file")
    return TemplateSubjects(
        np.array(list(subject_of), np.int64), np.array(list(subject_of.values()), np.int64)
    )


def read_template_matches(path: FilePath) -> tuple[np.ndarray, np.ndarray]:
    """`ijb?_11_*_matches.csv`: lines "template, template". Other files name their subjects.

    The protocol wants one score per line in order, so repeated pairs count each time. The logger
    arcface_jax warns how many are repeated, and how many pair a template with itself.

    Returns: (first, second), int64 [P].
    """
    table = _integer_table(path, 2, "template, template")
    pairs = _listed_pairs(path, table, np.ones(len(table), bool))
    return pairs.first, pairs.second


def subjects_of_templates(
    first: np.ndarray, second: np.ndarray, same: np.ndarray, num_templates: int
) -> np.ndarray:
    """Subjects inferred from a list of pairs: chains of same pairs join templates.

    So the 1:1 list is enough to resample subjects. A template without a same pair is a subject of
    its own.

    Args:
      first: int [P], rows of templates.
      second: int [P].
      same: [P] bool.
      num_templates: T.

    Returns: int64 [T], the lowest template row of each template's subject.
    """
    left, right = np.asarray(first)[same], np.asarray(second)[same]
    subjects = np.arange(num_templates)
    while True:
        lowest = np.minimum(subjects[left], subjects[right])
        joined = subjects.copy()
        for side in (left, right):
            np.minimum.at(joined, side, lowest)
            np.minimum.at(joined, subjects[side], lowest)
        joined = joined[joined]
        if np.array_equal(joined, subjects):
            return subjects
        subjects = joined


def _listed_pairs(path: FilePath, table: np.ndarray, same: np.ndarray) -> Pairs:
    pairs = Pairs(table[:, 0].copy(), table[:, 1].copy(), same)
    columns = table.shape[1]
    return check_listed(
        pairs, os.fspath(path), lambda row: _line(path, columns, row)[0], kind="template"
    )


def _line(path: FilePath, columns: int, row: int) -> tuple[str, list[str]]:
    return next(itertools.islice(_lines(path, columns, ""), row, None))


def _integer_table(path: FilePath, columns: int, due: str) -> np.ndarray:
    """int64 [rows, columns] of a large file, parsed at once; line by line only if that fails."""
    encoding, separator = encoding_of(path, "file"), separator_of(path, "file")
    try:
        with readable(os.fspath(path)), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file, which is refused below
            table = np.loadtxt(
                path, np.int64, delimiter=separator, comments=None, ndmin=2, encoding=encoding
            )
    except InputError:
        raise
    except ValueError:
        table = np.empty((0, 0), np.int64)
    if table.shape[1:] == (columns,):
        return table
    rows = [
        [_integer(word, where) for word in words] for where, words in _lines(path, columns, due)
    ]
    return np.array(rows, np.int64)


def _lines(
    path: FilePath, columns: int, due: str, *, named: bool = False
) -> Iterator[tuple[str, list[str]]]:
    """(place, words) of each line that is not blank, except a first line of column names.

    `named`: the first column is a file name; it may hold spaces if it ends like an image's.
    """
    rows = read_rows(path, columns if named else None, kind="file")
    empty, by_spaces = True, named and separator_of(path, "file") is None
    for position, (where, words) in enumerate(rows):
        if position == 0 and len(words) == columns and is_heading(words):
            continue
        empty = False
        if len(words) != columns:
            raise InputError(f"{where}: {number_of(len(words), 'word')}; {due} are due")
        if by_spaces and " " in words[0] and not names_image(words[0]):
            more = len(words[0].split()) - 1
            raise InputError(
                f"{where}: {columns + more} words; {due} are due, or a file name with spaces that "
                "ends as an image's, such as .jpg"
            )
        yield where, words
    if empty:
        raise InputError(f"{os.fspath(path)}: the file is empty; {due} are due")


def _integer(word: str, where: str) -> int:
    value = number(word)
    if value is None or abs(value) >= 2**53 or value != int(value):
        raise InputError(f"{where}: {printable(word[:40])!r} is not a whole number")
    return int(value)


def _real(word: str, where: str) -> float:
    value = number(word)
    if value is None or not np.isfinite(value):
        raise InputError(f"{where}: {printable(word[:40])!r} is not a number")
    return value
