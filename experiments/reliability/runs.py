"""Starts of the training command as child processes, and what they leave."""

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.runs.run_folder import (
    CHECKPOINTS_FOLDER,
    METRICS_FILE,
    RESULTS_FILE,
    read_metrics,
)
from arcface_jax.runs.saved_runs import SavedRun
from arcface_jax.training.state import named_leaves

_COMMANDS = __package__.rpartition(".")[0]
"""The package that the commands are in."""
_POLL = 0.002
_REFERENCE = threading.Lock()

PATIENCE = 300.0
"""Seconds after which a start that neither ended nor got anywhere counts as hanging."""

TINY = {
    "data.identities": "12",
    "data.images-per-identity": "6",
    "data.image-size": "16",
    "data.test-fraction": "0.5",
    "data.pairs": "120",
    "model.name": "resnet20",
    "model.width": "2",
    "model.embedding-size": "16",
    "run.steps": "24",
    "run.batch-size": "16",
    "run.evaluate-every": "10",
    "run.checkpoint-every": "1",
    "run.log-every": "1",
}
"""A run of seconds on five people: options of the command train."""


class Lost(Exception):  # noqa: N818 - what happened to the run
    """A run did not come back, or never got to where its fault was to strike."""


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a start ended: its exit status (−9 for kill −9) and everything it said."""

    status: int
    said: str


@dataclasses.dataclass
class Tally:
    """What a fault did: how often it struck, and a line on each thing that was lost or not as
    promised.
    """

    fault: str
    what: str
    times: int = 0
    lost: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def expect(self, holds: bool, otherwise: str) -> None:
        """Notes `otherwise` as lost unless it holds."""
        if not holds:
            self.lost.append(otherwise)

    def expect_end(self, ended: Ended, status: int, *said: str) -> None:
        """Notes what an end differs in from the status and the words expected."""
        words = " ".join(ended.said.split())  # lines are wrapped where the console says so
        missing = [text for text in said if text not in words]
        if ended.status != status or missing:
            self.lost.append(
                f"ended with {ended.status}, expected {status} and {missing}: … {words[-400:]}"
            )


class Child:
    """One start of a command, whose output is read as it comes."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts `python -m` with `command`."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            stdout=subprocess.PIPE,  # and not a file, for a disk that is full has no room for it
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as output:
            self._lines.extend(output)

    def said(self) -> str:
        """Its output so far."""
        return "".join(self._lines)

    def wait(self, patience: float = PATIENCE) -> Ended:
        """Waits for its end; kills it, and raises `Lost`, where it hangs."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired as error:
            self._tell_where()
            raise Lost(f"hung for {patience:.0f} s: … {self.said()[-4000:]}") from error
        self._reader.join()
        return Ended(status, self.said())

    def wait_until(self, happened: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Waits until something happened (True) or the process ended before (False)."""
        until = time.monotonic() + patience
        while not happened():
            if self.process.poll() is not None:
                return happened()
            if time.monotonic() > until:
                self._tell_where()
                raise Lost(f"got nowhere in {patience:.0f} s: … {self.said()[-4000:]}")
            time.sleep(_POLL)
        return True

    def _tell_where(self) -> None:
        """Lets Python print where every thread of it stands, and ends it."""
        self.send(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10.0)
        self.kill()

    def send(self, number: int) -> None:
        """Sends a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill −9, and waits for the end."""
        self.process.kill()
        self.process.wait()
        self._reader.join()


@dataclasses.dataclass(frozen=True)
class Run:
    """A run in a folder: the same command, with options (without the dashes) of train and with
    simulated devices of each process, started as often as need be.
    """

    folder: pathlib.Path
    options: dict[str, str]
    devices: int = 1

    def start(self, *flags: str, **environment: str) -> Child:
        """Gives the command, with flags and environment variables of this start."""
        arguments = [text for name, value in self.options.items() for text in (f"--{name}", value)]
        return self.give(
            "train", *arguments, *flags, "--run.folder", str(self.folder), **environment
        )

    def give(self, name: str, *arguments: str, **environment: str) -> Child:
        """Gives another command."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        defaults = {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder.parent / "compiled"),
            "MPLBACKEND": "agg",
        }
        own = {
            "JAX_PLATFORMS": "cpu",
            "PYTHONFAULTHANDLER": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={self.devices}",
        }
        return Child((f"{_COMMANDS}.{name}", *arguments), defaults | os.environ | own | environment)

    def to_the_end(self) -> Ended:
        """Gives the command and waits."""
        return self.start().wait()

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where its checkpoints lie."""
        return self.folder / CHECKPOINTS_FOLDER

    def newest(self) -> int:
        """The step of the newest checkpoint; 0 without any."""
        if not self.checkpoints.is_dir():
            return 0
        names = os.listdir(self.checkpoints)
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def is_saving(self, since: float = 0.0) -> bool:
        """Whether there is an unfinished save, begun after a time (of `time.time`)."""
        if not self.checkpoints.is_dir():
            return False
        for name in os.listdir(self.checkpoints):
            with contextlib.suppress(FileNotFoundError):  # finished in this moment
                if not name.isdecimal() and (self.checkpoints / name).stat().st_ctime >= since:
                    return True
        return False

    def is_finished(self) -> bool:
        """Whether it is complete."""
        return (self.folder / RESULTS_FILE).exists()

    def last_logged(self) -> int:
        """The last step in the metrics."""
        return max((int(line["step"]) for line in read_metrics(self.folder)), default=0)

    def stop(self, child: Child, number: int = signal.SIGTERM, steps: int = 1) -> Ended:
        """Sends a signal once there are `steps` newer checkpoints, and waits for the end."""
        before = self.newest()
        if not child.wait_until(lambda: self.newest() >= before + steps):
            raise Lost(f"ended by itself before the signal: … {child.said()[-400:]}")
        child.send(number)
        return child.wait()

    def another(self, name: str, **options: str) -> Self:
        """The same beside it, with other options (double underscore for a dot)."""
        folder, changed = self.folder.with_name(name), dict(self.options)
        for option, value in options.items():
            changed[option.replace("__", ".").replace("_", "-")] = value
        return dataclasses.replace(self, folder=folder, options=changed)


def reference(run: Run) -> Run:
    """A run of the same options that nothing happens to, made once for each workspace."""
    with _REFERENCE:  # several faults at once compare with the same one
        if not run.is_finished():
            ended = run.to_the_end()
            if ended.status:
                said = f"ended with {ended.status}: … {ended.said[-400:]}"
                raise Lost(f"the run that nothing happens to {said}")
    return run


def final_state(run: Run) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint, by name."""
    with SavedRun(run.folder).opened() as (checkpoints, newest):
        tree = checkpoints.read_tree(newest)
    return {name: np.asarray(leaf) for name, leaf in named_leaves(tree).items()}


def _found(run: Run) -> dict[str, Any]:
    with SavedRun(run.folder).opened() as (checkpoints, newest):
        metadata = checkpoints.metadata(newest)
    kept = ("verifications", "angles", "data_state", "data_fingerprint")
    return {name: metadata[name] for name in kept}


def run_differences(run: Run, other: Run) -> list[str]:
    """What two finished runs differ in to the last bit: state, metrics, verifications, angles."""
    for each in (run, other):
        if not each.is_finished():
            return [f"{each.folder.name} is not finished"]
    name, found = run.folder.name, []
    if (run.folder / METRICS_FILE).read_bytes() != (other.folder / METRICS_FILE).read_bytes():
        found.append(f"{METRICS_FILE} of {name} differs")
    first, second = ({k: v.tobytes() for k, v in final_state(one).items()} for one in (run, other))
    arrays = [key for key in sorted(first | second) if first.get(key) != second.get(key)]
    if arrays:
        found.append(
            f"{number_of(len(arrays), 'array')} of the final state of {name} differ, first "
            f"{arrays[0]}"
        )
    if _found(run) != _found(other):
        found.append(f"verifications, angles or the place in the data of {name} differ")
    mine, theirs = (json.loads((one.folder / RESULTS_FILE).read_text()) for one in (run, other))
    kinds = [kind for kind in ("verifications", "best", "bad_steps") if mine[kind] != theirs[kind]]
    return found + [f"{kind} in {RESULTS_FILE} of {name} differ" for kind in kinds]
