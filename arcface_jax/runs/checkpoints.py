"""Saving and restoring a run. The only module that knows Orbax."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import pathlib
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint.checkpoint_managers import preservation_policy

from arcface_jax.buckets import BucketPath
from arcface_jax.errors import DAMAGED, InputError, reason
from arcface_jax.runs.checksums import checksums
from arcface_jax.runs.class_rows import Layout, read_class_rows
from arcface_jax.runs.processes import chain_of, is_of_devices
from arcface_jax.runs.staging import Staging
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import as_dict
from arcface_jax.training.state import TrainState, named_leaves, with_class_rows

_LIBRARIES = ("arcface-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def library_versions() -> dict[str, str]:
    """The versions that a run's numbers depend on; "source" for a package that is not installed."""
    versions = {}
    for library in _LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "source"
    return versions


class DamagedCheckpoint(InputError):  # noqa: N818 - what it is, not an error of the caller
    """A checkpoint that cannot be read."""


class Checkpoints:
    """The checkpoints in one folder: atomic, written in the background, kept by a policy.

    Each holds the training state and, as JSON, the configuration, the data's
    fingerprint, the number of classes and over how many devices they are split, the library
    versions, and what else the caller wants to find again. All processes of a run call each method
    together.

    In a bucket they are sent there when they are complete, see `arcface_jax.runs.staging`.
    """

    def __init__(
        self, folder: pathlib.Path, keep: int = 2, keep_best: int = 0, *, to_read: bool = False
    ) -> None:
        """Opens the folder, making it where it is absent.

        Args:
          folder: where the checkpoints lie, one folder a step.
          keep: how many of the newest stay.
          keep_best: how many of those with the best score stay besides.
          to_read: nothing is made or tidied up; what a run at work is just writing stays.
        """
        self.folder = folder.absolute()
        policies = [preservation_policy.LatestN(keep)]
        if keep_best:
            best = preservation_policy.BestN(
                get_metric_fn=lambda metrics: metrics["score"],
                n=keep_best,
                keep_checkpoints_without_metrics=False,
            )
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            # What a killed process left half-written goes when the next one starts.
            cleanup_tmp_directories=not to_read,
            create=not to_read,
            # A folder that cannot be made is an error at once; in the background the writers would
            # wait minutes for it.
            async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
        )
        self._staging: Staging | None = None
        # To a bucket the first process sends everything, and each fetches for itself.
        self._alone = isinstance(self.folder, BucketPath) and jax.process_count() > 1
        self._gathered: set[int] = set()
        self._together = ocp.options.MultiprocessingOptions()
        if self._alone:
            own, to_read = jax.process_index(), to_read or jax.process_index() > 0
            self._together = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process_{own}"
            )
            # Made by this process alone, which Orbax asks for.
            options.create = False
        elif jax.process_count() > 1:
            wait = _wait_unless_failed(ocp.multihost.get_barrier_sync_fn())
            options.async_options = dataclasses.replace(options.async_options, barrier_sync_fn=wait)
        options.multiprocessing_options = self._together
        self._sender = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._sent: concurrent.futures.Future[None] | None = None
        local = self.folder
        try:
            if isinstance(self.folder, BucketPath):
                self._staging = Staging(self.folder, to_read=to_read)
                local = self._staging.local
            self._manager = ocp.CheckpointManager(local, options=options)
        except OSError as error:
            raise InputError(
                f"checkpoints {self.folder}: cannot be opened ({_reason(error)})"
            ) from error

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    def save(self, state: TrainState, metadata: dict[str, Any], score: float | None = None) -> None:
        """Writes `state` under its step, in the background; waits only for the save before.

        A checkpoint of that step that exists already stays as it is.

        Args:
          state: may be consumed by a step as soon as this returns.
          metadata: JSON.
          score: by which the best are kept; None for a checkpoint that was not verified.

        Raises:
          InputError: this one, or the one before, could not be written.
        """
        step = int(state.step)
        if step in (*self._manager.all_steps(), *self._gathered):
            return
        about = metadata | {"arrays": _array_types(state), "checksums": checksums(state)}
        if self._alone:
            state = jax.tree.map(_on_the_first, state)
            self._gathered.add(step)
            if jax.process_index() > 0:
                return
        elif (
            jax.default_backend() == "cpu"
        ):  # there a save reads the arrays themselves, which the next step overwrites
            state = jax.tree.map(jnp.copy, state)
        content = {"metadata": ocp.args.JsonSave(about), "state": ocp.args.StandardSave(state)}
        metrics = None if score is None else {"score": score}
        with self._writing():
            self._settle()
            self._manager.save(
                step, metrics=metrics, args=ocp.args.Composite(**content), force=True
            )
            if self._staging is not None:
                self._sent = self._sender.submit(self._send, self._staging)

    def _send(self, staging: Staging) -> None:
        self._manager.wait_until_finished()
        staging.publish(self._manager.all_steps())

    def _settle(self) -> None:
        """Waits for what is being sent, and raises what kept it."""
        sent, self._sent = self._sent, None
        if sent is not None:
            sent.result()

    def wait(self) -> None:
        """Returns when the last save is complete.

        Raises:
          InputError: it could not be written.
        """
        with self._writing():
            self._settle()
            self._manager.wait_until_finished()
        if self._alone:
            barrier("checkpoints are sent")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            _raise_what_is_of_no_file(error)
            complete = self.steps() if self._staging is None else self._staging.steps()
            last = max(complete, default=None)
            left = (
                "no checkpoint is complete"
                if last is None
                else f"the checkpoint of step {last} is complete"
            )
            why = _reason(error, "the disk does not take it")
            raise InputError(
                f"checkpoints {self.folder}: cannot be written ({why}); {left}: make "
                "room there, or make it writable, and give the same command again"
            ) from error

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          InputError: it is damaged.
        """
        return dict(self._read(step, metadata=ocp.args.JsonRestore()).metadata)

    def _read(self, step: int, **items: Any) -> Any:
        with self._reading(step, arrays="state" in items):
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    @contextlib.contextmanager
    def _reading(self, step: int, *, arrays: bool) -> Iterator[None]:
        if self._staging is not None and arrays:
            try:
                self._staging.fetch(step)
            except OSError as error:  # no checkpoint is at fault
                raise InputError(
                    f"checkpoint {self.folder / str(step)}: cannot be fetched ({_reason(error)})"
                ) from error
        try:
            yield
        except Exception as error:  # of a missing file Orbax raises Exception itself
            _raise_what_is_of_no_file(error)
            raise self._damaged(step, _reason(error)) from error

    def _damaged(self, step: int, reason: str) -> DamagedCheckpoint:
        others = [other for other in self._manager.all_steps() if other < step]
        instead = (
            f"that of step {max(others)} may be whole" if others else "there is none before it"
        )
        return DamagedCheckpoint(
            f"checkpoint {self.folder / str(step)}: is damaged ({reason}); {instead}"
        )

    def _checked(
        self, step: int, state: Any, saved: dict[str, int], counted: Mapping[str, int] | None = None
    ) -> Any:
        """The state, if its arrays are those that were saved: no part of the format guards
        their bytes. Some are counted already, see `checksums`.
        """
        found = checksums(state, counted or {})
        for name, value in saved.items():
            if found.get(name) != value:
                raise self._damaged(step, f"{name} is not what was saved")
        return state

    def read_tree(self, step: int) -> Any:
        """The state at `step` as plain nested dictionaries of arrays, whatever shapes it has.

        Raises:
          InputError: it is damaged.
        """
        found = self._read(step, state=ocp.args.StandardRestore(), metadata=ocp.args.JsonRestore())
        return self._checked(step, found.state, found.metadata.get("checksums", {}))

    def restore(self, step: int, like: TrainState, layout: Layout | None = None) -> TrainState:
        """The state at `step`, with the shapes, types and placement of `like` (arrays or
        ShapeDtypeStructs).

        Args:
          step: of the checkpoint.
          like: what is wanted.
          layout: of the class rows, where they were saved for another number of devices.

        Raises:
          InputError: the checkpoint does not fit the configuration, or is damaged.
        """
        # Compared here, since Orbax notices only while its reading threads are at work.
        about = self.metadata(step)
        as_saved = like if layout is None else layout.as_saved(like)
        saved, wanted = about["arrays"], _array_types(as_saved)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise InputError(
                    f"checkpoint {self.folder / str(step)} does not fit this configuration: {name} "
                    f"is {saved.get(name, 'absent')}, wanted {wanted.get(name, 'absent')}; use the "
                    "run's own config.json"
                )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        counted: dict[str, int] = {}
        if layout is None:
            state = self._read(step, state=ocp.args.StandardRestore(abstract)).state
        else:
            with self._reading(step, arrays=True):
                state = self._read_moved(step, abstract, layout, counted)
        restored: TrainState = self._checked(step, state, about.get("checksums", {}), counted)
        return restored

    def _read_moved(
        self, step: int, like: TrainState, layout: Layout, counted: dict[str, int]
    ) -> TrainState:
        """The state, its class rows by ranges and the rest by Orbax; notes in `counted` what the
        class rows that were read here add to their checksums.
        """
        place = pathlib.Path(self._manager.directory) / str(step) / "state"
        rest = with_class_rows(like, lambda name, leaf: ocp.PLACEHOLDER)
        arguments = jax.tree.map(
            lambda leaf: (
                ocp.RestoreArgs()
                if leaf is ocp.PLACEHOLDER
                else ocp.ArrayRestoreArgs(sharding=leaf.sharding, dtype=leaf.dtype)
            ),
            rest,
        )
        options = self._together
        handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=options)
        with ocp.Checkpointer(handler, multiprocessing_options=options) as reader:
            rest = reader.restore(place, args=ocp.args.PyTreeRestore(rest, arguments))
        wanted = named_leaves(like)

        def read(name: str, leaf: Any) -> jax.Array:
            rows, counted[name] = read_class_rows(place, name, wanted[name], layout)
            return rows

        return with_class_rows(rest, read)

    def set_aside(self, step: int) -> pathlib.Path:
        """Moves a damaged checkpoint out of the way, so that its step can be saved again;
        returns where to.
        """
        damaged = self.folder / str(step)
        aside = self.folder.with_name(f"damaged-{step}-{uuid.uuid4().hex[:8]}")
        if self._staging is not None:
            if jax.process_index() == 0:
                self._staging.set_aside(step, aside)
            else:
                self._staging.forget(step)
        elif jax.process_index() == 0:
            damaged.rename(aside)
        barrier(f"set aside {step}")
        self._manager.reload()
        return aside

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
          InputError: it could not be written.
        """
        try:
            with self._writing():
                self._settle()
                self._manager.close()
        finally:
            self._sender.shutdown()
            if self._staging is not None:
                self._staging.close()


def _on_the_first(leaf: Any) -> np.ndarray | None:
    """An array that may lie on several processes, all of which call this together; None on all
    but the first.
    """
    whole = _whole(leaf)
    return whole if jax.process_index() == 0 else None


def _whole(leaf: Any) -> np.ndarray:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        if leaf.is_fully_replicated:
            return np.asarray(leaf.addressable_data(0))
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    return np.array(leaf)


def barrier(name: str) -> None:
    """Waits for all processes of a run; `name` must be the same in all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _wait_unless_failed(wait: Callable[..., None]) -> Callable[..., None]:
    """How the processes of a save wait for each other, but not one whose own part failed: it would
    wait ten minutes until it says so.
    """

    def wait_unless_failed(*, key: str, timeout_ms: int) -> None:
        if sys.exc_info()[0] is None:
            wait(key=key, timeout_ms=timeout_ms)

    return wait_unless_failed


def _raise_what_is_of_no_file(error: BaseException) -> None:
    """Raises what lies in an error of Orbax's, if it is of memory, devices or other processes."""
    for inner in chain_of(error):
        if isinstance(inner, MemoryError) or is_of_devices(inner):
            raise inner


def _reason(error: BaseException, otherwise: str = "its files cannot be read") -> str:
    """What the error that lies deepest says, which is most."""
    while error.__cause__ is not None:
        error = error.__cause__
    said = reason(error)
    return otherwise if said == DAMAGED else said


def _array_types(state: TrainState) -> dict[str, str]:
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named_leaves(state).items()}


def metadata_of(config: Config, fingerprint: str, num_classes: int, shards: int) -> dict[str, Any]:
    """The metadata every checkpoint of a run carries."""
    return {
        "shards": shards,
        "config": as_dict(config),
        "data_fingerprint": fingerprint,
        "num_classes": num_classes,
        "versions": library_versions(),
    }
