"""Reading what does not change, from the local cache if it is there."""

import functools
import os

from arcface_jax.buckets.cache import process_cache
from arcface_jax.buckets.path import BucketPath, as_path, is_bucket
from arcface_jax.buckets.ranged import RangedFile


@functools.lru_cache(maxsize=4096)
def _ranged(path: str, process: int) -> RangedFile:
    path_in_bucket = as_path(path)
    assert isinstance(path_in_bucket, BucketPath)
    return RangedFile(path_in_bucket)


def read_file(path: BucketPath) -> bytes:
    """The content of a file that does not change, from the local cache if it is there."""
    key = str(path)
    if (content := process_cache().get(key)) is None:
        content = path.read_bytes()
        process_cache().keep(key, content)
    return content


def read_range(path: str | os.PathLike[str], start: int, size: int) -> bytes:
    """`size` bytes of a file from `start` on, or as many as there are. Of a bucket's file, which
    must not change, the size is asked once.
    """
    if is_bucket(path):
        return _ranged(os.fspath(path), os.getpid()).read(start, start + size)
    with open(path, "rb") as file:
        file.seek(start)
        return file.read(size)
