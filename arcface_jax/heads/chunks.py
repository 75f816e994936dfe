"""Class weights a chunk of rows at a time: where each chunk starts, how it is read and written, how
it is stored.

XLA's CPU compiler has no bfloat16 slices: it converts the whole array to float32 to take a slice,
or to replace one. What is updated in place is therefore kept as `uint16` that hold the bits of
bfloat16, on every platform alike; `store` and `load` go between the two.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError

# On the CPUs measured the fastest of 1,024 to 8,192.
DEFAULT_CHUNK = 2048
# On an H100 1.6 times as fast as 2,048; more gain little, and take memory.
ACCELERATOR_CHUNK = 65536
# A product is fastest where each row of its result begins at a line of memory; a chunk that is
# rounded up to this has at most a sixteenth of its classes twice.
_LINE, _ROUNDED_FROM = 64, 1024


@dataclasses.dataclass(frozen=True)
class Chunks:
    """`count` chunks of `size` consecutive classes; the last one is moved back to end at the last
    class.

    The classes that the last chunk then shares with the one before it belong to the latter
    (`fresh`). Going through the chunks from the last to the first, a row that is written in both
    ends as its owner wrote it.
    """

    classes: int
    size: int
    count: int

    def start(self, index: Any) -> Any:
        """The first class of a chunk."""
        return jnp.minimum(index * self.size, self.classes - self.size)

    def classes_of(self, index: Any, valid: Any) -> tuple[jax.Array, jax.Array]:
        """([size] class numbers, [size] whether each belongs to this chunk and is below
        `valid`).
        """
        classes = self.start(index) + jnp.arange(self.size, dtype=jnp.int32)
        return classes, (classes >= index * self.size) & (classes < valid)

    def from_last(self, done: Any) -> Any:
        """The chunk to do after `done` others."""
        return self.count - 1 - done


def split_classes(classes: int, chunk: int | None) -> Chunks:
    """As few chunks of at most `chunk` classes as cover them, of nearly equal size; one for None.
    Large ones have a multiple of 64 classes.

    Raises:
      InputError: for a chunk below 1.
    """
    chunk = classes if chunk is None else chunk
    if chunk < 1:
        raise InputError(f"chunk is {chunk}; pass a number of classes, 1 or more")
    count = max(1, math.ceil(classes / chunk))
    size = math.ceil(classes / count)
    if size >= _ROUNDED_FROM:
        size = min(chunk, classes, _LINE * math.ceil(size / _LINE))
    return Chunks(classes, size, count)


def store(values: jax.Array, dtype: Any, key: jax.Array | None = None) -> jax.Array:
    """float32 values as they are kept: float32, or the bits of bfloat16 as uint16.

    Args:
      values: any shape.
      dtype: float32, float64 or bfloat16 (or uint16, which means the same).
      key: for bfloat16, round up or down at random, so that the expected value is the value: an
        update too small to move a weight then moves it now and then. None rounds to nearest.

    Returns: the shape of `values`.
    """
    if dtype not in (jnp.bfloat16, jnp.uint16):
        return values.astype(dtype)
    if key is None:
        return jax.lax.bitcast_convert_type(values.astype(jnp.bfloat16), jnp.uint16)
    bits = jax.lax.bitcast_convert_type(values.astype(jnp.float32), jnp.uint32)
    noise = rounding_noise(key, values.shape)
    # Infinities and NaN have no neighbour to be rounded to.
    rounded = jnp.where(jnp.isfinite(values), bits + noise, bits) >> 16
    return rounded.astype(jnp.uint16)


def rounding_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform 16-bit numbers in uint32: two words from the key, mixed into each element's number by
    a hash.

    `jax.random.bits` would do, and would take longer than all the products of a chunk together on a
    CPU; whether a number is rounded up or down needs less.

    Args:
      key: a PRNG key.
      shape: of the noise.

    Returns: numbers below 2¹⁶.
    """
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    counts = jax.lax.broadcasted_iota(jnp.uint32, (math.prod(shape), 1), 0).reshape(shape)
    return _mixed(_mixed(counts + first) ^ second) >> 16


def _mixed(x: jax.Array) -> jax.Array:
    """The 32-bit finaliser of MurmurHash3, a bijection in which every input bit moves every
    output bit.
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def load(stored: jax.Array) -> jax.Array:
    """What `store` kept: float32 (or wider) as it is, bfloat16 from its bits, whole."""
    return (
        jax.lax.bitcast_convert_type(stored, jnp.bfloat16) if stored.dtype == jnp.uint16 else stored
    )


def read_rows(stored: jax.Array, start: Any, size: int, dtype: Any) -> jax.Array:
    """[size, …] rows from `start`, as numbers of `dtype`."""
    return load(jax.lax.dynamic_slice_in_dim(stored, start, size)).astype(dtype)


def over_chunks(
    chunks: Chunks,
    stored: jax.Array,
    body: Callable[[Any, jax.Array, Any], Any],
    carry: Any,
    *,
    backwards: bool = False,
) -> Any:
    """carry ← body(index, stored, carry) for every chunk of an array that is only read; the last
    carry.

    The array goes through the loop, behind a barrier: the compiler would otherwise move the
    conversion of a bfloat16 chunk out of the loop, and convert all of the array first.
    """

    def step(done: Any, held: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        stored = jax.lax.optimization_barrier(held[0])
        return stored, body(chunks.from_last(done) if backwards else done, stored, held[1])

    return jax.lax.fori_loop(0, chunks.count, step, (stored, carry))[1]


def write_rows(
    stored: jax.Array, rows: jax.Array, start: Any, key: jax.Array | None = None
) -> jax.Array:
    """`stored` with these rows in place of those from `start`."""
    return jax.lax.dynamic_update_slice_in_dim(stored, store(rows, stored.dtype, key), start, 0)


def varying_axes(*arrays: Any) -> frozenset[str]:
    """The axes of an enclosing `shard_map` along which any of the arrays differs."""
    return frozenset().union(
        *(jax.typeof(leaf).manual_axis_type.varying for leaf in jax.tree.leaves(arrays))
    )


def vary_over(axes: frozenset[str], tree: Any) -> Any:
    """The arrays, typed by `shard_map` as differing along all these axes; without one, the arrays.

    What a loop carries must have one type throughout. The transpose sums a gradient over the axes
    that are added.
    """

    def cast(array: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(array)))
        return jax.lax.pcast(array, missing, to="varying") if missing else array

    return jax.tree.map(cast, tree)
