"""The splits, such as train and test, of a published folder or archive."""

import collections
import functools
import operator
import os
import pathlib
import posixpath
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.sources.filetree import Listing, open_tree
from arcface_jax.errors import InputError, printable

_SPLITS = frozenset(
    [
        *("train", "training", "trainset", "val", "valid", "validation", "valset", "dev"),
        *("test", "testing", "testset", "eval", "evaluation"),
    ]
)
_WORD = re.compile("[A-Z]?[a-z]+|[A-Z]+")
_OF_TOTAL = re.compile(
    r"(.*?)(\d+)[-_]of[-_](\d+)(?:-[0-9a-f]{16})?(.*)", re.IGNORECASE | re.DOTALL
)


def splits_of_folders(paths: Sequence[str], split: str | None) -> list[str]:
    """The split of each path, or "": its first folder below those that all paths share.

    Folders are splits if two or more with such a name hold folders with images, as `train/ann` and
    `val/ann`, or if there are no others; people may be called Val and Dev. If a `split` is chosen,
    all are.
    """
    folder_of = [path.rpartition("/")[0] for path in paths]
    parts, shared = _parts(folder_of)
    if split in shared:
        return [split or ""] * len(paths)
    level = len(shared)
    top = {folder: each[level] if len(each) > level else "" for folder, each in parts.items()}
    named = {name for name in top.values() if name == split or name.lower() in _SPLITS}
    nested = {top[folder] for folder, each in parts.items() if len(each) > level + 1}
    if split is None and len(named & nested) < 2 and named != set(top.values()):
        named = set()
    return [top[folder] if top[folder] in named else "" for folder in folder_of]


def not_as_splits(folders: Sequence[str]) -> list[str]:
    """Folder names that `splits_of_folders` does not take for several splits: "_train" for a person
    called train if another is called test.
    """
    splits = splits_of_folders([f"{folder}/" for folder in folders], None)
    if len({*splits} - {""}) < 2:
        return list(folders)
    parts, shared = _parts(folders)
    level = len(shared)
    return [
        "/".join([*shared, f"_{split}", *parts[folder][level + 1 :]]) if split else folder
        for folder, split in zip(folders, splits, strict=True)
    ]


def _parts(folders: Iterable[str]) -> tuple[dict[str, list[str]], list[str]]:
    """(the names in each folder's path, the leading names that all share)."""
    parts = {folder: folder.split("/") for folder in set(folders)}
    shared = []
    for names in zip(*parts.values(), strict=False):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return parts, shared


def splits_of_files(files: Sequence[str]) -> list[str]:
    """The split named by a word of each file's name (`train-00000-of-00002.parquet`,
    `imagenet-train-000.tar`), or else by its innermost such folder; or "".
    """
    words = [
        [
            word
            for part in (posixpath.splitext(posixpath.basename(file))[0], *_folders(file)[::-1])
            for word in _WORD.findall(part)
            if word.lower() in _SPLITS
        ]
        for file in files
    ]
    # A word that all have, as in eval-faces-train-0 and eval-faces-test-0, tells none apart.
    common = functools.reduce(operator.and_, map(collections.Counter, words))
    if all(len(each) > common.total() for each in words):
        words = [[*(collections.Counter(each) - common)] for each in words]
    return [each[0] if each else "" for each in words]


class Files(NamedTuple):
    """The files of a set.

    Attributes:
      paths: in sorted order.
      by_name: whether their names tell the split.
      remarks: what is worth knowing about them.
    """

    paths: list[str]
    by_name: bool
    remarks: list[str]


def files_of_split(
    root: pathlib.Path, suffix: str, split: str | None, listing: Listing | None = None
) -> Files:
    """The split's files with the suffix, in either case, below a folder; or the file itself.
    `listing` is what is below the folder, if it was walked before.

    Raises:
      InputError: there is none; some that the names count (…-of-00003) are missing; they belong to
        several configurations in separate folders; or as `choose_split`.
    """
    if not root.is_dir():
        return Files([str(root)], False, [])
    listing = listing or open_tree(root).walk()
    files = sorted(name for name in listing.files if name.lower().endswith(suffix))
    if not files:
        raise InputError(f"{root}: no {suffix} file below it")
    splits, remarks = splits_of_files(files), []
    by_name = any(splits)
    if by_name:
        chosen = choose_split(splits, split, root)
        if split is None and "" in splits:
            (name,) = {*splits} - {""}
            remarks.append(
                f"{splits.count(name)} of {number_of(len(files), 'file', 'are')} of the split "
                f"{name}, such as {files[splits.index(name)]}, and all count; {root}:{name} are "
                "these alone"
            )
        files = [file for file, each in zip(files, chosen, strict=True) if each]
    _check_totals(root, files)
    _check_configurations(root, files)
    remarks += _about_numbers(files)
    return Files([str(root / file) for file in files], by_name, remarks)


def _folders(file: str) -> list[str]:
    return posixpath.dirname(file).split("/")


def _check_totals(root: pathlib.Path, files: Sequence[str]) -> None:
    """Refuses a set that lacks a file that the names count: 00000-of-00002 means two."""
    numbers: dict[tuple[str, str, str], dict[int, str]] = collections.defaultdict(dict)
    totals: dict[tuple[str, str], tuple[str, str]] = {}
    for file in files:
        if found := _OF_TOTAL.fullmatch(file):
            before, number, total, after = found.groups()
            there = numbers[before, total, after]
            if int(number) in there:
                raise InputError(
                    f"{root}: {there[int(number)]} and {file} are both number {number}; remove one"
                )
            there[int(number)] = file
            other, its = totals.setdefault((before, after), (total, file))
            if other != total:
                raise InputError(
                    f"{root}: {its} and {file} are of two numberings; remove the files of one"
                )
    for (before, total, after), there in numbers.items():
        due = int(total)
        first = 0 if 0 in there else 1
        if len(there) == due and min(there) == first and max(there) == due - 1 + first:
            continue
        missing = next(at for at in range(first, len(there) + first + 1) if at not in there)
        width = len(total)
        name = f"{before}{missing:0{width}d}-of-{total}{after}"
        if missing - first >= due:
            raise InputError(f"{root}: {there[max(there)]} is beyond its own total")
        raise InputError(
            f"{root}: {len(there)} of {number_of(due, 'file', 'are')} there; {name} is missing; "
            "fetch what lacks"
        )


def _check_configurations(root: pathlib.Path, files: Sequence[str]) -> None:
    """Refuses files in several folders if each folder is a set of its own."""
    folders: dict[str, list[str]] = collections.defaultdict(list)
    for file in files:
        folder, name = posixpath.split(file)
        if found := _OF_TOTAL.fullmatch(name):
            folders[found[1]].append(folder)
        # Hugging Face's own conversion: configuration/split/0000.parquet.
        elif any(word.lower() in _SPLITS for word in _WORD.findall(posixpath.basename(folder))):
            folders[posixpath.basename(folder) + "/" + name].append(posixpath.dirname(folder))
    for places in folders.values():
        if len({*places}) > 1:
            shown = sorted({*places})
            raise InputError(
                f"{root}: holds sets of their own in the folders "
                f"{', '.join(each or '.' for each in shown)}; give one of them, as "
                f"{root / (shown[0] or shown[1])}"
            )


def _about_numbers(files: Sequence[str]) -> list[str]:
    """Reports missing numbers among shards of one name, and names that occur in two folders."""
    remarks = []
    series: dict[tuple[str, str], dict[int, str]] = collections.defaultdict(dict)
    for file in files:
        if not _OF_TOTAL.fullmatch(file):
            folder, name = posixpath.split(file)
            for found in re.finditer(r"\d+", name):
                around = posixpath.join(folder, name[: found.start()]), name[found.end() :]
                series[around][int(found[0])] = file
    for there in series.values():
        first = 0 if 0 in there else 1
        missing = max(there) + 1 - first - len(there)
        # Years and versions do not begin with 0 or 1, and are no shards.
        if missing > 0 and len(there) > 1 and (first in there or missing <= len(there)):
            gap = next(at for at in range(first, max(there)) if at not in there)
            remarks.append(
                f"of the shards up to {there[max(there)]} {missing} are not there, the first of "
                f"them number {gap}"
            )
    names: dict[str, list[str]] = collections.defaultdict(list)
    for file in files:
        names[posixpath.basename(file)].append(file)
    if several := [each for each in names.values() if len(each) > 1]:
        remarks.append(
            f"{number_of(sum(map(len, several)), 'file', 'have')} the name of another in another "
            f"folder, such as {several[0][0]} and {several[0][1]}; all count"
        )
    return remarks


def choose_split(
    splits: Sequence[str], split: str | None, root: str | os.PathLike[str]
) -> np.ndarray:
    """bool [N], what is in the chosen split; all if there are fewer than two splits.

    Raises:
      InputError: there are several and none is chosen, or the chosen one is missing.
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
