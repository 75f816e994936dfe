"""Runs for tests, and what is left of them."""

import os
import signal

import jax

from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.loop import Quiet, train
from arcface_jax.runs.run_folder import RunFolder
from arcface_jax.runs.setup import prepare


class Recorder(Quiet):
    """Keeps what it is told; asks the run to stop at a step."""

    def __init__(self, stop_at=None, with_signal=signal.SIGINT):
        self.stop_at, self.with_signal = stop_at, with_signal
        self.losses, self.verified_at, self.said, self.first = [], [], [], None

    def first_loss(self, seen, expected):
        self.first = (seen, expected)

    def progress(self, step, metrics):
        self.losses.append(metrics["loss"])
        assert metrics["images_per_second"] > 0
        if step == self.stop_at:
            os.kill(os.getpid(), self.with_signal)

    def verified(self, step, numbers, best):
        self.verified_at.append(step)
        self.best = best

    def says(self, message):
        self.said.append(message)


def compiled_once(config):
    """What prepare returns, but that all runs of it share one compiled step."""
    setup = prepare(config)
    step = setup.program.compile_step()
    object.__setattr__(setup.program, "compile_step", lambda: step)
    return setup


def run(config, path, recorder=None, setup=None):
    recorder = recorder or Recorder()
    result = train(setup or prepare(config), RunFolder(path, config), recorder)
    return result, recorder


def final_state(path, setup):
    checkpoints = Checkpoints(path / "checkpoints")
    state = checkpoints.restore(checkpoints.latest_step(), setup.initial_state())
    checkpoints.close()
    return jax.device_get(state)
