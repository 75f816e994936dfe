"""Faults of several processes: signals to one, one that dies, fewer when the run goes on."""

import pathlib
import signal
import socket
from typing import Literal

from arcface_jax.runs.processes import ADDRESS, COUNT, HEARTBEAT_SECONDS, NUMBER
from arcface_jax.runs.run_folder import read_metrics

from .runs import TINY, Child, Lost, Run, Tally, reference

DEVICES = 8
"""Simulated devices of all processes together."""

TOLERANCE = 2e-5
"""Largest relative difference of a metric: other devices and processes sum in another order."""

_STARTS = 3
"""How often processes may lose each other before anything was done to them."""

Launcher = Literal["variables", "slurm"]


def free_port() -> int:
    """A port on this computer that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def start_together(run: Run, processes: int = 2, launcher: Launcher = "variables") -> list[Child]:
    """Starts every process of a run on its devices, as a person or SLURM would."""
    port = str(free_port())
    children = []
    for number in range(processes):
        share = Run(run.folder, run.options, DEVICES // processes)
        variables = {ADDRESS: f"localhost:{port}", COUNT: str(processes), NUMBER: str(number)}
        if launcher == "slurm":
            variables = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost"}
            variables |= {"SLURM_NTASKS": str(processes), "SLURM_STEP_NUM_NODES": "1"}
            variables |= {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)}
            variables |= {"JAX_COORDINATOR_PORT": port}
        children.append(share.start("--run.distributed", **variables))
    return children


def several_processes(
    place: pathlib.Path, head: str = "sharded", launcher: Launcher = "variables"
) -> Tally:
    """Two processes: SIGTERM to one, kill −9 of each, then one process to the end."""
    what = "SIGTERM to one stops both, one dying ends the other"
    tally = Tally("processes", f"two processes, {head} head: {what}")
    # Seven classes, which no number of devices divides; a rate at which rounding does not grow from
    # step to step.
    options = TINY | {"head.kind": head, "data.identities": "14", "run.checkpoint-every": "2"}
    options |= {"optimiser.learning-rate": "0.0002"}
    calm = reference(Run(place / f"calm-{head}", options, DEVICES))
    run = calm.another(f"processes-{head}")
    try:
        _stop_one(run, _running(run, launcher), tally)
        for victim in (1, 0):
            _kill_one(run, _running(run, launcher), victim, tally)
        ended = run.start().wait()
    except Lost as error:
        tally.lost.append(str(error))
        return tally
    tally.expect_end(ended, 0, "Going on from the checkpoint")
    tally.lost += metric_differences(run, calm)
    return tally


def _stop_one(run: Run, children: list[Child], tally: Tally) -> None:
    children[1].send(signal.SIGTERM)
    tally.times += 1
    for child in children:
        ended = child.wait()
        said = f"one ended with {ended.status}: {ended.said[-400:]}"
        tally.expect(ended.status == 143, f"SIGTERM to one of two: {said}")
    newest, logged = run.newest(), run.last_logged()
    tally.expect(newest == logged, f"steps {newest} to {logged} were done and not saved")


def _kill_one(run: Run, children: list[Child], victim: int, tally: Tally) -> None:
    children[victim].kill()
    tally.times += 1
    ended = children[1 - victim].wait(patience=4 * HEARTBEAT_SECONDS)
    tally.expect(ended.status != 0, f"process {1 - victim} ended with 0 though the other died")


def _running(run: Run, launcher: Launcher) -> list[Child]:
    """Starts all processes and waits for a checkpoint.

    Where one compiles half a minute longer than the other, as on a computer with much else to do,
    the CPU's collectives give up; the command is given again then, as a scheduler would.
    """
    step = run.newest() + 2
    for _ in range(_STARTS):
        children = start_together(run, launcher=launcher)
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
