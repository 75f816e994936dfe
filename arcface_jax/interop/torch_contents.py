"""Finds network and classifier in a PyTorch checkpoint, whatever their names."""

import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, concerning, printable
from arcface_jax.interop.model import check_finite
from arcface_jax.interop.torch_file import PickledModule, read_torch_file
from arcface_jax.interop.torch_projects import SIGNATURES

CLASSIFIER_KEYS = (
    *("head.kernel", "head.weight", "module.fc.weight", "fc.weight", "kernel", "weight"),
)
"""The projects' names for a classifier beside a network, or in a file of its own."""
_LONE = "the tensor"  # the key of an array that has none
_BY_ROWS = ("head.weight", "weight", _LONE)  # a row is a class; under other names a column is one
_PARTIAL_FC = "state_dict_softmax_fc"  # of arcface_torch's checkpoint_gpu_N.pt
_NUMBERED = re.compile(
    r"(?P<word>gpu|rank|split|shard|part)[-_:. ]?(?P<number>\d+)(?:[-_. ]?of[-_. ]?(?P<total>\d+))?"
    r"|(?P<one>\d+)[-_. ]?of[-_. ]?(?P<all>\d+)",
    re.IGNORECASE,
)
_OF_PROCESSES = ("gpu", "rank")  # counted from 0

Place = tuple[str, ...]
"""The keys that lead to a dict inside a file; () is the file's own."""
Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Class weights [C, D] and their key."""

    key: str
    weights: np.ndarray


def named_arrays(content: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, np.ndarray]]]:
    """Every dict that holds arrays, and its place, except an optimiser's."""
    if isinstance(content, np.ndarray):
        content = {_LONE: content}
    if isinstance(content, dict) and "param_groups" not in content:
        arrays = {str(key): one for key, one in content.items() if isinstance(one, np.ndarray)}
        if arrays:
            yield place, arrays
    parts = content if isinstance(content, dict) and "param_groups" not in content else {}
    if isinstance(content, list):
        parts = dict(enumerate(content))
        arrays = {str(key): one for key, one in parts.items() if isinstance(one, np.ndarray)}
        if arrays:
            yield place, arrays
    for key, part in parts.items():
        if isinstance(part, dict | list):
            yield from named_arrays(part, (*place, str(key)))


def find_network(content: Any) -> tuple[Place, dict[str, np.ndarray]]:
    """The one dict in a file that holds a network, and its place.

    Raises:
      InputError: the file has no weights, or several networks.
    """
    found = list(named_arrays(content))
    if not found or isinstance(content, np.ndarray):
        raise InputError(f"no weights in it; it holds {_describe(content)}")
    known = [(place, arrays) for place, arrays in found if _prefixes(arrays)]
    if len(known) > 1:
        names = ", ".join(".".join(place) or "the file itself" for place, _ in known)
        raise InputError(
            f"several networks in it: {names}; save the one that is meant in a file of its own"
        )
    # Of an unknown network the largest dict says most.
    return known[0] if known else max(found, key=lambda one: len(one[1]))


def recognise(weights: Arrays) -> tuple[str, str]:
    """(naming, prefix) of the network with these keys.

    Raises:
      InputError: no known network, or several.
    """
    found = _prefixes(weights)
    if len(found) == 1:
        return next((naming, prefix) for prefix, naming in found.items())
    if found:
        raise InputError(
            f"several networks in it, whose keys begin with {', '.join(sorted(found))}; save the "
            "keys of one in a file of their own"
        )
    first = printable(", ".join(list(weights)[:3]))
    raise InputError(
        f"no known network; its {number_of(len(weights), 'key', 'begin')} with {first}"
    )


def find_classifiers(
    found: Iterable[tuple[Place, Arrays]], embedding_size: int
) -> list[Classifier]:
    """All candidates for the classifier of these embeddings: matrices with D rows or columns that
    belong to no network. Only one if its name marks it as the classifier.
    """
    classifiers = [
        Classifier(".".join((*place, key)), _by_rows(key, array, embedding_size))
        for place, arrays in found
        for key, array in _outside_network(arrays).items()
        if _is_matrix(array) and embedding_size in array.shape
    ]
    for names in ([f"{_PARTIAL_FC}.weight"], CLASSIFIER_KEYS):
        named = [one for one in classifiers if one.key in names]
        if len(named) == 1:
            return named
    return classifiers


def left_out(content: Any, network: Place, embedding_size: int) -> list[str]:
    """Keys of possible classifiers of these embeddings, of any type and number of axes."""
    keys = []
    for place, arrays in named_arrays(content):
        layers = any(one.ndim > 3 or "running_" in key for key, one in arrays.items())
        if place == network or (layers and not _prefixes(arrays)):
            continue
        inside = tuple(_prefixes(arrays))
        for key, one in arrays.items():
            if one.ndim > 1 and embedding_size in one.shape and not key.startswith(inside or "\0"):
                about = f"{'×'.join(map(str, one.shape))}, {one.dtype}"
                keys.append(f"{'.'.join((*place, key))} ({about})")
    return keys


def read_classifier(paths: Sequence[pathlib.Path], embedding_size: int) -> np.ndarray:
    """The classifier [C, D] from the parts in these files; see `torch.read_class_weights`."""
    parts: list[np.ndarray] = []
    files, numbered = in_order(paths)
    for path in files:
        if path.stem.endswith("_mom"):
            raise InputError(
                f"{path}: is the momentum of class weights, by its name; give the file whose name "
                "has no _mom"
            )
        content = read_torch_file(path, _PARTIAL_FC)
        with concerning(str(path)):
            part = _part_of(content, embedding_size)
            # Every way of splitting classes over processes gives the first ones the most.
            if numbered and parts and len(part) > len(parts[-1]):
                raise InputError(
                    f"has {number_of(len(part), 'class')}, more than the {len(parts[-1])} of the "
                    "part before it; give the parts of one training, all of them"
                )
            parts.append(part)
    return np.concatenate(parts)


def shards_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The file and those beside it whose names differ only in the process number, in its order."""
    mark = _mark(path.name)
    if mark is None or not path.parent.is_dir():
        return [path]
    first, last = mark.span
    like = re.compile(re.escape(path.name[:first]) + r"(\d+)" + re.escape(path.name[last:]))
    names = {each.name: like.fullmatch(each.name) for each in path.parent.iterdir()}
    found = sorted((int(match[1]), name) for name, match in names.items() if match)
    return [path.with_name(name) for _, name in found] or [path]


class _Mark(NamedTuple):
    """A file's part number and number of parts, by its name."""

    number: int
    span: tuple[int, int]
    total: int | None
    of_processes: bool


def _mark(name: str) -> _Mark | None:
    """The part that a file's name gives; of several numbers a rank's, or else the last."""
    found = list(_NUMBERED.finditer(name))
    if not found:
        return None
    match = next((one for one in found if str(one["word"]).lower() == "rank"), found[-1])
    group, total = ("number", match["total"]) if match["word"] else ("one", match["all"])
    of_processes = str(match["word"]).lower() in _OF_PROCESSES
    whole = None if total is None else int(total)
    return _Mark(int(match[group]), match.span(group), whole, of_processes)


def _prefixes(keys: Iterable[str]) -> dict[str, str]:
    """The key prefix of each known network: prefix -> naming."""
    found = {}
    for key in keys:
        for signature, naming in SIGNATURES.items():
            prefix = key.removesuffix(signature)
            if prefix != key and (not prefix or prefix.endswith(".")):
                found[prefix] = naming
    return found


def _outside_network(arrays: Arrays) -> Arrays:
    """The arrays outside any network; none if the network is unknown, as any key may be its."""
    inside = tuple(_prefixes(arrays))
    if not inside and any(one.ndim > 2 or "running_" in key for key, one in arrays.items()):
        return {}
    return {key: array for key, array in arrays.items() if not (inside and key.startswith(inside))}


def _is_matrix(array: np.ndarray) -> bool:
    whole_numbers = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
    return array.ndim == 2 and not whole_numbers


def _by_rows(key: str, matrix: np.ndarray, embedding_size: int) -> np.ndarray:
    """One class per row; most projects have one per column."""
    # As many classes as dimensions: then only the project's habit tells.
    square = matrix.shape[0] == matrix.shape[1]
    by_rows = key in _BY_ROWS if square else matrix.shape[1] == embedding_size
    with np.errstate(over="ignore"):  # `check_finite` tells of it
        return np.ascontiguousarray(matrix if by_rows else matrix.T, dtype=np.float32)


def _part_of(content: Any, embedding_size: int) -> np.ndarray:
    """The one matrix in a file that can be a part of the classifier."""
    found = list(named_arrays(content))
    classifiers = find_classifiers(found, embedding_size)
    if len(classifiers) == 1:
        check_finite({classifiers[0].key: classifiers[0].weights})
        return classifiers[0].weights
    if classifiers:
        keys = printable(", ".join(one.key for one in classifiers))
        raise InputError(
            f"{len(classifiers)} matrices could be its classifier: {keys[:300]}; save the right "
            "one in a file of its own"
        )
    missing = (
        f"no classifier for {embedding_size}-d embeddings: it needs a matrix with "
        f"{embedding_size} rows or columns that is no layer of a network"
    )
    outside = {key: one for _, arrays in found for key, one in _outside_network(arrays).items()}
    matrices = [f"{key} {one.shape}" for key, one in outside.items() if _is_matrix(one)]
    if matrices:
        raise InputError(f"{missing}; it has {printable(', '.join(matrices))[:300]}")
    has = "a network only; save the classifier in a file of its own" if found else ""
    has = has or _describe(content)
    raise InputError(f"{missing}; it holds {has}")


def in_order(paths: Sequence[pathlib.Path]) -> tuple[list[pathlib.Path], bool]:
    """The files sorted by part number, and whether they have one: the number that the names give,
    or else the one in which they differ.

    Raises:
      InputError: a file is repeated, or a part is missing.
    """
    if len(set(paths)) < len(paths):
        raise InputError(f"{paths[0]}: a file is given twice; give each part of the classes once")
    marks = [mark for mark in (_mark(path.name) for path in paths) if mark is not None]
    numbers = [mark.number for mark in marks]
    if len(marks) < len(paths) or len(set(numbers)) == 1 < len(paths):
        numbers, marks = _differing_numbers(paths), []
    if not numbers:
        return list(paths), False
    by_number: dict[int, pathlib.Path] = {}
    for number, path in zip(numbers, paths, strict=True):
        if number in by_number:
            raise InputError(
                f"{paths[0]}: {by_number[number].name} and {path.name} are both part {number}; "
                "give each part of the classes once"
            )
        by_number[number] = path
    totals = {mark.total for mark in marks} - {None}
    if len(totals) > 1:
        raise InputError(
            f"{paths[0]}: the names tell of {' and of '.join(map(str, sorted(totals, key=str)))} "
            "parts; give the parts of one training"
        )
    (total,) = totals or {None}
    from_one = 0 not in by_number and not any(mark.of_processes for mark in marks)
    first = int(from_one and (len(paths) > 1 or total is not None))
    last = max(by_number) if total is None else first + total - 1
    if max(by_number) > last:
        raise InputError(
            f"{by_number[max(by_number)]}: is no part of {total}, by its name; give the parts of "
            "one training"
        )
    missing = [number for number in range(first, min(last, 10**6) + 1) if number not in by_number]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        said = f"{', '.join(map(str, missing[:10]))}{more}"
        alone = ", or rename the file if it is the whole" if len(paths) == 1 else ""
        verb = "is" if len(missing) == 1 else "are"
        raise InputError(
            f"{paths[0]}: of the parts {first} to {last}, {said} {verb} missing; give all parts of "
            f"the classes, each once{alone}"
        )
    return [by_number[number] for number in sorted(by_number)], True


def _differing_numbers(paths: Sequence[pathlib.Path]) -> list[int]:
    """The one number of each path in which the paths differ; none if they differ elsewhere."""
    words = [re.split(r"(\d+)", str(path)) for path in paths]
    if len(paths) == 1 or len({len(each) for each in words}) > 1:
        return []
    differing = [place for place, each in enumerate(zip(*words, strict=True)) if len(set(each)) > 1]
    if len(differing) != 1 or differing[0] % 2 == 0:
        return []
    return [int(each[differing[0]]) for each in words]


def _describe(content: Any) -> str:
    """Describes a file without weights."""
    if not isinstance(content, dict):
        return "one tensor without a name" if isinstance(content, np.ndarray) else "no tensor"
    modules = [str(key) for key, part in content.items() if isinstance(part, PickledModule)]
    if modules:
        return (
            f"the whole module {printable(', '.join(modules))[:200]}; save its state_dict() "
            "instead, where its code is"
        )
    return printable(", ".join(map(str, content)))[:200] or "nothing"
