"""A run watched from elsewhere: a file that says how it goes, and a command for what happens."""

import contextlib
import dataclasses
import datetime
import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
from types import TracebackType
from typing import Any, Self

import jax

from arcface_jax.buckets import BucketPath
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, printable
from arcface_jax.files import write_whole
from arcface_jax.progress import clock, in_words
from arcface_jax.runs.loop import BEST_BY, Quiet, Reporter
from arcface_jax.runs.run_folder import STATUS_FILE, finite
from arcface_jax.runs.stopping import Stopped
from arcface_jax.runs.verifier import Numbers, by_set

SECONDS_BETWEEN_BEATS = 10.0
"""The file is written anew as often, also in a step that takes long."""
SHORTEST_STALL = 300.0
"""Seconds without news after which a run counts as stalled, at least."""
FIRST_STALL = 3600.0
"""The same before the first step, which waits for data, verification and compiler."""
TIMES_LONGER = 10.0
"""How many times longer than ever before a run is silent when it counts as stalled."""
_COMMAND_SECONDS = 60.0
_SHOWN = ("loss", "accuracy", "learning_rate", "images_per_second", "data_wait", "memory")


@dataclasses.dataclass
class Watch:
    """A `loop.Reporter` that passes on what it is told, and keeps `status.json`.

    With a command, a shell runs it at each event, beside the training, with the status on its
    standard input and ARCFACE_EVENT, ARCFACE_MESSAGE and ARCFACE_RUN (the folder) in its
    environment. Events: bad_steps, stalled, falling (accuracy on the first set below the best by
    more than its deviation over folds), stopped, failed, finished. A command that fails or takes
    longer than a minute is said once and does the run no harm.
    """

    folder: pathlib.Path
    steps: int
    command: str | None = None

    def __post_init__(self) -> None:
        self._reporter: Reporter = Quiet()
        self._active = jax.process_index() == 0  # one of several tells
        self._status: dict[str, Any] = {
            "state": "running",
            "step": None,
            "steps": self.steps,
            "host": socket.gethostname(),
            "process": os.getpid(),
        }
        self._lock, self._over = threading.RLock(), threading.Event()
        # A bucket may take its time, for which no step waits: the beats alone write there.
        self._writing, self._due = threading.Lock(), threading.Event()
        self._far = isinstance(self.folder, BucketPath)
        self._news = self._first = clock()
        self._first_step: int | None = None
        self._longest, self._bad_steps, self._fell = 0.0, 0, False
        self._calls: list[threading.Thread] = []
        self._complained = False
        self._beats = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._write()
        self._beats.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """The run is over: finished, stopped on request, or failed."""
        self._over.set()
        self._due.set()
        self._beats.join()
        if error is None:
            self._event("finished", f"all {number_of(self.steps, 'step', 'are')} done")
        elif isinstance(error, Stopped | KeyboardInterrupt):
            self._event("stopped", "asked to stop; the same command goes on")
        else:
            name = "" if isinstance(error, InputError | OSError) else f"{type(error).__name__}: "
            self._event("failed", name + next(iter(str(error).splitlines()), "without a word"))
        for call in self._calls:
            call.join()

    def telling(self, reporter: Reporter) -> Self:
        """This, which passes on to `reporter` what it is told."""
        self._reporter = reporter
        return self

    def says(self, message: str) -> None:
        """Passes it on."""
        self._reporter.says(message)

    def begins(self, what: str) -> None:
        """Passes it on."""
        self._reporter.begins(what)

    def first_loss(self, seen: float, expected: float | None) -> None:
        """Passes it on."""
        self._reporter.first_loss(seen, expected)

    def progress(self, step: int, metrics: dict[str, float]) -> None:
        """Notes step, numbers and the estimated end; tells of bad steps."""
        self._reporter.progress(step, metrics)
        with self._lock:
            now = self._heard()
            if self._first_step is None:
                self._first_step, self._first = step, now
            self._status |= {"step": step, "stepped_at": _time()}
            self._status |= finite({name: metrics[name] for name in _SHOWN if name in metrics})
            done, bad_steps = step - self._first_step, int(metrics.get("bad_steps", 0))
            if done:  # verifications are in it, as they will be
                left = (self.steps - step) * (now - self._first) / done
                self._status["expected_end"] = _time(left)
            self._status["bad_steps"] = bad_steps
            if bad_steps > self._bad_steps:
                new, self._bad_steps = bad_steps - self._bad_steps, bad_steps
                self._event(
                    "bad_steps",
                    f"step {step}: {number_of(new, 'more step', 'were')} skipped, {bad_steps} in "
                    "all",
                )

    def verified(self, step: int, numbers: Numbers, best: dict[str, tuple[int, float]]) -> None:
        """Notes the first set's accuracy and the best so far; tells if it has fallen."""
        self._reporter.verified(step, numbers, best)
        own, (best_step, best_accuracy) = by_set(numbers)[""], best[""]
        with self._lock:
            self._heard()
            self._status["verification"] = {"step": step, BEST_BY: own[BEST_BY]}
            self._status["best"] = {"step": best_step, BEST_BY: best_accuracy}
            fell = own[BEST_BY] < best_accuracy - own["accuracy_std"]
            if fell and not self._fell:
                message = (
                    f"step {step}: accuracy {own[BEST_BY]:.2%}, {best_accuracy:.2%} at step "
                    f"{best_step}"
                )
                self._event("falling", message)
            self._fell = fell

    def _heard(self) -> float:
        """The run is alive; returns the time."""
        now = clock()
        if self._first_step is not None:
            self._longest = max(self._longest, now - self._news)
        if self._status["state"] == "stalled":
            self._status |= {"state": "running", "message": ""}
        self._news = now
        return now

    def _beat(self) -> None:
        while not self._over.is_set():
            self._due.wait(SECONDS_BETWEEN_BEATS)
            self._due.clear()
            if not self._over.is_set():
                self.beat()

    def beat(self) -> None:
        """Looks at the run and writes the file: beside the training, which never waits for it but
        at an event.
        """
        with self._lock:
            self.look(clock())
        self._write()

    def look(self, now: float) -> None:
        """Whether the run has stalled by now."""
        begun = self._first_step is not None
        allowed = max(SHORTEST_STALL, TIMES_LONGER * self._longest) if begun else FIRST_STALL
        silent = now - self._news
        if silent > allowed and self._status["state"] == "running":
            after = f"after step {self._status['step']}" if begun else "before the first step"
            self._event("stalled", f"no news for {in_words(silent)}, {after}")

    def _event(self, name: str, message: str) -> None:
        with self._lock:
            if name not in ("bad_steps", "falling"):
                self._status["state"] = name
            self._status |= {"event": name, "message": message, "event_at": _time()}
            if self._far and not self._over.is_set():
                self._due.set()
            else:
                self._write()
            if self.command is not None and self._active:
                environment = {"EVENT": name, "MESSAGE": message, "RUN": str(self.folder)}
                call = threading.Thread(
                    target=self._call, args=(self.command, environment, self._text()), daemon=True
                )
                call.start()
                self._calls.append(call)

    def _call(self, command: str, environment: dict[str, str], status: str) -> None:
        said = {f"ARCFACE_{name}": value for name, value in environment.items()}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command,
            shell=True,
            text=True,
            env={**os.environ, **said},
            stdin=pipe,
            stdout=subprocess.DEVNULL,
            stderr=pipe,
            start_new_session=True,  # Ctrl-C is for the run
        )
        try:
            _, errors = process.communicate(status, _COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            self._complain(f"took longer than {_COMMAND_SECONDS:.0f} s")
        else:
            if process.returncode:
                last = (errors.strip().splitlines() or ["it said nothing"])[-1]
                self._complain(f"ended with {process.returncode}: {printable(last)}")

    def _complain(self, what: str) -> None:
        if not self._complained:
            self._complained = True
            self.says(f"run.on_event: the command {what}")

    def _text(self) -> str:
        return json.dumps(self._status | {"written_at": _time()}, indent=2) + "\n"

    def _write(self) -> None:
        if not self._active:
            return
        if not self._far:
            with self._lock, contextlib.suppress(OSError):  # of a full disk the checkpoints tell
                write_whole(self.folder / STATUS_FILE, self._text())
            return
        with self._writing, contextlib.suppress(OSError):
            with self._lock:
                text = self._text()
            write_whole(self.folder / STATUS_FILE, text)


def _time(seconds_from_now: float = 0.0) -> str:
    """As ISO 8601 has it, in UTC, to the second."""
    then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds_from_now)
    return then.isoformat(timespec="seconds")
