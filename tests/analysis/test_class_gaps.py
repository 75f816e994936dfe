import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.analysis.class_gaps import class_gaps, even_circle_probability
from arcface_jax.errors import InputError
from arcface_jax.margins import arcface, softmax_on_sphere


def on_circle(degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1)


def test_gaps_on_a_circle_are_the_empty_arcs():
    # Classes at 350…10, 30…50, 100…140 and 190…200 degrees: the first crosses 0, lengths differ.
    degrees = np.array([350, 0, 10, 30, 40, 50, 100, 120, 140, 190, 195, 200])
    labels = np.repeat([7, 3, 5, 4], 3)
    found = class_gaps(on_circle(degrees) * np.arange(1, 13)[:, None], labels)
    assert found.classes.tolist() == [3, 4, 5, 7]
    expected = {(7, 3): 20, (3, 5): 50, (5, 4): 50, (4, 7): 150}
    for (one, other), gap in expected.items():
        i, j = np.searchsorted(found.classes, [one, other])
        assert found.between[i, j] == pytest.approx(gap)
        assert found.between[j, i] == pytest.approx(gap)
    np.testing.assert_allclose(found.nearest, [20, 50, 50, 20])
    np.testing.assert_allclose(found.spread, [20 / 3, 10 / 3, 40 / 3, 20 / 3])
    assert found.numbers() == pytest.approx({"smallest_gap": 20, "median_gap": 35, "spread": 7.5})


def test_overlap_is_negative_and_outliers_can_be_left_out():
    first, second = np.linspace(0, 40, 41), np.linspace(30, 70, 41)
    embeddings, labels = on_circle(np.concatenate([first, second])), np.repeat([0, 1], 41)
    assert class_gaps(embeddings, labels).nearest[0] == pytest.approx(-10)
    assert class_gaps(embeddings, labels, quantile=0.25).nearest[0] == pytest.approx(10)


def test_opposite_centres_have_a_gap_too():
    embeddings = on_circle(np.array([-10.0, 10.0, 170.0, 190.0]))
    assert class_gaps(embeddings, np.array([0, 0, 1, 1])).nearest.tolist() == pytest.approx(
        [160, 160]
    )


@settings(max_examples=30)
@given(st.integers(2, 5), st.integers(0, 2**31))
def test_a_rotation_and_lengths_change_nothing_and_a_positive_gap_separates(dim, seed):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), 8)
    embeddings = rng.normal(size=(3, dim))[labels] + 0.3 * rng.normal(size=(24, dim))
    found = class_gaps(embeddings, labels)
    rotation = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    turned = class_gaps((embeddings * rng.uniform(0.5, 2.0, (24, 1))) @ rotation, labels)
    np.testing.assert_allclose(turned.between, found.between, atol=1e-6)
    if found.between[0, 1] > 0:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        a, b = (
            unit[labels == c].mean(0) / np.linalg.norm(unit[labels == c].mean(0)) for c in (0, 1)
        )
        along = (b - (a @ b) * a) / np.linalg.norm(b - (a @ b) * a)
        phi = np.arctan2(unit @ along, unit @ a)
        half = np.arctan2(b @ along, b @ a) / 2
        phi = (phi - half + np.pi) % (2 * np.pi) - np.pi
        assert np.degrees(phi[labels == 1].min() - phi[labels == 0].max()) == pytest.approx(
            found.between[0, 1]
        )


def test_on_the_sphere_it_is_the_arc_between_caps():
    # Two caps of 10° around directions 50° apart: the wedge that touches a cap of radius r is r
    # wide at its centre.
    ring = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    r = np.radians(10)
    cap = np.stack(
        [np.full(360, np.cos(r)), np.sin(r) * np.cos(ring), np.sin(r) * np.sin(ring)], axis=1
    )
    turn = np.radians(50)
    rotation = np.array(
        [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    )
    found = class_gaps(np.concatenate([cap, cap @ rotation.T]), np.repeat([0, 1], 360))
    assert found.nearest[0] == pytest.approx(30, abs=0.01)
    np.testing.assert_allclose(found.spread, 10)


@pytest.mark.parametrize(
    ("classes", "margin", "scale"), [(8, 0.5, 16.0), (8, 0.0, 16.0), (5, 0.9, 3.0)]
)
def test_probability_on_an_even_circle_is_softmaxs(classes, margin, scale):
    angles = 2 * np.pi * np.arange(classes) / classes
    logits = scale * np.cos(angles)
    logits[0] = scale * math.cos(margin)
    expected = np.exp(logits)[0] / np.exp(logits).sum()
    psi = arcface(margin) if margin else softmax_on_sphere()
    assert even_circle_probability(classes, psi, scale) == pytest.approx(
        expected, rel=2e-3
    )  # the sine's guard


def test_a_margin_of_the_whole_angle_between_centres_is_infeasible():
    feasible, infeasible = arcface(0.9 * 2 * math.pi / 8), arcface(2 * math.pi / 8)
    assert even_circle_probability(8, feasible, 256.0) > 0.999
    assert even_circle_probability(8, infeasible, 16.0) == pytest.approx(1 / 3, abs=5e-3)
    assert (
        even_circle_probability(8, arcface(1.0), 64.0)
        < even_circle_probability(8, arcface(1.0), 16.0)
        < 1 / 3
    )


@pytest.mark.parametrize(
    ("embeddings", "labels", "quantile", "said"),
    [
        (np.ones((4, 1)), np.zeros(4), 0.0, "give .N, D. with D"),
        (np.ones((4, 2)), np.zeros(3), 0.0, "do not fit"),
        (np.ones((4, 2)), np.zeros(4), 0.0, "a gap needs two"),
        (np.ones((4, 2)), np.arange(4), 0.6, "quantile is 0.6"),
        (np.array([[1.0, 0.0], [0.0, 0.0]]), np.arange(2), 0.0, "embeddings: row 1 has length 0"),
        (
            np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 1.0]]),
            np.array([4, 4, 5]),
            0.0,
            "the mean of class 4 has length 0",
        ),
    ],
)
def test_bad_arrays_are_named(embeddings, labels, quantile, said):
    with pytest.raises(InputError, match=said):
        class_gaps(embeddings, labels, quantile=quantile)


def test_bad_circles_are_named():
    with pytest.raises(InputError, match="num_classes is 1"):
        even_circle_probability(1, arcface(0.5), 16.0)
    with pytest.raises(InputError, match="scale is 0"):
        even_circle_probability(8, arcface(0.5), 0.0)
