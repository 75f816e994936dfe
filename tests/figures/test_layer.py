"""The layer's diagram shows what the library computes."""

import numpy as np

from arcface_jax.analysis.layer import layer_steps
from arcface_jax.figures.layer import CLASS_WEIGHTS, EMBEDDINGS, LABELS, layer
from tests.figures.legible import check_legible


def shown(**arguments):
    figure = layer(**arguments)
    check_legible(figure)
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_the_diagram_has_the_shapes_and_the_numbers():
    texts = shown()
    for box in ("[N, D] = [1, 3]", "[C, D] = [3, 3]", "[N, C] = [1, 3]", "cos(θ + m)"):
        assert sum(box in text for text in texts) == 1
    # cos θ = 8/9 to the true class: 27.3°, and 27.3° + 28.6° = 55.9°.
    assert "0.889" in texts
    assert f"cos 55.9° = {np.cos(np.arccos(8 / 9) + 0.5):.3f}" in texts
    assert f"{16 * 8 / 9:.2f}" in texts
    assert {"loss 0.028", "loss 1.868"} <= set(texts)


def test_it_follows_its_arguments():
    steps = layer_steps(EMBEDDINGS, CLASS_WEIGHTS, LABELS, margin=0.2, scale=8.0)
    texts = shown(margin=0.2, scale=8.0)
    assert f"loss {steps.loss[0]:.3f}" in texts
    assert any("m = 0.2 rad = 11.5°,  s = 8" in text for text in texts)
