"""Confidence intervals by resampling identities, not pairs.

Pairs that share a person are correlated, so resampling pairs as if they were independent makes
intervals far too narrow. Here a replicate draws identities with replacement: one drawn c times
counts as c people. A pair within an identity then counts c times, a pair of two identities c·c′
times.

If the identities are unknown, as in a `.bin` verification set, pass the fold of each pair as both
its identities. The folds of LFW-style lists share no identity, so resampling folds is sound (and,
with ten of them, cautious).

References: Bolle et al., Error analysis of pattern recognition systems: the subsets bootstrap (CVIU
  2004); Owen, The pigeonhole bootstrap (Ann. Appl. Stat. 2007).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import ClassAngles
from arcface_jax.evaluation.array_checks import check_length, check_same, check_scores
from arcface_jax.evaluation.identification import identify, mean_of_galleries
from arcface_jax.evaluation.retrieval import KS, Retrieval
from arcface_jax.evaluation.roc import roc_curve, roc_numbers
from arcface_jax.evaluation.search import Search
from arcface_jax.evaluation.verification import verify_similarities

NamedFigures = Mapping[str, float]
"""Figures by name."""

Statistics = Callable[[np.ndarray | None], NamedFigures]
"""Weights [P] of the pairs (None: each once) → figures."""


@dataclasses.dataclass(frozen=True)
class Resampling:
    """How to resample.

    Attributes:
      num_replicates: number of replicates; more give steadier interval ends.
      confidence: share of replicates inside an interval.
      seed: equal seeds give equal replicates.
    """

    num_replicates: int = 1000
    confidence: float = 0.95
    seed: int = 0


RESAMPLING = Resampling()
"""A thousand replicates, 95 %."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A figure, and its range if other people had been photographed.

    Attributes:
      estimate: the figure on the data.
      low: lower end of the percentile interval.
      high: upper end.
    """

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        """E.g. "0.9943 [0.9901, 0.9971]"."""
        return f"{self.estimate:.4f} [{self.low:.4f}, {self.high:.4f}]"


def pair_replicates(
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    resampling: Resampling = RESAMPLING,
) -> Iterator[np.ndarray]:
    """Weights of the pairs in each bootstrap replicate over identities.

    Args:
      same: [P] bool.
      first_identity: [P], the person (or fold) of the first image.
      second_identity: [P], of the second image.
      resampling: number of replicates and seed; use equal seeds to compare two models.

    Yields: int64 [P]. A draw without same pairs or without different pairs is repeated.

    Raises:
      InputError: mismatched lengths, fewer than two identities, or most draws lose one kind of
        pair.
    """
    same = check_same(same, len(first_identity))
    check_length(second_identity, len(same), "second_identity", "pairs")
    names, numbers = np.unique(
        np.concatenate([first_identity, second_identity]), return_inverse=True
    )
    if len(names) < 2:
        raise InputError(
            "first_identity, second_identity: one identity only; resampling needs at least two"
        )
    first, second = numbers[: len(same)], numbers[len(same) :]
    within = first == second
    rng = np.random.default_rng(resampling.seed)
    for _ in range(resampling.num_replicates):
        for _ in range(20):
            counts = np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names))
            weights = np.where(within, counts[first], counts[first] * counts[second])
            if weights[same].any() and weights[~same].any():
                break
        else:
            raise InputError(
                f"same: {number_of(len(names), 'identity', 'are')} too few to resample; most draws "
                "lose a kind of pair"
            )
        yield weights


def bootstrap_pairs(
    statistics: Statistics,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """Percentile intervals of any figures of a pair list.

    Args:
      statistics: takes weights [P] (None: each pair once) and returns named figures.
      same: [P] bool.
      first_identity: [P], see `pair_replicates`.
      second_identity: [P].
      resampling: how many replicates, which confidence, which seed.
    """
    replicates = pair_replicates(same, first_identity, second_identity, resampling=resampling)
    return percentile_intervals(
        statistics(None), [statistics(weights) for weights in replicates], resampling.confidence
    )


_OF_THE_LIST = ("accuracy_std", "val_std", "num_same", "num_different")


def verification_intervals(
    similarities: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    folds: int = 10,
    fars: Sequence[float] = (1e-2, 1e-3),
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """An interval for every figure of `verify_similarities`, by the names of its `numbers()`.

    Deviations over folds and numbers of pairs describe the list itself. Resampling people inflates
    the first and blurs the second, so they have no interval.
    """
    statistics = verification_statistics(similarities, same, folds, fars)
    intervals = bootstrap_pairs(
        statistics, same, first_identity, second_identity, resampling=resampling
    )
    return {
        name: dataclasses.replace(one, low=one.estimate, high=one.estimate)
        if name in _OF_THE_LIST
        else one
        for name, one in intervals.items()
    }


def roc_intervals(
    scores: np.ndarray,
    same: np.ndarray,
    first_identity: np.ndarray,
    second_identity: np.ndarray,
    *,
    fars: Sequence[float] = (1e-4, 1e-3, 1e-2),
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """Intervals of TAR at each FAR, EER and AUC of a list without folds (all pairs, templates).

    The pairs are sorted once; a replicate only sums weights. So a replicate costs about two passes
    over the pairs, even for millions.
    """
    statistics = roc_statistics(scores, same, fars)
    return bootstrap_pairs(statistics, same, first_identity, second_identity, resampling=resampling)


def verification_statistics(
    similarities: np.ndarray, same: np.ndarray, folds: int, fars: Sequence[float]
) -> Statistics:
    """`verify_similarities`' figures as a function of weights."""
    return lambda weights: verify_similarities(
        similarities, same, folds=folds, fars=fars, weights=weights
    ).numbers()


def roc_statistics(scores: np.ndarray, same: np.ndarray, fars: Sequence[float]) -> Statistics:
    """TAR at each FAR, EER and AUC as a function of weights, with one sort for all calls."""
    scores = check_scores(scores)
    same = check_same(same, len(scores))
    order = np.argsort(-scores)
    ordered, ordered_same = scores[order], same[order]

    def statistics(weights: np.ndarray | None) -> NamedFigures:
        roc = roc_curve(ordered, ordered_same, None if weights is None else weights[order])
        return roc_numbers(roc, fars).numbers()

    return statistics


def identification_intervals(
    searches: Search | Sequence[Search],
    probe_labels: np.ndarray,
    *,
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (0.01, 0.1),
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """Intervals of the figures of `identify`: resamples the people of the probes, not the gallery.

    Several galleries, such as IJB's G1 and G2, give the intervals of `mean_of_galleries`. A
    replicate draws the people once for all galleries. People enrolled in the same galleries form a
    group, and each group is resampled by itself, so every replicate has known and unknown people in
    every gallery.

    Args:
      searches: from `search_gallery`; one, or one per gallery, of the same probes in the same
        order.
      probe_labels: int [P], who each probe shows.
      ranks: as for `identify`.
      fpirs: as for `identify`.
      resampling: how many replicates, which confidence, which seed.
    """
    searches = [searches] if isinstance(searches, Search) else searches
    probe_labels = np.asarray(probe_labels)
    if not searches:
        raise InputError("searches: none given; give one per gallery")
    for search in searches:
        check_length(probe_labels, len(search.rank), "probe_labels", "probes")
    unknown = np.stack([~search.enrolled for search in searches], axis=1)
    _, kinds = np.unique(unknown, axis=0, return_inverse=True)
    strata = []
    for kind in range(kinds.max() + 1):
        probes = np.flatnonzero(kinds.ravel() == kind)
        _, numbers, counts = np.unique(
            probe_labels[probes], return_inverse=True, return_counts=True
        )
        strata.append(np.split(probes[np.argsort(numbers, kind="stable")], np.cumsum(counts)[:-1]))
    rng = np.random.default_rng(resampling.seed)

    def statistics(chosen: np.ndarray) -> NamedFigures:
        results = []
        for search in searches:
            fields = (getattr(search, field.name)[chosen] for field in dataclasses.fields(search))
            results.append(identify(Search(*fields), ranks=ranks, fpirs=fpirs))
        return mean_of_galleries(results).numbers()

    def draw() -> np.ndarray:
        people = [
            stratum[i] for stratum in strata for i in rng.integers(len(stratum), size=len(stratum))
        ]
        return np.concatenate(people)

    replicates = [statistics(draw()) for _ in range(resampling.num_replicates)]
    return percentile_intervals(
        statistics(np.arange(len(probe_labels))), replicates, resampling.confidence
    )


def retrieval_intervals(
    found: Retrieval,
    *,
    ks: Sequence[int] = KS,
    macro: bool = False,
    resampling: Resampling = RESAMPLING,
) -> dict[str, Interval]:
    """Intervals of `found.numbers(ks, macro=macro)`: resamples the classes of the queries.

    The gallery stays, as in a search, so they do not show the effect of other classes in it.
    """
    counts, means = found.by_class(ks)
    sizes = np.ones(len(counts)) if macro else counts
    rng = np.random.default_rng(resampling.seed)

    def statistics(drawn: np.ndarray) -> NamedFigures:
        weights = drawn * sizes
        return {name: float(np.average(of, weights=weights)) for name, of in means.items()}

    replicates = [
        statistics(np.bincount(rng.integers(len(counts), size=len(counts)), minlength=len(counts)))
        for _ in range(resampling.num_replicates)
    ]
    estimate = statistics(np.ones(len(counts)))
    return percentile_intervals(estimate, replicates, resampling.confidence)


def angle_intervals(
    angles: Mapping[str, ClassAngles], *, resampling: Resampling = RESAMPLING
) -> dict[str, Interval]:
    """Intervals of Table 3's mean angles: resamples classes, each with its angle on the data.

    The nearest other centre of a class (Inter, W-Inter) is taken among all classes and kept, like
    the gallery of a search. A replicate misses a third of the classes: among those drawn the
    nearest would be farther away each time, and the interval would lie above the figure. So the
    intervals do not show how the nearest centre depends on who else is in the set.

    Args:
      angles: from `class_angles`; figures with the same number of classes share their draws.
      resampling: how many replicates, which confidence, which seed.

    Raises:
      InputError: a figure has fewer than two classes.
    """
    intervals: dict[str, Interval] = {}
    for name, of_classes in angles.items():
        num_classes = len(of_classes.degrees)
        if num_classes < 2:
            raise InputError(
                f"{name}: the angle of {num_classes} class; resampling needs at least two"
            )
        rng = np.random.default_rng(resampling.seed)
        replicates = []
        for _ in range(resampling.num_replicates):
            drawn = rng.integers(num_classes, size=num_classes)
            weights = np.bincount(drawn, minlength=num_classes)
            replicates.append({name: of_classes.mean(weights)})
        intervals |= percentile_intervals(
            {name: of_classes.mean()}, replicates, resampling.confidence
        )
    return intervals


def percentile_intervals(
    estimate: NamedFigures, replicates: Sequence[NamedFigures], confidence: float
) -> dict[str, Interval]:
    """Percentile intervals; the ends are replicates themselves, never values in between."""
    if not 0 < confidence < 1 or not replicates:
        raise InputError(
            f"confidence: {confidence} with {number_of(len(replicates), 'replicate')}; give e.g. "
            "0.95 and 1000"
        )
    tail = (1 - confidence) / 2
    intervals = {}
    for name, value in estimate.items():
        values = defined_values(replicates, name)
        low = float(np.quantile(values, tail, method="lower"))
        intervals[name] = Interval(
            value, low, float(np.quantile(values, 1 - tail, method="higher"))
        )
    return intervals


def defined_values(replicates: Sequence[NamedFigures], name: str) -> np.ndarray:
    """A figure's replicates, without those that lost its subject, such as a small group."""
    values = np.array([replicate[name] for replicate in replicates])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        raise InputError(
            f"{name}: undefined in all {number_of(len(replicates), 'replicate')}; more identities "
            "are needed"
        )
    return values
