"""The toy command, as a person types it."""

import functools
import json

import numpy as np
import pytest
import tyro

from arcface_jax.commands import small_model
from experiments import toy
from tests.experiments.small_network import OneConvolution

STEPS = 40


def main():
    toy.run(tyro.cli(toy.Arguments))


@pytest.mark.slow
def test_a_small_model_learns_what_it_is_shown():
    labels = np.arange(8) % 4
    rng = np.random.default_rng(0)
    images = np.clip(
        30 + 60 * labels[:, None, None, None] + rng.normal(0, 5, (8, 16, 16, 3)), 0, 255
    ).astype(np.uint8)
    recipe = small_model.SmallRecipe(2, margin=0.5, steps=STEPS)
    steps = []
    model = small_model.train_small(images, labels, recipe, seed=0, on_step=steps.append)
    embeddings = model.embedder()(images)
    assert steps == list(range(STEPS))
    assert model.class_weights.shape == (4, 2)
    assert ((embeddings @ model.class_weights.T).argmax(axis=1) == labels).all()


def test_it_measures_each_loss_on_a_folder_of_people(type_command, crowd, tmp_path, monkeypatch):
    """With a smaller network: that the usual one learns is the test above."""
    backbone = property(lambda recipe: OneConvolution(recipe.embedding_size))
    monkeypatch.setattr(small_model.SmallRecipe, "backbone", backbone)
    monkeypatch.setattr(
        small_model, "_compiled", functools.cache(small_model._compiled.__wrapped__)
    )
    options = ("--people", crowd, "--identities", 4, "--seeds", 0, 1)
    status, out, _ = type_command(main, *options, "--steps", STEPS, "--output", tmp_path / "out")
    assert status == 0
    assert "4 classes on a circle are 90.0° apart, m is 28.6°" in out
    report = json.loads((tmp_path / "out/toy.json").read_text())
    assert report["circle"]["largest_feasible_margin"] == pytest.approx(np.pi / 2)
    for loss in ("softmax", "softmax on the sphere", "ArcFace, m = 0.5"):
        assert loss in out
        assert len(report[loss]["training_smallest_gap"]) == 2
        assert np.isfinite(report[loss]["unseen_spread"]).all()
    assert (tmp_path / "out/toy_2d.png").exists()
    assert (tmp_path / "out/toy_2d.svg").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--dimension", "4"], "--dimension 4: only 2 and 3"),
        (["--identities", "1"], "--identities 1: give 2 or more"),
        (["--people", "absent.zip"], "absent.zip: no such file"),
    ],
)
def test_bad_input_is_one_line(type_command, options, said):
    status, out, err = type_command(main, *options)
    assert status == 2
    assert said in err
    assert "Traceback" not in err + out
