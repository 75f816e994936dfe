"""Wrong labels put into a training set on purpose, and how many of them a clean-up finds."""

import dataclasses

import numpy as np

from arcface_jax.arguments import check_between
from arcface_jax.errors import InputError


def wrong_labels(
    labels: np.ndarray, share: float, num_classes: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Gives a random share of the images the label of another class, each equally likely.

    Args:
      labels: int [N], each in 0 … num_classes − 1.
      share: of the images, in [0, 1]; rounded to the nearest count.
      num_classes: C ≥ 2.
      seed: which images, and which labels.

    Returns: (labels int32 [N], bool [N], whether each is wrong now).

    Raises:
      InputError: an argument is out of range.

    References: Deng et al., Sub-center ArcFace (ECCV 2020), whose closed-set noise this is.
    """
    check_between("share", share, 0.0, 1.0)
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; a wrong label needs at least two classes")
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(labels), bool)
    wrong[rng.permutation(len(labels))[: round(share * len(labels))]] = True
    shift = rng.integers(1, num_classes, size=len(labels))
    noisy = np.where(wrong, (np.asarray(labels) + shift) % num_classes, labels)
    return noisy.astype(np.int32), wrong


@dataclasses.dataclass(frozen=True)
class CleanUpScore:
    """How well a clean-up found the wrong labels.

    Attributes:
      found: share of the wrong labels that were dropped (recall); NaN where there were none.
      precision: share of what was dropped that was wrong; NaN where nothing was dropped.
      dropped: share of all images that was dropped.
      left: share of wrong labels among those kept; NaN where none was kept.
    """

    found: float
    precision: float
    dropped: float
    left: float


def score_clean_up(dropped: np.ndarray, wrong: np.ndarray) -> CleanUpScore:
    """Compares what a clean-up dropped with what was wrong.

    Args:
      dropped: bool [N].
      wrong: bool [N].
    """
    dropped, wrong = np.asarray(dropped, bool), np.asarray(wrong, bool)
    if dropped.shape != wrong.shape or dropped.size == 0:
        raise InputError(
            f"dropped, wrong: shapes {dropped.shape} and {wrong.shape}; give one flag for each "
            "image"
        )
    return CleanUpScore(
        found=_share(dropped & wrong, wrong),
        precision=_share(dropped & wrong, dropped),
        dropped=float(dropped.mean()),
        left=_share(~dropped & wrong, ~dropped),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    total = np.count_nonzero(whole)
    return np.count_nonzero(part) / total if total else float("nan")
