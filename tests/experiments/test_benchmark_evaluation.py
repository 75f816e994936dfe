import numpy as np
import pytest

from arcface_jax.evaluation.published import published_ten_fold_accuracy
from experiments.benchmark_evaluation import Arguments, loop_over_thresholds, random_units, run


def test_every_measurement_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run(Arguments(pairs=100, templates=50, template_pairs=300, same_pairs=30, gallery=200, probes=20, dimension=8))
    printed = capsys.readouterr().out
    for what in ("loop over 400 thresholds", "sorted once", "300 pairs of 50 templates", "20 probes in 200 entries"):
        assert what in printed


def test_the_loop_it_compares_with_gives_the_same_accuracy() -> None:
    rng = np.random.default_rng(0)
    same = np.tile(np.arange(20) < 10, 10)
    distances = np.where(same, 0.8, 1.8) + 0.4 * rng.standard_normal(200)
    assert loop_over_thresholds(distances, same) == pytest.approx(published_ten_fold_accuracy(distances, same).mean)


def test_random_rows_are_units() -> None:
    rows = random_units(np.random.default_rng(0), 10_003, 4)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0, atol=1e-5)
