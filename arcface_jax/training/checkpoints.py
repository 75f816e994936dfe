"""Saving and restoring a run. The only module that knows Orbax."""

import dataclasses
import importlib.metadata
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from arcface_jax.errors import InputError
from arcface_jax.training.config import Config
from arcface_jax.training.state import TrainState

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


class Checkpoints:
    """The checkpoints in one folder: atomic, the newest `keep` of them kept.

    Each holds the training state and, as JSON, the configuration, the data's
    fingerprint, the number of classes, the library versions, and what else the
    caller wants to find again.
    """

    def __init__(self, folder: pathlib.Path, keep: int = 2) -> None:
        """Opens the folder, making it where it is absent."""
        self.folder = folder.absolute()
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=False),
        )

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def save(self, state: TrainState, metadata: dict[str, Any]) -> None:
        """Writes `state` under its step; a checkpoint of that step that exists already stays as it is."""
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        about = metadata | {"arrays": _array_types(state)}
        content = {"metadata": ocp.args.JsonSave(about), "state": ocp.args.StandardSave(state)}
        self._manager.save(step, args=ocp.args.Composite(**content), force=True)

    def metadata(self, step: int) -> dict[str, Any]:
        """The JSON part of a checkpoint.

        Raises:
          InputError: it is damaged.
        """
        return dict(self._read(step, metadata=ocp.args.JsonRestore()).metadata)

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except (ValueError, KeyError, OSError, TypeError) as error:
            reason = str(error).strip("'\"").splitlines()[0][:120]
            others = [other for other in self._manager.all_steps() if other != step]
            instead = f"remove its folder to use that of step {max(others)}" if others else "start the run anew"
            raise InputError(f"checkpoint {self.folder / str(step)}: is damaged ({reason}); {instead}") from error

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The state at `step`, with the shapes, types and placement of `like` (arrays or ShapeDtypeStructs).

        Raises:
          InputError: the checkpoint does not fit the configuration, or is damaged.
        """
        # Compared here, since Orbax notices only while its reading threads are at work.
        saved, wanted = self.metadata(step)["arrays"], _array_types(like)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise InputError(
                    f"checkpoint {self.folder / str(step)} does not fit this configuration: {name} is "
                    f"{saved.get(name, 'absent')}, wanted {wanted.get(name, 'absent')}; use the run's own config.json"
                )
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        state: TrainState = self._read(step, state=ocp.args.StandardRestore(abstract)).state
        return state

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.close()


def _array_types(state: TrainState) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }


def describe(config: Config, fingerprint: str, num_classes: int) -> dict[str, Any]:
    """The metadata every checkpoint of a run carries."""
    return {
        "config": dataclasses.asdict(config),
        "data_fingerprint": fingerprint,
        "num_classes": num_classes,
        "versions": library_versions(),
    }
