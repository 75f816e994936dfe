"""Which image goes into which row of which batch, as a pure function of (seed, step, row).

Nothing here has state. So a run that resumes at step t gets the same batch, and a batch can be
split over any number of hosts.
"""

import collections
import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from arcface_jax.errors import InputError


class Sampler(Protocol):
    """The order in which a run sees its images.

    Its `repr` names everything that determines the order; a resumed run compares it.
    """

    @property
    def batch_size(self) -> int:
        """Rows of the global batch, over all hosts."""
        ...

    @property
    def epoch_images(self) -> int:
        """Rows after which the sampler starts over with a new order."""
        ...

    def rows(self, step: int, start: int, stop: int) -> np.ndarray:
        """Image indices, int64 [stop − start], of rows start … stop − 1 of batch `step`."""
        ...


class Shuffled:
    """Every image once in each epoch, in a new order each time.

    Batches cross the end of an epoch, so no image is left out and all batches have the same size.

    Args:
      num_images: N.
      batch_size: rows of the global batch.
      seed: any integer.
    """

    def __init__(self, num_images: int, batch_size: int, seed: int):
        check_sizes(num_images, batch_size)
        self.batch_size = batch_size
        self.epoch_images = num_images
        self._order = _EndlessShuffle(num_images, seed)
        self._seed = seed

    def __repr__(self) -> str:
        return f"Shuffled(batch_size={self.batch_size}, seed={self._seed})"

    def rows(self, step: int, start: int, stop: int) -> np.ndarray:
        """The shuffled order of the epoch, or the two epochs, that these rows lie in."""
        return self._order(step * self.batch_size + np.arange(start, stop))


class Balanced:
    """P identities with K images each in every batch, for losses over pairs or triplets.

    Identities come in a new shuffled order each epoch, never twice in one batch. Visits to an
    identity go through its images in shuffled order; one with fewer than K images repeats them.

    Args:
      labels: int [N], as in `FaceSource.labels`.
      identities: P, identities in the global batch.
      images: K, images of each.
      seed: any integer.

    Raises:
      InputError: there are fewer than P identities.

    References: Hermans et al., In Defense of the Triplet Loss for Person Re-Identification
    (arXiv:1703.07737), section 3.1.
    """

    def __init__(self, labels: np.ndarray, identities: int, images: int, seed: int):
        self._images = _ImagesByIdentity(labels, seed)
        if min(identities, images) < 1 or identities > self._images.num_identities:
            raise InputError(
                f"identities = {identities}, images = {images}: a batch needs at least 1 of each, "
                f"and no more identities than the {self._images.num_identities} there are"
            )
        self._per_batch, self._each = identities, images
        self._identities = _EndlessShuffle(self._images.num_identities, seed + 1)
        self._batches_per_epoch = self._images.num_identities // identities
        self.batch_size = identities * images
        self.epoch_images = self._batches_per_epoch * self.batch_size
        self._seed = seed

    def __repr__(self) -> str:
        return f"Balanced(identities={self._per_batch}, images={self._each}, seed={self._seed})"

    def rows(self, step: int, start: int, stop: int) -> np.ndarray:
        """The images of each identity's visit in this batch, identity by identity."""
        epoch, batch = divmod(step, self._batches_per_epoch)
        first = epoch * self._images.num_identities + batch * self._per_batch
        slots = np.arange(start // self._each, -(-stop // self._each))
        chosen = [
            self._images.visit(int(identity), epoch, self._each)
            for identity in self._identities(first + slots)
        ]
        skipped = start - slots[0] * self._each if len(slots) else 0
        return np.concatenate([np.empty(0, np.int64), *chosen])[skipped : skipped + stop - start]


class Capped:
    """Every identity at most `cap` times in each epoch, in a new order each time.

    Otherwise identities with thousands of images make up most of an epoch. With n > `cap` images,
    each epoch takes another part; after n // cap epochs they are reshuffled.

    Args:
      labels: int [N], as in `FaceSource.labels`.
      cap: images of one identity in an epoch.
      batch_size: rows of the global batch.
      seed: any integer.
    """

    def __init__(self, labels: np.ndarray, cap: int, batch_size: int, seed: int):
        if cap < 1:
            raise InputError(f"cap = {cap}: at least 1 image of each identity is needed")
        self._images = _ImagesByIdentity(labels, seed)
        self._cap = cap
        taken = np.minimum(self._images.counts, cap)
        self._ends = np.cumsum(taken)
        check_sizes(int(self._ends[-1]), batch_size)
        self.batch_size = batch_size
        self.epoch_images = int(self._ends[-1])
        self._order = _EndlessShuffle(self.epoch_images, seed + 1)
        self._seed = seed

    def __repr__(self) -> str:
        return f"Capped(cap={self._cap}, batch_size={self.batch_size}, seed={self._seed})"

    def rows(self, step: int, start: int, stop: int) -> np.ndarray:
        """The shuffled order over the min(count, cap) images that each identity has."""
        positions = step * self.batch_size + np.arange(start, stop)
        slots = self._order(positions)
        identities = np.searchsorted(self._ends, slots, side="right")
        within = (
            slots - self._ends[identities] + np.minimum(self._images.counts[identities], self._cap)
        )
        epochs = positions // self.epoch_images
        rows = zip(identities, epochs, within, strict=True)
        return np.array(
            [
                self._images.visit(int(who), int(epoch), self._cap)[which]
                for who, epoch, which in rows
            ],
            np.int64,
        )


class _ImagesByIdentity:
    """Each identity's images, dealt out a few at a time in an endless shuffled order."""

    def __init__(self, labels: np.ndarray, seed: int):
        labels = np.asarray(labels)
        self.num_identities = int(labels.max()) + 1 if len(labels) else 0
        self.counts = np.bincount(labels, minlength=self.num_identities)
        if not self.num_identities or self.counts.min() == 0:
            empty = int(np.argmin(self.counts)) if self.num_identities else 0
            raise InputError(
                f"label {empty} has no image; renumber the labels (subset.Subset does)"
            )
        self._by_label = np.argsort(labels, kind="stable")
        self._starts = np.cumsum(self.counts) - self.counts
        self._seed = seed
        self._shuffled = Recent(self._shuffle, 8192)

    def visit(self, identity: int, visit: int, images: int) -> np.ndarray:
        """The min(count, images) images of visit number `visit`, repeated up to `images`.

        A pass shuffles the identity's images and cuts them into parts of `images`; it leaves out
        the remainder, so that no part contains an image twice.
        """
        parts = max(int(self.counts[identity]) // images, 1)
        turn, part = divmod(visit, parts)
        order = self._shuffled(identity, turn)[part * images : (part + 1) * images]
        return order if len(order) == images else np.resize(order, images)

    def _shuffle(self, identity: int, turn: int) -> np.ndarray:
        start = self._starts[identity]
        own = self._by_label[start : start + self.counts[identity]]
        return np.random.default_rng((self._seed & 0xFFFFFFFF, identity, turn)).permutation(own)


class _EndlessShuffle:
    """Positions → values in [0, length), a new permutation every `length` positions."""

    def __init__(self, length: int, seed: int):
        self._length, self._seed = length, seed & 0xFFFFFFFFFFFFFFFF
        self._permutation = Recent(self._permute, 2)  # a batch can lie in two epochs

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        epochs, within = np.divmod(positions, self._length)
        values = np.empty(len(positions), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            values[here] = self._permutation(int(epoch))[within[here]]
        return values

    def _permute(self, epoch: int) -> np.ndarray:
        order = np.arange(self._length, dtype=np.int64 if self._length > 2**31 else np.int32)
        np.random.default_rng((self._seed, epoch)).shuffle(order)
        return order


class Recent:
    """The last results of a function; each is made once, also for threads that ask together.

    Pickling leaves the results out.

    Args:
      make: the function.
      size: results kept.
    """

    def __init__(self, make: Callable[..., Any], size: int):
        self.__setstate__((make, size))

    def __getstate__(self) -> tuple[Callable[..., Any], int]:
        return self._make, self._size

    def __setstate__(self, state: tuple[Callable[..., Any], int]) -> None:
        self._make, self._size = state
        self._kept: collections.OrderedDict[tuple[Any, ...], Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, *key: Any) -> Any:
        """The function's result for these arguments."""
        with self._lock:
            if key not in self._kept:
                while len(self._kept) >= self._size:  # before another takes memory
                    self._kept.popitem(last=False)
                self._kept[key] = self._make(*key)
            self._kept.move_to_end(key)
            return self._kept[key]


def check_sizes(num_images: int, batch_size: int) -> None:
    """Refuses a source without images, and a batch without rows."""
    if num_images < 1:
        raise InputError("the source has no images")
    if batch_size < 1:
        raise InputError(f"batch_size = {batch_size}: at least 1 is needed")
