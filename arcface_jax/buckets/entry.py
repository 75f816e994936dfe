"""What object storage knows of a name."""

import os
from typing import NamedTuple

from arcface_jax.buckets.requests import request


class Entry(NamedTuple):
    """An entry: a folder, or a file's bytes, time and version."""

    is_folder: bool
    size: int
    time: float
    version: str


def entry_of(url: str | os.PathLike[str]) -> Entry:
    """What the storage knows of it.

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
