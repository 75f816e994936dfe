import dataclasses
import itertools
import json
import pathlib
import re
import types
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image

from arcface_jax.commands import evaluation_report, html_page
from arcface_jax.commands.command import run_command
from arcface_jax.commands.evaluation_inputs import load_set, read_embeddings
from arcface_jax.commands.models import load_trained
from arcface_jax.commands.training_angles import images_of_some_classes, training_angles
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import angle_statistics
from arcface_jax.evaluation.bootstrap import Interval, Resampling
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.groups import GroupRates
from arcface_jax.evaluation.score_norm import ScoreNorm, normalise_scores
from arcface_jax.evaluation.suite import SetResult
from arcface_jax.evaluation.verification import combine_flip
from arcface_jax.models import registry
from arcface_jax.runs.dataset import load_data
from arcface_jax.runs.loop import Quiet, train
from arcface_jax.runs.run_folder import RunFolder
from arcface_jax.runs.saved_runs import SavedRun
from arcface_jax.runs.setup import prepare
from arcface_jax.training.config import Config, DataConfig, ModelConfig, RunConfig
from arcface_jax.training.config_file import config_to_json
from experiments.evaluate import Arguments, run
from tests.bin_set import write_bin
from tests.figures.legible import LEAST_CONTRAST, contrast


def write_faces(path: pathlib.Path, noise: float = 0.8, **more: np.ndarray) -> pathlib.Path:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 4)
    centres = np.repeat(rng.normal(size=(20, 8)), 4, axis=0)
    arrays = {
        "embeddings": centres + noise * rng.normal(size=centres.shape),
        "mirrored": centres + noise * rng.normal(size=centres.shape),
        "labels": labels,
        "images": rng.integers(0, 256, (80, 12, 10, 3), dtype=np.uint8),
        "groups": np.where(labels < 10, "a", "b"),
    }
    np.savez(path, **arrays | more)
    return path


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"detect": True}, "--detect: finds faces in the photographs of --sets; give them"),
        (
            {"sets": ("a/lfw.zip+pairs.txt", "b/lfw.zip+pairs.txt"), "detect": True},
            "two sets are called 'lfw'; rename one, --sets NAME=SOURCE",
        ),
        ({"face": "largest"}, "--face largest: chooses among the faces that --detect finds; add"),
    ],
)
def test_options_of_a_search_for_faces_without_one_are_refused(
    tmp_path: pathlib.Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(Arguments(checkpoint=(tmp_path,), output=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_the_published_scripts_need_pairs_in_folds_and_plain_cosines(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.evaluate.draw_set", lambda *_: [])
    without = write_faces(tmp_path / "without.npz")
    asked: dict[str, Any] = {"output": tmp_path / "out", "published_scripts": True}
    asked |= {"deployment_fars": (0.1,), "replicates": 2, "folds": 2}
    said = "^--published-scripts: without has no list of pairs in folds"
    with pytest.raises(InputError, match=said):
        run(Arguments(embeddings=(without,), **asked))
    same = np.tile([True, False], 20)
    first = np.arange(0, 80, 2)
    pairs = {"first": first, "second": np.where(same, first + 1, (first + 4) % 80), "same": same}
    path = write_faces(tmp_path / "faces.npz", **pairs)
    with pytest.raises(InputError, match=r"^--published-scripts: .* leave --cohort out"):
        run(Arguments(embeddings=(path,), cohort=without, **asked))
    run(Arguments(embeddings=(path,), **asked))
    table = (tmp_path / "out" / "table.txt").read_text()
    assert "accuracy by the published scripts (%)" in table
    assert "VAL@FAR=0.001 by the published scripts (%)" in table


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("evaluation")
    files = (write_faces(folder / "good.npz"), write_faces(folder / "bad.npz", noise=2.5))
    run(
        Arguments(
            embeddings=files, output=folder / "out", deployment_fars=(0.01, 1e-4), replicates=40
        )
    )
    return folder / "out"


def test_every_table_and_picture_is_written(evaluated: pathlib.Path) -> None:
    assert {file.name for file in evaluated.iterdir()} == {
        "figures",
        "report.html",
        *(f"table.{extension}" for extension in ("txt", "md", "tex", "csv", "json")),
    }
    assert {file.stem for file in (evaluated / "figures" / "good").iterdir()} == {
        *(
            "roc",
            "det",
            "scores",
            "reliability",
            "cmc",
            "identification_det",
            "reject",
            "false_accepts",
            "false_rejects",
        )
    }
    figures = json.loads((evaluated / "table.json").read_text())
    assert figures["good"]["auc"]["estimate"] > figures["bad"]["auc"]["estimate"] + 0.1


def test_the_report_is_one_page_that_needs_nothing_else(evaluated: pathlib.Path) -> None:
    page = (evaluated / "report.html").read_text()
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 18
    assert "http" not in page
    assert "<script" not in page
    assert "significant" in page
    assert page.count("FAR 0.0001 is left out: of ") == 2  # once for each set
    assert "cannot tell whether the FAR is below 0.0001" not in page
    assert "Rates by group" in page


def test_the_report_tells_what_it_is_of_and_how_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["/x/experiments/evaluate.py", "--embeddings", "my faces.npz"])
    about = [("model", "runs/<r>"), ("scores by", "--flip add --detect")]
    page = evaluation_report.html_report("Evaluation of lfw", {}, {}, {}, 0.95, about)
    facts = dict(re.findall("<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", page))
    assert "<title>Evaluation of lfw</title>" in page
    assert facts["model"] == "runs/&lt;r&gt;"
    assert facts["scores by"] == "--flip add --detect"
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d", facts["date"])
    typed = "python -m experiments.evaluate --embeddings &#x27;my faces.npz&#x27;"
    assert facts["command"] == typed
    monkeypatch.setattr("sys.argv", ["/x/ipykernel_launcher.py", "-f", "kernel.json"])
    assert "kernel" not in evaluation_report.html_report("Evaluation", {}, {}, {}, 0.95, about)


@pytest.mark.parametrize("colours", [html_page.LIGHT, html_page.DARK], ids=["light", "dark"])
def test_a_report_can_be_read_on_a_light_and_on_a_dark_screen(colours: dict[str, str]) -> None:
    for text in ("text", "quiet"):
        assert contrast(colours[text], colours["page"]) >= LEAST_CONTRAST
    page = html_page.page("title", [])
    light, dark = page.split("@media (prefers-color-scheme: dark)")
    wanted = "".join(f"--{name}: {colour};" for name, colour in colours.items())
    part = light if colours is html_page.LIGHT else dark.split(".light")[0]
    assert wanted in part.replace("; --", ";--")
    assert '<meta name="color-scheme" content="light dark">' in page
    assert "background: #ffffff" in re.search("img {[^}]*}", page)[0]  # type: ignore[index]


def test_each_rate_of_a_group_has_its_interval_or_a_word_that_there_is_none() -> None:
    far = {"a": Interval(0.01, 0.002, 0.03), "b": Interval(0.0, 0.0, 0.0)}
    gaps = {"far": Interval(0.01, 0.002, 0.03), "frr": Interval(0.0, 0.0, 0.0)}
    groups = GroupRates(far, {"a": Interval(0.25, 0.1, 0.5)}, gaps)
    page = evaluation_report._group_table(types.SimpleNamespace(groups=groups))
    none = "0.00 (no interval: the same in every replicate)"
    for name, of_far, of_frr in (
        ("a", "1.00 [0.20, 3.00]", "25.00 [10.00, 50.00]"),
        ("b", none, "–"),
        ("gap", "1.00 [0.20, 3.00]", none),
    ):
        assert f"<td>{name}</td><td>{of_far}</td><td>{of_frr}</td>" in page


def test_scores_are_normalised_by_a_cohort(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[SetResult] = []
    monkeypatch.setattr(
        "experiments.evaluate.draw_set", lambda _, one, __: results.append(one) or []
    )
    path, cohort = write_faces(tmp_path / "faces.npz"), tmp_path / "cohort.npz"
    others = np.random.default_rng(7).normal(size=(30, 8))
    np.savez(cohort, embeddings=others, labels=np.arange(30))
    options = {"embeddings": (path,), "deployment_fars": (0.1,), "replicates": 2}
    options |= {"output": tmp_path / "out", "cohort": cohort, "cohort_top": 10, "score_norm": "t"}
    run(Arguments(**options))
    with np.load(path) as arrays:
        unit = combine_flip(arrays["embeddings"], arrays["mirrored"])
    first, second = np.triu_indices(80, k=1)
    cosines = np.einsum("pd,pd->p", unit[first], unit[second])
    expected = normalise_scores(cosines, unit, first, second, ScoreNorm(others, "t", 10))
    np.testing.assert_allclose(results[0].similarities, expected, atol=1e-4)
    figures = json.loads((tmp_path / "out" / "table.json").read_text())["faces"]
    told = "--flip add and a crop that is not told; T-norm by the 10 most alike of 30"
    assert figures["rule"] == told


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cohort": None, "cohort_top": 3}, "--score-norm, --cohort-top: say how --cohort"),
        ({"cohort": None, "score_norm": "t"}, "--score-norm, --cohort-top: say how --cohort"),
        ({"cohort_top": 1}, r"cohort\.npz: cohort: 1 of 30 embeddings; give from 2 to all"),
        ({"cohort_top": 31}, r"cohort\.npz: cohort: 31 of 30 embeddings; give from 2 to all"),
        ({"cohort": "absent.npz"}, r"absent\.npz: cannot be read"),
        ({"rule": EmbeddingRule("none").to_json()}, r"cohort\.npz: was embedded with --flip none"),
        ({"size": 9}, r"faces\.npz: cohort: embeddings of 9 numbers, but the set has 8"),
    ],
)
def test_a_cohort_that_does_not_fit_is_named(
    tmp_path: pathlib.Path, options: dict[str, object], said: str
) -> None:
    path, cohort = write_faces(tmp_path / "faces.npz"), tmp_path / "cohort.npz"
    rule = {"rule": options.pop("rule")} if "rule" in options else {}
    ones = np.ones((30, options.pop("size", 8)))
    np.savez(cohort, embeddings=ones, labels=np.arange(30), **rule)
    given = {"cohort": cohort} | options
    if isinstance(given["cohort"], str):
        given["cohort"] = tmp_path / given["cohort"]
    with pytest.raises(InputError, match=said):
        run(Arguments(embeddings=(path,), output=tmp_path / "out", replicates=2, **given))
    assert not (tmp_path / "out").exists()


def test_command_line_errors_are_one_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.npz"
    path.write_text("not an archive")
    with pytest.raises(SystemExit) as stop:
        run_command(lambda: run(Arguments(embeddings=(path,), output=tmp_path / "report")))
    assert stop.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: {path}: not an .npz file")
    assert not (tmp_path / "report").exists()
    assert len(errors.splitlines()) == 1


def test_a_pair_list_in_the_file_is_used(tmp_path: pathlib.Path) -> None:
    same = np.array([1, 0, 0, 1])
    pairs = {"first": np.arange(4), "second": np.array([1, 9, 8, 7]), "same": same}
    data = read_embeddings(write_faces(tmp_path / "faces.npz", **pairs), "add", 2).data
    assert data.pairs is not None
    assert (data.pairs.second.tolist(), data.pairs.same.tolist()) == (
        [1, 9, 8, 7],
        [True, False, False, True],
    )
    assert data.pairs.num_folds == 2
    assert data.quality is not None
    assert data.embeddings.shape == (80, 8)


def three_pairs(**changed: object) -> dict[str, np.ndarray]:
    """A pair list of the faces: images 0 and 1 are of one person, 4 and 8 of others."""
    pairs: dict[str, object] = {"first": [0, 0, 4], "second": [1, 4, 8], "same": [1, 0, 0]}
    return {name: np.array(values) for name, values in (pairs | changed).items()}


@pytest.mark.parametrize(
    ("changed", "warned"),
    [
        ({}, None),
        ({"first": [0.0, 0, 4], "labels": np.repeat(np.arange(20.0), 4)}, None),
        (
            {"same": [1, 1, 0]},
            r"contradict the identities .*\(1 called same of two .*: 1 of 3, the",
        ),
        (
            {"first": [0, 1, 0], "second": [1, 0, 8], "same": [1, 1, 0]},
            r"before \(1 with the .* 1 of",
        ),
        ({"second": [0, 4, 8]}, "of one image with itself: 1 of 3, .* pair 0; they count"),
    ],
)
def test_what_is_strange_in_a_file_is_said(
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    changed: dict[str, object],
    warned: str | None,
) -> None:
    path = write_faces(tmp_path / "faces.npz", **three_pairs(**changed))
    data = read_embeddings(path, "add", 1).data
    assert data.labels.dtype == np.int64
    assert len(caplog.messages) == (warned is not None)
    assert warned is None or re.search(rf"faces\.npz: pairs .*{warned}", caplog.messages[0])


def test_pairs_of_a_file_that_contradict_each_other(tmp_path: pathlib.Path) -> None:
    pairs = three_pairs(first=[0, 1, 4], second=[1, 0, 8])
    with pytest.raises(InputError, match=r"npz pair 1: calls a pair different .* pair 0; remove"):
        read_embeddings(write_faces(tmp_path / "faces.npz", **pairs), "add", 1)


def test_an_error_while_evaluating_names_the_file(tmp_path: pathlib.Path) -> None:
    path = write_faces(tmp_path / "faces.npz", labels=np.zeros(80, int))
    with pytest.raises(InputError, match=rf"^{path}: (?!faces)"):
        run(Arguments(embeddings=(path,), output=tmp_path / "out", replicates=2))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mirrored": np.zeros((3, 8))}, "3 mirrored for 80 embeddings"),
        ({"labels": np.zeros(79, int)}, "79 labels for 80 embeddings"),
        ({"first": np.array([0])}, "a pair list needs first, second and same"),
        (
            {"first": np.array([0]), "second": np.array([0, 1]), "same": np.array([1])},
            "a pair list needs",
        ),
        (
            {"first": np.array([0]), "second": np.array([1]), "same": np.array([7])},
            "same: pair 0 has 7; give whole numbers from 0 to 1",
        ),
        (
            {"first": np.arange(20), "second": np.arange(20), "same": np.arange(20) < 10},
            r"faces\.npz: fold 6 of 10 holds no same pair",
        ),
        (
            {"first": np.arange(20), "second": np.arange(20), "same": np.ones(20)},
            r"faces\.npz: fold 1 of 10 holds no different pair",
        ),
        ({"labels": np.array([{"a": 1}], dtype=object)}, "not an .npz file of plain arrays"),
        ({"embeddings": np.full((80, 8), np.nan)}, "faces.npz: embeddings: row 0 holds NaN"),
        ({"mirrored": np.full((80, 8), np.inf)}, "faces.npz: mirrored: row 0 holds NaN"),
        (
            {"embeddings": np.full((80, 8), 1e30, np.float32)},
            r"embeddings: row 0 holds 1e\+30, whose square is beyond float32; divide",
        ),
        ({"embeddings": np.zeros((80, 8))}, "embeddings: row 0 is zero and has no direction"),
        ({"embeddings": np.full((80, 8), "x")}, "embeddings: 'x' is no real number"),
        ({"embeddings": np.full((80, 8), 1j)}, "embeddings: '1j' is no real number"),
        (
            {"labels": np.r_[np.arange(79), -1]},
            "labels: image 79 has -1; give whole numbers from 0",
        ),
        ({"labels": np.arange(80) / 2}, r"labels: image 1 has 0\.5; give whole numbers from 0"),
        (
            {"labels": np.full(80, "ann")},
            "labels: 'ann' is no number; give whole numbers from 0, on",
        ),
        ({"labels": np.full(80, b"ann")}, "labels: 'ann' is no number"),
        ({"labels": np.zeros((80, 1), int)}, "labels is a table; give one number for each image"),
        (three_pairs(second=[1, 2, 99]), "second: pair 2 has 99; give whole numbers from 0 to 79"),
        (three_pairs(second=[1, 2, -1]), "second: pair 2 has -1; give whole numbers"),
        (three_pairs(first=[0, 0.5, 1]), r"first: pair 1 has 0\.5; give whole numbers"),
        (three_pairs(same=["yes", "no", "no"]), "same: 'yes' is no number; give whole numbers"),
        (three_pairs(labels=np.r_[np.arange(79), -1]), "labels: image 79 has -1"),
    ],
)
def test_bad_files_are_named(
    tmp_path: pathlib.Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    path = write_faces(tmp_path / "faces.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_embeddings(path, "add", 10)
    assert "faces.npz" in str(caught.value)


def test_missing_files_and_arrays_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.npz: cannot be read"):
        read_embeddings(tmp_path / "nowhere.npz", "add", 10)
    np.savez(tmp_path / "few.npz", features=np.zeros((2, 3)))
    for name, content in (("array.npz", None), ("empty.npz", b"")):
        with (tmp_path / name).open("wb") as file:
            np.save(file, np.eye(3)) if content is None else file.write(content)
        with pytest.raises(InputError, match=f"{name}: not an .npz file of plain arrays"):
            read_embeddings(tmp_path / name, "add", 10)
    with pytest.raises(InputError, match="has no array 'embeddings', only features"):
        read_embeddings(tmp_path / "few.npz", "add", 10)
    with pytest.raises(InputError, match="nothing to evaluate"):
        run(Arguments())
    with pytest.raises(InputError, match="--sets: give the run"):
        run(Arguments(sets=("lfw.bin",)))
    with pytest.raises(InputError, match="holds no checkpoints"):
        run(Arguments(checkpoint=(write_config(tmp_path),)))
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        run(Arguments(checkpoint=(tmp_path / "nowhere",)))


def test_two_files_of_one_name_are_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "x").mkdir()
    files = (write_faces(tmp_path / "faces.npz"), write_faces(tmp_path / "x" / "faces.npz"))
    with pytest.raises(InputError, match="two sets are called 'faces'"):
        run(Arguments(embeddings=files))


def write_config(folder: pathlib.Path) -> pathlib.Path:
    (folder / "config.json").write_text(config_to_json(Config()))
    return folder


class Tiny(nn.Module):
    """The least that maps images to embeddings."""

    embedding_size: int
    width: int
    dropout: float
    dtype: object
    axis_name: str | None

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        return nn.Dense(self.embedding_size)(images[:, ::4, ::4].reshape(len(images), -1))


if "tiny-to-evaluate" not in registry.names():
    registry.register("tiny-to-evaluate", Tiny)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The folder of a run of two steps."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    config = Config(
        data=DataConfig(image_size=16, identities=48, images_per_identity=6, pairs=60),
        model=ModelConfig(name="tiny-to-evaluate", width=4, embedding_size=16),
        run=RunConfig(steps=2, batch_size=8, evaluate_every=2, log_every=1, devices=2),
    )
    run_folder = RunFolder(folder, config)
    result = train(prepare(config), run_folder, Quiet())
    run_folder.finish({"verifications": result.verifications})
    return folder


@pytest.fixture(scope="module")
def trained_evaluated(
    trained: pathlib.Path, tmp_path_factory: pytest.TempPathFactory
) -> pathlib.Path:
    """The folder of its evaluation."""
    out = tmp_path_factory.mktemp("trained")
    run(Arguments(checkpoint=(trained,), output=out, deployment_fars=(0.1,), replicates=20))
    return out


def test_a_run_is_evaluated_on_the_people_it_held_out(
    trained: pathlib.Path, trained_evaluated: pathlib.Path
) -> None:
    figures = json.loads((trained_evaluated / "table.json").read_text())["held out"]
    in_training = json.loads((trained / "results.json").read_text())["verifications"]["2"]
    for name in ("accuracy", "accuracy_std", "eer", "auc", "val", "tar@far=0.01"):
        assert figures[name]["estimate"] == pytest.approx(in_training[name], abs=1e-6)


def test_a_run_is_evaluated_on_the_sets_that_verified_it_as_they_did(
    tmp_path: pathlib.Path,
) -> None:
    lfw = write_bin(tmp_path / "lfw.bin", image_size=16)
    config = Config(
        data=DataConfig(
            image_size=16,
            identities=8,
            images_per_identity=6,
            test_fraction=0.0,
            verify=(str(lfw),),
            flip_test=False,
        ),
        model=ModelConfig(name="tiny-to-evaluate", width=4, embedding_size=16),
        run=RunConfig(steps=1, batch_size=8, evaluate_every=1, log_every=1, devices=1),
    )
    run_folder = RunFolder(tmp_path / "run", config)
    result = train(prepare(config), run_folder, Quiet())
    run_folder.finish({"verifications": result.verifications})
    run(
        Arguments(
            checkpoint=(tmp_path / "run",),
            output=tmp_path / "out",
            deployment_fars=(0.1,),
            replicates=5,
        )
    )
    figures = json.loads((tmp_path / "out" / "table.json").read_text())
    assert figures.keys() == {"lfw", "training people"}
    assert figures["lfw"]["accuracy"]["estimate"] == pytest.approx(
        result.verifications[1]["accuracy"], abs=1e-6
    )
    assert not any(
        name.startswith(("rank", "angle")) for name in figures["lfw"]
    )  # who is who is not known


def test_the_class_weights_of_a_run_are_measured_on_its_training_people(
    trained: pathlib.Path, trained_evaluated: pathlib.Path
) -> None:
    figures = json.loads((trained_evaluated / "table.json").read_text())["training people"]
    assert "training people" in (trained_evaluated / "report.html").read_text()
    model = load_trained(SavedRun(trained))
    people = load_data(model.config.data, model.config.run.seed).train
    images = np.stack([people[index] for index in range(len(people))])
    embeddings = unit_embeddings(model.embed(images))
    expected = angle_statistics(embeddings, people.labels, model.class_weights)
    assert figures.keys() == {"angle w_ec", "angle w_inter"}
    for name in ("w_ec", "w_inter"):
        found = figures[f"angle {name}"]
        assert found["estimate"] == pytest.approx(expected[name], abs=1e-3)
        assert found["low"] < found["estimate"] < found["high"]


def test_w_ec_is_of_whole_classes(trained: pathlib.Path) -> None:
    labels = np.array([7, 3, 3, 7, 5, 3, 9])
    for most, seed in itertools.product(range(1, 8), range(5)):
        chosen = images_of_some_classes(labels, most, seed)
        classes = np.unique(labels[chosen])
        assert np.array_equal(chosen, np.flatnonzero(np.isin(labels, classes)))
        assert len(chosen) <= most or len(classes) == 2
    assert len(images_of_some_classes(labels, 7, 0)) == 7
    model = load_trained(SavedRun(trained))
    data = load_data(model.config.data, model.config.run.seed)
    whole, part = (
        training_angles(model, data, Resampling(5), most)["angle w_ec"] for most in (5000, 40)
    )
    assert whole.estimate != part.estimate
    fewer = dataclasses.replace(
        model, model=dataclasses.replace(model.model, class_weights=model.class_weights[1:])
    )
    with pytest.raises(
        InputError, match=rf"weights of {data.num_classes - 1} classes, but its data now have"
    ):
        training_angles(fewer, data, Resampling(5))


def test_a_run_is_evaluated_on_given_sets(
    trained: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their tables alone: sets with and without a pair list are drawn by the tests above."""
    monkeypatch.setattr("experiments.evaluate.draw_set", lambda *_: [])
    people = write_people(tmp_path / "people")
    listed = tmp_path / "pairs.csv"
    rows = []
    for fold in ((0, 1, 2), (3, 4, 5)):
        rows += [f"p{p}/{i}.png,p{p}/{i + 1}.png,1" for p in fold for i in range(3)]
        rows += [
            f"p{p}/{i}.png,p{q}/{i}.png,0"
            for p, q in itertools.combinations(fold, 2)
            for i in range(3)
        ]
    listed.write_text("\n".join(rows))
    arguments = Arguments(
        checkpoint=(trained,),
        sets=(f"all={people}", f"{people}+{listed}"),
        output=tmp_path / "out",
        folds=2,
        deployment_fars=(0.1,),
        replicates=20,
    )
    run(arguments)
    figures = json.loads((tmp_path / "out" / "table.json").read_text())
    assert figures.keys() == {"all", "people"}
    assert "accuracy" in figures["people"]
    assert "accuracy" not in figures["all"]


def test_sets_are_opened_by_what_they_are(tmp_path: pathlib.Path) -> None:
    people = write_people(tmp_path / "people")
    everyone = load_set(str(people), (16, 16), 10)
    assert (everyone.name, everyone.images.shape, everyone.pairs) == (
        "people",
        (24, 16, 16, 3),
        None,
    )
    lfw = tmp_path / "pairs.txt"
    for name in ("Ada", "Bo"):
        (tmp_path / "lfw" / name).mkdir(parents=True)
        for image in (1, 2):
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(
                tmp_path / "lfw" / name / f"{name}_000{image}.png"
            )
    lfw.write_text("1\nAda\t1\t2\nAda\t1\tBo\t2\n")
    listed = load_set(f"LFW={tmp_path / 'lfw'}+{lfw}", (16, 16), 10)
    pairs = listed.pairs
    assert pairs is not None
    assert (pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist()) == (
        [0, 0],
        [1, 2],
        [True, False],
    )
    assert listed.labels.tolist() == [0, 0, 1]  # without the one that no pair names
    for kind, letter in (("frontal", "F"), ("profile", "P")):
        for person in ("001", "002"):
            (tmp_path / "cfp" / person / kind).mkdir(parents=True)
            Image.fromarray(np.zeros((16, 16), np.uint8)).save(
                tmp_path / "cfp" / person / kind / "01.png"
            )
        (tmp_path / "protocol" / "Split" / f"F{letter}" / "01").mkdir(parents=True)
        listed = [f"{number} ../Data/Images/00{number}/{kind}/01.jpg" for number in (1, 2)]
        (tmp_path / "protocol" / f"Pair_list_{letter}.txt").write_text("\n".join(listed))
    split = tmp_path / "protocol" / "Split" / "FP"
    (split / "01" / "same.txt").write_text("1,1\n")
    (split / "01" / "diff.txt").write_text("1,2\n")
    profiles = load_set(f"CFP-FP={tmp_path / 'cfp'}+{split}", (16, 16), 10)
    assert profiles.pairs is not None
    assert (profiles.pairs.first.tolist(), profiles.pairs.second.tolist()) == ([0, 0], [1, 2])
    assert profiles.labels.tolist() == [0, 0, 1]  # a person's two folders are one identity
    for sign in ("=", "+", "=+="):
        people.rename(tmp_path / f"a{sign}b")
        people = tmp_path / f"a{sign}b"
        assert load_set(str(people), (16, 16), 10).name == people.name
        assert load_set(f"mine={people}", (16, 16), 10).name == "mine"
        listed = tmp_path / f"pairs{sign}.csv"
        listed.write_text("p0/0.png,p0/1.png,1\np0/0.png,p1/1.png,0")
        opened = load_set(f"mine={people}+{listed}", (16, 16), 1)
        assert (opened.name, len(opened.pairs)) == ("mine", 2)
    for absent in ("nowhere", "name=nowhere", "name=nowhere+pairs.txt"):
        with pytest.raises(InputError, match=r"^nowhere: no such file or folder"):
            load_set(absent, (16, 16), 10)


def write_people(folder: pathlib.Path) -> pathlib.Path:
    """Six people with four images each."""
    rng = np.random.default_rng(0)
    for person in range(6):
        (folder / f"p{person}").mkdir(parents=True)
        base = rng.integers(0, 255, (16, 16))
        for image in range(4):
            pixels = np.clip(base + rng.normal(0, 20, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"p{person}" / f"{image}.png")
    return folder
