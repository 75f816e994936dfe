"""Photos to the crops that a model takes: their middle, or the face that is found in them."""

import pathlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated

import numpy as np
import tyro

from arcface_jax.data.align import align
from arcface_jax.data.decode import decode, resize
from arcface_jax.data.detect import FaceDetector
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.errors import InputError

Detect = Annotated[
    bool,
    tyro.conf.arg(
        help="Find and align the largest face of each photo; needs requirements-detection.txt. "
        "Without it the middle is taken, which must be cropped as the training images were."
    ),
]
"""The option --detect of every command that embeds photos."""


class Cropper:
    """Cuts out what a model of this (height, width) takes: the middle, or with `detect` the largest
    face, aligned. With `skip_unreadable` an image that cannot be decoded is one without a face.
    """

    def __init__(
        self, size: tuple[int, int], detect: bool = False, *, skip_unreadable: bool = False
    ):
        self._size, self._skip_unreadable = size, skip_unreadable
        self._detector = FaceDetector() if detect else None

    def find(self, photo: np.ndarray) -> np.ndarray | None:
        """uint8 [height, width, 3], or None where no face is found in the RGB photo. A model of
        112×96 pixels was trained on the middle of the aligned 112×112 crop.
        """
        if self._detector is None:
            return resize(photo, self._size)
        faces = self._detector.detect(photo)
        try:
            if not faces:
                return None
            return resize(align(photo, faces[0].landmarks, max(self._size)), self._size)
        except InputError:  # landmarks that are no face's
            return None

    def crop(self, photo: np.ndarray, name: str) -> np.ndarray:
        """As `find`; `name` is what the error calls a photo without a face."""
        found = self.find(photo)
        if found is None:
            raise InputError(
                f"{name}: no face found; give a photo with one that is larger or more from the "
                "front"
            )
        return found

    def read(self, paths: Sequence[pathlib.Path]) -> np.ndarray:
        """The crops of image files, uint8 [N, height, width, 3]."""
        crops = []
        for path in paths:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise InputError(
                    f"{path}: cannot be read ({error.strerror}); check the path"
                ) from error
            crops.append(self.crop(decode(content, str(path)), str(path)))
        return np.stack(crops)

    def batches(
        self, source: EncodedSource, batch_size: int, *, first: int = 0, threads: int = 4
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(crops uint8 [M, height, width, 3], found bool [M]) of a source from image `first` on;
        without a face the crop is black. The next batch is decoded while the last one is used.
        """

        def read(index: int) -> np.ndarray | None:
            try:
                photo = source[index]
            except InputError:
                if self._skip_unreadable:
                    return None
                raise
            return self.find(photo)

        def submit(start: int) -> list[Future[np.ndarray | None]]:
            return [
                pool.submit(read, index)
                for index in range(start, min(start + batch_size, len(source)))
            ]

        black = np.zeros((*self._size, 3), np.uint8)
        with ThreadPoolExecutor(threads) as pool:
            waiting = submit(first)
            while waiting:
                first += len(waiting)
                following = submit(first)
                crops = [future.result() for future in waiting]
                found = np.array([crop is not None for crop in crops])
                yield np.stack([black if crop is None else crop for crop in crops]), found
                waiting = following
