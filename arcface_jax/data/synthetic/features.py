"""Eyes, brows, nose, mouth, beard and marks of a synthetic face."""

from types import SimpleNamespace

import numpy as np

from arcface_jax.data.synthetic.canvas import Canvas, bump, smooth, unit, wave
from arcface_jax.data.synthetic.head import Scene


def eye_frame(scene: Scene, canvas: Canvas) -> SimpleNamespace:
    """Coordinates around the nearer eye: `u` outwards, `v` down, and `sign` −1 left, 1 right.

    Both eyes are then drawn at once, as mirror images.
    """
    points = scene.points
    right = (canvas.x > 0.5 * (points.eye_left_x + points.eye_right_x)).astype(np.float32)
    sign = 2.0 * right - 1.0
    centre_x = points.eye_left_x + right * (points.eye_right_x - points.eye_left_x)
    centre_y = points.eye_left_y + right * (points.eye_right_y - points.eye_left_y)
    width = points.eye_left_width + right * (points.eye_right_width - points.eye_left_width)
    return SimpleNamespace(u=sign * (canvas.x - centre_x) / width, v=canvas.y - centre_y, sign=sign)


def _white(colour: np.ndarray, value: float) -> np.ndarray:
    return np.broadcast_to(np.float32(value), colour.shape)


def draw_eyes(scene: Scene) -> None:
    """Whites, irises, pupils, highlights, lids and lashes."""
    person, picture = scene.person, scene.picture
    canvas = scene.canvas.rows(0.18, 0.78)
    frame = eye_frame(scene, canvas)
    along = frame.u / person.eye_width
    across = frame.v + person.eye_slant * frame.u
    # The lids are parabolas; `eye_almond` moves the upper one's highest point outwards.
    lens = np.maximum(1.0 - along * along, np.float32(0.0))
    opening = np.maximum(person.eye_open * (1.0 - picture.squint), 0.8)
    upper = -opening * lens * (1.0 + person.eye_almond * along)
    lower = 0.62 * opening * lens * (1.0 + 0.25 * along)
    inside = unit((1.08 - np.abs(along)) * 5.0)
    crease = upper - 2.0 - 0.8 * lens
    canvas.darken(person.lid_crease * 0.6 * canvas.band(across, crease - 0.7, crease + 0.7) * lens)
    canvas.darken(
        (0.10 + 0.22 * person.wrinkle) * canvas.band(across, lower + 2.2, lower + 4.0) * lens
    )
    white = canvas.band(across, upper, lower) * inside
    canvas.paint(white, _white(person.iris_colour, 0.95), shade=0.92)
    # The upper lid's shadow on the ball.
    canvas.darken(white * 0.35 * unit(1.0 - (across - upper) / 3.0))
    gaze_x, gaze_y = 9.0 * picture.gaze_x * frame.sign, 8.0 * picture.gaze_y
    du, dv = frame.u - gaze_x, frame.v - gaze_y + 0.5
    radius = np.sqrt(du * du + dv * dv)
    iris = person.iris_size
    canvas.paint(white * canvas.cover(radius - iris), person.iris_colour * 0.55)
    inner = white * canvas.cover(radius - 0.80 * iris)
    canvas.paint(inner, person.iris_colour * 1.25)
    canvas.paint(inner * 0.5 * unit(dv / iris), np.minimum(person.iris_colour * 1.9 + 0.08, 1.0))
    canvas.paint(white * canvas.cover(radius - 0.45 * iris), _white(person.iris_colour, 0.03))
    glint_u, glint_v = frame.u * frame.sign + 1.5 - 9.0 * picture.gaze_x, dv + 1.6
    glint = np.sqrt(glint_u * glint_u + glint_v * glint_v)
    canvas.paint(white * canvas.cover(glint - 1.15), _white(person.iris_colour, 1.0), shade=1.0)
    lash = canvas.band(across, upper - 1.3, upper + 0.35) * unit((1.16 - np.abs(along)) * 7.0)
    canvas.paint(0.88 * lash, person.brow_colour * 0.30 + 0.02)
    lower_lash = canvas.band(across, lower - 0.2, lower + 0.6) * inside
    canvas.paint(0.40 * lower_lash, person.skin_colour * 0.45)


def draw_brows(scene: Scene) -> None:
    """Eyebrows: arched stripes that taper outwards."""
    person, picture = scene.person, scene.picture
    canvas = scene.canvas.rows(0.06, 0.70)
    frame = eye_frame(scene, canvas)
    along = (frame.u + 0.5) / (person.eye_width * person.brow_length)
    square = along * along
    height = person.brow_height + picture.brow_raise + person.brow_arch * (1.0 - square)
    tilt = (person.brow_slant + picture.brow_frown) * frame.u
    centre = frame.v + height + person.eye_slant * frame.u * 0.5 + tilt
    taper = person.brow_thickness * smooth((1.25 - along) / 0.9) * smooth((along + 1.25) / 0.7)
    hairs = 0.95 + 0.10 * wave(frame.u / 2.9 + frame.v / 5.0)
    alpha = canvas.band(centre, -taper, 0.75 * taper) * unit((1.3 - np.abs(along)) * 4.0)
    canvas.paint(person.brow_density * alpha * hairs, person.brow_colour * 0.85)


def draw_nose(scene: Scene) -> None:
    """Nostrils, wings and the light on the tip; the ridge is part of the head's relief."""
    person, points = scene.person, scene.points
    canvas = scene.canvas.rows(0.36, 0.92)
    u = (canvas.x - points.nose_x + 0.12 * (points.nose_x - points.bridge_x)) / person.nose_width
    v = canvas.y - points.nose_y
    du = np.abs(u)
    hole = ((du - 0.42) / 0.27) ** 2 + ((v - 4.6 + 1.5 * du) / 1.6) ** 2
    canvas.paint(
        (0.35 + 0.6 * person.nostril) * canvas.cover((np.sqrt(hole) - 1.0) * 1.6),
        person.skin_colour * 0.33,
    )
    wing = np.sqrt(((du - 0.62) / 0.42) ** 2 + ((v - 2.0) / 4.4) ** 2)
    outer = bump(((wing - 1.0) / 0.26) ** 2) * unit((du - 0.62) * 4.0)
    canvas.darken(0.24 * outer * unit((v + 3.0) / 3.0))
    canvas.darken(0.30 * bump((u / 0.95) ** 2 + ((v - 6.6) / 2.3) ** 2))
    tip = ((u - 0.22 * scene.light.x) / 0.30) ** 2 + ((v + 2.4) / 2.4) ** 2
    canvas.paint(0.20 * bump(tip), _white(person.skin_colour, 1.0))


def draw_blush(scene: Scene) -> None:
    """Red on cheeks and nose, freckles, and the lines of age."""
    person, points = scene.person, scene.points
    canvas = scene.canvas.rows(0.15, 1.0)
    frame = eye_frame(scene, canvas)
    cheek = bump(((frame.u - 4.0) / 13.0) ** 2 + ((frame.v - 19.0) / 10.0) ** 2)
    rose = np.clip(person.skin_colour * np.array([1.02, 0.68, 0.68]), 0.0, 1.0)
    canvas.paint(person.blush * 0.55 * cheek, rose)
    warp = 0.35 * wave(canvas.x / 9.7 + canvas.y / 13.1 + person.mole_x)
    dots = wave(canvas.x / 4.9 + 0.31 * canvas.y + warp) * wave(
        canvas.y / 4.1 - 0.17 * canvas.x + 2.0 * warp
    )
    zone = bump(((frame.u + 4.0) / 21.0) ** 2 + ((frame.v - 16.0) / 10.0) ** 2)
    canvas.paint(
        person.freckle_amount * 0.75 * zone * unit(dots * 3.0 - 1.2), person.skin_colour * 0.62
    )
    side = np.abs(canvas.x - points.nose_x)
    fold_y = unit((canvas.y - points.nose_y - 1.0) / 17.0)
    fold = (side - person.nose_width - 3.5 - 6.0 * fold_y) / 1.5
    canvas.darken(
        (0.06 + 0.22 * person.wrinkle) * bump(fold * fold) * bump((2.0 * fold_y - 1.0) ** 2)
    )
    crow = wave(frame.v / 4.6 + 0.1 * frame.u) * bump(
        ((frame.u - 13.5) / 4.0) ** 2 + (frame.v / 7.0) ** 2
    )
    canvas.darken(0.35 * person.wrinkle * unit(crow))
    brow = scene.canvas.rows(0.0, 0.6)
    line = unit(wave((brow.y + 0.006 * brow.x * brow.x) / 6.5) * 2.0 - 1.0)
    canvas_zone = bump(
        ((brow.x - points.forehead_x) / 26.0) ** 2 + ((brow.y - person.hair_line - 11.0) / 9.0) ** 2
    )
    brow.darken(0.26 * person.wrinkle * line * canvas_zone)


def draw_mouth(scene: Scene) -> None:
    """Lips, the line between them, and teeth when it is open."""
    person, picture, points = scene.person, scene.picture, scene.points
    canvas = scene.canvas.rows(0.60, 1.0)
    right = (canvas.x > points.mouth_x).astype(np.float32)
    left_width = points.mouth_x - points.corner_left_x
    width = left_width + right * (points.corner_right_x - points.mouth_x - left_width)
    u = (canvas.x - points.mouth_x) / np.maximum(width, 4.0)
    v = canvas.y - points.mouth_y
    square = u * u
    lens = np.maximum(1.0 - square, np.float32(0.0))
    smile = picture.smile + person.mouth_corner
    opening = np.maximum(picture.mouth_opening, 0.0)
    centre = smile * (lens - 0.45)
    bow = 1.0 - 0.42 * person.lip_bow * bump(square * 18.0)
    full = lens * (1.0 + 0.35 * square)
    top = (
        centre
        - 0.25 * opening * lens
        - np.maximum(person.upper_lip - 0.12 * picture.smile, 0.9) * full * bow
    )
    upper_edge, lower_edge = centre - 0.25 * opening * lens, centre + 0.75 * opening * lens
    bottom = lower_edge + np.maximum(person.lower_lip - 0.15 * picture.smile, 1.2) * lens
    inside = unit((1.05 - np.abs(u)) * 8.0)
    canvas.darken(0.22 * canvas.band(v, bottom, bottom + 3.0) * bump(square * 1.6))
    canvas.paint(0.92 * canvas.band(v, top, upper_edge + 0.3) * inside, person.lip_colour * 0.88)
    canvas.paint(0.92 * canvas.band(v, lower_edge - 0.3, bottom) * inside, person.lip_colour)
    shine = bump((u / 0.42) ** 2 + ((v - 0.5 * (lower_edge + bottom) + 0.3) / 1.3) ** 2)
    canvas.paint(0.22 * shine, _white(person.lip_colour, 1.0))
    gape = canvas.band(v, upper_edge, lower_edge) * inside
    canvas.paint(gape, np.broadcast_to(np.array([0.25, 0.06, 0.07]), person.lip_colour.shape))
    teeth = canvas.band(v, upper_edge, upper_edge + 0.62 * (lower_edge - upper_edge)) * unit(
        (0.86 - np.abs(u)) * 6.0
    )
    canvas.paint(0.95 * teeth, _white(person.lip_colour, 0.95))
    line = canvas.band(
        v, centre - 0.25 * opening * lens - 0.5, centre - 0.25 * opening * lens + 0.45
    )
    corner = bump(((np.abs(u) - 1.0) / 0.12) ** 2 + ((v - centre) / 1.8) ** 2)
    canvas.paint(
        (0.75 * line * inside) + 0.35 * corner * (1.0 - line * inside), person.lip_colour * 0.38
    )


def draw_beard(scene: Scene, distance: np.ndarray) -> None:
    """Beard and moustache, thinner near the head's outline, `distance` away."""
    person, picture, points = scene.person, scene.picture, scene.points
    canvas = scene.canvas.rows(0.35, 1.0)
    start = scene.canvas.x.shape[1] - canvas.x.shape[1]
    distance = distance[:, start:]
    grown = unit(person.beard_amount * (1.0 + 2.0 * picture.beard_growth))
    u, v = canvas.x - points.mouth_x, canvas.y - points.mouth_y
    hairs = 0.90 + 0.10 * wave(canvas.x / 2.9 + 0.3 * wave(canvas.y / 7.0)) * wave(
        canvas.y / 8.0 + 0.15 * canvas.x
    )
    cheek_line = v - 5.0 + 0.031 * u * u + 0.8 * wave(canvas.x / 6.0)
    mouth = (u / (person.mouth_width + 1.0)) ** 2 + ((v - 0.5) / 7.0) ** 2
    sides = smooth((person.beard_width - np.abs(u)) / 6.0 + 0.5)
    region = (
        smooth(cheek_line / 6.0 + 0.4)
        * smooth((mouth - 0.85) * 2.2)
        * sides
        * unit(1.0 - 0.3 * distance)
    )
    canvas.paint(0.88 * grown * region * hairs, person.brow_colour * 0.92)
    grown = unit(person.moustache_amount * (1.0 + 2.0 * picture.beard_growth))
    lip = v + person.upper_lip + 3.4 - 0.016 * u * u
    stripe = smooth(1.3 - np.abs(lip) / 2.9) * smooth(
        3.0 - np.abs(u) * 2.6 / (person.mouth_width + 1.0)
    )
    canvas.paint(0.88 * grown * stripe * hairs, person.brow_colour * 0.92)


def draw_marks(scene: Scene) -> None:
    """Two moles and a scar, which move with their part of the face."""
    person, points, canvas = scene.person, scene.points, scene.canvas
    for name, radius in (("mole", 1.5), ("spot", 1.1)):
        x = getattr(person, f"{name}_x")
        depth = np.sqrt(np.maximum(1.0 - (x / 40.0) ** 2, 0.2)) * points.chin_x * 1.2
        square = (canvas.x - x - depth) ** 2 + (canvas.y - getattr(person, f"{name}_y")) ** 2
        alpha = canvas.cover(np.sqrt(square) - radius) * getattr(person, f"{name}_amount")
        canvas.paint(alpha, person.skin_colour * 0.36)
    along = canvas.y - person.scar_y
    across = canvas.x - person.scar_x - points.chin_x * 1.1 - 0.45 * along
    stripe = canvas.band(across, -0.6, 0.6) * unit((6.0 - np.abs(along)) * 0.5)
    canvas.paint(person.scar_amount * stripe, np.minimum(person.skin_colour * 1.12 + 0.05, 1.0))
