import contextlib
import os
import sys

import jax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import _wait_unless_failed
from arcface_jax.runs.processes import chain_of, is_of_devices, is_over, join_processes
from arcface_jax.runs.stopping import Stopped
from experiments.reliability.processes import (
    elastic,
    free_port,
    metric_differences,
    several_processes,
)
from experiments.reliability.runs import TINY, Run
from tests import processes
from tests.processes import quick_to_compile
from tests.runs.train_in_turn import train_in_turn

ADDRESS, COUNT, NUMBER = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({ADDRESS: "localhost:1", COUNT: "2"}, f"{ADDRESS}, {COUNT} set, but not {NUMBER}"),
        ({COUNT: "2", NUMBER: "0"}, f"{COUNT}, {NUMBER} set, but not {ADDRESS}"),
        (
            {ADDRESS: "localhost:1", COUNT: "two", NUMBER: "0"},
            f"{COUNT} is 'two'; give a whole number",
        ),
        (
            {ADDRESS: "localhost:1", COUNT: "2", NUMBER: "2"},
            f"{NUMBER} is 2; with {COUNT} = 2 give 0 to 1",
        ),
        ({}, "the other processes cannot be joined .*; start each under SLURM"),
    ],
)
def test_processes_that_cannot_join_are_told_what_is_missing(monkeypatch, variables, said):
    for name in (ADDRESS, COUNT, NUMBER, "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=said):
        join_processes()


@pytest.mark.parametrize(
    ("address", "bound"),
    [("localhost:1", "localhost:1"), ("127.0.0.1:2", "127.0.0.1:2"), ("host0:3", None)],
)
def test_a_local_coordinator_listens_to_this_machine_alone(monkeypatch, address, bound):
    asked = {}
    monkeypatch.setattr("jax.distributed.initialize", lambda **options: asked.update(options))
    for name, value in {ADDRESS: address, COUNT: "2", NUMBER: "0"}.items():
        monkeypatch.setenv(name, value)
    join_processes()
    assert asked["coordinator_bind_address"] == bound


def test_a_process_alone_and_one_that_was_stopped_wait_for_what_is_written(monkeypatch):
    assert not is_over(ValueError("x"))
    monkeypatch.setattr("jax.process_count", lambda: 2)
    assert is_over(ValueError("x"))
    assert is_over(KeyboardInterrupt())
    assert not is_over(None)
    assert not is_over(Stopped(3, 15))


def test_what_travels_between_devices_is_told_from_files():
    lost = ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")
    assert is_of_devices(lost)
    assert is_of_devices(jax.errors.JaxRuntimeError("INTERNAL"))
    assert not is_of_devices(ValueError("UNKNOWN: Error writing /a/b"))
    outer = RuntimeError("a save failed")
    outer.__context__ = lost
    assert list(chain_of(outer)) == [outer, lost]


def test_where_not_all_come_those_that_did_end_with_a_line():
    """The first without the second, and a second without its first, at the same time."""
    code = "from arcface_jax.runs import processes as p; p.JOIN_SECONDS = 1; p.join_processes()"
    variables = {COUNT: "2", "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    waiting = []
    for number in (0, 1):
        own = {NUMBER: str(number), ADDRESS: f"localhost:{free_port()}"}
        command = [sys.executable, "-c", code]
        waiting.append(processes.start(command, env=os.environ | variables | own))
    try:
        said = [one.communicate(timeout=120)[1] for one in waiting]
    finally:
        for one in waiting:
            processes.end(one)
    for one, lines in zip(waiting, said, strict=True):
        assert one.returncode == 1
        assert lines.splitlines()[-1].startswith(
            "error: run.distributed: the other processes did not all come within 1 s; start all"
        )


def test_a_process_whose_part_of_a_save_failed_waits_for_no_others():
    waited = []
    wait = _wait_unless_failed(lambda **about: waited.append(about["key"]))
    wait(key="whole", timeout_ms=1)
    with contextlib.suppress(OSError):
        try:
            raise OSError("full")
        finally:  # as Orbax does
            wait(key="failed", timeout_ms=1)
    assert waited == ["whole"]


TINIER = {"model.name": "tests.runs.one_layer:OneLayer", "run.steps": "12"}


@pytest.mark.slow
def test_two_processes_are_one_run_whatever_happens_to_one_of_them(tmp_path, monkeypatch):
    """Quick to compile, as the tests of what strikes a process alone."""
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())
    tally = several_processes(tmp_path, TINIER)
    assert (tally.times, tally.lost) == (3, [])


@pytest.mark.slow
def test_eight_processes_one_of_which_hangs_then_three_then_five_are_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())
    tally = elastic(tmp_path, TINIER | {"run.evaluate-every": "12"})
    assert (tally.times, tally.lost) == (2, [])


@pytest.mark.slow
def test_four_processes_are_one_for_every_head(tmp_path, monkeypatch):
    """Each trains with one head after the other: most of the time is their start. Of the sharded
    head that is not sampled the test above tells.
    """
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())
    options = TINY | TINIER | {"run.steps": "4", "optimiser.learning-rate": "0.0002"}
    heads = {
        "dense": {},
        "sampled": {"head.kind": "sharded", "head.sample-rate": "0.5"},
        "fused": {"head.kind": "sharded", "head.update": "fused"},
    }
    one, four = (
        {name: Run(tmp_path / f"{name}-{count}", options | head, 4) for name, head in heads.items()}
        for count in (1, 4)
    )
    for ended in train_in_turn(list(one.values()), 1) + train_in_turn(list(four.values()), 4):
        assert ended.status == 0, ended.said
    for name in heads:
        assert metric_differences(four[name], one[name]) == []
