"""Synthetic faces: the data set that needs no download.

Any number of drawn people in the geometry of aligned face crops. Identity (shape of head, eyes,
nose, mouth; skin, hair, marks) is spread over many small continuous differences. Variation from
picture to picture (pose, light, expression, glasses, hat, objects in front, blur, noise,
background) is large. So the task is that of face recognition: tell apart people never seen in
training.

Nothing here depicts anyone.
"""

import functools
import hashlib
import numbers
import operator
from collections.abc import Sequence

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.source import FaceSource
from arcface_jax.data.synthetic.parameters import (
    draw_identities,
    identity_parameters,
    image_nuisances,
)
from arcface_jax.data.synthetic.render import render_faces
from arcface_jax.errors import InputError

GENERATOR_VERSION = 1
"""Part of the fingerprint; increases when the same parameters would give other pixels."""

_PIXELS_AT_ONCE = 4 * 112 * 112
"""Pixels drawn together: few enough for the float32 planes to stay in a core's cache."""
_MAX_SIZE = 1024
_MOST_IDENTITIES, _MOST_IMAGES = 10_000_000, 100_000_000  # a label of 4 bytes each


def _whole_number(name: str, value: int, low: int, high: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} must be a whole number, got {value!r}") from None
    if not low <= number <= high:
        raise InputError(f"{name} must be in {low} … {high}, got {number}")
    return number


class SyntheticFaces(FaceSource):
    """Drawn faces, computed on reading.

    Image k of identity i depends only on `seed`, i, k, `image_size` and `difficulty`, not on the
    number of identities or images or on what else is rendered. Two sources with the same seed and
    disjoint ranges first_identity … first_identity + num_identities − 1 have different people, for
    training and for testing.

    Args:
      num_identities: how many people.
      images_per_identity: how many pictures of each; image n shows person n // images_per_identity.
      image_size: height and width in pixels, 8 … 1024.
      seed: 0 … 2⁶⁴ − 1; another seed gives other people.
      first_identity: number of the first person.
      difficulty: scales everything but the person: pose, light, expression, occlusion, blur, noise,
        crop. 0 … 2; 1 is hard, 0 gives one neutral picture per person.

    Raises:
      InputError: an argument is out of range; the message names it.
    """

    def __init__(
        self,
        num_identities: int,
        images_per_identity: int,
        *,
        image_size: int = 112,
        seed: int = 0,
        first_identity: int = 0,
        difficulty: float = 1.0,
    ) -> None:
        """Checks and keeps the arguments; nothing is drawn yet."""
        self.num_identities = _whole_number("num_identities", num_identities, 1, 2**31 - 1)
        self.images_per_identity = _whole_number(
            "images_per_identity", images_per_identity, 1, 2**31 - 1
        )
        images = self.num_identities * self.images_per_identity
        if self.num_identities > _MOST_IDENTITIES or images > _MOST_IMAGES:
            raise InputError(
                f"{number_of(self.num_identities, 'identity')} with {self.images_per_identity:,} "
                f"drawn images each are too many: {_MOST_IDENTITIES:,} identities and "
                f"{_MOST_IMAGES:,} images are the most"
            )
        self.image_size = _whole_number("image_size", image_size, 8, _MAX_SIZE)
        self.seed = _whole_number("seed", seed, 0, 2**64 - 1)
        self.first_identity = _whole_number("first_identity", first_identity, 0, 2**62)
        if not isinstance(difficulty, numbers.Real) or not 0.0 <= difficulty <= 2.0:
            raise InputError(f"difficulty must be a number in 0 … 2, got {difficulty!r}")
        self.difficulty: float = float(difficulty)

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """int32 [N], the person in each image, counted from 0; read-only."""
        labels = np.repeat(np.arange(self.num_identities, dtype=np.int32), self.images_per_identity)
        labels.setflags(write=False)
        return labels

    @functools.cached_property
    def identity_names(self) -> Sequence[str]:  # type: ignore[override]
        """A name for each person, from the person's number."""
        return [f"synthetic-{self.first_identity + i:06d}" for i in range(self.num_identities)]

    @functools.cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hexadecimal SHA-256 of everything that the images depend on."""
        parts = (
            "synthetic-faces",
            GENERATOR_VERSION,
            self.num_identities,
            self.images_per_identity,
            self.image_size,
            self.seed,
            self.first_identity,
            self.difficulty,
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def __len__(self) -> int:
        """The number of images."""
        return self.num_identities * self.images_per_identity

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 [image_size, image_size, 3], RGB; negative counts from the end.

        Raises:
          IndexError: there is no such image.
        """
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"image {number} of a source of {len(self)}")
        return self.render(np.array([number % len(self)]))[0]

    def render(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Draws many images at once, several times faster than one by one.

        Args:
          indices: [B], each in 0 … N − 1, in any order.

        Returns: uint8 [B, image_size, image_size, 3], the images that __getitem__ would give, bit
          for bit.

        Raises:
          IndexError: an index is out of range.
        """
        return self._render(indices, self.difficulty)

    def neutral(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The people of the images `indices`: frontal, in even light, uncovered; as `render`."""
        return self._render(indices, 0.0)

    def _render(self, indices: Sequence[int] | np.ndarray, difficulty: float) -> np.ndarray:
        wanted = np.asarray(indices)
        if wanted.size == 0:
            return np.zeros((0, self.image_size, self.image_size, 3), np.uint8)
        if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
            raise InputError(
                f"image numbers must be whole, [B], got {wanted.dtype} of shape {wanted.shape}"
            )
        if wanted.min() < 0 or wanted.max() >= len(self):
            raise IndexError(
                f"images {wanted.min()} … {wanted.max()} of a source of "
                f"{number_of(len(self), 'image')}"
            )
        out = np.empty((len(wanted), self.image_size, self.image_size, 3), np.uint8)
        step = max(1, _PIXELS_AT_ONCE // self.image_size**2)
        for start in range(0, len(wanted), step):
            chunk = wanted[start : start + step]
            out[start : start + step] = self._draw(chunk, difficulty)
        return out

    def _draw(self, wanted: np.ndarray, difficulty: float) -> np.ndarray:
        identities = self.first_identity + wanted // self.images_per_identity
        images = wanted % self.images_per_identity
        person = identity_parameters(draw_identities(self.seed, identities))
        grain = 3 * self.image_size**2
        picture = image_nuisances(
            self.seed, identities, images, difficulty, person.spectacles, grain
        )
        return render_faces(person, picture, self.image_size)
