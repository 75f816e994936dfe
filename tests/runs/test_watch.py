"""A run tells whoever watches from elsewhere how it goes, and a command what happens."""

import contextlib
import datetime
import json
import sys

import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs import watch as module
from arcface_jax.runs.run_folder import STATUS_FILE, RunFolder
from arcface_jax.runs.stopping import Stopped
from arcface_jax.runs.watch import FIRST_STALL, SHORTEST_STALL, Watch
from arcface_jax.training.config import Config, RunConfig
from arcface_jax.training.config_file import as_dict, read_config

METRICS = {"loss": 2.5, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 100.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to."""
    now = [1000.0]
    monkeypatch.setattr(module, "clock", lambda: now[0])
    return now


def status(folder):
    return json.loads((folder / STATUS_FILE).read_text())


def verification(accuracy, deviation=0.01):
    return {"accuracy": accuracy, "accuracy_std": deviation, "auc": 0.9}


class Heard:
    """A reporter that keeps what it hears."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *told: self.heard.append((name, *told))


def test_all_is_passed_on(tmp_path):
    heard, watch = Heard(), Watch(tmp_path, 100)
    watch.telling(heard)
    watch.says("hello")
    watch.begins("compiling")
    watch.first_loss(2.0, None)
    watch.progress(1, METRICS)
    watch.verified(1, verification(0.8), {"": (1, 0.8)})
    passed = ["says", "begins", "first_loss", "progress", "verified"]
    assert [name for name, *_ in heard.heard] == passed


def test_the_file_tells_step_numbers_and_the_end_to_expect(tmp_path, clock):
    watch = Watch(tmp_path, 100)
    watch.progress(1, METRICS)
    clock[0] += 40.0  # a verification among them
    before = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    watch.progress(21, METRICS | {"loss": float("nan"), "bad_steps": 0.0})
    watch.beat()
    found = status(tmp_path)
    assert (found["state"], found["step"], found["steps"]) == ("running", 21, 100)
    assert (found["loss"], found["images_per_second"]) == (None, 100.0)
    left = datetime.datetime.fromisoformat(found["expected_end"]) - before
    assert 157 <= left.total_seconds() <= 163  # 79 steps of 2 s
    watch.verified(21, verification(0.8), {"": (21, 0.8)})
    watch.beat()
    assert status(tmp_path)["verification"] == {"step": 21, "accuracy": 0.8}


def test_a_run_that_is_silent_for_long_has_stalled_and_may_go_on(tmp_path, clock):
    watch = Watch(tmp_path, 100)
    clock[0] += FIRST_STALL - 1  # data and compiler
    watch.look(clock[0])
    assert watch._status["state"] == "running"
    watch.progress(1, METRICS)
    clock[0] += 60.0  # from now on a minute is usual, and ten are not
    watch.progress(2, METRICS)
    watch.look(clock[0] + 599.0)
    assert watch._status["state"] == "running"
    watch.look(clock[0] + 601.0)
    assert status(tmp_path)["state"] == "stalled"
    assert status(tmp_path)["message"] == "no news for 10 min 1 s, after step 2"
    clock[0] += 700.0
    watch.progress(3, METRICS)
    watch.beat()
    assert status(tmp_path)["state"] == "running"
    assert SHORTEST_STALL == 300.0


def test_a_shell_command_hears_of_every_event(tmp_path):
    script = tmp_path / "hook.py"
    script.write_text(
        "import json, os, sys\n"
        "with open('heard', 'a') as file:\n"
        "    status = json.load(sys.stdin)\n"
        "    print(os.environ['ARCFACE_EVENT'], os.environ['ARCFACE_MESSAGE'], status['steps'],"
        " file=file, sep='|')\n"
    )
    run = tmp_path / "run"
    run.mkdir()
    command = f"cd {tmp_path} && {sys.executable} hook.py"
    with contextlib.suppress(InputError), Watch(run, 9, command) as watch:
        for call in (
            lambda: watch.progress(1, METRICS | {"bad_steps": 0.0}),
            lambda: watch.progress(2, METRICS | {"bad_steps": 2.0}),
            lambda: watch.verified(2, verification(0.8), {"": (2, 0.8)}),
            lambda: watch.verified(4, verification(0.795), {"": (2, 0.8)}),  # within its deviation
            lambda: watch.verified(6, verification(0.7), {"": (2, 0.8)}),
            lambda: watch.verified(8, verification(0.6), {"": (2, 0.8)}),  # told already
        ):
            call()
            for thread in watch._calls:  # one after the other, so that their lines have an order
                thread.join()
        raise InputError("no space left")
    assert (tmp_path / "heard").read_text().splitlines() == [
        "bad_steps|step 2: 2 more steps were skipped, 2 in all|9",
        "falling|step 6: accuracy 70.00%, 80.00% at step 2|9",
        "failed|no space left|9",
    ]
    assert status(run)["state"] == "failed"


def test_how_it_ended(tmp_path):
    with Watch(tmp_path, 9) as watch:
        watch.progress(9, METRICS)
    assert status(tmp_path)["state"] == "finished"
    with pytest.raises(Stopped), Watch(tmp_path, 9):
        raise Stopped(3, 15)
    assert status(tmp_path)["state"] == "stopped"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("echo no mail >&2; exit 3", "run.on_event: the command ended with 3: no mail"),
        ("no_such_command_anywhere", "ended with 127"),
        ("sleep 20; echo done", "took longer than 1 s"),
    ],
)
def test_a_command_that_fails_is_said_once_and_harms_nothing(
    command, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_COMMAND_SECONDS", 1.0)
    heard = Heard()
    with Watch(tmp_path, 9, command) as watch:
        watch.telling(heard).verified(2, verification(0.1), {"": (1, 0.8)})
        watch.verified(3, verification(0.9), {"": (3, 0.9)})
    said = [told for name, told, *_ in heard.heard if name == "says"]
    assert len(said) == 1
    assert message in said[0]


def test_a_disk_that_is_full_stops_nothing(tmp_path):
    watch = Watch(tmp_path / "gone", 9)
    watch.progress(1, METRICS)
    watch.beat()


def test_a_configuration_of_somebody_else_runs_no_command(tmp_path):
    config = Config(run=RunConfig(on_event="rm -rf /"))
    assert "on_event" not in as_dict(config)["run"]
    RunFolder(tmp_path / "run", config)
    saved = tmp_path / "run" / "config.json"
    assert "rm -rf" not in saved.read_text()
    assert read_config(saved).run.on_event is None
    given = json.loads(saved.read_text())
    given["run"]["on_event"] = "rm -rf /"
    saved.write_text(json.dumps(given))
    with pytest.raises(InputError, match=r"on_event is never read from a file; take the line out"):
        read_config(saved)
