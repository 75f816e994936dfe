import json
import sys

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.identification import cumulative_match
from arcface_jax.evaluation.published import published_ten_fold_accuracy
from arcface_jax.evaluation.roc import area_under_curve, roc_curve
from arcface_jax.evaluation.search import search_gallery
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark.evaluation import (
    EvaluationBenchmark,
    loop_over_thresholds,
    numpy_cumulative_match,
    random_units,
    run_evaluation_benchmark,
    scikit_learn_roc,
)

SIZES = (
    "--pairs 100 --roc-pairs 100 300 --templates 50 --template-pairs 300 --same-pairs 30 "
    "--gallery 200 --probes 20 --dimension 8 --rounds 3"
)


@pytest.mark.slow
def test_every_measurement_is_printed(tmp_path, type_command) -> None:
    pytest.importorskip("sklearn")
    status, printed, _ = type_command(
        benchmark.main, "evaluation", *SIZES.split(), "--output", tmp_path
    )
    assert status == 0
    for what in (
        "loop over 400 thresholds",
        "exact thresholds",
        "300 pairs of 50 templates",
        "GB at most",
    ):
        assert what in printed
    saved = json.loads((tmp_path / "records.json").read_text())
    assert set(saved["ratios"]) == {
        "ten folds of 100 pairs, published grid, beside a loop",
        "ten folds of 100 pairs, exact thresholds, beside a loop",
        "ROC and AUC of 100 pairs, beside scikit-learn",
        "ROC and AUC of 300 pairs, beside scikit-learn",
        "1:N, 20 probes in 200 entries, 8-d, beside NumPy",
    }
    assert {"scikit-learn", "jax"} <= set(saved["machine"])
    assert all(record["seconds"][0] > 0 for record in saved["records"])
    assert (tmp_path / "ratios.svg").exists()

    # A former run that was a million times as fast beside the loop is not to be reached.
    for number in ("median", "low", "high"):
        saved["ratios"]["ten folds of 100 pairs, published grid, beside a loop"][number] *= 1e6
    former = tmp_path / "former.json"
    former.write_text(json.dumps(saved))
    options = (*SIZES.split(), "--output", tmp_path, "--compare", former)
    status, printed, _ = type_command(benchmark.main, "evaluation", *options)
    assert status == 1
    assert "worse" in printed
    status, _, error = type_command(
        benchmark.main, "evaluation", "--compare", tmp_path / "ratios.svg"
    )
    assert status == 2
    assert error.startswith(f"error: {tmp_path / 'ratios.svg'}: not what a benchmark writes")


def test_without_scikit_learn_the_rest_is_measured(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    config = EvaluationBenchmark(20, (100,), 5, 20, 5, 30, 5, 4, rounds=1, output=tmp_path)
    assert run_evaluation_benchmark(config) == 0
    assert "scikit-learn is not installed: no ROC beside its" in capsys.readouterr().out


def test_the_loop_it_compares_with_gives_the_same_accuracy() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(np.arange(20) < 10, 10)
    distances = np.where(same, 0.8, 1.8) + 0.4 * rng.standard_normal(200)
    assert loop_over_thresholds(distances, same) == pytest.approx(
        published_ten_fold_accuracy(distances, same).mean
    )


def test_scikit_learn_gives_the_same_area() -> None:
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    same = np.arange(200) % 2 == 0
    scores = np.round(np.where(same, 0.5, 0.2) + 0.3 * rng.standard_normal(200), 1)  # with ties
    assert scikit_learn_roc(scores, same) == pytest.approx(
        area_under_curve(roc_curve(scores, same))
    )


def test_numpy_finds_the_same_ranks() -> None:
    rng = np.random.default_rng(0)
    gallery, labels = random_units(rng, 300, 4), rng.permutation(300)
    enrolled = rng.choice(300, 200, replace=False)
    probes = gallery[enrolled] + 0.3 * rng.standard_normal((200, 4), dtype=np.float32)
    probes /= np.linalg.norm(probes, axis=1, keepdims=True)
    expected = cumulative_match(search_gallery(gallery, labels, probes, labels[enrolled]), 20)
    found = numpy_cumulative_match(gallery, labels, probes, labels[enrolled])
    np.testing.assert_allclose(found, expected)
    assert 0 < expected[0] < expected[-1] < 1


def test_random_rows_are_units() -> None:
    rows = random_units(np.random.default_rng(0), 10_003, 4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)


def test_more_probes_than_entries_are_refused() -> None:
    with pytest.raises(InputError, match="probes is 6"):
        run_evaluation_benchmark(EvaluationBenchmark(gallery=5, probes=6))
