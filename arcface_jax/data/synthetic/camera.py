"""From a drawn scene to a photograph of it: exposure, blur, sensor noise."""

import numpy as np

from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.synthetic.canvas import SHADE, smooth, unit
from arcface_jax.data.synthetic.head import Scene

MAX_BLUR = 2.7
"""The widest blur's standard deviation, in pixels of the 112×112 crop."""
MAX_NOISE = 9.0
"""The strongest noise's standard deviation, in grey levels."""
_TAPS_VARIANCE = 1.5


def expose(scene: Scene) -> np.ndarray:
    """Light and cast shadow on the colours, then saturation and contrast: float32 [3, B, H, W]."""
    canvas, picture = scene.canvas, scene.picture
    across = canvas.x * picture.shadow_cos + canvas.y * picture.shadow_sin - picture.shadow_edge
    canvas.darken(0.45 * picture.shadow * smooth(0.5 - across / 5.0))
    lit = picture.ambient + picture.diffuse * canvas.planes[SHADE]
    gain = 1.0 + picture.gain
    lights = (gain * (1.0 + picture.warm), gain * (1.0 + picture.tint), gain * (1.0 - picture.warm))
    colour = np.stack([canvas.planes[c] * (lit * lights[c]) for c in range(3)])
    grey = 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2]
    colour = grey + picture.saturation * (colour - grey)
    return (colour - 0.5) * picture.contrast + 0.5


def blur(colour: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Nearly Gaussian blur of `colour` [3, B, S, S] along both axes, edges repeated.

    Applies a chain of five-tap filters with taps 1, 2, 4, … pixels apart, as many as MAX_BLUR needs
    at this size; each adds as much of the variance as it can. `sigma` [B, 1, 1] is the standard
    deviation in pixels of the 112×112 crop, up to MAX_BLUR.
    """
    scale = colour.shape[-1] / TEMPLATE_SIZE
    variance, widest, step = (sigma * scale) ** 2, (MAX_BLUR * scale) ** 2, 1
    while widest > 0.0:
        share = np.minimum(variance / step**2, np.float32(_TAPS_VARIANCE))
        colour = _five_taps(colour, share, step)
        variance = variance - share * step**2
        widest -= _TAPS_VARIANCE * step**2
        step *= 2
    return colour


def _five_taps(colour: np.ndarray, variance: np.ndarray, step: int) -> np.ndarray:
    """Filters both axes with [far, near, centre, near, far] taps of this variance, `step` apart."""
    size = colour.shape[-1]
    far = variance * variance * (0.0625 / _TAPS_VARIANCE)
    near = 0.5 * variance - 4.0 * far
    centre = 1.0 - 2.0 * (near + far)
    for axis in (2, 3):
        padding = [(0, 0)] * 4
        padding[axis] = (2 * step, 2 * step)
        padded = np.pad(colour, padding, mode="edge")
        view = [
            padded[(slice(None),) * axis + (slice(k * step, k * step + size),)] for k in range(5)
        ]
        colour = centre * view[2] + near * (view[1] + view[3]) + far * (view[0] + view[4])
    return colour


def photograph(scene: Scene, grain: np.ndarray) -> np.ndarray:
    """Exposes, blurs, adds noise by `grain` [B, H, W, 3] and rounds: uint8 [B, H, W, 3]."""
    picture = scene.picture
    # Cubes, so that most pictures are sharp and clean and some are bad.
    colour = blur(expose(scene), MAX_BLUR * picture.blur * picture.blur * picture.blur)
    pixels = np.moveaxis(unit(colour), 0, -1) * 255.0
    noise = (MAX_NOISE * picture.noise * picture.noise * picture.noise)[..., None]
    return np.rint(np.minimum(np.maximum(pixels + noise * grain, 0.0), 255.0)).astype(np.uint8)
