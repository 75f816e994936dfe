"""The same model and photos give the same cosines and thresholds in every command."""

import csv
import re

import jax
import numpy as np
import pytest
from PIL import Image

from arcface_jax.commands import models
from arcface_jax.commands.models import open_embedder
from arcface_jax.commands.photos import Cropper, PhotoOptions
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.detect import Detection
from arcface_jax.data.in_memory import load_images
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.interop.card import ModelCard
from arcface_jax.interop.model import TrainedModel
from arcface_jax.pixels import ARCFACE_TORCH
from experiments import demo, embed, evaluate, export, identify
from tests.experiments.small_network import OneConvolution

SIZE = (16, 12)
FARS = (0.1, 0.01)


@pytest.fixture
def photos(tmp_path):
    """Five people with four photos each, higher than the network's images, and no two sides
    alike.
    """
    random = np.random.default_rng(0)
    for person in range(5):
        folder = tmp_path / "photos" / f"p{person}"
        folder.mkdir(parents=True)
        base = random.integers(0, 255, (30, 18, 3))
        for picture in range(4):
            pixels = np.clip(base + random.normal(0, 60, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{picture}.png")
    return tmp_path / "photos"


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A path that every command opens as a network of a moment."""
    network = OneConvolution(8)
    images = np.zeros((1, *SIZE, 3), np.float32)
    variables = network.init(jax.random.key(1), images)
    trained = TrainedModel(network, variables, ARCFACE_TORCH, SIZE, "tiny")
    monkeypatch.setattr(models, "open_trained", lambda *_: trained)
    monkeypatch.setattr(export, "open_trained", lambda *_: trained)
    monkeypatch.setattr(export, "CARD_FARS", FARS)
    monkeypatch.setattr(models, "default_batch_size", lambda: 20)
    (tmp_path / "tiny.pth").touch()
    return tmp_path / "tiny.pth"


@pytest.fixture
def evaluated(monkeypatch, tmp_path):
    """Evaluates; returns (cosines of all pairs, threshold and TAR at each FAR, the table's row)."""

    def run(**options):
        drawn, tables = [], []
        monkeypatch.setattr(
            evaluate, "draw_set", lambda data, result, _: drawn.append(result) or []
        )
        monkeypatch.setattr(evaluate, "write_tables", lambda rows, _: tables.append(rows) or [])
        output = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        evaluate.run(
            evaluate.Arguments(output=output, deployment_fars=FARS, replicates=3, **options)
        )
        (row,) = tables[0].values()
        found = [(one.threshold.estimate, one.tar.estimate) for one in drawn[0].thresholds]
        return drawn[0].similarities, found, row

    return run


def in_numpy(model, photos, flip):
    """Cosines of all pairs by float64, from the network's own outputs."""
    trained = models.open_trained(model)
    images = load_images(FolderSource(photos), SIZE)
    apply = trained.embedder(20)
    x, mirrored = (apply(each).astype(np.float64) for each in (images, images[:, :, ::-1]))
    combined = {"add": x + mirrored, "none": x, "concatenate": np.hstack([x, mirrored])}[flip]
    unit = combined / np.linalg.norm(combined, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), k=1)]


@pytest.fixture(params=[None, "concatenate"])
def flip(request):
    return request.param


def test_evaluating_is_what_the_equation_says(model, photos, evaluated, flip):
    cosines, _, row = evaluated(checkpoint=(model,), sets=(str(photos),), flip=flip)
    np.testing.assert_allclose(cosines, in_numpy(model, photos, flip or "add"), atol=1e-5)
    assert row["rule"] == f"--flip {flip or 'add'} and no --detect"


def test_an_export_gives_the_same_as_its_model(model, photos, evaluated, tmp_path, flip, capsys):
    """Its card, its evaluation, two photos of it, and the page."""
    sets, exported = (str(photos),), tmp_path / "exported"
    cosines, thresholds, row = evaluated(checkpoint=(model,), sets=sets, flip=flip)
    export.run(export.Arguments(model, exported, verify=str(photos), flip=flip))
    card = ModelCard.read(exported)
    assert card.rule == EmbeddingRule(flip or "add", "middle")
    assert card.embedding_size == (16 if flip == "concatenate" else 8)
    np.testing.assert_allclose([(t.cosine, t.tar) for t in card.thresholds], thresholds, atol=1e-5)
    assert card.metrics["auc"] == pytest.approx(row["auc"].estimate, abs=1e-6)
    assert card.metrics["tar@far=0.01"] == pytest.approx(row["tar@far=0.01"].estimate, abs=1e-6)
    again, same, exported_row = evaluated(checkpoint=(exported,), sets=sets)
    np.testing.assert_allclose(again, cosines, atol=1e-5)
    np.testing.assert_allclose(same, thresholds, atol=1e-5)
    assert exported_row["rule"] == row["rule"]

    capsys.readouterr()
    identify.run(identify.Verify(exported, photos / "p0/0.png", photos / "p0/1.png", far=FARS[0]))
    said = f"cosine {cosines[0]:.3f}, threshold {thresholds[0][0]:.3f}"
    assert said in capsys.readouterr().out
    embedder = open_embedder(exported)
    page = demo.Answers(embedder, Cropper(embedder.image_size), None, card.rule)
    source = FolderSource(photos)
    text, *_ = page.compare(source[0], source[1], 0.5)
    assert re.search(rf"Similarity {cosines[0]:.3f}\b", text)


def test_embeddings_on_disk_give_the_same_as_the_model(model, photos, evaluated, tmp_path, flip):
    """Evaluated, and searched."""
    cosines, thresholds, row = evaluated(checkpoint=(model,), sets=(str(photos),), flip=flip)
    gallery, found = tmp_path / "e.npz", tmp_path / "found.csv"
    embed.run(embed.Arguments(model, str(photos), gallery, flip=flip))
    again, same, embedded_row = evaluated(embeddings=(gallery,))
    np.testing.assert_allclose(again, cosines, atol=1e-5)
    np.testing.assert_allclose(same, thresholds, atol=1e-5)
    assert embedded_row["rule"] == row["rule"]
    identify.run(identify.TimedSearch(gallery, gallery, found, candidates=20))
    with found.open(newline="") as file:
        line = next(csv.DictReader(file))
    others = np.sort(np.r_[1.0, cosines[:19]])[::-1]
    np.testing.assert_allclose(
        [float(line[f"cosine_{n}"]) for n in range(1, 21)], others, atol=1e-5
    )


def test_a_model_that_leaves_the_mirror_image_out_does_so_everywhere(model, photos, evaluated):
    trained = models.open_trained(model)
    object.__setattr__(trained, "flip", "none")
    cosines, _, row = evaluated(checkpoint=(model,), sets=(str(photos),))
    np.testing.assert_allclose(cosines, in_numpy(model, photos, "none"), atol=1e-5)
    assert row["rule"] == "--flip none and no --detect"
    assert open_embedder(model).flip == "none"
    assert open_embedder(model, flip="concatenate").flip == "concatenate"


def test_photos_without_a_face_are_left_out_alike(
    model, photos, evaluated, tmp_path, monkeypatch, capsys
):
    """Embedded and then evaluated, or evaluated at once; a list of pairs needs all photos."""
    without = FolderSource(photos)[5]

    class Detector:
        description = "a stand-in"

        def detect(self, photo):
            if np.array_equal(photo, without):
                return []
            return [Detection(np.zeros(4), TEMPLATE * 16 / 112 + [1, 5], 1.0)]

    monkeypatch.setattr("arcface_jax.commands.photos.FaceDetector", Detector)
    cosines, thresholds, row = evaluated(checkpoint=(model,), sets=(str(photos),), detect=True)
    out = capsys.readouterr().out
    assert "p1/1.png: no face found; left out" in out
    assert "Images left out: 1 of 20.\n" in out
    assert (len(cosines), row["rule"]) == (19 * 18 // 2, "--flip add --detect")
    embed.run(embed.Arguments(model, str(photos), tmp_path / "e.npz", detect=True))
    again, same, _ = evaluated(embeddings=(tmp_path / "e.npz",))
    np.testing.assert_allclose(again, cosines, atol=1e-5)
    np.testing.assert_allclose(same, thresholds, atol=1e-5)
    listed = tmp_path / "pairs.csv"
    lines = [f"p{p}/0.png,p{p}/1.png,1\np{p}/0.png,p{(p + 1) % 5}/1.png,0\n" for p in range(5)]
    listed.write_text("".join(lines))
    of_list, _, _ = evaluated(
        checkpoint=(model,), sets=(f"{photos}+{listed}",), detect=True, folds=2
    )
    assert len(of_list) == 10
    assert "p1/1.png: no face found; its middle is taken" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detect": True, "aligned": True}, "--detect and --aligned: .* give one of them"),
        ({"face": "largest"}, "--face largest: chooses among the faces that --detect finds"),
    ],
)
def test_options_that_contradict_each_other(options, said):
    with pytest.raises(InputError, match=said):
        PhotoOptions(**options).check()


def test_embeddings_of_another_rule_than_asked_for(model, photos, evaluated, tmp_path):
    embed.run(embed.Arguments(model, str(photos), tmp_path / "e.npz", flip="none"))
    with pytest.raises(InputError, match=r"e\.npz: was embedded with --flip none, not add; embed"):
        evaluated(embeddings=(tmp_path / "e.npz",), flip="add")
    with pytest.raises(InputError, match="--detect: is for photos, and here are embeddings alone"):
        evaluated(embeddings=(tmp_path / "e.npz",), detect=True)
    for rule in ("something", b"something", 3, np.eye(2), np.array([]), np.nan, "\x00", "[]"):
        with np.load(tmp_path / "e.npz") as arrays:
            np.savez(tmp_path / "f.npz", **{**arrays, "rule": rule})
        with pytest.raises(InputError, match=r"f\.npz: the rule of its embeddings cannot be read"):
            evaluated(embeddings=(tmp_path / "f.npz",))
