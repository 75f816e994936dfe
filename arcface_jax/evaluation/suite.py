"""Every protocol on one set of embeddings: pairs, search, angles, quality, groups, thresholds."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np

from arcface_jax.data.pairs import Pairs, all_pairs, draw_pairs
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.angle_statistics import class_angles
from arcface_jax.evaluation.array_checks import (
    UNIT_NORM_TOLERANCE,
    check_embeddings,
    check_indices,
    check_length,
)
from arcface_jax.evaluation.bootstrap import (
    RESAMPLING,
    Interval,
    Resampling,
    angle_intervals,
    identification_intervals,
    retrieval_intervals,
    roc_intervals,
    verification_intervals,
)
from arcface_jax.evaluation.calibration import Reliability, held_out_reliability
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.few_shot import few_shot
from arcface_jax.evaluation.folds import fold_numbers
from arcface_jax.evaluation.groups import GroupRates, group_rates, pair_groups
from arcface_jax.evaluation.quality import RejectCurve, error_versus_reject
from arcface_jax.evaluation.reranking import reranked
from arcface_jax.evaluation.retrieval import retrieve, retrieve_scores
from arcface_jax.evaluation.roc import Roc, operating_point, roc_curve
from arcface_jax.evaluation.score_norm import ScoreNorm, normalise_scores
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import Search, search_gallery
from arcface_jax.evaluation.thresholds import DeploymentThreshold, deployment_threshold, fars_told
from arcface_jax.evaluation.verification import verify_pairs

MOST_PAIRS = 20_000_000
"""A set without a list scores all pairs up to this many; beyond, it draws a list."""


RetrievalKind = Literal["none", "cosine", "reranked"]

FEW_SHOT = ((5, 1), (5, 5), (20, 1), (20, 5))
"""Ways and shots of few-shot episodes; a set with too few classes leaves some out."""


@dataclasses.dataclass(frozen=True)
class EmbeddedSet:
    """A set of embedded images.

    Attributes:
      name: what tables call it.
      embeddings: [N, D], raw network outputs or unit rows.
      labels: int [N], the identity of each image.
      pairs: a published list; None to use all pairs.
      identities_known: whether labels give all identities, not only which pairs are the same (a
        `.bin` set). If not, there is no search, and intervals resample folds.
      images: uint8 [N, height, width, 3], for pictures of the hardest pairs, or None.
      places: [N], the file of each image, for those pictures, or None.
      people: [N], the name of each image's person, for those pictures, or None.
      groups: [N], an attribute of each image, for rates by group, or None.
      score_norm: how to normalise the pairs' cosines; None for raw cosines. The search always uses
        cosines.
      quality: [N], of each image, higher is better; None for the embeddings' norms, if they are not
        all 1.
    """

    name: str
    embeddings: np.ndarray
    labels: np.ndarray
    pairs: Pairs | None = None
    identities_known: bool = True
    images: np.ndarray | None = None
    places: Sequence[str] | None = None
    people: Sequence[str] | None = None
    groups: np.ndarray | None = None
    quality: np.ndarray | None = None
    score_norm: ScoreNorm | None = None


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How to evaluate.

    Attributes:
      fars: false accept rates at which TAR is reported.
      deployment_fars: false accept rates for which thresholds are proposed.
      fpirs: false positive identification rates at which TPIR is reported.
      ranks: ranks at which identification is reported; ranks beyond the gallery size are left out.
      enrolled: share of the identities enrolled in the gallery of the 1:N search.
      resampling: of the intervals; its seed also draws the pairs and the enrolled people.
      published_scripts: whether to report accuracy and VAL a second time, as the published scripts
        compute them (`evaluation.published`). Without intervals: they describe the list.
      retrieval: reports recall@k, R-precision, MAP@R and mAP of each image searched among all
        others, by "cosine" or "reranked".
      few_shot: whether to report accuracies of `FEW_SHOT` episodes.
    """

    fars: tuple[float, ...] = (1e-3, 1e-2)
    deployment_fars: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    fpirs: tuple[float, ...] = (0.01, 0.1)
    ranks: tuple[int, ...] = (1, 5)
    enrolled: float = 0.5
    resampling: Resampling = RESAMPLING
    published_scripts: bool = False
    retrieval: RetrievalKind = "none"
    few_shot: bool = False


@dataclasses.dataclass(frozen=True)
class SetResult:
    """The results of `evaluate_set`.

    Attributes:
      figures: every figure with its interval.
      pairs: the pairs that were scored.
      similarities: [P], their cosines, after `score_norm` if the set has one.
      roc: of those pairs.
      first_cluster: [P], whom resampling treats as the first image's identity.
      second_cluster: [P], the second's.
      thresholds: one for each deployment FAR that the pairs can tell.
      untold: a line on the other ones; None if there are none.
      search: the 1:N search; None if identities are unknown or too few.
      gallery_size: entries of its gallery, one per person; 0 without a search.
      reject: error against rejected images; None without a quality.
      groups: rates by group; None without groups.
      reliability: of a calibration's probabilities on people not used for the fit, or one line
        saying why there is none.
    """

    figures: Mapping[str, Interval]
    pairs: Pairs
    similarities: np.ndarray
    roc: Roc
    first_cluster: np.ndarray
    second_cluster: np.ndarray
    thresholds: tuple[DeploymentThreshold, ...]
    untold: str | None
    search: Search | None
    gallery_size: int
    reject: RejectCurve | None
    groups: GroupRates | None
    reliability: Reliability | str


def evaluate_set(data: EmbeddedSet, options: EvaluationOptions) -> SetResult:
    """Runs every protocol that the set allows.

    Raises:
      InputError: mismatched lengths, NaN or zero embeddings, pairs out of range, or no folds for
        the published scripts; the message names the place.
    """
    raw = check_embeddings(data.embeddings, f"{data.name}: embeddings", unit=False)
    labels = check_length(data.labels, len(raw), f"{data.name}: labels", "embeddings")
    unit = unit_embeddings(raw, f"{data.name}: embeddings")
    pairs = choose_pairs(data, labels, options.resampling.seed)
    similarities = score_pairs(unit, unit, pairs.first, pairs.second)
    if data.score_norm is not None:
        similarities = normalise_scores(
            similarities, unit, pairs.first, pairs.second, data.score_norm
        )
    first_cluster, second_cluster = resampled_clusters(data, pairs, labels)
    resampling = options.resampling
    clustered = (similarities, pairs.same, first_cluster, second_cluster)
    if pairs.num_folds > 1:
        figures = verification_intervals(
            *clustered, folds=pairs.num_folds, fars=options.fars, resampling=resampling
        )
    else:
        figures = roc_intervals(*clustered, fars=options.fars, resampling=resampling)
    if options.published_scripts:
        figures |= _as_published(unit, pairs)
    roc = roc_curve(similarities, pairs.same)
    search, gallery_size = None, 0
    if data.identities_known:
        search, gallery, probes = _search(unit, labels, options)
        if search is not None:
            gallery_size = len(gallery)
            figures |= {"num_gallery": Interval(gallery_size, gallery_size, gallery_size)}
            figures |= identification_intervals(
                search,
                labels[probes],
                ranks=tuple(rank for rank in options.ranks if rank < gallery_size) or (1,),
                fpirs=options.fpirs,
                resampling=resampling,
            )
        angles = angle_intervals(class_angles(unit, labels), resampling=resampling)
        figures |= {f"angle {name}": interval for name, interval in angles.items()}
        figures |= _retrieval(data.name, unit, labels, options)
        figures |= _few_shot(data.name, unit, labels, options)
    elif options.retrieval != "none" or options.few_shot:
        raise InputError(
            f"{data.name}: its labels do not tell who is who, which retrieval and few-shot "
            "episodes need; leave them out"
        )
    reliability: Reliability | str
    try:
        reliability = held_out_reliability(*clustered, resampling=resampling)
        figures |= reliability.figures
    except InputError as error:
        reliability = str(error)
    told, untold = fars_told(options.deployment_fars, int(roc.num_different))
    groups = None
    if data.groups is not None:
        threshold = float(roc.thresholds[operating_point(roc, max(options.fars), "at_most")])
        of_pairs = pair_groups(data.groups, pairs.first, pairs.second)
        groups = group_rates(
            similarities,
            pairs.same,
            of_pairs,
            threshold,
            first_cluster,
            second_cluster,
            resampling=resampling,
        )
    return SetResult(
        figures,
        pairs,
        similarities,
        roc,
        first_cluster,
        second_cluster,
        tuple(deployment_threshold(*clustered, far, resampling=resampling) for far in told),
        untold,
        search,
        gallery_size,
        _reject_curve(data, raw, similarities, pairs, max(options.fars)),
        groups,
        reliability,
    )


def _retrieval(
    name: str, unit: np.ndarray, labels: np.ndarray, options: EvaluationOptions
) -> dict[str, Interval]:
    """Leave-one-out, as means over images, and under "macro" as means over classes."""
    if options.retrieval == "none":
        return {}
    with concerning(name):
        if options.retrieval == "cosine":
            found = retrieve(unit, labels)
        else:
            found = retrieve_scores(-reranked(unit), labels)
        over = functools.partial(retrieval_intervals, found, resampling=options.resampling)
        return over() | {f"macro {figure}": one for figure, one in over(macro=True).items()}


def _few_shot(
    name: str, unit: np.ndarray, labels: np.ndarray, options: EvaluationOptions
) -> dict[str, Interval]:
    """Accuracy by ways and shots, with the normal interval of the mean over episodes."""
    if not options.few_shot:
        return {}
    seed, counts = options.resampling.seed, np.unique(labels, return_counts=True)[1]
    wide = NormalDist().inv_cdf((1 + options.resampling.confidence) / 2)
    figures = {}
    for ways, shots in FEW_SHOT:
        if np.sum(counts > shots) >= ways:
            found = few_shot(unit, labels, ways=ways, shots=shots, seed=seed)
            mean, half = found.mean(), wide * found.std(ddof=1) / np.sqrt(len(found))
            title = f"{ways}-way {shots}-shot"
            figures[title] = Interval(*map(float, (mean, mean - half, mean + half)))
    if not figures:
        raise InputError(f"{name}: few-shot episodes need five classes of two images or more")
    return figures


def _as_published(unit: np.ndarray, pairs: Pairs) -> dict[str, Interval]:
    """Accuracy, VAL and their deviations by the published scripts."""
    first, second = unit[pairs.first], unit[pairs.second]
    found = verify_pairs(first, second, pairs.same, folds=pairs.num_folds, published_scripts=True)
    names = ("accuracy", "accuracy_std", "val", "val_std", "val_far")
    values = ((f"published_{name}", getattr(found, name)) for name in names)
    return {name: Interval(value, value, value) for name, value in values}


def choose_pairs(data: EmbeddedSet, labels: np.ndarray, seed: int) -> Pairs:
    """The set's own list; without one, all pairs, or a balanced list if they are too many.

    Raises:
      InputError: a pair names an image that is not there.
    """
    if data.pairs is not None:
        check_indices(data.pairs.first, len(labels), f"{data.name}: pairs.first")
        check_indices(data.pairs.second, len(labels), f"{data.name}: pairs.second")
        return data.pairs
    if len(labels) * (len(labels) - 1) // 2 <= MOST_PAIRS:
        return all_pairs(labels)
    return draw_pairs(labels, 200_000, seed)


def resampled_clusters(
    data: EmbeddedSet, pairs: Pairs, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The units that resampling draws for each pair's images: identities, or folds if unknown.

    Raises:
      InputError: there are no folds either.
    """
    if data.identities_known:
        return labels[pairs.first], labels[pairs.second]
    if pairs.num_folds < 2:
        raise InputError(
            f"{data.name}: neither identities nor folds are known, so no interval can be had; give "
            "a list in folds"
        )
    folds = fold_numbers(len(pairs), pairs.num_folds)
    return folds, folds


def _search(
    unit: np.ndarray, labels: np.ndarray, options: EvaluationOptions
) -> tuple[Search | None, np.ndarray, np.ndarray]:
    """A gallery of the first image of some identities; all other images are probes.

    Returns: (the search, the gallery images, the probe images); no search if there are too few
      identities or images.
    """
    identities, first_image, numbers = np.unique(labels, return_index=True, return_inverse=True)
    num_enrolled = round(options.enrolled * len(identities))
    drawn = np.random.default_rng(options.resampling.seed).permutation(len(identities))[
        :num_enrolled
    ]
    gallery = first_image[drawn]
    probes = np.setdiff1d(np.arange(len(labels)), gallery)
    if not np.isin(numbers[probes], drawn).any():
        return None, gallery, probes
    return (
        search_gallery(unit[gallery], labels[gallery], unit[probes], labels[probes]),
        gallery,
        probes,
    )


def _reject_curve(
    data: EmbeddedSet, raw: np.ndarray, similarities: np.ndarray, pairs: Pairs, far: float
) -> RejectCurve | None:
    quality = data.quality
    if quality is None:
        quality = np.linalg.norm(raw, axis=1)
        if np.allclose(quality, 1.0, atol=UNIT_NORM_TOLERANCE):
            return None
    return error_versus_reject(
        similarities, pairs.same, pairs.first, pairs.second, quality, far=far
    )
