"""One training step over several devices: jit over a mesh, or pmap. Both take and give whole
arrays.
"""

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arcface_jax.errors import InputError
from arcface_jax.training.objective import Gradients, Moment, Objective, Outcome
from arcface_jax.training.state import TrainState, is_class_rows
from arcface_jax.training.step import DATA_AXIS, StepFunction


class ParallelStep(Protocol):
    """A compiled step with the placement of its arguments."""

    def shapes(self, make: Callable[[], TrainState]) -> TrainState:
        """The state that `create` would make, as shapes with their shardings."""
        ...

    def create(self, make: Callable[[], TrainState]) -> TrainState:
        """Makes a whole state, class rows on the devices where they belong."""
        ...

    def place(self, state: TrainState) -> TrainState:
        """Puts a whole state into the layout that calls take and return."""
        ...

    def fetch(self, state: TrainState) -> TrainState:
        """The whole state again."""
        ...

    def local(self, tree: Any) -> Any:
        """A replicated part of a whole state, on one device of this process."""
        ...

    @property
    def batch_sharding(self) -> jax.sharding.Sharding | None:
        """Where a whole batch may wait for its step; None for the default device, from where it
        may be moved.
        """
        ...

    def __call__(
        self, state: TrainState, images: Any, labels: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes one step on a whole batch; `state` is consumed. Metrics are scalars."""
        ...


class OverMesh:
    """A sharded head under jit: each device runs the head's own function on its classes and its
    part of the batch.
    """

    def __init__(self, objective: Objective, mesh: Mesh) -> None:
        """`mesh` has the one axis DATA_AXIS."""
        self._objective, self._mesh = objective, mesh
        self.splits_classes = True
        self.init = objective.init
        self.init_state = objective.init_state
        self.class_weights = objective.class_weights
        self.expected_initial_loss = objective.expected_initial_loss

    def __str__(self) -> str:
        """As the head's."""
        return str(self._objective)

    def gradients(
        self,
        params: Any,
        state: Any,
        embeddings: jax.Array,
        labels: jax.Array,
        moment: Moment,
        axis_name: str | None = None,
    ) -> tuple[Outcome, Gradients]:
        """See `Objective`; `axis_name` is None, for the arrays are whole."""

        def on_device(
            params: Any, state: Any, embeddings: jax.Array, labels: jax.Array, moment: Moment
        ) -> Any:
            outcome, gradients = self._objective.gradients(
                params, state, embeddings, labels, moment, DATA_AXIS
            )
            # Of this device's mean loss; the mean over all is wanted.
            return outcome, jax.tree.map(lambda leaf: leaf / self._mesh.size, gradients)

        split, rows = PartitionSpec(DATA_AXIS), _class_row_specs
        outcome_specs: Any = Outcome(split, split, split, rows(state))  # type: ignore[arg-type]
        gradient_specs: Any = Gradients(rows(params), split)  # type: ignore[arg-type]
        return jax.shard_map(
            on_device,
            mesh=self._mesh,
            in_specs=(rows(params), rows(state), split, split, PartitionSpec()),
            out_specs=(outcome_specs, gradient_specs),
        )(params, state, embeddings, labels, moment)


def _class_row_specs(tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            PartitionSpec(DATA_AXIS) if is_class_rows(path, leaf) else PartitionSpec()
        ),
        tree,
    )


def data_mesh(devices: list[jax.Device]) -> Mesh:
    """All devices on the one axis DATA_AXIS."""
    return Mesh(np.array(devices), (DATA_AXIS,))


class MeshStep:
    """jit with the state replicated, but for split class rows, and the batch split over a mesh: the
    default.

    The program sees the whole batch, so batch statistics are over all devices. The mesh may span
    processes.
    """

    def __init__(
        self, step: StepFunction, devices: list[jax.Device], *, split_classes: bool = False
    ) -> None:
        """`step` is a `TrainStep` without axis_name; `split_classes` says that its head is an
        `OverMesh`.
        """
        mesh = data_mesh(devices)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
        self._split_classes = split_classes
        self._step = jax.jit(step, donate_argnums=0)
        # Collectives of several queued steps can deadlock on simulated CPU devices.
        self._wait = len(devices) > 1 and devices[0].platform == "cpu"

    def shapes(self, make: Callable[[], TrainState]) -> TrainState:
        """See `ParallelStep`."""

        def place(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            split = self._split_classes and is_class_rows(path, leaf)
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._split if split else self._replicated
            )

        shapes: TrainState = jax.tree_util.tree_map_with_path(place, jax.eval_shape(make))
        return shapes

    def create(self, make: Callable[[], TrainState]) -> TrainState:
        """See `ParallelStep`."""
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self.shapes(make))
        state = jax.jit(make, out_shardings=shardings)()
        return jax.block_until_ready(state) if self._wait else state

    def place(self, state: TrainState) -> TrainState:
        """Copies what is replicated to every device, and splits class rows."""
        return jax.device_put(
            state, jax.tree.map(lambda leaf: leaf.sharding, self.shapes(lambda: state))
        )

    def fetch(self, state: TrainState) -> TrainState:
        """The state as it is."""
        return state

    def local(self, tree: Any) -> Any:
        """See `ParallelStep`."""
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), tree)

    @property
    def batch_sharding(self) -> jax.sharding.Sharding:
        """Split over the mesh."""
        return self._split

    def __call__(
        self, state: TrainState, images: Any, labels: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `ParallelStep`."""
        state, metrics = self._step(state, *jax.device_put((images, labels), self._split))
        if self._wait:
            jax.block_until_ready(state)
        return state, metrics


class PmapStep:
    """pmap over the devices of one process: the per-device program, with means over DATA_AXIS.

    Batch statistics are each device's own unless the backbone has
    axis_name=DATA_AXIS.
    """

    def __init__(
        self, step: StepFunction, devices: list[jax.Device], *, split_classes: bool = False
    ) -> None:
        """`step` is a `TrainStep` with axis_name=DATA_AXIS."""
        self._step = jax.pmap(step, axis_name=DATA_AXIS, devices=devices, donate_argnums=0)
        self._count = len(devices)
        self._split_classes = split_classes
        self._wait = devices[0].platform == "cpu"

    def shapes(self, make: Callable[[], TrainState]) -> TrainState:
        """See `ParallelStep`; on the default device."""
        place = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            jax.eval_shape(make),
        )

    def create(self, make: Callable[[], TrainState]) -> TrainState:
        """See `ParallelStep`; on the default device."""
        return jax.jit(make)()

    def place(self, state: TrainState) -> TrainState:
        """Adds the leading device axis, along which class rows are split and all else is
        repeated.
        """

        def place(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            if self._split_classes and is_class_rows(path, leaf):
                return leaf.reshape(self._count, -1, *leaf.shape[1:])
            return jnp.broadcast_to(leaf, (self._count, *leaf.shape))

        placed: TrainState = jax.tree_util.tree_map_with_path(place, state)
        return placed

    def fetch(self, state: TrainState) -> TrainState:
        """The first device's copy, and all class rows."""

        def fetch(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
            if self._split_classes and is_class_rows(path, leaf[0]):
                return leaf.reshape(-1, *leaf.shape[2:])
            return leaf[0]

        whole: TrainState = jax.tree_util.tree_map_with_path(fetch, state)
        return whole

    def local(self, tree: Any) -> Any:
        """See `ParallelStep`."""
        return tree

    @property
    def batch_sharding(self) -> None:
        """Pmap itself splits a batch."""
        return None

    def __call__(
        self, state: TrainState, images: Any, labels: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `ParallelStep`."""
        images, labels = (
            array.reshape(self._count, -1, *array.shape[1:]) for array in (images, labels)
        )
        state, metrics = self._step(state, images, labels)
        if self._wait:
            jax.block_until_ready(state)
        return state, jax.tree.map(lambda metric: metric[0], metrics)


def check_batch(batch_size: int, devices: list[jax.Device], accumulate: int = 1) -> None:
    """Raises InputError where a batch cannot be split evenly over the devices, and over the
    parts it is computed in.
    """
    parts = len(devices) * accumulate
    if accumulate < 1:
        raise InputError(f"run.accumulate is {accumulate}; pass 1 or more parts")
    if batch_size < 1 or batch_size % parts:
        in_parts = "" if accumulate == 1 else f" times {accumulate} parts"
        raise InputError(
            f"run.batch_size {batch_size} must be a positive multiple of the {len(devices)} "
            f"devices in use{in_parts}"
        )
