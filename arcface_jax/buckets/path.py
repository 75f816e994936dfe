"""Paths in object storage, s3:// and gs://, each a `pathlib.Path`."""

import errno
import io
import itertools
import os
import pathlib
import posixpath
import re
import stat
from collections.abc import Iterator
from typing import Any

from arcface_jax.buckets.entry import entry_of
from arcface_jax.buckets.ranged import open_to_read
from arcface_jax.buckets.requests import SCHEMES, key_of, request, system_error
from arcface_jax.buckets.uploads import open_upload, send_bytes, send_file
from arcface_jax.errors import InputError

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/(/?)", re.IGNORECASE)
_NEARLY = re.compile(r"(s3|gs)(:(?!/)|//)", re.I)
_CREDENTIALS = re.compile(r"://[^/@]*(:[^@]*)?@")


def as_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """What a user gives as a path: of a bucket, or else of this machine.

    Args:
      path: s3://BUCKET/…, gs://BUCKET/…, or a local path. pathlib's s3:/BUCKET is understood.

    Raises:
      InputError: of another scheme, without a bucket, or with credentials in it.
    """
    if isinstance(path, pathlib.Path) and path.parts[:1] and not path.parts[0].endswith(":"):
        return path
    text = os.fspath(path)
    found = _SCHEME.match(text)
    if _NEARLY.match(text):
        raise InputError(f"{text}: give a path in a bucket as s3://BUCKET/… or gs://BUCKET/…")
    if found is None or (not found[2] and found[1].lower() not in SCHEMES):
        return pathlib.Path(text)
    scheme, rest = found[1].lower(), text[found.end() :].strip("/")
    refuse_credentials(text)
    if scheme not in SCHEMES:
        raise InputError(f"{text}: of no storage known here; give s3://…, gs://… or a local path")
    if not rest:
        raise InputError(f"{text}: names no bucket; give {scheme}://BUCKET/PATH")
    return BucketPath(f"{scheme}://{rest}")


def refuse_credentials(text: str) -> None:
    """Refuses a path, or what has one in it, with a name or password before its bucket or host.

    Raises:
      InputError: which does not tell them.
    """
    if _CREDENTIALS.search(text):
        raise InputError(
            f"{_CREDENTIALS.sub('://', text)}: was given with credentials, which would be kept "
            "with the path; leave them out, and set them in the environment"
        )


class BucketPath(type(pathlib.Path())):  # type: ignore[misc]
    """A path in a bucket with what `pathlib.Path` can do there.

    Whatever asks the storage raises an `OSError` that names the path, after the tries of
    `requests.request`.
    """

    def __str__(self) -> str:
        first, *rest = self.parts or ("",)
        if first.endswith(":"):
            return f"{first}//{'/'.join(rest)}"
        return str(super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def absolute(self) -> "BucketPath":
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Itself: there are no links."""
        return self

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, time and kind."""
        found = entry_of(self)
        mode = stat.S_IFDIR | 0o755 if found.is_folder else stat.S_IFREG | 0o644
        return os.stat_result((mode, 0, 0, 1, 0, 0, found.size, *[int(found.time)] * 3))

    def _is_folder(self) -> bool | None:
        """Whether it is a folder; None where there is nothing."""
        try:
            return entry_of(self).is_folder
        except FileNotFoundError:
            return None

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file, or something below."""
        return self._is_folder() is not None

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is something below."""
        return self._is_folder() is True

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file."""
        return self._is_folder() is False

    def iterdir(self) -> Iterator["BucketPath"]:
        """What lies directly below."""
        names = request(self, lambda storage, key: storage.ls(key, detail=False))
        own = key_of(self).strip("/")
        for name in sorted({each.strip("/") for each in names} - {own}):
            yield self / posixpath.basename(name)

    def find(self) -> dict[str, int]:
        """{path below: bytes} of every file at any depth; empty where there is none."""
        found = request(self, lambda storage, key: storage.find(key, detail=True))
        own = key_of(self).strip("/") + "/"
        names = {name.lstrip("/"): one for name, one in found.items()}
        return {
            name.removeprefix(own): int(one.get("size") or 0)
            for name, one in sorted(names.items())
            if name.startswith(own) and one.get("type") != "directory" and not name.endswith("/")
        }

    def glob(self, pattern: Any, **options: Any) -> Iterator["BucketPath"]:
        """What matches below; `**/` is any depth."""
        parts = str(pattern).split("/")
        deep = "**" in parts
        wanted = "/".join(part for part in parts if part != "**")
        seen: set[str] = set()
        for name in self.find():
            folders = itertools.accumulate(name.split("/"), lambda a, b: f"{a}/{b}")
            for each in folders:
                own = pathlib.PurePosixPath(each)
                fits = own.match(wanted) and (deep or len(own.parts) == len(parts))
                if fits and each not in seen:
                    seen.add(each)
                    yield self / each

    def rglob(self, pattern: Any, **options: Any) -> Iterator["BucketPath"]:
        """What matches at any depth."""
        return self.glob(f"**/{pattern}")

    def open(
        self,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> Any:
        """A file to read from any place, or one to write bytes to, which is there when it is
        closed. Text is written by `write_text`, or by parts through `files.whole_text`.

        Raises:
          OSError: it is not there, or `mode` is another.
        """
        if mode == "wb":
            return open_upload(self)
        if mode not in ("r", "rt", "rb"):
            words = f"a file in a bucket is opened as r, rb or wb, and not as {mode}"
            raise OSError(errno.ENOTSUP, words, str(self))
        file = open_to_read(self)
        if mode == "rb":
            return file
        return io.TextIOWrapper(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """The whole content."""
        return bytes(request(self, lambda storage, key: storage.cat_file(key)))

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """The whole content as text."""
        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors) as file:
            return file.read()

    def write_bytes(self, data: Any) -> int:
        """Writes a file as a whole."""
        send_bytes(self, data)
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        """Writes a file as a whole."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def create(self, content: bytes) -> bool:
        """Writes a file if there is none; whether it did. Of several at once one does."""
        try:
            request(self, lambda storage, key: storage.pipe_file(key, content, mode="create"))
        except FileExistsError:
            # A request that was answered too late and then tried again finds its own.
            return self.read_bytes() == content
        return True

    def put(self, local: str | os.PathLike[str]) -> None:
        """Writes a local file's content here, as a whole."""
        send_file(self, local)

    def get(self, local: str | os.PathLike[str]) -> None:
        """Writes the content to a local file."""
        request(self, lambda storage, key: storage.get_file(key, os.fspath(local)))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something lies in it.

        Raises:
          FileExistsError: something is there already, unless `exist_ok`.
        """
        is_folder = self._is_folder()
        if is_folder is False or (is_folder and not exist_ok):
            raise system_error(errno.EEXIST, self)

    def rmdir(self) -> None:
        """Nothing, for a folder in which nothing lies.

        Raises:
          OSError: something does.
        """
        if self.find():
            raise system_error(errno.ENOTEMPTY, self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file."""
        try:
            request(self, lambda storage, key: storage.rm_file(key))
        except FileNotFoundError:
            if not missing_ok:
                raise

    def rmtree(self) -> None:
        """Removes a file, or all that lies below."""
        names = self.find()
        for name in names:
            (self / name).unlink(missing_ok=True)
        if not names:
            self.unlink(missing_ok=True)

    def rename(self, target: Any) -> "BucketPath":
        """Copies within the bucket, and then removes what was copied."""
        there = as_path(target)
        assert isinstance(there, BucketPath)
        names = self.find()
        moves = [(self / name, there / name) for name in names] or [(self, there)]
        for old, new in moves:
            old._copy(new)
        for old, _ in moves:
            old.unlink(missing_ok=True)
        return there

    def _copy(self, there: "BucketPath") -> None:
        request(self, lambda storage, key: storage.cp_file(key, key_of(there)))
