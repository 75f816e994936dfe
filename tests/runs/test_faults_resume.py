"""Going on elsewhere and after damage: the number of devices is no part of what a run is."""

import dataclasses
import signal

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.heads import unshard_classes
from arcface_jax.losses import ArcFace
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.loop import Quiet, train
from arcface_jax.runs.resume import newest_readable
from arcface_jax.runs.run_folder import RunFolder, read_metrics
from arcface_jax.runs.stopping import Stopped
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.state import is_class_rows
from experiments.reliability.faults import DAMAGES, truncate
from tests.runs.short_runs import compiled_once

CLASSES = 13  # a prime, which no number of devices divides

HEADS = {
    "dense": HeadConfig(),
    "sharded": HeadConfig(kind="sharded", chunk=2),
    "fused": HeadConfig(kind="sharded", chunk=2, update="fused"),
    "fused bfloat16": HeadConfig(kind="sharded", chunk=2, update="fused", dtype="bfloat16"),
}


class Asks(Quiet):
    """Hears how a run goes, and asks it to stop at a step."""

    def __init__(self, stop_at=None):
        self.stop_at, self.said = stop_at, []

    def first_loss(self, seen, expected):
        assert np.isfinite(seen)

    def progress(self, step, metrics):
        if step == self.stop_at:
            signal.raise_signal(signal.SIGTERM)

    def verified(self, step, numbers, best):
        assert 0 <= numbers["accuracy"] <= 1

    def says(self, message):
        self.said.append(message)


def run_until(setup, folder, stop_at):
    with pytest.raises(Stopped):
        train(setup, RunFolder(folder, setup.config), Asks(stop_at))


def class_rows(folder, program):
    """Every array with a row for each class of the newest checkpoint, as the program lays it
    out, by its name.
    """
    checkpoints = Checkpoints(folder / "checkpoints")
    _, state = newest_readable(checkpoints, program, lambda message: pytest.fail(message))
    checkpoints.close()
    return {
        jax.tree_util.keystr(path): np.asarray(
            unshard_classes(np.asarray(leaf).reshape(program.shards, -1, *leaf.shape[1:]), CLASSES)
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if is_class_rows(path)
    }


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "sharded")) for name in HEADS]
)
def test_a_run_goes_on_from_eight_devices_to_three_to_five(with_run, tmp_path, name):
    """Over ten seconds, for a step of its own is compiled for each number of devices."""

    def on(devices):
        config = with_run(devices=devices, evaluate_every=6, batch_size=120)
        data = dataclasses.replace(config.data, identities=26, images_per_identity=10)
        return compiled_once(dataclasses.replace(config, head=HEADS[name], data=data))

    eight, three, five = map(on, (8, 3, 5))
    assert eight.data.num_classes == CLASSES
    train(eight, RunFolder(tmp_path / "straight", eight.config), Asks())
    run_until(eight, tmp_path / "moved", 2)
    # Weights and momentum move as they are, to the last bit.
    layouts = [class_rows(tmp_path / "moved", setup.program) for setup in (eight, three, five)]
    assert len(layouts[0]) == 2  # weights and momentum
    assert all(np.abs(rows.astype(np.float32)).max() > 0 for rows in layouts[0].values())
    for other in layouts[1:]:
        jax.tree.map(np.testing.assert_array_equal, layouts[0], other)
    run_until(three, tmp_path / "moved", 4)
    asks = Asks()
    train(five, RunFolder(tmp_path / "moved", five.config), asks)
    assert asks.said == ["Going on from the checkpoint of step 4."]
    # Batch statistics are global, so that only the order of sums differs; bfloat16 rows are rounded
    # by other draws.
    tolerance = 3e-2 if "bfloat16" in name else 2e-4
    straight, moved = read_metrics(tmp_path / "straight"), read_metrics(tmp_path / "moved")
    assert [line["step"] for line in moved] == [line["step"] for line in straight]
    for one, other in zip(straight, moved, strict=True):
        for metric in ("loss", "theta", "feature_norm", "gradient_norm"):
            if metric in one:
                assert other[metric] == pytest.approx(one[metric], rel=tolerance), (
                    one["step"],
                    metric,
                )


@pytest.fixture(scope="module")
def begun(setup):
    """(program, its first state)."""
    program = setup.program
    return program, program.placement.create(program.make_state)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Orbax's reading threads
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_kept_aside_and_the_one_before_is_read(begun, tmp_path, damage):
    program, state = begun
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (3, 4):
        checkpoints.save(dataclasses.replace(state, step=state.step + step), {"shards": 1})
    checkpoints.wait()
    damage(checkpoints.folder / "4")
    said = []
    step, found = newest_readable(checkpoints, program, said.append)
    assert step == int(found.step) == 3
    assert len(said) == 1
    assert "4: is damaged" in said[0]
    assert "set aside as" in said[0]
    (aside,) = tmp_path.glob("damaged-4-*")
    assert aside.is_dir()
    assert checkpoints.steps() == [3]
    checkpoints.save(
        dataclasses.replace(state, step=state.step + 4), {"shards": 1}
    )  # its step can be saved again
    checkpoints.wait()
    assert checkpoints.steps() == [3, 4]
    checkpoints.close()


def test_where_no_checkpoint_can_be_read_all_stay_and_the_run_is_not_begun_anew(setup, tmp_path):
    run_until(setup, tmp_path, 4)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for checkpoint in (tmp_path / "checkpoints").iterdir():
        truncate(checkpoint)
    for _ in range(2):
        with pytest.raises(InputError, match="none could be read"):
            train(setup, RunFolder(tmp_path, setup.config), Asks())
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_steps_that_are_not_finite_are_skipped_counted_and_survive_a_restart(
    with_run, tmp_path, monkeypatch
):
    """The loss of step 3 alone is made NaN: parameters, momentum and statistics pass it by."""
    config = with_run(devices=1)

    margin = ArcFace.psi

    def spoilt(self, context):
        psi = margin(self, context)
        return lambda cosine: jax.numpy.where(context.step == 2, jax.numpy.nan, psi(cosine))

    monkeypatch.setattr(ArcFace, "psi", spoilt)
    setup = compiled_once(config)
    run_until(setup, tmp_path, 4)
    result = train(setup, RunFolder(tmp_path, config), Asks())
    assert result.bad_steps == 1
    lines = [line for line in read_metrics(tmp_path) if "loss" in line]
    assert [line["bad_steps"] for line in lines] == [0, 0, 1, 1, 1, 1]
    assert [line["loss"] is None for line in lines] == [False, False, True, False, False, False]
