import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.bad_steps import diagnose
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.loop import train
from arcface_jax.runs.run_folder import RunFolder, read_metrics
from arcface_jax.runs.setup import prepare
from arcface_jax.runs.stopping import Stopped
from arcface_jax.training.config_file import read_config
from tests.runs.short_runs import Recorder, final_state, run


def assert_bit_identical(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.fixture(scope="module")
def last_state(straight, setup):
    """Of the uninterrupted run."""
    return final_state(straight.folder, setup)


def test_a_run_measures_and_keeps_everything(straight):
    result, recorder, folder = straight.result, straight.recorder, straight.folder
    assert recorder.verified_at == [0, 3, 6] == sorted(result.verifications)
    assert sorted(result.angles) == [0, 3, 6]
    assert all(
        angles.shape == (36,) and (angles >= 0).all() and (angles <= 180).all()
        for angles in result.angles.values()
    )
    assert len(result.similarities) == 120
    seen, expected = recorder.first
    assert seen == recorder.losses[0]
    assert expected == pytest.approx(seen, rel=0.2)  # of a network with so few dimensions
    lines = read_metrics(folder)
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["loss"] for line in lines if "loss" in line] == recorder.losses
    assert [line["step"] for line in lines if "verification/accuracy" in line] == [0, 3, 6]
    assert list((folder / "tensorboard").iterdir())
    assert not (folder / "results.json").exists()  # whoever finishes the run writes it


def test_the_same_configuration_gives_the_same_metrics_to_the_last_bit(straight, tmp_path):
    run(read_config(straight.folder / "config.json"), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight.metrics


def test_another_seed_gives_another_run(straight, with_run, tmp_path):
    result, _ = run(with_run(seed=1), tmp_path / "other")
    assert not np.array_equal(result.similarities, straight.result.similarities)


@pytest.mark.accelerator
@pytest.mark.parametrize("stop_at", [2, 3, 5])
@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_stopped_and_resumed_ends_bit_identical(
    straight, last_state, setup, tmp_path, stop_at, with_signal, capfd
):
    with pytest.raises(Stopped) as stopped:
        run(setup.config, tmp_path, Recorder(stop_at, with_signal), setup)
    assert "Stopping after this step" in capfd.readouterr().err
    assert (stopped.value.step, stopped.value.signal_number) == (stop_at, with_signal)
    result, recorder = run(setup.config, tmp_path, setup=setup)
    assert len(recorder.losses) == 6 - stop_at
    assert_bit_identical(final_state(tmp_path, setup), last_state)
    np.testing.assert_array_equal(result.similarities, straight.result.similarities)
    assert result.verifications == straight.result.verifications
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight.metrics


@pytest.mark.accelerator
def test_metrics_beyond_the_checkpoint_are_dropped_on_resuming(straight, setup, tmp_path):
    """As after a kill: the log ran ahead of the last checkpoint, and its last line is cut."""
    with pytest.raises(Stopped):
        run(setup.config, tmp_path, Recorder(4), setup)
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write(json.dumps({"step": 5, "loss": -1.0}) + '\n{"step": 6, "lo')
    run(setup.config, tmp_path, setup=setup)
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight.metrics


@pytest.mark.slow
def test_pmap_run_equals_the_mesh_run(straight, with_run, tmp_path):
    result, _ = run(with_run(parallel="pmap"), tmp_path / "pmap")
    np.testing.assert_allclose(result.similarities, straight.result.similarities, atol=1e-3)
    local, _ = run(with_run(parallel="pmap", statistics="local"), tmp_path / "local")
    assert not np.allclose(local.similarities, straight.result.similarities, atol=1e-3)


def test_streaming_equals_memory(straight, tiny_config, tmp_path):
    streamed = dataclasses.replace(
        tiny_config, data=dataclasses.replace(tiny_config.data, loading="stream")
    )
    result, _ = run(streamed, tmp_path / "stream")
    np.testing.assert_array_equal(result.similarities, straight.result.similarities)
    assert result.speeds["images_per_second"] > 0
    assert 0 <= result.speeds["data_wait"] <= 1


def test_steps_that_are_not_finite_are_skipped_and_too_many_stop_the_run_with_a_dump(
    with_run, tmp_path
):
    config = with_run(bad_steps=2)
    hot = dataclasses.replace(config.optimiser, learning_rate=1e30, warmup=0.0)
    with pytest.raises(
        InputError,
        match=r"not finite in 2 steps in a row, up to step 3; (activations|gradients): "
        r".*bad-step-3",
    ):
        run(dataclasses.replace(config, optimiser=hot), tmp_path)
    # Steps 2 and 3 touched nothing: the state is that after step 1, but for the counts.
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["bad_steps"] for line in lines] == [0, 1, 2]
    first, second, third = (line["learning_rate"] for line in lines)
    assert first > second == third  # a step that made no update leaves the schedule where it was
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    after = checkpoints.read_tree(3)
    assert after["bad_steps"].tolist() == [2, 2]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    checkpoints.close()
    with np.load(tmp_path / "bad-step-3" / "batch.npz") as batch:
        assert batch["images"].shape == (16, 16, 16, 3)
        source = prepare(config).data.train
        np.testing.assert_array_equal(np.asarray(source.labels)[batch["indices"]], batch["labels"])
        np.testing.assert_array_equal(
            np.stack([source[int(i)] for i in batch["indices"]]), batch["images"]
        )
    diagnosis = diagnose(tmp_path / "bad-step-3")
    assert diagnosis.first_bad().split(":")[0] in ("activations", "gradients")
    assert all(layer.bad == 0 for layer in diagnosis.parameters)
    assert not np.isfinite(diagnosis.loss)


def test_a_last_step_that_is_not_finite_ends_the_run_with_what_was_learnt(
    with_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "arcface_jax.training.program.create_schedule",
        lambda *_: lambda step: jnp.where(step < 1, 0.1, jnp.inf),
    )
    result, recorder = run(with_run(steps=2), tmp_path)
    assert result.bad_steps == 1
    assert sorted(result.verifications) == recorder.verified_at == [0, 2]


def test_a_model_that_cannot_be_verified_ends_the_run_with_a_dump(with_run, tmp_path):
    config = with_run(steps=2)  # its first update ruins the weights, and no second can be made
    hot = dataclasses.replace(config.optimiser, learning_rate=1e30, warmup=0.0)
    with pytest.raises(
        InputError, match=r"not finite in 1 step in a row, up to step 2; .*bad-step-2"
    ):
        run(dataclasses.replace(config, optimiser=hot), tmp_path)


def test_resuming_on_other_data_is_refused(setup, tmp_path):
    with pytest.raises(Stopped):
        run(setup.config, tmp_path, Recorder(2), setup)
    folder = RunFolder(tmp_path, setup.config)
    other = dataclasses.replace(
        setup, data=dataclasses.replace(setup.data, fingerprint="of something else")
    )
    with pytest.raises(InputError, match="other data"):
        train(other, folder, Recorder())
    more = dataclasses.replace(setup.program, num_classes=7, class_counts=np.ones(7))
    with pytest.raises(InputError, match=r"is of 6 classes, but there are 7 people to train on"):
        train(dataclasses.replace(setup, program=more), folder, Recorder())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"steps": 0}, "run.steps"),
        ({"devices": 9}, "run.devices 9: there are 8"),
        ({"batch_size": 13}, "batch_size 13"),
        ({"batch_size": 40}, "batch_size 40 is larger than the 36"),
        ({"statistics": "local"}, "run.statistics local needs --run.parallel pmap"),
        ({"seed": -1}, "run.seed must not be negative, got -1"),
    ],
)
def test_bad_run_settings_are_named(with_run, changes, named, tmp_path):
    config = with_run(**changes)
    with pytest.raises(InputError, match=named):
        train(prepare(config), RunFolder(tmp_path, config), Recorder())
