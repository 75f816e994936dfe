"""Photographs with a list of landmarks as a source of aligned crops."""

import functools
import hashlib
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.source import FaceSource, paths_of
from arcface_jax.data.sources.recordio import read_lst
from arcface_jax.errors import InputError, concerning, printable, readable


def read_landmarks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a list of landmarks: path → float64 [5, 2].

    Lines "path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5", separated by tabs, commas or spaces; or
    insightface's `.lst` with 17 columns (`recordio.read_lst`).

    Raises:
      InputError: a line has other columns or no finite numbers.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() == ".lst":
        found = {line.path: line.landmarks for line in read_lst(path)}
        missing = next((name for name, points in found.items() if points is None), None)
        if missing is not None:
            raise InputError(f"{path}: {printable(missing)} has no landmarks (17 columns are due)")
        return {name: points for name, points in found.items() if points is not None}
    with readable(path, "list"):
        lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    landmarks: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        delimiter = next((mark for mark in "\t," if mark in line), None)
        name, *values = [word.strip() for word in line.rsplit(delimiter, 10)]
        try:
            points = np.array(values, np.float64).reshape(5, 2)
        except ValueError:
            raise InputError(
                f"{path} line {number}: path and 10 numbers x1 y1 … x5 y5 are due, got "
                f"{line[:80]!r}"
            ) from None
        if not np.isfinite(points).all():
            raise InputError(f"{path} line {number}: landmarks are not finite")
        landmarks[name] = points
    return landmarks


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


def by_path(source: FaceSource, landmarks: Mapping[str, np.ndarray]) -> np.ndarray:
    """The landmarks [N, 5, 2] of a source's images, from `read_landmarks`.

    Raises:
      InputError: the source has no paths, or an image has no landmarks.
    """
    with concerning("landmarks"):
        paths = paths_of(source)
    missing = [path for path in paths if path not in landmarks]
    if missing:
        raise InputError(
            f"landmarks: {len(missing)} of {len(paths)} images have none, the first is "
            f"{printable(missing[0])}"
        )
    return np.stack([landmarks[path] for path in paths])
