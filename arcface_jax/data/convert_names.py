"""Names for converted images: the source's, but none that leads out of a folder."""

import collections
import re
from collections.abc import Iterator, Sequence

import numpy as np

from arcface_jax.data.decode import suffix_of
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.filetree import is_hidden
from arcface_jax.data.sources.folder import EXTENSIONS, NEVER_IMAGES, is_unfinished
from arcface_jax.data.sources.splits import not_as_splits
from arcface_jax.data.text import UNWRITABLE, same_name
from arcface_jax.errors import InputError, printable

_LONGEST_NAME, _LONGEST_PATH, _DEEPEST = 255, 900, 20
"""Bytes of a name, and bytes and folders of a path, that all common file systems accept."""

_REFUSED = re.compile(rf'[{UNWRITABLE}\\:*?"<>|]')  # also by Windows alone
_REFUSED_ENDS = re.compile(r"^\s|\s$")
_OF_UNKNOWN = ".jpg"
"""Suffix for images of unknown content: readers then count them and report what is wrong."""
_DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\.|$)", re.IGNORECASE)


class FileNames:
    """IDENTITY/NAME for each image of a source, where NAME is its name in the source.

    A re-encoded image gets the suffix of its new format: Ann/a.jpg becomes Ann/a.png. If names
    would clash, even on a file system where A is a, they are told apart by the folders between
    identity and name, which are otherwise dropped (1/frontal/01.jpg and 1/profile/01.jpg of
    identity 1 become 1/frontal-01.png and 1/profile-01.png), by the old suffix (a.jpg and a.png
    become a.jpg.png and a.png.png), or by the image's number. Characters that some file system
    refuses or hides become "_".

    No reader mistakes the names: people called train and test, which would be splits, go into the
    folders _train and _test. An image that neither name nor content identifies, such as a damaged
    file without a suffix, gets ".jpg".

    Images of a source without paths get numbers, with the suffix of their content.

    Args:
      source: the images.
      suffix: of re-encoded images; None if the stored bytes are kept.

    Attributes:
      remarks: one line per kind of change to names and folders, with its count.
    """

    def __init__(self, source: FaceSource, suffix: str | None):
        self._source, self._suffix = source, suffix
        self._labels = np.asarray(source.labels)
        self._folders = _folders(source.identity_names)
        self._taken = {_key(above) for folder in self._folders for above in _upwards(folder)}
        try:
            self._paths = paths_of(source)
        except InputError:
            self._paths = []
        self._endings: dict[int, str] = {}
        self._special: dict[int, str] = {}  # image → name, of those that are told apart
        if self._paths:
            order = np.argsort(self._labels, kind="stable")
            starts = np.flatnonzero(np.diff(self._labels[order], prepend=-1)).tolist()
            for start, stop in zip(starts, [*starts[1:], len(order)], strict=True):
                self._tell_apart(order[start:stop].tolist(), start)
        self.remarks = tuple(self._about())

    def __call__(self, index: int, number: int, content: bytes) -> str:
        """The path of image `index`, written as number `number`."""
        folder = self._folders[self._labels[index]]
        if not self._paths:
            return f"{folder}/{number:08d}{suffix_of(content) or _OF_UNKNOWN}"
        return f"{folder}/{self._special.get(index) or next(self._candidates(index, number))}"

    def _tell_apart(self, indices: Sequence[int], first: int) -> None:
        """Finds names for the images of one identity, written from number `first` on."""
        folder = _key(self._folders[self._labels[indices[0]]])
        own: dict[int, Iterator[str]] = {}
        changed: dict[int, Iterator[str]] = {}
        repeated: dict[int, Iterator[str]] = {}
        seen: set[str] = set()
        for number, index in enumerate(indices, first):
            path = self._paths[index]
            if path in seen:  # a list names the file again, and the first keeps the name
                repeated[index] = self._numbered(index, number)
            else:
                name = path.rpartition("/")[2]
                group = own if _harmless(name) == name else changed
                group[index] = self._candidates(index, number)
            seen.add(path)
        taken: set[str] = set()
        for pending in (own, changed, repeated):
            while pending:
                names = {index: next(candidates) for index, candidates in pending.items()}
                keys = {index: f"{folder}/{_key(name)}" for index, name in names.items()}
                counts = collections.Counter(keys.values())
                free = [
                    index
                    for index, key in keys.items()
                    if counts[key] == 1 and key not in taken and key not in self._taken
                ]
                for index in free:
                    if names[index] != _harmless(*self._parts(index)):
                        self._special[index] = names[index]
                    del pending[index]
                taken.update(keys[index] for index in free)

    def _candidates(self, index: int, number: int) -> Iterator[str]:
        """Endless candidate names for an image, best first."""
        *folders, name = self._paths[index].split("/")
        identity = self._source.identity_names[self._labels[index]].split("/")
        between = folders[len(identity) :] if folders[: len(identity)] == identity else folders
        stem, suffix = self._parts(index)
        yield _harmless(stem, suffix)
        yield _harmless("-".join([*between, stem]), suffix)
        if self._suffix is not None:
            yield _harmless("-".join([*between, name]), suffix)
        yield from self._numbered(index, number)

    def _numbered(self, index: int, number: int) -> Iterator[str]:
        stem, suffix = self._parts(index)
        ending = f"-{number:08d}"
        while True:
            yield _harmless(stem, ending + suffix)
            ending += "-"

    def _parts(self, index: int) -> tuple[str, str]:
        """The name of an image without its suffix, and its new suffix."""
        name = self._paths[index].rpartition("/")[2]
        stem, dot, old = name.rpartition(".")
        if dot + old.lower() not in EXTENSIONS:
            stem, dot, old = name, "", ""
        if self._suffix is not None:
            return stem, self._suffix
        return stem, dot + old or self._ending(index, name)

    def _ending(self, index: int, name: str) -> str:
        """The ending that a stored image's name needs to count as one; see `folder.sort_out`.

        Reads the image if the name does not tell.
        """
        if name.lower().endswith(EXTENSIONS):
            return ""
        if index not in self._endings:
            try:
                content = self._source.encoded(index)
            except InputError:
                content = b""
            known = content is None or suffix_of(content[:16])
            ending = ".img" if _is_passed_over(name) else ""
            self._endings[index] = ending if known else _OF_UNKNOWN
        return self._endings[index]

    def _about(self) -> Iterator[str]:
        """The remarks."""
        names = self._source.identity_names
        moved, renamed = [], []
        for index, path in enumerate(self._paths):
            folder, _, name = path.rpartition("/")
            label = self._labels[index]
            if folder not in (names[label], self._folders[label]):
                moved.append(index)
            added = self._suffix is None and self._ending(index, name)
            if index in self._special or added or _harmless(name) != name:
                renamed.append(index)
        others = [label for label, folder in enumerate(self._folders) if folder != names[label]]
        why = (
            "other names, as a file system refuses theirs, a reader takes them for something else, "
            "or two would be one"
        )
        if others:
            now = self._folders[others[0]]
            yield _remark(why, len(others), len(names), "identities", names[others[0]], now)
        for what, indices in (("moved into the folder of their identity", moved), (why, renamed)):
            if indices:
                path, now = self._paths[indices[0]], self(indices[0], indices[0], b"")
                yield _remark(what, len(indices), len(self._paths), "images", path, now)


def _remark(what: str, count: int, total: int, things: str, was: str, now: str) -> str:
    """A line with an example; long paths keep their ends."""
    return printable(
        f"{what}: {count} of {total} {things}, such as {was[-160:]!r} (now {now[-160:]!r})"
    )


def _folders(names: Sequence[str]) -> list[str]:
    """A unique folder for each identity that cannot lead out of another."""
    folders: list[str] = []
    for label, name in enumerate(names):
        parts = [_harmless(part) for part in name.split("/") if part]
        folder = "/".join(parts)
        if not 0 < len(parts) <= _DEEPEST or len(_bytes(folder)) > _LONGEST_PATH:
            folder = f"identity-{label:0{len(str(len(names)))}d}"
        folders.append(folder)
    folders = not_as_splits(folders)
    taken: set[str] = set()
    for label in sorted(range(len(names)), key=lambda label: folders[label] != names[label]):
        folder = folders[label]
        above, slash, last = folder.rpartition("/")
        ending = f"-{label}"
        while _key(folder) in taken:  # somebody else is called so
            folder = above + slash + _harmless(last, ending)
            ending += "-"
        taken.add(_key(folder))
        folders[label] = folder
    return folders


def _harmless(stem: str, suffix: str = "") -> str:
    """stem + suffix as one name that every file system accepts and no reader skips."""
    name = _REFUSED_ENDS.sub("_", _REFUSED.sub("_", stem + suffix)) or "_"
    if is_hidden(name) or _DEVICES.match(name):
        name = "_" + name
    if len(_bytes(name)) > _LONGEST_NAME:
        room = _LONGEST_NAME - len(suffix)
        stem = _bytes(name.removesuffix(suffix))[:room].decode("utf-8", "ignore")
        name = _REFUSED_ENDS.sub("_", stem + suffix)
        if _is_passed_over(name):
            name = f"{name[:-1]}_"
    return name


def _is_passed_over(name: str) -> bool:
    """Whether readers skip a file of this name, whatever it holds."""
    return name.lower().endswith(NEVER_IMAGES) or is_unfinished(name)


def _upwards(folder: str) -> Iterator[str]:
    """The folder and its parents."""
    while folder:
        yield folder
        folder = folder.rpartition("/")[0]


def _key(path: str) -> str:
    """Equal for paths that are the same on some file system: A is a there, and "Jr." is "Jr"."""
    return same_name(path).lower().rstrip(".")


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
