"""Identification rates: rank-k and CMC for known people, TPIR at FPIR when some are unknown.

All come from a `search.Search`. Ties count against the probe, so a network that maps everyone to
one point does not score rank 1.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings
from arcface_jax.evaluation.roc import Roc, Rule, roc_from_kinds, tar_at_far
from arcface_jax.evaluation.scoring import HighestScores, score_tiles
from arcface_jax.evaluation.search import Search


def cumulative_match(search: Search, max_rank: int = 20) -> np.ndarray:
    """CMC: the share of enrolled probes whose best mate has rank ≤ k, for k = 1 … max_rank.

    Returns: float64 [max_rank].
    """
    if max_rank < 1:
        raise InputError(f"max_rank: {max_rank}; give at least 1")
    ranks = search.rank[search.enrolled]
    if len(ranks) == 0:
        raise InputError(
            "search: no probe has a mate in the gallery, so ranks mean nothing; check the labels"
        )
    counts = np.bincount(np.minimum(ranks, max_rank + 1), minlength=max_rank + 2)
    return np.cumsum(counts[1 : max_rank + 1]) / len(ranks)


def open_set_roc(search: Search, max_rank: int = 1) -> Roc:
    """TPIR against FPIR, as a ROC: `far` is FPIR, `tar` is TPIR and `frr` is FNIR.

        FPIR(t) = share of probes of unknown people with any entry at score ≥ t
        TPIR(t) = share of probes of enrolled people whose mate has rank ≤ max_rank and score ≥ t

    Raises:
      InputError: no probe shows an unknown person, or none shows an enrolled person.

    References: Grother & Ngan, FRVT: Performance of Face Identification Algorithms (NIST IR 8009).
    """
    unknown, enrolled = ~search.enrolled, search.enrolled
    if not unknown.any() or not enrolled.any():
        kind = "unknown" if not unknown.any() else "enrolled"
        raise InputError(
            f"search: no probe is of an {kind} person, so TPIR at FPIR is undefined; add such "
            "probes"
        )
    found = enrolled & (search.rank <= max_rank)
    return roc_from_kinds(
        search.mate[found], search.impostor[unknown], num_same=int(enrolled.sum())
    )


@dataclasses.dataclass(frozen=True)
class IdentificationResult:
    """What a table of identification shows.

    Attributes:
      rank: rate of enrolled probes with the mate among the first k, for each k asked for.
      tpir: rank-1 TPIR at each FPIR asked for; empty if every probe is enrolled.
      num_enrolled: probes with a mate.
      num_unknown: probes without.
    """

    rank: Mapping[int, float]
    tpir: Mapping[float, float]
    num_enrolled: int
    num_unknown: int

    def numbers(self) -> dict[str, float]:
        """The result as flat names and numbers, for logs and tables."""
        named = {f"rank-{k}": value for k, value in self.rank.items()}
        named |= {f"tpir@fpir={fpir:g}": value for fpir, value in self.tpir.items()}
        return named | {"num_enrolled": self.num_enrolled, "num_unknown": self.num_unknown}


def identify(
    search: Search,
    *,
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (0.01, 0.1),
    rule: Rule = "nearest",
) -> IdentificationResult:
    """The usual numbers of one search; TPIR only if some probes are unknown people."""
    curve = cumulative_match(search, max(ranks))
    num_unknown = int((~search.enrolled).sum())
    tpir = {}
    if num_unknown:
        roc = open_set_roc(search)
        tpir = {fpir: tar_at_far(roc, fpir, rule) for fpir in fpirs}
    return IdentificationResult(
        {k: float(curve[k - 1]) for k in ranks}, tpir, int(search.enrolled.sum()), num_unknown
    )


def mean_of_galleries(results: Sequence[IdentificationResult]) -> IdentificationResult:
    """IJB's 1:N figure: the mean of each rate over the galleries; probe counts are summed."""
    if not results:
        raise InputError("results: none given; give one per gallery")
    first = results[0]
    if any(
        r.rank.keys() != first.rank.keys() or r.tpir.keys() != first.tpir.keys() for r in results
    ):
        raise InputError(
            "results: they hold different ranks or FPIRs; compute each gallery with the same ones"
        )
    return IdentificationResult(
        {k: float(np.mean([r.rank[k] for r in results])) for k in first.rank},
        {fpir: float(np.mean([r.tpir[fpir] for r in results])) for fpir in first.tpir},
        sum(r.num_enrolled for r in results),
        sum(r.num_unknown for r in results),
    )


def published_tpir(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    probes: np.ndarray,
    probe_labels: np.ndarray,
    fpirs: Sequence[float] = (0.01, 0.1),
) -> dict[float, float]:
    """TPIR at FPIR as the published IJB script counts it, for comparing with old tables.

    Its quirks: every probe is enrolled and has one mate. The threshold is the ⌈x·P⌉-th highest of
    *all* P(G − 1) non-mate scores, so one probe can cause several false positives. A mate must
    exceed it strictly, at any rank. The default, `open_set_roc`, counts each search of an unknown
    person once.

    Raises:
      InputError: a probe has no mate or several; the message gives the probe.
    """
    probes = check_embeddings(probes, "probes")
    gallery_labels, probe_labels = np.asarray(gallery_labels), np.asarray(probe_labels)
    mate_count = np.zeros(len(probes), np.int64)
    mate = np.zeros(len(probes), np.float32)
    allowed = {fpir: math.ceil(fpir * len(probes)) for fpir in fpirs}
    if min(allowed.values()) < 1 or max(allowed.values()) > len(probes) * (len(gallery) - 1):
        raise InputError(
            f"fpirs: {tuple(fpirs)}; give rates above 0 that the number of scores can show"
        )
    others = HighestScores(max(allowed.values()))
    for row, column, tile in score_tiles(probes, gallery):
        rows, columns = slice(row, row + tile.shape[0]), slice(column, column + tile.shape[1])
        mates = probe_labels[rows, None] == gallery_labels[None, columns]
        mate_count[rows] += mates.sum(axis=1)
        mate[rows] += np.where(mates, tile, 0).sum(axis=1)
        others.add(tile[~mates])
    if (mate_count != 1).any():
        probe = int(np.argmax(mate_count != 1))
        raise InputError(
            f"probe_labels: probe {probe} has {mate_count[probe]} mates; this rule needs exactly "
            "one"
        )
    highest = np.sort(others.values())[::-1]
    return {fpir: float(np.mean(mate > highest[count - 1])) for fpir, count in allowed.items()}
