"""The export command, as a person types it."""

import dataclasses
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tyro

from arcface_jax.commands.models import load_trained
from arcface_jax.data.pairs import all_pairs
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.evaluation.calibration import Calibration
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.evaluation.impostor_tail import ImpostorTail
from arcface_jax.interop.card import ModelCard, Threshold
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.stablehlo import load_stablehlo
from arcface_jax.interop.torch import import_torch
from arcface_jax.models.embed import mirror
from arcface_jax.runs.saved_runs import SavedRun
from experiments import export, train
from tests.bin_set import write_bin

COUNTS = {"num_same": 5, "num_different": 5, "separable": False}


def main():
    export.run(tyro.cli(export.Arguments))


def test_an_export_holds_the_model_and_tells_its_accuracy(
    type_command, small_checkpoint, crowd, tmp_path
):
    folder = tmp_path / "out"
    status, out, _ = type_command(
        main,
        small_checkpoint,
        folder,
        "--formats",
        "stablehlo",
        "torch",
        "safetensors",
        "--weights",
        "int8",
        "--verify",
        crowd,
        "--licence",
        "CC0",
        "--name",
        "Little",
    )
    assert status == 0
    for said in (
        "model.stablehlo",
        "Little: ",
        "and as trained: AUC ",
        "For FAR 0.001 accept from ",
        "96 different pairs cannot tell whether the FAR is below 0.001 at all",
        "FAR 0.0001, 1e-05, 1e-06 are left out: of 96 different pairs not one",
        f"The whole card: {folder / 'README.md'}",
    ):
        assert out.count(said) == 1
    assert len(out.splitlines()) < 12
    text = (folder / "README.md").read_text()
    for said in (
        "# Little",
        "Licence: CC0",
        "What it must not be used for",
        "auc",
        "accept from cosine",
        "cannot tell",
        "| cosine | same person | strangers who score as high |",
        "Cllr",
        "as not before they were seen",
        "are left out: of 96 different pairs",
    ):
        assert said in text
    source = FolderSource(crowd)
    images = np.stack([source[index] for index in range(len(source))])
    embed, size = load_stablehlo(folder / "model.stablehlo")
    model = import_torch(small_checkpoint)
    exact = np.asarray(
        jax.jit(unit_embedding(model, weights="int8", flip="add"))(jnp.asarray(images))
    )
    assert size == (32, 32)
    np.testing.assert_allclose(embed(images), exact, atol=1e-5)
    card = ModelCard.read(folder)
    assert card.options == {"fold": True, "weights": "int8"}
    assert card.rule == EmbeddingRule("add", "middle")
    assert card.strangers.num_different == 6 * 16
    assert (card.calibration.num_same, card.calibration.num_different) == (24, 96)
    first, second, *rows, cllr, ece = card.calibration_figures
    assert (first, second, cllr, ece) == ("slope", "offset", "cllr", "ece")
    assert [threshold.far for threshold in card.thresholds] == [1e-3]
    plain = np.asarray(jax.jit(unit_embedding(model, fold=False, flip="add"))(jnp.asarray(images)))
    pairs = np.triu_indices(len(images), k=1)
    cosines = (exact @ exact.T)[pairs]
    of_rows = [float(name.removeprefix("probability@")) for name in rows]
    assert 5 <= len(of_rows) <= 13
    beyond = of_rows[1] - of_rows[0]
    assert cosines.min() - beyond <= of_rows[0] <= of_rows[-1] <= cosines.max() + beyond
    change = np.abs((exact @ exact.T - plain @ plain.T)[pairs]).max()
    assert card.metrics["largest change of a cosine"] == pytest.approx(change, abs=1e-5)
    assert 0 < change < 0.1
    for name in ("model.pth", "model.safetensors"):
        again = import_torch(folder / name)
        jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(model.variables))


def test_what_a_runs_folder_says(tmp_path):
    assert export.read_run(tmp_path) == export.RunFacts(None, {})
    assert export.RunFacts(None, {}).data == "not stated"
    config = {"data": {"source": "auto", "root": "/secret/train.rec"}, "loss": {"name": "cosface"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    facts = export.read_run(tmp_path)
    assert facts == export.RunFacts(config, {})
    assert facts.data == "auto, train.rec"
    (tmp_path / "results.json").write_text(
        json.dumps({"verifications": {"9": {"auc": 0.5}, "10": {"auc": 0.75}}})
    )
    assert export.read_run(tmp_path).results == {"step": 10, "auc": 0.75}


@pytest.mark.slow
def test_the_card_of_a_run_quotes_its_recipe_and_results(type_command, crowd, tmp_path):
    run, folder = tmp_path / "run", tmp_path / "out"
    small = [
        *(
            "--data.image-size",
            16,
            "--data.pairs",
            20,
            "--model.name",
            "resnet20",
            "--model.width",
            4,
            "--model.embedding-size",
            8,
        ),
        *(
            "--run.steps",
            2,
            "--run.batch-size",
            4,
            "--run.evaluate-every",
            2,
            "--run.devices",
            1,
            "--run.folder",
            run,
        ),
    ]
    status, _, err = type_command(
        train.main, "folder", "--data.root", crowd, "--model.pixels", "insightface_mxnet", *small
    )
    assert status == 0, err
    assert type_command(main, run, folder, "--formats", "stablehlo")[0] == 0
    card, config = ModelCard.read(folder), json.loads((run / "config.json").read_text())
    assert card.config == config
    assert card.data == "folder, crowd"
    assert card.recipe == "the configuration below"
    assert card.training_pixels["divisor"] == 128.0
    last = json.loads((run / "results.json").read_text())["verifications"]["2"]
    assert card.run_results == {"step": 2, **last}
    text = (folder / "README.md").read_text()
    assert json.loads(text.partition("```json")[2].partition("```")[0]) == config
    assert f"| auc | {last['auc']:.5g} |" in text
    trained = load_trained(SavedRun(run))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    expected = trained.embed(images) + trained.embed(mirror(images))
    embed, size = load_stablehlo(folder / "model.stablehlo")
    assert size == (16, 16)
    np.testing.assert_allclose(
        embed(images), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent.pth", "out"], "absent.pth: no such file"),
        (["small.pth", "crowd"], "crowd: exists already"),
        (["crowd", "out"], "crowd: is no run"),
        (["small.pth", "out", "--verify", "crowd/p0"], "crowd/p0"),
        (["small.pth", "out", "--project", "facenet"], "'facenet' is unknown"),
        (
            ["small.pth", "out", "--detect"],
            "--detect: says how the photos of --verify or --size-from are taken",
        ),
        (["small.pth", "out", "--aligned"], "--aligned: says how the photos of --verify"),
        (
            ["small.pth", "out", "--verify", "crowd", "--aligned", "--detect"],
            "--detect and --aligned: a crop that is aligned needs no search; give one",
        ),
        (["small.pth", "out", "--size", "3"], "that was not trained here needs --size-from"),
        (["small.pth", "out", "--size-from", "crowd"], "--size-from: says what --size is found on"),
        (["small.pth", "out", "--size", "6", "--size-from", "crowd"], "has 6 numbers; give fewer"),
        (
            ["small.pth", "out", "--size", "3", "--size-from", "crowd", "--formats", "torch"],
            "--size: --formats torch has the network's own weights",
        ),
        (["small.pth", "out", "--face", "largest"], "--face largest: chooses among the faces"),
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


def test_a_format_that_cannot_be_written_leaves_nothing(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    arguments = (
        main,
        small_checkpoint,
        tmp_path / "out",
        "--formats",
        "stablehlo",
        "onnx",
        "--verify",
        crowd,
    )
    status, _, err = type_command(*arguments)
    assert (status, "jax2onnx is needed" in err) == (2, True)
    assert {path.name for path in tmp_path.iterdir()} == {"small.pth", "crowd"}


def test_a_verification_set_is_measured_on_its_own_pairs(type_command, small_checkpoint, tmp_path):
    write_bin(tmp_path / "lfw.bin")
    status, _, err = type_command(
        main, small_checkpoint, tmp_path / "out", "--verify", tmp_path / "lfw.bin"
    )
    assert status == 0, err
    card = ModelCard.read(tmp_path / "out")
    assert card.thresholds[0].warning.startswith("10 different pairs")
    assert card.rule.crop == "aligned"


def a_card():
    """A card with everything in it."""
    return ModelCard(
        name="n",
        source="s",
        network="Net",
        parameters=1,
        embedding_size=2,
        image_size=(3, 4),
        training_pixels={},
        rule=EmbeddingRule("add", "face"),
        options={},
        data="d",
        recipe="r",
        config=None,
        run_results={},
        licence="l",
        verified_on="v",
        metrics={"original": {}, "largest change of a cosine": 0.0},
        thresholds=(Threshold(1e-3, 0.5, 0.9),),
        calibration=Calibration(20.0, -8.0, 100, 1000),
        calibration_figures={"warning": "few"},
        strangers=ImpostorTail(1000, (1, 1000), (0.5, -0.5)),
        versions={},
    )


def test_a_probability_that_cannot_be_had_is_said_in_the_card():
    who = np.repeat([0, 1], 3)
    pairs = all_pairs(who)
    clusters = (who[pairs.first], who[pairs.second])
    faces = export._Faces(np.zeros((6, 1, 1, 3), np.uint8), "middle", pairs, clusters)
    for cosines, said in (
        (np.where(pairs.same, 0.5, 0.1) + 0.01 * np.arange(15), "half of the 2 people have only"),
        (np.where(pairs.same, 0.1, 0.5), "same pairs do not score higher than different ones"),
        (np.full(15, 0.3), "all are 0.3; a score that never differs tells nothing"),
    ):
        calibration, figures = export.find_calibration(cosines, faces)
        assert calibration is None
        assert said in figures["warning"]
        card = dataclasses.replace(a_card(), calibration=calibration, calibration_figures=figures)
        assert f"No probability: {figures['warning']}" in card.to_markdown()


def test_a_card_is_read_as_it_was_written(tmp_path):
    for card in (a_card(), dataclasses.replace(a_card(), calibration=None, strangers=None)):
        (tmp_path / "model_card.json").write_text(card.to_json())
        assert ModelCard.read(tmp_path) == card


@pytest.mark.parametrize(
    "change",
    [
        {"rule": None},
        {"rule": "add"},
        {"rule": {"flip": True, "crop": "face"}},
        {"rule": {"flip": "add", "crop": "nose"}},
        {"rule": {"flip": "add", "crop": ["face"]}},
        {"rule": {"mirror": "add"}},
        {"calibration": {"slope": 1}},
        {"calibration": 3},
        {"calibration": {"slope": math.nan, "offset": 0, **COUNTS}},
        {"calibration": {"slope": -1, "offset": 0, **COUNTS}},
        {"calibration": {"slope": "steep", "offset": 0, **COUNTS}},
        {"calibration": {"slope": 1, "offset": math.inf, **COUNTS}},
        {"calibration": {"slope": 1, "offset": 0, **COUNTS, "num_same": 0}},
        {"strangers": []},
        {"strangers": {"num_different": 9, "accepted": [], "scores": []}},
        {"strangers": {"num_different": 9, "accepted": [1, 9], "scores": [0.5]}},
        {"strangers": {"num_different": 9, "accepted": [1, 10], "scores": [0.5, 0.1]}},
        {"strangers": {"num_different": 9, "accepted": [0, 9], "scores": [0.5, 0.1]}},
        {"strangers": {"num_different": 9, "accepted": [2, 1], "scores": [0.5, 0.1]}},
        {"strangers": {"num_different": 9, "accepted": [1, 9], "scores": [0.1, 0.5]}},
        {"strangers": {"num_different": 9, "accepted": [1, 9], "scores": [math.nan, 0.5]}},
        {"strangers": {"num_different": "9", "accepted": ["x"], "scores": ["y"]}},
    ],
)
def test_a_card_with_something_else_in_it_is_refused(tmp_path, change):
    content = json.loads(a_card().to_json()) | change
    (tmp_path / "model_card.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"model_card.json: is no model card .* export the model"):
        ModelCard.read(tmp_path)


@pytest.mark.parametrize("field", ["rule", "calibration", "strangers", "calibration_figures"])
def test_an_older_card_is_to_be_made_again(tmp_path, field):
    content = json.loads(a_card().to_json())
    del content[field]
    (tmp_path / "model_card.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"model_card.json: is no model card of this version"):
        ModelCard.read(tmp_path)


def test_a_damaged_card_is_named(tmp_path):
    (tmp_path / "model_card.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(ValueError, match=r"model_card.json: is no model card"):
        ModelCard.read(tmp_path)


def test_a_model_that_overflows_is_not_exported(type_command, small_checkpoint, tmp_path):
    import torch

    weights = torch.load(small_checkpoint)
    weights["fc.weight"] = torch.full_like(weights["fc.weight"], 3e38)
    torch.save(weights, tmp_path / "large.pth")
    status, _, error = type_command(main, tmp_path / "large.pth", tmp_path / "out")
    assert status == 2
    assert "large.pth (arcface_torch): image 0: the model's embedding is NaN or infinite" in error
    assert not (tmp_path / "out").exists()


def test_a_shorter_embedding_and_what_it_costs(type_command, small_checkpoint, crowd, tmp_path):
    folder = tmp_path / "short"
    about = ("--size", "3", "--size-from", crowd, "--verify", crowd)
    status, out, _ = type_command(main, small_checkpoint, folder, *about)
    assert status == 0
    assert "3 numbers out" in out
    assert "Change of AUC, over people: " in out
    assert "warning" not in out.split("3 numbers out")[0]
    text = (folder / "README.md").read_text()
    assert "unit embeddings [N, 3] out" in text
    assert "embedding 3 of 6 directions, of 16 images of 4 people of crowd, which keep " in text
    assert "| | original | this export | change, over people |" in text
    card = ModelCard.read(folder)
    assert card.embedding_size == 3
    change = card.metrics["change"]["auc"]
    assert change["estimate"] == pytest.approx(
        card.metrics["auc"] - card.metrics["original"]["auc"]
    )
    assert change["low"] <= change["estimate"] <= change["high"]
    embed, _ = load_stablehlo(folder / "model.stablehlo")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    assert embed(images).shape == (2, 3)
    np.testing.assert_allclose(np.linalg.norm(embed(images), axis=1), 1.0, atol=1e-5)


def test_directions_of_few_people_are_warned_of(type_command, small_checkpoint, crowd, tmp_path):
    about = ("--size", "5", "--size-from", crowd)
    status, out, _ = type_command(main, small_checkpoint, tmp_path / "short", *about)
    assert status == 0
    said = "--size 5: the directions are learnt from 16 images of 4 people, fewer people than"
    assert f"warning: {said} numbers" in out
    assert "No accuracy or threshold of the export itself: --verify measures them" in out
