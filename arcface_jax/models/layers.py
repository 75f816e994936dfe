"""Layers that the backbones share and Flax does not have as the papers use them."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.models.convolution import convolve, one_cpu
from arcface_jax.models.normalisation import normalise_batch

Dtype = Any

FROZEN_SCALE = "frozen_scale"
"""Name of the one parameter that no optimiser may touch, weight decay included."""

# Batch normalisation follows every convolution, so only the ratio between a kernel's
# scale and its gradient matters; fan-out He initialisation is what the paper's code uses.
conv_init = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class PReLU(nn.Module):
    """max(x, 0) + a·min(x, 0) with one learnt slope a for each channel, .25 at first.

    References: He et al., Delving Deep into Rectifiers (arXiv:1502.01852).
    """

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, norm: "CpuBatchNorm | None" = None) -> jax.Array:
        """Applies the activation to x [..., channels], or to norm(x), both in one."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32)
        if norm is not None:
            return norm(x, slope)
        return jnp.where(x >= 0, x, x * slope.astype(self.dtype))


class CpuBatchNorm(nn.BatchNorm):
    """Flax's batch normalisation in training, by `normalise_batch`; equal to rounding."""

    @nn.compact
    def __call__(self, x: jax.Array, slope: jax.Array | None = None) -> jax.Array:  # type: ignore[override]
        """Normalises x [..., channels]; a PReLU of that `slope` may follow."""
        shape = (x.shape[-1],)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        variance = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        result = normalise_batch(x.astype(jnp.float32), scale, bias, slope, self.epsilon)
        if not self.is_initializing():
            mean.value = self.momentum * mean.value + (1 - self.momentum) * result.mean
            variance.value = self.momentum * variance.value + (1 - self.momentum) * result.variance
        return result.output


def batch_norm(
    train: bool, *, dtype: Dtype, epsilon: float, axis_name: str | None = None, affine: bool = True
) -> Callable[..., nn.BatchNorm]:
    """Batch normalisation as every backbone here uses it: running momentum .9, statistics in
    float32.
    """
    on_cpu = train and affine and axis_name is None and dtype == jnp.float32 and one_cpu()
    kind = CpuBatchNorm if on_cpu else nn.BatchNorm

    def make(name: str) -> nn.BatchNorm:
        return kind(
            use_running_average=not train,
            momentum=0.9,
            epsilon=epsilon,
            dtype=dtype,
            axis_name=axis_name if train else None,
            use_scale=affine,
            use_bias=affine,
            name=name,
        )

    return make


def norm_prelu(x: jax.Array, norm: nn.BatchNorm, prelu: PReLU) -> jax.Array:
    """prelu(norm(x)), in one where the normalisation can."""
    return prelu(x, norm) if isinstance(norm, CpuBatchNorm) else prelu(norm(x))


def convolution(
    features: int,
    kernel: tuple[int, int],
    stride: int,
    *,
    train: bool,
    dtype: Dtype,
    name: str,
    padding: int | None = None,
    groups: int = 1,
) -> nn.Conv:
    """A convolution without bias, padded by half its kernel unless `padding` says otherwise;
    see `convolve`.
    """
    return nn.Conv(
        features,
        kernel,
        stride,
        padding=kernel[0] // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=False,
        dtype=dtype,
        kernel_init=conv_init,
        # What is evaluated or exported stays the standard operation.
        conv_general_dilated=convolve if train else None,
        name=name,
    )


def rematerialised(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """The type of block, called with (x, train), computed again for its gradient if `remat`
    says so.
    """
    return nn.remat(block, static_argnums=(2,)) if remat else block


class ConvNorm(nn.Module):
    """Convolution – batch normalisation – PReLU, the last by choice: the unit of the mobile
    networks.

    Attributes:
      features: output channels.
      kernel: height and width of the kernel.
      stride: in both directions.
      padding: pixels on every side.
      groups: of channels that are convolved apart; as many as channels is a depthwise convolution.
      activate: whether the PReLU follows.
      dtype: of the computation.
      epsilon: of the batch normalisation.
      axis_name: mapped axis over which batch statistics are averaged, or None.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    activate: bool = True
    dtype: Dtype = jnp.float32
    epsilon: float = 1e-5
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps [N, H, W, channels] to [N, H', W', features]."""
        conv = convolution(
            self.features,
            self.kernel,
            self.stride,
            train=train,
            dtype=self.dtype,
            name="conv",
            padding=self.padding,
            groups=self.groups,
        )
        x = conv(x)
        norm = batch_norm(train, dtype=self.dtype, epsilon=self.epsilon, axis_name=self.axis_name)(
            "bn"
        )
        return norm_prelu(x, norm, PReLU(self.dtype, name="prelu")) if self.activate else norm(x)


class SqueezeExcite(nn.Module):
    """x · σ(W₂ max(W₁ x̄, 0)), x̄ the mean over the image: one gain for each channel.

    References: Hu et al., Squeeze-and-Excitation Networks (arXiv:1709.01507), eqs. 2–4.
    """

    reduction: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Weighs the channels of x [N, H, W, channels]."""

        def pointwise(features: int, name: str) -> nn.Conv:
            return nn.Conv(
                features, (1, 1), use_bias=False, dtype=self.dtype, kernel_init=conv_init, name=name
            )

        gain = jnp.mean(x, axis=(1, 2), keepdims=True)
        gain = nn.relu(pointwise(max(1, x.shape[-1] // self.reduction), "fc1")(gain))
        return x * nn.sigmoid(pointwise(x.shape[-1], "fc2")(gain))


def flatten_channels_first(x: jax.Array) -> jax.Array:
    """[N, H, W, channels] to [N, channels·H·W], in the order in which published dense layers
    expect it.
    """
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)


class EmbeddingBatchNorm(nn.Module):
    """The batch normalisation that ends a backbone: its scale is a parameter frozen at 1.

    A learnt scale would let the network weigh embedding dimensions after the
    features were whitened; published models freeze it, but store and count it.
    With affine=False there is neither that scale nor a bias, as some projects have it.
    """

    epsilon: float
    axis_name: str | None = None
    affine: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises x [N, D] over the batch, in float32."""
        norm = batch_norm(
            train, dtype=jnp.float32, epsilon=self.epsilon, axis_name=self.axis_name, affine=False
        )
        if not self.affine:
            return norm("norm")(x)
        scale = self.param(FROZEN_SCALE, nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return norm("norm")(x) * jax.lax.stop_gradient(scale) + bias
