"""Pairs of images for verification: all pairs, or a drawn list in LFW-style folds."""

import dataclasses
import heapq
import logging
from collections.abc import Callable

import numpy as np

from arcface_jax.command_name import command
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, printable


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A list of image pairs.

    Attributes:
      first: int64 [P], index of each pair's first image.
      second: int64 [P], of its second.
      same: bool [P], whether both show one identity.
      num_folds: the list has this many contiguous parts of equal length, each half same and half
        different; 1 without folds.
      disjoint_folds: whether no identity occurs in two folds.
    """

    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    num_folds: int = 1
    disjoint_folds: bool = True

    def __len__(self) -> int:
        """The number of pairs, P."""
        return len(self.same)


def check_listed(
    pairs: Pairs,
    what: str,
    place: Callable[[int], str],
    labels: np.ndarray | None = None,
    kind: str = "image",
) -> Pairs:
    """Refuses a list of pairs that contradicts itself, and warns about oddities.

    The logger arcface_jax warns how many pairs are repeated, in either order, pair an image with
    itself, or contradict the labels. They stay in the list.

    Args:
      pairs: P pairs.
      what: the list, for messages.
      place: pair → its place, such as "pairs.txt line 3".
      labels: int [N], the identity of each image, where it is known.
      kind: what the pairs are of.

    Returns: `pairs`.

    Raises:
      InputError: a pair is listed as both same and different, or an image as different from itself.
    """
    first, second, same = pairs.first, pairs.second, pairs.same
    itself = first == second
    if (itself & ~same).any():
        at = int(np.argmax(itself & ~same))
        raise InputError(
            f"{place(at)}: is of one {kind} with itself, and called different; remove it"
        )
    low, high = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((high, low))  # stable: equal pairs stay in the list's order
    equal = (low[order][1:] == low[order][:-1]) & (high[order][1:] == high[order][:-1])
    before, again = order[:-1][equal], order[1:][equal]
    contrary = same[before] != same[again]
    if contrary.any():
        at = int(np.argmin(np.where(contrary, again, len(same))))
        kinds = ("same", "different") if same[again[at]] else ("different", "same")
        raise InputError(
            f"{place(int(again[at]))}: calls a pair {kinds[0]} that is {kinds[1]} in "
            f"{place(int(before[at]))}; remove one of them"
        )
    swapped = int((first[before] != first[again]).sum())
    repeated = np.zeros(len(same), bool)
    repeated[again] = True
    _say(
        repeated,
        what,
        f"pairs that are in the list before ({swapped} with the {kind}s swapped)",
        place,
    )
    _say(itself, what, f"pairs of one {kind} with itself", place)
    if labels is not None:
        wrong = (labels[first] == labels[second]) != same
        _say(
            wrong,
            what,
            f"pairs that contradict the identities of their {kind}s ({(wrong & same).sum()} called "
            f"same of two identities, {(wrong & ~same).sum()} called different of one)",
            place,
        )
    return pairs


def _say(which: np.ndarray, what: str, kind: str, place: Callable[[int], str]) -> None:
    if which.any():
        text = (
            f"{what}: {kind}: {which.sum()} of {len(which)}, the first is "
            f"{place(int(np.argmax(which)))}; they count"
        )
        logging.getLogger("arcface_jax").warning(printable(text))


def kept_pairs(pairs: Pairs, kept: np.ndarray, num_images: int) -> Pairs:
    """The pairs whose images are both kept, renumbered.

    Args:
      pairs: of images 0 … num_images − 1.
      kept: int [K], which images are kept, ascending.
      num_images: N.

    Returns: as many folds as before, of equal length; if pairs are lost, folds begin at other
      pairs.
    """
    row = np.full(num_images, -1)
    row[kept] = np.arange(len(kept))
    first, second = row[pairs.first], row[pairs.second]
    both = (first >= 0) & (second >= 0)
    disjoint = pairs.disjoint_folds and bool(both.all())
    return Pairs(first[both], second[both], pairs.same[both], pairs.num_folds, disjoint)


def check_folds(same: np.ndarray, num_folds: int) -> None:
    """Refuses a list whose folds cannot be verified.

    Args:
      same: bool [P], whether both images of each pair show one identity.
      num_folds: contiguous folds.

    Raises:
      InputError: all pairs are of one kind, they do not form `num_folds` equal parts, or a part has
        only one kind.
    """
    if same.all() or not same.any():
        kind, other = ("one person", "different people")[:: 1 if same.all() else -1]
        raise InputError(
            f"all {number_of(len(same), 'pair', 'are')} of {kind}; add pairs of {other}"
        )
    if num_folds < 1 or len(same) % num_folds:
        raise InputError(
            f"{number_of(len(same), 'pair')} cannot be {num_folds} equal folds; leave out "
            f"{len(same) % max(num_folds, 1)} of them, or score them with {command('evaluate')} "
            "--folds"
        )
    check_both_kinds(np.arange(len(same)) // (len(same) // num_folds), same, num_folds)


def check_both_kinds(folds: np.ndarray, same: np.ndarray, num_folds: int) -> None:
    """Refuses folds in which TAR or FAR would be 0/0."""
    for kind, mask in (("same", same), ("different", ~same)):
        counts = np.bincount(folds[mask], minlength=num_folds)
        if (counts == 0).any():
            raise InputError(
                f"fold {int(np.argmin(counts)) + 1} of {num_folds} holds no {kind} pair; "
                "order the pairs so that each fold has both kinds, or use fewer folds"
            )


def all_pairs(labels: np.ndarray) -> Pairs:
    """All N(N − 1)/2 pairs of different images, in the order (0, 1), (0, 2) … (N − 2, N − 1).

    Args:
      labels: int [N], the identity of each image.
    """
    labels = _check_labels(labels)
    first, second = np.triu_indices(len(labels), k=1)
    return Pairs(first, second, labels[first] == labels[second])


def same_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every unordered pair of images of one identity, without listing the others.

    Args:
      labels: int [N], the identity of each image.

    Returns: (first, second), int64 indices, first < second, identity by identity.
    """
    blocks = _Blocks.of(_check_labels(labels))
    parts = [
        start + np.stack(np.triu_indices(size, k=1))
        for start, size in zip(blocks.starts, blocks.sizes, strict=True)
    ]
    positions = np.concatenate(parts, axis=1)
    return blocks.images[positions[0]], blocks.images[positions[1]]


def draw_pairs(labels: np.ndarray, num_pairs: int, seed: int, num_folds: int = 10) -> Pairs:
    """Draws a balanced list of pairs, in contiguous folds as LFW has them.

    Each fold holds as many same as different pairs, the same ones first. No pair occurs twice in
    either order, and no image is paired with itself. Same pairs spread over identities as evenly as
    their images allow; different pairs take two random identities, then an image of each. So
    identities with many images do not dominate.

    Folds have disjoint identities if each fold can then get its share of distinct pairs; otherwise
    all folds draw from all identities (see `disjoint_folds`). Equal arguments give equal pairs.

    Args:
      labels: int [N], the identity of each image.
      num_pairs: how many pairs are wanted. The list is shorter if the data have fewer distinct
        pairs, and always a multiple of 2 · num_folds.
      seed: of the draw.
      num_folds: number of folds.

    Raises:
      InputError: there is only one identity, no identity has two images, or there is less than one
        same and one different pair per fold.
    """
    labels = _check_labels(labels)
    if num_folds < 1:
        raise InputError(f"num_folds: {num_folds}; give at least 1")
    blocks = _Blocks.of(labels)
    if len(blocks.sizes) < 2:
        raise InputError(
            "labels: there is one identity only, so no different pairs; give at least two "
            "identities"
        )
    if blocks.num_same_pairs == 0:
        raise InputError(
            "labels: no identity has two images, so there are no same pairs; add images"
        )
    available = min(num_pairs // 2, blocks.num_same_pairs, blocks.num_different_pairs)
    per_fold = available // num_folds
    if per_fold < 1:
        raise InputError(
            f"num_pairs: {num_pairs} wanted in {number_of(num_folds, 'fold')}, but the data have "
            f"{blocks.num_same_pairs} same and "
            f"{number_of(blocks.num_different_pairs, 'different pair')} and each fold needs one of "
            "each; use fewer folds or more"
        )
    rng = np.random.default_rng(seed)
    parts = _disjoint_parts(blocks, num_folds, per_fold, rng)
    if parts is None:
        same = rng.permutation(blocks.draw_same(per_fold * num_folds, rng)).reshape(
            num_folds, per_fold, 2
        )
        different = blocks.draw_different(per_fold * num_folds, rng).reshape(num_folds, per_fold, 2)
    else:
        same = np.stack([part.draw_same(per_fold, rng) for part in parts])
        different = np.stack([part.draw_different(per_fold, rng) for part in parts])
    pairs = np.concatenate([same, different], axis=1).reshape(-1, 2)
    is_same = np.tile(np.arange(2 * per_fold) < per_fold, num_folds)
    return Pairs(
        pairs[:, 0].copy(),
        pairs[:, 1].copy(),
        is_same,
        num_folds,
        num_folds == 1 or parts is not None,
    )


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Images sorted by identity: identity k has images[starts[k] : starts[k] + sizes[k]]."""

    images: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @staticmethod
    def of(labels: np.ndarray) -> "_Blocks":
        _, starts, sizes = np.unique(np.sort(labels), return_index=True, return_counts=True)
        return _Blocks(np.argsort(labels, kind="stable"), starts, sizes)

    def part(self, identities: np.ndarray) -> "_Blocks":
        """The blocks of some identities only."""
        sizes = self.sizes[identities]
        images = [self.images[self.starts[k] : self.starts[k] + self.sizes[k]] for k in identities]
        return _Blocks(np.concatenate(images), np.cumsum(sizes) - sizes, sizes)

    @property
    def same_capacity(self) -> np.ndarray:
        return self.sizes * (self.sizes - 1) // 2

    @property
    def num_same_pairs(self) -> int:
        return int(self.same_capacity.sum())

    @property
    def num_different_pairs(self) -> int:
        return int((self.sizes.sum() ** 2 - (self.sizes**2).sum()) // 2)

    def draw_same(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` distinct same pairs [count, 2], spread evenly over the identities."""
        drawn = []
        for identity, share in enumerate(_even_shares(self.same_capacity, count, rng)):
            if share:
                ranks = rng.choice(
                    self.same_capacity[identity], share, replace=False, shuffle=False
                )
                upper, lower = np.triu_indices(self.sizes[identity], k=1)
                drawn.append(self.starts[identity] + np.stack([upper[ranks], lower[ranks]], axis=1))
        return self.images[rng.permutation(np.concatenate(drawn))]

    def draw_different(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """`count` distinct different pairs [count, 2].

        A pair of positions i < j in two blocks has a rank: the pairs of earlier i, plus j's place
        after the end of i's block. Identities are drawn uniformly while that finds new pairs; the
        rest is drawn uniformly from the remaining pairs.
        """
        ends = np.repeat(self.starts + self.sizes, self.sizes)
        partners = len(self.images) - ends
        before = np.cumsum(partners) - partners
        ranks = np.empty(0, np.int64)
        for _ in range(8):
            one = rng.integers(len(self.sizes), size=count)
            other = (one + rng.integers(1, len(self.sizes), size=count)) % len(self.sizes)
            low, high = np.minimum(one, other), np.maximum(one, other)
            i = self.starts[low] + rng.integers(self.sizes[low])
            j = self.starts[high] + rng.integers(self.sizes[high])
            ranks = _distinct(np.concatenate([ranks, before[i] + j - ends[i]]))[:count]
        if len(ranks) < count:
            spare = rng.choice(self.num_different_pairs, count, replace=False)
            ranks = _distinct(np.concatenate([ranks, spare]))[:count]
        i = np.searchsorted(before + partners, ranks, side="right")
        pairs = np.stack([self.images[i], self.images[ends[i] + ranks - before[i]]], axis=1)
        # Else the first image would always be of the earlier identity.
        swapped = rng.random(count) < 0.5
        return np.where(swapped[:, None], pairs[:, ::-1], pairs)


def _distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, in the order of their first occurrence."""
    return values[np.sort(np.unique(values, return_index=True)[1])]


def _even_shares(capacity: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Divides `count` as evenly as the capacities allow; the remainder goes to random ones."""
    low, high = 0, int(capacity.max())
    while low < high:  # the largest level whose total does not exceed count
        level = (low + high + 1) // 2
        low, high = (
            (level, high) if np.minimum(capacity, level).sum() <= count else (low, level - 1)
        )
    shares = np.minimum(capacity, low)
    open_to_more = np.flatnonzero(capacity > low)
    shares[rng.permutation(open_to_more)[: count - int(shares.sum())]] += 1
    return shares


def _disjoint_parts(
    blocks: _Blocks, num_folds: int, per_fold: int, rng: np.random.Generator
) -> list[_Blocks] | None:
    """Divides the identities among folds that can give `per_fold` pairs of both kinds, or None.

    Identities go one by one, most same pairs first, to the fold with the fewest same pairs so far;
    those with a single image go to the fold with the fewest images.
    """
    order = rng.permutation(len(blocks.sizes))
    order = order[np.argsort(-blocks.same_capacity[order], kind="stable")]
    members: list[list[int]] = [[] for _ in range(num_folds)]
    images = [0] * num_folds
    for load, identities in (
        (blocks.same_capacity, order[blocks.same_capacity[order] > 0]),
        (blocks.sizes, order[blocks.same_capacity[order] == 0]),
    ):
        heap = [
            (0 if load is blocks.same_capacity else images[fold], fold) for fold in range(num_folds)
        ]
        heapq.heapify(heap)
        for identity in identities.tolist():
            loaded, fold = heapq.heappop(heap)
            members[fold].append(identity)
            images[fold] += int(blocks.sizes[identity])
            heapq.heappush(heap, (loaded + int(load[identity]), fold))
    if not all(members):
        return None
    parts = [blocks.part(np.array(fold_members)) for fold_members in members]
    enough = all(min(part.num_same_pairs, part.num_different_pairs) >= per_fold for part in parts)
    return parts if enough else None


def _check_labels(labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"labels: shape {labels.shape}, dtype {labels.dtype}; give a non-empty vector of "
            "integers"
        )
    return labels
