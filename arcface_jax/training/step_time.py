"""How long a step should take on accelerators that are not at hand: from what it computes, moves
and sends, and from their makers' rates.

Two bounds, neither of them a measurement: with everything at its full rate and at once, and with
one thing after the other. What a network needs is counted by hand, from the shapes of its products
and normalisations; what a compiler adds is not in it.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from arcface_jax.data.decode import height_and_width
from arcface_jax.training.head_plan import HeadSize, predicted_operations

PEAKS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v6": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}
"""Operations a second in bfloat16 with float32 sums, dense, by the makers' data sheets."""


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """A kind of device, by its maker's figures.

    Attributes:
      products: operations a second in bfloat16 (or float16), dense.
      memory: bytes a second.
      link: bytes a second to devices of the same node, each way.
      network: bytes a second to those of other nodes, each way.
      node: devices that `link` joins.
      small: seconds that a collective of a few numbers takes; an assumption, not a figure.
    """

    products: float
    memory: float
    link: float
    network: float
    node: int
    small: float


ACCELERATORS = {
    "A100": Accelerator(PEAKS["A100"], 2.039e12, 300e9, 25e9, 8, 15e-6),
    "H100": Accelerator(PEAKS["H100"], 3.35e12, 450e9, 50e9, 8, 15e-6),
    "TPU v5e": Accelerator(PEAKS["TPU v5 lite"], 819e9, 100e9, 3.1e9, 256, 5e-6),
}
"""A100 80 GB and H100, both SXM: NVIDIA's data sheets (NVLink of 600 and 900 GB/s is both ways),
and of DGX A100 and H100 one network card of 200 and 400 Gbit/s a device. TPU v5e: Google Cloud's
page docs.cloud.google.com/tpu/docs/v5e: 400 GB/s both ways over four ports, of which a ring uses
two; 6.4 Tbit/s for each pod of 256.
"""

NORM_PASSES = {nn.BatchNorm: 8, nn.LayerNorm: 5}
"""How often a step goes over the input of a normalisation at least: to normalise it reads and
writes, and for the gradient it reads two and writes one; a batch normalisation reads before that
for its statistics, and two for the sums of its gradient. Activations and sums of branches are taken
along.
"""

UPDATE_BYTES = 24
"""For a parameter: gradient, momentum and itself, each read and written in float32."""

ROW_BYTES = 20
"""The same for a number of a fused head's class rows, whose gradient is not stored: read twice, for
loss and gradient; momentum read and written, and itself written.
"""

LOGIT_BYTES = 22
"""For a logit in a chunk that is not kept: written and read in float32, forward and backward, and
its slope in bfloat16 written, and read by two products.
"""


@dataclasses.dataclass(frozen=True)
class Needs:
    """What a step needs of a backbone.

    Attributes:
      operations: of the forward products of an image, multiplications and additions counted apart,
        with those of the padding.
      image_bytes: that a step moves for each image: factors and results of the products, forward
        and backward, and what `NORM_PASSES` says.
      weight_bytes: the same for the weights, once a step.
      parameters: how many.
      norms: batch normalisations.
    """

    operations: float
    image_bytes: float
    weight_bytes: float
    parameters: int
    norms: int


@functools.lru_cache(maxsize=64)
def needs(backbone: nn.Module, image_size: int | tuple[int, int]) -> Needs:
    """Counted by hand from one traced forward pass; each of its products has two more of the same
    size for its gradients.
    """
    images = jax.ShapeDtypeStruct((1, *height_and_width(image_size), 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros(images.shape, images.dtype))
    )
    normalised: list[tuple[Any, int]] = []

    def watch(call: Any, arguments: Any, options: Any, context: Any) -> Any:
        kind = next((kind for kind in NORM_PASSES if isinstance(context.module, kind)), None)
        if kind is not None and context.method_name == "__call__":
            normalised.append((kind, _bytes(arguments[0])))
        return call(*arguments, **options)

    def forward(variables: Any, images: jax.Array) -> Any:
        with nn.intercept_methods(watch):
            random = {"dropout": jax.random.key(0)}
            return backbone.apply(variables, images, True, mutable=["batch_stats"], rngs=random)[0]

    program = jax.make_jaxpr(forward)(variables, images)
    operations, of_images, of_weights = 0.0, 0.0, 0.0
    for equation in _products(program.jaxpr):
        x, weights = (factor.aval for factor in equation.invars)
        result: Any = equation.outvars[0].aval
        operations += 2.0 * result.size * _summed(equation)
        of_images += 3 * (_bytes(x) + _bytes(result))
        if equation.primitive.name == "dot_general" and weights.ndim > 2:  # of attention
            of_images += 3 * _bytes(weights)
        else:
            of_weights += 3 * _bytes(weights)
    of_images += sum(NORM_PASSES[kind] * size for kind, size in normalised)
    return Needs(
        operations,
        of_images,
        of_weights,
        sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        sum(kind is nn.BatchNorm for kind, _ in normalised),
    )


def counted_step(
    backbone: nn.Module, image_size: int | tuple[int, int], batch: int
) -> dict[str, float]:
    """XLA's count of a lowered step of the backbone alone, forward and backward, for a GPU: its
    "flops", and "bytes accessed" if every operation went to memory, for nothing is fused yet.
    """
    images = jax.ShapeDtypeStruct((batch, *height_and_width(image_size), 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, *images.shape[1:])))
    )

    def step(params: Any, rest: Any, images: jax.Array, slopes: jax.Array) -> Any:
        def embed(params: Any) -> Any:
            random = {"dropout": jax.random.key(0)}
            options: Any = {"mutable": ["batch_stats"], "rngs": random}
            return backbone.apply({"params": params, **rest}, images, True, **options)[0]

        return jax.vjp(embed, params)[1](slopes)

    rest = {name: part for name, part in variables.items() if name != "params"}
    slopes = jax.eval_shape(lambda v, x: backbone.apply(v, x), variables, images)
    traced = jax.jit(step).trace(variables["params"], rest, images, slopes)
    found = traced.lower(lowering_platforms=("cuda",)).cost_analysis()
    return {name: float(found[name]) for name in ("flops", "bytes accessed")}


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step on each device, part by part.

    Attributes:
      products: of backbone and head.
      memory: all that is moved to and from memory.
      links: gradients of the backbone summed over the devices, embeddings gathered, their gradients
        scattered.
      small: the collectives of batch statistics, forward and backward.
    """

    products: float
    memory: float
    links: float
    small: float

    @property
    def at_once(self) -> float:
        """With all overlapped: the longest part."""
        return max(self.products, self.memory, self.links + self.small)

    @property
    def in_turn(self) -> float:
        """With nothing overlapped."""
        return self.products + self.memory + self.links + self.small


def step_time(
    need: Needs,
    device: Accelerator,
    *,
    classes: int,
    batch: int,
    devices: int = 8,
    dim: int = 512,
    statistics: bool = True,
) -> StepTime:
    """What a step of a backbone and a fused, exact head over split classes should take.

    Args:
      need: of the backbone, in the dtype that it is trained in.
      device: the kind of device.
      classes: C.
      batch: N, over all devices.
      devices: that share batch and classes.
      dim: D.
      statistics: whether batch statistics are of the whole batch.
    """
    head = HeadSize("fused", classes, dim, batch, devices)
    images = batch / devices
    operations = 3 * images * need.operations + predicted_operations(head)
    moved = images * need.image_bytes + need.weight_bytes + UPDATE_BYTES * need.parameters
    moved += head.rows * (ROW_BYTES * dim + LOGIT_BYTES * batch)
    gradients, embeddings = 4.0 * need.parameters, 4.0 * batch * dim
    links = 2 * _ring(gradients, device, devices) + 2 * _ring(embeddings, device, devices)
    small = 2 * need.norms * device.small if statistics and devices > 1 else 0.0
    return StepTime(operations / device.products, moved / device.memory, links, small)


def _ring(size: float, device: Accelerator, devices: int) -> float:
    """Seconds of a reduce-scatter, or an all-gather, of so many bytes: within each node, and of
    every device's share among the nodes. An all-reduce is both.
    """
    within = min(devices, device.node)
    nodes = -(-devices // within)
    among = (nodes - 1) / nodes * size / within / device.network
    return (within - 1) / within * size / device.link + among


def _products(jaxpr: Jaxpr) -> Iterator[Any]:
    """All convolutions and matrix products of a program, those of inner ones too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            yield equation
            continue
        for value in equation.params.values():
            inner = value.jaxpr if isinstance(value, ClosedJaxpr) else value
            if isinstance(inner, Jaxpr):
                yield from _products(inner)


def _summed(equation: Any) -> int:
    """How many products each number of the result is a sum of."""
    x, weights = (factor.aval for factor in equation.invars)
    if equation.primitive.name == "dot_general":
        ((axes, _), _) = equation.params["dimension_numbers"]
        return math.prod(x.shape[axis] for axis in axes)
    features = weights.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    return int(weights.size // features)


def _bytes(array: Any) -> int:
    return int(array.size * array.dtype.itemsize)
