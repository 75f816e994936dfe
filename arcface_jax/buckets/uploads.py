"""What is written to object storage: each file as a whole, or not at all."""

import io
import os
import shutil
import tempfile
from typing import Any

from arcface_jax.buckets.requests import request

_IN_MEMORY = 64 << 20


def send_bytes(url: str | os.PathLike[str], content: Any) -> None:
    """Writes a file as a whole."""
    request(url, lambda storage, key: storage.pipe_file(key, bytes(content)))


def send_file(url: str | os.PathLike[str], local: str | os.PathLike[str]) -> None:
    """Writes a local file's content, as a whole."""
    request(url, lambda storage, key: storage.put_file(os.fspath(local), key))


class _Upload(io.BufferedIOBase):
    """A file that is sent as a whole when it is closed; not where its block ends by an error, nor
    when nobody closes it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = path
        self._content = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 — closed by close()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        return self._content.seek(at, whence)

    def tell(self) -> int:
        return self._content.tell()

    def write(self, content: Any) -> int:
        return self._content.write(content)

    def close(self) -> None:
        if self.closed:
            return
        try:
            upload(self._content, self._path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes it; what was there before stays."""
        self._content.close()
        super().close()

    __del__ = abandon

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


class _TextUpload(io.TextIOWrapper):
    """As `_Upload`, for text."""

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            sent: Any = self.detach()
            sent.abandon()


def open_upload(url: str | os.PathLike[str]) -> Any:
    """A file for bytes, sent as a whole when it is closed."""
    return _Upload(url)


def open_text_upload(
    url: str | os.PathLike[str], encoding: str, errors: str | None, newline: str | None
) -> Any:
    """A file for text, sent as a whole when it is closed."""
    return _TextUpload(_Upload(url), encoding, errors, newline)  # type: ignore[arg-type]


def upload(file: Any, path: str | os.PathLike[str]) -> None:
    """Sends a file that is open for reading, from its start, as a whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= _IN_MEMORY:
        send_bytes(path, file.read())
        return
    with tempfile.NamedTemporaryFile() as local:
        shutil.copyfileobj(file, local)
        local.flush()
        send_file(path, local.name)
