"""Runs to read from: found by the path that a user gives, opened so that a run still at work is
not disturbed.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.run_folder import CHECKPOINTS_FOLDER, CONFIG_FILE
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import read_config


class SavedRun(NamedTuple):
    """A run's folder, and which of its checkpoints is meant.

    Attributes:
      folder: of the run.
      step: of the checkpoint; None for the newest.
    """

    folder: pathlib.Path
    step: int | None = None

    @property
    def name(self) -> str:
        """Of the run, with the step where one is meant."""
        return self.folder.resolve().name + ("" if self.step is None else f"-{self.step}")

    @property
    def config(self) -> Config:
        """Its configuration."""
        return read_config(self.folder / CONFIG_FILE)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[Checkpoints, int]]:
        """Its checkpoints, and the step of the one that is meant.

        Raises:
          InputError: it is not there.
        """
        place = self.folder / CHECKPOINTS_FOLDER
        if not place.is_dir():
            raise InputError(
                f"{self.folder}: holds no checkpoints; give a run that has reached its first one"
            )
        checkpoints = Checkpoints(place, to_read=True)
        try:
            steps = checkpoints.steps()
            if not steps:
                raise InputError(
                    f"{place}: no complete checkpoint; let the run go on to its first one"
                )
            if self.step is not None and self.step not in steps:
                raise InputError(
                    f"{place / str(self.step)}: no such checkpoint; there are "
                    f"{', '.join(map(str, steps))}"
                )
            yield checkpoints, steps[-1] if self.step is None else self.step
        finally:
            checkpoints.close()


def find_run(path: pathlib.Path) -> SavedRun | None:
    """The run that a path means: RUN, its newest checkpoint; RUN/checkpoints/STEP, that one;
    None for anything else.
    """
    if (path / CONFIG_FILE).exists():
        return SavedRun(path)
    place = path.absolute()
    if (
        place.name.isdecimal()
        and place.parent.name == CHECKPOINTS_FOLDER
        and (place.parents[1] / CONFIG_FILE).exists()
    ):
        return SavedRun(
            path.parents[1] if len(path.parts) > 2 else place.parents[1], int(place.name)
        )
    return None
