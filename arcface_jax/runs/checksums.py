"""A number for each array of a state that another bit pattern would hardly give, however the
array is split.
"""

import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from arcface_jax.training.state import named_leaves

_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32}
_BLOCK = 1 << 20
"""Elements at a time, so that what is computed on the way stays small."""


def checksum(array: np.ndarray, first: int = 0) -> int:
    """Σᵢ (2i + 1)·bᵢ mod 2³² over the elements' bit patterns bᵢ in row-major order.

    The weights are odd, so that no change of a single bit goes unnoticed; a sum over parts is that
    of the whole.

    Args:
      array: any shape, elements of 1, 2 or 4 bytes.
      first: the number i of its first element, for a part of an array.

    Returns: a whole number below 2³².
    """
    bits = np.ascontiguousarray(array).reshape(-1).view(_UNSIGNED[array.dtype.itemsize])
    total = 0
    for start in range(0, bits.size, _BLOCK):
        block = bits[start : start + _BLOCK].astype(np.uint32)
        begin = (2 * (first + start) + 1) % 2**32
        weights = np.arange(block.size, dtype=np.uint32) * np.uint32(2) + np.uint32(begin)
        total += int(np.sum(weights * block, dtype=np.uint32))
    return total % 2**32


def checksums(tree: Any, counted: Mapping[str, int] = types.MappingProxyType({})) -> dict[str, int]:
    """`checksum` of every array of a tree, by its path; all processes that hold a part of it call
    this together.

    Arrays may be split over devices along their first axis.

    Args:
      tree: of arrays.
      counted: for some of them, by path, the sum over this process's own part of what they were
        made from, whose checksum is wanted instead.

    Returns: the checksums, the same in all processes.
    """
    leaves = named_leaves(tree)
    own = np.array(
        [
            counted[name] if name in counted else _of_own_parts(leaf)
            for name, leaf in leaves.items()
        ],
        np.uint32,
    )
    if jax.process_count() > 1:
        own = np.sum(multihost_utils.process_allgather(own), axis=0, dtype=np.uint32)
    return {name: int(value) for name, value in zip(leaves, own, strict=True)}


def _of_own_parts(leaf: Any) -> int:
    """Of the parts that this process holds and no other counts."""
    if not isinstance(leaf, jax.Array):
        return checksum(np.asarray(leaf)) if jax.process_index() == 0 else 0
    row = int(np.prod(leaf.shape[1:]))
    total = 0
    for part in leaf.addressable_shards:
        local = (
            leaf.is_fully_addressable and jax.process_index() > 0
        )  # each process has the whole of it
        if part.replica_id == 0 and not local:
            start = (part.index[0].start or 0) * row if part.index else 0
            total += checksum(np.asarray(part.data), start)
    return total % 2**32
