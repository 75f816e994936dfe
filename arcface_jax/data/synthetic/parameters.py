"""Who a synthetic person is, and how the picture was taken.

Two tables of distributions. An identity's parameters depend only on (seed, identity); an image's
nuisances only on (seed, identity, image). Each has its own counter-based random stream (Philox,
Salmon et al. 2011), so an image does not depend on what else is drawn, or in which order.

Lengths are in pixels of the 112×112 aligned crop, angles in radians.
"""

import functools
from types import SimpleNamespace

import numpy as np

# name: (mean, standard deviation); drawn normal, cut off at ±2.2 standard deviations.
IDENTITY_NORMAL = {
    "face_width": (37.5, 2.0),
    "jaw_taper": (0.17, 0.06),
    "jaw_square": (0.30, 0.18),
    "chin_length": (50.5, 2.0),
    "skull_height": (53.0, 1.6),
    "cheek": (0.5, 0.22),
    "skin_warmth": (0.0, 0.022),
    "eye_distance": (17.6, 0.9),
    "eye_height": (-8.4, 0.9),
    "eye_width": (8.9, 0.6),
    "eye_open": (4.7, 0.6),
    "eye_slant": (0.05, 0.09),
    "eye_depth": (0.5, 0.25),
    "eye_almond": (0.0, 0.16),
    "iris_size": (4.4, 0.3),
    "lid_crease": (0.45, 0.25),
    "brow_height": (10.8, 1.2),
    "brow_thickness": (2.3, 0.6),
    "brow_arch": (2.0, 1.0),
    "brow_slant": (0.0, 0.10),
    "brow_length": (1.12, 0.10),
    "brow_density": (0.75, 0.15),
    "nose_tip": (11.7, 1.2),
    "nose_width": (7.2, 0.9),
    "nose_bridge": (3.2, 0.5),
    "nose_depth": (13.0, 2.5),
    "nose_shift": (0.0, 0.6),
    "nose_bump": (0.0, 0.35),
    "nostril": (0.55, 0.2),
    "mouth_height": (32.3, 1.0),
    "mouth_width": (14.6, 1.2),
    "upper_lip": (3.0, 0.7),
    "lower_lip": (4.0, 0.8),
    "lip_bow": (0.5, 0.25),
    "mouth_corner": (0.3, 0.6),
    "lip_red": (0.5, 0.22),
    "ear_size": (8.5, 1.2),
    "ear_out": (3.0, 1.3),
    "ear_height": (0.0, 1.6),
    "blush": (0.35, 0.2),
    "hair_line": (-35.0, 3.6),
    "hair_sweep": (0.0, 0.12),
    "hair_parting": (4.0, 4.5),
    "hair_part": (0.0, 9.0),
    "hair_volume": (5.0, 1.8),
    "hair_wave": (1.2, 0.8),
    "hair_frequency": (9.0, 2.5),
    "hair_warmth": (0.0, 0.03),
    "mole_x": (0.0, 18.0),
    "mole_y": (22.0, 14.0),
    "spot_x": (0.0, 18.0),
    "spot_y": (10.0, 16.0),
    "scar_x": (0.0, 16.0),
    "scar_y": (-5.0, 20.0),
}
# Drawn uniform in [0, 1); `_identity_colours` and `_identity_traits` turn them into what is drawn.
IDENTITY_UNIFORM = (
    "skin",
    "hair",
    "iris",
    "age",
    "length",
    "beard",
    "moustache",
    "freckle",
    "mole",
    "spot",
    "scar",
    "spectacles",
    "bald",
    "curl",
)
# name: (neutral value, standard deviation at difficulty 1)
IMAGE_NORMAL = {
    "yaw": (0.0, 0.32),
    "pitch": (0.0, 0.15),
    "roll": (0.0, 0.06),
    "shift_x": (0.0, 2.2),
    "shift_y": (0.0, 2.2),
    "zoom": (0.0, 0.06),
    "light_x": (-0.25, 0.55),
    "light_y": (-0.45, 0.35),
    "ambient": (0.54, 0.10),
    "diffuse": (0.57, 0.14),
    "warm": (0.0, 0.13),
    "tint": (0.0, 0.06),
    "gain": (0.0, 0.18),
    "contrast": (1.0, 0.14),
    "saturation": (1.0, 0.16),
    "smile": (3.2, 2.0),
    "mouth_opening": (-0.6, 2.4),
    "squint": (0.0, 0.16),
    "brow_raise": (0.0, 1.4),
    "brow_frown": (0.0, 0.06),
    "gaze_x": (0.0, 0.16),
    "gaze_y": (0.0, 0.08),
    "hair_shift": (0.0, 2.6),
    "hair_puff": (0.0, 1.6),
    "hair_sway": (0.0, 5.0),
    "hair_tone": (0.0, 0.12),
    "beard_growth": (0.0, 0.16),
    "puff": (0.0, 0.9),
    "shadow_edge": (0.0, 16.0),
    "shadow_angle": (0.0, 0.7),
    "glare": (0.0, 1.0),
    "cover_x": (0.0, 20.0),
    "cover_y": (14.0, 24.0),
    "cover_angle": (0.0, 0.8),
    "cover_size": (13.0, 3.0),
    "blob_x": (0.0, 34.0),
    "blob_y": (0.0, 34.0),
}
# name: neutral value; at difficulty 1, uniform in [0, 1)
IMAGE_UNIFORM = {
    "back_r": 0.80,
    "back_g": 0.86,
    "back_b": 0.92,
    "blob_r": 0.88,
    "blob_g": 0.91,
    "blob_b": 0.95,
    "cloth_r": 0.30,
    "cloth_g": 0.42,
    "cloth_b": 0.58,
    "thing_r": 0.25,
    "thing_g": 0.25,
    "thing_b": 0.30,
    "frame_shape": 0.5,
    "frame_tone": 0.2,
    "blur": 0.0,
    "noise": 0.0,
}
# Drawn uniform; below the probability (times difficulty) the thing is there.
IMAGE_EVENT = {
    "hat": 0.15,
    "shadow": 0.25,
    "hand": 0.08,
    "scarf": 0.08,
    "patch": 0.08,
    "grey": 0.12,
    "tied": 0.30,
    "shaved": 0.35,
    "lipstick": 0.12,
}
GLASSES_SELDOM, GLASSES_OFTEN = 0.08, 0.75

_SKIN = np.array(
    [
        (0.99, 0.86, 0.77),
        (0.95, 0.77, 0.64),
        (0.88, 0.67, 0.51),
        (0.75, 0.53, 0.38),
        (0.58, 0.39, 0.27),
        (0.42, 0.28, 0.20),
    ]
)
_HAIR = np.array(
    [
        (0.10, 0.08, 0.08),
        (0.17, 0.11, 0.09),
        (0.27, 0.17, 0.11),
        (0.40, 0.25, 0.14),
        (0.56, 0.27, 0.13),
        (0.66, 0.47, 0.25),
        (0.88, 0.71, 0.42),
    ]
)
_IRIS = np.array(
    [
        (0.20, 0.11, 0.07),
        (0.31, 0.18, 0.09),
        (0.42, 0.29, 0.13),
        (0.36, 0.43, 0.22),
        (0.30, 0.48, 0.52),
        (0.28, 0.46, 0.70),
    ]
)


def _ramp(position: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Colours [N, 3] at `position` in [0, 1] along a palette."""
    stops = np.linspace(0.0, 1.0, len(colours))
    return np.stack([np.interp(position, stops, colours[:, c]) for c in range(3)], axis=-1)


def _stream(seed: int, identity: int, block: int) -> np.random.Generator:
    """The random stream of an identity (block 0) or of its image block − 1."""
    # As uint64 arrays: a list with a number beyond 2⁶³ would go through float64 and lose its last
    # bits.
    key, counter = np.array([seed, identity], np.uint64), np.array([0, 0, 0, block], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


@functools.lru_cache(maxsize=8192)
def _identity_draw(seed: int, identity: int) -> np.ndarray:
    stream = _stream(seed, identity, 0)
    return np.concatenate(
        [stream.standard_normal(len(IDENTITY_NORMAL)), stream.random(len(IDENTITY_UNIFORM))]
    )


def draw_identities(seed: int, identities: np.ndarray) -> SimpleNamespace:
    """The numbers of the two identity tables for people `identities` [B]: float64 [B] by name."""
    draws = np.stack([_identity_draw(seed, int(identity)) for identity in identities])
    normal = np.clip(draws[:, : len(IDENTITY_NORMAL)], -2.2, 2.2)
    return SimpleNamespace(
        **{
            name: mean + sd * normal[:, i]
            for i, (name, (mean, sd)) in enumerate(IDENTITY_NORMAL.items())
        },
        **{name: draws[:, len(IDENTITY_NORMAL) + i] for i, name in enumerate(IDENTITY_UNIFORM)},
    )


def identity_parameters(draws: SimpleNamespace) -> SimpleNamespace:
    """`draw_identities` with colours [B, 3] and amounts of hair, beard, marks and age."""
    person = SimpleNamespace(**vars(draws))
    _identity_colours(person)
    _identity_traits(person)
    return person


def _identity_colours(person: SimpleNamespace) -> None:
    """Skin, hair, iris and lip colours; dark skin mostly comes with dark hair and eyes."""
    warmth = person.skin_warmth[:, None] * np.array([1.0, 0.0, -1.0])
    person.skin_colour = _ramp(person.skin, _SKIN) + warmth
    hair = _ramp(person.hair ** (1.0 + 3.5 * person.skin), _HAIR)
    hair = hair * (1.0 + 3.0 * person.hair_warmth[:, None] * np.array([1.0, 0.1, -0.8]))
    grey = np.clip((person.age - 0.76) / 0.2, 0.0, 1.0)[:, None]
    person.hair_colour = np.clip(hair + grey * (np.array([0.74, 0.73, 0.72]) - hair), 0.04, 0.95)
    person.brow_colour = hair + grey * 0.5 * (np.array([0.60, 0.58, 0.56]) - hair)
    person.iris_colour = _ramp(person.iris ** (0.8 + 2.5 * person.skin), _IRIS)
    rose = person.skin_colour * np.array([0.92, 0.56, 0.56]) + np.array([0.04, 0.0, 0.02])
    person.lip_colour = person.skin_colour + (0.45 + 0.5 * person.lip_red[:, None]) * (
        rose - person.skin_colour
    )


def _identity_traits(person: SimpleNamespace) -> None:
    """Turns uniform draws into amounts; most people lack most of them."""
    adult = np.clip(person.age * 4.0, 0.0, 1.0)
    long_hair = np.clip((person.length - 0.55) / 0.3, 0.0, 1.0)
    person.hair_end = -2.0 + 60.0 * long_hair + 6.0 * person.length
    person.hair_long = np.clip(long_hair * 2.0, 0.0, 1.0)
    person.hair_curl = np.clip((person.curl + 0.45 * person.skin - 0.75) / 0.25, 0.0, 1.0)
    masculine = 1.0 - np.clip((person.length - 0.48) / 0.12, 0.0, 1.0)
    person.beard_amount = np.clip((person.beard - 0.55) / 0.3, 0.0, 1.0) * masculine * adult
    person.moustache_amount = np.clip((person.moustache - 0.6) / 0.25, 0.0, 1.0) * masculine * adult
    person.freckle_amount = np.clip((person.freckle - 0.7) / 0.25, 0.0, 1.0) * (
        1.0 - 0.8 * person.skin
    )
    person.wrinkle = np.clip((person.age - 0.45) / 0.5, 0.0, 1.0)
    person.mole_amount = (person.mole < 0.35) * 0.75
    person.spot_amount = (person.spot < 0.25) * 0.65
    person.scar_amount = (person.scar < 0.10) * 0.55
    receding = (
        np.clip((person.bald - 0.80) / 0.2, 0.0, 1.0)
        * masculine
        * np.clip(person.age * 2.0 - 0.4, 0.0, 1.0)
    )
    person.hair_line = person.hair_line - 16.0 * receding
    person.hair_volume = np.maximum(
        person.hair_volume * (1.0 - 0.75 * receding) + 3.5 * person.hair_curl, 0.6
    )
    person.hair_part = person.hair_part * (0.5 + person.hair_long)
    person.beard_width = 14.0 + 60.0 * np.clip(person.beard - 0.6, 0.0, 0.4)
    # Age lowers lids and corners of the mouth a little, and thins the lips.
    person.eye_open = person.eye_open - 0.7 * person.wrinkle
    person.mouth_corner = person.mouth_corner - 0.8 * person.wrinkle
    person.upper_lip = person.upper_lip - 0.7 * person.wrinkle


def image_nuisances(
    seed: int,
    identities: np.ndarray,
    images: np.ndarray,
    difficulty: float,
    spectacles: np.ndarray,
    noise_size: int,
) -> SimpleNamespace:
    """Draws what varies between images of one person, for `images` of `identities` [B].

    `difficulty` multiplies every normal deviation from the neutral picture and the probability of
    every event; uniform draws (colours, blur, noise) reach their full range at 1. `spectacles` [B]
    is the people's uniform draw for wearing glasses.

    Returns: float64 [B] (colours [B, 3], booleans for events) for every name in the tables, and
      `grain`, float32 [B, noise_size], standard normal.
    """
    count, n_normal, n_uniform = len(identities), len(IMAGE_NORMAL), len(IMAGE_UNIFORM)
    normal = np.empty((count, n_normal))
    uniform = np.empty((count, n_uniform + len(IMAGE_EVENT) + 1))
    grain = np.zeros((count, noise_size), np.float32)
    for row, (identity, image) in enumerate(zip(identities, images, strict=True)):
        stream = _stream(seed, int(identity), int(image) + 1)
        stream.standard_normal(out=normal[row])
        stream.random(out=uniform[row])
        if difficulty > 0.0:
            stream.standard_normal(out=grain[row], dtype=np.float32)
    normal = np.clip(normal, -2.2, 2.2)
    picture = SimpleNamespace(
        **{
            k: mean + difficulty * sd * normal[:, i]
            for i, (k, (mean, sd)) in enumerate(IMAGE_NORMAL.items())
        },
        **{
            k: v + min(difficulty, 1.0) * (uniform[:, i] - v)
            for i, (k, v) in enumerate(IMAGE_UNIFORM.items())
        },
        **{
            k: uniform[:, n_uniform + i] < difficulty * p
            for i, (k, p) in enumerate(IMAGE_EVENT.items())
        },
    )
    often = np.where(spectacles < 0.15, GLASSES_OFTEN, GLASSES_SELDOM)
    picture.glasses = uniform[:, -1] < difficulty * often
    for name in ("back", "blob", "cloth", "thing"):
        rgb = np.stack([getattr(picture, f"{name}_{c}") for c in "rgb"], axis=-1)
        grey = rgb.mean(axis=-1, keepdims=True)
        setattr(picture, f"{name}_colour", 0.10 + 0.82 * (grey + 0.62 * (rgb - grey)))
    picture.grain = grain
    return picture
