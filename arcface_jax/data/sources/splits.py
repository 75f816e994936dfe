"""The parts, for training and for testing, that a folder or archive is published in."""

import os
import pathlib
import re
from collections.abc import Sequence

import numpy as np

from arcface_jax.errors import InputError, printable

_SPLITS = frozenset(
    ["train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval"]
)


def splits_of_folders(paths: Sequence[str], split: str | None) -> list[str]:
    """The split that each path lies in, or "": its folder right below those that all share.

    Folders are splits if two or more with such a name hold folders with images, as `train/ann` and
    `val/ann`, or if there are no others; people may be called Val and Dev. All are where a `split`
    is asked for.
    """
    folder_of = [path.rpartition("/")[0] for path in paths]
    parts = {folder: folder.split("/") for folder in set(folder_of)}
    shared = []
    for names in zip(*parts.values(), strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    if split in shared:
        return [split or ""] * len(paths)
    level = len(shared)
    top = {folder: each[level] if len(each) > level else "" for folder, each in parts.items()}
    named = {name for name in top.values() if name == split or name.lower() in _SPLITS}
    nested = {top[folder] for folder, each in parts.items() if len(each) > level + 1}
    if split is None and len(named & nested) < 2 and named != set(top.values()):
        named = set()
    return [top[folder] if top[folder] in named else "" for folder in folder_of]


def splits_of_files(files: Sequence[pathlib.Path]) -> list[str]:
    """The split that each file's name begins with (`train-00000-of-00002.parquet`), or its folder
    is called by; or "".
    """
    found = []
    for file in files:
        word = re.match("[A-Za-z]*", file.stem)
        names = ("" if word is None else word[0], file.parent.name)
        found.append(next((name for name in names if name.lower() in _SPLITS), ""))
    return found


def files_of_split(root: pathlib.Path, pattern: str, split: str | None) -> list[str]:
    """The files below a folder whose names match, in sorted order; or the file itself. Raises as
    `choose_split` does.
    """
    files = sorted(root.rglob(pattern)) if root.is_dir() else [root]
    chosen = choose_split(splits_of_files(files) if root.is_dir() else [""], split, root)
    return [str(file) for file, each in zip(files, chosen, strict=True) if each]


def choose_split(
    splits: Sequence[str], split: str | None, root: str | os.PathLike[str]
) -> np.ndarray:
    """bool [N], what is in the split that is asked for; all where there are no two to choose from.

    Raises:
      InputError: there are several and none is asked for, or not the one that is.
    """
    names = sorted(set(splits) - {""})
    shown = printable(", ".join(names)) or "none"
    if split is None and len(names) > 1:
        raise InputError(
            f"{os.fspath(root)}: holds the splits {shown}; give one of them, as "
            f"{os.fspath(root)}:{names[0]}"
        )
    if split is None:
        return np.ones(len(splits), bool)
    if split not in names:
        raise InputError(f"{os.fspath(root)}: has no split {printable(split)!r}, but {shown}")
    return np.array([each == split for each in splits])
