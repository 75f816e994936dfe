"""A source of aligned crops from photographs and a list of landmarks."""

import collections
import contextlib
import functools
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE_SIZE, check_order
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.filetree import one_form, without_extension
from arcface_jax.data.sources.lists import read_lst
from arcface_jax.data.text import (
    PATH_NAMES,
    count,
    heading,
    is_heading,
    names_image,
    number,
    number_of_columns,
    read_rows,
    without_mark,
)
from arcface_jax.errors import InputError, concerning, printable

_NAMED = ("left eye", "right eye", "nose", "left mouth", "right mouth")
_LOOKED_AT, _FEWEST = 16, 3  # photographs, for what size the landmarks are of
_PATH_NAMES = (*PATH_NAMES, "name", "name_id")
_NUMBERED = re.compile(r"(?:p|pt|point|lm|landmark|kp|keypoint)?(\d+)")


def _spellings() -> Iterator[tuple[str, str]]:
    """(a point's spelling in column names, the point)."""
    for word in ("nose", "nosetip", "n"):
        yield word, "nose"
    for side in ("left", "right"):
        for short in (side, side[0]):
            yield short, f"{side} eye"
            for part, words in (
                ("eye", ("eye", "eyecenter", "eyecentre", "pupil", "e")),
                ("mouth", ("mouth", "mouthcorner", "m")),
            ):
                for word in words:
                    yield short + word, f"{side} {part}"
                    yield word + short, f"{side} {part}"
            yield f"mouth{short}corner", f"{side} mouth"


_SPELLED = dict(_spellings())


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a list of landmarks: path → float64 [5, 2], NaN for a line without landmarks.

    Lines "path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5", separated by tabs, commas or spaces. Before them
    there may be lines that begin with "#", column names and, as in CelebA, the number of lines.
    Named columns may come in any order and among others: path (file, image_id, name …; CelebA names
    only the others), and x1 … y5 (or p1x …, or x0 … y4), or lefteye_x, nose_y, right_mouth_x and
    the like. Also reads insightface's `.lst` with 17 columns (`lists.read_lst`).

    Raises:
      InputError: the column names are not understood, a line has other columns or no finite
        numbers, lines contradict each other, or the points of a list without column names are faces
        only in the order x1 … x5 y1 … y5.
    """
    landmarks: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    for where, name, points in _listed(path):
        name = one_form(name)
        if name in first and not np.array_equal(landmarks[name], points, equal_nan=True):
            raise InputError(
                f"{where}: {name} has other landmarks in {first[name]}; give it one line"
            )
        landmarks[name], first[name] = points, where
    return landmarks


def _listed(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(where, path, landmarks) of each line."""
    if as_path(path).suffix.lower() == ".lst":
        for line in read_lst(path):
            if line.landmarks is None:
                raise InputError(f"{line.where}: {line.path} has no landmarks (17 columns are due)")
            yield line.where, line.path, line.landmarks
        return
    announced, rows = None, 0
    names: list[str] | None = None
    places: list[int] = []
    unnamed: list[np.ndarray] = []
    for where, cells in read_rows(path, number_of_columns(path, _are_names, _PATH_NAMES, 11)):
        if not rows and names is None:
            if cells[0].startswith("#"):
                cells = without_mark(cells)
                if not _are_names(cells):
                    if len(cells) >= 10 and is_heading(cells):
                        _say_unknown(where, cells)
                    continue
            if is_heading(cells):
                names, places = cells, _places(cells, where)
                continue
            if len(cells) == 1 and announced is None and count(cells[0]):
                announced = count(cells[0])  # CelebA's first line
                continue
        rows += 1
        if names is not None and len(places) == 10:
            if len(cells) != len(names) + 1:
                raise InputError(
                    f"{where}: no column is called path, and there are "
                    f"{number_of(len(cells), 'column')} for {number_of(len(names), 'name')}; call "
                    "the column of the image's path so"
                )
            name, *words = cells[0], *(cells[place + 1] for place in places)
        elif names is not None and len(cells) == len(names):
            name, *words = (cells[place] for place in places)
        else:
            name, *words = cells
            words = [] if names is not None else words
        if _has_numbers_after(name):  # more of them, in a list with spaces
            words = []
        points = np.array([number(word) for word in words], np.float64)
        if words == [""] * 10:
            points = np.full(10, np.nan)
        elif points.shape != (10,) or not np.isfinite(points).all():
            raise InputError(
                f"{where}: path and 10 numbers x1 y1 … x5 y5 are due, got {_shown(cells)}"
            )
        if names is None:
            unnamed.append(points)
        yield where, name, points.reshape(5, 2)
    check_order(
        np.array(unnamed).reshape(-1, 5, 2),
        path,
        "name the columns in the first line: path x1 x2 … y5",
    )
    if announced not in (None, rows):
        raise InputError(
            f"{path}: {number_of(rows, 'line')} of landmarks, but line 1 announces {announced}"
        )


def _has_numbers_after(name: str) -> bool:
    """Whether numbers follow the name of an image: "a.jpg 10 20"."""
    words = name.split()
    first = next((at for at, word in enumerate(words) if names_image(word)), len(words))
    after = words[first + 1 :]
    return bool(after) and all(number(word) is not None for word in after)


def _are_names(cells: list[str]) -> bool:
    return sum(_coordinate(cell) is not None for cell in cells) >= 2


def _say_unknown(where: str, cells: list[str]) -> None:
    logging.getLogger("arcface_jax").warning(
        f"{where}: begins with # and names no column that is known ({_shown(cells)}); it is left "
        "out, and the lines are taken to have path and x1 y1 … x5 y5"
    )


def _shown(cells: list[str]) -> str:
    return printable(repr(" ".join(cells)[:80]))


def _places(names: list[str], where: str) -> list[int]:
    """The columns of x1, y1 … x5, y5 by name, after the path's column if it has one."""
    found: dict[tuple[str, str], int] = {}
    for column, name in enumerate(names):
        key = _coordinate(name)
        if key is not None and key in found:
            raise InputError(
                f"{where}: the columns {names[found[key]]} and {name} are "
                "the same coordinate; rename or remove one"
            )
        if key is not None:
            found[key] = column
    numbers = {point for point, _ in found if point.isdigit()}
    for points in (_NAMED, tuple("12345"), tuple("01234")):
        wanted = [(point, axis) for point in points for axis in "xy"]
        if found.keys() >= {*wanted} and (points == _NAMED or numbers == {*points}):
            lower = [heading(name) for name in names]
            paths = [lower.index(name) for name in _PATH_NAMES if name in lower]
            return [*paths[:1], *(found[key] for key in wanted)]
    shown = printable(" ".join(names)[:120])
    raise InputError(
        f"{where}: the columns are called {shown!r}; call them path "
        "and x1 y1 … x5 y5, or lefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x "
        "leftmouth_y rightmouth_x rightmouth_y"
    )


def _coordinate(name: str) -> tuple[str, str] | None:
    """(point, axis) of a column's name: ("left eye", "x") of lefteye_x, ("3", "y") of y3."""
    text = re.sub(r"[^a-z0-9]", "", name.lower())
    for axis, rest in ((text[-1:], text[:-1]), (text[:1], text[1:])):
        if axis in ("x", "y"):
            numbered = _NUMBERED.fullmatch(rest)
            point = str(int(numbered[1])) if numbered else _SPELLED.get(rest)
            if point is not None:
                return point, axis
    return None


class AlignedSource(FaceSource):
    """A source's photographs, aligned on reading.

    Args:
      source: photographs.
      landmarks: [N, 5, 2], of each image of the source; see `align.align`.
      size: side of the crops in pixels.

    Raises:
      InputError: there are not N × 5 landmarks.
    """

    def __init__(self, source: FaceSource, landmarks: np.ndarray, size: int = TEMPLATE_SIZE):
        landmarks = np.asarray(landmarks, np.float64)
        if landmarks.shape != (len(source), 5, 2):
            raise InputError(
                f"landmarks must be [{len(source)}, 5, 2] for this source, got {landmarks.shape}"
            )
        self.source, self.landmarks, self.size = source, landmarks, size
        self.labels = np.asarray(source.labels)
        self.identity_names = source.identity_names

    @functools.cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Digest of the photographs' fingerprint, the landmarks and the size."""
        parts = (
            self.source.fingerprint.encode() + self.landmarks.tobytes() + str(self.size).encode()
        )
        return hashlib.blake2b(parts, digest_size=16).hexdigest()

    def __getitem__(self, index: int) -> np.ndarray:
        try:
            return align(self.source[index], self.landmarks[index], self.size)
        except InputError as error:
            where = self.where(index)
            raise InputError(str(error) if where in str(error) else f"{where}: {error}") from None

    def where(self, index: int) -> str:
        """Where the source has the photograph."""
        return self.source.where(index)

    def path(self, index: int) -> str | None:
        """The photograph's path in the source."""
        return self.source.path(index)


def by_path(source: FaceSource, landmarks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The landmarks [N, 5, 2] of a source's images, from `read_landmarks`, NaN included.

    An image gets the line of its path, or else of its path without the extension. The logger
    arcface_jax warns how many lines have no image.

    Raises:
      InputError: the source has no paths, an image has no landmarks, or a line without an extension
        fits two images.
    """
    with concerning("landmarks"):
        paths = paths_of(source)
    names = [one_form(path) for path in paths]
    stems = [without_extension(name) for name in names]
    known, of_stem = {*names}, collections.Counter(stems)
    found: list[np.ndarray | None] = []
    used: set[str] = set()
    for path, name, stem in zip(paths, names, stems, strict=True):
        points = landmarks.get(name)
        if points is None and stem in landmarks and stem not in known:
            points = landmarks[stem]
            if of_stem[stem] > 1:
                raise InputError(
                    f"landmarks: the source has more than one image {stem}, such as "
                    f"{path}; list them with their extensions"
                )
            used.add(stem)
        used.add(name)
        found.append(points)
    missing = [path for path, points in zip(paths, found, strict=True) if points is None]
    if missing:
        raise InputError(
            f"landmarks: {len(missing)} of {number_of(len(paths), 'image', 'have')} none, the "
            f"first is {missing[0]}"
        )
    unused = [name for name in landmarks if name not in used]
    if unused:
        logging.getLogger("arcface_jax").warning(
            f"lines of landmarks for no image of the source: {len(unused)} of {len(landmarks)}, "
            f"the first is of {printable(unused[0])}; they are left out"
        )
    points = np.stack([points for points in found if points is not None])
    say_other_size(source, points)
    return points


def say_other_size(source: FaceSource, landmarks: np.ndarray) -> None:
    """Warns, by the logger arcface_jax, if landmarks [N, 5, 2] seem to belong to a smaller or
    larger copy of a source's photographs: in up to 16 evenly spaced ones, at least three, all faces
    lie wholly in the upper left quarter, or all in the lower right one or beyond.
    """
    known = np.flatnonzero(np.isfinite(landmarks).all(axis=(1, 2)))
    places = np.linspace(0, max(len(known) - 1, 0), min(len(known), _LOOKED_AT))
    sample = known[places.astype(int)]
    sizes = {}
    for index in sample.tolist():
        with contextlib.suppress(InputError):
            sizes[index] = source[index].shape[1::-1]
    if len(sizes) < _FEWEST:
        return
    middles = (np.array(list(sizes.values()), np.float64)[:, None] - 1) / 2
    faces = landmarks[list(sizes)]
    for there, where, size in (
        (faces < middles, "the upper left", "smaller"),
        (faces > middles, "the lower right", "larger"),
    ):
        if there.all():
            logging.getLogger("arcface_jax").warning(
                f"landmarks: in all of {number_of(len(sizes), 'photograph')} looked at they lie in "
                f"{where} quarter, such as in {source.where(next(iter(sizes)))}; if they are of "
                f"{size} copies of them, multiply x and y by the ratio of the sizes"
            )
