"""Batched, anti-aliased drawing with signed distances.

A canvas holds a batch of pictures as planes. Drawing uses only addition, multiplication, division,
square root, comparison and rounding of each pixel's own float32 numbers. IEEE 754 fixes these to
the last bit, so a picture does not depend on the rest of the batch.
"""

import dataclasses

import numpy as np

SHADE = 3
"""The plane after red, green and blue: the light on what is drawn there."""


def column(values: np.ndarray) -> np.ndarray:
    """float32 [B, 1, 1], one number per picture."""
    return np.asarray(values, np.float32).reshape(-1, 1, 1)


def unit(values: np.ndarray) -> np.ndarray:
    """Clips to [0, 1]."""
    return np.minimum(np.maximum(values, np.float32(0.0)), np.float32(1.0))


def smooth(values: np.ndarray) -> np.ndarray:
    """Smoothstep of values clipped to [0, 1], t²(3 − 2t)."""
    t = unit(values)
    return t * t * (3.0 - 2.0 * t)


def bump(square: np.ndarray) -> np.ndarray:
    """A soft spot, (1 − r²)² inside the unit circle; takes the squared distance r²."""
    t = np.maximum(1.0 - square, np.float32(0.0))
    return t * t


def wave(turns: np.ndarray) -> np.ndarray:
    """sin(2π·turns) to 6 %, by parabolas."""
    t = turns - np.rint(turns)
    return t * (8.0 - 16.0 * np.abs(t))


@dataclasses.dataclass
class Canvas:
    """A batch of pictures being drawn.

    Attributes:
      x, y: float32 [B, h, w], each pixel's position in the projected head's plane.
      pixel: float32 [B, 1, 1], the size of a pixel in that plane.
      planes: float32 [4, B, h, w], red, green, blue in [0, 1] and SHADE.
      within: float32 [B, h, w], a stencil: the opacity of what is drawn. None for no stencil.
    """

    x: np.ndarray
    y: np.ndarray
    pixel: np.ndarray
    planes: np.ndarray
    within: np.ndarray | None = None

    def rows(self, top: float, bottom: float) -> "Canvas":
        """A view of the rows from `top` to `bottom`, fractions of the height."""
        height = self.x.shape[1]
        band = slice(int(np.floor(top * height)), int(np.ceil(bottom * height)))
        within = None if self.within is None else self.within[:, band]
        return Canvas(self.x[:, band], self.y[:, band], self.pixel, self.planes[:, :, band], within)

    def cover(self, distance: np.ndarray, softness: float = 0.0) -> np.ndarray:
        """The share of each pixel inside a shape, where `distance` < 0."""
        return smooth(0.5 - distance / (1.3 * self.pixel + softness))

    def band(
        self, value: np.ndarray, low: np.ndarray | float, high: np.ndarray | float
    ) -> np.ndarray:
        """The share of each pixel where low < value < high; exact for thin stripes."""
        centre = value / self.pixel + 0.5
        return np.maximum(
            unit(centre - low / self.pixel) - unit(centre - high / self.pixel), np.float32(0.0)
        )

    def paint(
        self, alpha: np.ndarray | float, colour: np.ndarray, shade: np.ndarray | float | None = None
    ) -> None:
        """Lays `colour` [B, 3] over the picture by `alpha`, and `shade` over the light."""
        alpha = alpha if self.within is None else alpha * self.within
        for plane, value in zip(self.planes[:SHADE], colour.T, strict=True):
            plane += alpha * (column(value) - plane)
        if shade is not None:
            plane = self.planes[SHADE]
            plane += alpha * (shade - plane)

    def darken(self, alpha: np.ndarray) -> None:
        """Removes the share `alpha` of the light."""
        alpha = alpha if self.within is None else alpha * self.within
        self.planes[SHADE] *= 1.0 - alpha
