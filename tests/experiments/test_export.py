"""The export command, as a person types it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from arcface_jax.data.folder import FolderSource
from arcface_jax.interop.card import ModelCard
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.stablehlo import load_stablehlo
from arcface_jax.interop.torch import import_torch
from experiments import export


def main():
    export.run(tyro.cli(export.Arguments))


def test_an_export_holds_the_model_and_tells_its_accuracy(type_command, small_checkpoint, crowd, tmp_path):
    folder = tmp_path / "out"
    status, out, _ = type_command(
        main, small_checkpoint, folder, "--formats", "stablehlo", "torch", "--weights", "int8", "--verify", crowd,
        "--licence", "CC0", "--name", "Little"
    )  # fmt: skip
    assert status == 0
    for said in ("model.stablehlo", "# Little", "Licence: CC0", "auc", "accept from cosine", "cannot tell"):
        assert said in out
    source = FolderSource(crowd)
    images = np.stack([source[index] for index in range(len(source))])
    embed, size = load_stablehlo(folder / "model.stablehlo")
    model = import_torch(small_checkpoint)
    exact = np.asarray(jax.jit(unit_embedding(model, weights="int8"))(jnp.asarray(images)))
    assert size == (32, 32)
    np.testing.assert_allclose(embed(images), exact, atol=1e-5)
    card = ModelCard.read(folder)
    assert card.options == {"fold": True, "flip": False, "weights": "int8"}
    assert [threshold.far for threshold in card.thresholds] == [1e-3, 1e-4, 1e-5, 1e-6]
    plain = np.asarray(jax.jit(unit_embedding(model, fold=False))(jnp.asarray(images)))
    pairs = np.triu_indices(len(images), k=1)
    change = np.abs((exact @ exact.T - plain @ plain.T)[pairs]).max()
    assert card.metrics["largest change of a cosine"] == pytest.approx(change, abs=1e-5)
    assert 0 < change < 0.1
    again = import_torch(folder / "model.pth")
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(model.variables))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.pth", "out"], "absent.pth: no such file"),
        (["small.pth", "crowd"], "crowd: exists already"),
        (["crowd", "out"], "crowd: is no run"),
        (["small.pth", "out", "--verify", "crowd/p0"], "crowd/p0"),
        (["small.pth", "out", "--project", "facenet"], "'facenet' is unknown"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_command(main, *arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_a_damaged_card_is_named(tmp_path):
    (tmp_path / "model_card.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match=r"model_card.json: is no model card"):
        ModelCard.read(tmp_path)
