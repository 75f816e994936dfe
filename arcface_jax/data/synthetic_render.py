"""Draws batches of synthetic faces: scene, light and camera."""

from types import SimpleNamespace

import numpy as np

from arcface_jax.data import synthetic_accessories as accessories
from arcface_jax.data import synthetic_features as features
from arcface_jax.data import synthetic_head as head
from arcface_jax.data.synthetic_canvas import SHADE, Canvas, column, smooth, unit
from arcface_jax.data.synthetic_pose import TEMPLATE_SIZE, alignment, landmarks


def _columns(values: SimpleNamespace) -> SimpleNamespace:
    """Numbers as float32 [B, 1, 1], complex points as two of them; colours [B, 3] as they are."""
    columns = SimpleNamespace()
    for name, value in vars(values).items():
        if np.iscomplexobj(value):
            setattr(columns, f"{name}_x", column(value.real))
            setattr(columns, f"{name}_y", column(value.imag))
        else:
            setattr(columns, name, column(value) if value.ndim == 1 else value)
    return columns


def _canvas(person: SimpleNamespace, picture: SimpleNamespace, points: SimpleNamespace, size: int) -> Canvas:
    """An empty canvas whose pixels know their place in the head's plane."""
    scale, shift = alignment(points, picture)
    step = TEMPLATE_SIZE / size
    # Pixel centres sit at whole numbers in the template, as image resizing has it.
    crop = ((np.arange(size) + 0.5) * step - 0.5).astype(np.float32)
    across, down = crop[None, None, :], crop[None, :, None]
    x = (column(scale.real) * across + column(shift.real)) - column(scale.imag) * down
    y = (column(scale.imag) * across + column(shift.imag)) + column(scale.real) * down
    planes = np.zeros((4, *x.shape), np.float32)
    return Canvas(x=x, y=y, pixel=column(np.abs(scale) * step), planes=planes)


def _style(person: SimpleNamespace, picture: SimpleNamespace) -> None:
    """What people do to their looks on a day: tie the hair, shave, paint the lips."""
    loose = 1.0 - picture.tied
    person.hair_end = -2.0 + loose * (person.hair_end + 2.0)
    person.hair_long = loose * person.hair_long
    person.hair_volume = person.hair_volume * (1.0 - 0.7 * picture.hat)
    stubble = 0.12 + 0.88 * (1.0 - picture.shaved)
    person.beard_amount = stubble * person.beard_amount
    person.moustache_amount = stubble * person.moustache_amount
    red = 0.8 * picture.lipstick[:, None]
    person.lip_colour = person.lip_colour + red * (np.array([0.72, 0.13, 0.20]) - person.lip_colour)
    picture.saturation = picture.saturation * (1.0 - picture.grey)


def _light(picture: SimpleNamespace) -> SimpleNamespace:
    norm = np.sqrt(picture.light_x**2 + picture.light_y**2 + 1.0)
    return SimpleNamespace(x=picture.light_x / norm, y=picture.light_y / norm, z=1.0 / norm)


def _expose(scene: head.Scene) -> np.ndarray:
    """Multiplies colours by the light that falls on them: float32 [3, B, H, W]."""
    canvas, picture = scene.canvas, scene.picture
    across = canvas.x * picture.shadow_cos + canvas.y * picture.shadow_sin - picture.shadow_edge
    canvas.darken(0.45 * picture.shadow * smooth(0.5 - across / 5.0))
    lit = picture.ambient + picture.diffuse * canvas.planes[SHADE]
    gain = 1.0 + picture.gain
    # Warm light is red in the lights; shadows keep the sky's blue.
    lights = (gain * (1.0 + picture.warm), gain * (1.0 + picture.tint), gain * (1.0 - picture.warm))
    colour = np.stack([canvas.planes[c] * (lit * lights[c]) for c in range(3)])
    grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    colour = grey + picture.saturation * (colour - grey)
    return (colour - 0.5) * picture.contrast + 0.5


def _blur(colour: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Blurs along both axes, edges repeated: five neighbouring taps, then, in large pictures, five spread ones.

    Args:
      colour: float32 [3, B, H, W].
      sigma: float32 [B, 1, 1], in pixels of the 112×112 crop.
    """
    size = colour.shape[-1]
    variance = (sigma * (size / TEMPLATE_SIZE)) ** 2
    near_variance = np.minimum(variance, 1.5)
    colour = _five_taps(colour, near_variance, 1)
    step = max(1, round(size / 56))
    if step > 1:
        colour = _five_taps(colour, np.minimum((variance - near_variance) / step**2, 1.5), step)
    return colour


def _five_taps(colour: np.ndarray, variance: np.ndarray, step: int) -> np.ndarray:
    """Filters both axes with [far, near, centre, near, far], `step` pixels apart: 2·near + 8·far = variance ≤ 1.5."""
    size = colour.shape[-1]
    far = variance * variance * (0.0625 / 1.5)
    near = 0.5 * variance - 4.0 * far
    centre = 1.0 - 2.0 * (near + far)
    for axis in (2, 3):
        padding = [(0, 0)] * 4
        padding[axis] = (2 * step, 2 * step)
        padded = np.pad(colour, padding, mode="edge")
        view = [padded[(slice(None),) * axis + (slice(k * step, k * step + size),)] for k in range(5)]
        colour = centre * view[2] + near * (view[1] + view[3]) + far * (view[0] + view[4])
    return colour


def render_faces(person: SimpleNamespace, picture: SimpleNamespace, size: int) -> np.ndarray:
    """Draws a batch of faces.

    Args:
      person: of identity_parameters.
      picture: of image_nuisances, `grain` with 3·size² numbers an image.
      size: height and width.

    Returns: uint8 [B, size, size, 3], RGB.
    """
    _style(person, picture)
    points = landmarks(person, picture)
    canvas = _canvas(person, picture, points, size)
    angles = {"shadow": picture.shadow_angle, "cover": picture.cover_angle, "yaw": picture.yaw}
    for name, angle in angles.items():
        setattr(picture, f"{name}_cos", np.cos(angle))
        setattr(picture, f"{name}_sin", np.sin(angle))
    grain = picture.grain.reshape(len(picture.yaw), size, size, 3)
    columns = _columns(picture)
    scene = head.Scene(canvas, _columns(person), columns, _columns(points), _light(columns))
    head.draw_background(scene)
    head.draw_back_hair(scene)
    head.draw_shoulders(scene)
    face, distance = head.draw_head(scene)
    # What belongs to the skin ends where the face does, also when a turned head hides half of it.
    canvas.within = face
    features.draw_blush(scene)
    features.draw_nose(scene)
    features.draw_mouth(scene)
    features.draw_beard(scene, distance)
    features.draw_eyes(scene)
    features.draw_brows(scene)
    features.draw_marks(scene)
    canvas.within = None
    head.draw_front_hair(scene)
    head.draw_ears(scene, face)
    accessories.draw_glasses(scene)
    accessories.draw_hat(scene)
    accessories.draw_scarf(scene)
    accessories.draw_hand(scene)
    accessories.draw_patch(scene)
    colour = _blur(_expose(scene), columns.blur * columns.blur * columns.blur * 2.8)
    pixels = np.moveaxis(unit(colour), 0, -1) * 255.0
    noise = (9.0 * columns.noise * columns.noise * columns.noise)[..., None]
    return np.rint(np.minimum(np.maximum(pixels + noise * grain, 0.0), 255.0)).astype(np.uint8)
