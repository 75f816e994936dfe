"""Checks of the arrays that protocols take; an error gives the position of the first fault."""

import numpy as np

from arcface_jax.errors import InputError, printable

UNIT_NORM_TOLERANCE = 1e-2
"""Normalised bfloat16 rows pass; rows that were never normalised do not."""


def check_length(values: np.ndarray, length: int, name: str, rows: str) -> np.ndarray:
    """`values` as an array of shape [length]; an error calls its items `rows`."""
    values = np.asarray(values)
    if values.shape != (length,):
        raise InputError(f"{name}: shape {values.shape} for {length} {rows}; give one each")
    return values


def check_scores(scores: np.ndarray, name: str = "scores") -> np.ndarray:
    """`scores` as a floating vector; refuses NaN, ∞, other ranks and emptiness."""
    scores = np.asarray(scores)
    if scores.ndim != 1 or scores.size == 0:
        raise InputError(
            f"{name}: shape {scores.shape}; give a non-empty vector with one score per pair"
        )
    if not np.issubdtype(scores.dtype, np.floating):
        if not (np.issubdtype(scores.dtype, np.integer) or scores.dtype == bool):
            raise InputError(f"{name}: dtype {scores.dtype}; give real numbers")
        scores = scores.astype(np.float64)
    elif scores.dtype.itemsize < 4:
        scores = scores.astype(np.float32)
    _refuse(~np.isfinite(scores), scores, name, "; remove or repair it")
    return scores


def check_same(same: np.ndarray, length: int, name: str = "same") -> np.ndarray:
    """`same` as bool [length]; 0 and 1 pass as False and True."""
    same = check_length(same, length, name, "scores")
    if same.dtype != bool:
        _refuse((same != 0) & (same != 1), same, name, "; give booleans (or 0 and 1)")
    return same.astype(bool)


def check_weights(weights: np.ndarray, length: int, name: str = "weights") -> np.ndarray:
    """`weights` [length]; refuses negative, infinite and NaN ones."""
    weights = check_length(weights, length, name, "scores")
    _refuse(~(np.isfinite(weights) & (weights >= 0)), weights, name, "; give finite weights ≥ 0")
    return weights


def check_indices(indices: np.ndarray, size: int, name: str) -> np.ndarray:
    """`indices` as an integer vector within 0 … size − 1."""
    indices = np.asarray(indices)
    if indices.ndim != 1 or not (np.issubdtype(indices.dtype, np.integer) or indices.size == 0):
        raise InputError(
            f"{name}: shape {indices.shape}, dtype {indices.dtype}; give a vector of integers"
        )
    _refuse((indices < 0) | (indices >= size), indices, name, f", outside 0 … {size - 1}")
    return indices.astype(np.int64)


def check_embeddings(
    embeddings: np.ndarray,
    name: str = "embeddings",
    *,
    unit: bool = True,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """`embeddings` [N, D] in float32 (float64 if they are), each of norm 1 (within 1 %) if `unit`.

    An error calls the array `name` and its rows `rows` [N].

    Raises:
      InputError: wrong rank, no rows, no real numbers, or a row with NaN, ∞, a square beyond its
        dtype, or no unit norm; the message gives the row.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or embeddings.size == 0:
        raise InputError(f"{name}: shape {embeddings.shape}; give [N, D], one embedding a row")
    if embeddings.dtype not in (np.float32, np.float64):
        try:
            if np.iscomplexobj(embeddings):
                raise TypeError
            embeddings = embeddings.astype(np.float32)
        except (TypeError, ValueError):
            shown = printable(str(embeddings.flat[0])[:40])
            raise InputError(f"{name}: {shown!r} is no real number; give such alone") from None
    squared = np.einsum("nd,nd->n", embeddings, embeddings)
    numbers = range(len(embeddings)) if rows is None else rows
    invalid = ~np.isfinite(squared)
    if invalid.any():
        row = int(np.argmax(invalid))
        largest = np.abs(embeddings[row].astype(np.float64)).max()
        if np.isfinite(largest):
            raise InputError(
                f"{name}: row {numbers[row]} holds {largest:.3g}, whose square is beyond "
                f"{embeddings.dtype}; divide all rows by a number"
            )
        raise InputError(f"{name}: row {numbers[row]} holds NaN or infinity; remove or repair it")
    if unit:
        norms = np.sqrt(squared)
        invalid = np.abs(norms - 1.0) > UNIT_NORM_TOLERANCE
        if invalid.any():
            row = int(np.argmax(invalid))
            raise InputError(
                f"{name}: row {numbers[row]} has norm {norms[row]:.4g}, not 1; normalise the rows "
                "first"
            )
    return embeddings


def _refuse(invalid: np.ndarray, values: np.ndarray, name: str, remedy: str) -> None:
    if invalid.any():
        position = int(np.argmax(invalid))
        raise InputError(f"{name}: element {position} is {values[position]}{remedy}")
