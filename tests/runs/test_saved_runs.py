"""Runs are found by the paths that people give, and reading one does not disturb it."""

import dataclasses

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.run_folder import RunFolder
from arcface_jax.runs.saved_runs import SavedRun, find_run
from arcface_jax.runs.setup import prepare


@pytest.fixture
def saved(tiny_config, tmp_path):
    """A run folder with checkpoints of steps 2 and 4."""
    folder = RunFolder(tmp_path / "run", tiny_config)
    state = prepare(tiny_config).initial_state()
    checkpoints = Checkpoints(folder.checkpoints)
    for step in (2, 4):
        checkpoints.save(dataclasses.replace(state, step=np.int32(step)), {})
    checkpoints.close()
    return folder.path


def test_a_path_means_a_run_one_of_its_checkpoints_or_neither(saved, monkeypatch):
    assert find_run(saved) == SavedRun(saved)
    assert find_run(saved / "checkpoints" / "2") == SavedRun(saved, 2)
    assert find_run(saved / "checkpoints") is None
    assert find_run(saved.parent / "checkpoints" / "2") is None
    assert (SavedRun(saved).name, SavedRun(saved, 2).name) == ("run", "run-2")
    monkeypatch.chdir(saved / "checkpoints")
    found = find_run(type(saved)("2"))
    assert found is not None
    assert (found.folder, found.step) == (saved, 2)


def test_the_newest_or_the_named_checkpoint_is_opened(saved, tiny_config):
    for run, wanted in ((SavedRun(saved), 4), (SavedRun(saved, 2), 2)):
        with run.opened() as (checkpoints, step):
            assert step == wanted
            assert int(checkpoints.read_tree(step)["step"]) == wanted
    assert SavedRun(saved).config.model == tiny_config.model


def test_what_a_run_at_work_is_writing_stays(saved):
    (saved / "checkpoints" / "6.orbax-checkpoint-tmp").mkdir()
    with SavedRun(saved).opened() as (checkpoints, step):
        assert (step, checkpoints.steps()) == (4, [2, 4])
    assert (saved / "checkpoints" / "6.orbax-checkpoint-tmp").is_dir()


def test_a_missing_checkpoint_is_said(saved, tmp_path, tiny_config):
    with (
        pytest.raises(InputError, match=r"checkpoints/3: no such checkpoint; there are 2, 4"),
        SavedRun(saved, 3).opened(),
    ):
        pass
    empty = RunFolder(tmp_path / "empty", tiny_config)
    with (
        pytest.raises(InputError, match="holds no checkpoints; give a run"),
        SavedRun(empty.path).opened(),
    ):
        pass
    empty.checkpoints.mkdir()
    with pytest.raises(InputError, match="no complete checkpoint"), SavedRun(empty.path).opened():
        pass
    assert not list(empty.checkpoints.iterdir())
