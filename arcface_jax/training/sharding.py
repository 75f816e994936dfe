"""Where a run's arrays lie, and the transforms that run one step on several devices.

State and batches are whole arrays: replicated, but for the batch and the class rows of a sharded
head, which are split over the mesh. The mesh may span processes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.training.state import DATA_AXIS, TrainState, class_row_specs, is_class_rows
from arcface_jax.training.step import StepFunction


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a run and how its arrays lie on them.

    Attributes:
      devices: that share the batch.
      split_classes: whether they share the class rows too.
    """

    devices: tuple[jax.Device, ...]
    split_classes: bool = False

    @property
    def mesh(self) -> Mesh:
        """All devices on the one axis DATA_AXIS, along which the compiler lays out what lies
        between the arguments and results of a step.
        """
        return Mesh(np.array(self.devices), (DATA_AXIS,), axis_types=(AxisType.Auto,))

    @property
    def split(self) -> NamedSharding:
        """Rows split over the devices, as a batch is."""
        return NamedSharding(self.mesh, PartitionSpec(DATA_AXIS))

    def shapes(self, make: Callable[[], TrainState]) -> TrainState:
        """The state that `create` would make, as shapes with their shardings."""
        return self._laid_out(jax.eval_shape(make))

    def _laid_out(self, shapes: TrainState) -> TrainState:
        specs = class_row_specs(shapes)
        return jax.tree.map(
            lambda leaf, spec: jax.ShapeDtypeStruct(
                leaf.shape,
                leaf.dtype,
                sharding=NamedSharding(self.mesh, spec if self.split_classes else PartitionSpec()),
            ),
            shapes,
            specs,
        )

    def create(self, make: Callable[[], TrainState]) -> TrainState:
        """Makes a state, class rows on the devices where they belong."""
        closed, shapes = jax.make_jaxpr(make, return_shape=True)()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._laid_out(shapes))

        def made(weights: list[Any]) -> TrainState:
            leaves = jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, weights))()
            state: TrainState = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
            return state

        # Weights that a network brings are arguments: as constants they take minutes to compile.
        made = jax.jit(made, out_shardings=shardings, compiler_options=quick_to_compile())
        return jax.block_until_ready(made(closed.consts))

    def place(self, state: TrainState) -> TrainState:
        """Copies what is replicated to every device, and splits class rows."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.shapes(lambda: state))
        return jax.device_put(state, shardings)

    def local(self, tree: Any) -> Any:
        """A replicated part of a state, on one device of this process."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    def compile(self, step: StepFunction, *, pmap: bool = False) -> StepFunction:
        """The step on whole arrays, compiled when it is first called; the state is consumed.

        Args:
          step: from `make_step`, with axis_name=DATA_AXIS for pmap.
          pmap: run it by `jax.pmap`, on each device's part of the batch, instead of jit.
        """
        batch: Any = (None, None, self.split, self.split)
        jitted = jax.jit(step, donate_argnums=0, in_shardings=batch)
        compiled = self._pmapped(step) if pmap else jitted
        if len(self.devices) == 1 or self.devices[0].platform != "cpu":
            return compiled
        # Collectives of several queued steps can deadlock on simulated CPU devices.
        return lambda *arguments: jax.block_until_ready(compiled(*arguments))

    def _pmapped(self, step: StepFunction) -> Callable[..., Any]:
        count = len(self.devices)

        def is_split(path: tuple[Any, ...]) -> bool:
            return self.split_classes and is_class_rows(path)

        def fold(tree: Any) -> Any:
            return jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[1:]), tree)

        def mapped(state: TrainState) -> Any:
            axes = by_path(lambda path, _: 0 if is_split(path) else None, state)
            return jax.pmap(
                step,
                axis_name=DATA_AXIS,
                in_axes=(axes, None, 0, 0),
                out_axes=(axes, None),
                devices=self.devices,
                donate_argnums=0,
            )

        by_path = jax.tree_util.tree_map_with_path
        once: list[Any] = []  # made when the state's structure is known

        def run(state: TrainState, key: jax.Array, *batch: jax.Array) -> Any:
            if not once:
                once.append(mapped(state))
            state = by_path(lambda p, leaf: fold(leaf) if is_split(p) else leaf, state)
            state, metrics = once[0](state, key, *fold(batch))
            flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])  # noqa: E731
            return by_path(lambda p, leaf: flat(leaf) if is_split(p) else leaf, state), metrics

        return run


def quick_to_compile() -> dict[str, Any]:
    """Options of `jax.jit` for what runs once, so that it is not worth optimising: XLA's CPU
    compiler then takes a quarter of the time.
    """
    on_cpu = jax.default_backend() == "cpu"
    return {"xla_backend_optimization_level": 0} if on_cpu else {}


def check_batch(batch_size: int, devices: int, accumulate: int = 1) -> None:
    """Raises InputError where a batch cannot be split evenly over the devices, and over the parts
    it is computed in.
    """
    if accumulate < 1:
        raise InputError(f"run.accumulate is {accumulate}; pass 1 or more parts")
    if batch_size < 1 or batch_size % (devices * accumulate):
        in_parts = "" if accumulate == 1 else f" times {accumulate} parts"
        raise InputError(
            f"run.batch_size {batch_size} must be a positive multiple of the "
            f"{number_of(devices, 'device')} in use{in_parts}"
        )
