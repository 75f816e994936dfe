import io
import json
import sys
import types

import pytest
from rich.console import Console

from arcface_jax.errors import InputError
from experiments.reliability import __main__ as reliability
from experiments.reliability import soak, storage
from experiments.reliability.__main__ import FAULTS, ReliabilityConfig, run_reliability, strike
from experiments.reliability.processes import metric_differences
from experiments.reliability.runs import Lost, Run, Tally


def test_one_fault_from_start_to_end(tmp_path, type_command):
    status, out, _ = type_command(
        reliability.main, "--faults", "unwritable", "--output", tmp_path / "out" / "t.json"
    )
    assert status == 0
    assert "unwritable folder: 1 time, nothing lost" in out
    (tally,) = json.loads((tmp_path / "out" / "t.json").read_text())
    assert (tally["fault"], tally["times"], tally["lost"]) == ("unwritable folder", 1, [])
    assert tally["seconds"] > 0


def test_what_is_lost_is_told_and_fails_the_command(tmp_path, monkeypatch):
    def loses(place):
        raise Lost("the run that nothing happens to ended with 1")

    monkeypatch.setitem(FAULTS, "signals", loses)
    console = Console(file=io.StringIO(), width=200)
    assert run_reliability(ReliabilityConfig(faults=("signals",)), console) == 1
    assert "the run that nothing happens to ended with 1" in console.file.getvalue()
    assert strike("signals", tmp_path, ReliabilityConfig(), console).lost == [
        "the run that nothing happens to ended with 1"
    ]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (ReliabilityConfig(faults=("flood",)), "faults: .*flood.*; choose among kills"),
        (ReliabilityConfig(faults=()), "none given"),
    ],
)
def test_bad_arguments_are_named(config, said):
    with pytest.raises(InputError, match=said):
        run_reliability(config, Console(quiet=True))


def test_a_folder_with_runs_of_another_time_is_refused(tmp_path):
    (tmp_path / "calm").mkdir()
    with pytest.raises(InputError, match="is not empty"):
        run_reliability(ReliabilityConfig(folder=tmp_path), Console(quiet=True))


def test_a_tally_notes_each_thing_that_is_not_as_promised():
    tally = Tally("fault", "what")
    tally.expect(True, "well")
    tally.expect(False, "not well")
    assert tally.lost == ["not well"]


def request(method, path="/bucket/key"):
    return types.SimpleNamespace(method=method, path=path, reset=lambda: resets.append(1))


resets: list[int] = []


def test_storage_fails_as_asked():
    fail = storage.failing(0.1, seed=1)
    answers = [fail(request("GET")) for _ in range(1000)]
    assert 70 < sum(answer is not None for answer in answers) < 130
    assert {answer for answer in answers if answer} == {
        (
            500,
            b"<Error><Code>InternalError</Code>"
            b"<Message>We encountered an internal error.</Message></Error>",
        )
    }
    reset = storage.resetting(every=5)
    assert [reset(request(method)) for method in ("PUT", "GET") * 10] == [None] * 20
    assert len(resets) == 2
    for there_is_room in (True, False):
        refuse = storage.full(lambda room=there_is_room: not room)
        assert refuse(request("GET")) is None
        assert (refuse(request("PUT")) is None) == there_is_room
    assert storage.strange(request("HEAD"))[0] == 403


def test_faults_of_storage_are_left_out_where_there_is_no_server(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "moto", None)
    storage.server.cache_clear()
    console = Console(file=io.StringIO(), width=200)
    tally = strike("credentials", tmp_path, ReliabilityConfig(), console)
    assert tally.what.startswith("left out: needs moto's server and s3fs: pip install")
    assert (tally.times, tally.lost) == (0, [])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["credentials", "full_storage"])
def test_a_fault_of_storage_on_a_real_server(tmp_path, name):
    pytest.importorskip("moto.server", reason="needs moto's server: pip install 'moto[server]'")
    pytest.importorskip("s3fs", reason="needs s3fs: pip install -r requirements-buckets.txt")
    console = Console(file=io.StringIO(), width=200)
    tally = strike(name, tmp_path, ReliabilityConfig(), console)
    assert (tally.times, tally.lost) == (1, [])


@pytest.mark.slow
def test_a_short_soak_ends_bit_identical(tmp_path, monkeypatch):
    monkeypatch.setattr(soak, "KINDS", {name: soak.KINDS[name] for name in ("kill", "frozen")})
    tally = soak.soak(tmp_path, minutes=0.2, every=4.0)
    assert (tally.lost, tally.times > 0) == ([], True)
    log = [json.loads(line) for line in (tmp_path / soak.LOG_FILE).read_text().splitlines()]
    assert len(log) == tally.times
    assert all(line["step"] >= 40 and line["fault"] in soak.KINDS for line in log)


def test_metrics_far_apart_are_found(tmp_path):
    runs = [Run(tmp_path / name, {}) for name in ("a", "b", "c")]
    lines = [{"step": 0, "verification/accuracy": 0.5}, {"step": 1, "loss": 2.0}]
    for run, loss, steps in zip(runs, (2.0, 2.1, 2.0), (2, 2, 1), strict=True):
        run.folder.mkdir()
        text = [
            json.dumps(line | ({"loss": loss} if "loss" in line else {})) + "\n"
            for line in lines[:steps]
        ]
        (run.folder / "metrics.jsonl").write_text("".join(text))
    assert metric_differences(runs[0], runs[0]) == []
    assert metric_differences(runs[1], runs[0]) == ["loss at step 1 is 2.1, wanted 2.0"]
    assert "have the steps [0], wanted [0, 1]" in metric_differences(runs[2], runs[0])[0]
