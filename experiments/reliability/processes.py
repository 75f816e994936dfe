"""Faults of several processes: signals to one, one that dies, fewer when the run goes on."""

import dataclasses
import pathlib
import signal
import socket
import time
from collections.abc import Mapping

from arcface_jax.runs.processes import ADDRESS, COUNT, HEARTBEAT_SECONDS, NUMBER
from arcface_jax.runs.run_folder import read_metrics

from .runs import TINY, Child, Lost, Run, Tally, reference

TOLERANCE = 2e-5
"""Largest relative difference of a metric: other devices and processes sum in another order."""

_SLOW = 3.0
_STARTS = 3
"""How often processes may lose each other before anything was done to them."""


def free_port() -> int:
    """A port on this computer that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start_together(run: Run, processes: int) -> list[Child]:
    """Starts every process of a run on its share of the devices."""
    port = str(free_port())
    children = []
    for number in range(processes):
        share = Run(run.folder, run.options, run.devices // processes)
        variables = {ADDRESS: f"localhost:{port}", COUNT: str(processes), NUMBER: str(number)}
        children.append(share.start("--run.distributed", **variables))
    return children


def several_processes(place: pathlib.Path, changes: Mapping[str, str] = {}) -> Tally:
    """Two processes: one slow, SIGTERM to one, kill −9 of each, then one process to the end."""
    what = "one slow is waited for, SIGTERM to one stops both, one dying ends the other"
    tally = Tally("processes", f"two processes: {what}")
    # Seven classes, which no number of devices divides; a rate at which rounding does not grow from
    # step to step.
    options = TINY | {"head.kind": "sharded", "data.identities": "14", "run.checkpoint-every": "2"}
    options |= {"optimiser.learning-rate": "0.0002", **changes}
    calm = reference(Run(place / "calm-processes", options, 8))
    run = calm.another("processes")
    try:
        children = _running(run, 2)
        children[1].send(signal.SIGSTOP)
        time.sleep(_SLOW)  # is waited for
        children[1].send(signal.SIGCONT)
        _stop_one(run, children, tally)
        for victim in (1, 0):
            _kill_one(run, _running(run, 2), victim, tally)
        ended = run.start().wait()
    except Lost as error:
        tally.lost.append(str(error))
        return tally
    tally.expect_end(ended, 0, "Going on from the checkpoint")
    tally.lost += metric_differences(run, calm)
    return tally


def elastic(place: pathlib.Path, changes: Mapping[str, str] = {}) -> Tally:
    """Eight processes, one of which hangs, then three, then five, with a batch that stays."""
    what = "eight processes, one hangs: the others end; three go on, then five, with the same batch"
    tally = Tally("elastic", what)
    # Thirteen classes, a prime, which no number of processes divides; a batch that each does.
    options = TINY | {"head.kind": "sharded", "data.identities": "26", "run.batch-size": "120"}
    options |= {"data.images-per-identity": "10", "run.checkpoint-every": "2"}
    options |= {"optimiser.learning-rate": "0.0002", **changes}
    calm = reference(Run(place / "calm-elastic", options, 8))
    run = calm.another("elastic")
    try:
        children = _running(run, 8)
        _hang_one(children, 5, tally)
        three = dataclasses.replace(run, devices=3)
        _stop_one(three, _running(three, 3), tally)
        for child in start_together(dataclasses.replace(run, devices=5), 5):
            tally.expect(child.wait().status == 0, f"one of five: {child.said()[-400:]}")
    except Lost as error:
        tally.lost.append(str(error))
        return tally
    tally.lost += metric_differences(run, calm)
    return tally


def _hang_one(children: list[Child], victim: int, tally: Tally) -> None:
    children[victim].send(signal.SIGSTOP)
    tally.times += 1
    try:
        for number, child in enumerate(children):
            if number != victim:
                _expect_one_line(child, tally)
    finally:
        children[victim].kill()


def _expect_one_line(child: Child, tally: Tally) -> None:
    """The others of one that hangs or died end within a bound, with a line and status 1."""
    tally.expect_end(child.wait(4 * HEARTBEAT_SECONDS), 1, "cannot go on with the others")


def _stop_one(run: Run, children: list[Child], tally: Tally) -> None:
    children[1].send(signal.SIGTERM)
    tally.times += 1
    for child in children:
        ended = child.wait()
        said = f"one ended with {ended.status}: {ended.said[-400:]}"
        tally.expect(ended.status == 143, f"SIGTERM to one: {said}")
    newest, logged = run.newest(), run.last_logged()
    tally.expect(newest == logged, f"steps {newest} to {logged} were done and not saved")


def _kill_one(run: Run, children: list[Child], victim: int, tally: Tally) -> None:
    children[victim].kill()
    tally.times += 1
    _expect_one_line(children[1 - victim], tally)


def _running(run: Run, processes: int) -> list[Child]:
    """Starts all processes and waits for a checkpoint.

    Where one compiles half a minute longer than the other, as on a computer with much else to do,
    the CPU's collectives give up; the command is given again then, as a scheduler would.
    """
    step = run.newest() + 2
    for _ in range(_STARTS):
        children = start_together(run, processes)
        if children[0].wait_until(lambda: run.newest() >= step):
            return children
        said = [child.wait().said[-300:] for child in children]
    raise Lost(f"ended by themselves before step {step}, {_STARTS} times: {said}")


def metric_differences(run: Run, other: Run) -> list[str]:
    """Where the metrics of two finished runs differ by more than `TOLERANCE`, or in steps."""
    first, second = read_metrics(run.folder), read_metrics(other.folder)
    steps = [[line["step"] for line in lines] for lines in (first, second)]
    if steps[0] != steps[1]:
        return [f"the metrics of {run.folder.name} have the steps {steps[0]}, wanted {steps[1]}"]
    return [
        f"{name} at step {wanted['step']} is {line[name]}, wanted {wanted[name]}"
        for line, wanted in zip(first, second, strict=True)
        for name in ("loss", "theta", "feature_norm", "learning_rate")
        if name in wanted and abs(line[name] - wanted[name]) > TOLERANCE * abs(wanted[name])
    ]
