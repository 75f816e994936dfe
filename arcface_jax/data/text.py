"""Reads lists in text files with any Unicode encoding, line ending and separator."""

import codecs
import csv
import itertools
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.errors import InputError, printable, readable

_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_NOBODY = {"nan", "null", "none", "n/a", "#n/a", "<na>"}
_SEPARATORS = "\t,;"
_DECLARED = re.compile(r'\s*"?sep=([,;|\t ])"?[\s,;|]*', re.IGNORECASE)  # Excel's first line
_HEADING = re.compile(r"[^\W\d_][\w ?()#-]*")
_HEAD = 50  # lines, for comments before the first that count
_HEADING_WITHIN = 10  # lines: it may come after comments, and the number of lines
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")

_IMAGE_NAME = re.compile(
    r"[^/]\.(jpe?g|jpe|jfif|jp2|jxl|a?png|gif|bmp|webp|tiff?|p[bgnp]m|hei[cf]|avif)$", re.IGNORECASE
)
UNWRITABLE = r"\x00-\x1f\x7f\ud800-\udc7f\udd00-\udfff"
"""For a regular expression's brackets: control characters and surrogates, except those that stand
for bytes of names that are not UTF-8.
"""
PATH_NAMES = (
    *("path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_path", "image_file", "image_name", "imagename", "image_id"),
    *("img", "img_path", "img_name", "img_id"),
)
"""Names of the image path's column in lists, in `heading`'s form."""


def encoding_of(path: str | os.PathLike[str], kind: str = "list") -> str:
    """Python's name of a text file's encoding: by its byte-order mark, by UTF-16's zero bytes, else
    UTF-8.

    Raises:
      InputError: the file cannot be read; the message calls it `kind`.
    """
    with readable(os.fspath(path), kind), as_path(path).open("rb") as file:
        start = file.read(4096)
    if name := _marked(start):
        return name
    zeros = start[0::2].count(0), start[1::2].count(0)
    if max(zeros) > len(start) / 4 and min(zeros) == 0:
        return "utf-16-be" if zeros[0] else "utf-16-le"
    return "utf-8"


def read_lines(path: str | os.PathLike[str], kind: str = "list") -> Iterator[tuple[int, str]]:
    """(number from 1, line) of a text file, with any line ending.

    Bytes that are not UTF-8 are escaped as in Python's file names, so they still name their file.

    Raises:
      InputError: the file cannot be read, or is no text; the message calls it `kind`.
    """
    name, encoding, number = os.fspath(path), encoding_of(path, kind), 0
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    try:
        place = as_path(path)
        with readable(name, kind), place.open(encoding=encoding, errors=errors) as file:
            for number, line in enumerate(file, 1):
                if "\0" in line:
                    raise InputError(f"{name} line {number}: not text; save it as UTF-8")
                yield number, line.lstrip("\ufeff").rstrip("\n")  # within, of joined files
    except UnicodeError:
        raise InputError(
            f"{name}: its text is not {encoding.upper()} after line {number}; save it as UTF-8"
        ) from None


def separator_of(path: str | os.PathLike[str], kind: str = "list") -> str | None:
    """Tab, comma or semicolon: the first of these that occurs in the first two lines (without lines
    that begin with "#", if there are others), or the one in Excel's first line "sep=;"; None for
    spaces.

    Raises:
      InputError: as `read_lines`.
    """
    lines = (line for _, line in read_lines(path, kind) if line.strip())
    head = [*itertools.islice(lines, _HEAD)]
    if head and (declared := _DECLARED.fullmatch(head[0])):
        return None if declared[1] == " " else declared[1]
    start = ([line for line in head if not line.startswith("#")] or head)[:2]
    return next((mark for mark in _SEPARATORS if any(mark in line for line in start)), None)


def read_rows(
    path: str | os.PathLike[str], columns: int | None = None, kind: str = "list"
) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each line that is not blank; the place is "FILE line NUMBER".

    The separator is that of `separator_of`; a cell may be quoted as in CSV.

    Args:
      path: the file.
      columns: their number in a file with only spaces, whose first column may hold spaces.
      kind: the name of the file in messages.

    Raises:
      InputError: the file cannot be read, is no text, or has an open quote.
    """
    name, separator = os.fspath(path), separator_of(path, kind)
    lines = (
        (number, "" if number == 1 and _DECLARED.fullmatch(line) else line)
        for number, line in read_lines(path, kind)
    )
    if separator is None:
        for number, line in lines:
            if line.strip():
                words = line.split() if columns is None else line.rsplit(None, columns - 1)
                yield f"{name} line {number}", [word.strip() for word in words]
        return
    rows = csv.reader(
        (f"{line}\n" for _, line in lines),
        delimiter=separator,
        skipinitialspace=separator != "\t",
        strict=True,
    )
    while True:
        number = rows.line_num + 1
        try:
            cells = [cell.strip() for cell in next(rows)]
        except StopIteration:
            return
        except csv.Error:  # a cell that goes on too long, or after its end
            raise InputError(
                f'{name} line {number}: has a quote (") that does not end in its cell; close it, '
                'or write it twice ("")'
            ) from None
        if any(cells):
            yield f"{name} line {number}", cells


def number_of_columns(
    path: str | os.PathLike[str],
    are_names: Callable[[list[str]], bool],
    path_names: Iterable[str],
    otherwise: int,
) -> int | None:
    """The number of columns of a list with only spaces, whose first column may hold spaces; for
    `read_rows`.

    The number that one of the first lines names, if the path comes first, named or not; None if the
    path comes later, as it then cannot hold spaces.

    Args:
      path: the file.
      are_names: whether cells, without a "#" before them, name columns.
      path_names: names of the path's column, in `heading`'s form.
      otherwise: the number for a list that names no more columns than this.
    """
    if separator_of(path) is not None:
        return otherwise
    for _, row in itertools.islice(read_rows(path), _HEADING_WITHIN):
        row = without_mark(row)
        if are_names(row):
            paths = [column for column, name in enumerate(row) if heading(name) in path_names]
            columns = len(row) + (not paths)
            if columns > otherwise:
                return columns if paths[:1] in ([], [0]) else None
    return otherwise


def without_mark(row: list[str]) -> list[str]:
    """A row of cells without a leading "#"."""
    bare = row[0].lstrip("#").strip()
    return [bare, *row[1:]] if bare or len(row) == 1 else row[1:]


def is_heading(cells: list[str]) -> bool:
    """Whether a first row names columns: words, no numbers, no paths."""
    return all(_HEADING.fullmatch(cell) for cell in cells if cell)


def heading(cell: str) -> str:
    """A column's name in one form: "Image Path" and "image-path" are image_path."""
    return re.sub(r"[\s-]+", "_", cell.strip().lower())


def names_image(cell: str) -> bool:
    """Whether a cell ends like the name of an image file."""
    return _IMAGE_NAME.search(cell) is not None


def number(cell: str) -> float | None:
    """The number that a cell holds, or None."""
    return float(cell.replace("\N{MINUS SIGN}", "-")) if _NUMBER.fullmatch(cell) else None


def count(cell: str) -> int | None:
    """The whole number from 0 that a cell holds, also as 5.0; or None."""
    if cell.isdecimal() and len(cell) < 16:
        return int(cell)
    value = number(cell)
    if value is None or not 0 <= value < 2**53 or value != int(value):
        return None
    return int(value)


def identity_of(cell: str, where: str) -> str:
    """The identity in a cell of a list or table, or in a text file of its own.

    Any text is an identity except those for none (nan, NULL, None, N/A); a number must be whole and
    at least 0, and 7.0 is 7.

    Raises:
      InputError: the cell is empty, says none, or is another number, such as Hugging Face's −1 for
        none; the message calls the cell `where`.
    """
    cell = cell.strip()
    if not cell:
        raise InputError(f"{where}: no identity; give each image one, or leave it out")
    if cell.lower() in _NOBODY or cell == "NA":
        raise InputError(
            f"{where}: the identity is {printable(cell)!r}, which is nobody; give each image one, "
            "or leave it out"
        )
    if number(cell) is None or cell.isdecimal():
        return cell
    return str(label_of(cell, where))


def identity_of_value(value: object, where: str) -> str:
    """The identity in a table's cell or a record, as a Python or NumPy value.

    Raises:
      InputError: it is none, a truth value, or anything but a number or text; a number is not
        finite, or of a type too coarse to tell it from its neighbours; or as `identity_of`.
    """
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, bytes):  # as TFDS has text
        value = value.decode("utf-8", "surrogateescape")
    if value is None:
        raise InputError(f"{where}: no identity; give each image one, a whole number or text")
    if isinstance(value, bool | np.bool_) or not isinstance(
        value, int | float | str | np.integer | np.floating
    ):
        shown = "" if isinstance(value, list | dict | np.ndarray) else f", but {value!s:.40}"
        raise InputError(
            f"{where}: its identity is no whole number or text{shown}; give another column"
        )
    if isinstance(value, float | np.floating):
        if not math.isfinite(value):
            raise InputError(f"{where}: no identity, but {value}; give each image one")
        if isinstance(value, np.floating):
            check_exact(float(value), np.finfo(value.dtype).nmant + 1, str(value.dtype), where)
        value = float(value)
    return identity_of(str(value), where)


def check_exact(label: float, bits: int, precision: str, where: str) -> None:
    """Raises if a number type with so many bits cannot tell a label from its neighbours."""
    if label >= 1 << bits:
        raise InputError(
            f"{where}: label {label:.9g} is 2{str(bits).translate(_RAISED)} or more, where "
            f"{precision} merges identities; write whole numbers or text"
        )


def label_of(cell: str, where: str) -> int:
    """The label in a cell, a whole number from 0.

    Raises:
      InputError: it holds something else; the message calls the cell `where`.
    """
    value = count(cell)
    if value is None:
        raise InputError(f"{where}: label {printable(cell[:80])!r}; a whole number from 0 is due")
    return value


def decoded(content: bytes) -> str | None:
    """A file's content as text, by its byte-order mark, or else UTF-8; None if it is no text."""
    try:
        return content.decode(_marked(content) or "utf-8")
    except UnicodeError:
        return None


def _marked(content: bytes) -> str | None:
    """Python's name of the encoding whose byte-order mark comes first; None without one."""
    return next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), None)


def same_name(path: str) -> str:
    """A path in composed Unicode (NFC), so that equal names compare equal.

    macOS writes "é" as two characters (NFD), other systems as one.
    """
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def listed_path(cell: str) -> str:
    """A listed path, with forward slashes even if Windows wrote it."""
    return cell.replace("\\", "/") if "/" not in cell else cell
