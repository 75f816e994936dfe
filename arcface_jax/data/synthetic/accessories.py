"""Occlusions of a synthetic face: glasses, a hat, a scarf, a hand, an object in front."""

import numpy as np

from arcface_jax.data.synthetic.canvas import bump, smooth, unit, wave
from arcface_jax.data.synthetic.features import eye_frame
from arcface_jax.data.synthetic.head import Scene


def draw_glasses(scene: Scene) -> None:
    """Frames from round to square, a bridge, side arms, and a reflection on the lenses."""
    person, picture, points = scene.person, scene.picture, scene.points
    canvas = scene.canvas.rows(0.16, 0.80)
    frame = eye_frame(scene, canvas)
    u, v = frame.u - 0.5, frame.v - 2.0
    width = person.eye_distance * 0.73
    height = width * (0.92 - 0.22 * picture.frame_shape)
    uu, vv = (u / width) ** 2, (v / height) ** 2
    square = uu + vv - 0.85 * picture.frame_shape * np.minimum(uu, 1.0) * np.minimum(vv, 1.0)
    ring = (np.sqrt(square) - 1.0) * height
    thickness = 0.75 + 0.9 * picture.frame_tone
    lens = canvas.cover(ring) * picture.glasses
    streak = bump(((u * frame.sign + v * 0.8 - 4.0 * picture.glare) / 4.0) ** 2)
    canvas.paint(lens * 0.10, np.full_like(picture.thing_colour, 0.75))
    canvas.paint(
        lens * 0.38 * streak * unit(np.abs(picture.glare)), np.ones_like(picture.thing_colour)
    )
    rim = canvas.band(ring, -thickness, thickness)
    bar = canvas.band(v + 3.0, -0.8 * thickness, 0.8 * thickness)
    bridge = bar * unit(-(u + width) * 2.0) * (np.abs(canvas.x - points.bridge_x) < 14.0)
    arm = bar * unit((u - width) * 2.0) * canvas.cover(np.abs(canvas.x) - person.face_width - 3.0)
    wire = np.maximum(rim, np.maximum(bridge, arm)) * picture.glasses
    canvas.paint(
        wire, picture.thing_colour * (0.25 + 0.75 * picture.frame_tone.reshape(-1, 1)), shade=0.95
    )


def draw_hat(scene: Scene) -> None:
    """A knitted cap with a cuff."""
    person, picture, points, canvas = scene.person, scene.picture, scene.points, scene.canvas
    brim = (
        person.hair_line
        + 0.5 * (points.forehead_y - person.hair_line)
        + 9.0
        + 1.2 * picture.hair_shift
    )
    x = canvas.x - 0.2 * points.forehead_x
    half_width = person.face_width + 4.0 + 0.5 * person.hair_volume
    crown = person.skull_height + person.hair_volume - 4.0
    edge = canvas.y - brim + 0.004 * x * x
    dome = (
        np.sqrt((x / half_width) ** 2 + (np.minimum(canvas.y + 8.0, 0.0) / crown) ** 2) - 1.0
    ) * half_width
    knit = 0.82 + 0.13 * wave(x / (6.5 + 0.02 * canvas.y)) + scene.light.x * x * 0.008
    canvas.darken(
        picture.hat * 0.35 * canvas.cover(dome) * bump((np.maximum(edge, 0.0) / 6.0) ** 2)
    )
    canvas.paint(
        picture.hat * canvas.cover(np.maximum(dome, edge)), picture.cloth_colour, shade=knit
    )
    cuff = canvas.band(edge, -11.0, 0.6) * canvas.cover(dome - 1.5)
    canvas.paint(picture.hat * cuff, picture.thing_colour, shade=knit + 0.06)


def draw_scarf(scene: Scene) -> None:
    """A striped scarf over the chin and often the mouth."""
    picture, points = scene.picture, scene.points
    canvas = scene.canvas.rows(0.35, 1.0)
    top = points.mouth_y + 0.35 * picture.cover_y - 4.0
    edge = top - canvas.y + 0.004 * canvas.x * canvas.x
    fold = wave((canvas.y - 0.012 * canvas.x * canvas.x) / 13.0)
    alpha = picture.scarf * canvas.cover(edge)
    canvas.paint(alpha, picture.thing_colour, shade=0.85 + 0.12 * fold)
    canvas.paint(
        alpha * smooth(4.0 * wave((canvas.x + 0.3 * canvas.y) / 21.0)), picture.cloth_colour
    )


def _turned(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the object in front of the face."""
    picture, canvas = scene.picture, scene.canvas
    dx, dy = canvas.x - picture.cover_x, canvas.y - picture.cover_y
    return (
        picture.cover_cos * dx + picture.cover_sin * dy,
        picture.cover_cos * dy - picture.cover_sin * dx,
    )


def draw_hand(scene: Scene) -> None:
    """Four fingers that come in from below."""
    person, picture, canvas = scene.person, scene.picture, scene.canvas
    u, v = _turned(scene)
    finger = np.rint(np.minimum(np.maximum(u / 7.0 - 0.5, -2.0), 1.0)) + 0.5
    du = u - 7.0 * finger
    dv = np.minimum(v - 2.0 * finger * finger, 0.0)
    distance = np.sqrt(du * du + dv * dv) - 3.9
    lit = 0.92 - 0.016 * du * du - 0.10 * bump(((np.abs(du) - 3.5) / 0.9) ** 2)
    canvas.darken(0.25 * picture.hand * bump(np.maximum(distance, 0.0) ** 2 / 16.0))
    canvas.paint(picture.hand * canvas.cover(distance), person.skin_colour, shade=lit)
    nail = (du / 2.2) ** 2 + ((v - 2.0 * finger * finger + 0.4) / 2.7) ** 2
    canvas.paint(
        0.55 * picture.hand * canvas.cover((np.sqrt(nail) - 1.0) * 2.2),
        np.minimum(person.skin_colour + 0.16, 1.0),
    )


def draw_patch(scene: Scene) -> None:
    """A flat, out-of-focus object in front of the face."""
    picture, canvas = scene.picture, scene.canvas
    u, v = _turned(scene)
    size = picture.cover_size
    du, dv = np.maximum(np.abs(u) - size + 5.0, 0.0), np.maximum(np.abs(v) - 0.7 * size + 5.0, 0.0)
    distance = np.sqrt(du * du + dv * dv) - 5.0
    canvas.paint(
        picture.patch * canvas.cover(distance, 2.0), picture.blob_colour, shade=0.9 + 0.006 * v
    )
