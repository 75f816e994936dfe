"""Tables of runs over seeds, as Markdown and as numbers for JSON."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from arcface_jax.analysis.over_seeds import PairedDifference, paired_difference, summarise

Results = Mapping[int, Mapping[str, Any]]
"""Results of the runs of a case, by seed."""

COLUMNS = {"accuracy": "accuracy, %", "tar@far=0.001": "TAR at FAR 1e-3, %", "auc": "AUC, %"}
"""What tables of verification show: as results name it, and as a person reads it."""

BEFORE = "before training"


def last(results: Mapping[str, Any]) -> dict[str, float]:
    """The verification of the trained network."""
    verifications = results["verifications"]
    numbers: dict[str, float] = verifications[max(verifications, key=int)]
    return numbers


def by_seed(runs: Results, column: str, *, before: bool = False) -> dict[int, float]:
    """A figure of the last verification, or of that before training, by seed."""
    return {
        seed: (results["verifications"]["0"] if before else last(results))[column]
        for seed, results in runs.items()
    }


def percents(runs: Results, column: str, *, before: bool = False) -> list[float]:
    """The same in per cent, without the seeds."""
    return [100 * value for value in by_seed(runs, column, before=before).values()]


def mean_accuracies(cases: Mapping[str, Results]) -> dict[str, float]:
    """By case, of those that have runs."""
    named = {name: list(by_seed(runs, "accuracy").values()) for name, runs in cases.items() if runs}
    return {name: summarise(values).mean for name, values in named.items()}


def tests_by_name(tests: Mapping[tuple[str, str], PairedDifference]) -> dict[str, Any]:
    """Tests as plain values, for JSON."""
    return {f"{other} {column}": dataclasses.asdict(one) for (other, column), one in tests.items()}


def cell(values: Sequence[float], factor: float = 1.0, digits: int = 1) -> str:
    """Mean ± deviation over seeds; the mean alone for one seed; a dash for none."""
    if not values:
        return "–"
    summary = summarise(values)
    mean = f"{factor * summary.mean:.{digits}f}"
    return mean if summary.count == 1 else f"{mean} ± {factor * summary.deviation:.{digits}f}"


LOWER_IS_BETTER = ("eer",)
"""Columns of errors: of two cases the one with less is ahead."""


def verification_rows(
    cases: Mapping[str, Results], columns: Mapping[str, str] = COLUMNS
) -> list[list[str]]:
    """One row a case, the best mean first; last, the first case before training."""
    means = mean_accuracies(cases)
    rows = [
        [name, *(cell(percents(cases[name], column)) for column in columns)]
        for name in sorted(means, key=means.__getitem__, reverse=True)
    ]
    for name in list(means)[:1]:
        first = (percents(cases[name], column, before=True) for column in columns)
        rows.append([BEFORE, *map(cell, first)])
    return rows


def verification_numbers(
    cases: Mapping[str, Results], columns: Mapping[str, str] = COLUMNS
) -> dict[str, Any]:
    """By case and column: values by seed, and their summary."""
    numbers: dict[str, Any] = {}
    for name, column in itertools.product((name for name in cases if cases[name]), columns):
        values = by_seed(cases[name], column)
        summary = dataclasses.asdict(summarise(list(values.values())))
        numbers.setdefault(name, {})[column] = {"by_seed": values, **summary}
    return numbers


def seed_differences(
    cases: Mapping[str, Results],
    first: str,
    others: Sequence[str],
    columns: Mapping[str, str] = COLUMNS,
) -> dict[tuple[str, str], PairedDifference]:
    """`first` less each other case in each column, over common seeds, by (other, column)."""
    found = {}
    for other in others:
        shared = sorted(set(cases.get(first, {})) & set(cases.get(other, {})))
        if len(shared) < 2:
            continue
        for column in columns:
            mine, theirs = (
                [by_seed(cases[name], column)[seed] for seed in shared] for name in (first, other)
            )
            found[other, column] = paired_difference(mine, theirs)
            if column in LOWER_IS_BETTER:
                wins = paired_difference(theirs, mine).wins
                found[other, column] = dataclasses.replace(found[other, column], wins=wins)
    return found


def difference_rows(
    found: Mapping[tuple[str, str], PairedDifference],
    first: str,
    columns: Mapping[str, str] = COLUMNS,
) -> list[list[str]]:
    """One row a test: the difference with its interval, p, in how many seeds it is ahead."""
    rows = []
    for (other, column), one in found.items():
        points = f"{100 * one.mean:+.2f} [{100 * one.low:+.2f}, {100 * one.high:+.2f}]"
        cells = (points, f"{one.p_value:.3f}", f"{one.wins} of {one.count}", one.verdict)
        rows.append([f"{first} − {other}, {columns[column]}", *cells])
    return rows


DIFFERENCE_HEADER = (
    "paired over seeds",
    "difference, points [95 %]",
    "p",
    "seeds ahead",
    "verdict",
)
