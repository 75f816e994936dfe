"""Reading a file in object storage by parts, without fetching the whole."""

import errno
import io
import itertools
import os
import threading
from typing import Any

from arcface_jax.buckets.cache import process_cache
from arcface_jax.buckets.entry import entry_of
from arcface_jax.buckets.requests import request, system_error
from arcface_jax.counts import number_of

BLOCK = 1 << 20
"""Bytes that are fetched, and kept in the cache, together."""
_LATEST = threading.local()
"""`place` and `content` of what this thread fetched last that is no block."""


class RangedFile:
    """A file in a bucket, read by parts, of which the blocks stay in a bounded local cache.

    A block is fetched whole when it is read again soon after, or by more than a half at once;
    before that only what is asked for, and a little more. So neighbours that are read together cost
    few requests, and single images of more data than the cache holds do not cost a block each.

    Threads may share it; pickling reopens it.

    Raises:
      OSError: it is not there, or a folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = path
        found = entry_of(path)
        if found.is_folder:
            raise system_error(errno.EISDIR, path)
        self._size, self._key = found.size, (str(path), found.version)

    def __getstate__(self) -> str | os.PathLike[str]:
        return self.path

    def __setstate__(self, path: str | os.PathLike[str]) -> None:
        self.__init__(path)  # type: ignore[misc]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self._size)
        return self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), as far as the file goes.

        Raises:
          OSError: the storage gives fewer.
        """
        stop = min(stop, self._size)
        if start >= stop:
            return b""
        cache, numbers = process_cache(), range(start // BLOCK, -(-stop // BLOCK))
        within = [slice(max(start - n * BLOCK, 0), min(stop - n * BLOCK, BLOCK)) for n in numbers]
        parts = [cache.get((self._key, n), place) for n, place in zip(numbers, within, strict=True)]
        if None in parts and stop - start <= min(BLOCK, self._size) // 2:
            if (latest := self._latest(start, stop)) is not None:
                return latest
            most = cache.limit // BLOCK // 2  # as blocks are kept, beside others that are fetched
            again = [cache.asked_lately((self._key, n), most) for n in numbers]
            if not all(again):
                more = min(max(stop, start + BLOCK // 32), self._size)
                _LATEST.place, _LATEST.content = (self._key, start), self._fetch(start, more)
                return _LATEST.content[: stop - start]
        for missing, run in itertools.groupby(range(len(parts)), lambda at: parts[at] is None):
            if not missing:
                continue
            places = list(run)
            begin = numbers[places[0]] * BLOCK
            content = self._fetch(begin, min((numbers[places[-1]] + 1) * BLOCK, self._size))
            for number, at in enumerate(places):
                block = content[number * BLOCK : (number + 1) * BLOCK]
                cache.keep((self._key, numbers[at]), block)
                parts[at] = block[within[at]]
        return b"".join(part or b"" for part in parts)

    def _latest(self, start: int, stop: int) -> bytes | None:
        """These bytes, if this thread fetched them last: a record's length, then the record."""
        key, begin = getattr(_LATEST, "place", (None, 0))
        if key != self._key or not begin <= start <= stop <= begin + len(_LATEST.content):
            return None
        return _LATEST.content[start - begin : stop - begin]

    def find(self, wanted: bytes, start: int) -> int:
        """Where `wanted` comes next from `start` on; −1 if it does not."""
        while start < self._size:
            part = self.read(start, start + BLOCK + len(wanted) - 1)
            if (at := part.find(wanted)) >= 0:
                return start + at
            start += BLOCK
        return -1

    def _fetch(self, start: int, stop: int) -> bytes:
        def get(storage: Any, key: str) -> bytes:
            content = bytes(storage.cat_file(key, start=start, end=stop))
            if len(content) != stop - start:
                raise ConnectionError(
                    f"{number_of(len(content), 'byte')} instead of {stop - start}"
                )
            return content

        return request(self.path, get)


class _Reader(io.RawIOBase):
    """A `RangedFile` as a file that is open for reading."""

    def __init__(self, file: RangedFile) -> None:
        self._ranged, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = max(0, at + (0, self._at, len(self._ranged))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, place: Any) -> int:
        content = self._ranged.read(self._at, self._at + len(place))
        place[: len(content)] = content
        self._at += len(content)
        return len(content)


def open_to_read(url: str | os.PathLike[str]) -> io.BufferedReader:
    """A file in a bucket, open for reading bytes from any place.

    Raises:
      OSError: it is not there, or a folder.
    """
    return io.BufferedReader(_Reader(RangedFile(url)), BLOCK)
