"""Images named by a list file: path and identity."""

import csv
import os
import pathlib
from collections.abc import Iterator

from arcface_jax.data.sources.encoded import number_identities
from arcface_jax.data.sources.filetree import TreeSource, open_tree
from arcface_jax.data.sources.recordio import read_lst
from arcface_jax.errors import InputError, reason

_DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


class ListSource(TreeSource):
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
        tree, entries = open_tree(base), list(_entries(path))
        if not entries:
            raise InputError(f"{path}: the list is empty")
        super().__init__(tree, [_inside(image, base, where) for where, image, _ in entries])
        self.labels, self.identity_names = number_identities([entry[2] for entry in entries])


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
