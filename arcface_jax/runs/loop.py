"""The training loop: batches in, metrics, verifications and checkpoints out."""

import contextlib
import dataclasses
import pathlib
import time
from types import TracebackType
from typing import Any, Protocol

import jax
import numpy as np

from arcface_jax.buckets import written_locally
from arcface_jax.command_name import command
from arcface_jax.counts import number_of
from arcface_jax.data.pipeline import Batch
from arcface_jax.errors import InputError, printable
from arcface_jax.runs.bad_steps import diagnose, keep_batch
from arcface_jax.runs.checkpoints import Checkpoints, barrier, metadata_of
from arcface_jax.runs.processes import is_over
from arcface_jax.runs.resume import newest_readable
from arcface_jax.runs.run_folder import MetricsWriter, RunFolder
from arcface_jax.runs.setup import Setup
from arcface_jax.runs.stopping import Stopped, stop_requests
from arcface_jax.runs.timer import Timer
from arcface_jax.runs.verifier import Numbers, Verifier, by_set
from arcface_jax.training.config import PROFILE_AFTER
from arcface_jax.training.state import TrainState

BEST_BY = "accuracy"
"""The number of a verification that the best one is named by."""

_OTHER_FIRST_LOSS = (
    "These differ. Likely causes: labels out of step with the images, embeddings that are all "
    "alike, pixels normalised twice, or a loss.scale or loss.margin other than meant."
)


class Reporter(Protocol):
    """Who is told how the run goes."""

    def says(self, message: str) -> None:
        """Something that a person should know."""

    def begins(self, what: str) -> None:
        """What is under way from now on, until there are metrics."""

    def first_loss(self, seen: float, expected: float | None) -> None:
        """The loss of the first batch, before any update, beside the expected one if known."""

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Metrics at `step`, every run.log_every steps."""

    def verified(self, step: int, numbers: Numbers, best: dict[str, tuple[int, float]]) -> None:
        """A verification, see `Verifier.verify`, and the best so far, see `best_so_far`."""


class Quiet:
    """A `Reporter` that tells nobody."""

    def _nothing(self, *_: object) -> None: ...

    says = begins = first_loss = progress = verified = _nothing


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run found.

    Attributes:
      verifications: by step, from 0 (before training) to the last.
      similarities: cosine of each pair of the first set with the final model.
      angles: by step (start, middle, end), degrees between training images and their centres.
      speeds: images_per_second, and data_wait, the share of the time that steps waited for data.
      seconds: of this process, from its first step to the last, compilation and verification
        included.
      began_at: steps that were done when it began, by processes before it.
      bad_steps: steps that were skipped since loss or gradient were not finite.
    """

    verifications: dict[int, Numbers]
    similarities: np.ndarray
    angles: dict[int, np.ndarray]
    speeds: dict[str, float]
    seconds: float
    began_at: int
    bad_steps: int


def best_so_far(verifications: dict[int, Numbers]) -> dict[str, tuple[int, float]]:
    """For each set (and "average"), the step of its highest accuracy, the first of equals, and that
    accuracy.

    Sets are called as `by_set` calls them.
    """
    best: dict[str, tuple[int, float]] = {}
    for step in sorted(verifications):
        for name, own in by_set(verifications[step]).items():
            if name not in best or own[BEST_BY] > best[name][1]:
                best[name] = (step, own[BEST_BY])
    return best


class _Run:
    """The moving parts of one run, so that the loop below reads from top to bottom."""

    def __init__(self, setup: Setup, folder: RunFolder, reporter: Reporter) -> None:
        config = setup.config
        self.setup, self.folder, self.reporter = setup, folder, reporter
        self.batches = setup.batches()
        self.verifier = Verifier(setup)
        self.checkpoints = Checkpoints(folder.checkpoints, config.run.keep, config.run.keep_best)
        self.verifications: dict[int, Numbers] = {}
        self.angles: dict[int, np.ndarray] = {}
        self.similarities: np.ndarray | None = None  # of the last verification of this process

    def start(self) -> TrainState:
        """The whole state to begin with: the newest checkpoint's that can be read, or a new one."""
        found = newest_readable(self.checkpoints, self.setup.program, self.reporter.says)
        if found is None:
            return self.setup.initial_state()
        newest, state = found
        saved = self.checkpoints.metadata(newest)
        if saved["data_fingerprint"] != self.setup.data.fingerprint:
            raise InputError(
                f"checkpoint {newest} of {self.checkpoints.folder} was trained on other data; use "
                "a new folder"
            )
        self.verifications = {
            int(step): numbers for step, numbers in saved["verifications"].items()
        }
        self.angles = {int(step): np.array(degrees) for step, degrees in saved["angles"].items()}
        self.batches.set_state(saved["data_state"])
        self.reporter.says(f"Going on from the checkpoint of step {newest}.")
        return state

    def save(self, state: TrainState) -> None:
        """Checkpoints the whole state with what was found so far, in the background."""
        step = int(state.step)
        found: dict[str, Any] = {
            "verifications": {str(step): numbers for step, numbers in self.verifications.items()},
            "angles": {str(step): degrees.tolist() for step, degrees in self.angles.items()},
            "data_state": self.batches.get_state(),
        }
        program, data = self.setup.program, self.setup.data
        about = metadata_of(program.config, data.fingerprint, program.num_classes, program.shards)
        self.checkpoints.save(state, about | found, self.verifications.get(step, {}).get(BEST_BY))

    def visit(self, step: int, state: TrainState, writer: MetricsWriter) -> None:
        """What is due after `step`: angles, verification, checkpoint."""
        middle = self.setup.config.run.steps // 2
        if self._verifies(step) or step == middle:
            angles = self.verifier.angles(state)
            writer.write_histogram(step, "theta", angles)
            writer.write_histogram(step, "target_cosine", np.cos(np.radians(angles)))
            if step in (0, middle, self.setup.config.run.steps):
                self.angles[step] = np.round(
                    np.asarray(angles, np.float64), 4
                )  # as a checkpoint gives them back
        if self._verifies(step) and step not in self.verifications:
            self.verifications[step], self.similarities = self.verifier.verify(state)
            numbers = self.verifications[step]
            self.reporter.verified(step, numbers, best_so_far(self.verifications))
            writer.write(step, {f"verification/{name}": value for name, value in numbers.items()})
        if self._saves(step):
            writer.sync()  # no checkpoint is ahead of its metrics
            self.save(state)

    def visit_or_give_up(
        self, step: int, state: TrainState, batch: Batch, writer: MetricsWriter
    ) -> None:
        """`visit`, unless there were too many bad steps, or a bad one left a model that cannot be
        verified.

        Raises:
          InputError: from `give_up`, which says why in terms of the steps, or from `visit`.
        """
        in_a_row = int(state.bad_steps[0])
        if in_a_row >= self.setup.config.run.bad_steps:
            self.give_up(step, state, batch)
        try:
            self.visit(step, state, writer)
        except InputError:
            if in_a_row:
                self.give_up(step, state, batch)
            raise

    def log(
        self, step: int, metrics: dict[str, jax.Array], timer: Timer, writer: MetricsWriter
    ) -> int:
        """Writes and reports the metrics of a step; returns how many bad steps came in a row up
        to it.
        """
        values = {name: float(value) for name, value in jax.device_get(metrics).items()}
        in_a_row = int(values.pop("bad_in_a_row"))
        writer.write(step, values)
        speeds = timer.read()  # now that the step is done, which the metrics waited for
        writer.write_speeds(step, speeds)
        self.reporter.progress(step, values | speeds | _memory())
        return in_a_row

    def is_due(self, step: int) -> bool:
        """Whether `visit` has anything to do after `step`."""
        return self._verifies(step) or self._saves(step) or step == self.setup.config.run.steps // 2

    def _verifies(self, step: int) -> bool:
        run = self.setup.config.run
        return step % run.evaluate_every == 0 or step == run.steps

    def _saves(self, step: int) -> bool:
        run = self.setup.config.run
        scored = run.keep_best > 0 and self._verifies(
            step
        )  # else the best verification would have no checkpoint
        return step > 0 and (
            step % (run.checkpoint_every or run.evaluate_every) == 0 or step == run.steps or scored
        )

    def give_up(self, step: int, state: TrainState, batch: Batch) -> None:
        """Keeps state and batch of a step that is the last of too many bad ones, and says where it
        goes wrong.

        Raises:
          InputError: always.
        """
        self.save(state)
        self.checkpoints.wait()
        in_a_row = int(state.bad_steps[0])
        place: pathlib.Path = self.folder.path / f"bad-step-{step}"
        indices = self.setup.sampler.rows(step - 1, 0, self.setup.config.run.batch_size)
        keep_batch(place, step, indices, batch.images, batch.labels)
        barrier(f"bad step {step}")
        where = f"; {diagnose(place).first_bad()}" if jax.process_count() == 1 else ""
        raise InputError(
            f"loss or gradient was not finite in {number_of(in_a_row, 'step')} in a row, up to "
            f"step {step}{where}. Nothing was learnt from them. See {command('replay')} {place}; "
            "lower --optimiser.learning-rate, lengthen --optimiser.warmup or set "
            "--optimiser.clip, and start anew"
        )

    def report_unreadable(self) -> None:
        """Says how often a streamed image could not be decoded, and another took its place."""
        if count := self.batches.unreadable.total():
            first = next(iter(self.batches.unreadable))
            self.reporter.says(
                f"{count} times an image could not be decoded and another took its place: {first} …"
            )
        if emptied := sorted(self.batches.emptied):
            self.reporter.says(
                f"Classes none of whose images could be decoded: {len(emptied)}; the first: "
                f"{printable(emptied[0])}. --data.loading memory leaves them out."
            )

    def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stops reading ahead, and waits for what is being written, but not with other processes
        after an error.
        """
        self.batches.close()
        if not is_over(error):
            self.checkpoints.close()


def train(setup: Setup, folder: RunFolder, reporter: Reporter) -> RunResult:
    """Trains to the end, or to the next request to stop.

    Verifies before the first step, every run.evaluate_every steps and at the
    end, and writes a checkpoint as often or every run.checkpoint_every steps.

    Raises:
      Stopped: Ctrl-C or a termination signal came; a checkpoint of the last step was written.
      InputError: the loss is not finite in too many steps; a checkpoint to go on from does not fit,
        or one cannot be written.
    """
    config, program = setup.config, setup.program
    run = _Run(setup, folder, reporter)
    started = time.perf_counter()
    with contextlib.ExitStack() as stack:
        stack.push(run.close)
        state = run.start()
        first = int(state.step)
        folder.keep_classes(setup.data.train.identity_names)
        writer = stack.enter_context(MetricsWriter(folder.path, config, first))
        request = stack.enter_context(stop_requests())
        if first == 0:
            reporter.begins("compiling, and verifying first")
            run.visit(0, state, writer)
        reporter.begins("compiling the step")
        take_step, key = program.compile_step(), program.key
        timer, profile = (
            Timer(config.run.batch_size),
            _Profile(folder.path, first, config.run.profile),
        )
        stack.callback(profile.stop)
        for step in range(first + 1, config.run.steps + 1):
            profile.at(step)
            batch = next(run.batches)
            state, metrics = take_step(state, key, batch.images, batch.labels)
            timer.step(run.batches.waited)
            if step == 1:
                seen, norm = float(metrics["loss"]), float(metrics["feature_norm"])
                expected = program.expected_initial_loss(norm)
                reporter.first_loss(seen, expected)
                if expected is not None and not program.may_start_with(seen, expected):
                    reporter.says(_OTHER_FIRST_LOSS)
            logged = step % config.run.log_every == 0 or step in (1, config.run.steps)
            if logged and run.log(step, metrics, timer, writer) >= config.run.bad_steps:
                run.give_up(step, state, batch)
            if run.is_due(step):
                timer.pause()
                run.visit_or_give_up(step, state, batch, writer)
                timer.resume()
            # Several processes agree when they log; asking at every step would cost a message each.
            asked = request.agreed() if logged or jax.process_count() == 1 else 0
            if asked and step < config.run.steps:
                writer.sync()
                run.save(state)
                run.checkpoints.wait()
                raise Stopped(step, asked)
        run.report_unreadable()
        similarities = run.similarities
        if similarities is None:  # went on from the last step: nothing was verified now
            variables = program.placement.local(state.backbone_variables)
            similarities = run.verifier.similarities(variables, setup.data.sets[0])
        bad_steps = int(state.bad_steps[1])
    seconds = time.perf_counter() - started
    return RunResult(
        run.verifications, similarities, run.angles, timer.average(), seconds, first, bad_steps
    )


def _memory() -> dict[str, float]:
    """{"memory": bytes in use on the first device of this process}; empty where the device does
    not tell.
    """
    statistics = jax.local_devices()[0].memory_stats()
    return {"memory": float(statistics["bytes_in_use"])} if statistics else {}


class _Profile:
    """A trace of some steps of a run."""

    def __init__(self, folder: pathlib.Path, first: int, steps: int) -> None:
        self._folder, self._stack = folder / "profile", contextlib.ExitStack()
        self._from, self._to = first + PROFILE_AFTER + 1, first + PROFILE_AFTER + 1 + steps
        self._running = False

    def at(self, step: int) -> None:
        """Starts or ends the trace where it is due."""
        if step == self._from and self._to > self._from:
            local = self._stack.enter_context(written_locally(self._folder))
            jax.profiler.start_trace(str(local))
            self._running = True
        elif step == self._to:
            self.stop()

    def stop(self) -> None:
        """Ends the trace if there is one."""
        if self._running:
            jax.profiler.stop_trace()
            self._stack.close()
            self._running = False
