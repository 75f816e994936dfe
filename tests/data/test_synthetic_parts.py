"""The generator's parts: pose against plain NumPy, drawing primitives, and that every parameter
does something.
"""

import functools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.data.synthetic import parameters as parameters
from arcface_jax.data.synthetic.camera import MAX_BLUR, blur
from arcface_jax.data.synthetic.canvas import Canvas, wave
from arcface_jax.data.synthetic.pose import alignment, landmarks
from arcface_jax.data.synthetic.render import render_faces

LANDMARKS = ("eye_left", "eye_right", "nose", "corner_left", "corner_right")
SIZE = 40


def _people(count: int) -> SimpleNamespace:
    return parameters.draw_identities(0, np.arange(count))


def _neutral(count: int, size: int = SIZE) -> SimpleNamespace:
    numbers = np.arange(count)
    return parameters.image_nuisances(
        0, numbers, numbers, 0.0, np.full(count, 0.5), 3 * size * size
    )


def _draw(people: SimpleNamespace, picture: SimpleNamespace) -> np.ndarray:
    return render_faces(parameters.identity_parameters(people), picture, SIZE).astype(int)


@functools.cache
def _drawn_with(event: str | None, noise: bool = False) -> np.ndarray:
    """Forty people as they are, or with one thing that all of them have."""
    return _draw(_people(40), _with(event, noise))


def _with(event: str | None, noise: bool = False) -> SimpleNamespace:
    picture = _neutral(40)
    if event is not None:
        setattr(picture, event, np.ones(40, bool))
    if noise:
        grain = np.random.default_rng(0).standard_normal((40, 3 * SIZE * SIZE))
        picture.grain = grain.astype(np.float32)
    return picture


def _mean_person() -> SimpleNamespace:
    means = {name: np.array([mean]) for name, (mean, _) in parameters.IDENTITY_NORMAL.items()}
    return parameters.identity_parameters(
        SimpleNamespace(**means, **{name: np.array([0.4]) for name in parameters.IDENTITY_UNIFORM})
    )


def test_mean_frontal_face_lies_on_the_template():
    points, picture = landmarks(_mean_person(), _neutral(1)), _neutral(1)
    scale, shift = alignment(points, picture)
    found = np.array([(getattr(points, name)[0] - shift[0]) / scale[0] for name in LANDMARKS])
    np.testing.assert_allclose(np.stack([found.real, found.imag], axis=1), TEMPLATE, atol=0.2)
    assert abs(abs(scale[0]) - 1.0) < 0.01


def test_alignment_is_the_least_squares_similarity():
    picture = _neutral(9)
    picture.yaw, picture.pitch = np.linspace(-0.6, 0.6, 9), np.linspace(0.3, -0.3, 9)
    points = landmarks(parameters.identity_parameters(_people(9)), picture)
    scale, shift = alignment(points, picture)
    for k in range(9):
        found = np.array([getattr(points, name)[k] for name in LANDMARKS])
        # [x −y 1 0; y x 0 1] · (cos, sin, tx, ty) = template, solved without the generator's
        # formula.
        x, y, one, zero = found.real, found.imag, np.ones(5), np.zeros(5)
        matrix = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
        answer = np.linalg.lstsq(
            matrix, np.concatenate([TEMPLATE[:, 0], TEMPLATE[:, 1]]), rcond=None
        )[0]
        forward = answer[0] + 1j * answer[1]
        np.testing.assert_allclose(1.0 / scale[k], forward, rtol=1e-9)
        np.testing.assert_allclose(-shift[k] / scale[k], answer[2] + 1j * answer[3], rtol=1e-9)


def test_parallax_moves_the_nose_more_than_the_eyes_and_the_eyes_more_than_the_outline():
    picture = _neutral(1)
    straight = landmarks(_mean_person(), picture)
    picture.yaw = np.array([0.3])
    turned = landmarks(_mean_person(), picture)
    nose = (turned.nose - straight.nose).real[0]
    eyes = (turned.eye_left + turned.eye_right - straight.eye_left - straight.eye_right).real[0] / 2
    assert nose > 1.3 * eyes > 5.0
    assert turned.eye_right_width[0] < 1.0 < turned.eye_left_width[0]


def test_pupils_of_real_pictures_are_where_the_template_says():
    grey = SyntheticFaces(80, 1, image_size=112).neutral(np.arange(80)).mean(axis=(0, 3))
    for x, y in TEMPLATE[:2]:
        rows, columns = np.mgrid[round(y) - 7 : round(y) + 8, round(x) - 7 : round(x) + 8]
        darkness = np.maximum(np.percentile(grey[rows, columns], 30) - grey[rows, columns], 0.0)
        centre = (
            (darkness * columns).sum() / darkness.sum(),
            (darkness * rows).sum() / darkness.sum(),
        )
        np.testing.assert_allclose(centre, (x, y), atol=2.0)


@pytest.mark.parametrize("size", [32, 112, 224])
def test_other_sizes_show_the_same_picture(size):
    large = SyntheticFaces(3, 1, image_size=448).neutral(np.arange(3)).astype(float)
    small = SyntheticFaces(3, 1, image_size=size).neutral(np.arange(3)).astype(float)
    factor = 448 // size
    averaged = large.reshape(3, size, factor, size, factor, 3).mean(axis=(2, 4))
    assert np.abs(averaged - small).mean() < 6.0


@pytest.mark.parametrize(
    "name", list(parameters.IDENTITY_NORMAL) + list(parameters.IDENTITY_UNIFORM)
)
def test_every_identity_parameter_shows(name):
    # In some of 40 people: a beard's width shows in a beard. Glasses are the one trait that needs a
    # nuisance.
    people = _people(40)
    if name == "spectacles":
        numbers = np.arange(40)
        often = parameters.image_nuisances(0, numbers, numbers, 1.0, np.zeros(40), 0).glasses.mean()
        seldom = parameters.image_nuisances(0, numbers, numbers, 1.0, np.ones(40), 0).glasses.mean()
        assert often > 0.5 > 0.3 > seldom
        return
    value = getattr(people, name)
    deviation = parameters.IDENTITY_NORMAL[name][1] if name in parameters.IDENTITY_NORMAL else None
    setattr(people, name, value + deviation if deviation else (value + 0.5) % 1.0)
    assert np.abs(_draw(people, _neutral(40)) - _drawn_with(None)).max() >= 4


SHOWS_ONLY_WITH = {
    **dict.fromkeys(("glare", "frame_shape", "frame_tone"), "glasses"),
    **dict.fromkeys(("thing_r", "thing_g", "thing_b"), "glasses"),
    **dict.fromkeys(("cover_x", "cover_y", "cover_angle", "cover_size"), "patch"),
    **dict.fromkeys(("shadow_edge", "shadow_angle"), "shadow"),
}


@pytest.mark.parametrize(
    "name", [*parameters.IMAGE_NORMAL, *parameters.IMAGE_UNIFORM, *parameters.IMAGE_EVENT]
)
def test_every_nuisance_shows(name):
    how = SHOWS_ONLY_WITH.get(name), name == "noise"
    picture = _with(*how)
    if name in parameters.IMAGE_NORMAL:
        setattr(picture, name, getattr(picture, name) + 1.5 * parameters.IMAGE_NORMAL[name][1])
    elif name in parameters.IMAGE_EVENT:
        setattr(picture, name, np.ones(40, bool))
    elif name[-2:] in ("_r", "_g", "_b"):
        colour = f"{name[:-2]}_colour"
        setattr(picture, colour, getattr(picture, colour) + np.eye(3)["rgb".index(name[-1])] * 0.4)
    else:
        setattr(picture, name, np.full(40, 0.9))
    assert np.abs(_draw(_people(40), picture) - _drawn_with(*how)).max() >= 5


@settings(max_examples=50)
@given(low=st.floats(-3, 3), width=st.floats(0, 5), pixel=st.floats(0.2, 4))
def test_band_covers_what_a_stripe_covers(low, width, pixel):
    # Summed over a column of pixels, coverage times pixel size is the stripe's width, however thin.
    place = ((np.arange(200) - 100) * pixel).astype(np.float32).reshape(1, -1, 1)
    canvas = Canvas(
        x=place,
        y=place,
        pixel=np.full((1, 1, 1), pixel, np.float32),
        planes=np.zeros((4, 1, 200, 1)),
    )
    covered = canvas.band(place, np.float32(low), np.float32(low + width)).sum() * pixel
    np.testing.assert_allclose(covered, width, atol=1e-3)


@pytest.mark.parametrize("size", [32, 64, 112, 224])
def test_blur_has_the_variance_it_says_and_keeps_the_light(size):
    sigma = np.array([0.0, 0.5, 1.5, MAX_BLUR], np.float32).reshape(-1, 1, 1)
    point = np.zeros((3, 4, size, size), np.float32)
    point[:, :, size // 2, size // 2] = 1.0
    spread = blur(point, sigma).astype(np.float64)
    np.testing.assert_allclose(spread.sum(axis=(2, 3)), 1.0, rtol=1e-5)
    assert spread.min() >= 0.0
    square = (np.arange(size) - size // 2) ** 2
    for axis in (2, 3):
        variance = (spread.sum(axis=5 - axis) * square).sum(axis=-1)
        np.testing.assert_allclose(
            variance[0], (sigma.ravel() * size / 112) ** 2, rtol=1e-3, atol=1e-6
        )
    np.testing.assert_array_equal(spread[:, 0], point[:, 0])


def test_wave_is_nearly_a_sine():
    turns = np.linspace(-3, 3, 999, dtype=np.float32)
    np.testing.assert_allclose(wave(turns), np.sin(2 * np.pi * turns), atol=0.06)


def test_rendering_leaves_its_arguments_alone():
    people, picture = parameters.identity_parameters(_people(4)), _neutral(4)
    picture.tied, names = np.ones(4, bool), set(vars(picture))
    before = {name: value.copy() for name, value in vars(people).items()}
    render_faces(people, picture, SIZE)
    assert set(vars(picture)) == names
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(people, name), value)


def test_streams_are_independent():
    draws = parameters.draw_identities(0, np.arange(3000))
    table = np.stack([getattr(draws, name) for name in parameters.IDENTITY_UNIFORM], axis=1)
    correlation = np.corrcoef(table[:-1].T, table[1:].T)[: table.shape[1], table.shape[1] :]
    assert np.abs(correlation).max() < 0.1
    np.testing.assert_allclose(table.mean(axis=0), 0.5, atol=0.03)


def test_drawing_in_bands_of_rows_leaves_nothing_out(monkeypatch):
    source = SyntheticFaces(400, 2, image_size=32)
    in_bands = source.render(np.arange(800))
    monkeypatch.setattr(Canvas, "rows", lambda canvas, _top, _bottom: canvas)
    np.testing.assert_array_equal(source.render(np.arange(800)), in_bands)


def test_features_end_where_a_turned_face_ends():
    people, picture = _people(12), _neutral(12)
    picture.yaw = np.full(12, 0.65)
    picture.back_colour = picture.blob_colour = np.full((12, 3), 0.9)
    people.mole_x, people.mole = np.full(12, 60.0), np.ones(12)
    before = _draw(people, picture)
    people.mole = np.zeros(12)
    np.testing.assert_array_equal(_draw(people, picture), before)
    people.mole_x = np.full(12, -20.0)
    assert (_draw(people, picture) != before).any()
