"""A disk that is full, or can only be read: a small one of the test's own, where it may mount
one.
"""

import contextlib
import dataclasses
import os
import shutil
import time

import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.run_folder import RunFolder
from arcface_jax.runs.setup import prepare
from tests import processes


def mount(*arguments):
    """Runs mount; skips the test where this user may not."""
    try:
        done = processes.run(["mount", *arguments], seconds=30)
    except OSError as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A disk of one megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", place)
    yield place
    done = processes.run(["umount", "--lazy", place], seconds=30)
    assert done.returncode == 0, done.stderr


def save_and_wait(checkpoints, state):
    checkpoints.save(state, {"shards": 1})
    checkpoints.wait()


def wait_until_nothing_changes(folder):
    def listed():
        return sorted(
            os.path.join(place, name) for place, _, names in os.walk(folder) for name in names
        )

    before, now = None, listed()
    while now != before:
        time.sleep(0.5)
        before, now = now, listed()


@pytest.fixture
def state_at(with_run):
    program = prepare(with_run(devices=1)).program
    state = program.placement.create(program.make_state)
    return lambda step: dataclasses.replace(state, step=state.step + step)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Orbax's writing threads
def test_a_full_disk_costs_no_checkpoint_but_the_one_that_did_not_fit(disk, state_at):
    checkpoints = Checkpoints(disk / "checkpoints")
    save_and_wait(checkpoints, state_at(1))
    filler = (disk / "filler").open("wb", buffering=0)
    with filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            continue
    assert shutil.disk_usage(disk).free == 0
    with pytest.raises(
        InputError,
        match=r"cannot be written \(.*\); the checkpoint of step 1 is complete: make room",
    ):
        save_and_wait(checkpoints, state_at(2))
    # The process that failed to save would have ended. Its writers are given the time to.
    wait_until_nothing_changes(disk)
    (disk / "filler").unlink()
    wait_until_nothing_changes(disk)
    again = Checkpoints(disk / "checkpoints")
    assert again.steps() == [1]
    assert int(again.restore(1, state_at(0)).step) == 1
    again.save(state_at(2), {"shards": 1})
    again.close()
    assert again.steps() == [1, 2]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_disk_that_can_only_be_read_is_named(disk, state_at, tiny_config):
    checkpoints = Checkpoints(disk / "checkpoints")
    mount("-o", "remount,ro", disk)
    with pytest.raises(
        InputError, match="no checkpoint is complete: make room there, or make it writable"
    ):
        save_and_wait(checkpoints, state_at(1))
    with pytest.raises(
        InputError, match=r"run.folder .*run cannot be written \(Read-only file system\)"
    ):
        RunFolder(disk / "run", tiny_config)
    with pytest.raises(InputError, match=r"cannot be opened \(.*Read-only file system"):
        Checkpoints(disk / "elsewhere")
