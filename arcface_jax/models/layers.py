"""Layers and settings that all backbones share."""

import dataclasses
import functools
import inspect
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.dtypes import promote_dtype

from arcface_jax.cosine import head_dtype, product

Dtype = Any
LayerType = Any
"""A Flax module class with some of its fields given, by `functools.partial`."""

FROZEN_SCALE = "frozen_scale"
"""Name of the one parameter that no optimiser may touch, weight decay included."""

RunningVariance = Literal["biased", "unbiased"]
"""The running variance that a batch normalisation gets from a batch of n values per channel.

biased: Σ(x − μ)²/n, as Flax and MXNet do. unbiased: Σ(x − μ)²/(n − 1), as PyTorch does. Both
normalise the batch itself by the former.
"""

InitialWeights = Literal["he", "arcface_torch"]
"""Initial weights.

he: kernels N(0, 2/fan_out), dense layers N(0, 1/fan_in) without bias. arcface_torch: an IResNet's
kernels N(0, .01), its dense layer and bias uniform in ±1/√fan_in; for transformers see
`VisionTransformer`. Mobile networks always use the former. In both, slopes of PReLUs are .25,
scales of batch normalisations 1 and their biases 0.
"""

# Batch normalisation follows every convolution, so only the ratio between a kernel's
# scale and its gradient matters; fan-out He initialisation is what the paper's code uses.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def torch_start(fan_in: int) -> dict[str, Any]:
    """Kernel and bias uniform in ±1/√fan_in, PyTorch's default initialisation."""

    def init(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(fan_in**-0.5), fan_in**-0.5)

    return {"kernel_init": init, "bias_init": init}


class PReLU(nn.Module):
    """max(x, 0) + a·min(x, 0) with one learnt slope a per channel, initially .25.

    Flax's `nn.PReLU` has one slope for all channels; published face networks have one per channel.

    References: He et al., Delving Deep into Rectifiers (arXiv:1502.01852).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation to x [..., channels]."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],), jnp.float32)
        return jnp.where(x >= 0, x, times(x, slope))


def times(x: jax.Array, gain: jax.Array) -> jax.Array:
    """x · gain in the dtype of x, for a gain in float32 of fewer dimensions, or of size 1 along
    some: its gradient, a sum over the others of x, is summed in float32.
    """
    return x * gain if x.dtype == gain.dtype else _times(x, gain)


@jax.custom_vjp
def _times(x: jax.Array, gain: jax.Array) -> jax.Array:
    return x * gain.astype(x.dtype)


def _times_forward(x: jax.Array, gain: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _times(x, gain), (x, gain)


def _times_backward(
    factors: tuple[jax.Array, jax.Array], slopes: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, gain = factors
    each = slopes.astype(gain.dtype) * x.astype(gain.dtype)
    shape = (1,) * (x.ndim - gain.ndim) + gain.shape
    over = tuple(axis for axis in range(x.ndim) if shape[axis] < x.shape[axis])
    to_gain = jnp.sum(each, axis=over).reshape(gain.shape)
    return slopes * gain.astype(x.dtype), to_gain


_times.defvjp(_times_forward, _times_backward)


class BatchNorm(nn.BatchNorm):
    """Flax's batch normalisation, optionally with PyTorch's running variance (`RunningVariance`).

    The count n is over all devices of `axis_name`.
    """

    momentum: float = 0.9
    running_variance: RunningVariance = "biased"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises x [..., channels]."""
        before: Any = self.get_variable("batch_stats", "var")
        # Unwrapped, so that whoever intercepts the calls of layers sees one call.
        normalise = inspect.unwrap(nn.BatchNorm.__call__)
        # Wide before it is used twice, so that the two parts of its gradient are added in float32.
        wide = x.astype(head_dtype(x))
        normalised: jax.Array = normalise(self, wide, use_running_average, mask=mask)
        averaged = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        if self.running_variance == "unbiased" and not (averaged or self.is_initializing()):
            kept = self.momentum * before
            added = self.get_variable("batch_stats", "var") - kept
            count = x.size // x.shape[-1]
            if self.axis_name is not None:
                count *= jax.lax.axis_size(self.axis_name)
            self.put_variable("batch_stats", "var", kept + added * unbiasing(count))
        return normalised


def unbiasing(count: int) -> float:
    """n/(n − 1), the ratio of the unbiased to the biased variance of n values; 1 for one value."""
    return count / max(1, count - 1)


class Backbone(nn.Module):
    """The settings of every backbone here.

    Attributes:
      dropout: rate before the embedding layer.
      epsilon: of the batch normalisations; 1e-5 (arcface_torch) or 2e-5 (MXNet).
      dtype: of the computation. In bfloat16 every convolution and product has factors in it,
        forward and backward; parameters, batch statistics, the embedding, and sums over a batch
        stay float32.
      axis_name: mapped axis over which batch statistics are averaged, or None for local ones.
      remat: recompute each block for its gradient instead of storing its activations.
      running_variance: see `RunningVariance`.
      initial_weights: see `InitialWeights`.
    """

    _: dataclasses.KW_ONLY
    dropout: float = 0.0
    epsilon: float = 1e-5
    dtype: Dtype = jnp.float32
    axis_name: str | None = None
    remat: bool = False
    running_variance: RunningVariance = "biased"
    initial_weights: InitialWeights = "he"

    def conv(self, kernel_init: nn.initializers.Initializer = he_normal) -> LayerType:
        """The convolutions: without bias, in `dtype`."""
        return functools.partial(nn.Conv, use_bias=False, dtype=self.dtype, kernel_init=kernel_init)

    def embedding_layer(self, layer: LayerType = nn.Dense) -> LayerType:
        """A layer that ends the network, `nn.Dense` or a 1×1 `nn.Conv`: its result is float32. In
        bfloat16 its factors alone are rounded, and those of its gradients.
        """
        if self.dtype != jnp.bfloat16:
            return functools.partial(layer, dtype=jnp.float32)
        way = {nn.Dense: {"dot_general": _product}, nn.Conv: {"conv_general_dilated": _pointwise}}
        return functools.partial(layer, promote_dtype=_as_they_are, **way[layer])

    def norm(self, train: bool) -> LayerType:
        """The batch normalisations; statistics are computed in float32."""
        return functools.partial(
            BatchNorm,
            use_running_average=not train,
            epsilon=self.epsilon,
            dtype=self.dtype,
            axis_name=self.axis_name,
            running_variance=self.running_variance,
        )

    def embedding_norm(self, affine: bool = True) -> "EmbeddingBatchNorm":
        """The batch normalisation of the embedding, named `features`."""
        return EmbeddingBatchNorm(
            self.epsilon, self.axis_name, affine, self.running_variance, name="features"
        )


def _as_they_are(*arrays: Any, dtype: Any = None, inexact: bool = True) -> Any:
    return arrays


def _product(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product("nc,cd->nd", x, kernel, "bfloat16")


def _pointwise(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    return product("nhwc,cd->nhwd", x, kernel[0, 0], "bfloat16")


def wide_product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    """`jnp.einsum` of two factors, summed in float32, which the result is in; where they are
    bfloat16, so are those of the gradients' products.
    """
    if a.dtype == b.dtype == jnp.bfloat16:
        return product(equation, a, b, "bfloat16")
    return jnp.einsum(equation, a, b, preferred_element_type=head_dtype(a, b))


def bias_apart(*arrays: Any, dtype: Any = None, inexact: bool = True) -> Any:
    """How an `nn.Dense` or `nn.Conv` promotes (x, kernel, bias): the factors to `dtype`, the bias
    not at all. So its gradient, a sum over a batch, is summed in float32, which the result is in.
    """
    *factors, bias = arrays
    return *promote_dtype(*factors, dtype=dtype, inexact=inexact), bias


class ConvNorm(nn.Module):
    """Convolution – batch normalisation – optional PReLU: the unit of the mobile networks.

    Attributes:
      conv: the type of convolution.
      norm: the type of batch normalisation.
      features: output channels.
      kernel: height and width of the kernel.
      stride: in both directions.
      padding: pixels on every side.
      groups: of channels convolved separately; as many groups as channels is a depthwise
        convolution.
      activate: whether to add the PReLU.
    """

    conv: LayerType
    norm: LayerType
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    activate: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [N, H, W, channels] to [N, H', W', features]."""
        conv = self.conv(
            self.features,
            self.kernel,
            self.stride,
            padding=self.padding,
            feature_group_count=self.groups,
            name="conv",
        )
        x = self.norm(name="bn")(conv(x))
        return PReLU(name="prelu")(x) if self.activate else x


class SqueezeExcite(nn.Module):
    """x · σ(W₂ max(W₁ x̄, 0)) with x̄ the mean over the image: one gain per channel.

    References: Hu et al., Squeeze-and-Excitation Networks (arXiv:1709.01507), eqs. 2–4.
    """

    conv: LayerType
    reduction: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Weighs the channels of x [N, H, W, channels]."""
        channels = x.shape[-1]
        gain = jnp.mean(x, axis=(1, 2), keepdims=True)
        gain = nn.relu(self.conv(max(1, channels // self.reduction), (1, 1), name="fc1")(gain))
        gain = nn.sigmoid(self.conv(channels, (1, 1), name="fc2")(gain))
        return times(x, gain.astype(head_dtype(gain)))


def flatten_channels_first(x: jax.Array) -> jax.Array:
    """[N, H, W, channels] to [N, channels·H·W], in the order that published dense layers expect."""
    return jnp.transpose(x, (0, 3, 1, 2)).reshape(x.shape[0], -1)


def generalised_mean(x: jax.Array, power: float | jax.Array = 3.0) -> jax.Array:
    """GeM pooling, (mean of max(x, ε)^p)^(1/p) with ε = 1e-6, of feature maps or tokens.

    Args:
      x: [N, height, width, channels] or [N, tokens, channels].
      power: p; it may be learnt. 1 is the average of what is positive, ∞ the maximum.

    Returns: [N, channels].

    References: Radenović et al., Fine-tuning CNN Image Retrieval with No Human Annotation
      (arXiv:1711.02512), eq. 3.
    """
    positive = jnp.maximum(x, 1e-6) ** power
    return jnp.mean(positive, axis=tuple(range(1, x.ndim - 1))) ** (1.0 / power)


class EmbeddingBatchNorm(nn.Module):
    """The batch normalisation that ends a backbone; its scale is a parameter frozen at 1.

    A learnt scale would let the network reweight embedding dimensions after whitening. Published
    models freeze it, but store and count it. affine=False removes the scale and the bias, as in
    some projects.
    """

    epsilon: float
    axis_name: str | None = None
    affine: bool = True
    running_variance: RunningVariance = "biased"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Normalises x [N, D] over the batch, in float32."""
        norm = BatchNorm(
            use_running_average=not train,
            epsilon=self.epsilon,
            dtype=jnp.float32,
            axis_name=self.axis_name,
            use_scale=False,
            use_bias=False,
            running_variance=self.running_variance,
            name="norm",
        )
        if not self.affine:
            return norm(x)
        scale = self.param(FROZEN_SCALE, nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return norm(x) * jax.lax.stop_gradient(scale) + bias
