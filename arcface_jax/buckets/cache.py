"""The local cache of what was read from object storage, bounded, until the process ends."""

import atexit
import collections
import contextlib
import functools
import os
import shutil
import tempfile
import threading
from typing import Any

from arcface_jax.errors import InputError

CACHE_GIB = "ARCFACE_CACHE_GIB"
"""Environment variable: GiB of local disk that may hold parts of files in buckets, default 8."""


class RingBuffer:
    """{key: bytes} in a local file of at most `limit` bytes, the oldest of which give way.

    The file has no name: the operating system removes it with the process, however that ends.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._file: Any = None
        self._at = 0
        self._places: collections.OrderedDict[Any, tuple[int, int]] = collections.OrderedDict()
        self._asked: collections.OrderedDict[Any, None] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, part: slice = slice(None)) -> bytes | None:
        """What was kept under this key, or a part of it; or None."""
        with self._lock:
            if (place := self._places.get(key)) is None:
                return None
            start, stop, _ = part.indices(place[1])
            return os.pread(self._file.fileno(), stop - start, place[0] + start)

    def asked_lately(self, key: Any, most: int) -> bool:
        """Whether it was asked for among the last `most` other keys; from now on it was."""
        with self._lock:
            before = key in self._asked
            self._asked[key] = None
            self._asked.move_to_end(key)
            while len(self._asked) > most:
                self._asked.popitem(last=False)
            return before

    def keep(self, key: Any, content: bytes) -> None:
        """Keeps it, if the disk takes it."""
        if not content or len(content) > self.limit:
            return
        with self._lock, contextlib.suppress(OSError):
            if key in self._places:
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 — as long as the process
            if self._at + len(content) > self.limit:
                self._drop(self._at, self.limit)
                self._at = 0
            end = self._at + len(content)
            self._drop(self._at, end)
            if os.pwrite(self._file.fileno(), content, self._at) == len(content):
                self._places[key] = self._at, len(content)
                self._at = end

    def close(self) -> None:
        """Forgets everything."""
        self._places.clear()
        if self._file is not None:
            self._file.close()

    def _drop(self, start: int, end: int) -> None:
        """Forgets the oldest, which lie from `start` on, up to `end`."""
        while self._places:
            key, (at, _) = next(iter(self._places.items()))
            if not start <= at < end:
                break
            del self._places[key]


def process_cache() -> RingBuffer:
    """This process's own, of at most half of the disk that was free at first.

    Raises:
      InputError: ARCFACE_CACHE_GIB is no number.
    """
    return _cache_of(os.getpid())  # after a fork another: its lock may be held, its file is shared


@functools.cache
def _cache_of(process: int) -> RingBuffer:
    given = os.environ.get(CACHE_GIB, "8")
    try:
        limit = int(float(given) * 2**30)
    except (ValueError, OverflowError):
        raise InputError(f"{CACHE_GIB} is {given!r}; give a number of GiB") from None
    free = shutil.disk_usage(tempfile.gettempdir()).free
    cache = RingBuffer(max(0, min(limit, free // 2)))
    atexit.register(cache.close)
    return cache
