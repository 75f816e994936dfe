"""Neighbours: classes that a model confuses, and plane layouts of embeddings."""

import dataclasses
import importlib
from typing import Any

import numpy as np

from arcface_jax.arguments import check_between
from arcface_jax.errors import InputError

_ROWS_AT_ONCE = 2048


@dataclasses.dataclass(frozen=True)
class ClassPairs:
    """Pairs of classes, the most similar first.

    Attributes:
      first: int [K], a class of each pair.
      second: int [K], the other, a higher number.
      cosine: float64 [K], of their centres.
      mistakes: float64 [K], share of the image pairs across the two classes that the threshold
        accepts as one person.
    """

    first: np.ndarray
    second: np.ndarray
    cosine: np.ndarray
    mistakes: np.ndarray


def nearest_classes(
    embeddings: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    threshold: float,
    *,
    count: int = 10,
) -> ClassPairs:
    """The most similar pairs of class centres, and how often a threshold confuses the classes.

    Args:
      embeddings: [N, D], unit rows.
      labels: int [N], each a row of `centres`.
      centres: [C, D], unit rows, such as the directions of the classes' mean embeddings or of their
        weights; C ≥ 2.
      threshold: a pair of images is accepted as one person if its cosine is at least this.
      count: pairs of classes wanted, at most.

    Returns: the pairs; a class without embeddings has NaN for its mistakes.

    Raises:
      InputError: for shapes that do not fit, or fewer than two classes.
    """
    embeddings, labels, centres = _checked(embeddings, labels, centres)
    check_between("count", count, 1, np.inf)
    first, second = np.triu_indices(len(centres), 1)
    cosine = np.einsum("kd,kd->k", centres[first], centres[second], dtype=np.float64)
    order = np.argsort(-cosine, kind="stable")[: int(count)]
    first, second = first[order], second[order]
    mistakes = np.full(len(order), np.nan)
    for pair, (one, other) in enumerate(zip(first, second, strict=True)):
        cosines = embeddings[labels == one] @ embeddings[labels == other].T
        if cosines.size:
            mistakes[pair] = np.mean(cosines >= threshold)
    return ClassPairs(first, second, cosine[order], mistakes)


def principal_plane(points: np.ndarray) -> np.ndarray:
    """The projection on the two directions of largest variance: [N, D] to float64 [N, 2]. It keeps
    large distances and ignores the other directions.

    Raises:
      InputError: fewer than two points or dimensions.
    """
    points = np.asarray(points, np.float64)
    if points.ndim != 2 or min(points.shape) < 2:
        raise InputError(f"points: shape {points.shape}; give [N, D], both at least 2")
    centred = points - points.mean(axis=0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    # A singular vector's sign is arbitrary: its largest component is made positive.
    plane = directions[:2]
    largest = np.argmax(np.abs(plane), axis=1)
    return np.asarray(centred @ (plane * np.sign(plane[[0, 1], largest])[:, None]).T)


def import_tsne() -> Any:
    """scikit-learn's module that has t-SNE.

    Raises:
      InputError: it is not installed.
    """
    try:
        return importlib.import_module("sklearn.manifold")
    except ModuleNotFoundError:
        raise InputError(
            "t-SNE needs scikit-learn; pip install scikit-learn, or take the principal plane"
        ) from None


def tsne_plane(points: np.ndarray, *, perplexity: float = 15.0, seed: int = 0) -> np.ndarray:
    """t-SNE by cosine distance, as scikit-learn computes it: [N, D] to float32 [N, 2].

    Neighbours stay neighbours; the distances between groups and their sizes mean nothing.

    Args:
      points: [N, D].
      perplexity: about how many neighbours each point keeps; below N.
      seed: of scikit-learn's optimiser.

    Raises:
      InputError: scikit-learn is not installed, or there are fewer points than the perplexity
        needs.

    References: van der Maaten & Hinton, Visualizing Data using t-SNE (JMLR 2008).
    """
    manifold = import_tsne()
    if not 0 < perplexity < len(points):
        raise InputError(
            f"perplexity: {perplexity:g} of {len(points)} points; give a positive number below that"
        )
    layout = manifold.TSNE(perplexity=perplexity, metric="cosine", init="random", random_state=seed)
    return np.asarray(layout.fit_transform(np.asarray(points, np.float32)))


def kept_neighbours(points: np.ndarray, plane: np.ndarray, k: int = 5) -> float:
    """The mean share of each point's k nearest neighbours that stay among its k nearest in the
    plane.

    Args:
      points: [N, D], compared by Euclidean distance, which ranks unit rows like the cosine.
      plane: [N, 2], the same points laid out.
      k: neighbours, below N.

    Returns: 0 … 1; a random layout gives k/(N − 1).

    Raises:
      InputError: for shapes that do not fit, or k outside 1 … N − 1.
    """
    points, plane = np.asarray(points, np.float64), np.asarray(plane, np.float64)
    if points.ndim != 2 or plane.ndim != 2 or len(points) != len(plane):
        raise InputError(
            f"points {points.shape} and plane {plane.shape} do not fit; give one place for each "
            "point"
        )
    if not 1 <= k < len(points):
        raise InputError(
            f"k: {k} neighbours among {len(points)} points; give from 1 to {len(points) - 1}"
        )
    kept = 0
    for start in range(0, len(points), _ROWS_AT_ONCE):
        rows = np.arange(start, min(start + _ROWS_AT_ONCE, len(points)))
        near = [_nearest(each, rows, k) for each in (points, plane)]
        kept += sum(len(np.intersect1d(*both)) for both in zip(*near, strict=True))
    return kept / (k * len(points))


def _nearest(points: np.ndarray, rows: np.ndarray, k: int) -> np.ndarray:
    squares = np.sum(points**2, axis=1)
    distance = squares[rows, None] + squares[None, :] - 2 * points[rows] @ points.T
    distance[np.arange(len(rows)), rows] = np.inf
    return np.argpartition(distance, k - 1, axis=1)[:, :k]


def _checked(
    embeddings: np.ndarray, labels: np.ndarray, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    embeddings, labels, centres = np.asarray(embeddings), np.asarray(labels), np.asarray(centres)
    fits = embeddings.ndim == centres.ndim == 2 and embeddings.shape[1:] == centres.shape[1:]
    if not fits or labels.shape != embeddings.shape[:1] or len(centres) < 2:
        raise InputError(
            f"embeddings {embeddings.shape}, labels {labels.shape} and centres {centres.shape} do "
            "not fit; give [N, D], [N], and [C, D] of at least two classes"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(centres)):
        raise InputError(
            f"labels: {labels.min()} … {labels.max()} for {len(centres)} centres; number them from "
            "0"
        )
    return embeddings, labels, centres
