"""Which of the trained classes an image shows, or that it shows a new one, from plain arrays."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.arguments import check_between
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings

_ROWS = 256


class Ranked(NamedTuple):
    """The k classes nearest to each image, nearest first.

    Attributes:
      classes: int [N, k].
      cosines: float32 [N, k], to the class's weight; of sub-centres, to the nearest.
      probabilities: float32 [N, k], softmax of s·cosine over all classes.
    """

    classes: np.ndarray
    cosines: np.ndarray
    probabilities: np.ndarray


def rank_classes(
    embeddings: np.ndarray, class_weights: np.ndarray, k: int, scale: float = 1.0
) -> Ranked:
    """The classes of a trained head by cosine, and the probabilities that it learnt them with:

        p_j = exp(s·cosθ_j) / Σ_i exp(s·cosθ_i)

    The margin is of training alone. An image of a new class has such probabilities too; whether it
    is of one, `new_class_threshold` tells.

    Args:
      embeddings: [N, D], unit rows.
      class_weights: [C, D], or [C, K, D] with sub-centres.
      k: how many classes; at most C are given.
      scale: s.

    Raises:
      InputError: the shapes do not fit, or k is not 1 or more.
    """
    embeddings = check_embeddings(embeddings)
    check_between("k", k, 1, math.inf)
    centres = class_weights.reshape(len(class_weights), -1, class_weights.shape[-1])
    if centres.shape[-1] != embeddings.shape[1]:
        raise InputError(
            f"class_weights: of {number_of(centres.shape[-1], 'number')}, but the embeddings have "
            f"{embeddings.shape[1]}; give those of one model"
        )
    norms = np.linalg.norm(centres, axis=-1, keepdims=True)
    flat = (centres / np.maximum(norms, 1e-12)).reshape(-1, centres.shape[-1]).T
    parts = []
    for start in range(0, len(embeddings), _ROWS):
        cosine = embeddings[start : start + _ROWS] @ flat
        cosine = cosine.reshape(len(cosine), len(centres), -1).max(axis=-1)
        order = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        weights = np.exp(scale * (cosine - cosine.max(axis=1, keepdims=True)))
        weights /= weights.sum(axis=1, keepdims=True)
        parts.append((order, *(np.take_along_axis(each, order, 1) for each in (cosine, weights))))
    return Ranked(*map(np.concatenate, zip(*parts, strict=True)))


def new_class_threshold(cosines: np.ndarray, far: float) -> float:
    """The lowest cosine that at most a share `far` of images of new classes reach.

    Args:
      cosines: [M], of images of classes that were not trained on, to the nearest trained one.
      far: the rate at which they may be given the name of a class.

    Raises:
      InputError: there are none, or the rate is outside [0, 1).
    """
    check_between("far", far, 0.0, 1.0)
    if not len(cosines):
        raise InputError("cosines: no image of a new class; give some, or a threshold")
    highest = np.sort(np.asarray(cosines, np.float32))[::-1]
    # The first that may not pass; of equal cosines none does.
    return float(
        np.nextafter(highest[min(int(far * len(highest)), len(highest) - 1)], np.float32(2))
    )


def top_k_accuracy(classes: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of images [N, ≥ k] whose own class is among the first k; NaN without images."""
    hits = (classes[:, :k] == np.asarray(labels)[:, None]).any(axis=1)
    return float(hits.mean()) if len(hits) else math.nan


def confusions(
    rights: Sequence[str], answers: Sequence[str], most: int = 10
) -> list[tuple[str, str, int, int]]:
    """The pairs that are confused most: (right, answer, how often, images of the right one)."""
    wrong = Counter(pair for pair in zip(rights, answers, strict=True) if pair[0] != pair[1])
    of = Counter(rights)
    return [(*pair, count, of[pair[0]]) for pair, count in wrong.most_common(most)]
