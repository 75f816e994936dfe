"""A whole data set in memory, decoded once and at the network's size."""

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.decode import height_and_width, resize
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError

OnUnreadable = Literal["raise", "skip"]
_CHUNK = 256


@dataclasses.dataclass(frozen=True)
class MemorySource(FaceSource):
    """Images in memory.

    Attributes:
      images: uint8 [N, height, width, 3], RGB.
      labels: int32 [N].
      identity_names: what each label stands for.
      fingerprint: of the source of the images.
      skipped: one message per image that could not be decoded.
      emptied: names of identities that lost all their images this way.
      kept: int64 [N], the indices of these images in `load_source`'s source.
    """

    images: np.ndarray
    labels: np.ndarray
    identity_names: Sequence[str]
    fingerprint: str
    skipped: tuple[str, ...] = ()
    emptied: tuple[str, ...] = ()
    kept: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.images[index]

    def render(self, indices: np.ndarray) -> np.ndarray:
        """Images `indices`, uint8 [M, height, width, 3]."""
        return self.images[indices]


def _check_memory(count: int, size: tuple[int, int]) -> None:
    """Refuses images that cannot fit: the system would first grant the memory, and then fail."""
    needed, there = 3 * math.prod(size) * count, math.inf
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system says
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there > 0:
        raise InputError(
            f"{number_of(count, 'image')} of {size[1]}×{size[0]} pixels take {needed / 1e9:,.1f} "
            f"GB of memory, and there are {there / 1e9:,.1f}; take fewer or smaller ones, or, to "
            "train, read them batch by batch (--data.loading stream)"
        )


def load_source(
    source: FaceSource,
    image_size: int | tuple[int, int],
    *,
    on_unreadable: OnUnreadable = "raise",
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> MemorySource:
    """Decodes every image of a source into one array.

    Args:
      source: where the images are. Its `render` is used if it has one.
      image_size: side in pixels, or (height, width); other sizes go through `decode.resize`.
      on_unreadable: "raise" stops at the first image that cannot be decoded. "skip" leaves out such
        images, with messages in `skipped`, and identities left without images, with names in
        `emptied`. Labels are then renumbered as in `Subset`, and the fingerprint covers what is
        left.
      threads: decoders working at once; they release the interpreter lock.
      progress: called with the number of images done since the last call.

    Returns: the images and their labels.

    Raises:
      InputError: an image cannot be decoded, under "raise"; or none can; or they need more memory
        than the machine has.
    """
    count = len(source)
    _check_memory(count, height_and_width(image_size))
    images = np.empty((count, *height_and_width(image_size), 3), np.uint8)
    readable = np.ones(count, bool)
    skipped: dict[int, str] = {}

    def read_one(index: int) -> None:
        try:
            images[index] = resize(source[index], image_size)
        except InputError as error:
            if on_unreadable == "raise":
                raise
            readable[index] = False
            skipped[index] = str(error)

    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, count, _CHUNK):
            chunk = range(start, min(start + _CHUNK, count))
            rendered = source.render(np.array(chunk))
            if rendered is None:
                list(pool.map(read_one, chunk))
            else:
                images[chunk.start : chunk.stop] = [resize(one, image_size) for one in rendered]
            if progress is not None:
                progress(len(chunk))
    if not readable.any():
        raise InputError(
            f"none of the {number_of(count, 'image')} can be decoded; the first: "
            f"{skipped.get(0, 'there is none')}"
        )
    kept = np.flatnonzero(readable)
    left = source if readable.all() else Subset(source, kept)
    lost = np.setdiff1d(source.labels, np.asarray(source.labels)[kept])
    return MemorySource(
        images=images if readable.all() else images[readable],
        labels=np.asarray(left.labels, np.int32),
        identity_names=left.identity_names,
        fingerprint=left.fingerprint,
        skipped=tuple(skipped[index] for index in sorted(skipped)),
        emptied=tuple(source.identity_names[label] for label in lost),
        kept=kept,
    )


def load_images(
    source: FaceSource,
    image_size: int | tuple[int, int],
    *,
    threads: int = 4,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """All images of a source, uint8 [N, image_size, image_size, 3], in the order of its labels.

    The plain case of `load_source`: an image that cannot be decoded raises InputError.
    """
    return load_source(source, image_size, threads=threads, progress=progress).images
