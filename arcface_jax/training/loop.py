"""The training loop: batches in, metrics, verifications and checkpoints out."""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any, Protocol

import jax
import numpy as np

from arcface_jax.analysis.angle_distributions import target_angles
from arcface_jax.errors import InputError
from arcface_jax.models.embed import make_embed_function
from arcface_jax.training.checkpoints import Checkpoints, describe
from arcface_jax.training.dataset import sample_images
from arcface_jax.training.run_folder import MetricsWriter, RunFolder
from arcface_jax.training.setup import Setup
from arcface_jax.training.state import TrainState
from arcface_jax.training.verifier import Verifier

_ANGLE_SAMPLE = 2048
"""Training images whose angles to their centres are kept at the start, middle and end."""


Numbers = dict[str, float]


class Stopped(Exception):  # noqa: N818 - asked for, not an error
    """The run was asked to stop; its last checkpoint is at `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(step)
        self.step = step


class Reporter(Protocol):
    """Who is told how the run goes."""

    def first_loss(self, seen: float, expected: float) -> None:
        """The loss of the first batch, before any update, beside the expected one."""

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics at `step`, every run.log_every steps."""

    def verified(self, step: int, numbers: Numbers) -> None:
        """A verification of the held-out identities, see `VerificationResult.numbers`."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
      verifications: by step, from 0 (untrained) to the last.
      similarities: cosine of each test pair with the final model.
      angles: by step (start, middle, end), degrees between training images and their centres.
      speeds: images_per_second, and data_wait, the share of the time that steps waited for data.
      seconds: from the first step to the last, compilation and verification included.
    """

    verifications: dict[int, Numbers]
    similarities: np.ndarray
    angles: dict[int, np.ndarray]
    speeds: dict[str, float]
    seconds: float


@contextlib.contextmanager
def _stop_requests() -> Iterator[dict[str, bool]]:
    """Turns the first Ctrl-C or termination signal into a request; the second interrupts at once."""
    request = {"stop": False}

    def ask(number: int, frame: FrameType | None) -> None:
        if request["stop"]:
            raise KeyboardInterrupt
        request["stop"] = True

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Run:
    """The moving parts of one run, so that the loop below reads from top to bottom."""

    def __init__(self, setup: Setup, folder: RunFolder) -> None:
        config = setup.config
        self.setup = setup
        self.batches = setup.batches()
        self.verifier = Verifier(setup.data, make_embed_function(setup.backbone), flip=config.data.flip_test)
        self.checkpoints = Checkpoints(folder.checkpoints)
        self.verifications: dict[int, Numbers] = {}
        self.angles: dict[int, np.ndarray] = {}
        self.similarities: np.ndarray | None = None  # of the last verification of this process

    def start(self) -> TrainState:
        """The state to begin with: the newest checkpoint's, or a new one."""
        state = self.setup.initial_state()
        newest = self.checkpoints.latest_step()
        if newest is None:
            return state
        saved = self.checkpoints.metadata(newest)
        if saved["data_fingerprint"] != self.setup.data.fingerprint:
            raise InputError(
                f"checkpoint {newest} of {self.checkpoints.folder} was trained on other data; use a new folder"
            )
        self.verifications = {int(step): numbers for step, numbers in saved["verifications"].items()}
        self.angles = {int(step): np.array(degrees) for step, degrees in saved["angles"].items()}
        self.batches.set_state(saved["data_state"])
        return self.checkpoints.restore(newest, state)

    def save(self, state: TrainState) -> None:
        """Checkpoints the state with what was found so far."""
        found: dict[str, Any] = {
            "verifications": {str(step): numbers for step, numbers in self.verifications.items()},
            "angles": {str(step): np.round(degrees, 4).tolist() for step, degrees in self.angles.items()},
        }
        found["data_state"] = self.batches.get_state()
        about = describe(self.setup.config, self.setup.data.fingerprint, self.setup.data.num_classes)
        self.checkpoints.save(state, about | found)

    def verify(self, step: int, state: TrainState) -> Numbers:
        """Verifies the held-out identities, once for each step."""
        if step not in self.verifications:
            self.similarities = self.verifier.similarities(state.backbone_variables)
            self.verifications[step] = self.verifier.verify(self.similarities).numbers()
        return self.verifications[step]

    def measure_angles(self, step: int, state: TrainState) -> None:
        """Keeps the distribution of θ between a sample of training images and their centres."""
        config = self.setup.config
        images, labels = sample_images(self.setup.data.train, _ANGLE_SAMPLE, config.data.image_size, config.run.seed)
        embeddings = self.verifier.embed(state.backbone_variables, images)
        self.angles[step] = target_angles(embeddings, np.asarray(state.params["head"]["class_weights"]), labels)

    def close(self) -> None:
        """Stops reading ahead, and waits for what is being written."""
        self.batches.close()
        self.checkpoints.close()


def train(setup: Setup, folder: RunFolder, reporter: Reporter) -> RunResult:
    """Trains to the end, or to the next request to stop.

    Verifies before the first step, every run.evaluate_every steps and at the
    end, and writes a checkpoint each time.

    Raises:
      Stopped: Ctrl-C or a termination signal came; a checkpoint of the last step was written.
      InputError: the loss is not finite; or a checkpoint to go on from does not fit.
    """
    config, data = setup.config, setup.data
    run = _Run(setup, folder)
    state = run.start()
    first = int(state.step)
    angle_steps = {0, config.run.steps // 2, config.run.steps}
    started = time.perf_counter()
    with contextlib.closing(run), MetricsWriter(folder.path, first) as writer, _stop_requests() as request:
        state = setup.step.place(state)
        timer = _Timer(config.run.batch_size)

        def visit(step: int) -> None:
            whole = setup.step.fetch(state)
            if step in angle_steps:
                run.measure_angles(step, whole)
            if step % config.run.evaluate_every == 0 or step == config.run.steps:
                numbers = run.verify(step, whole)
                reporter.verified(step, numbers)
                writer.write(step, {f"verification/{name}": value for name, value in numbers.items()})
                if step:
                    run.save(whole)

        if first == 0:
            visit(0)
        timer.start()
        for step in range(first + 1, config.run.steps + 1):
            batch = next(run.batches)
            state, metrics = setup.step(state, batch.images, batch.labels)
            timer.step(run.batches.waited)
            if step == 1:
                expected = setup.objective.expected_initial_loss(data.num_classes, config.model.embedding_size)
                reporter.first_loss(float(metrics["loss"]), expected)
            if step % config.run.log_every == 0 or step in (1, config.run.steps):
                values = {name: float(value) for name, value in jax.device_get(metrics).items()}
                values["learning_rate"] = float(setup.schedule(step - 1))
                _check_finite(step, values)
                writer.write(step, values)
                speeds = timer.read()
                writer.write_speeds(step, speeds)
                reporter.progress(step, values | speeds)
            timer.pause()
            visit(step)
            timer.resume()
            if request["stop"] and step < config.run.steps:
                run.save(setup.step.fetch(state))
                raise Stopped(step)
        similarities = run.similarities
        if similarities is None:  # went on from the last step: nothing was verified now
            similarities = run.verifier.similarities(setup.step.fetch(state).backbone_variables)
    return RunResult(run.verifications, similarities, run.angles, timer.average(), time.perf_counter() - started)


class _Timer:
    """Images a second, and the share of the time that steps waited for data; verification is not counted."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._totals = np.zeros(3)  # steps, seconds, seconds of waiting
        self._warm = False  # the first reading is mostly compilation
        self.start()

    def start(self) -> None:
        self._steps, self._waited, self._since, self._paused = 0, 0.0, time.perf_counter(), 0.0

    def step(self, waited: float) -> None:
        self._steps += 1
        self._waited += waited

    def pause(self) -> None:
        self._paused = time.perf_counter()

    def resume(self) -> None:
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
        return {"images_per_second": steps * self._batch_size / seconds, "data_wait": waited / seconds}


def _check_finite(step: int, values: dict[str, float]) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise InputError(
                f"{name} is {value} at step {step}: the run has diverged; lower --optimiser.learning-rate or lengthen "
                "--optimiser.warmup, and start anew"
            )
