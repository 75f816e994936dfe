"""What a network expects its pixels to be: colour order and value range.

Feeding RGB to a network trained on BGR, or dividing by 128 instead of 127.5, raises no error and
costs accuracy silently. So the convention is a value that travels with the model, and `normalise`
is the only place where uint8 becomes float.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

ColorOrder = Literal["rgb", "bgr"]


@dataclasses.dataclass(frozen=True)
class PixelConvention:
    """Network input = (uint8 − offset) / divisor, channels in `color_order`.

    Attributes:
      color_order: order of the channels the network was trained on. Images in this library are
        always RGB; "bgr" reverses them on the way in.
      offset: the grey level that maps to 0; of each channel in that order, if three.
      divisor: the grey levels that map to 1, likewise.
    """

    color_order: ColorOrder = "rgb"
    offset: float | tuple[float, float, float] = 127.5
    divisor: float | tuple[float, float, float] = 127.5


ARCFACE_TORCH = PixelConvention("rgb", 127.5, 127.5)
"""arcface_torch, and this library's own models."""
INSIGHTFACE_MXNET = PixelConvention("rgb", 127.5, 128.0)
"""The paper's MXNet models."""
ADAFACE = PixelConvention("bgr", 127.5, 127.5)
"""AdaFace's published checkpoints."""

MAGFACE = PixelConvention("bgr", 0.0, 255.0)
"""MagFace's published checkpoints: [0, 1], nothing subtracted."""

IMAGENET = PixelConvention("rgb", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""torchvision's, timm's and DINOv2's: mean and deviation of ImageNet's pixels, .485 · 255 …"""

CONVENTIONS = {
    "arcface_torch": ARCFACE_TORCH,
    "insightface_mxnet": INSIGHTFACE_MXNET,
    "adaface": ADAFACE,
    "magface": MAGFACE,
    "imagenet": IMAGENET,
}
"""The conventions by name."""


def normalise(
    images: jax.Array, convention: PixelConvention = ARCFACE_TORCH, dtype: jnp.dtype = jnp.float32
) -> jax.Array:
    """Turns RGB uint8 images into network input, (x − offset) / divisor.

    Args:
      images: [..., height, width, 3], uint8, RGB.
      convention: what the network was trained on.
      dtype: of the result.

    Returns: same shape, `dtype`.

    Raises:
      TypeError: the images are not uint8; floats would have been normalised once already, and twice
        is a silent error.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(
            f"images must be uint8 in [0, 255], got {images.dtype}; do not normalise them first"
        )
    if convention.color_order == "bgr":
        images = images[..., ::-1]
    offset, divisor = _levels(convention)
    return ((images.astype(jnp.float32) - offset) / divisor).astype(dtype)


def to_pixels(images: np.ndarray, convention: PixelConvention = ARCFACE_TORCH) -> np.ndarray:
    """The inverse of `normalise`: uint8 RGB images of what a network takes, to the nearest grey
    level in [0, 255].

    Args:
      images: [..., height, width, 3], floating.
      convention: what the network takes.

    Returns: same shape, uint8, RGB.
    """
    if convention.color_order == "bgr":
        images = images[..., ::-1]
    offset, divisor = _levels(convention)
    return np.clip(np.round(images * divisor + offset), 0, 255).astype(np.uint8)


def _levels(convention: PixelConvention) -> list[np.ndarray]:
    return [np.asarray(of, np.float32) for of in (convention.offset, convention.divisor)]
