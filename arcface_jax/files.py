"""Files that a reader finds whole or not at all, whatever happens to the process or the power."""

import contextlib
import io
import os
import pathlib
from collections.abc import Iterator
from typing import BinaryIO, TextIO

from arcface_jax.buckets import BucketPath, as_path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that a reader finds all of `content` under this name, or what was there
    before.

    Args:
      path: the file; its folder must exist.
      content: text, which is encoded as UTF-8, or bytes.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    with whole_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextlib.contextmanager
def whole_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write by parts, which takes its name when the block ends without an error.

    Args:
      path: the file; its folder must exist.

    Yields: the file, open for writing.

    Raises:
      OSError: it cannot be written; what was there before still is.
    """
    path = as_path(path)
    if isinstance(path, BucketPath):  # where a name has all of a content or nothing
        with path.open("wb") as file:
            yield file
        return
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            yield file
        replace_whole(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise


@contextlib.contextmanager
def whole_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """As `whole_file`, for text as `csv` writes it: UTF-8, with names that are not Unicode as they
    came.
    """
    with whole_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="", write_through=True)
        yield text
        text.detach()


def replace_whole(written: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """`os.replace` of a closed file that lasts: first its content is on the disk, then its name.

    Args:
      written: the file.
      path: its new name, on the same file system or in a bucket.
    """
    if isinstance(there := as_path(path), BucketPath):
        there.put(written)
        os.unlink(written)
        return
    with open(written, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(written, path)
    _sync_folder(pathlib.Path(path).absolute().parent)


def _sync_folder(folder: pathlib.Path) -> None:
    # Windows cannot open a folder, and some file systems cannot sync one: there the name may be
    # lost with the power.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
