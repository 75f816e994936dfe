"""Augmentation on the device: jitted, one key per example, uint8 in and out.

The paper's only augmentation is the mirror image. The others are optional: what AdaFace adds for
low-quality faces, random erasing, and a drawn face mask.

An example's result depends only on its own key and pixels. With keys from `example_keys` it is the
same for any number of devices, and a resumed run gets the same augmentations as an uninterrupted
one.

Each change takes an image, float32 [height, width, 3] in 0 … 255, and the example's key, and
returns the same shape.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError

Transform = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The probability of each change to an example; changes are independent.

    Attributes:
      flip: mirror image. The paper's, 0.5.
      crop: keeps a part at its place and blackens the rest. AdaFace: 0.2.
      low_resolution: scaled down and up again. AdaFace: 0.2.
      photometric: brightness, contrast and saturation. AdaFace: 0.2.
      erasing: a rectangle of noise over the image. Zhong et al.: 0.5.
      mask: a drawn face mask over nose, mouth and chin of an aligned crop.

    Raises:
      InputError: a probability outside 0 … 1.
    """

    flip: float = 0.5
    crop: float = 0.0
    low_resolution: float = 0.0
    photometric: float = 0.0
    erasing: float = 0.0
    mask: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"augmentation {field.name} = {value}: a probability is in 0 … 1")


ADAFACE_AUGMENTATION = Augmentation(flip=0.5, crop=0.2, low_resolution=0.2, photometric=0.2)
"""The set that AdaFace trains with (Kim et al., arXiv:2204.00964)."""


def example_keys(key: jax.Array, step: jax.Array | int, batch_size: int) -> jax.Array:
    """One key for each row of the global batch at a step.

    Args:
      key: of the run.
      step: of training.
      batch_size: N, rows of the global batch.

    Returns: [N] keys: fold_in(fold_in(key, step), row).
    """
    at_step = jax.random.fold_in(key, step)
    return jax.vmap(jax.random.fold_in, (None, 0))(at_step, jnp.arange(batch_size))


@functools.partial(jax.jit, static_argnames="augmentation")
def augment(
    images: jax.Array, keys: jax.Array, augmentation: Augmentation = Augmentation()
) -> jax.Array:
    """Changes each image at random.

    In the order mask, erasing, crop, photometric, low resolution, flip. Changes with probability 0
    cost nothing. Switching one on does not change what the others do to an example.

    Args:
      images: uint8 [N, height, width, 3], RGB.
      keys: [N], as from `example_keys`.
      augmentation: the probabilities.

    Returns: uint8, same shape.

    Raises:
      TypeError: the images are not uint8.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}; augment before normalising")
    changes: list[tuple[Transform, float]] = [
        (draw_mask, augmentation.mask),
        (erase, augmentation.erasing),
        (crop, augmentation.crop),
        (change_colours, augmentation.photometric),
        (lower_resolution, augmentation.low_resolution),
    ]
    wanted = [(number, change, rate) for number, (change, rate) in enumerate(changes) if rate > 0]

    def one(image: jax.Array, key: jax.Array) -> jax.Array:
        pixels = image.astype(jnp.float32)
        for number, change, rate in wanted:
            happens, how = jax.random.split(jax.random.fold_in(key, number))
            pixels = jnp.where(jax.random.uniform(happens) < rate, change(pixels, how), pixels)
        flipped = jax.random.uniform(jax.random.fold_in(key, len(changes))) < augmentation.flip
        changed = jnp.round(jnp.clip(pixels, 0.0, 255.0)).astype(jnp.uint8) if wanted else image
        return jnp.where(flipped, changed[:, ::-1], changed)

    return jax.vmap(one)(images, keys)


def crop(image: jax.Array, key: jax.Array, area: tuple[float, float] = (0.2, 1.0)) -> jax.Array:
    """Keeps a random rectangle at its place and blackens the rest.

    `area`: least and greatest share of the image to keep.

    References: Kim et al., AdaFace (arXiv:2204.00964).
    """
    height, width, _ = image.shape
    inside = _rectangle(key, (height, width), area, (3 / 4, 4 / 3))
    return jnp.where(inside[:, :, None], image, 0.0)


def erase(image: jax.Array, key: jax.Array, area: tuple[float, float] = (0.02, 0.33)) -> jax.Array:
    """Covers a random rectangle with uniform noise.

    `area`: least and greatest share of the image that is covered.

    References: Zhong et al., Random Erasing Data Augmentation (arXiv:1708.04896).
    """
    where, noise = jax.random.split(key)
    height, width, _ = image.shape
    inside = _rectangle(where, (height, width), area, (0.3, 1 / 0.3))
    return jnp.where(
        inside[:, :, None], jax.random.uniform(noise, image.shape, maxval=255.0), image
    )


def change_colours(image: jax.Array, key: jax.Array, strength: float = 0.5) -> jax.Array:
    """Changes brightness, contrast and saturation, in random order.

    Each by a factor f, uniform in [1 − strength, 1 + strength]: f·x + (1 − f)·r, where r is black,
    the mean grey of the image, or the pixel's own grey.
    """
    factors_key, order_key = jax.random.split(key)
    factors = jax.random.uniform(factors_key, (3,), minval=1.0 - strength, maxval=1.0 + strength)

    def blend(pixels: jax.Array, reference: jax.Array, factor: jax.Array) -> jax.Array:
        return jnp.clip(factor * pixels + (1.0 - factor) * reference, 0.0, 255.0)

    def grey(pixels: jax.Array) -> jax.Array:
        return (pixels @ jnp.array([0.299, 0.587, 0.114]))[:, :, None]

    branches = [
        lambda pixels: blend(pixels, jnp.zeros_like(pixels), factors[0]),
        lambda pixels: blend(pixels, jnp.full_like(pixels, grey(pixels).mean()), factors[1]),
        lambda pixels: blend(pixels, jnp.broadcast_to(grey(pixels), pixels.shape), factors[2]),
    ]
    for which in jax.random.permutation(order_key, 3):
        image = jax.lax.switch(which, branches, image)
    return image


def lower_resolution(
    image: jax.Array, key: jax.Array, ratio: tuple[float, float] = (0.2, 1.0)
) -> jax.Array:
    """Scales the image down, with antialiasing, and up again, smoothly or in blocks.

    `ratio`: least and greatest ratio of the small side to the image's.

    References: Kim et al., AdaFace (arXiv:2204.00964).
    """
    ratio_key, blocks_key = jax.random.split(key)
    scale = jax.random.uniform(ratio_key, minval=ratio[0], maxval=ratio[1])
    blocks = jax.random.bernoulli(blocks_key)
    rows = _down_and_up(image.shape[0], scale, blocks)
    columns = _down_and_up(image.shape[1], scale, blocks)
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def draw_mask(image: jax.Array, key: jax.Array) -> jax.Array:
    """Draws a face mask over nose, mouth and chin of an aligned crop.

    Its upper edge, width, colour and folds vary; eyes stay free.
    """
    edge_key, width_key, colour_key, fold_key = jax.random.split(key, 4)
    height, width = image.shape[:2]
    # Coordinates of the 112×112 template, whatever the image's size.
    y = (jnp.arange(height)[:, None] + 0.5) * (112.0 / height) - 0.5
    x = (jnp.arange(width)[None, :] + 0.5) * (112.0 / width) - 0.5
    across = (x - 55.9) / jax.random.uniform(width_key, minval=34.0, maxval=42.0)
    upper = jax.random.uniform(edge_key, minval=62.0, maxval=72.0) + 8.0 * across**2
    chin = 118.0 - 24.0 * across**4
    covered = (y > upper) & (y < chin) & (jnp.abs(across) < 1.0)
    period, phase, depth = jax.random.uniform(
        fold_key, (3,), minval=jnp.array([7.0, 0.0, 0.0]), maxval=jnp.array([14.0, 6.3, 0.12])
    )
    shade = (1.0 - 0.25 * across**2) * (
        1.0 - depth * (1.0 + jnp.sin(y * (6.2832 / period) + phase))
    )
    colour = jax.random.uniform(colour_key, (3,), minval=30.0, maxval=255.0)
    return jnp.where(covered[:, :, None], shade[:, :, None] * colour, image)


def _rectangle(
    key: jax.Array, shape: tuple[int, int], area: tuple[float, float], aspect: tuple[float, float]
) -> jax.Array:
    """bool [height, width]: a random rectangle; share of the area uniform, ratio log-uniform."""
    area_key, aspect_key, place_key = jax.random.split(key, 3)
    height, width = shape
    pixels = jax.random.uniform(area_key, minval=area[0], maxval=area[1]) * (height * width)
    ratio = jnp.exp(
        jax.random.uniform(aspect_key, minval=jnp.log(aspect[0]), maxval=jnp.log(aspect[1]))
    )
    # A side that would be longer than the image's is cut, and the other one lengthened to keep the
    # area.
    tall = jnp.clip(jnp.sqrt(pixels / ratio), pixels / width, height)
    size = jnp.clip(jnp.round(jnp.stack([tall, pixels / tall])), 1, jnp.array(shape))
    start = jnp.floor(jax.random.uniform(place_key, (2,)) * (jnp.array(shape) - size + 1))
    rows = (jnp.arange(height) >= start[0]) & (jnp.arange(height) < start[0] + size[0])
    columns = (jnp.arange(width) >= start[1]) & (jnp.arange(width) < start[1] + size[1])
    return rows[:, None] & columns[None, :]


def _down_and_up(length: int, scale: jax.Array, blocks: jax.Array) -> jax.Array:
    """[length, length]: resampling to round(scale · length) samples and back, as one matrix.

    Jitted array sizes are fixed, so the small grid has `length` places and uses the first ones.
    """
    small = jnp.maximum(jnp.round(scale * length), 1.0)
    step = length / small
    grid = jnp.arange(length)
    used = grid < small
    full = grid + 0.5
    # Down: a triangle as wide as the small grid's step around each of its centres.
    down = jnp.maximum(1.0 - jnp.abs(full[None, :] - (full * step)[:, None]) / step, 0.0)
    down = down / jnp.maximum(down.sum(axis=1, keepdims=True), 1e-6)
    # Up: between the two nearest centres, or the nearest one.
    position = jnp.clip(full / step - 0.5, 0.0, small - 1.0)
    position = jnp.where(blocks, jnp.clip(jnp.floor(full / step), 0.0, small - 1.0), position)
    up = jnp.maximum(1.0 - jnp.abs(position[:, None] - grid[None, :]), 0.0) * used[None, :]
    return jnp.matmul(up, down, precision="highest")
