"""What a run does on request: averages, best checkpoints, other starting points, traces."""

import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import ArcFace, Triplet
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.loop import best_so_far
from arcface_jax.runs.run_folder import RunFolder, read_metrics
from arcface_jax.runs.setup import prepare
from arcface_jax.training.config_file import config_to_json
from tests.bin_set import write_bin
from tests.runs.short_runs import Recorder, final_state, run


def with_(config, **sections):
    """The configuration with some settings of some sections changed."""
    changed = {
        name: dataclasses.replace(getattr(config, name), **values)
        if isinstance(values, dict)
        else values
        for name, values in sections.items()
    }
    return dataclasses.replace(config, **changed)


def test_the_moving_average_is_kept_verified_and_changes_nothing_else(
    straight, tiny_config, tmp_path
):
    setup = prepare(with_(tiny_config, optimiser={"ema": 0.5}))
    result, recorder = run(setup.config, tmp_path, setup=setup)
    np.testing.assert_array_equal(result.similarities, straight.result.similarities)
    assert {"", "average"} == recorder.best.keys()
    assert "average/auc" in result.verifications[6]
    assert result.verifications[6]["average/auc"] != result.verifications[6]["auc"]
    state = final_state(tmp_path, setup)
    assert not np.allclose(
        state.average["params"]["conv"]["kernel"], state.params["backbone"]["conv"]["kernel"]
    )


def test_best_so_far_takes_the_first_of_equals():
    found = {
        0: {"accuracy": 0.5, "lfw/accuracy": 0.9, "auc": 0.99},
        3: {"accuracy": 0.7, "lfw/accuracy": 0.8, "auc": 0.5},
        6: {"accuracy": 0.7, "lfw/accuracy": 0.9, "auc": 0.5},
    }
    assert best_so_far(found) == {"": (3, 0.7), "lfw": (0, 0.9)}


def test_checkpoints_are_kept_by_age_and_by_accuracy(run_with, tmp_path):
    result, _ = run_with(tmp_path, checkpoint_every=1, evaluate_every=2, keep=1, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    best = max(
        (step for step in result.verifications if step),
        key=lambda step: result.verifications[step]["accuracy"],
    )
    assert checkpoints.steps()[-1] == 6
    assert len(checkpoints.steps()) <= 2
    accuracies = {
        step: numbers["accuracy"] for step, numbers in result.verifications.items() if step
    }
    assert (
        max(accuracies[step] for step in checkpoints.steps() if step in accuracies)
        == accuracies[best]
    )
    checkpoints.close()


def test_each_verification_has_a_checkpoint_where_the_best_is_kept(run_with, tmp_path):
    run_with(tmp_path, checkpoint_every=6, evaluate_every=2, keep=3, keep_best=1)
    checkpoints = Checkpoints(tmp_path / "checkpoints", to_read=True)
    assert checkpoints.steps() == [2, 4, 6]
    checkpoints.close()


def test_a_run_too_short_for_its_profile_is_refused(with_run):
    with pytest.raises(
        InputError,
        match=r"run.profile 2 begins after step 10, and run.steps is 11; give at least 12",
    ):
        prepare(with_run(steps=11, profile=2))


def test_accumulated_runs_go_through_but_not_where_a_part_would_be_wrong(tiny_config, tmp_path):
    result, _ = run(with_(tiny_config, run={"accumulate": 4}), tmp_path)
    assert result.bad_steps == 0
    accumulated = with_(tiny_config, run={"accumulate": 2})
    with pytest.raises(InputError, match="would update the class rows in every part"):
        prepare(with_(accumulated, head={"kind": "chunked", "update": "fused"}))
    with pytest.raises(InputError, match="leaves no pairs of one person in a part"):
        prepare(with_(accumulated, loss=Triplet(), data={"sampler": "balanced"}))
    with pytest.raises(InputError, match="2 devices in use times 3 parts"):
        prepare(with_(tiny_config, run={"accumulate": 3}))


@pytest.mark.parametrize(
    ("data", "batch_size", "message"),
    [
        ({"sampler": "balanced", "images_each": 1}, 16, "images_each 1: loss.name triplet needs 2"),
        ({"sampler": "capped", "images_each": 1}, 16, "images_each 1: loss.name triplet needs 2"),
        (
            {"sampler": "balanced", "images_each": 16},
            16,
            r"needs two people in a batch; set data\.images_each to at most 8",
        ),
        ({}, 2, r"run\.batch_size 2: loss.name triplet needs 3 or more"),
        (
            {"images_per_identity": 1},
            4,
            "two people .* each person has one image; give other",
        ),
        ({"identities": 1}, 4, "two people .* but there is one person; give other"),
    ],
)
def test_pairs_that_no_batch_can_hold_are_refused(tiny_config, tmp_path, data, batch_size, message):
    """Nothing would be learnt, and all losses would be 0."""
    verify = (str(write_bin(tmp_path / "lfw.bin", image_size=16)),)
    data = {"test_fraction": 0.0, "verify": verify, **data}
    config = with_(tiny_config, loss=Triplet(), data=data, run={"batch_size": batch_size})
    with pytest.raises(InputError, match=message):
        prepare(config)


@pytest.mark.slow
def test_a_profile_is_a_trace_of_some_steps(with_run, tmp_path):
    run(with_run(steps=14, evaluate_every=14, profile=2), tmp_path)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_metrics_go_to_weights_and_biases_on_request(run_with, tmp_path, monkeypatch):
    told = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **about: told.append(about) or fake
    fake.log = lambda values, step: told.append((step, values))
    fake.finish = lambda: told.append("finished")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    run_with(tmp_path / "reported", wandb="faces")
    assert told[0]["project"] == "faces"
    assert told[0]["config"]["loss"]["name"] == "arcface"
    logged = {step for step, values in told[1:-1] if "loss" in values}
    assert logged == {
        line["step"] for line in read_metrics(tmp_path / "reported") if "loss" in line
    }
    assert told[-1] == "finished"


def test_weights_and_biases_must_be_there_if_wanted(run_with, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"run.wandb needs the wandb package"):
        run_with(tmp_path, wandb="faces")


def test_the_losses_without_classes_and_with_sub_centres_are_trained_and_measured(
    tiny_config, tmp_path
):
    triplet = with_(tiny_config, loss=Triplet(), data={"sampler": "balanced", "images_each": 4})
    result, _ = run(triplet, tmp_path / "triplet")
    assert sorted(result.angles) == [0, 3, 6]
    centres = with_(tiny_config, loss=ArcFace(scale=16.0, sub_centers=2))
    result, _ = run(centres, tmp_path / "centres")
    assert all(np.isfinite(angles).all() for angles in result.angles.values())


def test_a_checkpoint_tells_what_it_was_made_with(straight, setup):
    checkpoints = Checkpoints(straight.folder / "checkpoints")
    about = checkpoints.metadata(6)
    checkpoints.close()
    assert about["config"] == json.loads(config_to_json(setup.config))
    assert about["num_classes"] == 6
    assert about["shards"] == 1
    assert about["data_fingerprint"] == setup.data.fingerprint
    assert about["data_state"]["step"] == 6
    assert "jax" in about["versions"]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(run_with, with_run, tmp_path):
    straight, _ = run_with(tmp_path / "straight", checkpoint_every=1)
    folder = tmp_path / "broken"
    with pytest.raises(Exception, match="5"):
        run_with(folder, Recorder(5), checkpoint_every=1)
    for file in (folder / "checkpoints" / "5" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    result, recorder = run_with(folder, checkpoint_every=1)
    assert "5: is damaged" in recorder.said[0]
    assert "step 4" in recorder.said[1]
    assert [path.name for path in folder.glob("damaged-5-*")]
    np.testing.assert_array_equal(result.similarities, straight.similarities)
    assert RunFolder(folder, with_run(checkpoint_every=1)).is_begun
