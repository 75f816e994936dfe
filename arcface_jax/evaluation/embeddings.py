"""From network outputs, or sums of them, to the unit embeddings that protocols compare."""

import jax
import numpy as np

from arcface_jax.cosine import normalise_rows
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings

_normalise = jax.jit(normalise_rows)


def unit_embeddings(
    embeddings: np.ndarray, name: str = "embeddings", *, rows: np.ndarray | None = None
) -> np.ndarray:
    """x/‖x‖ of each row [N, D], float32.

    An error calls the array `name` and its rows `rows` [N].

    Raises:
      InputError: a row holds NaN or ∞, or is zero; the message gives the row.
    """
    embeddings = check_embeddings(embeddings, name, unit=False, rows=rows)
    largest = np.abs(embeddings).max(axis=1, keepdims=True)
    if not largest.all():
        numbers = range(len(embeddings)) if rows is None else rows
        row = numbers[int(np.argmin(largest))]
        raise InputError(
            f"{name}: row {row} is zero and has no direction; the network failed on it"
        )
    # Scaled first, so that the square of a tiny row's norm is still a number.
    return np.array(_normalise((embeddings / largest).astype(np.float32)))
