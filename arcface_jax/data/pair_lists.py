"""Published lists of pairs: LFW's `pairs.txt`, CFP's protocol, YTF's `splits.txt`, 3 columns."""

import collections
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.data.pairs import Pairs, check_listed
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.filetree import one_form, without_extension
from arcface_jax.data.text import is_heading, names_image, read_rows
from arcface_jax.errors import InputError, printable, readable

_SAME = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


def read_lfw_pairs(path: str | os.PathLike[str], source: FaceSource) -> Pairs:
    """LFW's `pairs.txt` (or `pairsDevTrain.txt`) over a folder of LFW images.

    The first line has the number of folds, if any, and of same pairs per fold. Then each fold lists
    its same pairs as "name i j" and as many different pairs as "name i name j". Image i of a name
    is `name/name_000i` with any extension, at any depth of the source.

    Raises:
      InputError: a line cannot be read, names an image the source lacks, or the number of lines
        differs from the first line's.
    """
    path = os.fspath(path)
    lines = [(where, [word for word in words if word]) for where, words in read_rows(path)]
    try:
        header = [int(word) for word in lines[0][1]] if lines else []
        num_folds, each = header if len(header) == 2 else (1, *header)
    except ValueError:
        raise InputError(
            f"{path} line 1: the number of folds and of same pairs are due, such as 10 300"
        ) from None
    if min(num_folds, each) < 1 or len(lines) - 1 != 2 * num_folds * each:
        raise InputError(
            f"{path}: {number_of(len(lines) - 1, 'pair')}, but line 1 announces "
            f"{number_of(num_folds, 'fold')} of 2 · {each}"
        )
    find = _finder(paths_of(source), lambda name: _last(name, 2))
    rows = []
    for where, words in lines[1:]:
        if len(words) not in (3, 4):
            raise InputError(
                f"{where}: {number_of(len(words), 'word')}; name i j, or name i name j, is due"
            )
        if len(words) == 4 and words[0] == words[2]:
            raise InputError(
                f"{where}: {_shown(words)} would be of different people, and the names are equal; "
                "of one person, name i j is due"
            )
        left, right = (words[0], words[1]), (words[-2] if len(words) == 4 else words[0], words[-1])
        first, second = (
            find(f"{name}/{name}_{number.zfill(4)}", where) for name, number in (left, right)
        )
        rows.append((where, first, second, len(words) == 3))
    return _as_pairs(rows, source.labels, num_folds, path)


def read_pair_list(path: str | os.PathLike[str], source: FaceSource, num_folds: int = 1) -> Pairs:
    """A plain list of pairs: path, path, and 1 for same or 0 for different.

    Columns are separated by tabs, commas or spaces; a first line may name them. Paths are the
    source's, without an extension or with that of any image format.

    Args:
      path: the list file.
      source: where the images are.
      num_folds: number of contiguous folds in the list.

    Raises:
      InputError: a line cannot be read or names an image the source lacks, or lines contradict each
        other (`pairs.check_listed`, which also warns about oddities).
    """
    path = os.fspath(path)
    find = _finder(paths_of(source), lambda name: name)
    rows = []
    for position, (where, words) in enumerate(read_rows(path)):
        same = _SAME.get(words[2].lower()) if len(words) == 3 else None
        if same is None:
            if position == 0 and len(words) == 3 and is_heading(words):
                continue
            raise InputError(f"{where}: path, path, 0 or 1 is due, got {_shown(words)}")
        rows.append((where, find(words[0], where), find(words[1], where), same))
    if not rows:
        raise InputError(f"{path}: no pairs in it")
    return _as_pairs(rows, source.labels, num_folds, path)


def read_cfp_pairs(split: str | os.PathLike[str], source: FaceSource) -> Pairs:
    """CFP's frontal–frontal or frontal–profile protocol over a folder of its images.

    `Protocol/Split/FP` has one folder per fold, 01 … 10, each with `same.txt` and `diff.txt`. Their
    lines "i,j" are numbers from `Protocol/Pair_list_F.txt` and `Protocol/Pair_list_P.txt` (for
    `Protocol/Split/FF`, both from the former). Those lists have lines "number path", such as "1
    ../Data/Images/001/frontal/01.jpg". The last three parts of a path count; the source may have
    other extensions, at any depth.

    Args:
      split: the folder FF or FP.
      source: where the images are. A `FolderSource` treats a person's frontal and profile folders
        as two identities; `cfp_labels` joins them.

    Returns: the folds in the order of their numbers, each with its same pairs first.

    Raises:
      InputError: a file is missing, a line cannot be read or names a missing image, or folds have
        unequal lengths; the message names the file and the line.

    References: Sengupta et al., Frontal to Profile Face Verification in the Wild (WACV 2016).
    """
    folder = as_path(split)
    kinds = folder.name.upper()
    if kinds not in ("FF", "FP"):
        raise InputError(
            f"{folder}: the protocol's folder FF or FP is due, such as Protocol/Split/FP"
        )
    protocol = folder.absolute().parent.parent
    lists = {kind: _cfp_list(protocol / f"Pair_list_{kind}.txt") for kind in dict.fromkeys(kinds)}
    find = _finder(paths_of(source), lambda name: _last(name, 3))
    rows: list[_Row] = []
    folds = _cfp_folds(folder)
    sizes = set()
    for fold in folds:
        before = len(rows)
        for name in ("same.txt", "diff.txt"):
            for where, words in read_rows(fold / name):
                if len(words) != 2:
                    raise InputError(f"{where}: number,number is due, got {_shown(words)}")
                listed = [
                    _listed(lists[kind], word, where, kind)
                    for kind, word in zip(kinds, words, strict=True)
                ]
                first, second = (find(image, place) for image, place in listed)
                rows.append((where, first, second, name == "same.txt"))
        sizes.add(len(rows) - before)
    if len(sizes) != 1 or not rows:
        raise InputError(
            f"{folder}: folds of {' and '.join(map(str, sorted(sizes)))} pairs; equal ones are due"
        )
    return _as_pairs(rows, cfp_labels(source), len(folds), str(folder))


def cfp_labels(source: FaceSource) -> np.ndarray:
    """int64 [N]: the person in each CFP image, by the folder above `frontal` or `profile`."""
    people = [_last(path, 3).rpartition("/")[0].rpartition("/")[0] for path in paths_of(source)]
    return np.unique(people, return_inverse=True)[1].astype(np.int64)


def _cfp_folds(folder: pathlib.Path) -> list[pathlib.Path]:
    with readable(folder, "folder"):
        folds = [
            path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
        ]
    strange = [path.name for path in folds if not path.name.isdecimal()]
    if strange or not folds:
        raise InputError(
            f"{folder}: folders 01, 02 … of folds are due, got "
            f"{printable(' '.join(strange)[:80]) or 'none'}"
        )
    return sorted(folds, key=lambda path: int(path.name))


def _cfp_list(path: pathlib.Path) -> dict[str, tuple[str, str]]:
    """Number, without leading zeros → (path, its line)."""
    listed: dict[str, tuple[str, str]] = {}
    for where, words in read_rows(path):
        if len(words) != 2 or not words[0].isdecimal() or len(words[0]) > 9:
            raise InputError(f"{where}: number path is due, got {_shown(words)}")
        key = str(int(words[0]))
        if key in listed:
            raise InputError(
                f"{where}: image {key} is already on {listed[key][1]}; number each once"
            )
        listed[key] = words[1], where
    return listed


def _listed(
    listed: dict[str, tuple[str, str]], word: str, where: str, kind: str
) -> tuple[str, str]:
    found = listed.get(str(int(word))) if word.isdecimal() and len(word) < 10 else None
    if found is None:
        raise InputError(f"{where}: Pair_list_{kind}.txt has no image {printable(word[:40])!r}")
    return found


def read_ytf_splits(path: str | os.PathLike[str], videos: Sequence[str]) -> Pairs:
    """YouTube Faces' `splits.txt`: pairs of videos, in ten splits.

    After a line of headings come lines "split, first video, second video, 1 for same or 0 for
    different", where a video is `Person/0`; further columns are ignored.

    Args:
      path: the list file.
      videos: names of the videos; the last two parts count. With a `FolderSource` of the frames,
        one folder per video, pass its `identity_names`: the pairs then index its labels, so compare
        e.g. the centres of `evaluation.angle_statistics.class_centres`.

    Returns: pairs of indices into `videos`, split by split.

    Raises:
      InputError: a line cannot be read or names a missing video, or splits have unequal lengths.

    References: Wolf et al., Face Recognition in Unconstrained Videos with Matched Background
      Similarity (CVPR 2011).
    """
    path = os.fspath(path)
    find = _finder(videos, lambda name: _last(name, 2), "video")
    rows: list[tuple[int, _Row]] = []
    for position, (where, words) in enumerate(read_rows(path)):
        if position == 0 and not words[0].isdecimal():
            continue  # the headings
        if (
            len(words) < 4
            or not words[0].isdecimal()
            or len(words[0]) > 9
            or words[3] not in ("0", "1")
        ):
            raise InputError(
                f"{where}: split, video, video, 0 or 1 is due, got {_shown(words, ', ')}"
            )
        pair = (where, find(words[1], where), find(words[2], where), words[3] == "1")
        rows.append((int(words[0]), pair))
    rows.sort(key=lambda row: row[0])
    sizes = collections.Counter(row[0] for row in rows)
    if len(set(sizes.values())) != 1:
        found = ", ".join(
            f"{number_of(size, 'pair')} in split {split}"
            for split, size in list(sizes.items())[:10]
        )
        raise InputError(f"{path}: splits of equal length are due, got {found or 'no pairs'}")
    people = np.unique([_last(name, 2).rpartition("/")[0] for name in videos], return_inverse=True)[
        1
    ]
    return _as_pairs([row[1] for row in rows], people, len(sizes), path, "video")


_Row = tuple[str, int, int, bool]  # where, first, second, same


def _as_pairs(
    rows: Sequence[_Row], labels: np.ndarray, num_folds: int, what: str, kind: str = "image"
) -> Pairs:
    first, second, same = (np.array(column) for column in tuple(zip(*rows, strict=True))[1:])
    labels = np.asarray(labels)
    folds = np.arange(len(rows)) // max(len(rows) // max(num_folds, 1), 1)
    seen = np.unique(
        np.stack([np.concatenate([labels[first], labels[second]]), np.tile(folds, 2)]), axis=1
    )
    disjoint = len(np.unique(seen[0])) == seen.shape[1]
    pairs = Pairs(
        first.astype(np.int64), second.astype(np.int64), same.astype(bool), num_folds, disjoint
    )
    return check_listed(pairs, what, lambda index: rows[index][0], labels, kind)


def _shown(words: Sequence[str], between: str = " ") -> str:
    return printable(repr(between.join(words)[:80]))


def _last(path: str, parts: int) -> str:
    return "/".join(path.split("/")[-parts:])


def _finder(
    names: Iterable[str], key: Callable[[str], str], kind: str = "image"
) -> Callable[[str, str], int]:
    """A function (listed name, place) → index in `names`; `key`: the part of a name that counts.

    An exact match counts first, then a match without the extension, then one that differs only in
    the extension.
    """
    whole: dict[str, list[int]] = {}
    stems: dict[str, list[int]] = {}
    names = list(names)
    for index, name in enumerate(names):
        whole.setdefault(key(one_form(name)), []).append(index)
        stems.setdefault(key(one_form(without_extension(name))), []).append(index)

    def find(listed: str, where: str) -> int:
        listed = one_form(listed)
        name = key(listed)
        found = whole.get(name) or stems.get(name)
        if not found and names_image(listed):
            name = key(without_extension(listed))
            found = stems.get(name)
        if not found:
            there = f"its {len(names):,} are called such as {names[0]}" if names else "it is empty"
            raise InputError(
                f"{where}: the source has no {kind} {printable(listed)!r}; {printable(there)}; "
                "list what is there, or give the source that the list is of"
            )
        if len(found) > 1:
            one, other = (names[at] for at in found[:2])
            raise InputError(
                f"{where}: the source has more than one {kind} {name}, {one} and {other}; give the "
                "folder that has one, or list it with its extension"
            )
        return found[0]

    return find
