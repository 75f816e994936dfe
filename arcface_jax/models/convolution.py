"""Convolutions written for XLA's CPU compiler; for training.

XLA turns the gradients of a convolution into convolutions with unusual windows and orders of
dimensions. Its CPU compiler runs some of them as plain loops, ten times slower than what computes
the same sums here; within a loop or a branch (parts of a batch one after the other, frozen steps)
all of them, tens of times slower. Accelerators have kernels for them and keep the standard
operation: see `convolve`.
"""

import functools
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CACHE_BYTES = 2**19 * (os.cpu_count() or 1)
"""How much of a batch's intermediate results should exist at a time: half a megabyte for each
core stays in cache.
"""


def one_cpu() -> bool:
    """Whether the program being traced is for a single CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Any,
    padding: Any,
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it, fast on a CPU.

    `cpu_convolution` where one CPU device is all there is and the convolution is dense, in float32,
    with a square odd kernel padded by half its size; `conv_general_dilated` itself everywhere else.
    The choice is made when the program is traced. Values and gradients are equal to rounding.
    """
    size, stride = kernel.shape[0], window_strides[0]
    served = (
        one_cpu()
        and feature_group_count == 1
        and x.dtype == jnp.float32
        and kernel.shape[1] == size
        and size % 2 == 1
        and tuple(window_strides) == (stride, stride)
        and tuple(map(tuple, padding)) == ((size // 2, size // 2),) * 2
    )
    if served:
        return cpu_convolution(x, kernel, stride)
    return lax.conv_general_dilated(
        x, kernel, window_strides, padding, feature_group_count=feature_group_count, **options
    )


def cpu_convolution(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves x [N, H, W, C] with kernel [k, k, C, F], k odd, padding ⌊k/2⌋, to [N, ⌈H/stride⌉,
    ⌈W/stride⌉, F].

    Differentiable in reverse mode.
    """
    size = kernel.shape[0]
    if size == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if x.shape[1] * x.shape[2] < size**2:
        # XLA would let image and kernel change places here, for fewer multiplications in a far
        # slower form.
        return extract_patches(x, size, stride) @ kernel.reshape(-1, kernel.shape[-1])
    return _spatial(x, kernel, stride)


def extract_patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """[N, H, W, C] to [N, ⌈H/stride⌉, ⌈W/stride⌉, size²·C]: what a kernel [size, size, C, F]
    sees at each place.
    """
    height, width = x.shape[1:3]
    sides = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + width : stride]
        for i in range(size)
        for j in range(size)
    ]
    return jnp.concatenate(shifted, axis=-1)


def _standard(
    x: jax.Array,
    kernel: jax.Array,
    padding: Sequence[tuple[int, int]],
    stride: int = 1,
    **options: Any,
) -> jax.Array:
    """In the one order of dimensions that XLA's CPU compiler is fast at within a loop or a
    branch, too.
    """
    strides, names = (stride, stride), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spatial(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    half = kernel.shape[0] // 2
    return _standard(x, kernel, [(half, half)] * 2, stride)


def _forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _spatial(x, kernel, stride), (x, kernel)


def _backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, height, width = kernel.shape[0], *x.shape[1:3]
    # How far the strided places, with a window of one, reach in each direction.
    reach = [(places - 1) * stride + 1 for places in gradient.shape[1:3]]
    by_channel, by_place = (
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
    )  # the sum is over images
    sides = [
        (size // 2, size // 2 + far - extent)
        for far, extent in zip(reach, (height, width), strict=True)
    ]
    to_kernel = _standard(by_channel, by_place, sides, rhs_dilation=(stride, stride)).transpose(
        1, 2, 0, 3
    )
    if size == 3 and stride == 2 and height % 2 == width % 2 == 0:
        return _halving_input_gradient(gradient, kernel), to_kernel
    sides = [
        (size // 2, size // 2 + extent - far)
        for far, extent in zip(reach, (height, width), strict=True)
    ]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _standard(gradient, turned, sides, lhs_dilation=(stride, stride)), to_kernel


_spatial.defvjp(_forward, _backward)


def _halving_input_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """For a kernel 3×3, stride 2, even height and width: without the zeros that would dilate
    `gradient`.

    x[2p + a] takes part in output p with kernel[a + 1], and for a = 1 also in output p + 1 with
    kernel[0]. So each pixel a, b of a 2×2 cell sees `gradient` through a 2×2 kernel of its own, all
    of them in one convolution.
    """
    channels, features = kernel.shape[2:]
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # the fourth is zero
    seen = np.array(
        [[1, 2], [3, 0]]
    )  # [q, a]: with which of them x[2p + a] takes part in output p + q
    taps = taps[seen[:, :, None, None], seen[None, None]]  # [q, a, r, b, C, F]
    taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, features, 4 * channels)
    cells = _standard(gradient, taps, [(0, 1), (0, 1)])
    images, rows, columns, _ = cells.shape
    cells = cells.reshape(images, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(images, 2 * rows, 2 * columns, channels)
