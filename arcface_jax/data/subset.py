"""A part of a source, several sources as one, and a split by identity, without copying images."""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.encoded import checked_index
from arcface_jax.errors import InputError


class Subset(FaceSource):
    """Some images of a source, with labels renumbered 0 … n − 1 in the source's order.

    Args:
      source: where the images are.
      indices: int [M], the images to keep, in this order.

    Raises:
      InputError: an index is outside the source.
    """

    def __init__(self, source: FaceSource, indices: np.ndarray):
        indices = np.asarray(indices, np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(source)):
            raise InputError(
                f"images {indices.min()} … {indices.max()} are outside a source of {len(source)} "
                "images"
            )
        self.source = source
        self.indices = indices
        kept, labels = np.unique(np.asarray(source.labels)[indices], return_inverse=True)
        self.labels = labels.astype(np.int32)
        self.identity_names = [source.identity_names[label] for label in kept]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.source[self._of(index)]

    @functools.cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Digest of the source's fingerprint and of the indices."""
        return hashlib.blake2b(
            self.source.fingerprint.encode() + self.indices.tobytes(), digest_size=16
        ).hexdigest()

    def encoded(self, index: int) -> bytes | None:
        """The source's stored bytes of the image."""
        return self.source.encoded(self._of(index))

    def where(self, index: int) -> str:
        """Where the source has the image."""
        return self.source.where(self._of(index))

    def path(self, index: int) -> str | None:
        """The image's path in the source."""
        return self.source.path(self._of(index))

    def render(self, indices: np.ndarray) -> np.ndarray | None:
        """What the source's `render` gives for these images."""
        return self.source.render(self.indices[np.asarray(indices)])

    def _of(self, index: int) -> int:
        return int(self.indices[checked_index(index, len(self))])


class Concatenated(FaceSource):
    """Several sources as one; each keeps its own identities.

    Labels of the second source start after the first's, and so on: equal names do not mean one
    person. If the sources share people, merge them on disk.

    Args:
      sources: at least one.
    """

    def __init__(self, sources: Sequence[FaceSource]):
        if not sources:
            raise InputError("sources: nothing to concatenate; give at least one source")
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])
        identities = np.cumsum([0, *(len(source.identity_names) for source in self.sources)])
        self.labels = np.concatenate(
            [
                np.asarray(source.labels) + first
                for source, first in zip(self.sources, identities[:-1], strict=True)
            ]
        ).astype(np.int32)
        self.identity_names = [name for source in self.sources for name in source.identity_names]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> np.ndarray:
        index = checked_index(index, len(self))
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = self._ends[which - 1] if which else 0
        return self.sources[which][int(index - start)]

    @functools.cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Digest of the sources' fingerprints."""
        joined = "".join(source.fingerprint for source in self.sources)
        return hashlib.blake2b(joined.encode(), digest_size=16).hexdigest()


def split_identities(source: FaceSource, test_fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Splits a source by identity.

    Face recognition is tested on people the network has never seen, so the split is over
    identities, not images. It depends only on the seed and the number of identities.

    Args:
      source: at least four identities.
      test_fraction: share of the identities, strictly between 0 and 1, that goes to the test side;
        rounded to the nearest count.
      seed: selects the identities.

    Returns: (training subset, test subset), labels of each renumbered from 0.

    Raises:
      InputError: the fraction is outside (0, 1), or a side would have fewer than two identities.
    """
    if not 0 < test_fraction < 1:
        raise InputError(
            f"test_fraction = {test_fraction}: give a share of the identities between 0 and 1"
        )
    count = len(source.identity_names)
    test_count = round(test_fraction * count)
    if min(test_count, count - test_count) < 2:
        raise InputError(
            f"test_fraction = {test_fraction} of {count} identities leaves {count - test_count} "
            f"for training and {test_count} for testing; each side needs at least 2, so add "
            "identities or change test_fraction"
        )
    is_test = np.zeros(count, bool)
    is_test[np.random.default_rng(seed).permutation(count)[:test_count]] = True
    goes_to_test = is_test[np.asarray(source.labels)]
    return Subset(source, np.flatnonzero(~goes_to_test)), Subset(
        source, np.flatnonzero(goes_to_test)
    )
