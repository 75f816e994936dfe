"""Class rows of a checkpoint, laid out anew for another number of devices: each process reads the
rows of its own devices and no others.
"""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np
import tensorstore

from arcface_jax.heads.shards import Part, parts_of_shard, shard_rows
from arcface_jax.runs.checksums import checksum
from arcface_jax.training.state import TrainState, with_class_rows


@dataclasses.dataclass(frozen=True)
class Layout:
    """How many shards the C classes of a checkpoint lie in, and how many they are wanted in."""

    num_classes: int
    saved: int
    wanted: int

    def as_saved(self, like: TrainState) -> TrainState:
        """The shapes of the checkpoint of a state that is wanted like this."""
        rows = self.saved * shard_rows(self.num_classes, self.saved)
        state: TrainState = with_class_rows(
            like, lambda _, leaf: jax.ShapeDtypeStruct((rows, *leaf.shape[1:]), leaf.dtype)
        )
        return state

    def parts(self, rank: int) -> list[Part]:
        """What one of the wanted shards is read from."""
        return parts_of_shard(self.num_classes, self.saved, self.wanted, rank)


def open_array(folder: pathlib.Path, name: str) -> Any:
    """An array of the state that Orbax saved in a folder, to be read by ranges.

    Raises:
      ValueError: there is none of this name, or it is damaged.
    """
    base = {"driver": "file", "path": f"{folder}/"}
    store = {"driver": "ocdbt", "base": base, "path": f"{name.replace('/', '.')}/"}
    return tensorstore.open({"driver": "zarr", "kvstore": store}, open=True, read=True).result()


def read_class_rows(
    folder: pathlib.Path, name: str, like: jax.ShapeDtypeStruct, layout: Layout
) -> tuple[jax.Array, int]:
    """An array with class rows as `like` has it, with its sharding over the wanted shards.

    Of the rows of other processes' devices none is held. A saved shard is decoded as a whole, one
    at a time.

    Args:
      folder: of the state.
      name: of the array, as `named_leaves` has it.
      like: shape, type and sharding.
      layout: the two layouts.

    Returns: (the array, what the rows that this process alone counts add to the `checksum` of the
      saved array, modulo 2³²).

    Raises:
      ValueError: the array is damaged.
    """
    stored = open_array(folder, name)
    shape, width = like.sharding.shard_shape(like.shape), int(np.prod(like.shape[1:]))
    sums: dict[int, int] = {}
    arrays = []

    def read(rank: int) -> np.ndarray:
        rows, at = np.zeros(shape, like.dtype), 0
        sums[rank] = 0
        for part in layout.parts(rank):
            found = stored[part.start : part.stop].read().result()
            sums[rank] += checksum(found, part.start * width)
            rows[at : at + part.classes] = found[: part.classes]
            at += part.classes
        return rows

    for device, index in like.sharding.addressable_devices_indices_map(like.shape).items():
        rank = (index[0].start or 0) // shape[0]
        arrays.append(jax.device_put(read(rank), device))
    array = jax.make_array_from_single_device_arrays(like.shape, like.sharding, arrays)
    own = [shard.index[0] for shard in array.addressable_shards if shard.replica_id == 0]
    return array, sum(sums[(rows.start or 0) // shape[0]] for rows in own) % 2**32
