import dataclasses

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import Checkpoints, DamagedCheckpoint, metadata_of
from arcface_jax.runs.setup import prepare


@pytest.fixture(scope="module")
def state(tiny_config):
    return prepare(tiny_config).initial_state()


def at(state, step):
    return dataclasses.replace(state, step=np.int32(step))


def test_a_state_comes_back_bit_for_bit_with_its_metadata(state, tiny_config, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 4), metadata_of(tiny_config, "abc", 6, 1))
    checkpoints.close()
    again = Checkpoints(tmp_path)
    assert again.latest_step() == 4
    metadata = again.metadata(4)
    assert metadata["data_fingerprint"] == "abc"
    assert metadata["config"]["loss"]["name"] == "arcface"
    assert {"jax", "flax", "optax"} <= metadata["versions"].keys()
    restored = again.restore(4, state)
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(
        np.testing.assert_array_equal, jax.device_get(restored), jax.device_get(at(state, 4))
    )
    again.close()


def test_only_the_newest_are_kept(state, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        checkpoints.save(at(state, step), {})
    checkpoints.close()
    assert sorted(int(folder.name) for folder in tmp_path.iterdir()) == [2, 3]


def test_an_unfinished_save_is_not_taken_for_a_checkpoint(state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.close()
    (tmp_path / "2.orbax-checkpoint-tmp").mkdir()
    again = Checkpoints(tmp_path)
    assert again.latest_step() == 1
    again.close()


def test_a_checkpoint_of_another_model_is_refused(state, tmp_path, tiny_config):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.wait()
    wider = dataclasses.replace(
        tiny_config, model=dataclasses.replace(tiny_config.model, embedding_size=8)
    )
    with pytest.raises(
        InputError,
        match=r"does not fit this configuration: .* is float32\[.*16.*\], wanted float32\[.*8.*\]",
    ):
        checkpoints.restore(1, prepare(wider).initial_state())
    checkpoints.close()


def test_a_damaged_checkpoint_is_named_and_the_one_before_offered(state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.save(at(state, 2), {})
    checkpoints.wait()
    for file in (tmp_path / "2" / "state").rglob("*"):
        if file.is_file():
            file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(InputError, match=r"2: is damaged \(.*\); that of step 1 may be whole"):
        checkpoints.restore(2, state)
    (tmp_path / "1" / "metadata" / "metadata").unlink()
    with pytest.raises(InputError, match="1: is damaged"):
        checkpoints.metadata(1)
    checkpoints.close()


def test_a_checkpoint_that_lost_a_file_of_its_arrays_is_damaged_too(state, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.wait()
    for file in (tmp_path / "1" / "state").rglob("d/*"):
        file.unlink()
    with pytest.raises(DamagedCheckpoint, match=r"damaged \([\w ]+\); there is none before it"):
        checkpoints.restore(1, state)
    checkpoints.close()


def test_a_flipped_bit_is_noticed_however_the_state_is_read(state, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(at(state, 1), {})
    checkpoints.wait()
    read = checkpoints._read

    def damaged(step, **items):
        found = read(step, **items)
        if "state" in items:
            kernel = found.state["params"]["backbone"]["conv"]["kernel"]
            found.state["params"]["backbone"]["conv"]["kernel"] = kernel.at[0, 0, 0, 0].add(1e-3)
        return found

    monkeypatch.setattr(checkpoints, "_read", damaged)
    with pytest.raises(
        InputError, match=r"1: is damaged \(params/backbone/conv/kernel is not what was saved\)"
    ):
        checkpoints.read_tree(1)
    checkpoints.close()
