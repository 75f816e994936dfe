"""Several runs in the same processes, which start and join each other once."""

import os
import sys

from arcface_jax.runs.processes import ADDRESS, COUNT, NUMBER
from experiments.reliability.processes import free_port
from experiments.reliability.runs import PATIENCE, Ended
from tests import processes


def train_in_turn(runs, count):
    """The exit status and output of each of `count` processes that train all runs; they share the
    runs' devices.
    """
    arguments = []
    for run in runs:
        arguments += [text for name, value in run.options.items() for text in (f"--{name}", value)]
        arguments += ["--run.folder", run.folder, *["--run.distributed"] * (count > 1), "then"]
    devices = f"--xla_force_host_platform_device_count={runs[0].devices // count}"
    variables = {
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {devices}",
    }
    if count > 1:
        variables |= {ADDRESS: f"localhost:{free_port()}", COUNT: str(count)}
    command = [sys.executable, "-m", "tests.runs.train_in_turn", *arguments]
    started = [
        processes.start(
            command, env=os.environ | variables | ({NUMBER: str(n)} if count > 1 else {})
        )
        for n in range(count)
    ]
    try:
        said = ["".join(one.communicate(timeout=PATIENCE)) for one in started]
        return [Ended(one.returncode, text) for one, text in zip(started, said, strict=True)]
    finally:
        for one in started:
            processes.end(one)


if __name__ == "__main__":
    from arcface_jax.commands.command import new_console
    from experiments import train

    train.draw_run = lambda *_: []  # half of the time

    rest = sys.argv[1:]
    while rest:
        end = rest.index("then")
        if status := train.run(train.parse(rest[:end]), new_console()):
            sys.exit(status)
        rest = rest[end + 1 :]
