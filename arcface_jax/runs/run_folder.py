"""The folder a run writes: configuration, metrics, results. Nothing half-written has its final
name.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax
import numpy as np
from tensorboardX import SummaryWriter

from arcface_jax.buckets import BucketPath
from arcface_jax.errors import InputError
from arcface_jax.files import write_whole
from arcface_jax.runs.mirror import Mirror
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import as_dict, config_to_json, differences, read_config

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"
CLASSES_FILE = "classes.json"
"""The names of the classes, in the order of the class weights."""
STATUS_FILE = "status.json"
"""How a run goes, see `arcface_jax.runs.watch`."""
CHECKPOINTS_FOLDER = "checkpoints"


def finite(tree: Any) -> Any:
    """Numbers for JSON, which knows no NaN: what is not finite becomes null."""
    if isinstance(tree, Mapping):
        return {str(key): finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


class RunFolder:
    """A run's folder; `results.json` appears in it only when the run is complete.

    Attributes:
      path: where it lies.
      changes: what a run that goes on with `run.resume changed` has other than before.
      is_finished: the same run was made here to its end, and nothing is left to do.
    """

    def __init__(self, path: pathlib.Path, config: Config) -> None:
        """Makes the folder, or opens that of a run of the same configuration.

        Raises:
          InputError: the folder holds a run of another configuration, or cannot be written, or
            run.wandb is set and the package not installed.
        """
        _import_wandb(config)  # before any work
        self.path = path
        self.changes: list[str] = []
        self.is_finished = (path / RESULTS_FILE).exists()
        if self.is_finished or self.is_begun:
            self.changes = differences(config, read_config(path / CONFIG_FILE))
        if self.is_finished:
            if self.changes or config.run.resume == "changed":
                other = (
                    f" of another configuration ({'; '.join(self.changes)})" if self.changes else ""
                )
                raise InputError(
                    f"run.folder {path} holds a finished run{other}; choose another folder"
                )
            return
        if self.is_begun:
            if self.changes and config.run.resume != "changed":
                raise InputError(
                    f"run.folder {path} holds a run of another configuration "
                    f"({'; '.join(self.changes)}); choose another folder, go on with its own "
                    f"(--config {path / CONFIG_FILE} --run.folder {path}), or change it on the way "
                    "with --run.resume changed"
                )
        elif config.run.resume == "changed":
            raise InputError(
                f"run.folder {path} holds no run to go on with; check the path, or leave out "
                "--run.resume"
            )
        if jax.process_index() > 0:
            return
        # Where a run lies is no part of what it is: a saved configuration can be run again
        # elsewhere.
        saved = dataclasses.replace(
            config, run=dataclasses.replace(config.run, folder=None, resume="auto")
        )
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / CONFIG_FILE, config_to_json(saved))
        except OSError as error:
            raise InputError(
                f"run.folder {path} cannot be written ({error.strerror}); choose another"
            ) from error

    @property
    def is_begun(self) -> bool:
        """Whether a run has taken its first step here."""
        return (self.path / METRICS_FILE).exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether a run would go on here, and not begin."""
        there = self.checkpoints.iterdir() if self.checkpoints.is_dir() else ()
        return any(place.name.isdecimal() for place in there)

    def discard(self) -> None:
        """Removes a folder whose run never began; leaves one that holds anything else."""
        if not self.is_begun:
            for name in (CONFIG_FILE, CLASSES_FILE, STATUS_FILE):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.checkpoints, self.path):
                with contextlib.suppress(OSError):  # something else lies there
                    folder.rmdir()

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints go."""
        return self.path / CHECKPOINTS_FOLDER

    @property
    def figures(self) -> pathlib.Path:
        """Where the pictures go."""
        return self.path / "figures"

    def keep_classes(self, names: Sequence[str]) -> None:
        """Writes what each class is called."""
        if jax.process_index() == 0:
            write_whole(self.path / CLASSES_FILE, json.dumps(list(map(str, names))) + "\n")

    def finish(self, results: dict[str, Any]) -> None:
        """Writes the results; this marks the run as complete."""
        write_whole(self.path / RESULTS_FILE, json.dumps(results, indent=2) + "\n")


class MetricsWriter:
    """Metrics as JSON lines, as TensorBoard events and, if wanted, in Weights & Biases; by the
    first process alone.
    """

    def __init__(self, folder: pathlib.Path, config: Config, first_step: int = 0) -> None:
        """Goes on after `first_step`; lines beyond it, from a run that broke off later, are
        dropped.

        Raises:
          InputError: run.wandb is set and the package not installed.
        """
        self._active = jax.process_index() == 0
        if not self._active:
            return
        path = folder / METRICS_FILE
        kept = (
            [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step]
            if first_step
            else []
        )
        self._mirror = Mirror(folder) if isinstance(folder, BucketPath) else None
        local = folder if self._mirror is None else self._mirror.local
        write_whole(local / METRICS_FILE, "".join(kept))
        self._lines = (local / METRICS_FILE).open("a")
        self._wandb = _open_wandb(folder, config, local)
        self._events = SummaryWriter(str(local / "tensorboard"), purge_step=first_step or None)
        self.sync()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line {"step": step, …} and the same as scalars; what is not finite becomes
        null and no scalar.
        """
        if not self._active:
            return
        self._lines.write(json.dumps({"step": step, **finite(values)}) + "\n")
        self._lines.flush()
        self._scalars(step, values)

    def write_speeds(self, step: int, speeds: dict[str, float]) -> None:
        """Adds scalars to the events only: the lines are what a repetition of the run gives
        again to the last bit.
        """
        if self._active:
            self._scalars(step, {f"speed/{name}": value for name, value in speeds.items()})

    def write_histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Adds the distribution of the finite values to the events."""
        values = values[np.isfinite(values)]
        if self._active and values.size:
            self._events.add_histogram(name, values, step)

    def sync(self) -> None:
        """Of a run in a bucket, sends the lines there now; the rest follows.

        Raises:
          InputError: the storage does not take them.
        """
        if self._active and self._mirror is not None:
            self._mirror.send(METRICS_FILE)

    def _scalars(self, step: int, values: dict[str, float]) -> None:
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        for name, value in finite.items():
            self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(finite, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._active:
            self._lines.close()
            self._events.close()
            if self._wandb is not None:
                self._wandb.finish()
            if self._mirror is not None:
                self._mirror.close()


def _import_wandb(config: Config) -> Any:
    """The package, None where it is not wanted."""
    if config.run.wandb is None:
        return None
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "run.wandb needs the wandb package: pip install wandb, or leave it out"
        ) from error
    return wandb


def _open_wandb(folder: pathlib.Path, config: Config, local: pathlib.Path) -> Any:
    """A Weights & Biases run that goes on where the folder's did, with its own files in `local`;
    None where none is wanted.
    """
    if (wandb := _import_wandb(config)) is None:
        return None
    return wandb.init(
        project=config.run.wandb,
        name=folder.name,
        id=re.sub(r"[^\w-]", "-", folder.name),
        resume="allow",
        dir=str(local),
        config=as_dict(config),
    )


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, in order."""
    return [json.loads(line) for line in _whole_lines(folder / METRICS_FILE)]


def _whole_lines(path: pathlib.Path) -> list[str]:
    # A run that was killed may leave the last line unfinished.
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]
