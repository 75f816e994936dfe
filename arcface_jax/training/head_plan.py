"""How much memory a training step of a head needs on each device, predicted, and as XLA plans it.

The prediction is arithmetic: what is as large as the class weights, and what a step works with
besides. The plan of XLA's compiler for the same step comes from `compiled_memory`, which allocates
nothing, so that it can be had for a head that no machine at hand would hold.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from arcface_jax.arguments import check_between, check_choice
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.heads.fused import HeadState, RowSgd, init_head
from arcface_jax.heads.shards import shard_rows
from arcface_jax.losses import ArcFace, Context
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.step import loss_and_gradients

HEADS = ("dense", "chunked", "fused", "partial")
AXIS = "classes"
_MATMULS = {"dense": 3, "chunked": 4, "fused": 4, "partial": 4}


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """A head and the step that trains it, with SGD and momentum.

    Attributes:
      head: dense (the class weights repeated on every device, the batch split), or, with the
        classes split over devices, chunked (then an optax step), fused, or partial (fused, over a
        sample, V2).
      num_classes: C.
      dim: D.
      batch: N over all devices.
      devices: how many share the classes.
      dtype: what weights and momentum are kept in: float32, or bfloat16 for fused and partial.
      chunk: classes at a time.
      rate: the part of the classes that partial samples.
      precision: of the products, as `HeadConfig` has it.
      kernel: of a chunked head, as `HeadConfig` has it; pallas has tiles in place of chunks.
    """

    head: str
    num_classes: int
    dim: int = 512
    batch: int = 512
    devices: int = 1
    dtype: str = "float32"
    chunk: int = DEFAULT_CHUNK
    rate: float = 0.1
    precision: Any = None
    kernel: Any = "xla"

    def __post_init__(self) -> None:
        check_choice("head", self.head, HEADS)
        check_choice("dtype", self.dtype, ("float32", "bfloat16"))
        for name in ("num_classes", "dim", "batch", "devices", "chunk"):
            check_between(name, getattr(self, name), 1, math.inf)
        check_between("rate", self.rate, 0.0, 1.0, open_low=True)
        if self.batch % self.devices:
            raise InputError(
                f"batch is {self.batch}; pass a multiple of the {number_of(self.devices, 'device')}"
            )
        if self.dtype == "bfloat16" and self.head in ("dense", "chunked"):
            raise InputError(
                f"dtype is bfloat16 with head {self.head}; pass fused or partial, which train in it"
            )

    @property
    def rows(self) -> int:
        """Classes on each device."""
        return (
            self.num_classes if self.head == "dense" else shard_rows(self.num_classes, self.devices)
        )

    @property
    def sampled_rows(self) -> int:
        """Classes that the softmax on each device runs over."""
        return (
            max(int(self.rate * self.rows), min(self.rows, self.batch))
            if self.head == "partial"
            else self.rows
        )


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      state: class weights and momentum.
      gradient: of the class weights, where a head stores one.
      working: the rest.
    """

    state: int
    gradient: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.state + self.gradient + self.working


def predicted_memory(size: HeadSize) -> Memory:
    """What a step needs by arithmetic.

    In a chunk of c classes three arrays of [N, c] and two of [c, D] are alive at once, for rounding
    at random five more of [c, D], and three of [N, D] throughout. The dense head has three of [N,
    C], or one and the normalised weights if that is more. Partial has copies of the sampled weights
    and momentum, before and after the step, and four numbers a class to draw them by. All this is
    on the safe side of what XLA plans.
    """
    each = 4 if size.dtype == "float32" else 2
    state = 2 * size.rows * size.dim * each
    batch = size.batch // size.devices if size.head == "dense" else size.batch
    working = 3 * batch * size.dim * 4
    if size.head == "dense":
        working += size.num_classes * (batch + max(2 * batch, size.dim)) * 4
    else:
        chunk = min(size.chunk, size.rows)
        working += chunk * (3 * batch + (2 if size.dtype == "float32" else 7) * size.dim) * 4
    if size.head == "partial":
        working += 2 * size.sampled_rows * size.dim * each + 16 * size.rows
    gradient = size.rows * size.dim * 4 if size.head in ("dense", "chunked") else 0
    return Memory(state, gradient, working)


def predicted_operations(size: HeadSize) -> float:
    """Floating-point operations of a step on each device: three (dense) or four products of N ×
    C × D.
    """
    batch = size.batch / size.devices if size.head == "dense" else size.batch
    return _MATMULS[size.head] * 2.0 * batch * size.sampled_rows * size.dim


def device_step(size: HeadSize) -> Callable[..., tuple[HeadState, jax.Array, jax.Array]]:
    """The training step's own head on one device: (state, embeddings [n, D], labels [n], learning
    rate, key) -> (state, loss [n], gradients by the embeddings [n, D]).

    Every head but the dense one runs inside a map over the axis "classes".
    """
    sample_rate = size.rate if size.head == "partial" else 1.0
    stored: Any = size.dtype
    head = HeadConfig("sharded", size.chunk, sample_rate, "fused", "update", stored, size.precision)
    if size.head in ("dense", "chunked"):
        kind: Any = "dense" if size.head == "dense" else "sharded"
        head = HeadConfig(kind, size.chunk, precision=size.precision, kernel=size.kernel)

    def step(
        state: HeadState, e: jax.Array, y: jax.Array, rate: jax.Array, key: jax.Array
    ) -> tuple[HeadState, jax.Array, jax.Array]:
        context = Context(key=key, axis_name=None if size.head == "dense" else AXIS)
        fused = head.update == "fused"
        out, of_params, of_e = loss_and_gradients(
            ArcFace(),
            head,
            {} if fused else {"class_weights": state.weights},
            {"rows": state} if fused else {},
            e,
            y,
            context,
            num_classes=size.num_classes,
            learning_rate=rate,
        )
        if fused:
            return out.state["rows"], out.loss, of_e
        optimiser = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9))
        momentum = (optax.EmptyState(), optax.TraceState(state.slots[0]))
        gradient = of_params["class_weights"]
        update, (_, moved) = optimiser.update(gradient, momentum, state.weights)
        new = HeadState(state.weights - rate * update, (moved.trace,), state.step + 1)
        return new, out.loss, of_e

    return step


def _mesh(devices: Any) -> Mesh:
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))


def jitted_step(size: HeadSize) -> tuple[Any, Mesh]:
    """The step on whole arrays, compiled when called, with its state donated; and the mesh it runs
    on.

    The mesh holds the first `devices` of JAX's devices; state [devices·rows, …], embeddings and
    labels are split over it.
    """
    available = jax.devices()
    if size.head == "dense":
        return jax.jit(device_step(size), donate_argnums=0), _mesh(available[:1])
    if len(available) < size.devices:
        raise InputError(
            f"devices is {size.devices} and JAX has {len(available)}; simulate more, or pass fewer"
        )
    mesh = _mesh(available[: size.devices])
    split: Any = PartitionSpec(AXIS)
    whole: Any = PartitionSpec()
    state = HeadState(split, (split,), whole)
    mapped = jax.shard_map(
        device_step(size),
        mesh=mesh,
        in_specs=(state, split, split, whole, whole),
        out_specs=(state, split, split),
    )
    return jax.jit(mapped, donate_argnums=0), mesh


def compile_step(size: HeadSize) -> Any:
    """The step compiled for JAX's devices from shapes alone: nothing of the head is allocated."""
    step, mesh = jitted_step(size)
    shards = 1 if size.head == "dense" else size.devices
    split, whole = NamedSharding(mesh, PartitionSpec(AXIS)), NamedSharding(mesh, PartitionSpec())

    def shape(
        dims: tuple[int, ...], dtype: Any, sharding: NamedSharding = split
    ) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(dims, dtype, sharding=sharding)

    weights = jax.ShapeDtypeStruct((shards * size.rows, size.dim), jnp.float32)
    abstract = jax.eval_shape(
        functools.partial(init_head, optimiser=RowSgd(), dtype=size.dtype), weights
    )
    state = jax.tree.map(
        lambda leaf: shape(leaf.shape, leaf.dtype, split if leaf.ndim else whole), abstract
    )
    batch = size.batch // size.devices if size.head == "dense" else size.batch
    key = jax.eval_shape(lambda: jax.random.key(0))
    return step.lower(
        state,
        shape((batch, size.dim), jnp.float32),
        shape((batch,), jnp.int32),
        shape((), jnp.float32, whole),
        shape(key.shape, key.dtype, whole),
    ).compile()


def compiled_memory(size: HeadSize) -> Memory:
    """What XLA's compiler plans for the step: a plan, not a run.

    Returns: the plan; `working` holds all that is not weights or momentum, a stored gradient
      included.
    """
    state = predicted_memory(size).state
    return Memory(state, 0, planned_bytes(compile_step(size).memory_analysis()) - state)


def planned_bytes(plan: Any) -> int:
    """Arguments, results and temporaries of a compiled program's `memory_analysis()`, each once."""
    arguments, outputs = plan.argument_size_in_bytes, plan.output_size_in_bytes
    return int(arguments + outputs - plan.alias_size_in_bytes + plan.temp_size_in_bytes)
