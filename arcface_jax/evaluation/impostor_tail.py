"""How rarely strangers look alike: a summary of the highest scores of different pairs."""

import dataclasses
import math

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_same, check_scores

_RANKS_A_DECADE = 20


@dataclasses.dataclass(frozen=True)
class ImpostorTail:
    """Some of the highest scores of different pairs, and how often a pair reaches them.

    Attributes:
      num_different: number of different pairs, n.
      accepted: int [K], ascending: how many of them reach the score.
      scores: float [K], descending.
    """

    num_different: int
    accepted: tuple[int, ...]
    scores: tuple[float, ...]

    def __post_init__(self) -> None:
        counts, scores = np.array(self.accepted), np.array(self.scores)
        if (
            not 0 < len(counts) == len(scores)
            or not 1 <= counts[0] <= counts[-1] <= self.num_different
            or not ((np.diff(counts) > 0).all() and (np.diff(scores) < 0).all())
            or not np.isfinite(scores).all()
        ):
            raise InputError(
                "accepted, scores: give ascending counts and descending scores, K each"
            )

    def rate(self, score: float) -> float:
        """The share of different pairs that score at least as high, rounded up to a kept rank; 0 if
        none does, which only means below 1/num_different.
        """
        reached = [
            count for count, kept in zip(self.accepted, self.scores, strict=True) if kept >= score
        ]
        if not reached:
            return 0.0
        after = self.accepted[len(reached) :]
        exact = self.scores[len(reached) - 1] == score
        return (reached[-1] if exact or not after else after[0] - 1) / self.num_different

    def threshold(self, far: float) -> float:
        """The lowest kept score that at most `far` of the different pairs reach.

        Raises:
          InputError: `far` is no rate, or so low that no pair may be accepted; the message says how
            many pairs are needed.
        """
        if not 0 < far < 1:
            raise InputError(f"far: {far}; give a false accept rate between 0 and 1")
        allowed = math.floor(far * self.num_different * (1 + 1e-12))
        within = [count for count in self.accepted if count <= allowed]
        if not within:
            raise InputError(
                f"{far:.3g} for each comparison is beyond what {self.num_different:,} different "
                f"pairs can tell; {math.ceil(1 / far - 1e-9):,} are needed at the least, and "
                f"{math.ceil(30 / far - 1e-9):,} to know it within 30 %"
            )
        return self.scores[len(within) - 1]

    def words(self, score: float, entries: int = 1) -> str:
        """How rarely a stranger scores this high with any of so many independent entries: "one in
        1,000", or "fewer than one in 1,000" where the sample ends.
        """
        rate = self.rate(score)
        among = at_least_once(rate or 1 / self.num_different, entries)
        if among > 0.5:
            return "most"
        return f"{'' if rate else 'fewer than '}one in {_rounded(1 / among):,}"


def at_least_once(rate: float, comparisons: int) -> float:
    """1 − (1 − rate)^comparisons: the chance of a false accept in independent comparisons."""
    return 1.0 if rate >= 1 else -math.expm1(comparisons * math.log1p(-rate))


def rate_of_each(rate: float, comparisons: int) -> float:
    """The rate of a single comparison for which `at_least_once` is `rate`."""
    if not 0 < rate < 1:
        raise InputError(f"far: {rate}; give a rate between 0 and 1")
    if comparisons == 1:  # not but for rounding
        return rate
    return -math.expm1(math.log1p(-rate) / comparisons)


def _rounded(number: float) -> int:
    """Rounds down to two digits, so as not to overstate how rare a score is."""
    unit = 10 ** max(0, math.floor(math.log10(number) + 1e-12) - 1)
    return math.floor(number / unit + 1e-9) * unit


def impostor_tail(scores: np.ndarray, same: np.ndarray) -> ImpostorTail:
    """The tail of a list of pairs: its highest score and twenty ranks per decade below it.

    Args:
      scores: [P], higher means more similar.
      same: [P] bool.

    Raises:
      InputError: there is no different pair.
    """
    scores = check_scores(scores)
    different = np.sort(scores[~check_same(same, len(scores))])[::-1]
    if not len(different):
        raise InputError("same: holds no different pair; nothing is known of strangers")
    decades = math.log10(len(different))
    steps = np.arange(math.ceil(decades * _RANKS_A_DECADE) + 1) / _RANKS_A_DECADE
    ranks = np.unique(np.minimum(np.round(10**steps), len(different)).astype(np.int64))
    # All pairs of the same score are accepted with it.
    kept = np.unique(different[ranks - 1])[::-1]
    accepted = len(different) - np.searchsorted(different[::-1], kept, side="left")
    return ImpostorTail(len(different), tuple(accepted.tolist()), tuple(kept.tolist()))
