"""Reading files that do not change, from the local cache if they are there."""

import functools
import os
from typing import Any

from arcface_jax.buckets.cache import process_cache
from arcface_jax.buckets.path import BucketPath, as_path
from arcface_jax.buckets.ranged import RangedFile

_ranged_file = functools.lru_cache(maxsize=4096)(RangedFile)


def path_or_file(path: str | os.PathLike[str]) -> Any:
    """What a library reads that takes a local path or an open file: a bucket's file is opened."""
    place = as_path(path)
    return place.open("rb") if isinstance(place, BucketPath) else path


def read_file(path: BucketPath) -> bytes:
    """The whole content of a file that does not change."""
    key = str(path)
    if (content := process_cache().get(key)) is None:
        content = path.read_bytes()
        process_cache().keep(key, content)
    return content


def read_range(path: str | os.PathLike[str], start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, or as many as there are. Of a bucket's file, which
    must not change, the size is asked once.
    """
    if isinstance(as_path(path), BucketPath):
        return _ranged_file(os.fspath(path)).read(start, start + size)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
