"""Parquet files with an image column, as Hugging Face publishes data sets."""

import collections
import functools
import json
import math
import os
import threading
from typing import Any

import numpy as np

from arcface_jax.buckets import as_path, path_or_file
from arcface_jax.command_name import install
from arcface_jax.counts import number_of
from arcface_jax.data.source import Pieces
from arcface_jax.data.sources.encoded import EncodedSource, checked_index
from arcface_jax.data.sources.filetree import Listing
from arcface_jax.data.sources.folder import NoImagesError
from arcface_jax.data.sources.splits import choose_split, files_of_split
from arcface_jax.data.text import check_exact, identity_of_value
from arcface_jax.errors import InputError, printable, reason

_CACHE_BYTES = 1 << 30
_EXACT = {"halffloat": (11, "float16"), "float": (24, "float32")}


class ParquetSource(EncodedSource):
    """The rows of one or several Parquet files.

    The image column holds encoded bytes, or structs with a field `bytes`. The identity column holds
    whole numbers or text; if a file's Hugging Face metadata names the classes, numbers stand for
    these names.

    Parquet is read in row groups of hundreds of images, and up to a gigabyte of them is kept. A
    larger set is shuffled by row groups (`shuffled_pieces.ShuffledPieces`); for a uniform shuffle,
    or for other samplers, convert it to RecordIO or array_record first.

    Needs the extra `parquet`.

    Args:
      path: a file, or a folder whose `.parquet` files, at any depth, count in sorted order.
      image_column: name of the image column.
      identity_column: name of the identity column.
      split: which files of a folder count: those with this word in their names (train-00000-of-…),
        or in a folder of this name.
      listing: what is below the folder, if it was walked before.

    Raises:
      NoImagesError: no file has the image column, or a row.
      InputError: pyarrow is not installed; a file is damaged, lacks a column, or is missing from
        those that the names count; a row has no identity, one without a name, or one that its
        number type merges with others; or there are several splits or configurations and none is
        chosen.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_column: str = "image",
        identity_column: str = "label",
        split: str | None = None,
        listing: Listing | None = None,
    ):
        root = as_path(path)
        files = files_of_split(root, ".parquet", split, listing)
        if not files.by_name:
            choose_split([""], split, root)
        self._paths = files.paths
        self._image_column = image_column
        self._open()
        identities: list[str] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        sizes: list[int] = []
        self._check_columns(image_column, identity_column)
        kinds: dict[bool, str] = {}  # whether labels are numbers without a name → a file of such
        for number, (name, file) in enumerate(zip(self._paths, self._files, strict=True)):
            cells = _read(
                name, lambda file=file: file.read([identity_column])[identity_column].to_pylist()
            )
            class_names = _class_names(file.schema_arrow.metadata, identity_column)
            _check_exact(cells, file.schema_arrow.field(identity_column).type, name)
            found = _identities(cells, class_names, name)
            identities += found
            numbers = any(not isinstance(cell, str) for cell in cells)
            if numbers and class_names is None:
                kinds.setdefault(True, name)
            elif numbers or not all(map(str.isdecimal, found)):
                kinds.setdefault(False, name)
            groups = range(file.num_row_groups)
            self._groups += [(number, group) for group in groups]
            rows = [file.metadata.row_group(group).num_rows for group in groups]
            if len(found) != sum(rows):
                raise InputError(
                    f"{name}: {number_of(len(found), 'identity')} for {number_of(sum(rows), 'row')}"
                )
            sizes += rows
        if not identities:
            raise NoImagesError(f"{self._paths[0]}: no row in it")
        if len(kinds) > 1:
            raise InputError(
                f"{kinds[True]}: its identities are numbers, and {kinds[False]} has names; write "
                "both the same way, or open one alone"
            )
        self._ends = np.cumsum(sizes)
        self.name_identities(identities, str(root))
        for text in files.remarks:
            self.remark(f"{root}: {text}", "shards")

    def _check_columns(self, image_column: str, identity_column: str) -> None:
        columns = [file.schema_arrow.names for file in self._files]
        without = NoImagesError if all(image_column not in each for each in columns) else InputError
        for name, each in zip(self._paths, columns, strict=True):
            for column in (image_column, identity_column):
                if column not in each:
                    there = printable(", ".join(each))
                    raise without(
                        f"{name}: no column {column!r}; it has {there}; rename the column of the "
                        f"images' bytes to {image_column} and that of who they show to "
                        f"{identity_column}"
                    )

    def encoded(self, index: int) -> bytes:
        """The cell of the image column."""
        group, row = self._locate(index)
        cells = self._group(group)
        value = _read(self.where(index), lambda: cells[row].as_py())
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            path = value.get("path") if isinstance(value, dict) else value
            there = f"the text {path[:80]!r}" if isinstance(path, str) else "something else"
            there = "nothing" if path is None else there
            raise InputError(
                f"{self.where(index)}: no image bytes in column {self._image_column!r}, but "
                f"{printable(there)}; write the images' files themselves into the table"
            )
        return content

    def path(self, index: int) -> str | None:
        """The field `path` of the image column, if every row has one."""
        return self._names[checked_index(index, len(self))] if self._names else None

    def where(self, index: int) -> str:
        """File, row group and row."""
        group, row = self._locate(index)
        return f"{self._paths[self._groups[group][0]]} row group {self._groups[group][1]} row {row}"

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: each row group's stored bytes, spread evenly over its rows."""
        rows = np.diff(self._ends, prepend=0)
        return np.repeat(self._group_bytes() // np.maximum(rows, 1), rows)

    def pieces(self) -> Pieces | None:
        """The row groups, if not all are kept."""
        stored = int(self._group_bytes().sum())
        if stored <= _CACHE_BYTES:
            return None
        rows = np.diff(self._ends, prepend=0)
        # Windows of several lanes begin and end within a row group, and batches are read ahead.
        pool = len(self) * (_CACHE_BYTES // 2) // stored
        return Pieces(np.repeat(np.arange(len(rows), dtype=np.int32), rows), pool)

    def _group_bytes(self) -> np.ndarray:
        """int64 [groups]: the stored bytes of each row group."""
        groups = (self._files[file].metadata.row_group(group) for file, group in self._groups)
        return np.array([group.total_byte_size for group in groups], np.int64)

    def __getstate__(self) -> dict[str, Any]:
        kept = dict(self.__dict__)
        for name in ("_files", "_lock", "_cache", "_pid"):
            del kept[name]
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    @functools.cached_property
    def _names(self) -> list[str]:
        """The paths of all images, or none; reports how many lack one if others have it."""
        names: list[Any] = []
        for name, file in zip(self._paths, self._files, strict=True):
            kind = file.schema_arrow.field(self._image_column).type
            if "path" not in {kind.field(number).name for number in range(kind.num_fields)}:
                names += [None] * file.metadata.num_rows
                continue
            column = f"{self._image_column}.path"
            cells = _read(name, lambda file=file, c=column: file.read([c]).column(0).to_pylist())
            names += [cell["path"] if cell else None for cell in cells]
        without = [row for row, name in enumerate(names) if not isinstance(name, str) or not name]
        if 0 < len(without) < len(names):
            self.remark(
                f"{self.where(without[0])}: no path; {len(without)} of "
                f"{number_of(len(names), 'row', 'have')} none, so the paths of the others are not "
                "used either",
                "paths",
            )
        return [] if without else names

    def _open(self) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(f"reading Parquet needs pyarrow; {install('parquet')}") from None
        self._files = [
            _read(name, lambda name=name: pq.ParquetFile(path_or_file(name), memory_map=True))
            for name in self._paths
        ]
        self._lock = threading.Lock()
        self._cache: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._pid = os.getpid()

    def _locate(self, index: int) -> tuple[int, int]:
        index = checked_index(index, len(self))
        group = int(np.searchsorted(self._ends, index, side="right"))
        return group, index - (int(self._ends[group - 1]) if group else 0)

    def _group(self, group: int) -> Any:
        """The image column of a row group, from the cache or the file."""
        if self._pid != os.getpid():  # a fork has neither the lock's nor pyarrow's threads
            self._open()
        with self._lock:
            if group not in self._cache:
                self._cache[group] = self._read_group(group)
                while (
                    len(self._cache) > 1
                    and sum(array.nbytes for array in self._cache.values()) > _CACHE_BYTES
                ):
                    self._cache.popitem(last=False)
            self._cache.move_to_end(group)
            return self._cache[group]

    def _read_group(self, group: int) -> Any:
        number, inside = self._groups[group]
        name = f"{self._paths[number]} row group {inside}"
        table = _read(
            name, lambda: self._files[number].read_row_group(inside, [self._image_column])
        )
        cells = _read(name, lambda: table[self._image_column].combine_chunks())
        rows = int(self._ends[group]) - (int(self._ends[group - 1]) if group else 0)
        if len(cells) != rows:
            raise InputError(
                f"{name}: {number_of(len(cells), 'image')} instead of {rows}; the file is damaged"
            )
        return cells


def _read(name: str, action: Any) -> Any:
    try:
        return action()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file") from None
    except Exception as error:
        # ArrowInvalid, OSError, ArrowNotImplementedError, MemoryError for absurd sizes.
        raise InputError(f"{name}: damaged, or not a Parquet file ({reason(error)})") from None


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> list[str] | None:
    """The names of a Hugging Face ClassLabel column, if the file has them."""
    try:
        feature = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]
        names = feature["names"]
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return names


def _check_exact(cells: list[Any], kind: Any, file: str) -> None:
    """Raises if a column's number type cannot tell neighbouring labels apart."""
    bits, precision = _EXACT.get(str(getattr(kind, "value_type", kind)), (None, ""))
    if bits is None:
        return
    for row, cell in enumerate(cells):
        if isinstance(cell, int | float | np.floating) and math.isfinite(cell):
            check_exact(float(cell), bits, precision, f"{file} row {row}")


def _identities(cells: list[Any], class_names: list[str] | None, file: str) -> list[str]:
    """The identity of each row of a file."""
    if class_names is not None and len({*class_names}) < len(class_names):
        twice = next(name for name in class_names if class_names.count(name) > 1)
        raise InputError(f"{file}: two of its classes are called {printable(twice)!r}; rename one")
    known: dict[Any, str] = {}
    for row, cell in enumerate(cells):
        where = f"{file} row {row}"
        if isinstance(cell, list | dict | bytes):  # which no set of known ones holds
            identity_of_value([], where)
        if cell not in known:
            known[cell] = _identity(cell, class_names, where)
    return [known[cell] for cell in cells]


def _identity(cell: Any, class_names: list[str] | None, where: str) -> str:
    text = identity_of_value(cell, where)
    if class_names is None or isinstance(cell, str):
        return text
    if int(text) >= len(class_names):
        raise InputError(
            f"{where}: label {text}, and the file names {number_of(len(class_names), 'class')}, "
            "from 0 on; name it, or leave the row out"
        )
    name = class_names[int(text)]
    if not name.strip():
        raise InputError(f"{where}: label {text} is of a class without a name; name it")
    return name
