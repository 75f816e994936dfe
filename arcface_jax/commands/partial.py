"""Embeddings on their way to a file, so that an interrupted command goes on where it was."""

import contextlib
import dataclasses
import json
import pathlib

import numpy as np

from arcface_jax.buckets import BucketPath, scratch_folder
from arcface_jax.commands.models import STABLEHLO_FILE
from arcface_jax.data.detect import Tally
from arcface_jax.files import write_whole
from arcface_jax.runs.run_folder import CHECKPOINTS_FOLDER
from arcface_jax.runs.staging import STEPS_FILE


class Partial:
    """Embeddings on their way to a file: a memory map beside it, and how many rows are done."""

    def __init__(
        self, output: pathlib.Path, rows: int, size: int, recipe: dict[str, object]
    ) -> None:
        """Goes on with what an interrupted run of the same recipe left; else begins anew."""
        self._stack = contextlib.ExitStack()
        if isinstance(output, BucketPath):  # no memory map can lie there; this one goes with us
            output = self._stack.enter_context(scratch_folder()) / output.name
        self.path = output.with_name(output.name + ".partial.npy")
        self._progress = output.with_name(output.name + ".partial.json")
        self._recipe = recipe
        self.done, self.tally = 0, Tally()
        if self._progress.exists() and self.path.exists():
            saved = json.loads(self._progress.read_text())
            if saved["recipe"] == recipe:
                self.done, self.tally = int(saved["done"]), Tally(**saved["tally"])
        mode = "r+" if self.done else "w+"
        shape = None if self.done else (rows, size)
        self.rows = np.lib.format.open_memmap(self.path, mode, np.float32 if shape else None, shape)

    def save(self, done: int) -> None:
        """Makes the first `done` rows durable, then says so."""
        self.rows.flush()
        self.done = done
        tally = dataclasses.asdict(self.tally)
        saved = {"done": done, "tally": tally, "recipe": self._recipe}
        write_whole(self._progress, json.dumps(saved))

    def discard(self) -> None:
        """Removes what was written on the way: the last act."""
        self.path.unlink(missing_ok=True)
        self._progress.unlink(missing_ok=True)
        self._stack.close()


def about_model(path: pathlib.Path, name: str) -> dict[str, object]:
    """What tells whether a model is the one of before. A folder's own time does not tell that a run
    has come to another checkpoint, or that an export was made anew.
    """
    checkpoints = path / CHECKPOINTS_FOLDER
    parts = (path / STABLEHLO_FILE, checkpoints / STEPS_FILE, checkpoints)
    written = next((part for part in parts if part.exists()), path).stat().st_mtime
    return {"model": str(path.resolve()), "name": name, "model written": written}
