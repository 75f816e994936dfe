import numpy as np
import pytest
from PIL import Image

from arcface_jax.errors import InputError
from arcface_jax.figures.ridges import angle_ridges, animate_angles, logit_ridges
from arcface_jax.margins import arcface, softmax_on_sphere


def angles(middle):
    random = np.random.default_rng(0)
    return {
        step: random.normal(at, 4, 300).clip(0, 180)
        for step, at in ((0, 90), (5, middle), (10, 30))
    }


ANGLES = {"arcface": angles(50.0), "normface": angles(60.0)}


def test_a_ridge_for_each_moment_of_each_loss():
    (axes,) = angle_ridges(ANGLES).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert [name.split("\n")[0] for name in names] == ["arcface", "normface"]
    assert names[0].split("\n")[1].split(" → ")[0] in ("89°", "90°", "91°")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "step 0",
        "step 5",
        "step 10",
    ]
    middle = axes.lines[1]  # of the first loss
    peak = middle.get_xdata()[np.argmax(middle.get_ydata())]
    assert peak == pytest.approx(50.0, abs=2.5)


def test_logits_are_of_each_losss_own_margin():
    (axes,) = logit_ridges(ANGLES, {"arcface": arcface(0.5), "normface": softmax_on_sphere()}).axes
    at_start = [label.get_text().split("\n")[1].split(" → ")[0] for label in axes.get_yticklabels()]
    assert float(at_start[0].replace("−", "-")) == pytest.approx(-0.48, abs=0.03)
    assert float(at_start[1]) == pytest.approx(0.0, abs=0.03)


def test_the_animation_has_a_frame_each_step_and_stays_at_the_last(tmp_path):
    file = animate_angles(ANGLES, tmp_path / "theta", frames_per_second=2)
    with Image.open(file) as gif:
        assert gif.format == "GIF"
        frames = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            frames.append(np.asarray(gif.convert("L"), float))
    assert len(frames) >= 3  # equal frames may be stored as one
    assert np.abs(frames[0] - frames[-1]).mean() > 1
    with pytest.raises(InputError, match="the same for all"):
        animate_angles({**ANGLES, "normface": {0: np.zeros(3)}}, tmp_path / "other")
    with pytest.raises(InputError, match="no loss"):
        angle_ridges({})
