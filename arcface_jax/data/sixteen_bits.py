"""Reduces images of more than 8 bits per sample to 8; the file or its samples tell which bits."""

import contextlib
import contextvars
import io
import logging
import re
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from arcface_jax.data.orientation import forget_details

_PNG_DEPTH = 24  # offset of a PNG's bit depth
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_PLANES = 258, 262, 284
_WHITE_IS_ZERO, _SEPARATE = 0, 2
_SURELY_16_BITS = 1 << 14
"""A sample of this size or more means 16 bits: cameras give 10, 12, 14 or 16."""
_WARNED_OF: set[int] = set()
_NOTED: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("noted", default=None)


class Deep(NamedTuple):
    """Samples of more than 8 bits, and what their file says about their range.

    Attributes:
      colours: uint16 [height, width, 1 or 3], grey or RGB.
      opacity: uint16 [height, width, 1]; None if all pixels are opaque.
      maxval: the largest possible value; None if not stated.
      bits: significant bits, as a PNG's sBIT chunk has them, of colours and opacity; None without.
      white_is_zero: whether 0 is white.
    """

    colours: np.ndarray
    opacity: np.ndarray | None = None
    maxval: int | None = None
    bits: tuple[int, int] | None = None
    white_is_zero: bool = False


def read_deep(image: ImageFile.ImageFile, encoded: bytes) -> Deep | None:
    """The samples of a PNG, TIFF, PGM or PPM of more than 8 bits; None for another image.

    Pillow gives one byte per colour sample. Another name for the same byte layout gets the other
    byte.

    Args:
      image: as opened by Pillow, not loaded.
      encoded: its file's content.
    """
    args = image.tile[0].args if image.tile else None
    rawmode, *options = (args,) if isinstance(args, str) else (args or ("",))
    if image.format == "PPM":
        return _read_pnm(image, encoded, int(options[0]) if options else 65535, rawmode)
    if image.format == "PNG" and encoded[_PNG_DEPTH] == 16:
        return _read_png(image, encoded, rawmode)
    if image.format == "TIFF":
        return _read_tiff(image, encoded, rawmode)
    return None


@contextlib.contextmanager
def noting_unsaid_bits() -> Iterator[list[int]]:
    """Collects, inside the context, the largest sample of each image that this thread decodes and
    that does not say how many of its 16 bits count.
    """
    noted: list[int] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def bits_of(largest: int) -> int:
    """The number of bits assumed for an image when only its largest sample is known."""
    return next((bits for bits in (8, 12) if largest < 1 << bits), 16)


def to_eight_bits(deep: Deep, name: str) -> np.ndarray:
    """The highest 8 bits, over white where pixels are transparent: uint8 [height, width, 3].

    `decode.decode` says which they are; `name` is for the warning about the assumption.
    """
    of_colours, of_opacity = deep.bits or (None, None)
    result = _highest(deep.colours, deep.maxval, of_colours, name)
    if deep.maxval is None and of_colours is None and (noted := _NOTED.get()) is not None:
        noted.append(int(deep.colours.max()))
    if deep.white_is_zero:
        result = 255 - result
    if deep.opacity is not None:
        opacity = _highest(deep.opacity, deep.maxval, of_opacity, name).astype(np.uint32)
        result = ((result * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)
    return np.broadcast_to(result, (*result.shape[:2], 3)).copy()


def _highest(samples: np.ndarray, maxval: int | None, bits: int | None, name: str) -> np.ndarray:
    largest = int(samples.max())
    if maxval is not None:
        top = maxval
    elif bits is not None:
        top = 65535 if largest >= 1 << bits or _is_scaled(samples, bits) else (1 << bits) - 1
    else:
        top = (1 << bits_of(largest)) - 1
        if 0 < largest < _SURELY_16_BITS:
            _warn(name, largest)
    samples = np.minimum(samples, top).astype(np.uint32)
    return (samples * 255 // top if top < 255 else samples * 256 // (top + 1)).astype(np.uint8)


def _is_scaled(samples: np.ndarray, bits: int) -> bool:
    """Whether samples of so many bits were shifted or scaled to fill 16, as PNG requires."""
    if not np.any(samples & ((1 << (16 - bits)) - 1)):
        return True
    full = (1 << bits) - 1
    original = (samples.astype(np.uint32) * full + 32767) // 65535
    return bool(np.all((original * 65535 + full // 2) // full == samples))


def _warn(name: str, largest: int) -> None:
    bits = bits_of(largest)
    if bits not in _WARNED_OF:
        _WARNED_OF.add(bits)
        logging.getLogger("arcface_jax").warning(
            "%s: does not say how many of its 16 bits count; as its largest sample is %s, it is "
            "taken for %d bits, here and in other such images; rewrite them with 8 bits a channel "
            "if that is wrong",
            *(name, f"{largest:,}", bits),
        )


def _read_pnm(image: ImageFile.ImageFile, encoded: bytes, maxval: int, rawmode: str) -> Deep | None:
    """Reads it directly: Pillow would go pixel by pixel and give 8-bit colours."""
    raw = image.tile[0].codec_name == "raw" and rawmode != "I;16B"
    if raw or maxval < 256 or image.mode not in ("I", "RGB"):
        return None
    width, height = image.size
    shape = (height, width, 3 if image.mode == "RGB" else 1)
    start, count = image.tile[0].offset, height * width * shape[2]
    if image.tile[0].codec_name == "ppm_plain":
        words = re.sub(rb"#[^\n]*", b"", encoded[start:]).split(maxsplit=count)[:count]
        numbers = [int(word) for word in words]
        if len(numbers) < count:
            raise ValueError("image file is truncated")
        if not 0 <= min(numbers) <= max(numbers) <= maxval:
            raise ValueError(f"it has samples outside 0 to {maxval}, its own largest value")
        samples = np.array(numbers, np.uint16)
    else:
        samples = np.frombuffer(encoded, ">u2", count, start)
    return Deep(samples.reshape(shape), maxval=None if maxval == 65535 else maxval)


def _read_png(image: ImageFile.ImageFile, encoded: bytes, rawmode: str) -> Deep:
    if rawmode == "LA;16B":
        image.load()
        four = _read_as(image.format, encoded, "RGBA").astype(np.uint16)
        samples = four[..., ::2] << 8 | four[..., 1::2]
    else:
        samples = _both_bytes(image, encoded, rawmode)
    channels = samples.shape[2]
    colours = samples[..., : 1 if channels < 3 else 3]
    opacity = samples[..., -1:] if channels in (2, 4) else None
    if "transparency" in image.info:  # one grey or colour
        seen = np.any(colours != np.array(image.info["transparency"]), axis=-1, keepdims=True)
        opacity = np.where(seen, np.uint16(65535), np.uint16(0))
    said = _significant_bits(encoded)
    bits = None
    if len(said) == channels and all(1 <= one <= 16 for one in said):
        bits = (max(said[: colours.shape[2]]), said[-1] if channels in (2, 4) else 16)
    return Deep(colours, opacity, bits=bits)


def _significant_bits(encoded: bytes) -> bytes:
    """The content of a PNG's sBIT chunk; empty without one."""
    at = 8
    while (kind := encoded[at + 4 : at + 8]) not in (b"IDAT", b""):
        length = int.from_bytes(encoded[at : at + 4], "big")
        if kind == b"sBIT":
            return encoded[at + 8 : at + 8 + length]
        at += 12 + length
    return b""


def _read_tiff(image: ImageFile.ImageFile, encoded: bytes, rawmode: str) -> Deep | None:
    tags = image.tag_v2  # type: ignore[attr-defined]
    if tags.get(_TIFF_PLANES) == _SEPARATE and max(tags.get(_TIFF_BITS, (1,))) > 8:
        raise ValueError("16-bit colours lie in planes; save them pixel by pixel")
    grey = rawmode.startswith("I;")
    if not grey and not re.fullmatch(r"RGB[AX]?;16[BLN]", rawmode):
        return None
    samples = _both_bytes(image, encoded, rawmode)
    return Deep(
        samples[..., : 1 if grey else 3],
        samples[..., 3:] if samples.shape[2] == 4 else None,
        maxval=4095 if rawmode == "I;12" else None,
        white_is_zero=grey and tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO,
    )


def _both_bytes(image: ImageFile.ImageFile, encoded: bytes, rawmode: str) -> np.ndarray:
    image.load()
    high = np.asarray(image).astype(np.uint16)
    if rawmode.startswith("I;"):
        return high[:, :, None]
    order = rawmode[-1].replace("N", "L" if sys.byteorder == "little" else "B")
    return high << 8 | _read_as(image.format, encoded, rawmode[:-1] + "BL".replace(order, ""))


def _read_as(format: str | None, encoded: bytes, rawmode: str) -> np.ndarray:
    with Image.open(io.BytesIO(encoded), formats=(str(format),)) as image:
        image.tile = [
            tile._replace(args=(rawmode, *tile.args[1:]) if type(tile.args) is tuple else rawmode)
            for tile in image.tile
        ]
        if format == "TIFF":
            forget_details(image)
        image.load()
        return np.asarray(image)
