import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.processes import is_over, join_processes
from arcface_jax.runs.stopping import Stopped
from experiments.reliability.processes import several_processes
from tests.processes import quick_to_compile

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


@pytest.mark.slow
@pytest.mark.parametrize(("head", "launcher"), [("dense", "slurm"), ("sharded", "variables")])
def test_two_processes_are_one_run_whatever_happens_to_one_of_them(
    tmp_path, monkeypatch, head, launcher
):
    """Quick to compile, as the tests of what strikes a process alone."""
    monkeypatch.setenv("XLA_FLAGS", quick_to_compile())
    tally = several_processes(tmp_path, head, launcher)
    assert (tally.times, tally.lost) == (3, [])
