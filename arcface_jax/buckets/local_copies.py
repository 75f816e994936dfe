"""Local copies, for what reads or writes local files alone."""

import atexit
import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator

from arcface_jax.buckets.cache import CACHE_GIB, process_cache
from arcface_jax.buckets.path import BucketPath, as_path
from arcface_jax.buckets.scratch import scratch_folder
from arcface_jax.errors import InputError


@functools.lru_cache(maxsize=16)
def kept_copy(path: BucketPath) -> pathlib.Path:
    """A local copy of a folder until the process ends, for what cannot be read by parts.

    Raises:
      InputError: it is larger than the cache may be.
    """
    names = path.find()
    size, limit = sum(names.values()), process_cache().limit
    if size > limit:
        raise InputError(
            f"{path}: has {size / 2**30:.1f} GiB, and is read from a local copy, which may have "
            f"{limit / 2**30:.1f}; set {CACHE_GIB} to more, or convert it to recordio"
        )
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    copy = stack.enter_context(scratch_folder()) / path.name
    for name in names:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).get(copy / name)
    return copy


@contextlib.contextmanager
def written_locally(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A place for what writes local files or folders alone: the path itself, or one whose content
    goes there when the block ends without an error.
    """
    place = as_path(path)
    if not isinstance(place, BucketPath):
        yield place
        return
    with scratch_folder() as folder:
        local = folder / place.name
        yield local
        if local.is_file():
            place.put(local)
        for file in sorted(each for each in local.rglob("*") if each.is_file()):
            (place / file.relative_to(local).as_posix()).put(file)
