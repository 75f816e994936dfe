"""The planner: its arithmetic against what XLA's compiler plans, up to a hundred million
identities.
"""

import pytest

from arcface_jax.errors import InputError
from arcface_jax.training.head_plan import (
    HeadSize,
    compile_step,
    compiled_memory,
    predicted_memory,
    predicted_operations,
)

GIB = 2**30


@pytest.mark.parametrize(
    "size",
    [
        HeadSize("dense", 40_000, 128, 64),
        HeadSize("chunked", 100_003, 256, 128, devices=4),
        HeadSize("fused", 100_003, 256, 128),
        HeadSize("fused", 100_003, 256, 128, dtype="bfloat16"),
        pytest.param(
            HeadSize("fused", 1_000_003, 512, 1024, devices=8, dtype="bfloat16"),
            marks=pytest.mark.slow,
        ),
        HeadSize("partial", 100_003, 256, 128),
        pytest.param(
            HeadSize("partial", 1_000_003, 512, 1024, devices=8, dtype="bfloat16"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_the_prediction_is_the_compilers_plan(size):
    predicted, planned = predicted_memory(size).total, compiled_memory(size).total
    assert 0.97 * planned <= predicted <= 1.2 * planned


@pytest.mark.parametrize(
    ("classes", "devices", "limit"), [(29_000_000, 1, 75), (100_000_000, 8, 30)]
)
def test_many_millions_of_identities_are_planned_in_place(classes, devices, limit):
    """A plan, not a run: the exact step with bfloat16 weights and momentum, dimension 512."""
    size = HeadSize("fused", classes, 512, 512, devices=devices, dtype="bfloat16", chunk=8192)
    memory = compile_step(size).memory_analysis()
    assert memory.temp_size_in_bytes < 0.25 * GIB
    assert compiled_memory(size).total < limit * GIB


def test_operations():
    assert predicted_operations(HeadSize("dense", 1000, 64, 32)) == 3 * 2 * 1000 * 64 * 32
    assert predicted_operations(HeadSize("fused", 1000, 64, 32, devices=4)) == 4 * 2 * 250 * 64 * 32
    assert (
        predicted_operations(HeadSize("partial", 1000, 64, 32, rate=0.2)) == 4 * 2 * 200 * 64 * 32
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"head": "sparse"}, "head is 'sparse'; pass one of dense, chunked, fused, partial"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"batch": 510, "devices": 4}, "batch is 510; pass a multiple of the 4 devices"),
        ({"head": "dense", "dtype": "bfloat16"}, "dtype is bfloat16 with head dense"),
        ({"rate": 2.0}, "rate is 2"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        HeadSize(**{"head": "fused", "num_classes": 1000, **arguments})
