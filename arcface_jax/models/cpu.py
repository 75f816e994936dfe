"""Workarounds for XLA's CPU compiler: faster layers in training, equal up to rounding.

`training_layers` is the one switch. Inside it, if the traced program is for a single CPU device,
the functions of this file compute calls of plain `nn.Conv`, `nn.BatchNorm` and `PReLU` from the
layers' own parameters. Networks do not change, and evaluation and export keep the standard
operations.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from arcface_jax.models.depthwise import MOST_SHIFTS, Padding, shifted_sum
from arcface_jax.models.layers import PReLU, unbiasing

CACHE_BYTES = 2**19 * (os.cpu_count() or 1)
"""How much of a batch's intermediate results to hold at a time: half a megabyte per core stays in
cache.
"""


def one_cpu() -> bool:
    """Whether the traced program is for a single CPU device."""
    return jax.default_backend() == "cpu" and jax.device_count() == 1


@contextlib.contextmanager
def training_layers() -> Iterator[None]:
    """Inside this context, layers in training are computed in ways that are fast on a single CPU;
    elsewhere it changes nothing.

    Put it around `backbone.apply(..., train=True, mutable=["batch_stats"])`.
    """
    if not one_cpu():
        yield
        return
    output, activated = None, None  # of the last batch normalisation: its result, and PReLU of it

    def replace(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        nonlocal output, activated
        layer: Any = context.module
        if context.method_name == "__call__" and len(args) == 1 and not layer.is_initializing():
            if isinstance(layer, PReLU) and args[0] is output and activated is not None:
                return activated(layer.get_variable("params", "slope"))
            if isinstance(layer, nn.Conv) and layer.conv_general_dilated is None:
                own = layer.clone(parent=None, conv_general_dilated=convolve)
                return own.apply(layer.variables, *args)
            if isinstance(layer, nn.BatchNorm) and _is_served(layer, *args):
                output, activated = _normalise(layer, *args)
                return output
        return call(*args, **kwargs)

    with nn.intercept_methods(replace):
        yield


def _is_served(norm: nn.BatchNorm, x: jax.Array) -> bool:
    return (
        not norm.use_running_average
        and norm.axis_name is None
        and norm.axis == -1
        and norm.use_scale
        and norm.use_bias
        and norm.use_fast_variance
        and x.dtype == norm.param_dtype == jnp.float32
        and norm.dtype in (None, jnp.float32)
    )


def _normalise(norm: Any, x: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
    """The layer's result, with updated running statistics, and its PReLU for a given slope.

    If only the PReLU is used, the compiler drops the plain result.
    """
    scale, bias = (norm.get_variable("params", name) for name in ("scale", "bias"))
    result = normalise_batch(x, scale, bias, None, norm.epsilon)
    variance = result.variance
    if getattr(norm, "running_variance", "biased") == "unbiased":
        variance = variance * unbiasing(x.size // x.shape[-1])
    for name, value in (("mean", result.mean), ("var", variance)):
        before = norm.get_variable("batch_stats", name)
        after = norm.momentum * before + (1 - norm.momentum) * value
        norm.put_variable("batch_stats", name, after)
    return (
        result.output,
        lambda slope: normalise_batch(x, scale, bias, slope, norm.epsilon).output,
    )


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides: Any,
    padding: Any,
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it.

    In float32 uses `cpu_convolution` for dense convolutions with a square odd kernel padded by half
    its size, and `depthwise_convolution` if each channel has its own kernel, small or over the
    whole image; otherwise `conv_general_dilated` itself. XLA turns the gradients of a convolution
    into convolutions with unusual windows and dimension orders. Its CPU compiler runs some of these
    as plain loops, ten times slower than the code here.
    """
    size, stride = kernel.shape[0], window_strides[0]
    served = (
        feature_group_count == 1
        and x.dtype == jnp.float32
        and kernel.shape[1] == size
        and size % 2 == 1
        and tuple(window_strides) == (stride, stride)
        and tuple(map(tuple, padding)) == ((size // 2, size // 2),) * 2
    )
    if served:
        return cpu_convolution(x, kernel, stride)
    sides = tuple(map(tuple, padding))
    whole = kernel.shape[:2] == x.shape[1:3] and not np.any(sides)
    if (
        feature_group_count == kernel.shape[3] == x.shape[-1] > 1
        and x.dtype == jnp.float32
        and (whole or size * kernel.shape[1] <= MOST_SHIFTS)
    ):
        return depthwise_convolution(x, kernel, tuple(window_strides), sides)
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
    """[N, H, W, C] to [N, ⌈H/stride⌉, ⌈W/stride⌉, size²·C]: the input of a kernel [size, size, C,
    F] at each position.
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
    x: jax.Array, kernel: jax.Array, padding: Any, stride: int = 1, **options: Any
) -> jax.Array:
    """In the one dimension order that is always fast with XLA's CPU compiler."""
    strides, names = (stride, stride), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names, **options)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _spatial(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    half = kernel.shape[0] // 2
    return _standard(x, kernel, [(half, half)] * 2, stride)


def _spatial_forward(
    x: jax.Array, kernel: jax.Array, stride: int
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _spatial(x, kernel, stride), (x, kernel)


def _spatial_backward(
    stride: int, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    size, height, width = kernel.shape[0], *x.shape[1:3]
    half = size // 2
    # By how much the strided places, with a window of one, reach less far than the image.
    short = [
        extent - 1 - (places - 1) * stride
        for extent, places in zip((height, width), gradient.shape[1:3], strict=True)
    ]
    if stride == 1 and height * width >= _PRODUCTS_FROM:
        to_kernel = _kernel_gradient(x, gradient, size)
    else:
        # The sum is over images, which take the place of channels.
        by_channel, by_place = x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3)
        sides = [(half, half - pixels) for pixels in short]
        to_kernel = _standard(by_channel, by_place, sides, rhs_dilation=(stride, stride))
        to_kernel = to_kernel.transpose(1, 2, 0, 3)
    if size == 3 and stride == 2 and height % 2 == width % 2 == 0:
        return _halving_input_gradient(gradient, kernel), to_kernel
    sides = [(half, half + pixels) for pixels in short]
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return _standard(gradient, turned, sides, lhs_dilation=(stride, stride)), to_kernel


_spatial.defvjp(_spatial_forward, _spatial_backward)


_PRODUCTS_FROM = 64
"""Pixels of an image from which the gradient of a kernel is faster as products of patches."""


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: int) -> jax.Array:
    """Of a convolution of stride 1, [k, k, C, F]: a sum over places of patch times gradient, as one
    product for as many images as fit the cache.
    """
    channels, features = x.shape[-1], gradient.shape[-1]

    def of_part(x: jax.Array, gradient: jax.Array) -> jax.Array:
        patches = extract_patches(x, size, 1).reshape(-1, size**2 * channels)
        return gradient.reshape(-1, features).T @ patches

    return _sum_over_parts(of_part, x, gradient).T.reshape(size, size, channels, features)


def _halving_input_gradient(gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    """For a kernel 3×3, stride 2, even height and width, without dilating `gradient` by zeros.

    x[2p + a] contributes to output p with kernel[a + 1], and for a = 1 also to output p + 1 with
    kernel[0]. So each pixel a, b of a 2×2 cell sees `gradient` through its own 2×2 kernel; one
    convolution does all of them.
    """
    channels, features = kernel.shape[2:]
    taps = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # the fourth is zero
    # [q, a]: with which of them x[2p + a] takes part in output p + q.
    seen = np.array([[1, 2], [3, 0]])
    taps = taps[seen[:, :, None, None], seen[None, None]]  # [q, a, r, b, C, F]
    taps = taps.transpose(0, 2, 5, 1, 3, 4).reshape(2, 2, features, 4 * channels)
    cells = _standard(gradient, taps, [(0, 1), (0, 1)])
    images, rows, columns, _ = cells.shape
    cells = cells.reshape(images, rows, columns, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(images, 2 * rows, 2 * columns, channels)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def depthwise_convolution(
    x: jax.Array, kernel: jax.Array, stride: tuple[int, int], padding: Padding
) -> jax.Array:
    """`depthwise.shifted_sum`; a kernel over the whole image is one weighted sum of its pixels.

    Differentiated by hand. The gradient by x is a shifted sum too; that by the kernel is a sum over
    pixels per kernel position, computed for a few images at a time while they are in cache.
    """
    if kernel.shape[:2] == x.shape[1:3] and not np.any(padding):
        return jnp.sum(x * kernel[:, :, 0], axis=(1, 2), keepdims=True)
    return shifted_sum(x, kernel, stride, padding)


def _depthwise_forward(
    x: jax.Array, kernel: jax.Array, stride: tuple[int, int], padding: Padding
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return depthwise_convolution(x, kernel, stride, padding), (x, kernel)


def _depthwise_backward(
    stride: tuple[int, int],
    padding: Padding,
    saved: tuple[jax.Array, jax.Array],
    gradient: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if kernel.shape[:2] == x.shape[1:3] and not np.any(padding):
        return gradient * kernel[:, :, 0], jnp.sum(x * gradient, axis=0)[:, :, None]
    places = gradient.shape[1:3]
    # Zeros where the strides passed over, and to where the windows of every pixel of x reach.
    sides = [
        (
            kernel.shape[axis] - 1 - padding[axis][0],
            x.shape[axis + 1] + padding[axis][0] - 1 - (places[axis] - 1) * stride[axis],
            stride[axis] - 1,
        )
        for axis in (0, 1)
    ]
    apart = lax.pad(gradient, jnp.zeros((), gradient.dtype), [(0, 0, 0), *sides, (0, 0, 0)])
    to_x = shifted_sum(apart, jnp.flip(kernel, (0, 1)), (1, 1), ((0, 0), (0, 0)))

    def to_kernel(x: jax.Array, gradient: jax.Array) -> jax.Array:
        padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
        reach = [(places[axis] - 1) * stride[axis] + 1 for axis in (0, 1)]

        def at(place: jax.Array) -> jax.Array:  # in a loop, which is compiled once for all places
            corner = (0, place // kernel.shape[1], place % kernel.shape[1], 0)
            seen = lax.dynamic_slice(padded, corner, (len(x), *reach, x.shape[-1]))
            return jnp.sum(seen[:, :: stride[0], :: stride[1]] * gradient, axis=(0, 1, 2))

        return lax.map(at, jnp.arange(kernel[:, :, 0, 0].size)).reshape(kernel.shape)

    return to_x, _sum_over_parts(to_kernel, x, gradient)


depthwise_convolution.defvjp(_depthwise_forward, _depthwise_backward)


class Normalised(NamedTuple):
    """The result of `normalise_batch`."""

    output: jax.Array  # [N, …, C]
    mean: jax.Array  # [C], the batch's
    variance: jax.Array  # [C], the batch's


@jax.custom_vjp
def normalise_batch(
    x: jax.Array, scale: jax.Array, bias: jax.Array, slope: jax.Array | None, epsilon: float
) -> Normalised:
    """y = scale · (x − μ) / √(σ² + ε) + bias, then max(y, 0) + slope · min(y, 0).

    μ and σ² = E[x²] − μ² are the batch's, per channel; they are returned for the running
    statistics. Differentiated by hand: XLA's CPU compiler writes x − μ and every summed product to
    memory, once per sum. Here a gradient's sums are computed for a few images at a time while they
    are in cache, and x is the only array of batch size that is kept.

    Args:
      x: [N, …, C], float32.
      scale: [C].
      bias: [C].
      slope: [C], or None for no PReLU.
      epsilon: ε, not differentiated.
    """
    return _normalise_forward(x, scale, bias, slope, epsilon)[0]


def _normalise_forward(
    x: jax.Array, scale: jax.Array, bias: jax.Array, slope: jax.Array | None, epsilon: float
) -> tuple[Normalised, tuple[Any, ...]]:
    mean = jnp.mean(x, axis=_all_but_last(x))
    variance = jnp.maximum(0.0, jnp.mean(x**2, axis=_all_but_last(x)) - mean**2)
    inverse = lax.rsqrt(variance + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    output = y if slope is None else jnp.where(y >= 0, y, y * slope)
    return Normalised(output, mean, variance), (x, scale, bias, slope, mean, inverse)


def _normalise_backward(
    saved: tuple[Any, ...], gradients: Normalised
) -> tuple[jax.Array | None, ...]:
    x, scale, bias, slope, mean, inverse = saved
    gradient = gradients.output

    def before_activation(
        x: jax.Array, gradient: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """x − μ, ∂L/∂y, and the example's part of ∂L/∂slope."""
        centred = x - mean
        if slope is None:
            return centred, gradient, jnp.zeros(())
        y = centred * (inverse * scale) + bias
        return (
            centred,
            jnp.where(y >= 0, gradient, gradient * slope),
            jnp.where(y >= 0, 0.0, gradient * y),
        )

    def sums(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        centred, through, to_slope = before_activation(x, gradient)
        axes = _all_but_last(x)
        slope_sum = jnp.zeros(()) if slope is None else jnp.sum(to_slope, axes)
        return jnp.sum(through, axes), jnp.sum(through * centred, axes), slope_sum

    to_bias, to_scale, to_slope = _sum_over_parts(sums, x, gradient)
    to_scale = to_scale * inverse
    centred, through, _ = before_activation(x, gradient)
    count = x.size // x.shape[-1]
    to_x = (through - to_bias / count - centred * (inverse * to_scale / count)) * (inverse * scale)
    to_x = to_x + (gradients.mean + 2.0 * centred * gradients.variance) / count
    return to_x, to_scale, to_bias, None if slope is None else to_slope, None


normalise_batch.defvjp(_normalise_forward, _normalise_backward)


def _all_but_last(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(x.ndim - 1))


def _sum_over_parts(function: Any, x: jax.Array, gradient: jax.Array) -> Any:
    """Σ function(images of x, images of gradient), each of as many images as fit the cache."""
    images = x.shape[0]
    count = min(images, max(1, CACHE_BYTES * images // (2 * x.size * x.dtype.itemsize)))
    # No remainder where a number not much smaller divides the images: it is compiled apart.
    count = next((n for n in range(count, count // 2, -1) if images % n == 0), count)

    def part(start: jax.Array | int, size: int) -> Any:
        return function(*(lax.dynamic_slice_in_dim(array, start, size) for array in (x, gradient)))

    def add(total: Any, number: jax.Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, part(number * count, count)), None

    if count == images:
        return function(x, gradient)
    zeros = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(lambda: part(0, count))
    )
    total = lax.scan(add, zeros, jnp.arange(images // count))[0]
    left = images % count
    return jax.tree.map(jnp.add, total, part(images - left, left)) if left else total
