"""Templates, as in IJB: one embedding for several images and videos of one person.

A YTF video is a template with one medium: pass the video's number as both template and medium.
"""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_same, check_weights
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.ijb import TemplateSubjects
from arcface_jax.evaluation.roc import Roc, RocNumbers, roc_curve, roc_numbers
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import Search, search_gallery

NO_MATCH = -2.0
"""The score of a template that failed to enrol: below every cosine."""

IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
"""The false accept rates at which IJB tables quote TAR."""


@dataclasses.dataclass(frozen=True)
class Templates:
    """Pooled templates.

    Attributes:
      ids: int64 [T], ascending, each once.
      embeddings: float32 [T, D], unit rows; zero for a template that failed to enrol.
    """

    ids: np.ndarray
    embeddings: np.ndarray

    @property
    def enrolled(self) -> np.ndarray:
        """bool [T]: false for the templates without a usable face."""
        return np.asarray(self.embeddings.any(axis=1))

    def rows(self, ids: np.ndarray, name: str = "template ids") -> np.ndarray:
        """int64: the row of each template.

        Raises:
          InputError: a template is missing; the message gives its number and position.
        """
        ids = np.asarray(ids)
        rows = np.searchsorted(self.ids, ids)
        missing = self.ids[np.minimum(rows, len(self.ids) - 1)] != ids
        if missing.any():
            position = int(np.argmax(missing))
            raise InputError(
                f"{name}: element {position} asks for template {ids[position]}, which has no image"
            )
        return rows


def pool_templates(
    features: np.ndarray,
    template_ids: np.ndarray,
    media_ids: np.ndarray,
    *,
    mirrored: np.ndarray | None = None,
    detector_scores: np.ndarray | None = None,
    norm_weighting: bool = True,
) -> Templates:
    """Pools image features into media, media into templates, and normalises.

        medium   = mean of its images' features
        template = Σ media / ‖Σ media‖

    So a video of a hundred frames weighs as much as one still image. An image without a usable face
    has a row of zeros and counts nowhere; a template with only such images fails to enrol.

    Args:
      features: [N, D], raw network outputs; zeros for an image without a usable face.
      template_ids: int [N], the template of each image.
      media_ids: int [N], its medium (frames of one video share one); counted within a template.
      mirrored: [N, D], features of the mirrored images, added first; None to leave them out.
      detector_scores: [N], ≥ 0: the detector's confidence, which multiplies the features; None for
        no weights.
      norm_weighting: keep the features' norms, so that confident ones weigh more; otherwise each is
        normalised first.

    Returns: the templates, by ascending number.

    Raises:
      InputError: mismatched lengths, NaN, an image with zeros in only one of features and mirrored,
        no usable image at all, or a template whose usable images sum to zero.

    References: Whitelam et al., IARPA Janus Benchmark-B (CVPRW 2017); Maze et al., IJB-C (ICB
      2018).
    """
    template_ids, media_ids = np.asarray(template_ids), np.asarray(media_ids)
    _check_images(features, template_ids, media_ids, mirrored)
    num_images = len(features)
    if detector_scores is not None:
        detector_scores = check_weights(detector_scores, num_images, "detector_scores")
    usable = _usable(features, mirrored)
    all_ids = np.unique(template_ids).astype(np.int64)
    (kept,) = np.nonzero(usable)
    order = kept[np.lexsort((media_ids[kept], template_ids[kept]))]
    new_template = np.append(True, np.diff(template_ids[order]) != 0)
    new_medium = new_template | np.append(True, np.diff(media_ids[order]) != 0)
    starts = np.append(np.flatnonzero(new_template), len(order))
    ids, pooled = template_ids[order][new_template].astype(np.int64), []
    # Whole templates, so that the sorted copy stays small.
    for first, last in _runs(starts, 65_536):
        part = order[starts[first] : starts[last]]
        images = check_embeddings(features[part], "features", unit=False, rows=part)
        if mirrored is not None:
            images = images + check_embeddings(mirrored[part], "mirrored", unit=False, rows=part)
        if not norm_weighting:
            images = unit_embeddings(images, "features", rows=part)
        if detector_scores is not None:
            images = images * detector_scores[part, None]
        media_starts = np.flatnonzero(new_medium[starts[first] : starts[last]])
        counts = np.diff(np.append(media_starts, len(part)))
        media = np.add.reduceat(images, media_starts, axis=0, dtype=np.float64) / counts[:, None]
        media_of_templates = np.searchsorted(media_starts, starts[first:last] - starts[first])
        pooled.append(np.add.reduceat(media, media_of_templates, axis=0))
    summed = np.concatenate(pooled)
    empty = ~summed.any(axis=1)
    if empty.any():
        raise InputError(
            f"features: template {ids[np.argmax(empty)]} sums to zero and has no direction; check "
            "its images"
        )
    embeddings = np.zeros((len(all_ids), summed.shape[1]), np.float32)
    embeddings[np.searchsorted(all_ids, ids)] = unit_embeddings(summed, "templates")
    return Templates(all_ids, embeddings)


def _usable(features: np.ndarray, mirrored: np.ndarray | None) -> np.ndarray:
    """bool [N]: the images that are not rows of zeros."""
    usable = np.asarray(np.any(features, axis=1))
    if mirrored is not None:
        differs = usable != np.asarray(mirrored).any(axis=1)
        if differs.any():
            raise InputError(
                f"mirrored: row {int(np.argmax(differs))} is zero, or that of features is, but not "
                "both; zeros say that an image has no usable face"
            )
    if not usable.any():
        raise InputError(
            f"features: all {number_of(len(usable), 'row', 'are')} zero: no image has a usable face"
        )
    return usable


def _check_images(
    features: np.ndarray,
    template_ids: np.ndarray,
    media_ids: np.ndarray,
    mirrored: np.ndarray | None,
) -> None:
    for name, ids in (("template_ids", template_ids), ("media_ids", media_ids)):
        if ids.shape != (len(features),) or not np.issubdtype(ids.dtype, np.integer):
            raise InputError(
                f"{name}: shape {ids.shape}, dtype {ids.dtype}; give one integer for each of "
                f"{number_of(len(features), 'image')}"
            )
    if mirrored is not None and mirrored.shape != features.shape:
        raise InputError(
            f"mirrored: shape {mirrored.shape}, but features has {features.shape}; give one row "
            "each"
        )


def _runs(starts: np.ndarray, most: int) -> list[tuple[int, int]]:
    """Ranges of consecutive templates with at most `most` images in total, or a single one."""
    runs, first, num_templates = [], 0, len(starts) - 1
    while first < num_templates:
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        runs.append((first, last))
        first = last
    return runs


@dataclasses.dataclass(frozen=True)
class TemplateVerificationResult(RocNumbers):
    """What a table of IJB 1:1 verification shows.

    Attributes:
      num_same: number of same pairs.
      num_different: number of different pairs.
    """

    num_same: int
    num_different: int

    def numbers(self) -> dict[str, float]:
        """The result as flat names and numbers, for logs and tables."""
        counts = {"num_same": self.num_same, "num_different": self.num_different}
        return super().numbers() | counts


def score_templates(
    templates: Templates,
    first: np.ndarray,
    second: np.ndarray,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> np.ndarray:
    """float32 [P]: the cosine of each pair of rows of `templates`; `NO_MATCH` if one failed to
    enrol.
    """
    # Any direction will do for those that failed: their scores are replaced.
    filled, enrolled = templates.embeddings.copy(), templates.enrolled
    filled[~enrolled, 0] = 1.0
    scores = score_pairs(filled, filled, first, second, devices=devices)
    scores[~(enrolled[first] & enrolled[second])] = NO_MATCH
    return scores


def verify_scores(
    scores: np.ndarray, same: np.ndarray, *, fars: Sequence[float] = IJB_FARS
) -> tuple[TemplateVerificationResult, Roc]:
    """IJB 1:1 from scores [P]: TAR at the ROC point nearest to each FAR, and the full ROC."""
    roc = roc_curve(scores, same)
    found = roc_numbers(roc, fars)
    counts = int(roc.num_same), int(roc.num_different)
    return TemplateVerificationResult(found.tar, found.eer, found.auc, *counts), roc


def verify_templates(
    templates: Templates,
    first_ids: np.ndarray,
    second_ids: np.ndarray,
    same: np.ndarray,
    *,
    fars: Sequence[float] = IJB_FARS,
    devices: Sequence[jax.Device] | None = None,
) -> tuple[TemplateVerificationResult, Roc]:
    """IJB 1:1: the cosine of each listed pair of templates, scored by `verify_scores`. A template
    that failed to enrol matches none.

    Args:
      templates: from `pool_templates`.
      first_ids: int [P], template numbers.
      second_ids: int [P].
      same: [P] bool.
      fars: false accept rates.
      devices: the devices to divide the pairs over; the default device if None.

    Returns: (the numbers, the full ROC).

    Raises:
      InputError: a template that no image belongs to, or mismatched lengths.
    """
    same = check_same(same, len(first_ids))
    first, second = templates.rows(first_ids, "first_ids"), templates.rows(second_ids, "second_ids")
    scores = score_templates(templates, first, second, devices=devices)
    return verify_scores(scores, same, fars=fars)


def search_templates(
    templates: Templates,
    gallery: TemplateSubjects,
    probes: TemplateSubjects,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Search:
    """IJB 1:N: each probe template against a gallery; subjects outside it are unknown.

    A template that failed to enrol never matches: such a probe finds nobody. A subject with only
    such gallery templates is never found, but counts as enrolled.

    Args:
      templates: from `pool_templates`.
      gallery: G1 or G2, from `ijb.read_template_subjects`.
      probes: from the same function.
      devices: the devices to divide the gallery over; the default device if None.

    Returns: the search; `identification` turns it into rates.

    Raises:
      InputError: a template that no image belongs to.
    """
    rows, probe_rows = (
        templates.rows(each.template_ids, name)
        for each, name in ((gallery, "gallery"), (probes, "probes"))
    )
    usable_rows = templates.enrolled
    kept, searched = usable_rows[rows], usable_rows[probe_rows]
    for usable, name in ((kept, "gallery"), (searched, "probes")):
        if not usable.any():
            raise InputError(
                f"{name}: none of the {number_of(len(usable), 'template')} has a usable face"
            )
    found = search_gallery(
        templates.embeddings[rows[kept]],
        gallery.subject_ids[kept],
        templates.embeddings[probe_rows[searched]],
        probes.subject_ids[searched],
        devices=devices,
    )
    enrolled = np.isin(probes.subject_ids, gallery.subject_ids)
    # As it is for a probe that finds nobody.
    mate = np.where(enrolled, np.float32(NO_MATCH), np.float32(-np.inf))
    impostor = np.full(len(searched), NO_MATCH, np.float32)
    index = np.full(len(searched), -1)
    rank = np.where(enrolled, np.iinfo(np.int64).max, 0)
    with_mate = np.flatnonzero(searched)[found.enrolled]
    mate[with_mate], rank[with_mate] = found.mate[found.enrolled], found.rank[found.enrolled]
    impostor[searched] = found.impostor
    entries = np.append(np.flatnonzero(kept), -1)  # the last is that of no impostor
    index[searched] = entries[found.impostor_index]
    return Search(mate, enrolled, impostor, index, rank)
