import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.runs.checksums import checksum, checksums
from arcface_jax.training.sharding import Placement


def by_hand(array):
    """Σ (2i + 1)·bᵢ mod 2³² with Python's whole numbers."""
    width = {1: np.uint8, 2: np.uint16, 4: np.uint32}[array.dtype.itemsize]
    return (
        sum((2 * index + 1) * int(bits) for index, bits in enumerate(array.view(width).ravel()))
        % 2**32
    )


@pytest.mark.parametrize(
    "array",
    [
        np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32),
        np.asarray(jnp.linspace(-1, 1, 7, dtype=jnp.bfloat16)),
        np.array([3, -1], np.int32),
        np.array([True, False, True]),
        np.float32(-0.0).reshape(()),
        np.array([np.nan, np.inf], np.float32),
    ],
    ids=str,
)
def test_checksum_is_the_weighted_sum_of_bit_patterns(array):
    assert checksum(array) == by_hand(array)
    assert checksums([jnp.asarray(array), array]) == {"0": by_hand(array), "1": by_hand(array)}


def test_no_flip_of_one_bit_goes_unnoticed():
    bits = np.random.default_rng(1).integers(0, 2**32, 40, dtype=np.uint32)
    for place in range(40):
        for bit in range(32):
            flipped = bits.copy()
            flipped[place] ^= np.uint32(1 << bit)
            assert checksum(flipped) != checksum(bits)


def test_parts_add_up_over_blocks_and_the_end_of_32_bits():
    bits = np.random.default_rng(2).integers(0, 2**32, 3 * 2**20 + 5, dtype=np.uint32)
    parts = checksum(bits[:1_500_000]) + checksum(bits[1_500_000:], first=1_500_000)
    assert parts % 2**32 == checksum(bits)
    assert checksum(bits[:7], first=2**31 + 2) == checksum(bits[:7], first=2)


def test_it_is_the_same_however_an_array_is_split():
    rows = jax.random.normal(jax.random.key(0), (16, 3))
    split = jax.device_put(rows, Placement(tuple(jax.devices())).split)
    assert checksums({"a": split}) == checksums({"a": rows}) == {"a": by_hand(np.asarray(rows))}
