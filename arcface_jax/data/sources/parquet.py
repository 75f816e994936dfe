"""Parquet files with an image column, as Hugging Face publishes data sets."""

import collections
import functools
import json
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from arcface_jax.data.sources.encoded import EncodedSource, checked_index, number_identities
from arcface_jax.data.sources.splits import files_of_split
from arcface_jax.errors import InputError, printable, reason

_CACHE_BYTES = 1 << 30


class ParquetSource(EncodedSource):
    """The rows of one or several Parquet files.

    The image column holds encoded bytes, or structs with a field `bytes`. The identity column holds
    whole numbers or text; where the file's Hugging Face metadata names the classes, identities have
    these names.

    Parquet is read in row groups of hundreds of images. Up to a gigabyte of them is kept, so a
    small set or reading in order is fast, and shuffled training on a large set is not: convert it
    to RecordIO or array_record first.

    Needs the packages of requirements-parquet.txt.

    Args:
      path: a file, or a folder whose `.parquet` files, at any depth, count in sorted order.
      image_column: name of the image column.
      identity_column: name of the identity column.
      split: of a folder, which files count: those whose names begin with it (train-00000-of-…), or
        whose folder is called so.

    Raises:
      InputError: pyarrow is not installed, no file is there, one is damaged, or lacks a column; or
        there are files of several splits and none is asked for.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        image_column: str = "image",
        identity_column: str = "label",
        split: str | None = None,
    ):
        root = pathlib.Path(path)
        self._paths = files_of_split(root, "*.parquet", split)
        if not self._paths:
            raise InputError(f"{root}: no .parquet file below it")
        self._image_column = image_column
        self._open()
        identities: list[Any] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        sizes: list[int] = []
        class_names: list[str] | None = None
        for number, (name, file) in enumerate(zip(self._paths, self._files, strict=True)):
            for column in (image_column, identity_column):
                if column not in file.schema_arrow.names:
                    there = printable(", ".join(file.schema_arrow.names))
                    raise InputError(f"{name}: no column {column!r}; it has {there}")
            class_names = class_names or _class_names(file.schema_arrow.metadata, identity_column)
            identities += _read(
                name, lambda file=file: file.read([identity_column])[identity_column].to_pylist()
            )
            self._groups += [(number, group) for group in range(file.num_row_groups)]
            sizes += [
                file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)
            ]
        self._ends = np.cumsum(sizes)
        if not identities or len(identities) != self._ends[-1]:
            raise InputError(
                f"{self._paths[0]}: {len(identities)} identities for {sum(sizes)} rows"
            )
        self.labels, self.identity_names = _to_labels(identities, class_names, self._paths[0])

    def encoded(self, index: int) -> bytes:
        """The cell of the image column."""
        group, row = self._locate(index)
        cells = self._group(group)
        value = _read(self.where(index), lambda: cells[row].as_py())
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError(
                f"{self.where(index)}: no image bytes in column {self._image_column!r}"
            )
        return content

    def path(self, index: int) -> str | None:
        """The field `path` of the image column, where every row has one."""
        return self._names[checked_index(index, len(self))] if self._names else None

    def where(self, index: int) -> str:
        """File, row group and row."""
        group, row = self._locate(index)
        return f"{self._paths[self._groups[group][0]]} row group {self._groups[group][1]} row {row}"

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: each row group's stored bytes, spread evenly over its rows."""
        stored = [
            self._files[file].metadata.row_group(group).total_byte_size
            for file, group in self._groups
        ]
        rows = np.diff(self._ends, prepend=0)
        return np.repeat(np.array(stored) // np.maximum(rows, 1), rows).astype(np.int64)

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
        """The paths of all images, or none."""
        names: list[Any] = []
        for name, file in zip(self._paths, self._files, strict=True):
            kind = file.schema_arrow.field(self._image_column).type
            if "path" not in {kind.field(number).name for number in range(kind.num_fields)}:
                return []
            column = f"{self._image_column}.path"
            cells = _read(name, lambda file=file, c=column: file.read([c]).column(0).to_pylist())
            names += [cell["path"] if cell else None for cell in cells]
        return names if all(isinstance(name, str) and name for name in names) else []

    def _open(self) -> None:
        try:
            import pyarrow.parquet as pq
        except ImportError:
            raise InputError(
                "reading Parquet needs pyarrow; pip install -r requirements-parquet.txt"
            ) from None
        self._files = [
            _read(name, lambda name=name: pq.ParquetFile(name, memory_map=True))
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
            raise InputError(f"{name}: {len(cells)} images instead of {rows}; the file is damaged")
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
    return (
        names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    )


def _to_labels(
    identities: list[Any], class_names: list[str] | None, name: str
) -> tuple[np.ndarray, Sequence[str]]:
    wrong = next((value for value in identities if not isinstance(value, int | str)), 0)
    if not isinstance(wrong, int | str):
        there = "a row without an identity" if wrong is None else f"identity {wrong}"
        raise InputError(f"{name}: {there}; give each image one, a whole number or text")
    labels, names = number_identities([str(value) for value in identities])
    if class_names is not None and all(
        text.isdigit() and int(text) < len(class_names) for text in names
    ):
        names = [class_names[int(text)] for text in names]
    return labels, names
