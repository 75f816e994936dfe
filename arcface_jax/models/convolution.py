"""Convolutions written for XLA's CPU compiler; for training.

XLA turns the gradients of a convolution into convolutions with unusual windows. Its CPU compiler runs some of them as
plain loops, ten times slower than the matrix products that compute the same sums here. Accelerators have kernels for
them and keep the standard operation: see `convolve`.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

CACHE_BYTES = 2**19 * (os.cpu_count() or 1)
"""How much of a batch's intermediate results should exist at a time: half a megabyte for each core stays in cache."""


def one_cpu() -> bool:
    """Whether the program being traced is for a single CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


def convolve(
    x: jax.Array, kernel: jax.Array, window_strides: Any, padding: Any, *, feature_group_count: int = 1, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `flax.linen.Conv` calls it, fast on a CPU.

    `cpu_convolution` where one CPU device is all there is and the convolution is dense, in float32, with a square
    odd kernel padded by half its size; `conv_general_dilated` itself everywhere else. The choice is made when the
    program is traced. Values and gradients are equal to rounding.
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
    """Convolves x [N, H, W, C] with kernel [k, k, C, F], k odd, padding ⌊k/2⌋, to [N, ⌈H/stride⌉, ⌈W/stride⌉, F].

    Only reverse-mode differentiation is defined where the kernel is 3×3 and the stride 2.
    """
    size = kernel.shape[0]
    if size == 1:
        return x[:, ::stride, ::stride] @ kernel[0, 0]
    if x.shape[1] * x.shape[2] < size**2:
        # XLA would let image and kernel change places here, for fewer multiplications in a far slower form.
        return extract_patches(x, size, stride) @ kernel.reshape(-1, kernel.shape[-1])
    if size == 3 and stride == 2 and x.shape[1] % 2 == x.shape[2] % 2 == 0:
        return _halving_convolution(x, kernel)
    return _standard(x, kernel, stride)


def extract_patches(x: jax.Array, size: int, stride: int) -> jax.Array:
    """[N, H, W, C] to [N, ⌈H/stride⌉, ⌈W/stride⌉, size²·C]: what a kernel [size, size, C, F] sees at each place."""
    height, width = x.shape[1:3]
    sides = (size // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), sides, sides, (0, 0)))
    shifted = [padded[:, i : i + height : stride, j : j + width : stride] for i in range(size) for j in range(size)]
    return jnp.concatenate(shifted, axis=-1)


def _standard(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = ((kernel.shape[0] // 2,) * 2,) * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


@jax.custom_vjp
def _halving_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Kernel 3×3, stride 2, even height and width."""
    return _standard(x, kernel, 2)


def _halving_forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _standard(x, kernel, 2), (x, kernel)


def _halving_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The input's gradient without the zeros that would dilate `gradient`, the kernel's as XLA has it.

    x[2p + a] takes part in output p with kernel[a + 1], and for a = 1 also in output p + 1 with kernel[0]. So each
    pixel a, b of a 2×2 cell sees `gradient` through a 2×2 kernel of its own, all of them in one convolution.
    """
    x, kernel = saved
    channels, features = kernel.shape[2:]
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # the fourth is zero
    seen = np.array([[1, 2], [3, 0]])  # [q, a]: with which of them x[2p + a] takes part in output p + q
    taps = taps[seen[:, :, None, None], seen[None, None]]  # [q, a, r, b, C, F]
    taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, features, 4 * channels)
    cells = lax.conv_general_dilated(
        gradient, taps, (1, 1), ((0, 1), (0, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    images, rows, columns, _ = cells.shape
    cells = cells.reshape(images, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    (to_kernel,) = jax.linear_transpose(lambda kernel: _standard(x, kernel, 2), kernel)(gradient)
    return cells.reshape(x.shape), to_kernel


_halving_convolution.defvjp(_halving_forward, _halving_backward)
