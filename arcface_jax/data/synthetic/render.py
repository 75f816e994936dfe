"""Draws batches of synthetic faces: the scene, its parts in order, the photograph."""

from types import SimpleNamespace

import numpy as np

from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.synthetic import accessories, features, head
from arcface_jax.data.synthetic.camera import photograph
from arcface_jax.data.synthetic.canvas import Canvas, column
from arcface_jax.data.synthetic.pose import alignment, landmarks


def _columns(values: SimpleNamespace) -> SimpleNamespace:
    """Numbers as float32 [B, 1, 1], complex points as two of them; colours [B, 3] unchanged."""
    columns = SimpleNamespace()
    for name, value in vars(values).items():
        if np.iscomplexobj(value):
            setattr(columns, f"{name}_x", column(value.real))
            setattr(columns, f"{name}_y", column(value.imag))
        else:
            setattr(columns, name, column(value) if value.ndim == 1 else value)
    return columns


def _canvas(
    person: SimpleNamespace, picture: SimpleNamespace, points: SimpleNamespace, size: int
) -> Canvas:
    """An empty canvas with pixel positions in the head's plane."""
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
    """Changes of style between pictures: tied hair, a shave, lipstick."""
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
    """The direction of the light source, unit length."""
    norm = np.sqrt(picture.light_x**2 + picture.light_y**2 + 1.0)
    return SimpleNamespace(x=picture.light_x / norm, y=picture.light_y / norm, z=1.0 / norm)


def render_faces(person: SimpleNamespace, picture: SimpleNamespace, size: int) -> np.ndarray:
    """Draws pictures of people, each with 3·size² numbers of `grain`: uint8 [B, size, size, 3]."""
    person, picture = SimpleNamespace(**vars(person)), SimpleNamespace(**vars(picture))
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
    return photograph(scene, grain)
