"""One training step over several devices: jit over a mesh, or pmap. Both take and give whole arrays."""

from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from arcface_jax.errors import InputError
from arcface_jax.training.state import TrainState
from arcface_jax.training.step import DATA_AXIS, StepFunction, jit_step, pmap_step


class ParallelStep(Protocol):
    """A compiled step with the placement of its arguments."""

    def place(self, state: TrainState) -> TrainState:
        """Puts a state on the devices, in the layout that calls take and return."""
        ...

    def fetch(self, state: TrainState) -> TrainState:
        """The state without that layout."""
        ...

    @property
    def batch_sharding(self) -> jax.sharding.Sharding | None:
        """Where a whole batch may wait for its step; None for the default device, from where it may be moved."""
        ...

    def __call__(self, state: TrainState, images: Any, labels: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """Takes one step on a whole batch; `state` is consumed. Metrics are scalars."""
        ...


class MeshStep:
    """jit with the state replicated and the batch split over a mesh: the default.

    The program sees the whole batch, so batch statistics are over all devices.
    """

    def __init__(self, step: StepFunction, devices: list[jax.Device]) -> None:
        """`step` is `make_train_step`'s, without axis_name."""
        mesh = Mesh(np.array(devices), (DATA_AXIS,))
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._split = NamedSharding(mesh, PartitionSpec(DATA_AXIS))
        self._step = jit_step(step)
        # Collectives of several queued steps can deadlock on simulated CPU devices.
        self._wait = len(devices) > 1 and devices[0].platform == "cpu"

    def place(self, state: TrainState) -> TrainState:
        """Copies the state to every device."""
        return jax.device_put(state, self._replicated)

    def fetch(self, state: TrainState) -> TrainState:
        """The state as it is."""
        return state

    @property
    def batch_sharding(self) -> jax.sharding.Sharding:
        """Split over the mesh."""
        return self._split

    def __call__(self, state: TrainState, images: Any, labels: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `ParallelStep`."""
        state, metrics = self._step(state, *jax.device_put((images, labels), self._split))
        if self._wait:
            jax.block_until_ready(state)
        return state, metrics


class PmapStep:
    """pmap over the devices: the per-device program, with means over DATA_AXIS.

    Batch statistics are each device's own unless the backbone has
    axis_name=DATA_AXIS.
    """

    def __init__(self, step: StepFunction, devices: list[jax.Device]) -> None:
        """`step` is `make_train_step`'s, with axis_name=DATA_AXIS."""
        self._step = pmap_step(step, devices)
        self._count = len(devices)
        self._wait = devices[0].platform == "cpu"

    def place(self, state: TrainState) -> TrainState:
        """Adds the leading device axis."""
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self._count, *leaf.shape)), state)

    def fetch(self, state: TrainState) -> TrainState:
        """The first device's copy."""
        return jax.tree.map(lambda leaf: leaf[0], state)

    @property
    def batch_sharding(self) -> None:
        """Pmap itself splits a batch."""
        return None

    def __call__(self, state: TrainState, images: Any, labels: Any) -> tuple[TrainState, dict[str, jax.Array]]:
        """See `ParallelStep`."""
        images, labels = (array.reshape(self._count, -1, *array.shape[1:]) for array in (images, labels))
        state, metrics = self._step(state, images, labels)
        if self._wait:
            jax.block_until_ready(state)
        return state, jax.tree.map(lambda metric: metric[0], metrics)


def check_batch(batch_size: int, devices: list[jax.Device]) -> None:
    """Raises InputError where a batch cannot be split evenly over the devices."""
    if batch_size < 1 or batch_size % len(devices):
        raise InputError(
            f"run.batch_size {batch_size} must be a positive multiple of the {len(devices)} devices in use"
        )
