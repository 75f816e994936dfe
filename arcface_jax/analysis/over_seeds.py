"""Summarises an experiment over seeds, and tests whether two experiments differ."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from arcface_jax.arguments import check_between
from arcface_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Summary:
    """A figure over seeds.

    Attributes:
      mean: over seeds.
      deviation: standard deviation of the seeds (ddof 1); NaN for one seed.
      median: over seeds.
      low: the lowest.
      high: the highest.
      count: how many seeds.
    """

    mean: float
    deviation: float
    median: float
    low: float
    high: float
    count: int


def summarise(values: Sequence[float] | np.ndarray) -> Summary:
    """Mean, deviation and range of a figure over seeds.

    Args:
      values: [n], n ≥ 1, one per seed.

    Raises:
      InputError: there are none, or one is not finite.
    """
    array = _finite("values", values)
    deviation = float(array.std(ddof=1)) if len(array) > 1 else float("nan")
    middle = float(np.median(array))
    return Summary(
        float(array.mean()), deviation, middle, float(array.min()), float(array.max()), len(array)
    )


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """First − second, seed by seed.

    Attributes:
      mean: of the differences.
      low: lower end of the t interval of the mean.
      high: upper end.
      p_value: two-sided, of a paired t test.
      wins: seeds where the first is ahead.
      count: seeds.
    """

    mean: float
    low: float
    high: float
    p_value: float
    wins: int
    count: int

    @property
    def verdict(self) -> str:
        """ "significant" if the interval leaves out zero, else "noise"."""
        return "significant" if self.low > 0 or self.high < 0 else "noise"


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> PairedDifference:
    """Whether one experiment is ahead of another, over the seeds they share.

    A seed decides the people, the split, the pairs and the initial weights, so runs of one seed
    rise and fall together. The test is of the mean difference: t = d̄ / (s_d / √n) with n − 1
    degrees of freedom. With three seeds only a difference of 2.5 deviations or more is significant
    at 5 %.

    Args:
      first: [n], n ≥ 2, one per seed.
      second: [n], of the same seeds in the same order.
      confidence: of the interval.

    Raises:
      InputError: not one value per seed, fewer than two seeds, or a value that is not finite.
    """
    check_between("confidence", confidence, 0.0, 1.0, open_low=True)
    differences = _finite("first", first), _finite("second", second)
    if differences[0].shape != differences[1].shape or len(differences[0]) < 2:
        raise InputError(
            f"first, second: {len(differences[0])} and {len(differences[1])} values; give one of "
            "each of two seeds or more, the same for both"
        )
    difference = differences[0] - differences[1]
    count, mean = len(difference), float(difference.mean())
    error = float(difference.std(ddof=1)) / count**0.5
    wins = int(np.count_nonzero(difference > 0))
    if error == 0.0:
        return PairedDifference(mean, mean, mean, 1.0 if mean == 0.0 else 0.0, wins, count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return PairedDifference(mean, mean - half, mean + half, p_value, wins, count)


@dataclasses.dataclass(frozen=True)
class Order:
    """How well two lists agree on the order of the same items.

    Attributes:
      tau: Kendall's τ-b, 1 for the same order, −1 for the reverse; NaN if all values of a list are
        equal.
      swapped: pairs (a, b) with a > b in the first list and a < b in the second.
      num_pairs: of items, n(n − 1)/2.
    """

    tau: float
    swapped: tuple[tuple[str, str], ...]
    num_pairs: int


def compare_order(first: Mapping[str, float], second: Mapping[str, float]) -> Order:
    """Compares how two lists order the items they share, by value.

    References: Kendall, A new measure of rank correlation (Biometrika 1938).

    Raises:
      InputError: they have fewer than two names in common.
    """
    names = [name for name in first if name in second]
    if len(names) < 2:
        raise InputError(f"first, second: {len(names)} names in both; an order needs at least two")
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    swapped = tuple(
        (a, b) if first[a] > first[b] else (b, a)
        for a, b in pairs
        if (first[a] - first[b]) * (second[a] - second[b]) < 0
    )
    ties = [len({values[name] for name in names}) == 1 for values in (first, second)]
    ordered = [[values[name] for name in names] for values in (first, second)]
    tau = float("nan") if any(ties) else float(stats.kendalltau(*ordered).statistic)
    return Order(tau, swapped, len(pairs))


def _finite(name: str, values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise InputError(
            f"{name} is {array.tolist()}; give one finite number for each seed, at least one"
        )
    return array
