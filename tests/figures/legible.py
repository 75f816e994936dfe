"""What holds for every picture: it fits a column, and its letters can be read there."""

import matplotlib.colors
from matplotlib.figure import Figure
from matplotlib.text import Text

from arcface_jax.figures.style import SMALLEST, WIDTH

LEAST_CONTRAST = 4.5
"""Of small letters (W3C, Web Content Accessibility Guidelines 2.2, 1.4.3)."""


def contrast(one: str, other: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of two colours' relative luminances, the lighter one first."""

    def luminance(colour: str) -> float:
        linear = (
            part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
            for part in matplotlib.colors.to_rgb(colour)
        )
        return sum(w * part for w, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def check_legible(figure: Figure) -> None:
    """Lays it out and reads every text in it."""
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= WIDTH
    assert matplotlib.colors.to_hex(figure.get_facecolor()) == "#ffffff"
    for text in figure.findobj(Text):
        said = text.get_text()
        if not said or not text.get_visible():
            continue
        assert text.get_fontsize() >= SMALLEST, said
        assert contrast(text.get_color(), "#ffffff") >= LEAST_CONTRAST, said
        assert "mathdefault" not in said, "a formula is written as it is, unread"
