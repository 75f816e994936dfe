"""Images named by a list file: path and identity."""

import csv
import os
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from arcface_jax.data.sources.encoded import EncodedSource, checked_index, sort_identities
from arcface_jax.data.sources.filetree import open_tree
from arcface_jax.data.sources.recordio import read_lst
from arcface_jax.errors import InputError, reason

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


class ListSource(EncodedSource):
    """The images that a list file names.

    `.csv` has commas, `.tsv` and `.txt` tabs; `.lst` is insightface's `train.lst`
    (`recordio.read_lst`). The columns are path and identity, or, if the first line names columns,
    those called `path` and `identity`.

    Identities are any text; labels number them in sorted order, by value where all are whole
    numbers. Images keep the list's order.

    Args:
      path: the list file.
      root: folder or zip file that the paths are relative to; the list's own folder if None.
        Absolute paths must lie below it.

    Raises:
      InputError: a file is missing, a line has no two columns, a path leads out of the root. A
        missing image is named when it is read.
    """

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None):
        path = pathlib.Path(path)
        base = path.parent if root is None else pathlib.Path(root)
        self._tree = open_tree(base)
        self._paths: list[str] = []
        identities: list[str] = []
        for where, image, identity in _entries(path):
            self._paths.append(_inside(image, base, where))
            identities.append(identity)
        if not self._paths:
            raise InputError(f"{path}: the list is empty")
        self.identity_names: Sequence[str] = sort_identities(set(identities))
        label_of = {name: label for label, name in enumerate(self.identity_names)}
        self.labels = np.array([label_of[identity] for identity in identities], np.int32)

    def path(self, index: int) -> str:
        """Image `index`'s path relative to the root, with forward slashes."""
        return self._paths[checked_index(index, len(self))]

    def encoded(self, index: int) -> bytes:
        """See `EncodedSource`."""
        return self._tree.read(self.path(index))

    def where(self, index: int) -> str:
        """See `EncodedSource`."""
        return self._tree.where(self.path(index))

    def encoded_sizes(self) -> np.ndarray:
        """See `EncodedSource`."""
        return np.array([self._tree.size(path) for path in self._paths], np.int64)


def _entries(path: pathlib.Path) -> Iterator[tuple[str, str, str]]:
    """(where, image path, identity) of each line."""
    suffix = path.suffix.lower()
    if suffix == ".lst":
        for number, line in enumerate(read_lst(path), 1):
            yield f"{path} entry {number}", line.path, str(line.label)
        return
    if suffix not in _DELIMITERS:
        raise InputError(f"{path}: unknown kind of list; use {', '.join([*_DELIMITERS, '.lst'])}")
    image_column, identity_column = 0, 1
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter=_DELIMITERS[suffix]), 1):
                names = [cell.strip().lower() for cell in row]
                if number == 1 and "path" in names and "identity" in names:
                    image_column, identity_column = names.index("path"), names.index("identity")
                elif row:
                    if len(row) <= max(image_column, identity_column):
                        raise InputError(
                            f"{path} line {number}: {len(row)} column(s), path and identity are due"
                        )
                    yield (
                        f"{path} line {number}",
                        row[image_column].strip(),
                        row[identity_column].strip(),
                    )
    except OSError as error:
        raise InputError(f"{path}: cannot read this list ({error.strerror})") from None
    except csv.Error as error:
        raise InputError(f"{path}: not a list of this kind ({reason(error)})") from None


def _inside(image: str, root: pathlib.Path, where: str) -> str:
    """The path relative to the root, in normal form."""
    relative = os.path.relpath(image, root) if os.path.isabs(image) else os.path.normpath(image)
    relative = relative.replace(os.sep, "/")
    if not image or relative.split("/")[0] == "..":
        raise InputError(
            f"{where}: {image!r} is not below {root}; give the root that all paths lie in"
        )
    return relative
