"""Run folders in object storage, tried on fsspec's own, which lies in memory."""

import json
import os
import threading

import jax
import numpy as np
import pytest

from arcface_jax.buckets import BucketPath
from arcface_jax.errors import InputError
from arcface_jax.runs import lock as lock_module
from arcface_jax.runs.checkpoints import Checkpoints, DamagedCheckpoint
from arcface_jax.runs.lock import LOCK_FILE, RunLock
from arcface_jax.runs.mirror import Mirror
from arcface_jax.runs.run_folder import read_metrics
from arcface_jax.runs.saved_runs import find_run
from arcface_jax.runs.staging import LIST_FILE, STEPS_FILE, Staging
from arcface_jax.runs.stopping import Stopped
from arcface_jax.runs.watch import Watch
from tests.runs.short_runs import Recorder, final_state


@pytest.fixture
def place(bucket):
    return bucket / "run"


def test_a_run_in_a_bucket_stopped_and_resumed_is_that_of_a_disk(straight, setup, run_with, place):
    with pytest.raises(Stopped):
        run_with(place, Recorder(stop_at=4))
    result, recorder = run_with(place)
    assert recorder.said == ["Going on from the checkpoint of step 4."]
    assert (place / "metrics.jsonl").read_bytes() == straight.metrics
    assert result.verifications == straight.result.verifications
    jax.tree.map(
        np.testing.assert_array_equal,
        final_state(place, setup),
        final_state(straight.folder, setup),
    )
    assert any(name.startswith("tensorboard/events") for name in place.find())
    for given in (place, place / "checkpoints/6"):
        with find_run(given).opened() as (checkpoints, step):
            assert step == 6
            assert checkpoints.steps() == [4, 6]
    steps = {name.split("/")[1] for name in place.find() if name.startswith("checkpoints/")}
    assert steps == {"4", "6", STEPS_FILE}


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Orbax, whose other reading threads report to a loop that it has closed
def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(run_with, place):
    run_with(place)
    (arrays,) = (name for name in place.find() if "/6/state/d/" in name)
    (place / arrays).unlink()
    checkpoints = Checkpoints(place / "checkpoints")
    with pytest.raises(DamagedCheckpoint, match=r"memory://.*checkpoints/6: is damaged"):
        checkpoints.read_tree(6)
    aside = checkpoints.set_aside(6)
    assert checkpoints.steps() == [3]
    checkpoints.close()
    assert isinstance(aside, BucketPath)
    assert (aside / "metadata/metadata").exists()
    assert not (place / "checkpoints/6").exists()


def make(folder, step, content=b"arrays"):
    """What Orbax would write."""
    for name, written in (("metadata/metadata", b"{}"), ("state/d/x", content)):
        (folder / str(step) / name).parent.mkdir(parents=True)
        (folder / str(step) / name).write_bytes(written)


def test_a_checkpoint_is_there_when_all_of_it_is(place):
    staging = Staging(place, to_read=False)
    make(staging.local, 3)
    staging.publish([3])
    assert json.loads((place / "3" / LIST_FILE).read_text()) == {
        "files": {"metadata/metadata": 2, "state/d/x": 6}
    }
    assert not (staging.local / "3/state").exists()  # the local disk holds no arrays any more
    make(staging.local, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BucketPath, "write_text", lambda *given: 1 / 0)  # killed before the list
        with pytest.raises(ZeroDivisionError):
            staging.publish([3, 5])
    staging.close()
    assert (place / "5/state/d/x").exists()
    reader = Staging(place, to_read=True)
    assert reader.steps() == [3]
    reader.fetch(3)
    assert (reader.local / "3/state/d/x").read_bytes() == b"arrays"
    reader.close()
    assert (place / "5/state/d/x").exists()  # which may be at work
    again = Staging(place, to_read=False)
    assert again.steps() == [3]
    assert not (place / "5").exists()
    again.close()


def test_old_checkpoints_go_after_the_new_one_has_come(place):
    staging = Staging(place, to_read=False)
    for steps in ([1], [1, 2], [2, 3]):
        make(staging.local, steps[-1])
        staging.publish(steps)
    staging.close()
    assert sorted(one.name for one in place.iterdir()) == ["2", "3", STEPS_FILE]


def test_a_listing_that_lags_hides_no_checkpoint(place, monkeypatch):
    staging = Staging(place, to_read=False)
    make(staging.local, 7)
    staging.publish([7])
    staging.close()
    monkeypatch.setattr(BucketPath, "iterdir", lambda self: iter(()))
    later = Staging(place, to_read=True)
    assert later.steps() == [7]
    later.close()


def test_a_list_that_is_damaged_or_not_there_yet_costs_no_checkpoint(place):
    staging = Staging(place, to_read=False)
    for steps in ([1], [1, 2], [1, 2, 3]):
        make(staging.local, steps[-1])
        staging.publish(steps)
    staging.close()
    (place / "2" / LIST_FILE).write_bytes(b"{")
    (place / "3" / LIST_FILE).unlink()
    later = Staging(place, to_read=False)
    assert later.steps() == [1]
    later.close()
    assert all((place / step / "state/d/x").exists() for step in ("1", "2", "3"))


def test_what_the_storage_refuses_ends_the_run_with_a_line(run_with, place, monkeypatch):
    def full(self, local):
        raise OSError(28, "the storage is full, or over its quota", str(self))

    monkeypatch.setattr(BucketPath, "put", full)
    with pytest.raises(InputError, match=r"cannot be written \(the storage is full.*\); no check"):
        run_with(place)


def test_files_grow_in_a_bucket_as_they_do_on_a_disk(place):
    mirror = Mirror(place)
    with (mirror.local / "lines").open("w") as lines:
        lines.write("one\n")
        lines.flush()
        mirror.send("lines")
        assert (place / "lines").read_text() == "one\n"
        lines.write("two\n")
    (mirror.local / "below").mkdir()
    (mirror.local / "below/x").write_text("3")
    mirror.close()
    assert {name: (place / name).read_text() for name in place.find()} == {
        "below/x": "3",
        "lines": "one\ntwo\n",
    }
    assert not mirror.local.exists()


def test_the_status_of_a_run_lies_in_its_bucket(place):
    with Watch(place, 6) as watch:
        watch.beat()
        assert json.loads((place / "status.json").read_text())["state"] == "running"
    assert json.loads((place / "status.json").read_text())["state"] == "finished"


def lock(place, said=None):
    return RunLock(place, said.append if said is not None else print)


@pytest.fixture
def soon(monkeypatch):
    for name, seconds in (("SECONDS_BETWEEN_BEATS", 0.02), ("SECONDS_TO_DIE", 0.5)):
        monkeypatch.setattr(lock_module, name, seconds)
    monkeypatch.setattr(lock_module, "_SETTLES", 0.0)


def test_a_second_run_in_a_bucket_is_refused_while_the_first_is_alive(place, soon):
    with (
        lock(place),
        pytest.raises(InputError, match=rf"another run is at work there, process {os.getpid()} on"),
        lock(place),
    ):
        pass
    assert not (place / LOCK_FILE).exists()
    with lock(place):
        assert (place / LOCK_FILE).exists()


def test_the_lock_of_a_dead_run_is_taken_over(place, soon):
    dead = {"host": "elsewhere", "process": 1, "token": "x", "beat": 9}
    (place / LOCK_FILE).write_text(json.dumps(dead))
    said = []
    with lock(place, said):
        assert json.loads((place / LOCK_FILE).read_text())["token"] != "x"
    assert "is locked by process 1 on elsewhere; looking whether it is alive" in said[0]


def test_the_lock_of_a_process_that_is_gone_from_this_machine_is_taken_over_at_once(place):
    monkey = {"host": lock_module.socket.gethostname(), "process": 2**22 + 1, "token": "x"}
    (place / LOCK_FILE).write_text(json.dumps(monkey))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lock_module, "_SETTLES", 0.0)
        with lock(place, said := []):
            assert said == []


def test_a_run_that_was_taken_over_ends(place, soon, monkeypatch, capfd):
    ended = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: ended.set())
    with lock(place):
        other = {"host": "elsewhere", "process": 1, "token": "x", "beat": 0}
        (place / LOCK_FILE).write_text(json.dumps(other))
        assert ended.wait(10)
        assert json.loads((place / LOCK_FILE).read_text()) == other
    assert (place / LOCK_FILE).exists()  # it is the other's
    assert "another run has taken over this folder" in capfd.readouterr().err


def test_one_of_many_that_begin_at_once_gets_a_bucket(place, soon):
    won, lost, together = [], [], threading.Barrier(4)

    def begin():
        together.wait()
        try:
            with lock(place, []):
                won.append(1)
                together.wait(5)
        except InputError:
            lost.append(1)
            together.wait(5)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost)) == (1, 3)


def test_a_second_run_in_a_local_folder_is_refused_and_nothing_is_left(tmp_path):
    with (
        lock(tmp_path),
        pytest.raises(InputError, match=r"another run is at work there; wait for it to end"),
        lock(tmp_path),
    ):
        pass
    with lock(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_metrics_of_a_run_at_work_can_be_read(place):
    (place / "metrics.jsonl").write_text('{"step": 1}\n{"ste')
    assert read_metrics(place) == [{"step": 1}]
