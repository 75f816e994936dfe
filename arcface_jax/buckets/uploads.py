"""What is written to object storage: each file as a whole, or not at all."""

import os
import shutil
import tempfile
from typing import Any

from arcface_jax.buckets.requests import request

_IN_MEMORY = 64 << 20
"""Bytes of a file that is being written, before it goes to the local disk."""


def send_bytes(url: str | os.PathLike[str], content: Any) -> None:
    """Writes a file as a whole."""
    request(url, lambda storage, key: storage.pipe_file(key, bytes(content)))


def send_file(url: str | os.PathLike[str], local: str | os.PathLike[str]) -> None:
    """Writes a local file's content, as a whole."""
    request(url, lambda storage, key: storage.put_file(os.fspath(local), key))


def open_upload(url: str | os.PathLike[str]) -> Any:
    """A file to write, which is sent as a whole when it is closed; not where its block ends by an
    error, nor when nobody closes it.
    """
    return _Upload(url)


class _Upload(tempfile.SpooledTemporaryFile):
    def __init__(self, url: str | os.PathLike[str]) -> None:
        super().__init__(_IN_MEMORY)
        self._url = url

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._send()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes it; what was there before stays."""
        super().close()

    __del__ = abandon

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def _send(self) -> None:
        size = self.seek(0, os.SEEK_END)
        self.seek(0)
        if size <= _IN_MEMORY:
            send_bytes(self._url, self.read())
            return
        with tempfile.NamedTemporaryFile() as local:
            shutil.copyfileobj(self, local)
            local.flush()
            send_file(self._url, local.name)
