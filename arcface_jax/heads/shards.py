"""How the classes are split over devices, and what travels between them: embeddings and sums,
never logits.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError

AxisName = str | tuple[str, ...]


def shard_sizes(num_classes: int, shards: int) -> list[int]:
    """How many classes each shard holds: C // shards, and one more on the first C % shards.

    Raises:
      InputError: for a number of classes or shards below 1.
    """
    if num_classes < 1 or shards < 1:
        raise InputError(
            f"num_classes is {num_classes} and shards {shards}; pass 1 or more of each"
        )
    return [num_classes // shards + (rank < num_classes % shards) for rank in range(shards)]


def shard_rows(num_classes: int, shards: int) -> int:
    """The rows every shard's array has: the size of the largest shard, ⌈C/shards⌉; a smaller
    one ends in padding.
    """
    return shard_sizes(num_classes, shards)[0]


def rows_of_classes(classes: np.ndarray, num_classes: int, shards: int) -> np.ndarray:
    """Where each class's row stands in the shards laid end to end, [shards·⌈C/shards⌉, …] with
    their padding rows.

    Args:
      classes: class numbers in [0, C), any shape.
      num_classes: C.
      shards: how many devices share the classes.

    Returns: int64 row numbers, the shape of `classes`.
    """
    height, (short, full) = shard_rows(num_classes, shards), divmod(num_classes, shards)
    classes = np.asarray(classes, np.int64)
    beyond = classes - full * height  # in the shards that have a row less
    if short == 0:
        return classes
    return np.where(beyond < 0, classes, (full + beyond // short) * height + beyond % short)


def shard_classes(rows: jax.Array, shards: int) -> jax.Array:
    """Splits an array with a row for each class over shards: [C, …] -> [shards, ⌈C/shards⌉, …].

    Shard r holds C // shards classes, and one more if r < C % shards; a shard with one fewer ends
    in a row of zeros. Flattened to [shards·⌈C/shards⌉, …], each shard's rows are what
    `jax.sharding.PartitionSpec(axis)` gives its device.

    Args:
      rows: class weights, or an optimiser's slot.
      shards: how many devices share the classes.

    Returns: the shards.

    Raises:
      InputError: for fewer than one shard.
    """
    num_classes = rows.shape[0]
    sizes, height = shard_sizes(num_classes, shards), shard_rows(num_classes, shards)
    full = sizes.count(height)
    whole, short = jnp.split(rows, [full * height])
    whole = whole.reshape(full, height, *rows.shape[1:])
    if full == shards:
        return whole
    short = short.reshape(shards - full, height - 1, *rows.shape[1:])
    padding = [(0, 0), (0, 1)] + [(0, 0)] * (rows.ndim - 1)
    return jnp.concatenate([whole, jnp.pad(short, padding)])


def unshard_classes(shards: jax.Array, num_classes: int) -> jax.Array:
    """The inverse of `shard_classes`: [shards, ⌈C/shards⌉, …] -> [C, …].

    Raises:
      InputError: if the shards are not those of so many classes.
    """
    count, height = shards.shape[:2]
    if height != shard_rows(num_classes, count):
        raise InputError(
            f"{number_of(count, 'shard')} of {number_of(height, 'row')} cannot hold "
            f"{number_of(num_classes, 'class')}; {shard_rows(num_classes, count):,} rows are "
            "needed in each"
        )
    full = shard_sizes(num_classes, count).count(height)
    tail = shards.shape[2:]
    whole = shards[:full].reshape(full * height, *tail)
    short = shards[full:, : height - 1].reshape((count - full) * (height - 1), *tail)
    return jnp.concatenate([whole, short])


@dataclasses.dataclass(frozen=True)
class ClassAxis:
    """The mapped axis that classes are split over; with `name=None` one device has them all.

    Every method is called by all devices of the axis together, inside shard_map, pmap or
    vmap(axis_name=…).
    """

    name: AxisName | None
    num_classes: int

    @property
    def size(self) -> int:
        """Number of shards."""
        return 1 if self.name is None else jax.lax.axis_size(self.name)

    def index(self) -> Any:
        """Number of this shard."""
        return 0 if self.name is None else jax.lax.axis_index(self.name)

    def check_rows(self, rows: int) -> None:
        """Raises InputError unless this many rows are what a shard of the classes has."""
        wanted = shard_rows(self.num_classes, self.size)
        if rows != wanted:
            raise InputError(
                f"class_weights has {number_of(rows, 'row')} on each of "
                f"{number_of(self.size, 'device')}; {number_of(self.num_classes, 'class', 'need')} "
                f"{wanted:,}"
            )

    def first_class(self) -> Any:
        """The number of this shard's first class."""
        if self.name is None:
            return 0
        each, left = divmod(self.num_classes, self.size)
        return self.index() * each + jnp.minimum(self.index(), left)

    def classes_here(self) -> Any:
        """How many classes this shard holds; rows after them are padding."""
        if self.name is None:
            return self.num_classes
        each, left = divmod(self.num_classes, self.size)
        return each + (self.index() < left).astype(jnp.int32)

    def gather(self, rows: jax.Array) -> jax.Array:
        """[n, …] of each device to [N, …] on all."""
        return rows if self.name is None else jax.lax.all_gather(rows, self.name, tiled=True)

    def scatter_sum(self, values: jax.Array, dimension: int) -> jax.Array:
        """The sum over devices, of which each keeps its own n of N along `dimension`."""
        if self.name is None:
            return values
        return jax.lax.psum_scatter(values, self.name, scatter_dimension=dimension, tiled=True)

    def largest(self, values: jax.Array) -> jax.Array:
        """The largest of the devices' values; a constant to differentiation."""
        values = jax.lax.stop_gradient(values)
        return values if self.name is None else jax.lax.pmax(values, self.name)

    def own(self, values: jax.Array, rows: int) -> jax.Array:
        """This device's n of N values that all have."""
        if self.name is None:
            return values
        return jax.lax.dynamic_slice_in_dim(values, self.index() * rows, rows)


def class_axis(axis_name: AxisName | None, num_classes: int | None, rows: int) -> ClassAxis:
    """The axis of a head with so many rows on a device; without a name all classes are here.

    Raises:
      InputError: for an axis without the number of classes.
    """
    if axis_name is not None and num_classes is None:
        raise InputError(
            f"num_classes is None with axis_name {axis_name!r}; pass the number on all devices "
            "together"
        )
    return ClassAxis(axis_name, rows if num_classes is None else num_classes)
