"""Parameters and multiply-adds of every registered backbone that somebody has published,
counted without computing.
"""

import functools
import math

import jax
import jax.numpy as jnp
import pytest

from arcface_jax.models import registry

# Parameters at 112 × 112 with 512-d embeddings, and billions of multiply-adds.
PUBLISHED = {
    "iresnet18": (24_025_600, 2.6),
    "iresnet34": (34_139_328, None),
    "iresnet50": (43_590_848, 6.3),
    "iresnet100": (65_156_160, 12.1),
    "iresnet200": (118_833_920, None),
    "mbf": (2_059_520, 0.45),
    "vit_t": (19_137_792, 1.5),
    "vit_s": (76_023_296, 5.7),
    "vit_b": (113_833_472, 11.4),
    "vit_l": (255_684_352, 25.3),
}


@functools.cache
def traced(name):
    """(program that makes and applies the network, shapes of its variables)."""
    images = jax.ShapeDtypeStruct((1, 112, 112, 3), jnp.float32)
    init = registry.create(name).init_with_output
    program, (_, variables) = jax.make_jaxpr(init, return_shape=True)(jax.random.key(0), images)
    return program, variables


def parameters(name):
    return sum(leaf.size for leaf in jax.tree.leaves(traced(name)[1]["params"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    assert parameters(name) == PUBLISHED[name][0]


def multiply_adds(program) -> int:
    """Of convolutions and matrix products, those with padding's zeros included, as is customary."""
    total = 0
    for equation in program.eqns:
        if equation.primitive.name == "conv_general_dilated":
            kernel, result = (equation.invars[1].aval.shape, equation.outvars[0].aval)
            assert kernel[-1] == result.shape[-1]
            total += result.size * math.prod(kernel[:-1])
        elif equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += equation.outvars[0].aval.size * math.prod(left[axis] for axis in contracted)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                total += multiply_adds(value.jaxpr)
    return total


@pytest.mark.parametrize("name", [name for name, (_, billions) in PUBLISHED.items() if billions])
def test_published_multiply_adds(name):
    # Initial values cost no products. Some of the published counts include normalisations and
    # activations, 3 % of mbf's.
    assert multiply_adds(traced(name)[0]) / 1e9 == pytest.approx(PUBLISHED[name][1], rel=0.03)


@pytest.mark.parametrize(("size", "expected"), [((112, 96), 999_552), (112, 999_552 + 512 * 7)])
def test_mobilefacenet_counts_by_image_size(size, expected):
    """Its only parameters that depend on the size are the global depthwise kernel's, 7 × 6 or 7
    × 7.
    """
    assert (
        registry.count_parameters(registry.create("mobilefacenet", embedding_size=128), size)
        == expected
    )


@pytest.mark.parametrize(
    ("depth", "with_classifier"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_resnet_counts_without_the_embedding_layer(depth, with_classifier):
    """The published counts (.27M to 1.7M) end with a classifier of ten classes, ours with FC
    and BN.
    """
    count = registry.count_parameters(registry.create(f"resnet{depth}", embedding_size=64), 32)
    assert count - (64 * 64 + 64) - 2 * 64 == with_classifier - (64 * 10 + 10)


def test_squeeze_and_excitation_adds_two_matrices_a_block():
    plain, squeezed = (parameters(f"{prefix}iresnet50") for prefix in ("", "se_"))
    blocks = zip((64, 128, 256, 512), (3, 4, 14, 3), strict=True)
    assert squeezed - plain == sum(
        number * 2 * channels * (channels // 16) for channels, number in blocks
    )


def test_depth_152_moves_blocks_from_the_second_to_the_third_stage():
    """(3, 8, 36, 3) against (3, 13, 30, 3): six blocks of 256 channels more, five of 128 fewer."""

    def block(channels: int) -> int:
        return 2 * 9 * channels**2 + 3 * 2 * channels + channels

    counts = {depth: parameters(f"iresnet{depth}") for depth in (100, 152)}
    assert counts[152] - counts[100] == 6 * block(256) - 5 * block(128)
