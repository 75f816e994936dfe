"""Background, shoulders, ears, head and hair of a synthetic face, with its relief in the light."""

import dataclasses
from types import SimpleNamespace

import numpy as np

from arcface_jax.data.synthetic.canvas import Canvas, bump, smooth, unit, wave


@dataclasses.dataclass
class Scene:
    """A canvas and what to draw on it, every number as float32 [B, 1, 1].

    Attributes:
      person, picture: parameters of synthetic_parameters; colours stay [B, 3].
      points: landmarks, each with `_x` and `_y`.
      light: direction of the light source, unit length, `x`, `y`, `z`.
    """

    canvas: Canvas
    person: SimpleNamespace
    picture: SimpleNamespace
    points: SimpleNamespace
    light: SimpleNamespace


def draw_background(scene: Scene) -> None:
    """A wall with a soft blot of a second colour and a little shade towards the bottom."""
    canvas, picture = scene.canvas, scene.picture
    canvas.paint(1.0, picture.back_colour, shade=0.86)
    square = ((canvas.x - picture.blob_x) / 46.0) ** 2 + ((canvas.y - picture.blob_y) / 46.0) ** 2
    canvas.paint(0.8 * bump(square), picture.blob_colour)
    canvas.darken(0.12 * unit((canvas.y + 20.0) / 80.0))


def draw_shoulders(scene: Scene) -> None:
    """Neck in the head's shadow, and clothes."""
    person, picture = scene.person, scene.picture
    canvas = scene.canvas.rows(0.40, 1.0)
    neck_side = np.abs(canvas.x) - 0.55 * person.face_width - 0.004 * canvas.y * canvas.y + 8.0
    neck = canvas.cover(np.maximum(neck_side, 15.0 - canvas.y))
    canvas.paint(neck, person.skin_colour * 0.92, shade=0.52)
    square = canvas.x * canvas.x
    collar = canvas.cover(
        47.0 - canvas.y + 0.004 * np.minimum(square, 4900.0) + 8.0 * bump(square / 484.0)
    )
    canvas.paint(collar, picture.cloth_colour, shade=0.80)


def _hair_cap(scene: Scene, canvas: Canvas, grow: float, end: np.ndarray) -> np.ndarray:
    """Signed distance to the hair's outer outline: a dome, then sides that hang down to `end`."""
    person, picture, points = scene.person, scene.picture, scene.points
    x = canvas.x - 0.25 * points.forehead_x + 0.25 * points.chin_x
    volume = person.hair_volume + picture.hair_puff + grow
    curl = (
        person.hair_wave * wave(canvas.y / 15.0 + canvas.x / 23.0) * (0.4 + 0.6 * person.hair_long)
    )
    curl = curl + 1.5 * person.hair_curl * wave(canvas.y / 6.3) * wave(canvas.x / 7.1)
    # Short hair comes in to the head above the ears; long hair falls.
    cropped = (1.0 - person.hair_long) * smooth((canvas.y + 34.0) / 34.0)
    sides = (0.8 * volume + curl) * (1.0 - 0.8 * cropped)
    half_width = person.face_width + sides + 0.06 * np.maximum(canvas.y, 0.0)
    u = x / half_width
    v = np.minimum(canvas.y + 2.0, 0.0) / (person.skull_height + volume)
    dome = (np.sqrt(u * u + v * v - 0.35 * np.minimum(u * u, 1.0) * v * v) - 1.0) * half_width
    hem = canvas.y - end - 0.1 * person.hair_wave * wave(canvas.x / 11.0)
    corner = 9.0
    outside, below = np.maximum(dome + corner, 0.0), np.maximum(hem + corner, 0.0)
    return np.minimum(np.maximum(dome, hem), -corner) + np.sqrt(outside * outside + below * below)


def _strands(scene: Scene, canvas: Canvas) -> np.ndarray:
    """Light on hair: streaks that fan out from the part, and a ring of gloss."""
    person, picture = scene.person, scene.picture
    x = canvas.x - person.hair_part
    fan = x / np.maximum(canvas.y + 74.0, 6.0)
    streaks = wave(fan * person.hair_frequency + 0.02 * person.hair_wave * canvas.y)
    fine = wave(fan * person.hair_frequency * 2.7 + 0.3)
    curls = wave(canvas.x / 6.7 + 0.35 * wave(canvas.y / 9.1)) * wave(
        canvas.y / 6.1 + 0.3 * wave(canvas.x / 8.3)
    )
    streaks = streaks + person.hair_curl * (0.8 * curls - streaks)
    height = (canvas.y + 0.008 * x * x + person.skull_height * 0.72) / 9.0
    gloss = bump(height * height)
    side = scene.light.x * canvas.x * 0.008
    return (
        0.80
        + 0.10 * streaks
        + 0.06 * fine
        + 0.38 * gloss * (1.0 + 0.3 * streaks)
        + side
        + picture.hair_tone
    )


def draw_back_hair(scene: Scene) -> None:
    """The hair behind head and neck."""
    person, canvas = scene.person, scene.canvas
    alpha = canvas.cover(_hair_cap(scene, canvas, 0.0, person.hair_end))
    canvas.paint(alpha, person.hair_colour, shade=_strands(scene, canvas) - 0.24)


def draw_ears(scene: Scene, face: np.ndarray) -> None:
    """Both ears: beside the face, or in front of it on the near side; `face` is its coverage."""
    person, picture, canvas = scene.person, scene.picture, scene.canvas
    side = 2.0 * (canvas.x > 0.0).astype(np.float32) - 1.0
    near = -side * picture.yaw_sin
    centre = (
        side * (person.face_width + person.ear_out - 2.5) * picture.yaw_cos - 7.0 * picture.yaw_sin
    )
    u = (canvas.x - centre) / (person.ear_size * (0.52 + 0.35 * unit(near)))
    v = (canvas.y - person.ear_height - 0.3 * scene.points.bridge_y - 3.0) / (
        1.15 * person.ear_size
    )
    square = u * u + v * v
    hidden = face * (1.0 - smooth(near * 4.0 - 0.2))
    shown = (1.0 - unit(person.hair_long * 4.0)) * smooth(1.5 + near * 4.0) * (1.0 - hidden)
    canvas.paint(
        shown * canvas.cover((np.sqrt(square) - 1.0) * 0.6 * person.ear_size),
        person.skin_colour,
        shade=0.84,
    )
    canvas.darken(0.32 * shown * bump(square * 1.9))


def face_outline(scene: Scene, canvas: Canvas) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The head from the front: u, v in units of the half axes, and the signed distance.

    An ellipse above; below, an ellipse squared by the jaw (u² + v² − k·u²v²) and narrowed towards
    the chin, which follows the turn.
    """
    person, picture, points = scene.person, scene.picture, scene.points
    low = unit((canvas.y + 6.0) / 52.0)
    centre = 0.62 * points.chin_x * low * low + 0.10 * points.forehead_x
    jaw = 1.0 - person.jaw_taper * low * low + 0.05 * (person.cheek - 0.5) * low * (1.0 - low) * 4.0
    half_width = (person.face_width + picture.puff) * jaw
    chin = points.chin_y + 8.0 + 0.45 * np.maximum(picture.mouth_opening, 0.0)
    u = (canvas.x - centre) / half_width
    v = np.maximum(canvas.y, 0.0) / chin + np.minimum(canvas.y, 0.0) / person.skull_height
    uu, vv = u * u, v * v
    square = uu + vv - person.jaw_square * low * np.minimum(uu, 1.0) * np.minimum(vv, 1.0)
    return u, v, (np.sqrt(square) - 1.0) * half_width


def _raise(
    slope: SimpleNamespace, dx: np.ndarray, dy: np.ndarray, amount: np.ndarray | float
) -> None:
    """Adds a hill (or hollow) of unit radius to the slopes of the face."""
    t = np.maximum(1.0 - dx * dx - dy * dy, np.float32(0.0)) * amount
    slope.x += t * dx
    slope.y += t * dy


def _relief(scene: Scene, canvas: Canvas, slope: SimpleNamespace) -> None:
    """Adds nose, eye sockets, cheeks, mouth and chin to the face's slopes."""
    person, points = scene.person, scene.points
    x, y = canvas.x, canvas.y
    _raise(
        slope,
        (x - points.nose_x) / (1.05 * person.nose_width),
        (y - points.nose_y) / 7.5,
        0.115 * person.nose_depth,
    )
    for side, eye_x, eye_y in (
        (-1.0, points.eye_left_x, points.eye_left_y),
        (1.0, points.eye_right_x, points.eye_right_y),
    ):
        _raise(slope, (x - eye_x) / 14.0, (y - eye_y + 1.5) / 11.0, -0.9 * person.eye_depth)
        _raise(
            slope,
            (x - eye_x - side * 4.0) / 15.0,
            (y - eye_y - 19.0) / 14.0,
            0.25 + 0.6 * person.cheek,
        )
    _raise(slope, (x - points.mouth_x) / 21.0, (y - points.mouth_y) / 15.0, 0.45)
    _raise(slope, (x - points.chin_x) / 12.0, (y - points.chin_y) / 9.0, 0.8)
    along = (y - points.bridge_y) / (points.nose_y - points.bridge_y)
    width = (
        1.5 * person.nose_bridge
        + (1.1 * person.nose_width - 1.5 * person.nose_bridge) * unit(along) ** 2
    )
    across = (x - points.bridge_x - (points.nose_x - points.bridge_x) * along) / width
    window = smooth((along + 0.35) / 0.6) * smooth((1.35 - along) / 0.35)
    hump = 1.0 + person.nose_bump * bump(((along - 0.5) / 0.35) ** 2)
    slope.x += (
        0.13
        * person.nose_depth
        * np.maximum(1.0 - across * across, np.float32(0.0))
        * across
        * window
        * hump
    )


def draw_head(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The face's skin, lit. Returns its coverage of each pixel and the distance to its outline."""
    canvas, person, light = scene.canvas, scene.person, scene.light
    u, v, distance = face_outline(scene, canvas)
    slope = SimpleNamespace(x=0.80 * u + 0.22 * u * np.abs(u), y=0.55 * v)
    _relief(scene, canvas, slope)
    facing = (slope.x * light.x + slope.y * light.y + light.z) / np.sqrt(
        slope.x**2 + slope.y**2 + 1.0
    )
    lit = np.maximum((facing + 0.25) * 0.8, np.float32(0.0))
    alpha = canvas.cover(distance)
    canvas.paint(alpha, person.skin_colour, shade=lit)
    gloss = np.maximum(facing - 0.90, np.float32(0.0)) * 10.0
    canvas.paint(0.10 * alpha * gloss * gloss, np.ones_like(person.skin_colour))
    rim = bump((distance / 7.0) ** 2)
    canvas.darken(0.14 * alpha * rim)
    return alpha, distance


def draw_front_hair(scene: Scene) -> None:
    """The hair around the face: everything under the cap except the face's opening."""
    canvas, person, picture, points = scene.canvas, scene.person, scene.picture, scene.points
    top = person.hair_line + 0.5 * (points.forehead_y - person.hair_line) + picture.hair_shift
    centre_x = 0.75 * points.forehead_x
    x = canvas.x - centre_x
    jag = person.hair_wave * wave(x / (7.0 + 0.6 * person.hair_frequency) + 0.11 * person.hair_part)
    jag = jag + 0.7 * wave(x / 4.3 + 0.002 * x * x) + 1.2 * person.hair_curl * wave(x / 6.3)
    part = (x - person.hair_part - picture.hair_sway) / 16.0
    line = (
        top
        + person.hair_sweep * (x - person.hair_part)
        + jag
        - person.hair_parting * bump(part * part)
        + 2.0
    )
    height = np.maximum(6.0 - line, 8.0)
    low = unit((canvas.y + 6.0) / 52.0)
    short = 0.10 * (1.0 - person.hair_long) * smooth((canvas.y + 16.0) / 18.0)
    sideburn = (0.91 + short - 0.12 * person.hair_long * low * low) * person.face_width
    u = x / sideburn
    v = np.minimum(canvas.y - 6.0, 0.0) / height
    opening = (
        np.sqrt(u * u + v * v - 0.55 * np.minimum(u * u, 1.0) * np.minimum(v * v, 1.0)) - 1.0
    ) * 30.0
    cap = _hair_cap(scene, canvas, -0.4, np.maximum(person.hair_end, 0.0))
    shade = _strands(scene, canvas)
    cast = bump(np.maximum(-opening, 0.0) ** 2 / 30.0) * canvas.cover(cap + 4.0)
    canvas.darken(
        0.30 * cast * np.maximum(unit(-canvas.y / 12.0), 0.7 * unit(person.hair_long * 3.0))
    )
    canvas.paint(canvas.cover(np.maximum(cap, -opening)), person.hair_colour, shade=shade)
