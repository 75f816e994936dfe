"""All pairs of a set, or of probes and distractors: the whole ROC or its exact low-FAR end."""

import math
from collections.abc import Sequence

import jax
import numpy as np

from arcface_jax.evaluation.array_checks import check_embeddings, check_length
from arcface_jax.evaluation.roc import Roc, roc_from_kinds, tar_at_far
from arcface_jax.evaluation.scoring import HighestScores, score_tiles


def all_pairs_roc(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    keep: int = 10_000_000,
    devices: Sequence[jax.Device] | None = None,
) -> Roc:
    """The ROC of all N(N − 1)/2 pairs, streamed: no list of pairs, no score matrix.

    Keeps all scores of same pairs and the `keep` highest of different pairs. With no more different
    pairs than that the curve is complete; otherwise it is exact up to a FAR of about keep /
    #different and ends there.

    Args:
      embeddings: [N, D], unit rows.
      labels: int [N].
      keep: scores of different pairs to keep; 4 bytes each, briefly twice that.
      devices: the devices to divide the work over; the default device if None.
    """
    embeddings = check_embeddings(embeddings)
    labels = check_length(labels, len(embeddings), "labels", "embeddings")
    same_scores: list[np.ndarray] = []
    different = HighestScores(keep)
    for row, column, tile in score_tiles(embeddings, embeddings, upper=True, devices=devices):
        i = np.arange(row, row + tile.shape[0])[:, None]
        j = np.arange(column, column + tile.shape[1])[None, :]
        same = labels[i] == labels[j]
        ordered = i < j
        same_scores.append(tile[same & ordered])
        different.add(tile[~same & ordered])
    return roc_from_kinds(
        np.concatenate(same_scores), different.values(), num_different=different.count
    )


def all_pairs_tars(
    embeddings: np.ndarray,
    labels: np.ndarray,
    fars: Sequence[float],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> dict[float, float]:
    """Exact TAR at each false accept rate, over all N(N − 1)/2 pairs.

    Args:
      embeddings: [N, D], unit rows; at least two people, one of them with two images.
      labels: int [N].
      fars: false accept rates; rates below one in all different pairs are left out, as no pair can
        show them.
      devices: as in `all_pairs_roc`.
    """
    counts = np.unique(labels, return_counts=True)[1].astype(np.int64)
    num_different = int((counts.sum() ** 2 - (counts**2).sum()) // 2)
    told = [far for far in fars if far * num_different >= 1.0]
    if not told:
        return {}
    # A few more, for the curve ends above the lowest score that was kept.
    keep = min(num_different, math.ceil(1.01 * max(told) * num_different) + 1000)
    roc = all_pairs_roc(embeddings, labels, keep=keep, devices=devices)
    if not roc.complete and roc.far[-1] < max(told):  # more than those are as high
        roc = all_pairs_roc(embeddings, labels, keep=num_different, devices=devices)
    return {far: tar_at_far(roc, far) for far in told}


def distractor_roc(
    same_scores: np.ndarray,
    probes: np.ndarray,
    distractors: np.ndarray,
    *,
    keep: int = 10_000_000,
    devices: Sequence[jax.Device] | None = None,
) -> Roc:
    """MegaFace's verification: given scores of same pairs against every probe–distractor pair.

    Args:
      same_scores: [S], cosines of same pairs, e.g. from `scoring.score_pairs`.
      probes: [P, D], unit rows.
      distractors: [M, D], unit rows of people that no probe shows; may be a memory map.
      keep: scores of different pairs to keep, as in `all_pairs_roc`.
      devices: the devices to divide the work over; the default device if None.

    References: Kemelmacher-Shlizerman et al., The MegaFace Benchmark (arXiv:1512.00596), §4.
    """
    different = HighestScores(keep)
    for _, _, tile in score_tiles(probes, distractors, devices=devices):
        different.add(tile)
    return roc_from_kinds(same_scores, different.values(), num_different=different.count)
