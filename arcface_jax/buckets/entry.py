"""What object storage knows of a name: whether a file or a folder, its size, time and version."""

import os
from typing import NamedTuple

from arcface_jax.buckets.requests import request


class Entry(NamedTuple):
    """A folder or a file.

    Attributes:
      is_folder: whether something lies below, and there is no file.
      size: bytes.
      time: of the last change, in seconds since 1970; 0 if it is not told.
      version: another text whenever the content is another.
    """

    is_folder: bool
    size: int
    time: float
    version: str


def entry_of(url: str | os.PathLike[str]) -> Entry:
    """What the storage knows of a path, asked anew.

    Raises:
      FileNotFoundError: there is nothing.
    """
    found = request(url, lambda storage, key: storage.info(key))
    changed = found.get("LastModified") or found.get("mtime") or found.get("created") or 0
    seconds = changed.timestamp() if hasattr(changed, "timestamp") else 0.0
    version = found.get("ETag") or found.get("etag") or found.get("generation") or changed
    return Entry(
        found.get("type") == "directory", int(found.get("size") or 0), seconds, str(version)
    )
