"""What a configuration costs, from shapes alone: parameters, operations, and memory on any number
of devices.

Nothing is allocated and no data are needed, so that a run on sixty-four accelerators can be looked
at on a laptop. What is stored from step to step is counted exactly; what a step works with besides
is estimated.
"""

import dataclasses
import functools
import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from arcface_jax.arguments import check_between
from arcface_jax.data.decode import height_and_width
from arcface_jax.errors import InputError
from arcface_jax.heads.shards import parts_of_shard, shard_rows
from arcface_jax.losses import Triplet
from arcface_jax.training.config import Config
from arcface_jax.training.head_plan import HeadSize, predicted_memory, predicted_operations
from arcface_jax.training.program import Program, create_program
from arcface_jax.training.state import TrainState, is_class_rows
from arcface_jax.training.step import head_chunk

DEVICE_COUNTS = (1, 8, 64)
"""Devices that memory is told for."""


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
    """Bytes on each of so many devices.

    Attributes:
      devices: that share batch and, with a sharded head, classes.
      backbone: its parameters, running statistics and moving averages, and the little else that a
        state has; exact.
      optimiser: what the optimiser keeps for the backbone; exact.
      class_rows: class weights and what the optimiser keeps for them; exact, padding of uneven
        shards included.
      gradients: of all that the optimiser trains, twice where a batch is computed in parts; exact,
        of arrays that a compiler may share with others.
      activations: an estimate: what automatic differentiation keeps of the backbone for this
        device's images, in the network's own dtypes. XLA's plan of a step on a CPU comes within a
        few per cent of it in float32; where a compiler fuses more, or recomputes what is cheap, a
        step keeps less.
      head: an estimate: what the loss works with, by `arcface_jax.training.head_plan`.
    """

    devices: int
    backbone: int
    optimiser: int
    class_rows: int
    gradients: int
    activations: int
    head: int

    @property
    def state(self) -> int:
        """What is stored from step to step."""
        return self.backbone + self.optimiser + self.class_rows

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.gradients + self.activations + self.head


@dataclasses.dataclass(frozen=True)
class Relaying:
    """Bytes of class rows on each device where a run goes on with another number of them.

    Attributes:
      saved: devices that the checkpoint was made on.
      devices: that it goes on with.
      read: what the one with most reads of the checkpoint; exact.
      at_a_time: the rows of one saved device, which are decoded as a whole.
    """

    saved: int
    devices: int
    read: int
    at_a_time: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a configuration costs for a number of classes.

    Attributes:
      parameters: of the backbone.
      class_weights: C × D, or C × K × D.
      forward_operations: of the backbone for one image, multiplications and additions counted
        apart.
      step_operations: of a whole step, over all devices: forward, backward (twice that), the
        forward again with model.remat, and the head's products.
      memory: by number of devices.
      relaying: from each of the numbers of devices to the next; empty for classes that are not
        split.
    """

    parameters: int
    class_weights: int
    forward_operations: float
    step_operations: float
    memory: dict[int, DeviceMemory]
    relaying: tuple[Relaying, ...]


def abstract_program(config: Config, num_classes: int) -> Program:
    """The program of a configuration on the first device at hand, for its shapes: they do not
    depend on which.
    """
    run = dataclasses.replace(config.run, devices=1, distributed=False)
    return create_program(dataclasses.replace(config, run=run), num_classes)


def abstract_state(program: Program, devices: int) -> TrainState:
    """The shapes of a program's whole state, its class rows laid out for so many devices if it
    splits them.
    """
    shards = devices if program.placement.split_classes else 1
    shapes: TrainState = jax.eval_shape(functools.partial(program.make_state, shards))
    return shapes


def state_memory(program: Program, devices: int) -> DeviceMemory:
    """What each of so many devices stores, and the gradients; without estimates, which are 0.

    Raises:
      InputError: the number of devices is not positive.
    """
    check_between("devices", devices, 1, math.inf)
    shapes = abstract_state(program, devices)
    split = devices if program.placement.split_classes else 1
    bytes_of = {"backbone": 0, "optimiser": 0, "class_rows": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        part = "optimiser" if path[0].name == "optimiser_state" else "backbone"
        if is_class_rows(path):
            bytes_of["class_rows"] += _bytes(leaf) // split
        else:
            bytes_of[part] += _bytes(leaf)
    gradients = sum(
        _bytes(leaf) // (split if is_class_rows(path) else 1)
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes.params)
    )
    copies = 2 if program.config.run.accumulate > 1 else 1
    return DeviceMemory(devices, **bytes_of, gradients=copies * gradients, activations=0, head=0)


def relaying(program: Program, saved: int, devices: int) -> Relaying | None:
    """What it costs to go on elsewhere; None for a program that does not split the classes.

    Raises:
      InputError: a number of devices is not positive.
    """
    if not program.placement.split_classes:
        return None
    of_saved, classes = state_memory(program, saved).class_rows, program.num_classes
    row = of_saved // shard_rows(classes, saved)
    rows = max(
        sum(part.stop - part.start for part in parts_of_shard(classes, saved, devices, rank))
        for rank in range(devices)
    )
    return Relaying(saved, devices, rows * row, of_saved)


@functools.lru_cache(maxsize=64)
def kept_activations(backbone: nn.Module, image_size: int | tuple[int, int]) -> int:
    """Bytes that automatic differentiation keeps for each image of a batch: what grows with it.

    Args:
      backbone: as it is trained, with its dtype and rematerialisation.
      image_size: side, or (height, width), in pixels.

    Returns: the difference between the residuals of two images and of one.
    """

    def residuals(images: jax.Array) -> Any:
        variables = backbone.init(jax.random.key(0), images)
        statistics = {name: part for name, part in variables.items() if name != "params"}

        def embed(params: Any) -> Any:
            random = {"dropout": jax.random.key(0)}
            return backbone.apply(
                {"params": params, **statistics},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs=random,
            )[0]

        return jax.vjp(embed, variables["params"])[1]

    def kept(count: int) -> int:
        images = jax.ShapeDtypeStruct((count, *height_and_width(image_size), 3), jnp.float32)
        return sum(_bytes(leaf) for leaf in jax.tree.leaves(jax.eval_shape(residuals, images)))

    return kept(2) - kept(1)


@functools.lru_cache(maxsize=64)
def forward_operations(backbone: nn.Module, image_size: int | tuple[int, int]) -> float:
    """Operations of the backbone for one image, by XLA's count of the lowered program; padding does
    not count.

    Twice the multiply-adds that papers call FLOPs; those are often counted with the zeros of the
    padding, which makes them a few per cent more for a network of 3×3 convolutions.

    Raises:
      InputError: the backend at hand counts no operations.
    """
    images = jax.ShapeDtypeStruct((1, *height_and_width(image_size), 3), jnp.float32)
    variables = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros(images.shape, images.dtype))
    )
    analysis = jax.jit(backbone.apply).lower(variables, images).cost_analysis()
    if not analysis or "flops" not in analysis:
        raise InputError(
            f"backend {jax.default_backend()} counts no operations; set JAX_PLATFORMS=cpu for this"
        )
    return float(analysis["flops"])


def cost(config: Config, num_classes: int, devices: tuple[int, ...] = DEVICE_COUNTS) -> Cost:
    """What a configuration costs.

    Args:
      config: the configuration.
      num_classes: C.
      devices: numbers of devices to tell the memory for; a batch of N is ⌈N/devices⌉ images on
        each.

    Returns: the cost.

    Raises:
      InputError: a setting of the configuration is out of range or without effect, or a number of
        devices not positive.
    """
    program = abstract_program(config, num_classes)
    run, image_size = config.run, config.data.size
    by_image = kept_activations(program.backbone, image_size)
    memory = {}
    for count in devices:
        images = math.ceil(run.batch_size / (run.accumulate * count))
        stored = state_memory(program, count)
        head = _head_size(program, images, count)
        working = 0 if head is None else predicted_memory(head).working
        memory[count] = dataclasses.replace(stored, activations=images * by_image, head=working)
    moves = (relaying(program, *pair) for pair in itertools.pairwise(devices))
    shapes = abstract_state(program, 1)
    weights = jax.eval_shape(lambda state: state.class_weights, shapes)
    forward = forward_operations(program.backbone, image_size)
    whole = _head_size(program, math.ceil(run.batch_size / run.accumulate), 1)
    of_head = 0.0 if whole is None else run.accumulate * predicted_operations(whole)
    return Cost(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes.params["backbone"])),
        class_weights=0 if weights is None else weights.size,
        forward_operations=forward,
        step_operations=(4 if config.model.remat else 3) * forward * run.batch_size + of_head,
        memory=memory,
        relaying=tuple(move for move in moves if move is not None),
    )


def trace_step(program: Program) -> jax.stages.Traced:
    """The whole training step of a program, traced for its devices from shapes: augmentation,
    network, head, update.

    Raises:
      InputError: for pmap, whose step is of one device.
    """
    config = program.config
    if config.run.parallel == "pmap":
        raise InputError(
            "run.parallel pmap has no step over all devices to lower; use --run.parallel jit"
        )
    batch = config.run.batch_size
    sharding = program.placement.split
    return jax.jit(program.make_step(), donate_argnums=0).trace(
        program.placement.shapes(program.make_state),
        jax.eval_shape(lambda: program.key),
        jax.ShapeDtypeStruct((batch, *config.data.size, 3), jnp.uint8, sharding=sharding),
        jax.ShapeDtypeStruct((batch,), jnp.int32, sharding=sharding),
    )


def _bytes(leaf: Any) -> int:
    return int(leaf.size * leaf.dtype.itemsize)


def _head_size(program: Program, images: int, devices: int) -> HeadSize | None:
    """The head as the planner sees it, for so many images on each device; None for a loss
    without classes.
    """
    config, loss = program.config, program.loss
    if isinstance(loss, Triplet):
        return None
    # Sub-centres are further rows of the same product.
    weights = jax.eval_shape(lambda: loss.init_params(program.key, program.num_classes, 1))
    rows = math.prod(weights["class_weights"].shape)
    size: dict[str, Any] = {
        "num_classes": rows,
        "dim": config.model.embedding_size,
        "chunk": head_chunk(config.head),
    }
    if config.head.kind == "dense":
        return HeadSize("dense", batch=images * devices, devices=devices, **size)
    # Without a sharded head every device has all classes, and its own images alone.
    shards = devices if program.placement.split_classes else 1
    if config.head.sample_rate < 1.0:
        kind, size = "partial", {**size, "rate": config.head.sample_rate}
    else:
        kind = "chunked" if config.head.update == "optimiser" else "fused"
    stored = config.head.dtype if kind != "chunked" else "float32"
    return HeadSize(kind, batch=images * shards, devices=shards, dtype=stored, **size)
