"""How fast a run goes."""

import time

import numpy as np


class Timer:
    """Images a second, and the share of the time that steps waited for data; verification is
    not counted.
    """

    def __init__(self, batch_size: int) -> None:
        """`batch_size` images a step."""
        self._batch_size = batch_size
        self._totals = np.zeros(3)  # steps, seconds, seconds of waiting
        self._warm = False  # the first reading is mostly compilation
        self.start()

    def start(self) -> None:
        """Begins to count anew."""
        self._steps, self._waited, self._since, self._paused = 0, 0.0, time.perf_counter(), 0.0

    def step(self, waited: float) -> None:
        """Counts a step that waited so many seconds for its data."""
        self._steps += 1
        self._waited += waited

    def pause(self) -> None:
        """Stops the clock."""
        self._paused = time.perf_counter()

    def resume(self) -> None:
        """Lets the clock go on."""
        self._since += time.perf_counter() - self._paused

    def read(self) -> dict[str, float]:
        """The speeds since the last reading."""
        seconds = time.perf_counter() - self._since
        if self._warm:
            self._totals += (self._steps, seconds, self._waited)
        self._warm = True
        speeds = self._speeds(self._steps, seconds, self._waited)
        self.start()
        return speeds

    def average(self) -> dict[str, float]:
        """The speeds over the run, its first reading left out."""
        return self._speeds(*self._totals.tolist()) if self._totals[0] else {}

    def _speeds(self, steps: float, seconds: float, waited: float) -> dict[str, float]:
        return {
            "images_per_second": steps * self._batch_size / seconds,
            "data_wait": waited / seconds,
        }
