import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.in_memory import MemorySource
from arcface_jax.errors import InputError
from arcface_jax.losses import LOSSES, NormFace, loss_name
from arcface_jax.runs.dataset import RunData
from arcface_jax.runs.loop import train
from arcface_jax.runs.run_folder import RunFolder, read_metrics
from arcface_jax.runs.setup import prepare
from arcface_jax.runs.verifier import ALL_PAIRS_FARS
from arcface_jax.training.config import Config
from experiments.study import __main__ as study
from experiments.study import run as study_run
from experiments.study.plan import PARTS, Plan, base_config, changed
from experiments.study.pool import completed, merge, run_all
from experiments.study.report import REPORTS, Findings
from experiments.study.run import (
    ANGLES_FILE,
    KEPT_FILE,
    Case,
    Quiet,
    accuracy_by_size,
    cleaned,
    finite,
    long_tailed,
    small_set,
    with_wrong_labels,
)
from tests.experiments.small_network import SMALL, SMALL_OPTIONS


def tiny(**changes) -> Config:
    return changed(changed(base_config(), SMALL), changes)


def tiny_plan(seeds=(0,)) -> Plan:
    return Plan(tiny(), seeds, seeds, None)


def test_the_plan_has_every_loss_and_shares_runs_between_parts():
    plan = Plan(base_config(), (0, 1, 2), (0, 1, 2, 3, 4), None)
    named = {loss_name(case.config.loss) for case in plan.cases("losses").values()}
    assert named == set(LOSSES)
    cases = merge([case for part in PARTS for case in plan.cases(part).values()])
    assert len({case.name for case in cases}) == len(cases)
    same = [
        "losses:synthetic/arcface",
        "margins:0.5",
        "scales:16",
        "sizes:64",
        "noise:0% K=1",
        "angles:arcface",
    ]
    shared = [plan.cases(part)[label] for part, label in (one.split(":") for one in same)]
    assert {case.name for case in shared} == {"synthetic/arcface"}
    assert all(case == shared[0] for case in shared)
    assert shared[0].seeds == (0, 1, 2, 3, 4)
    assert plan.cases("margins")["0"].config.loss == NormFace(scale=16.0)
    assert plan.cases("losses")["synthetic/triplet"].config.data.sampler == "balanced"


def test_characters_are_not_mirrored(tmp_path):
    path = tmp_path / "characters.zip"
    path.write_bytes(b"")
    case = Plan(base_config(), (0,), (0,), path).cases("losses")["omniglot/cosface"]
    assert (case.config.augmentation.flip, case.config.data.flip_test) == (0.0, False)
    with pytest.raises(InputError, match="no such file"):
        Plan(base_config(), (0,), (0,), tmp_path / "missing.zip").cases("losses")


def test_cases_of_one_name_must_be_alike():
    case = Case("a", Config(), seeds=(0, 1))
    (both,) = merge([case, dataclasses.replace(case, seeds=(1, 2), watched=0)])
    assert (both.seeds, both.watched) == ((0, 1, 2), 0)
    with pytest.raises(InputError, match="two cases are called 'a'"):
        merge([case, dataclasses.replace(case, noise=0.1)])


def test_a_shared_program_trains_as_an_ordinary_run(tmp_path):
    case = Case(
        "elasticface", tiny(**{"loss.name": "elasticface"}), seeds=(3, 4)
    )  # draws margins, images, flips
    assert all(one.error is None for one in run_all([case], tmp_path, 1, lambda _: None))
    config = case.seeded(tmp_path / "ordinary", 4)
    folder = RunFolder(tmp_path / "ordinary" / "run", config)
    ordinary = train(prepare(config), folder, Quiet())
    found = completed(case, tmp_path, 4)
    assert found["verifications"]["4"]["auc"] == pytest.approx(
        ordinary.verifications[4]["auc"], abs=1e-6
    )
    ours, theirs = read_metrics(tmp_path / "elasticface-4"), read_metrics(folder.path)
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (ours, theirs)]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(*losses, rtol=1e-4)
    with np.load(tmp_path / "elasticface-4" / ANGLES_FILE) as kept:
        np.testing.assert_allclose(kept["degrees"][-1], ordinary.angles[4], atol=0.01)


@pytest.mark.slow
def test_the_command_runs_reports_and_does_not_repeat(type_command, tmp_path):
    command = [
        "losses",
        "angles",
        "--only",
        "arcface",
        "normface",
        "--seeds",
        "0",
        "1",
        "--test-seeds",
        "0",
        "1",
    ]
    command += ["--folder", tmp_path / "s", "--processes", "1"]
    status, printed, _ = type_command(study.main, *command, "--", *SMALL_OPTIONS)
    assert status == 0
    assert "4 runs of 2 settings, 0 complete" in printed
    text = (tmp_path / "s" / "study.md").read_text()
    for expected in (
        "| arcface |",
        "| normface |",
        "| before training |",
        "arcface − normface, accuracy, %",
        "| W–EC |",
    ):
        assert expected in text
    numbers = json.loads((tmp_path / "s" / "losses.json").read_text())["synthetic"]
    accuracies = numbers["losses"]["arcface"]["accuracy"]
    results = json.loads((tmp_path / "s" / "synthetic" / "arcface-1" / "results.json").read_text())
    assert accuracies["by_seed"]["1"] == results["verifications"]["4"]["accuracy"]
    assert accuracies["mean"] == pytest.approx(np.mean(list(accuracies["by_seed"].values())))
    for name in ("losses.png", "theta_ridges.svg", "target_logit_ridges.png", "angle_table.png"):
        assert (tmp_path / "s" / name).stat().st_size > 5000
    with Image.open(tmp_path / "s" / "theta.gif") as gif:
        assert gif.n_frames >= 5  # the start and each of four steps
    status, printed, _ = type_command(study.main, *command, "--plan", "--", *SMALL_OPTIONS)
    assert "4 runs of 2 settings, 4 complete." in printed
    status, _, errors = type_command(
        study.main, *command, "--", *SMALL_OPTIONS, "--optimiser.learning-rate", "0.01"
    )
    assert status == 2
    assert "another configuration (optimiser.learning_rate is 0.01, was 0.1)" in errors
    status, _, errors = type_command(study.main, "margins", "--only", "softmax")
    assert (
        "--only softmax: no setting of margins is called so; choose among arcface, arcface_m0.1"
        in errors
    )


@pytest.mark.slow
def test_wrong_labels_are_found_cleaned_and_trained_without(tmp_path, monkeypatch):
    monkeypatch.setattr(study_run, "MAX_DEGREES", 100.0)  # four steps bring nothing within 75°
    plan = tiny_plan()
    cases = [plan.cases("noise")[label] for label in ("20% K=1", "20% K=3", "20% cleaned")]
    done = run_all(cases[::-1], tmp_path, 1, lambda _: None)
    assert [one.error for one in done] == [None] * 3
    assert [one.name for one in done][
        -1
    ] == "synthetic/arcface_cleaned20"  # after what it is cleaned by
    kept = np.load(tmp_path / "synthetic" / "arcface_k3_noise20-0" / KEPT_FILE)
    assert len(kept) == 24
    with_k = completed(cases[1], tmp_path, 0)["noise"]
    assert with_k["dropped"] == pytest.approx(1 - kept.mean())
    assert with_k["at"]["40"]["found"] >= with_k["at"]["60"]["found"] >= with_k["found"]
    runs = {
        label: {0: completed(case, tmp_path, 0)}
        for label, case in plan.cases("noise").items()
        if case in cases
    }
    report = REPORTS["noise"](Findings(plan.cases("noise"), runs, tmp_path))
    assert report.text.count("\n| 20%") == 3


def test_wrong_labels_change_the_fingerprint():
    images = np.zeros((20, 16, 16, 3), np.uint8)
    source = MemorySource(images, np.repeat(np.arange(4, dtype=np.int32), 5), list("abcd"), "print")
    data = RunData(source, (), "print")
    noisy, wrong = with_wrong_labels(data, 0.25, 0)
    assert wrong.sum() == 5
    np.testing.assert_array_equal(noisy.train.labels != source.labels, wrong)
    assert noisy.fingerprint != with_wrong_labels(data, 0.25, 1)[0].fingerprint != data.fingerprint


def test_a_long_tail_falls_from_the_largest_class_to_the_smallest_and_leaves_a_quarter_out():
    images = np.arange(80 * 4 * 4 * 3).reshape(80, 4, 4, 3).astype(np.uint8)
    labels = np.tile(np.arange(4, dtype=np.int32), 20)
    source = MemorySource(images, labels, list("abcd"), "print", kept=np.arange(80))
    data = RunData(source, (), "print")
    (thin, rest), (other, _) = (long_tailed(data, 15.0, seed) for seed in (0, 1))
    # 15 images of each class are left, times 15^0, 15^(−1/3), 15^(−2/3), 15^(−1).
    assert sorted(thin.class_counts) == [1, 2, 6, 15]
    assert thin.class_counts.tolist() == other.class_counts.tolist()
    assert np.bincount(rest.labels).tolist() == [5, 5, 5, 5]
    assert not set(thin.train.kept) & set(rest.kept)
    assert thin.fingerprint != other.fingerprint
    assert thin.num_classes == 4


def test_one_image_a_class_stays_in_training():
    images, labels = np.zeros((3, 4, 4, 3), np.uint8), np.arange(3, dtype=np.int32)
    source = MemorySource(images, labels, list("abc"), "print", kept=np.arange(3))
    data = RunData(source, (), "print")
    thin, rest = long_tailed(data, 15.0, 0)
    assert (len(thin.train), len(rest)) == (3, 0)


def test_accuracy_is_the_mean_over_classes_by_their_training_images():
    weights = np.eye(3, dtype=np.float32)
    embeddings = weights[[0, 0, 0, 0, 1, 2, 0]]  # the last is of class 2, and taken for 0
    found = accuracy_by_size(
        embeddings, weights, np.array([0, 0, 0, 0, 1, 2, 2]), np.array([5, 50, 1])
    )
    assert found == pytest.approx({"head": 1.0, "middle": 1.0, "tail": 0.5, "all": 2.5 / 3})
    with_centres = np.stack([-weights, weights], axis=1)
    assert found == accuracy_by_size(
        embeddings, with_centres, np.array([0, 0, 0, 0, 1, 2, 2]), np.array([5, 50, 1])
    )


def test_what_the_tail_gains_is_beside_plain_arcface(tmp_path):
    def results(tail, seed):
        parts = {"head": 0.9, "middle": 0.8, "tail": tail + seed / 100, "all": 0.7}
        return {"verifications": {"4": {"accuracy": 0.75}}, "tail": parts}

    runs = {
        f"omniglot/{name}": {seed: results(tail, seed) for seed in range(3)}
        for name, tail in (("arcface", 0.3), ("margins", 0.34), ("weights", 0.4), ("both", 0.41))
    }
    report = REPORTS["tail"](Findings({}, runs, tmp_path))
    assert "| arcface | 90.0 ± 0.0 | 80.0 ± 0.0 | 31.0 ± 1.0 | 70.0 ± 0.0 | 75.0 ± 0.0 |" in (
        report.text
    )
    assert "| margins − arcface, tail, % | +4.00 [" in report.text
    assert report.numbers["omniglot"]["tests"]["both"]["arcface tail"]["mean"] == pytest.approx(
        0.11
    )


@pytest.mark.slow
def test_runs_with_a_long_tail_are_measured_by_class_size(tmp_path):
    plan = tiny_plan()
    cases = [plan.cases("tail")[f"synthetic/{name}"] for name in ("arcface", "both")]
    assert [one.error for one in run_all(cases, tmp_path, 1, lambda _: None)] == [None] * 2
    found = completed(cases[1], tmp_path, 0)["tail"]
    assert set(found) == {"head", "middle", "tail", "all"}
    config = json.loads((tmp_path / "synthetic" / "tail_both-0" / "config.json").read_text())
    assert config["loss"]["margin_by_size"] == 0.25
    assert "class_counts" not in json.dumps(config)


def test_a_small_set_has_so_many_images_of_so_many_classes():
    counts = [1, 5, 2, 7, 3]
    labels = np.repeat(np.arange(5, dtype=np.int32), counts)
    images = np.broadcast_to(labels[:, None, None, None].astype(np.uint8), (18, 4, 4, 3))
    source = MemorySource(images, labels, list("abcde"), "print", kept=np.arange(18))
    data = RunData(source, (), "print")
    found = set()
    for seed in range(40):
        small = small_set(data, 2, 3, seed)
        assert small.class_counts.tolist() == [3, 3]
        names = tuple(small.train.identity_names)
        np.testing.assert_array_equal(
            small.train.images[:, 0, 0, 0],
            ["abcde".index(names[one]) for one in small.train.labels],
        )
        found.add(names)
    assert found == {("b", "d"), ("b", "e"), ("d", "e")}
    with pytest.raises(InputError, match="2 classes have 4 training images or more; 3 are wanted"):
        small_set(data, 3, 4, 0)


def test_small_sets_are_those_that_the_data_hold(tmp_path):
    for name, count in (*((f"c{one}", 25) for one in range(60)), ("z", 2), ("zz", 2)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for index in range(count):
            (tmp_path / "set" / name / f"{index}.png").touch()  # none is decoded
    plan = Plan(base_config(), (0, 1), (0,), None, tmp_path / "set")
    cases = plan.cases("small")
    assert [label for label in cases if label.startswith("faces")] == [
        "faces/10 × 2",
        "faces, scale auto/10 × 2",
        "faces/10 × 10",
        "faces, scale auto/10 × 10",
    ]
    assert sum(label.startswith("synthetic") for label in cases) == 24
    with pytest.raises(InputError, match=r"--faces .*nowhere: no such file or folder"):
        Plan(base_config(), (0,), (0,), None, tmp_path / "nowhere").cases("small")


def test_a_collapse_is_told(tmp_path):
    def results(accuracy, theta, away):
        verifications = {"0": {"accuracy": 0.6}, "4": {"accuracy": accuracy}}
        return {"verifications": verifications, "theta": {"0": 90.0, "4": theta}, "away": away}

    runs = {
        "synthetic/10 × 2": {0: results(0.8, 30.0, 0.0), 1: results(0.7, 40.0, 0.1)},
        "synthetic/10 × 50": {0: results(0.7, 100.0, 0.9), 1: results(0.5, 30.0, 0.0)},
    }
    report = REPORTS["small"](Findings({}, runs, tmp_path))
    assert "| 10 | 60 → 75.0 (35°) | – | 60 → 60.0 (65°, 2 of 2 collapsed) |" in report.text
    assert "2 of 4 runs collapsed" in report.text
    assert report.numbers["synthetic"]["10 × 50"]["0"]["collapsed"]


@pytest.mark.slow
def test_a_small_set_is_trained_on(tmp_path):
    case = dataclasses.replace(tiny_plan().cases("tail")["synthetic/arcface"], long_tail=1.0)
    [done] = run_all([dataclasses.replace(case, size=(3, 2))], tmp_path, 1, lambda _: None)
    assert done.error is None
    assert np.load(tmp_path / f"{case.name}-0" / ANGLES_FILE)["degrees"].shape[1] <= 6


def test_cleaning_keeps_what_is_near_the_dominant_centre():
    embeddings = np.array([[1, 0], [0.9, 0.1], [1, -0.1], [0, 1], [0, -1]], np.float32)
    weights = np.array([[[0, 1], [1, 0]], [[0, -1], [0, -0.5]]], np.float32)  # [C, K, D]
    labels = np.array([0, 0, 0, 0, 1])
    np.testing.assert_array_equal(
        cleaned(embeddings, weights, labels), [True, True, True, False, True]
    )
    np.testing.assert_array_equal(
        cleaned(embeddings, weights[:, 0], labels), [False, False, False, True, True]
    )


def test_json_has_null_for_what_is_not_finite():
    assert finite({1: [float("nan"), 2.0], "a": {"b": (float("inf"), "c", 3)}}) == {
        "1": [None, 2.0],
        "a": {"b": [None, "c", 3]},
    }


def test_a_data_set_without_runs_is_left_out_and_orders_are_compared(tmp_path):
    numbers = {"tar@far=0.001": 0.1, "auc": 0.9}

    def result(accuracy):
        return {
            0: {
                "verifications": {
                    "0": {"accuracy": 0.5, **numbers},
                    "4": {"accuracy": accuracy, **numbers},
                }
            }
        }

    runs = {
        "synthetic/arcface": result(0.8),
        "synthetic/softmax": result(0.9),
        "omniglot/arcface": {},
    }
    report = REPORTS["losses"](Findings({}, runs, tmp_path))
    assert list(report.numbers) == ["synthetic"]
    assert report.text.index("| softmax | 90.0 |") < report.text.index("| arcface | 80.0 |")
    assert (
        "0 of 1 pair in its order, Kendall's τ -1.00. The paper has the other "
        "order of: softmax above" in report.text
    )


def test_optimisation_is_drawn_by_rule_and_by_cure(tmp_path):
    plan = tiny_plan()
    cases = plan.cases("optimisation")
    for label in ("s = 64, past π none, exact", "m = 1, margin warm-up"):
        path = cases[label].folder(tmp_path, 0)
        path.mkdir(parents=True)
        (path / "metrics.jsonl").write_text(
            '{"step": 1, "theta": 90.0}\n{"step": 4, "theta": 150.0}\n'
        )
    results = {"theta": {"0": 90.0, "4": 150.0}, "away": 0.99, "bad_steps": 0}
    results["verifications"] = {"4": {"accuracy": 0.6}}
    runs = {
        label: {0: results} if cases[label].folder(tmp_path, 0).exists() else {} for label in cases
    }
    report = REPORTS["optimisation"](Findings(cases, runs, tmp_path))
    assert "| s = 64, past π none, exact | 150.0 | 99.0 | 60.0 | 0 |" in report.text
    rules, cures = report.figures["optimisation"].axes
    assert (rules.get_title(), cures.get_title()) == ("s = 64, exact gradient", "m = 1")
    np.testing.assert_allclose(cures.lines[0].get_ydata(), [90.0, 150.0])


def test_gradients_are_compared_by_data_set(tmp_path):
    def result(accuracy, dimensions):
        numbers = {"accuracy": accuracy} | {
            f"all_pairs_tar@far={far:g}": accuracy / 2 for far in ALL_PAIRS_FARS
        }
        results = {"verifications": {"4": numbers}, "dimensions": dimensions, "common": 0.25}
        results["angles"] = {"held_out": {"intra": 30.0, "inter": 20.0}}
        return results | {"fitted": 0.5}

    cases = tiny_plan((0, 1)).cases("gradients")
    assert len({case.name for case in cases.values()}) == len(cases) == 11
    runs = {label: {} for label in cases} | {
        "synthetic/ArcFace, exact": {0: result(0.8, 4.0), 1: result(0.82, 5.0)},
        "synthetic/straight-through": {0: result(0.7, 11.0), 1: result(0.72, 12.0)},
    }
    report = REPORTS["gradients"](Findings(cases, runs, tmp_path))
    assert (
        f"| straight-through | 71.0 ± 1.4 | {'35.5 ± 0.7 | ' * len(ALL_PAIRS_FARS)}11.5 ± 0.7 | "
        "0.25 ± 0.00 | 50.0 ± 0.0 | 30.0 ± 0.0 | 20.0 ± 0.0 |" in report.text
    )
    assert "ArcFace, exact − straight-through, accuracy, % | +10.00" in report.text
    assert report.numbers["synthetic"]["dimensions"]["ArcFace, exact"] == {0: 4.0, 1: 5.0}
    assert list(report.figures) == ["gradients_synthetic"]
