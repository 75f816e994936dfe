"""MegaFace-style identification: one mate hidden among up to a million strangers."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from arcface_jax.data.pairs import same_pairs
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_length
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import search_candidates

TIE = 1e-6
"""Cosines this close are a tie: float32 products of equal embeddings can differ by rounding."""


@dataclasses.dataclass(frozen=True)
class DistractorResult:
    """Identification rates against growing numbers of distractors.

    Attributes:
      sizes: int [S], numbers of distractors.
      cmc: float64 [S, R], share of trials whose mate has rank ≤ 1 … R among these distractors.
      num_trials: ordered pairs of two images of one person.
    """

    sizes: np.ndarray
    cmc: np.ndarray
    num_trials: int

    @property
    def rank_1(self) -> np.ndarray:
        """float64 [S], the rank-1 rate at each number of distractors."""
        return self.cmc[:, 0]


def distractor_identification(
    probes: np.ndarray,
    probe_labels: np.ndarray,
    distractors: np.ndarray,
    *,
    sizes: Sequence[int] = (10, 100, 1_000, 10_000, 100_000, 1_000_000),
    max_rank: int = 10,
    devices: Sequence[jax.Device] | None = None,
) -> DistractorResult:
    """MegaFace's identification protocol (challenge 1).

    A trial takes an ordered pair of images of one person: the first is the probe, the second joins
    a gallery of distractors. The rank is 1 + the number of distractors that score at least as high;
    a tie, within `TIE`, counts against the probe. Size n means the first n distractors; permute
    them first for a random subset.

    Args:
      probes: [P, D], unit rows.
      probe_labels: int [P].
      distractors: [M, D], unit rows of people that no probe shows; may be a memory map.
      sizes: numbers of distractors, ascending; those above M are left out of the result.
      max_rank: length of the CMC.
      devices: the devices to divide the distractors over; the default device if None.

    References: Kemelmacher-Shlizerman et al., The MegaFace Benchmark (arXiv:1512.00596), §4.
    """
    probes = check_embeddings(probes, "probes")
    kept_sizes = [size for size in sizes if size <= len(distractors)]
    if not kept_sizes or list(kept_sizes) != sorted(set(kept_sizes)) or kept_sizes[0] < 1:
        raise InputError(
            f"sizes: {tuple(sizes)} of {len(distractors)} distractors; give ascending numbers "
            "within them"
        )
    check_length(probe_labels, len(probes), "probe_labels", "probes")
    first, second = same_pairs(np.asarray(probe_labels))
    if len(first) == 0:
        raise InputError(
            "probe_labels: no person has two images, so there is no mate to hide; add images"
        )
    mate = np.tile(score_pairs(probes, probes, first, second), 2) - TIE
    probe = np.concatenate([first, second])
    best = np.full((len(probes), max_rank), -np.inf, np.float32)  # highest distractor scores so far
    cmc = []
    for start, stop in zip([0, *kept_sizes[:-1]], kept_sizes, strict=True):
        found = search_candidates(
            distractors[start:stop], probes, min(max_rank, stop - start), devices=devices
        ).scores
        best = -np.sort(-np.concatenate([best, found], axis=1), axis=1)[:, :max_rank]
        # Beyond max_rank it is only known to be beyond.
        rank = 1 + (best[probe] >= mate[:, None]).sum(axis=1)
        cmc.append((rank[:, None] <= np.arange(1, max_rank + 1)).mean(axis=0))
    return DistractorResult(np.array(kept_sizes), np.array(cmc), len(mate))
