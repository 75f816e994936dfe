"""How the classes are split over devices, and what travels between them: embeddings and sums,
never logits.
"""

import dataclasses
from typing import Any, NamedTuple

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


class Part(NamedTuple):
    """Rows [start, stop) of a layout's shards laid end to end, all of one shard: so many classes,
    and then padding.
    """

    start: int
    stop: int
    classes: int


def parts_of_shard(num_classes: int, saved: int, shards: int, rank: int) -> list[Part]:
    """Where the classes of shard `rank` of so many lie in a layout of `saved` shards, in order.

    The parts of all ranks are all of its rows, each once: the padding of a saved shard goes with
    its last class, that of one without classes to rank 0.

    Args:
      num_classes: C.
      saved: how many shards the rows lie in.
      shards: how many they are to lie in.
      rank: one of these.

    Returns: at most one part for each saved shard.

    Raises:
      InputError: for a number of classes or shards below 1.
    """
    height, sizes = shard_rows(num_classes, saved), shard_sizes(num_classes, shards)
    low = sum(sizes[:rank])
    high = low + sizes[rank]
    parts, first = [], 0
    for number, size in enumerate(shard_sizes(num_classes, saved)):
        top, bottom = number * height, (number + 1) * height
        begin, end = max(low, first), min(high, first + size)
        if begin < end:
            stop = bottom if end == first + size else top + end - first
            parts.append(Part(top + begin - first, stop, end - begin))
        elif size == 0 and rank == 0:
            parts.append(Part(top, bottom, 0))
        first += size
    return parts


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
    `jax.sharding.PartitionSpec(axis)` gives its device. Within jit, with such a result, no device
    holds more than a few shards' rows, unless there are fewer in each than shards.

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
    tail = [(0, 0)] * (rows.ndim - 1)
    even = jnp.pad(rows, [(0, shards * height - num_classes), *tail])
    even = even.reshape(shards, height, *rows.shape[1:])
    if full == shards:
        return even
    # Cut evenly, a shard's rows begin as many rows earlier as there are shorter shards before it:
    # in the shard before. So with the shards on devices each needs its neighbour's rows alone.
    earlier = np.maximum(0, np.arange(shards) - full)
    here = np.arange(height)
    if earlier[-1] <= height:
        before = jnp.pad(even[:-1], [(1, 0), (0, 0), *tail])
        split = jax.vmap(lambda both, start: jax.lax.dynamic_slice_in_dim(both, start, height))(
            jnp.concatenate([before, even], axis=1), jnp.asarray(height - earlier)
        )
    else:  # few rows, in any shard before
        flat = np.maximum(0, here + (np.arange(shards) * height - earlier)[:, None])
        split = even.reshape(-1, *rows.shape[1:])[flat]
    is_class = here < np.array(sizes)[:, None]
    return jnp.where(is_class.reshape(*is_class.shape, *[1] * (rows.ndim - 1)), split, 0)


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
