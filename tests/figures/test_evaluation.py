import io

import numpy as np
import pytest
from matplotlib.colors import to_hex
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
from arcface_jax.figures.evaluation_set import decision
from arcface_jax.figures.style import GREEN_INK, RED_INK
from tests.figures.legible import LEAST_CONTRAST, contrast


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
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "Cllr 0.250 bits; bars: intervals over people" in said
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, 1), (0, 1))


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
    assert axes.get_xticks().tolist() == [1, 2, 3]
    of_twenty = cmc_figure({"model": np.linspace(0.5, 1.0, 20)}).axes[0]
    assert of_twenty.get_xticks().tolist() == [1, 5, 10, 15, 20]
    assert axes.lines[0].get_label() == "model: 50.00% at rank 1"


@pytest.mark.parametrize("rates", [[0.5, 0.75, 1.0], [1.0, 1.0, 1.0], [0.98, 0.99, 0.993], [0.9]])
def test_no_rate_is_above_a_hundred_percent(rates: list[float]) -> None:
    cmc = drawn(cmc_figure({"model": np.array(rates)})).axes[0]
    low, high = cmc.get_ylim()
    assert high == 1.0
    shown = [
        text.get_text()
        for at, text in zip(cmc.get_yticks(), cmc.get_yticklabels(), strict=True)
        if low <= at <= high
    ]
    assert max(float(text.rstrip("%")) for text in shown) <= 100
    assert not cmc.lines[0].get_clip_on()  # so that a line at 100 % is drawn whole


def test_rates_on_a_logarithmic_axis_are_written_as_options_are() -> None:
    axes = drawn(roc_figure({"model": roc_curve(*scored_pairs())})).axes[0]
    shown = [text.get_text() for text in axes.get_xticklabels()]
    assert axes.get_ylim()[1] == 1.0
    assert {"1e-4", "1e-3", "1e-2", "1e-1", "1"} <= set(shown)


def test_the_bars_of_each_kind_add_up_to_all_its_pairs() -> None:
    scores, same = scored_pairs()
    axes = drawn(score_histogram(scores, same, 0.25)).axes[0]
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(2.0)
    assert axes.get_ylabel() == "share of the pairs of a kind, per bar"
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


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def test_pairs_stand_side_by_side_with_their_scores() -> None:
    first, second = np.zeros((7, 12, 10, 3), np.uint8), np.full((7, 12, 10, 3), 255, np.uint8)
    figure = drawn(pair_sheet(first, second, np.arange(7) / 10, "hardest"))
    (axes,) = figure.axes
    pictures = [image.get_array() for image in axes.images]
    assert len(pictures) == 14
    for left, right in zip(axes.images[0::2], axes.images[1::2], strict=True):
        assert not left.get_array().any()
        assert (right.get_array() == 255).all()
        assert left.get_extent()[1] == pytest.approx(right.get_extent()[0])
        assert left.get_extent()[2:] == right.get_extent()[2:]
    assert texts(figure) == [f"{row / 10:.3f}" for row in range(7)]


def test_below_each_face_of_a_pair_stand_its_name_and_its_file() -> None:
    images = np.zeros((2, 12, 10, 3), np.uint8)
    files = [("Ann/1.jpg", "Bo/$2$.jpg"), ("x/Ann/2.jpg", f"Cy/{'y' * 40}.jpg")]
    names = [("Ann", "Bo"), ("Ann", "Cy")]
    figure = drawn(pair_sheet(images, images, [0.5, 0.25], "hardest", files, names=names))
    said = texts(figure)
    assert said[:3] == ["Ann\n1.jpg", "Bo\n$2$.jpg", "0.500"]
    assert said[3] == "Ann\nx/Ann/2.jpg"
    assert said[4].startswith("Cy\nyyyyyy")
    assert "…" in said[4]
    with pytest.raises(InputError, match="places: 1 for 2 pairs"):
        pair_sheet(images, images, [0.5, 0.25], "hardest", files[:1])
    with pytest.raises(InputError, match="names: 1 for 2 pairs"):
        pair_sheet(images, images, [0.5, 0.25], "hardest", names=names[:1])


def test_a_pair_is_marked_right_or_wrong_in_a_colour_and_in_words() -> None:
    images = np.zeros((4, 12, 10, 3), np.uint8)
    answers = [(True, True), (True, False), (False, True), (False, False)]
    marks = [decision(accepted, same) for accepted, same in answers]
    assert [mark.right for mark in marks] == [True, False, False, True]
    figure = drawn(pair_sheet(images, images, [0.5] * 4, "pairs", marks=marks))
    said = [text for text in figure.axes[0].texts if text.get_text() != "0.500"]
    assert [text.get_text() for text in said] == [
        "✓ accepted as one person",
        "✗ accepted as one person",
        "✗ rejected",
        "✓ rejected",
    ]
    frames = [to_hex(patch.get_edgecolor()) for patch in figure.axes[0].patches]
    assert frames == [to_hex(text.get_color()) for text in said]
    assert frames == [GREEN_INK.lower(), RED_INK.lower(), RED_INK.lower(), GREEN_INK.lower()]
    assert min(contrast(colour, "white") for colour in frames) >= LEAST_CONTRAST
    with pytest.raises(InputError, match="marks: 3 for 4 pairs"):
        pair_sheet(images, images, [0.5] * 4, "pairs", marks=marks[:3])


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
