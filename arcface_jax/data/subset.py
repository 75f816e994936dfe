"""A part of a source, several sources as one, and a split by identity, without copying images."""

import functools
import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from arcface_jax.counts import number_of
from arcface_jax.data.source import FaceSource, Pieces, places_of
from arcface_jax.data.sources.encoded import checked_index
from arcface_jax.errors import InputError, reason


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

    def pieces(self) -> Pieces | None:
        """Those of the source, in which there can be fewer images."""
        pieces = self.source.pieces()
        if pieces is None:
            return None
        return Pieces(pieces.of[self.indices], pieces.pool * len(self) // len(self.source))

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
            f"test_fraction = {test_fraction} of {number_of(count, 'identity')} leaves "
            f"{count - test_count} for training and {test_count} for testing; each side needs at "
            "least 2, so add identities or change test_fraction"
        )
    is_test = np.zeros(count, bool)
    is_test[np.random.default_rng(seed).permutation(count)[:test_count]] = True
    goes_to_test = is_test[np.asarray(source.labels)]
    return Subset(source, np.flatnonzero(~goes_to_test)), Subset(
        source, np.flatnonzero(goes_to_test)
    )


def split_fold(
    source: FaceSource,
    folds: int,
    fold: int,
    seed: int,
    *,
    by: Literal["classes", "images"] = "classes",
    groups: str | None = None,
) -> tuple[Subset, Subset]:
    """Holds out one of k folds, for cross-validation; the folds of a seed share no image.

    Args:
      source: images with labels.
      folds: k, 2 or more.
      fold: the one to hold out, 0 … k − 1.
      seed: selects who comes into which.
      by: hold out whole classes; or images of every class, of each class as many in each fold as
        can be. What is a class's only image (or group) is in no fold, and always trained on.
      groups: regular expression; images are of one group if the first match in their paths is the
        same, or its first parenthesis. A group is held out as a whole.

    Returns: (training subset, test subset), labels of each renumbered from 0.

    Raises:
      InputError: too few classes or images for so many folds, or a path without a match.
    """
    if folds < 2:
        raise InputError(f"folds: {folds}; give 2 or more")
    labels = np.asarray(source.labels)
    units = np.arange(len(source)) if groups is None else _groups(source, groups)
    if by == "classes":  # what a class or group joins is one unit
        count = len(source.identity_names)
        edges = (np.ones(len(labels)), (labels, count + units))
        size = count + int(units.max()) + 1
        units = connected_components(coo_array(edges, (size, size)), directed=False)[1][labels]
    units = np.unique(units, return_inverse=True)[1]
    pairs = np.unique(np.stack([labels, units]), axis=1)  # of a class and one of its units
    parts = np.bincount(pairs[0], minlength=len(source.identity_names))  # units of each class
    rng = np.random.default_rng(seed)
    held_in = np.full(int(units.max()) + 1, -1)
    if by == "classes":
        order = rng.permutation(len(held_in))
        order = order[np.argsort(-np.bincount(pairs[1])[order], kind="stable")]
        _deal(held_in, order, np.bincount(pairs[1]), folds)
    else:
        only = np.isin(np.arange(len(held_in)), pairs[1][parts[pairs[0]] == 1])
        starts = np.searchsorted(pairs[0], np.arange(len(parts) + 1))
        for own in rng.permutation(len(parts)):
            mine = rng.permutation(pairs[1][starts[own] : starts[own + 1]])
            _deal(held_in, mine[~only[mine]], np.ones(len(held_in)), folds, rng)
    test = held_in[units] == fold
    sides = [len(np.unique(labels[side])) for side in (~test, test)]
    if min(sides) < 2 or len(np.unique(held_in[held_in >= 0])) < folds:
        kind = "classes" if by == "classes" else "images of a class"
        raise InputError(
            f"folds: {folds} of {len(held_in):,} {'groups' if groups else kind} leave {sides[0]} "
            f"classes to train on and {sides[1]} to test; give fewer folds, or more {kind}"
        )
    few = np.flatnonzero((parts > 0) & (parts < folds))
    if by == "images" and len(few):
        what = "groups" if groups else "images"
        source.remark(
            f"{len(few):,} of {number_of(len(parts), 'class')}, such as "
            f"{source.identity_names[few[0]]}, have fewer {what} than the {folds} folds, and are "
            f"in some folds not tested; {int((parts == 1).sum()):,} have one, and are only "
            "trained on",
            "fewer than the folds",
        )
    return Subset(source, np.flatnonzero(~test)), Subset(source, np.flatnonzero(test))


def _deal(
    held_in: np.ndarray,
    units: np.ndarray,
    sizes: np.ndarray,
    folds: int,
    rng: np.random.Generator | None = None,
) -> None:
    """Puts each unit that is in no fold into the one with the least of these units."""
    mine = held_in[units]
    load = np.bincount(mine[mine >= 0], sizes[units[mine >= 0]], minlength=folds)
    first = np.zeros(folds) if rng is None else 0.5 * rng.random(folds)  # of those with as few
    for unit in units[mine < 0]:
        held_in[unit] = np.argmin(load + first)
        load[held_in[unit]] += sizes[unit]


def _groups(source: FaceSource, pattern: str) -> np.ndarray:
    """int [N], the group of each image."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise InputError(f"groups {pattern}: is no regular expression ({reason(error)})") from error
    names = []
    for place in places_of(source):
        if (found := expression.search(place)) is None:
            raise InputError(f"groups {pattern}: does not match {place}; every image needs a group")
        names.append(found[1 if expression.groups else 0] or "")
    return np.unique(names, return_inverse=True)[1]
