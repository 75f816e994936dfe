"""Retrieval: how often the nearest images have the same class.

Every figure follows from the ranks of a query's mates, the gallery entries of its class. A rank is
1 + the number of entries that score higher. Ties with another class count as higher, so a network
that maps everything to one point retrieves nothing. Queries without a mate do not count.

References:
  Musgrave et al., A metric learning reality check, arXiv:2003.08505, for R-precision and MAP@R.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_length
from arcface_jax.evaluation.scoring import score_tiles

SCORES_AT_ONCE = 2**25
"""Of the queries that are compared with the whole gallery together: 128 MiB."""

KS = (1, 5, 10)


@dataclasses.dataclass(frozen=True)
class Retrieval:
    """The results of Q queries; all 0 for a query without a mate.

    Attributes:
      labels: [Q], their classes.
      mates: int [Q], R, the gallery entries of the class, without the query itself.
      first_rank: int [Q], of the nearest mate.
      r_precision: [Q], share of mates among the R nearest.
      map_at_r: [Q], Σ i/r_i over the mates with rank r_i ≤ R, the i-th of them, over R.
      average_precision: [Q], the mean of i/r_i over all mates.
    """

    labels: np.ndarray
    mates: np.ndarray
    first_rank: np.ndarray
    r_precision: np.ndarray
    map_at_r: np.ndarray
    average_precision: np.ndarray

    def figures(self, ks: Sequence[int] = KS) -> dict[str, np.ndarray]:
        """By name, [Q]: recall@k (1 if a mate is among the k nearest), r_precision, map@r, map.

        Raises:
          InputError: a k below 1.
        """
        if min(ks, default=1) < 1:
            raise InputError(f"ks: {tuple(ks)}; give ranks from 1 on")
        found = self.mates > 0
        recalls = {f"recall@{k}": (found & (self.first_rank <= k)).astype(float) for k in ks}
        means = {"r_precision": self.r_precision, "map@r": self.map_at_r}
        return recalls | means | {"map": self.average_precision}

    def by_class(self, ks: Sequence[int] = KS) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(queries with a mate of each class [C], means over them by name [C]).

        Raises:
          InputError: no query has a mate.
        """
        counted = self.mates > 0
        if not counted.any():
            raise InputError("labels: no query has a mate in the gallery; check the labels")
        _, numbers = np.unique(self.labels[counted], return_inverse=True)
        counts = np.bincount(numbers)
        return counts, {
            name: np.bincount(numbers, values[counted]) / counts
            for name, values in self.figures(ks).items()
        }

    def numbers(self, ks: Sequence[int] = KS, *, macro: bool = False) -> dict[str, float]:
        """The figures as means over queries, or with `macro` as means of class means."""
        counts, means = self.by_class(ks)
        weights = np.ones(len(counts)) if macro else counts
        return {name: float(np.average(of, weights=weights)) for name, of in means.items()}

    def cmc(self, max_rank: int = 20) -> np.ndarray:
        """CMC, [max_rank]: recall@k of k = 1 … max_rank."""
        numbers = self.numbers(range(1, max_rank + 1))
        return np.array([numbers[f"recall@{k}"] for k in range(1, max_rank + 1)])


def retrieve(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray | None = None,
    gallery_labels: np.ndarray | None = None,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Retrieval:
    """Ranks every gallery entry for each query by cosine; holds a few queries' scores at once.

    Args:
      queries: [Q, D], unit rows.
      query_labels: [Q].
      gallery: [G, D], unit rows; read in slices, so it may be a memory map. Without one the queries
        are also the gallery, each left out of its own.
      gallery_labels: [G].
      devices: the devices to divide the products over; the default device if None.

    Raises:
      InputError: mismatched lengths, or a row that is NaN or not of unit norm.
    """
    queries = check_embeddings(queries, "queries")
    own = _labels_of(query_labels, len(queries), gallery, gallery_labels)
    entries = queries if gallery is None else gallery
    if np.ndim(entries) != 2 or entries.shape[1] != queries.shape[1] or len(entries) == 0:
        raise InputError(
            f"gallery: shape {np.shape(entries)}, queries {queries.shape}; give [G, D] and [Q, D]"
        )
    step, parts = max(1, SCORES_AT_ONCE // len(entries)), []
    for start in range(0, len(queries), step):
        rows = queries[start : start + step]
        tiles = score_tiles(rows, entries, devices=devices, row_chunk=len(rows))
        scores = np.concatenate([tile for _, _, tile in tiles], axis=1)
        parts.append(
            _ranked(
                scores, own[0][start : start + step], own[1], start if gallery is None else None
            )
        )
    return Retrieval(np.asarray(query_labels), *map(np.concatenate, zip(*parts, strict=True)))


def retrieve_scores(
    scores: np.ndarray, query_labels: np.ndarray, gallery_labels: np.ndarray | None = None
) -> Retrieval:
    """`retrieve` by any scores [Q, G], where higher means nearer, such as −`reranked`.

    Without gallery labels, scores are [Q, Q] between the queries, each left out of its own.

    Raises:
      InputError: mismatched lengths, or a score that is NaN.
    """
    scores = np.array(scores, dtype=np.result_type(scores, np.float32))
    own = _labels_of(query_labels, len(scores), gallery_labels, gallery_labels)
    if scores.shape != (len(own[0]), len(own[1])):
        raise InputError(f"scores: shape {scores.shape}; give {(len(own[0]), len(own[1]))}")
    if np.isnan(scores).any():
        row = int(np.argmax(np.isnan(scores).any(axis=1)))
        raise InputError(f"scores: row {row} holds NaN; remove or repair it")
    return Retrieval(
        np.asarray(query_labels), *_ranked(scores, *own, 0 if gallery_labels is None else None)
    )


def _labels_of(
    query_labels: np.ndarray, count: int, gallery: np.ndarray | None, labels: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Both label vectors in one numbering."""
    query_labels = check_length(query_labels, count, "query_labels", "queries")
    if (gallery is None) != (labels is None):
        raise InputError("gallery, gallery_labels: one is missing; give both, or none of them")
    if gallery is None or labels is None:
        _, numbers = np.unique(query_labels, return_inverse=True)
        return numbers, numbers
    labels = check_length(labels, len(gallery), "gallery_labels", "entries")
    _, numbers = np.unique(np.concatenate([query_labels, labels]), return_inverse=True)
    return numbers[:count], numbers[count:]


def _ranked(
    scores: np.ndarray, own: np.ndarray, labels: np.ndarray, first: int | None
) -> tuple[np.ndarray, ...]:
    """The arrays of a `Retrieval`; row i is the query that is entry first + i. Changes `scores`."""
    order = np.argsort(labels, kind="stable")
    ends = np.searchsorted(labels[order], [own, own + 1])
    found = np.zeros((5, len(own)))
    for i, row in enumerate(scores):
        mates = order[ends[0, i] : ends[1, i]]
        if first is not None:
            row[first + i] = -np.inf
            mates = mates[mates != first + i]
        if len(mates) == 0:
            continue
        ascending = np.sort(row[mates])
        row[mates] = -np.inf
        # Of the others, how many are at least as near as each mate.
        passed = np.searchsorted(ascending, row[row >= ascending[0]], side="right")
        above = np.cumsum(np.bincount(passed, minlength=len(mates) + 1)[::-1])[:-1]
        number = np.arange(1, len(mates) + 1)
        ranks = number + above
        precision, within = number / ranks, ranks <= len(mates)
        found[:, i] = (
            len(mates),
            ranks[0],
            within.mean(),
            precision[within].sum() / len(mates),
            precision.mean(),
        )
    return found[0].astype(np.int64), found[1].astype(np.int64), *found[2:]
