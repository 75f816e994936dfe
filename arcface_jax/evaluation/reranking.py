"""Re-ranking: distances that also compare the neighbours of two images."""

import numpy as np
from scipy import sparse

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings
from arcface_jax.evaluation.scoring import score_tiles
from arcface_jax.evaluation.search import search_candidates

MOST_DISTANCES = 400_000_000
"""That are held: of 20,000 images with each other, 1.6 GB."""


def reranked(
    queries: np.ndarray,
    gallery: np.ndarray | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    original: float = 0.3,
) -> np.ndarray:
    """Distances by k-reciprocal encoding: images with the same neighbours are near.

    An image's neighbours are those of its k1 nearest that have it among their own k1. A neighbour's
    own neighbours (by k1/2) join them if two thirds are already there. Each weighs e^−d, where d is
    2 − 2cos divided by the image's largest. Weights are averaged over the k2 nearest images. The
    distance of two images is λ·d + (1 − λ)·(1 − Σ min/Σ max of their weights), the latter
    Jaccard's.

    Args:
      queries: [Q, D], unit rows.
      gallery: [G, D], unit rows; the queries if None.
      k1, k2: numbers of neighbours, 1 or more; the paper's.
      original: λ in [0, 1], share of the original distance.

    Returns: float32 [Q, G], held in full: for some ten thousand images.

    Raises:
      InputError: a number out of range, or more distances than fit.

    References:
      Zhong et al., Re-ranking with k-reciprocal encoding, arXiv:1701.08398.
    """
    queries = check_embeddings(queries, "queries")
    every = queries
    if gallery is not None:
        every = np.concatenate([queries, check_embeddings(gallery, "gallery")])
    entries = slice(len(queries) if gallery is not None else 0, len(every))
    count = len(every)
    if not (1 <= k1 < count and 1 <= k2 <= count and 0 <= original <= 1):
        raise InputError(
            f"k1 {k1}, k2 {k2}, original {original:g}; give k1 from 1 to {count - 1}, k2 from 1 to "
            f"{count}, original in [0, 1]"
        )
    if len(queries) * (entries.stop - entries.start) > MOST_DISTANCES:
        raise InputError(f"queries: {len(queries)} by {entries.stop - entries.start} are too many")
    near = search_candidates(every, every, max(k1 + 1, k2))
    largest = np.zeros(count, np.float32)
    distances = np.empty((len(queries), entries.stop - entries.start), np.float32)
    for i, j, tile in score_tiles(every, every):
        rows = slice(i, i + len(tile))
        largest[rows] = np.maximum(largest[rows], (2 - 2 * tile).max(axis=1))
        first = max(0, entries.start - j)
        if i < len(queries) and first < tile.shape[1]:
            where = j + first - entries.start
            part = 2 - 2 * tile[: len(queries) - i, first:]
            distances[i : i + len(part), where : where + part.shape[1]] = part
    largest = np.maximum(largest, np.finfo(np.float32).tiny)
    distances /= largest[: len(queries), None]

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = near.indices[i, : k + 1]
        return forward[(near.indices[forward, : k + 1] == i).any(axis=1)]

    half = [reciprocal(i, round(k1 / 2)) for i in range(count)]
    starts, columns, weights = [0], [], []
    for i in range(count):
        core = reciprocal(i, k1)
        more = [half[j] for j in core if np.isin(half[j], core).sum() > 2 / 3 * len(half[j])]
        own = np.unique(np.concatenate([core, *more]))
        away = (2 - 2 * (every[own] @ every[i])) / largest[i]
        weight = np.exp(-away)
        columns.append(own)
        weights.append(weight / weight.sum())
        starts.append(starts[-1] + len(own))
    joined = np.concatenate(weights), np.concatenate(columns), starts
    encoded = sparse.csr_array(joined, shape=(count, count))
    if k2 > 1:
        each = np.repeat(np.arange(count), k2)
        nearest = (np.full(count * k2, 1 / k2), (each, near.indices[:, :k2].ravel()))
        encoded = sparse.csr_array(nearest, shape=(count, count)) @ encoded
    of_entries = sparse.csc_array(encoded[entries])
    for i, row in enumerate(distances):
        shared = np.zeros(len(row), np.float32)
        mine = slice(encoded.indptr[i], encoded.indptr[i + 1])
        for column, weight in zip(encoded.indices[mine], encoded.data[mine], strict=True):
            holders = slice(of_entries.indptr[column], of_entries.indptr[column + 1])
            shared[of_entries.indices[holders]] += np.minimum(weight, of_entries.data[holders])
        row[:] = original * row + (1 - original) * (1 - shared / (2 - shared))
    return distances
