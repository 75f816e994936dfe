import io

import numpy as np
import pytest
from matplotlib.figure import Figure

from arcface_jax.errors import InputError
from arcface_jax.evaluation.bootstrap import Interval
from arcface_jax.evaluation.calibration import Reliability
from arcface_jax.evaluation.quality import error_versus_reject
from arcface_jax.evaluation.roc import Roc, roc_curve
from arcface_jax.figures.evaluation import (
    cmc_figure,
    det_figure,
    pair_sheet,
    reject_figure,
    reliability_figure,
    roc_figure,
    score_histogram,
)


def scored_pairs(count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    same = np.arange(count) < count // 4
    return np.where(same, 0.5, 0.0) + 0.2 * rng.normal(size=count), same


def drawn(figure: Figure) -> Figure:
    figure.savefig(io.BytesIO(), format="png")  # raises what only drawing finds
    return figure


def test_roc_has_a_logarithmic_axis_down_to_one_pair() -> None:
    roc = roc_curve(*scored_pairs())
    axes = drawn(roc_figure({"model": roc})).axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_xlim() == (1e-4, 1.0)
    line = axes.lines[0]
    assert line.get_label() == "model"
    assert (line.get_xdata()[0], line.get_ydata()[0]) == (1 / 3000, roc.tar[np.argmax(roc.far > 0)])
    assert (line.get_xdata()[-1], line.get_ydata()[-1]) == (1.0, 1.0)


def test_a_long_curve_is_thinned_but_keeps_its_shape() -> None:
    roc = roc_curve(*scored_pairs(200_000))
    line = drawn(roc_figure({"model": roc})).axes[0].lines[0]
    assert len(line.get_xdata()) <= 2000
    for far in (1e-4, 1e-3, 1e-2, 1e-1):
        exact = np.interp(far, roc.far, roc.tar)
        assert np.interp(far, line.get_xdata(), line.get_ydata()) == pytest.approx(exact, abs=2e-3)


def test_reliability_is_drawn_with_its_intervals() -> None:
    share = (Interval(0.1, 0.0, 0.2), Interval(0.9, 0.7, 0.9))
    figures = {"cllr": Interval(0.25, 0.2, 0.3)}
    found = Reliability(figures, np.array([0.05, 0.95]), share, np.array([10, 20]))
    axes = drawn(reliability_figure(found)).axes[0]
    assert [line.get_label() for line in axes.lines[:1]] == ["reliable"]
    assert axes.lines[1].get_xydata().tolist() == [[0.05, 0.1], [0.95, 0.9]]
    assert "Cllr 0.250 bits" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_det_draws_misses_and_the_diagonal() -> None:
    roc = roc_curve(*scored_pairs())
    axes = drawn(det_figure({"model": roc})).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    curve = axes.lines[0]
    crossing = curve.get_xdata()[np.argmin(np.abs(curve.get_xdata() - curve.get_ydata()))]
    assert crossing == pytest.approx(0.106, abs=0.02)  # Φ(−.5/2/.2)
    assert axes.lines[1].get_label() == "equal error"
    perfect = det_figure(
        {"perfect": roc_curve(np.array([1.0, 0.0]), np.array([True, False]))}, identification=True
    )
    assert drawn(perfect).axes[0].get_ylabel() == "false negative identification rate"


def test_cmc_starts_at_rank_one() -> None:
    axes = drawn(cmc_figure({"model": np.array([0.5, 0.75, 1.0])})).axes[0]
    assert axes.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert axes.lines[0].get_label() == "model: 50.00% first"


def test_histogram_has_area_one_for_each_kind() -> None:
    scores, same = scored_pairs()
    axes = drawn(score_histogram(scores, same, 0.25)).axes[0]
    bars = [(bar.get_height() * bar.get_width()) for bar in axes.patches]
    assert sum(bars) == pytest.approx(2.0)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "different people: 3,000 pairs",
        "same person: 1,000 pairs",
        "threshold 0.250",
    ]
    drawn(score_histogram(np.full(4, 0.3), np.array([True, False, True, False])))


def test_reject_curve_is_drawn_as_computed() -> None:
    rng = np.random.default_rng(0)
    first, second = np.triu_indices(60, 1)
    same = first // 5 == second // 5
    curve = error_versus_reject(
        same + 0.5 * rng.normal(size=len(same)), same, first, second, rng.random(60)
    )
    line = drawn(reject_figure({"norm": curve})).axes[0].lines[0]
    assert np.array_equal(line.get_ydata(), curve.frr)


def test_pairs_stand_side_by_side_with_their_scores() -> None:
    first, second = np.zeros((7, 12, 10, 3), np.uint8), np.full((7, 12, 10, 3), 255, np.uint8)
    figure = drawn(pair_sheet(first, second, np.arange(7) / 10, "hardest"))
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == 7
    picture = shown[3].images[0].get_array()
    assert picture.shape == (12, 20, 3)
    assert (picture[:, :10] == 0).all()
    assert (picture[:, 10:] == 255).all()
    assert shown[3].texts[0].get_text() == "0.300"


def test_below_a_pair_stand_its_files() -> None:
    images = np.zeros((2, 12, 10, 3), np.uint8)
    files = [("Ann/1.jpg", "Bo/$2$.jpg"), ("Ann/2.jpg", f"Cy/{'x' * 40}.jpg")]
    figure = drawn(pair_sheet(images, images, [0.5, 0.25], "hardest", files))
    said = [axes.texts[0].get_text() for axes in figure.axes]
    assert said[0] == "0.500\nAnn/1.jpg\nBo/$2$.jpg"
    assert said[1].startswith("0.250\nAnn/2.jpg\nCy/xxxxxxxxx…")
    with pytest.raises(InputError, match="places: 1 for 2 pairs"):
        pair_sheet(images, images, [0.5, 0.25], "hardest", files[:1])


def test_bad_arrays_are_named() -> None:
    no_rocs: dict[str, Roc] = {}
    with pytest.raises(InputError, match="rocs: no curve"):
        roc_figure(no_rocs)
    with pytest.raises(InputError, match="scores, same"):
        score_histogram(np.zeros(3), np.zeros(2, bool))
    with pytest.raises(InputError, match="give uint8"):
        pair_sheet(np.zeros((1, 2, 2, 3)), np.zeros((1, 2, 2, 3)), [0.1], "")
    with pytest.raises(InputError, match="scores: 1 for 2"):
        pair_sheet(np.zeros((2, 2, 2, 3), np.uint8), np.zeros((2, 2, 2, 3), np.uint8), [0.1], "")
