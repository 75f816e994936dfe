"""Class rows laid out for another number of devices: each is read where it is wanted alone."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding

from arcface_jax.heads import HeadState
from arcface_jax.heads.shards import shard_rows
from arcface_jax.runs import class_rows
from arcface_jax.runs.checkpoints import Checkpoints, DamagedCheckpoint
from arcface_jax.runs.class_rows import Layout
from arcface_jax.training.state import TrainState, class_row_specs
from experiments.reliability.faults import lose_manifest
from tests.in_numpy import shard

CLASSES, WIDTH = 1009, 6  # a prime
ROWS = np.random.default_rng(0).normal(size=(CLASSES, WIDTH)).astype(np.float32)


def state_on(devices, dtype=jnp.bfloat16):
    """A state with the rows over so many devices, in float32 and in another type."""
    split = np.asarray(shard(ROWS, devices)).reshape(-1, WIDTH)
    head = HeadState(jnp.asarray(split, dtype), {"momentum": jnp.asarray(-split, dtype)}, 1)
    state = TrainState(
        step=jnp.ones((), jnp.int32),
        params={"backbone": jnp.arange(5.0), "head": {"class_weights": jnp.asarray(split)}},
        batch_stats={},
        optimiser_state={},
        head_state={"rows": head},
        average={},
        bad_steps=jnp.zeros(2, jnp.int32),
    )
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    place = lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec))  # noqa: E731
    return jax.tree.map(place, state, class_row_specs(state))


@pytest.fixture
def saved_on_eight(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(state_on(8), {"shards": 8})
    checkpoints.wait()
    yield checkpoints
    checkpoints.close()


@pytest.mark.parametrize("devices", [1, 3, 5])
def test_no_device_is_given_rows_but_its_own(saved_on_eight, monkeypatch, devices):
    """Reads and what is put on the devices are watched: of no array are all rows ever in one."""
    wanted, read, opened = state_on(devices), [], class_rows.open_array

    def watched(folder, name):
        class Store:
            def __getitem__(self, rows):
                read.append((name, rows.start, rows.stop))
                return opened(folder, name)[rows]

        return Store()

    monkeypatch.setattr(class_rows, "open_array", watched)
    put, device_put = [], jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda one, *to: put.append(np.shape(one)) or device_put(one, *to)
    )
    found = saved_on_eight.restore(1, wanted, Layout(CLASSES, 8, devices))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    assert found.class_weights.sharding == wanted.class_weights.sharding
    of_rows = [shape[0] for shape in put if len(shape) == 2]
    assert of_rows == [shard_rows(CLASSES, devices)] * 3 * devices  # three arrays have class rows
    height = shard_rows(CLASSES, 8)
    assert max(stop - start for _, start, stop in read) <= height
    for name in {one[0] for one in read}:  # each row once
        ranges = sorted(one[1:] for one in read if one[0] == name)
        assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
        assert ranges[-1][1] == 8 * height


class Flipped:
    """An array of a checkpoint, of whose last row one bit is another."""

    def __init__(self, stored):
        self.rows = stored.read().result().copy()
        self.rows[-1:].view(np.uint8)[0, 0] ^= 1

    def __getitem__(self, rows):
        found = types.SimpleNamespace(result=lambda: self.rows[rows])
        return types.SimpleNamespace(read=lambda: found)


def test_a_changed_bit_is_noticed_in_rows_that_are_laid_out_anew(saved_on_eight, monkeypatch):
    """Even in a row of padding."""
    opened = class_rows.open_array
    monkeypatch.setattr(class_rows, "open_array", lambda *where: Flipped(opened(*where)))
    with pytest.raises(DamagedCheckpoint, match=r"1: is damaged .* is not what was saved"):
        saved_on_eight.restore(1, state_on(3), Layout(CLASSES, 8, 3))


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # of Orbax's reading threads
def test_rows_that_are_not_there_are_damage(saved_on_eight):
    lose_manifest(saved_on_eight.folder / "1")
    with pytest.raises(DamagedCheckpoint, match="1: is damaged"):
        saved_on_eight.restore(1, state_on(3), Layout(CLASSES, 8, 3))
