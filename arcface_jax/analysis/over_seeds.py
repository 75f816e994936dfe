"""Summarises an experiment over seeds, and tests whether two experiments differ."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from arcface_jax.arguments import check_between
from arcface_jax.counts import number_of
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


FEWEST_SEEDS = 3
"""Seeds from which a test is reported: of two, only a difference of nine deviations is significant.
"""

BEST, LEVEL, WORSE, TOO_FEW = "best", "not told apart", "worse", "too few seeds"
"""Where an experiment stands among several, by a test against the best of them."""


@dataclasses.dataclass(frozen=True)
class PairedDifference:
    """First − second, seed by seed.

    Attributes:
      mean: of the differences.
      low: lower end of the t interval of the mean.
      high: upper end.
      p_value: two-sided, of a paired t test; of a sign test where all differences are equal.
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
        """ "significant" for a p-value below 5 %, else "noise"; `TOO_FEW` below FEWEST_SEEDS."""
        if self.count < FEWEST_SEEDS:
            return TOO_FEW
        return "significant" if self.p_value < 0.05 else "noise"


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    confidence: float = 0.95,
) -> PairedDifference:
    """Whether one experiment is ahead of another, over the seeds they share.

    A seed decides the people, the split, the pairs and the initial weights, so runs of one seed
    rise and fall together. The test is of the mean difference: t = d̄ / (s_d / √n) with n − 1
    degrees of freedom. With three seeds only a difference of 2.5 deviations or more is significant
    at 5 %. Figures of few pairs are coarse, and differences often equal by chance: without a
    spread the p-value is that of n equal signs, 2^(1 − n).

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
    if error <= 1e-12 * max(float(np.abs(each).max()) for each in differences):
        p_value = 1.0 if abs(mean) <= 1e-12 else 2.0 ** (1 - count)
        return PairedDifference(mean, mean, mean, p_value, wins, count)
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * error
    p_value = float(2 * stats.t.sf(abs(mean) / error, count - 1))
    return PairedDifference(mean, mean - half, mean + half, p_value, wins, count)


class Standing(NamedTuple):
    """`BEST`, `LEVEL`, `WORSE` or `TOO_FEW`, and the p-value against the best: two-sided, after
    Holm, NaN for the best itself and for `TOO_FEW`.
    """

    verdict: str
    p_value: float


def standings(
    values: Mapping[str, Mapping[int, float]], *, lower_is_better: bool = False
) -> dict[str, Standing]:
    """Which experiments a paired t test at 5 % tells from the best one.

    The best has the best mean of those with FEWEST_SEEDS seeds or more. Each other one is tested
    against it over the seeds they share. Of k tests the i-th smallest p-value is multiplied by
    k − i + 1, which holds the chance of any wrong `WORSE` (Holm, A simple sequentially rejective
    multiple test procedure, 1979).

    Args:
      values: by experiment and seed.
      lower_is_better: whether they are errors.

    Raises:
      InputError: a value is not finite.
    """
    sign = -1.0 if lower_is_better else 1.0
    signed = {name: {seed: sign * one[seed] for seed in one} for name, one in values.items()}
    means = {
        name: summarise(list(one.values())).mean
        for name, one in signed.items()
        if len(one) >= FEWEST_SEEDS
    }
    found = dict.fromkeys(values, Standing(TOO_FEW, math.nan))
    if not means:
        return found
    best = max(means, key=means.__getitem__)
    found[best] = Standing(BEST, math.nan)
    tests = {}
    for name in means.keys() - {best}:
        shared = sorted(signed[best].keys() & signed[name].keys())
        if len(shared) >= FEWEST_SEEDS:
            first, second = ([signed[one][seed] for seed in shared] for one in (best, name))
            tests[name] = paired_difference(first, second)
    p_value = 0.0
    for rank, name in enumerate(sorted(tests, key=lambda one: tests[one].p_value)):
        p_value = max(p_value, min(1.0, (len(tests) - rank) * tests[name].p_value))
        worse = p_value < 0.05 and tests[name].mean > 0
        found[name] = Standing(WORSE if worse else LEVEL, p_value)
    return found


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
        raise InputError(
            f"first, second: {number_of(len(names), 'name')} in both; an order needs at least two"
        )
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
