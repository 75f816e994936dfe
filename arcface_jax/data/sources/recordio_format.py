"""RecordIO, the container of insightface's data sets, at the level of records.

A record is one part or several. A part has the magic number, a length word (uint32), the payload,
and zeros up to a multiple of 4 bytes. The word's top three bits say which part it is; its low 29
bits are the length. If the payload itself has the magic number at an aligned place, the writer ends
the part there and leaves the number out. So a reader can always find the next record. The payload
starts with a 24-byte header.
"""

import mmap
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from arcface_jax.buckets import BucketPath, RangedFile, as_path
from arcface_jax.counts import number_of
from arcface_jax.data.sources.filetree import MAX_FILE_BYTES
from arcface_jax.errors import InputError, readable

_MAGIC_WORD = 0xCED7230A
MAGIC = struct.pack("<I", _MAGIC_WORD)
_HEADER = struct.Struct("<IfQQ")
_PART = struct.Struct("<4sI")
_LENGTH_BITS = 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class RecordContent(NamedTuple):
    """A record's content.

    Attributes:
      labels: float32 [K]; K is 1 for an ordinary image.
      id: the record's number, set by its writer.
      payload: the encoded image, or nothing.
      has_label_list: the labels are a list after the header (its flag is K), not the header's own
        single label.
    """

    labels: np.ndarray
    id: int
    payload: bytes
    has_label_list: bool


_WORDS_OF_HEAD = 10
_REQUESTS = 16


class RecordHeads(NamedTuple):
    """Contents of the first bytes of M records.

    Attributes:
      labels: float32 [M, 2], the first two labels of each; NaN if there are fewer.
      listed: bool [M], as `RecordContent.has_label_list`.
      payload_bytes: int64 [M]; above zero for images, zero for header and identity records.
      ends: int64 [M], where the next record starts.
    """

    labels: np.ndarray
    listed: np.ndarray
    payload_bytes: np.ndarray
    ends: np.ndarray


class RecordFile:
    """Random access to the records of a memory-mapped `.rec` file; of one in a bucket, by parts.

    Threads and forked processes may share it; pickling reopens it.

    Raises:
      InputError: the file is missing, unreadable or empty.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = os.fspath(path)
        place = as_path(path)
        self._map: mmap.mmap | RangedFile
        try:
            if isinstance(place, BucketPath):
                self._map = RangedFile(place)
                if not len(self._map):
                    raise ValueError
            else:
                with open(self.path, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot open this record file ({error.strerror})"
            ) from None
        except ValueError:
            raise InputError(f"{self.path}: empty file, not a record file") from None

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        self.__init__(path)  # type: ignore[misc]

    def __len__(self) -> int:
        """Bytes in the file."""
        return len(self._map)

    def content(self, offset: int) -> bytes:
        """The bytes of the record at `offset`, header included, parts joined.

        Raises:
          InputError: there is no intact record; the message names file and offset.
        """
        return self._record(offset)[0]

    def read(self, offset: int) -> RecordContent:
        """The record at `offset`. Raises like `content`."""
        return unpack(self.content(offset), self.where(offset))

    def read_heads(self, offsets: np.ndarray) -> RecordHeads:
        """Labels and lengths of the records at `offsets`.

        For millions of records: reads all but multi-part ones in bulk. Raises like `content`.
        """
        count, length_in_words = len(offsets), len(self._map) // 4
        heads = RecordHeads(
            np.full((count, 2), np.nan, np.float32),
            np.zeros(count, bool),
            np.zeros(count, np.int64),
            np.zeros(count, np.int64),
        )
        inside = (offsets % 4 == 0) & (offsets >= 0) & (offsets + 32 <= 4 * length_in_words)
        at = np.where(inside, offsets, 0) // 4
        word = self._words_at(at)
        magic, length, flag = (
            (word(k).astype(np.int64) for k in range(3)) if length_in_words >= 3 else (at * 0,) * 3
        )
        payload = length - _HEADER.size - 4 * flag
        whole = inside & (magic == _MAGIC_WORD) & (length < 1 << _LENGTH_BITS) & (payload >= 0)
        whole &= offsets + _PART.size + length <= len(self._map)
        heads.listed[:] = flag > 0
        heads.payload_bytes[:] = payload
        heads.ends[:] = offsets + _PART.size + _padded(length)
        own = whole & (flag == 0)
        heads.labels[own, 0] = word(3, own).view("<f4")
        for column in (0, 1):
            has = whole & (flag > column)
            heads.labels[has, column] = word(8 + column, has).view("<f4")
        for row in np.flatnonzero(~whole):  # in several parts, or damaged
            content, end = self._record(int(offsets[row]))
            record = unpack(content, self.where(int(offsets[row])))
            heads.labels[row, : len(record.labels)] = record.labels[:2]
            heads.listed[row], heads.ends[row] = record.has_label_list, end
            heads.payload_bytes[row] = len(record.payload)
        return heads

    def _words_at(self, at: np.ndarray) -> Callable[..., np.ndarray]:
        """(k, which of `at`) → uint32, the k-th word from each on."""
        if not isinstance(self._map, RangedFile):
            words = np.frombuffer(self._map, "<u4", len(self._map) // 4)
            return lambda k, which=slice(None): words[at[which] + k]
        heads, file = np.zeros((len(at), _WORDS_OF_HEAD), "<u4"), self._map

        def read(rows: np.ndarray) -> None:
            for row in rows:
                start = 4 * int(at[row])
                content = file[start : start + 4 * _WORDS_OF_HEAD]
                found = np.frombuffer(content, "<u4", len(content) // 4)
                heads[row, : len(found)] = found

        parts = np.array_split(np.argsort(at, kind="stable"), min(_REQUESTS, len(at) or 1))
        with ThreadPoolExecutor(len(parts)) as pool:  # one waits for the storage as long as many
            list(pool.map(read, parts))
        return lambda k, which=slice(None): np.ascontiguousarray(heads[which, k])

    def count(self, start: int, stop: int) -> int:
        """How many records lie from offset `start` to `stop`. Raises like `content`."""
        found = 0
        while start < stop:
            start, found = self._record(start)[1], found + 1
        return found

    def scan(self, damaged: list[str] | None = None) -> Iterator[int]:
        """The offsets of all records, in the file's order.

        A list `damaged` collects messages, and the scan continues at the next record; without it
        the first damaged record raises.
        """
        offset = 0
        while offset < len(self._map):
            try:
                _, end = self._record(offset)
            except InputError as error:
                if damaged is None:
                    raise
                damaged.append(str(error))
                end = self._next_start(offset + 4)
            else:
                yield offset
            offset = end

    def where(self, offset: int) -> str:
        """File and offset, for messages."""
        return f"{self.path} at offset {offset}"

    def _record(self, offset: int) -> tuple[bytes, int]:
        """The content of the record at `offset` and the offset of the next."""
        kind, start, length = self._part(offset)
        if kind not in (_WHOLE, _FIRST):
            raise self._damaged(offset, "a record's middle, not its start")
        parts, total = [self._map[start : start + length]], length
        end = start + _padded(length)
        while kind not in (_WHOLE, _LAST):
            kind, start, length = self._part(end)
            if kind not in (_MIDDLE, _LAST):
                raise self._damaged(offset, f"the record's next part is missing at offset {end}")
            total += length + len(MAGIC)
            if total > MAX_FILE_BYTES:
                raise self._damaged(offset, f"longer than {MAX_FILE_BYTES >> 20} MiB")
            parts.append(self._map[start : start + length])
            end = start + _padded(length)
        return MAGIC.join(parts), end

    def _part(self, offset: int) -> tuple[int, int, int]:
        """(kind, start of the payload, length) of the part at `offset`."""
        if offset % 4 or not 0 <= offset <= len(self._map) - _PART.size:
            raise self._damaged(
                offset,
                f"outside the file's {number_of(len(self._map), 'byte')}, or not a multiple of 4",
            )
        magic, word = _PART.unpack(self._map[offset : offset + _PART.size])
        kind, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
        start = offset + _PART.size
        if magic != MAGIC:
            raise self._damaged(offset, f"starts with {magic.hex()} instead of {MAGIC.hex()}")
        if kind > _LAST:
            raise self._damaged(offset, f"unknown part kind {kind}")
        if start + length > len(self._map):
            raise self._damaged(
                offset,
                f"{number_of(length, 'byte')} long, but the file ends after "
                f"{len(self._map) - start}",
            )
        if length > MAX_FILE_BYTES:
            raise self._damaged(offset, f"longer than {MAX_FILE_BYTES >> 20} MiB")
        return kind, start, length

    def _next_start(self, offset: int) -> int:
        """The next aligned place that looks like a record's start, or the file's end."""
        while (offset := self._map.find(MAGIC, offset)) >= 0:
            if offset % 4 == 0 and offset + _PART.size <= len(self._map):
                word = _PART.unpack(self._map[offset : offset + _PART.size])[1]
                if word >> _LENGTH_BITS in (_WHOLE, _FIRST):
                    return offset
            offset += 1
        return len(self._map)

    def _damaged(self, offset: int, why: str) -> InputError:
        return InputError(
            f"{self.where(offset)}: damaged record ({why}); restore the file or rebuild its index"
        )


class RecordWriter:
    """Appends records to a `.rec` file and keeps its first `append_at` bytes."""

    def __init__(self, path: str | os.PathLike[str], append_at: int = 0):
        self._file = open(path, "r+b" if append_at else "wb")  # noqa: SIM115 — closed by close()
        self._file.truncate(append_at)
        self._file.seek(append_at)

    def write(self, content: bytes) -> int:
        """Writes one record, header included, and returns its offset."""
        offset = self._file.tell()
        parts = _split_at_magic(content)
        for number, part in enumerate(parts):
            if len(part) >= 1 << _LENGTH_BITS:
                raise InputError(
                    f"a record of {number_of(len(content), 'byte')} is longer than the format's "
                    "limit of 512 MiB"
                )
            first, last = number == 0, number == len(parts) - 1
            kind = _WHOLE if first and last else _FIRST if first else _LAST if last else _MIDDLE
            self._file.write(_PART.pack(MAGIC, kind << _LENGTH_BITS | len(part)))
            self._file.write(part)
            self._file.write(bytes(_padded(len(part)) - len(part)))
        return offset

    def tell(self) -> int:
        """Bytes written so far."""
        return self._file.tell()

    def flush(self) -> None:
        """Makes the written bytes survive a crash of the process or machine."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Ends the file; closing twice is allowed."""
        self._file.close()


def pack(labels: float | Sequence[float], id: int, payload: bytes = b"") -> bytes:
    """A record's content: header, labels, payload. One label goes into the header, a list after it.

    Raises:
      InputError: a label is not exact in float32.
    """
    values = np.atleast_1d(np.asarray(labels, np.float64))
    stored = values.astype(np.float32)
    if not np.array_equal(stored, values):
        raise InputError(
            f"record {id}: label {values[stored != values][0]:.0f} is not exact in float32, use "
            "less than 2²⁴"
        )
    if np.ndim(labels) == 0:
        return _HEADER.pack(0, float(stored[0]), id, 0) + payload
    return _HEADER.pack(len(stored), 0.0, id, 0) + stored.astype("<f4").tobytes() + payload


def unpack(content: bytes, where: str) -> RecordContent:
    """The inverse of `pack`; `where` names the record in messages."""
    if len(content) < _HEADER.size:
        raise InputError(
            f"{where}: {number_of(len(content), 'byte', 'are')} too few for a record's header of "
            f"{_HEADER.size}"
        )
    flag, label, id, _ = _HEADER.unpack_from(content)
    if flag == 0:
        return RecordContent(np.array([label], np.float32), id, content[_HEADER.size :], False)
    end = _HEADER.size + 4 * flag
    if end > len(content):
        raise InputError(
            f"{where}: the header announces {flag} labels, but the record has "
            f"{number_of(len(content), 'byte')}"
        )
    return RecordContent(np.frombuffer(content[_HEADER.size : end], "<f4"), id, content[end:], True)


def read_index(path: str | os.PathLike[str]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets, int64 each, of an `.idx` file: lines "key<TAB>offset", in its order.

    Raises:
      InputError: missing, not two integers per line, or a key twice.
    """
    path = os.fspath(path)
    with readable(path, "index"), as_path(path).open("rb") as file:
        content = file.read()
    try:
        numbers = np.array(content.split(), np.int64)
    except (ValueError, OverflowError):
        raise InputError(
            f"{path}: not an index (lines of key, tab, offset); delete it to have it rebuilt"
        ) from None
    lines = sum(1 for line in content.splitlines() if line.strip())
    if len(numbers) != 2 * lines or len(numbers) == 0 or numbers.min() < 0:
        raise InputError(f"{path}: empty, cut off or negative; delete it to have it rebuilt")
    keys, offsets = numbers[0::2], numbers[1::2]
    if len(np.unique(keys)) != len(keys):
        raise InputError(f"{path}: a key stands there twice; delete it to have it rebuilt")
    return keys, offsets


def scan_index(file: RecordFile, damaged: list[str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of a record file that has lost its `.idx`.

    The key is the id in each record's header if these are all different, as insightface writes
    them; else the record's position. `damaged` is as for `RecordFile.scan`.
    """
    offsets, ids = [], []
    for offset in file.scan(damaged):
        try:
            ids.append(file.read(offset).id)
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
            continue
        offsets.append(offset)
    keys = ids if len(set(ids)) == len(ids) and max(ids, default=0) < 2**62 else range(len(ids))
    return np.array(keys, np.int64), np.array(offsets, np.int64)


def format_index(keys: Sequence[int] | np.ndarray, offsets: Sequence[int] | np.ndarray) -> str:
    """The text of an `.idx` file."""
    return "".join(f"{key}\t{offset}\n" for key, offset in zip(keys, offsets, strict=True))


def _padded(length: Any) -> Any:
    return -(-length // 4) * 4


def _split_at_magic(content: bytes) -> list[bytes]:
    """Cuts out every magic number at an aligned place of `content`."""
    parts, start, search = [], 0, 0
    while (found := content.find(MAGIC, search)) >= 0:
        if found % 4 == 0:
            parts.append(content[start:found])
            start = search = found + len(MAGIC)
        else:
            search = found + 1
    return [*parts, content[start:]]
