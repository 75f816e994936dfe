"""Files below a root, a directory or a zip archive of one, read in place."""

import contextlib
import functools
import itertools
import os
import pathlib
import posixpath
import stat
import threading
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from arcface_jax.buckets import BucketPath, as_path, path_or_file, read_file
from arcface_jax.counts import number_of
from arcface_jax.data.sources.encoded import EncodedSource, checked_index
from arcface_jax.data.text import listed_path, same_name
from arcface_jax.errors import InputError, printable, readable, reason

MAX_FILE_BYTES = 1 << 28
"""Larger files are not read: no encoded face comes near 256 MiB."""

_START = 16
_LOCAL_HEADER = b"PK\3\4"
_LONGEST_LINK = 4096
_PACKERS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
    b"\x04\x22\x4d\x18": "LZ4",
}
_END, _LARGE_END = b"PK\5\6", b"PK\6\6"
_END_RECORD, _COUNTED_ELSEWHERE = 22, 0xFFFF
_LONGEST_END = _END_RECORD + 0xFFFF + 1024  # with the comment and what large archives have before
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


REPLACED = "files that a later one of their name replaces"
LINKS = "left out as links to no file in the archive"
PIPES = "left out as devices or pipes"
_AGAIN = "left out as links to a folder that counts already"
_MOST_LINKS = 40


class Listing(NamedTuple):
    """What is below a root.

    Attributes:
      files: every file, sorted by folder and then by name.
      folders: every folder, sorted.
      hidden: the files that are hidden, or in a hidden folder, sorted.
      left_out: other names that are skipped, by reason.
    """

    files: list[str]
    folders: list[str]
    hidden: list[str]
    left_out: dict[str, list[str]]


class FileTree(Protocol):
    """Files by their path relative to the root, with forward slashes."""

    def walk(self) -> Listing:
        """What is below the root."""
        ...

    def size(self, path: str) -> int:
        """Bytes in one file; 0 if unknown."""
        ...

    def read(self, path: str) -> bytes:
        """The content of one file; an InputError names it if it cannot be read."""
        ...

    def start(self, path: str) -> bytes:
        """The first 16 bytes of one file; empty if it cannot be read."""
        ...

    def where(self, path: str) -> str:
        """The file's name for messages."""
        ...

    def files(self, paths: Sequence[str]) -> np.ndarray:
        """int64 [N], equal for paths that lead to one file, by links."""
        ...


def open_tree(root: str | os.PathLike[str]) -> FileTree:
    """The files of a directory or of a zip archive.

    Raises:
      InputError: `root` does not exist, or is neither.
    """
    place, root = as_path(root), os.fspath(root)
    if not place.exists():
        raise InputError(f"{root}: no such folder or zip file; check the path")
    if place.is_dir():
        return _BucketTree(place) if isinstance(place, BucketPath) else _DirectoryTree(root)
    with readable(root), place.open("rb") as file:
        if zipfile.is_zipfile(file):
            return _ZipTree(root)
        file.seek(0)
        start = file.read(_START)
    if start.startswith(_LOCAL_HEADER):
        raise InputError(
            f"{root}: a zip file that is cut off, for its end with the list of members is not "
            "there; fetch or make it anew"
        )
    if packed := packed_by(start):
        raise InputError(f"{root}: no zip file, but packed by {packed}; extract it")
    raise InputError(f"{root}: neither a folder nor a zip file; give one of these")


def packed_by(start: bytes) -> str | None:
    """The name of a program that a file was packed by, of which these are the first bytes."""
    return next((name for sign, name in _PACKERS.items() if start.startswith(sign)), None)


class _DirectoryTree:
    """The files of a directory.

    Symbolic links are followed. A directory counts once, even if several links lead to it, so loops
    end and nobody becomes two identities.
    """

    def __init__(self, root: str):
        self._root = root

    def walk(self) -> Listing:
        found: list[tuple[str, str]] = []
        folders: list[str] = []
        hidden: list[str] = []
        left_out: dict[str, list[str]] = {}
        seen: set[tuple[int, int]] = set()
        # Links after folders, so that what they lead to has its own name where it has one here.
        pending = [""]
        links: list[str] = []
        out_of_sight: list[str] = []
        while queue := pending or links or out_of_sight:
            folder = queue.pop()
            full = os.path.join(self._root, folder)
            visible = not in_hidden(folder)
            try:
                status = os.stat(full)
                with os.scandir(full) as scan:
                    entries = sorted(scan, key=lambda entry: entry.name, reverse=True)
            except OSError as error:
                if not visible:
                    continue
                raise InputError(
                    f"{full}: cannot list this folder ({error.strerror}); check its permissions"
                ) from None
            if (status.st_dev, status.st_ino) in seen:
                if visible:
                    left_out.setdefault(_AGAIN, []).append(folder)
                continue
            seen.add((status.st_dev, status.st_ino))
            if visible:
                folders.append(folder)
            new_links: list[str] = []
            for entry in entries:
                relative = f"{folder}/{entry.name}" if folder else entry.name
                shown = visible and not is_hidden(entry.name)
                if entry.is_dir():
                    kind = pending if shown else out_of_sight
                    (new_links if shown and entry.is_symlink() else kind).append(relative)
                elif not shown:
                    hidden.append(relative)
                # Files and broken links, not a pipe or a device, which could hang.
                elif entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path)):
                    found.append((folder, entry.name))
                else:
                    left_out.setdefault(PIPES, []).append(relative)
            links = new_links + links
        files = [f"{folder}/{name}" if folder else name for folder, name in sorted(found)]
        return Listing(files, sorted(folders)[1:], sorted(hidden), left_out)

    def size(self, path: str) -> int:
        try:
            return os.stat(os.path.join(self._root, path)).st_size
        except (OSError, ValueError):  # ValueError: a NUL in the path
            return 0

    def read(self, path: str) -> bytes:
        try:
            with open(os.path.join(self._root, path), "rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", error)
            raise InputError(f"{self.where(path)}: cannot read this file ({why})") from None
        return _within_limit(content, self.where(path))

    def start(self, path: str) -> bytes:
        try:
            with open(os.path.join(self._root, path), "rb") as file:
                return file.read(_START)
        except (OSError, ValueError):
            return b""

    def where(self, path: str) -> str:
        return printable(os.path.join(self._root, path))

    def files(self, paths: Sequence[str]) -> np.ndarray:
        # A folder's listing has the numbers of its files, and only of links to them others.
        def folder_of(index: int) -> str:
            return paths[index].rpartition("/")[0]

        numbers = np.full(len(paths), -1, np.int64)
        by_folder = sorted(range(len(paths)), key=folder_of)
        for folder, indices in itertools.groupby(by_folder, folder_of):
            names = {paths[index].rpartition("/")[2]: index for index in indices}
            with contextlib.suppress(OSError), os.scandir(os.path.join(self._root, folder)) as scan:
                for entry in scan:
                    if entry.name in names and not entry.is_symlink():
                        numbers[names[entry.name]] = entry.inode() % (1 << 63)
        for index in np.flatnonzero(numbers < 0).tolist():
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(os.path.join(self._root, paths[index]))
                numbers[index] = status.st_ino % (1 << 63)
        # Numbers of several disks can be equal, and some systems give none.
        _, which, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        known: dict[tuple[int, int], int] = {}
        result = np.arange(len(paths))
        for index in np.flatnonzero((counts[which] > 1) & (numbers > 0)).tolist():
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(self._root, paths[index]))
                if status.st_ino:
                    key = status.st_dev, status.st_ino
                    result[index] = known.setdefault(key, index)
        return result


class _BucketTree:
    """The files below a path in a bucket, by one listing."""

    def __init__(self, root: BucketPath):
        self._root = root
        self._sizes: dict[str, int] | None = None

    def __getstate__(self) -> BucketPath:
        return self._root

    def __setstate__(self, root: BucketPath) -> None:
        self.__init__(root)  # type: ignore[misc]

    def _listed(self) -> dict[str, int]:
        if self._sizes is None:
            with readable(self._root, "folder"):
                self._sizes = self._root.find()
        return self._sizes

    def walk(self) -> Listing:
        files = [name for name in self._listed() if not in_hidden(name)]
        files.sort(key=lambda name: (name.rpartition("/")[0], name.rpartition("/")[2]))
        hidden = sorted(name for name in self._listed() if in_hidden(name))
        return Listing(files, sorted(folders_of(files)), hidden, {})

    def size(self, path: str) -> int:
        return self._listed().get(path, 0)

    def read(self, path: str) -> bytes:
        if self.size(path) > MAX_FILE_BYTES:
            return _within_limit(b"\0" * (MAX_FILE_BYTES + 1), self.where(path))
        with readable(self.where(path)):
            return read_file(self._root / path)

    def start(self, path: str) -> bytes:
        try:
            return read_file(self._root / path)[:_START]
        except OSError:
            return b""

    def where(self, path: str) -> str:
        return printable(str(self._root / path))

    def files(self, paths: Sequence[str]) -> np.ndarray:
        return np.arange(len(paths))  # no links lead to others


class _ZipTree:
    """The files of a zip archive.

    Nothing is ever extracted, so a member's name cannot reach outside. Each process opens its own
    archive, as a file position shared after a fork would confuse two readers. Threads share it;
    `zipfile` locks each read.
    """

    def __init__(self, root: str):
        self._root = root
        self._lock = threading.Lock()
        self._opened: tuple[int, zipfile.ZipFile] | None = None

    def __getstate__(self) -> dict[str, str]:
        return {"root": self._root}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["root"])  # type: ignore[misc]

    def walk(self) -> Listing:
        self._archive()
        files = [name for name in self._members if not in_hidden(name)]
        files.sort(key=lambda name: (name.rpartition("/")[0], name.rpartition("/")[2]))
        folders = {name for name in self._folders if not in_hidden(name)} | folders_of(files)
        hidden = sorted(name for name in self._members if in_hidden(name))
        return Listing(files, sorted(folders), hidden, self._left_out)

    def size(self, path: str) -> int:
        self._archive()
        return self._members[path].file_size if path in self._members else 0

    def read(self, path: str) -> bytes:
        try:
            with self._archive().open(self._members[path]) as member:
                content = member.read(MAX_FILE_BYTES + 1)
        except KeyError:
            raise InputError(f"{self.where(path)}: no such file in the archive") from None
        # zlib.error, BadZipFile, EOFError, NotImplementedError, RuntimeError (encrypted)
        except Exception as error:
            raise InputError(
                f"{self.where(path)}: cannot read this file ({reason(error)})"
            ) from error
        return _within_limit(content, self.where(path))

    def start(self, path: str) -> bytes:
        try:
            with self._archive().open(self._members[path]) as member:
                return member.read(_START)
        except Exception:  # as in `read`
            return b""

    def where(self, path: str) -> str:
        return printable(f"{self._root}:{path}")

    def files(self, paths: Sequence[str]) -> np.ndarray:
        self._archive()
        places = {
            path: self._members[path].header_offset for path in paths if path in self._members
        }
        return np.array([places.get(path, -1 - at) for at, path in enumerate(paths)], np.int64)

    def _archive(self) -> zipfile.ZipFile:
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                try:
                    archive = zipfile.ZipFile(path_or_file(self._root))
                    self._list(archive)
                    self._opened = (os.getpid(), archive)
                except InputError:
                    raise
                except Exception as error:
                    # BadZipFile, OSError, and struct.error for damaged directories.
                    raise InputError(
                        f"{self._root}: cannot open this zip file ({reason(error)})"
                    ) from error
            return self._opened[1]

    def _list(self, archive: zipfile.ZipFile) -> None:
        """Collects the members by their normal names."""
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._left_out: dict[str, list[str]] = {}
        folders: set[str] = set()
        links: dict[str, str] = {}
        self._check_whole(archive)
        for info in archive.infolist():
            name = normal_name(info.filename)
            if listed_path(info.filename).endswith("/"):
                folders.add(f"{name}/")
                continue
            if self._members.pop(name, None) or links.pop(name, None):
                self._left_out.setdefault(REPLACED, []).append(name)
            if stat.S_ISLNK(info.external_attr >> 16) and info.file_size <= _LONGEST_LINK:
                target = archive.read(info).decode("utf-8", "surrogateescape")
                links[name] = normal_name(posixpath.join(posixpath.dirname(name), target))
            else:
                self._members[name] = info
        for name in links:
            found = follow(name, self._members, links)
            if found is None:
                self._left_out.setdefault(LINKS, []).append(name)
            else:
                self._members[name] = self._members[found]
        self._folders = folders_of([*folders, *self._members]) - {"."}

    def _check_whole(self, archive: zipfile.ZipFile) -> None:
        """Refuses an archive with missing members, or members that cannot be unpacked."""
        members = archive.infolist()
        first = min((info.header_offset for info in members), default=0)
        with as_path(self._root).open("rb") as file:
            if first and file.read(4) == _LOCAL_HEADER:
                raise InputError(
                    f"{self._root}: {number_of(first, 'byte')} of another archive are before this "
                    "one; they were joined; keep each as a file of its own"
                )
            file.seek(-min(_LONGEST_END, file.seek(0, os.SEEK_END)), os.SEEK_END)
            end = file.read()
        # As the library finds it: without a comment, or else the last, before one.
        bare = end[-_END_RECORD:].startswith(_END) and end.endswith(b"\0\0")
        at = len(end) - _END_RECORD if bare else end.rfind(_END)
        due = int.from_bytes(end[at + 10 : at + 12], "little")
        if due == _COUNTED_ELSEWHERE and (there := end.rfind(_LARGE_END, 0, at)) >= 0:
            due = int.from_bytes(end[there + 32 : there + 40], "little")
            lacks = due != len(members)
        else:  # many programs count more than 65,535 members modulo 65,536
            lacks = (due - len(members)) % (1 << 16) != 0
        if lacks:
            raise InputError(
                f"{self._root}: lists {number_of(len(members), 'member')}, and its end counts "
                f"{due}; it is damaged; fetch or make it anew"
            )
        encrypted = [info.filename for info in members if info.flag_bits & 1]
        otherwise = [info.filename for info in members if info.compress_type not in _METHODS]
        for names, what in (
            (encrypted, "are encrypted; extract it with its password"),
            (otherwise, "are packed by a rare method; extract it, or pack it by deflate"),
        ):
            if names:
                raise InputError(
                    f"{self._root}: {len(names)} of {number_of(len(members), 'member')}, such as "
                    f"{names[0]}, {what}"
                )


class TreeSource(EncodedSource):
    """The images at some paths of a folder or zip archive; a subclass sets `labels` and names."""

    def __init__(self, tree: FileTree, paths: list[str]):
        self._tree, self._paths = tree, paths

    def path(self, index: int) -> str:
        """Image `index`'s path relative to the root, with forward slashes."""
        return self._paths[checked_index(index, len(self))]

    def encoded(self, index: int) -> bytes:
        """The file's content."""
        return self._tree.read(self.path(index))

    def where(self, index: int) -> str:
        """The file, with its root."""
        return self._tree.where(self.path(index))

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the files' sizes; 0 for one that is missing."""
        return np.array([self._tree.size(path) for path in self._paths], np.int64)


def folders_of(paths: Iterable[str]) -> set[str]:
    """The folders that hold the paths: a/b/1.png is in a/b and in a."""
    innermost = {path.rpartition("/")[0] for path in paths} - {""}
    parts = [folder.split("/") for folder in innermost]
    return {"/".join(each[:end]) for each in parts for end in range(1, len(each) + 1)}


def without_extension(path: str) -> str:
    """The path without its last suffix."""
    return str(pathlib.PurePosixPath(path).with_suffix(""))


@functools.lru_cache(maxsize=1024)
def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is left out."""
    return name.startswith(".") or name == "__MACOSX"


def in_hidden(path: str) -> bool:
    """Whether a file or folder is hidden, or in a hidden folder."""
    return any(is_hidden(part) for part in path.split("/") if part not in (".", ".."))


def normal_name(name: str) -> str:
    """An archive member's path, without "./", "//", a leading "/", or the backslashes that some
    Windows programs write.
    """
    return posixpath.normpath(listed_path(name).lstrip("/") or ".")


def one_form(path: str) -> str:
    """A path of a list or source in a form where all its spellings are equal: `normal_name` in
    composed Unicode.
    """
    return same_name(normal_name(path))


def follow(name: str, files: Mapping[str, object], links: Mapping[str, str]) -> str | None:
    """The archive's file that a link leads to, perhaps by other links; None if it is missing."""
    for _ in range(_MOST_LINKS):
        if name not in links:
            return name if name in files else None
        name = links[name]
    return None


def _within_limit(content: bytes, where: str) -> bytes:
    if len(content) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: larger than {MAX_FILE_BYTES >> 20} MiB, which no face image is; remove it"
        )
    return content
