"""Cosines of many pairs: jitted, in chunks of bounded memory, on any number of devices."""

import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_indices

DEVICE_AXIS = "devices"
"""The mesh axis over which evaluation divides its work."""


WHOLE, DIVIDED = PartitionSpec(), PartitionSpec(DEVICE_AXIS)


def device_mesh(devices: Sequence[jax.Device] | None) -> Mesh:
    """A line of the given devices; this process's first device alone if None."""
    given = jax.local_devices()[:1] if devices is None else list(devices)
    return Mesh(np.array(given), (DEVICE_AXIS,), axis_types=(AxisType.Auto,))


def score_pairs(
    first_embeddings: np.ndarray,
    second_embeddings: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    *,
    devices: Sequence[jax.Device] | None = None,
    chunk: int = 1024,
    block: int = 2**20,
) -> np.ndarray:
    """Cosine of each listed pair: first_embeddings[first[p]] · second_embeddings[second[p]].

    One compiled program takes the pairs in blocks. Each device has all the embeddings and a part of
    the block, and gathers `chunk` pairs at a time. So it needs little memory beyond the arguments
    and the result, and the numbers do not depend on the number of devices.

    Args:
      first_embeddings: [T, D], unit rows.
      second_embeddings: [U, D], unit rows; may be the same array.
      first: int [P], rows of `first_embeddings`.
      second: int [P], rows of `second_embeddings`.
      devices: the devices to divide the pairs over; the default device if None.
      chunk: pairs gathered at a time on a device.
      block: pairs sent to the devices at a time.

    Returns: float32 [P].

    Raises:
      InputError: an index out of range, mismatched lengths, or a row that is NaN or not of unit
        norm; the message gives the position.
    """
    first_embeddings = check_embeddings(first_embeddings, "first_embeddings")
    same_array = second_embeddings is first_embeddings
    second_embeddings = (
        first_embeddings if same_array else check_embeddings(second_embeddings, "second_embeddings")
    )
    first = check_indices(first, len(first_embeddings), "first")
    second = check_indices(second, len(second_embeddings), "second")
    if len(first) != len(second):
        raise InputError(
            f"second: {number_of(len(second), 'row')}, but first has {len(first)}; give one per "
            "pair in each"
        )
    mesh = device_mesh(devices)
    step = chunk * mesh.size
    block = step * max(1, min(block, -(-len(first) // step) * step) // step)
    replicated, divided = NamedSharding(mesh, WHOLE), NamedSharding(mesh, DIVIDED)
    left = jax.device_put(np.asarray(first_embeddings, np.float32), replicated)
    right = (
        left
        if same_array
        else jax.device_put(np.asarray(second_embeddings, np.float32), replicated)
    )
    program = _pair_program(mesh, chunk)
    scores = np.empty(len(first), np.float32)
    for start in range(0, len(first), block):
        stop = min(start + block, len(first))
        indices = np.zeros((2, block), np.int32)
        indices[:, : stop - start] = first[start:stop], second[start:stop]
        i, j = (jax.device_put(part, divided) for part in indices)
        scores[start:stop] = np.asarray(program(left, right, i, j))[: stop - start]
    return scores


@functools.cache
def _pair_program(mesh: Mesh, chunk: int) -> jax.stages.Wrapped:
    """The jitted block of `score_pairs` on a mesh."""

    def part(left: jax.Array, right: jax.Array, i: jax.Array, j: jax.Array) -> jax.Array:
        def dot(indices: tuple[jax.Array, jax.Array]) -> jax.Array:
            a, b = left[indices[0]], right[indices[1]]
            return jnp.einsum("pd,pd->p", a, b, precision="highest")

        return jax.lax.map(dot, (i.reshape(-1, chunk), j.reshape(-1, chunk))).reshape(-1)

    return jax.jit(
        jax.shard_map(
            part,
            mesh=mesh,
            in_specs=(WHOLE, WHOLE, DIVIDED, DIVIDED),
            out_specs=DIVIDED,
            check_vma=False,
        )
    )


class HighestScores:
    """Keeps the `capacity` highest of a stream of scores, exactly, and counts them all.

    Attributes:
      count: how many scores went by.
    """

    def __init__(self, capacity: int) -> None:
        """Makes an empty collector."""
        if capacity < 1:
            raise InputError(f"capacity: {capacity}; keep at least one score")
        self.count = 0
        self._capacity = capacity
        self._kept: list[np.ndarray] = []
        self._num_kept = 0
        self._floor = np.float32(-np.inf)

    def add(self, scores: np.ndarray) -> None:
        """Takes the next scores, of any shape."""
        self.count += scores.size
        above = scores[scores > self._floor]
        self._kept.append(above)
        self._num_kept += above.size
        if self._num_kept > 2 * self._capacity:
            self._prune()

    def values(self) -> np.ndarray:
        """The kept scores, unordered; all of them if there were at most `capacity`."""
        self._prune()
        return self._kept[0]

    def _prune(self) -> None:
        scores = np.concatenate([*self._kept, np.empty(0, np.float32)])
        if len(scores) > self._capacity:
            scores = np.partition(scores, len(scores) - self._capacity)[-self._capacity :]
            self._floor = scores.min()
        self._kept, self._num_kept = [scores], len(scores)


def score_tiles(
    rows: np.ndarray,
    columns: np.ndarray,
    *,
    upper: bool = False,
    devices: Sequence[jax.Device] | None = None,
    row_chunk: int = 256,
    column_chunk: int = 4096,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """All cosines between two sets of unit embeddings, tile by tile.

    Args:
      rows: [N, D].
      columns: [M, D]; read in slices, so it may be a memory map.
      upper: leave out the tiles that have no pair (i, j) with i < j.
      devices: the devices to divide the columns of a tile over; the default device if None.
      row_chunk: rows of a tile.
      column_chunk: columns of a tile.

    Yields: (first row, first column, float32 cosines of the tile). A tile at the edge is smaller.
    """
    rows = check_embeddings(rows, "rows")
    mesh = device_mesh(devices)
    row_chunk = min(row_chunk, len(rows))
    column_chunk = -(-min(column_chunk, len(columns)) // mesh.size) * mesh.size
    whole, divided = NamedSharding(mesh, WHOLE), NamedSharding(mesh, DIVIDED)
    for column in range(0, len(columns), column_chunk):
        width = min(column_chunk, len(columns) - column)
        numbers = np.arange(column, column + width)
        right = check_embeddings(columns[column : column + width], "columns", rows=numbers)
        right = jax.device_put(padded(right, column_chunk), divided)
        for row in range(0, min(len(rows), column + width - 1) if upper else len(rows), row_chunk):
            left = rows[row : row + row_chunk]
            tile = np.asarray(_multiply(jax.device_put(padded(left, row_chunk), whole), right))
            yield row, column, tile[: len(left), :width]


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """float32 rows, padded with zeros to `length`, so that one compiled program is enough."""
    return np.pad(rows.astype(np.float32), ((0, length - len(rows)), (0, 0)))


@jax.jit
def _multiply(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right.T, precision="highest")
