"""The folder a run writes: configuration, metrics, results. Nothing half-written has its final name."""

import contextlib
import dataclasses
import json
import os
import pathlib
from typing import Any, Self

from tensorboardX import SummaryWriter

from arcface_jax.errors import InputError
from arcface_jax.training.config import Config

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.json"


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that a reader finds all of it or none."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    os.replace(partial, path)


class RunFolder:
    """A run's folder; `results.json` appears in it only when the run is complete."""

    def __init__(self, path: pathlib.Path, config: Config) -> None:
        """Makes the folder, or with config.run.resume opens an unfinished one.

        Raises:
          InputError: the folder holds a run already and is not to be resumed, or cannot be written.
        """
        self.path = path
        if (path / RESULTS_FILE).exists():
            raise InputError(f"run.folder {path} holds a finished run; choose another folder")
        # Where a run lies is no part of what it is: a saved configuration can be run again elsewhere.
        recipe = dataclasses.replace(config, run=dataclasses.replace(config.run, folder=None, resume=False))
        if (path / METRICS_FILE).exists():
            if not config.run.resume:
                raise InputError(f"run.folder {path} holds a run already; choose another, or go on with --run.resume")
            _check_same(path, Config.from_json_file(path / CONFIG_FILE), recipe)
        elif config.run.resume:
            raise InputError(f"run.folder {path} holds no run to go on with; check the path, or leave out --run.resume")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(path / CONFIG_FILE, recipe.to_json())
        except OSError as error:
            raise InputError(f"run.folder {path} cannot be written ({error.strerror}); choose another") from error

    def discard(self) -> None:
        """Removes a folder whose run never began; leaves one that holds anything else."""
        if not (self.path / METRICS_FILE).exists():
            (self.path / CONFIG_FILE).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else lies there
                self.path.rmdir()

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where the checkpoints go."""
        return self.path / "checkpoints"

    @property
    def figures(self) -> pathlib.Path:
        """Where the pictures go."""
        return self.path / "figures"

    def finish(self, results: dict[str, Any]) -> None:
        """Writes the results; this marks the run as complete."""
        write_whole(self.path / RESULTS_FILE, json.dumps(results, indent=2) + "\n")


def _check_same(path: pathlib.Path, saved: Config, given: Config) -> None:
    differences = [
        f"{section}.{name} is {value!r}, was {dataclasses.asdict(saved)[section][name]!r}"
        for section, values in dataclasses.asdict(given).items()
        for name, value in values.items()
        if value != dataclasses.asdict(saved)[section][name]
    ]
    if differences:
        raise InputError(
            f"run.folder {path} was trained with another configuration ({'; '.join(differences)}); "
            f"go on with its own: --config {path / CONFIG_FILE} --run.folder {path} --run.resume"
        )


class MetricsWriter:
    """Metrics as JSON lines and as TensorBoard events."""

    def __init__(self, folder: pathlib.Path, first_step: int = 0) -> None:
        """Goes on after `first_step`; lines beyond it, from a run that broke off later, are dropped."""
        path = folder / METRICS_FILE
        kept = [line for line in _whole_lines(path) if json.loads(line)["step"] <= first_step] if first_step else []
        write_whole(path, "".join(kept))
        self._lines = path.open("a")
        self._events = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds one line {"step": step, …} and the same as scalars."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        self._lines.flush()
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def write_speeds(self, step: int, speeds: dict[str, float]) -> None:
        """Adds scalars to the events only: the lines are what a repetition of the run gives again to the last bit."""
        for name, value in speeds.items():
            self._events.add_scalar(f"speed/{name}", value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._events.close()


def read_metrics(folder: pathlib.Path) -> list[dict[str, float]]:
    """The lines of a run's metrics, in order."""
    return [json.loads(line) for line in _whole_lines(folder / METRICS_FILE)]


def _whole_lines(path: pathlib.Path) -> list[str]:
    # A run that was killed may leave the last line unfinished.
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]
