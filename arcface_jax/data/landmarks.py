"""Photographs with a list of landmarks as a source of aligned crops."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.filetree import without_extension
from arcface_jax.data.sources.lists import read_lst
from arcface_jax.data.text import count, is_heading, listed_path, number, read_rows, same_name
from arcface_jax.errors import InputError, concerning, printable

_COLUMNS = ["path", *(f"{axis}{point}" for point in range(1, 6) for axis in "xy")]


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a list of landmarks: path → float64 [5, 2], NaN where the list has a line without any.

    Lines "path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5", separated by tabs, commas or spaces, perhaps after
    lines that begin with "#", names of the columns and, as CelebA has it, the number of lines.
    Columns that are called path, x1 … y5 may be in any order and among others, as
    `detect.find_faces` writes them. Or insightface's `.lst` with 17 columns (`lists.read_lst`).

    Raises:
      InputError: a line has other columns or no finite numbers, or lines contradict each other.
    """
    landmarks: dict[str, np.ndarray] = {}
    first: dict[str, str] = {}
    for where, name, points in _listed(path):
        name = same_name(listed_path(name))
        if name in first and not np.array_equal(landmarks[name], points, equal_nan=True):
            raise InputError(
                f"{where}: {printable(name)} has other landmarks in {first[name]}; give it one line"
            )
        landmarks[name], first[name] = points, where
    return landmarks


def _listed(path: str | os.PathLike[str]) -> Iterator[tuple[str, str, np.ndarray]]:
    """(where, path, landmarks) of each line."""
    if pathlib.Path(path).suffix.lower() == ".lst":
        for line in read_lst(path):
            if line.landmarks is None:
                raise InputError(
                    f"{line.where}: {printable(line.path)} has no landmarks (17 columns are due)"
                )
            yield line.where, line.path, line.landmarks
        return
    announced, rows, columns = None, 0, 11
    places: list[int] | None = None
    for where, cells in read_rows(path, columns=11):
        if not rows and places is None:
            if cells[0].startswith("#"):
                continue
            if is_heading(cells):
                names = [cell.lower() for cell in cells]
                if set(_COLUMNS) <= set(names):
                    places, columns = [names.index(name) for name in _COLUMNS], len(names)
                continue
            if len(cells) == 1 and announced is None and count(cells[0]):
                announced = count(cells[0])  # CelebA's first line
                continue
        rows += 1
        name, *words = (
            [cells[place] for place in places] if places and len(cells) == columns else cells
        )
        points = np.array([number(word) for word in words], np.float64)
        if words == [""] * 10:
            points = np.full(10, np.nan)
        elif points.shape != (10,) or not np.isfinite(points).all():
            shown = printable(repr(" ".join(cells)[:80]))
            raise InputError(f"{where}: path and 10 numbers x1 y1 … x5 y5 are due, got {shown}")
        yield where, name, points.reshape(5, 2)
    if announced not in (None, rows):
        raise InputError(f"{path}: {rows} lines of landmarks, but line 1 announces {announced}")


class AlignedSource(FaceSource):
    """A source's photographs, aligned when read.

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
    """The landmarks [N, 5, 2] of a source's images, from `read_landmarks`; NaN where those are.

    Raises:
      InputError: the source has no paths, or an image has no landmarks.
    """
    with concerning("landmarks"):
        paths = paths_of(source)
    found = [
        landmarks.get(same_name(path), landmarks.get(same_name(without_extension(path))))
        for path in paths
    ]
    missing = [path for path, points in zip(paths, found, strict=True) if points is None]
    if missing:
        raise InputError(
            f"landmarks: {len(missing)} of {len(paths)} images have none, the first is "
            f"{printable(missing[0])}"
        )
    return np.stack([points for points in found if points is not None])
