"""Paths in object storage, s3:// and gs://, which go wherever a local path goes.

`as_path` makes a `pathlib.Path` of what a user gives, or a `BucketPath`, which is one too. fsspec
does the transfers, with s3fs or gcsfs; these find the credentials themselves (environment, file or
machine), and nothing here reads or keeps them.

A bucket has no folders, no appending and no renaming: a name's content is there whole or not at
all, and a folder is there as long as something lies in it.
"""

import atexit
import collections
import contextlib
import errno
import functools
import io
import itertools
import os
import pathlib
import posixpath
import re
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from arcface_jax.command_name import install
from arcface_jax.errors import InputError, printable, reason

Result = TypeVar("Result")

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Seconds before each further try of what the storage did not do."""
CACHE_GIB = "ARCFACE_CACHE_GIB"
"""Environment variable: GiB of local disk that may hold parts of files in buckets, default 8."""
_BLOCK = 1 << 20
_IN_MEMORY = 64 << 20
_SCRATCH = "arcface-jax-scratch-"
_SECONDS_OF_A_REQUEST = 120
_SECONDS = {"connect_timeout": 10, "read_timeout": 60}
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]+):/(/?)", re.IGNORECASE)
_CREDENTIALS = re.compile(r"://[^/@]*(:[^@]*)?@")
_SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "memory": "fsspec"}
_PERMANENT = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError)
_PERMANENT_NUMBERS = (
    *(errno.EINVAL, errno.ENAMETOOLONG, errno.ENOSPC, errno.EDQUOT, errno.ENOSYS),
    *(errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.ENOENT),
)
_FULL = re.compile(
    r"quota|insufficient (storage|space)|no space|storage.{0,20}(full|exceeded)|minimum free", re.I
)
_AGAIN = (408, 429, 500, 502, 503, 504)
"""Answers by HTTP after which to try again, whatever else they say."""
_NO_CREDENTIALS = re.compile(
    r"\bcredentials\b|anonymous (caller|user)|Expired ?Token|Invalid ?Token|SignatureDoesNot"
    r"|request signature|access ?key|not authorized|invalid_grant",
    re.I,
)


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
    if found is None or (not found[2] and found[1].lower() not in _SCHEMES):
        return pathlib.Path(text)
    scheme, rest = found[1].lower(), text[found.end() :].strip("/")
    refuse_credentials(text)
    if scheme not in _SCHEMES:
        raise InputError(
            f"{scheme}://{rest}: of no storage known here; give s3://…, gs://… or a local path"
        )
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


def is_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path is of object storage."""
    return isinstance(as_path(path), BucketPath)


class _Info(NamedTuple):
    """An entry: a folder, or a file's bytes, time and version."""

    is_folder: bool
    size: int
    time: float
    version: str


class BucketPath(type(pathlib.Path())):  # type: ignore[misc]
    """A path in a bucket with what `pathlib.Path` can do there.

    Every request is tried again, `WAITS`, unless the answer is final; then an `OSError` with a
    number and a sentence names the path.
    """

    def __str__(self) -> str:
        first, *rest = self.parts or ("",)
        if first.endswith(":"):
            return f"{first}//{'/'.join(rest)}"
        return str(super().__str__())

    def __fspath__(self) -> str:
        return str(self)

    def is_absolute(self) -> bool:
        """Always."""
        return True

    def absolute(self) -> "BucketPath":
        """Itself."""
        return self

    def resolve(self, strict: bool = False) -> "BucketPath":
        """Itself: there are no links."""
        return self

    def expanduser(self) -> "BucketPath":
        """Itself."""
        return self

    @property
    def key(self) -> str:
        """BUCKET/PATH, as fsspec calls it."""
        if not self.parts or not self.parts[0].endswith(":"):
            raise InputError(f"{self}: is no path in a bucket")
        return "/".join(self.parts[1:])

    def call(self, action: Callable[[Any], Result]) -> Result:
        """`action` of the file system, tried again where that can help.

        Raises:
          OSError: with a number and a sentence.
        """
        scheme, last = self.parts[0].rstrip(":"), None
        for wait in (*WAITS, None):
            try:
                return action(_file_system(scheme))
            except Exception as error:
                last = error
                if wait is None or _is_final(error):
                    break
                time.sleep(wait)
        assert last is not None
        raise _of_the_system(last, str(self)) from None

    def info(self) -> _Info:
        """What the storage knows of it.

        Raises:
          FileNotFoundError: there is nothing.
        """
        found = self.call(lambda storage: storage.info(self.key))
        return _info(found)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size, time and kind."""
        found = self.info()
        mode = stat.S_IFDIR | 0o755 if found.is_folder else stat.S_IFREG | 0o644
        return os.stat_result((mode, 0, 0, 1, 0, 0, found.size, *[int(found.time)] * 3))

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file, or something below."""
        try:
            self.info()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is something below."""
        try:
            return self.info().is_folder
        except FileNotFoundError:
            return False

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Whether there is a file."""
        try:
            return not self.info().is_folder
        except FileNotFoundError:
            return False

    def is_symlink(self) -> bool:
        """Never."""
        return False

    def iterdir(self) -> Iterator["BucketPath"]:
        """What lies directly below."""
        names = self.call(lambda storage: storage.ls(self.key, detail=False))
        own = self.key.strip("/")
        for name in sorted({each.strip("/") for each in names} - {own}):
            yield self / posixpath.basename(name)

    def find(self) -> dict[str, int]:
        """{path below: bytes} of every file at any depth; empty where there is none."""
        found = self.call(lambda storage: storage.find(self.key, detail=True))
        own = self.key.strip("/") + "/"
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
        """A file to read from any place, or one to write, which is there when it is closed.

        Raises:
          OSError: it is not there, or `mode` adds to what is.
        """
        if not set(mode) <= set("rwbt"):
            raise OSError(errno.ENOTSUP, "nothing can be added to a file in a bucket", str(self))
        file: Any
        kind: type[io.TextIOWrapper]
        if "w" in mode:
            file, kind = _Upload(self), _TextUpload
        else:
            file, kind = io.BufferedReader(_Reader(RangedFile(self)), _BLOCK), io.TextIOWrapper
        return file if "b" in mode else kind(file, encoding or "utf-8", errors, newline)

    def read_bytes(self) -> bytes:
        """The whole content."""
        return bytes(self.call(lambda storage: storage.cat_file(self.key)))

    def read_text(self, encoding: str | None = None, errors: str | None = None, **_: Any) -> str:
        """The whole content as text."""
        with io.TextIOWrapper(io.BytesIO(self.read_bytes()), encoding or "utf-8", errors) as file:
            return file.read()

    def write_bytes(self, data: Any) -> int:
        """Writes a file as a whole."""
        self.call(lambda storage: storage.pipe_file(self.key, bytes(data)))
        return len(data)

    def write_text(self, data: str, encoding: str | None = None, *_: Any, **__: Any) -> int:
        """Writes a file as a whole."""
        return self.write_bytes(data.encode(encoding or "utf-8"))

    def create(self, content: bytes) -> bool:
        """Writes a file if there is none; whether it did. Of several at once one does."""
        try:
            self.call(lambda storage: storage.pipe_file(self.key, content, mode="create"))
        except FileExistsError:
            # A request that was answered too late and then tried again finds its own.
            return self.read_bytes() == content
        return True

    def put(self, local: str | os.PathLike[str]) -> None:
        """Writes a local file's content here, as a whole."""
        self.call(lambda storage: storage.put_file(os.fspath(local), self.key))

    def get(self, local: str | os.PathLike[str]) -> None:
        """Writes the content to a local file."""
        self.call(lambda storage: storage.get_file(self.key, os.fspath(local)))

    def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as something lies in it.

        Raises:
          FileExistsError: something is there already, unless `exist_ok`.
        """
        if self.is_file() or (not exist_ok and self.exists()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(self))

    def rmdir(self) -> None:
        """Nothing, for a folder in which nothing lies.

        Raises:
          OSError: something does.
        """
        if self.find():
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), str(self))

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file."""
        try:
            self.call(lambda storage: storage.rm_file(self.key))
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
            old.call(lambda storage, old=old, new=new: storage.cp_file(old.key, new.key))
        for old, _ in moves:
            old.unlink(missing_ok=True)
        return there

    replace = rename

    def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
        """An empty file, if there is none."""
        if not self.exists():
            self.write_bytes(b"")


def _file_system(scheme: str) -> Any:
    """fsspec's, which keeps one for each process and thread."""
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "gs":  # else gcsfs asks about each bucket what nothing here needs to know
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        options["requests_timeout"] = _SECONDS_OF_A_REQUEST
    if scheme == "s3":
        # One request a call: `BucketPath.call` is what tries again.
        options["config_kwargs"] = _SECONDS | {"retries": {"total_max_attempts": 1}}
    try:
        storage = fsspec.filesystem(scheme, **options if scheme != "memory" else {})
    except ImportError as error:
        raise InputError(
            f"{scheme}://: needs the package {_SCHEMES[scheme]}; {install('buckets')}"
        ) from error
    if scheme in ("s3", "gs"):
        storage.retries = 1
    return storage


def _info(found: dict[str, Any]) -> _Info:
    changed = found.get("LastModified") or found.get("mtime") or found.get("created") or 0
    seconds = changed.timestamp() if hasattr(changed, "timestamp") else 0.0
    version = found.get("ETag") or found.get("etag") or found.get("generation") or changed
    return _Info(
        found.get("type") == "directory", int(found.get("size") or 0), seconds, str(version)
    )


def _is_final(error: BaseException) -> bool:
    """Whether another try of the same would fail as well."""
    if isinstance(error, (InputError, *_PERMANENT)):
        return True
    said = str(error)
    if getattr(error, "code", None) in _AGAIN:
        return False
    if _FULL.search(said) or _NO_CREDENTIALS.search(said):
        return True
    return isinstance(error, OSError) and error.errno in _PERMANENT_NUMBERS


def _of_the_system(error: BaseException, path: str) -> Exception:
    """The error as one of the system, with a number, a sentence and the path."""
    if isinstance(error, InputError):
        return error
    said = printable(" ".join(str(error).split()))[:200]
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if isinstance(error, FileExistsError):
        return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if isinstance(error, IsADirectoryError):
        return IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    is_final = _is_final(error)
    if is_final and _FULL.search(said):
        return OSError(errno.ENOSPC, "the storage is full, or over its quota", path)
    if isinstance(error, PermissionError) or (is_final and _NO_CREDENTIALS.search(said)):
        words = "the storage refuses these credentials, or finds none; check the environment"
        return PermissionError(errno.EACCES, words, path)
    tries = "" if is_final else f" in {len(WAITS) + 1} tries"
    return OSError(errno.EIO, f"the storage did not do it{tries} ({_said(error, said)})", path)


def _said(error: BaseException, said: str) -> str:
    if isinstance(error, TimeoutError) or "timed out" in said.lower() or "timeout" in said.lower():
        return "it does not answer in time"
    if isinstance(error, ConnectionError) or "connect" in said.lower():
        return "it cannot be reached"
    return reason(error)


class _Upload(io.BufferedIOBase):
    """A file that is sent as a whole when it is closed; not where its block ends by an error, nor
    when nobody closes it.
    """

    def __init__(self, path: BucketPath) -> None:
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


def upload(file: Any, path: BucketPath) -> None:
    """Sends a file that is open for reading, from its start, as a whole."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if size <= _IN_MEMORY:
        path.write_bytes(file.read())
        return
    with tempfile.NamedTemporaryFile() as local:
        shutil.copyfileobj(file, local)
        local.flush()
        path.put(local.name)


class _Ring:
    """Parts of files in a local file without a name, the oldest of which give way.

    The operating system removes it with the process, however that ends.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._file: Any = None
        self._at = 0
        self._places: collections.OrderedDict[Any, tuple[int, int]] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> bytes | None:
        """What was kept, or None."""
        with self._lock:
            if (place := self._places.get(key)) is None:
                return None
            return os.pread(self._file.fileno(), place[1], place[0])

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


_ring: _Ring | None = None
_ring_lock = threading.Lock()


def _cache() -> _Ring:
    """The process's own; of a limit that leaves half of the free disk."""
    global _ring
    with _ring_lock:
        if _ring is None:
            given = os.environ.get(CACHE_GIB, "8")
            try:
                limit = int(float(given) * 2**30)
            except (ValueError, OverflowError):
                raise InputError(f"{CACHE_GIB} is {given!r}; give a number of GiB") from None
            free = shutil.disk_usage(tempfile.gettempdir()).free
            _ring = _Ring(max(0, min(limit, free // 2)))
            atexit.register(_ring.close)
        return _ring


def _forget_cache() -> None:
    global _ring, _ring_lock
    _ring, _ring_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # its lock may be held, and its places are of the parent
    os.register_at_fork(after_in_child=_forget_cache)


class RangedFile:
    """A file in a bucket, read by parts, which stay in a bounded local cache if the whole can.

    Threads may share it; pickling reopens it.

    Raises:
      OSError: it is not there, or a folder.
    """

    def __init__(self, path: BucketPath) -> None:
        self.path = path
        found = path.info()
        if found.is_folder:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        self._size, self._key = found.size, (str(path), found.version)

    def __getstate__(self) -> BucketPath:
        return self.path

    def __setstate__(self, path: BucketPath) -> None:
        self.__init__(path)  # type: ignore[misc]

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, place: slice) -> bytes:
        start, stop, _ = place.indices(self._size)
        return self.read(start, stop)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop), as far as the file goes.

        Raises:
          OSError: the storage gives fewer.
        """
        stop = min(stop, self._size)
        if start >= stop:
            return b""
        cache = _cache()
        if self._size > cache.limit:
            return self._fetch(start, stop)
        first, last = start // _BLOCK, -(-stop // _BLOCK)
        blocks = [cache.get((self._key, number)) for number in range(first, last)]
        for missing, run in itertools.groupby(range(len(blocks)), lambda at: blocks[at] is None):
            if not missing:
                continue
            places = list(run)
            begin = (first + places[0]) * _BLOCK
            content = self._fetch(begin, min((first + places[-1] + 1) * _BLOCK, self._size))
            for number, at in enumerate(places):
                blocks[at] = content[number * _BLOCK : (number + 1) * _BLOCK]
                cache.keep((self._key, first + at), blocks[at] or b"")
        whole = b"".join(block or b"" for block in blocks)
        return whole[start - first * _BLOCK : stop - first * _BLOCK]

    def find(self, wanted: bytes, start: int) -> int:
        """Where `wanted` comes next from `start` on; −1 if it does not."""
        while start < self._size:
            part = self.read(start, start + _BLOCK + len(wanted) - 1)
            if (at := part.find(wanted)) >= 0:
                return start + at
            start += _BLOCK
        return -1

    def _fetch(self, start: int, stop: int) -> bytes:
        def get(storage: Any) -> bytes:
            content = bytes(storage.cat_file(self.path.key, start=start, end=stop))
            if len(content) != stop - start:
                raise ConnectionError(f"{len(content)} bytes instead of {stop - start}")
            return content

        return self.path.call(get)


class _Reader(io.RawIOBase):
    """A `RangedFile` as a file that is open for reading."""

    def __init__(self, file: RangedFile) -> None:
        self._ranged, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, at: int, whence: int = 0) -> int:
        self._at = max(0, at + (0, self._at, len(self._ranged))[whence])
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, place: Any) -> int:
        content = self._ranged.read(self._at, self._at + len(place))
        place[: len(content)] = content
        self._at += len(content)
        return len(content)


@functools.lru_cache(maxsize=4096)
def _ranged(path: str, process: int) -> RangedFile:
    path_in_bucket = as_path(path)
    assert isinstance(path_in_bucket, BucketPath)
    return RangedFile(path_in_bucket)


def read_file(path: BucketPath) -> bytes:
    """The content of a file that does not change, from the local cache if it is there."""
    key = str(path)
    if (content := _cache().get(key)) is None:
        content = path.read_bytes()
        _cache().keep(key, content)
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


@contextlib.contextmanager
def local_copy(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """A file or folder for what reads local ones alone: itself, or a copy until the block ends."""
    place = as_path(path)
    if not isinstance(place, BucketPath):
        yield place
        return
    with scratch_folder() as folder:
        copy = folder / place.name
        download(place, copy)
        yield copy


@functools.lru_cache(maxsize=16)
def kept_copy(path: BucketPath) -> pathlib.Path:
    """A local copy of a folder until the process ends, for what cannot be read by parts.

    Raises:
      InputError: it is larger than the cache may be.
    """
    size, limit = sum(path.find().values()), _cache().limit
    if size > limit:
        raise InputError(
            f"{path}: has {size / 2**30:.1f} GiB, and is read from a local copy, which may have "
            f"{limit / 2**30:.1f}; set {CACHE_GIB} to more, or convert it to recordio"
        )
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    copy = stack.enter_context(scratch_folder()) / path.name
    download(path, copy)
    return copy


def download(path: BucketPath, local: pathlib.Path) -> None:
    """Copies a file, or all that lies below, to a local place.

    Raises:
      FileNotFoundError: there is nothing.
    """
    if not path.info().is_folder:
        path.get(local)
        return
    for name in path.find():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).get(local / name)


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


@contextlib.contextmanager
def scratch_folder() -> Iterator[pathlib.Path]:
    """A local folder until the block ends, where TMPDIR says; of a process that was killed it goes
    when the next one on this machine needs one.
    """
    _sweep()
    with tempfile.TemporaryDirectory(
        prefix=f"{_SCRATCH}{os.getpid()}-", ignore_cleanup_errors=True
    ) as folder:
        yield pathlib.Path(folder)


def _sweep() -> None:
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        process = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        if process.isdecimal() and not is_alive(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: int) -> bool:
    """Whether a process of this number runs on this machine, for all that can be known."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
