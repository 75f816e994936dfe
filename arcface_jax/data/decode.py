"""Encoded bytes to RGB pixels, and pixels to the network's size.

Files come from strangers, so decoding is bounded: it reads the number of pixels from the header
before it decodes any, admits only raster formats, and turns every decoder error into one
`InputError` that names the image.
"""

import contextlib
import contextvars
import io
import logging
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features

from arcface_jax.data.orientation import (
    forget_details,
    jpeg_orientation,
    jpeg_segments,
    orientation_left,
    upright,
)
from arcface_jax.data.sixteen_bits import read_deep, to_eight_bits
from arcface_jax.errors import InputError, reason

try:
    import simplejpeg
except ImportError:  # Pillow decodes JPEG too, at about half the speed and with looser checks
    simplejpeg = None

MAX_PIXELS = 50_000_000
"""Images of more pixels are refused before decoding, whatever their file size."""

READS_AVIF = "avif" in features.modules and bool(features.check("avif"))
"""Whether the installed Pillow decodes AVIF."""

_FORMATS = (
    *("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF"),
    *(("AVIF",) if READS_AVIF else ()),
)
_SIGNATURES = tuple(
    (re.compile(start, re.DOTALL), suffix)
    for start, suffix in (
        (rb"\xff\xd8\xff", ".jpg"),
        (rb"\x89PNG", ".png"),
        (rb"GIF8[79]a", ".gif"),
        (rb"BM....\0\0\0\0", ".bmp"),
        (rb"RIFF....WEBP", ".webp"),
        (rb"II\*\0|MM\0\*", ".tif"),
        (rb"P[14]\s", ".pbm"),
        (rb"P[25]\s", ".pgm"),
        (rb"P[36]\s", ".ppm"),
        *([(rb"....ftypavi[fs]", ".avif")] if READS_AVIF else []),
    )
)
_JPEG_START = b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_METADATA = (*range(0xE0, 0xF0), 0xFE)  # application segments and comments
_ABOUT_COLOURS = (0xE0, 0xEE)  # JFIF's and Adobe's
_PNG_DEPTH = 24  # offset of a PNG's bit depth
_TIFF_SAMPLE_FORMAT = 339
_SIGNED = 2
_SAID_FRAMES: set[str] = set()  # the formats of images with several that were warned of
_FRAMES: contextvars.ContextVar[list[int] | None] = contextvars.ContextVar("frames", default=None)


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decodes one image file's bytes.

    JPEG goes through libjpeg-turbo in strict mode, so a damaged stream is an error and not a
    half-grey face. Bytes after the end of the image, padding between its parts, and broken
    metadata, such as an incomplete colour profile, are ignored. EXIF's orientation is applied, or
    else XMP's; broken EXIF is ignored. Grey, palette and 1-bit images become RGB, and transparent
    pixels are laid over white.

    Of several frames or pages the first counts. The logger arcface_jax warns of the first such
    image of each format; `check` names all.

    With more than 8 bits per sample the highest 8 are kept. The number of bits comes from a PNG's
    sBIT chunk, or from a PGM's or PPM's maxval. Without it (a maxval of 65,535 says nothing) 16-bit
    samples count as 8 bits if all are under 256, and as 12 bits if all are under 4,096: cameras and
    programs write these, and their high bytes are nearly black. Samples of 10 or 14 bits come out
    darker by a factor of four. The logger arcface_jax warns of the first image of each such kind,
    and of the first of 16 bits whose samples are all under 16,384; `check` names those that do not
    fit the other images of their source. If a picture is meant to be so dark, it needs an sBIT
    chunk that says 16.

    Args:
      encoded: the file's content: JPEG, PNG, PGM, PPM, BMP, WebP, TIFF, GIF, or AVIF if Pillow
        supports it.
      name: the file or record, for the error message.

    Returns: uint8 [height, width, 3], RGB.

    Raises:
      InputError: empty, damaged, of an unknown format, of more than `MAX_PIXELS` pixels, or with
        samples of no standard range: floating-point, signed, or of 32 bits.
    """
    if not encoded:
        raise InputError(f"{name}: empty image (0 bytes); remove or replace it")
    if encoded[:3] == _JPEG_START:
        return _decode_jpeg(encoded, name)
    return _decode_with_pillow(encoded, name)


def suffix_of(start: bytes) -> str | None:
    """The usual suffix of an image file's format, from its first 16 bytes; None if `decode` does
    not read it.
    """
    return next((suffix for signature, suffix in _SIGNATURES if signature.match(start)), None)


@contextlib.contextmanager
def noting_frames() -> Iterator[list[int]]:
    """Collects the number of frames or pages of each multi-frame image that this thread decodes
    inside the context.
    """
    noted: list[int] = []
    token = _FRAMES.set(noted)
    try:
        yield noted
    finally:
        _FRAMES.reset(token)


def encode_png(image: np.ndarray) -> bytes:
    """Lossless PNG bytes of a uint8 [height, width, 3] image; `decode` restores it."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Makes an image size × size, or height × width, without distorting it.

    Cuts out the largest centred part with these proportions, then scales it by antialiased bicubic
    interpolation. Stretching would distort a face, and padding would add borders that a network
    trained on aligned crops has never seen; so the longer side loses its margins. An image of this
    size is returned unchanged.

    Args:
      image: uint8 [height, width, 3].
      size: of the result in pixels: its side, or (height, width).

    Returns: uint8 [height, width, 3].
    """
    wanted = height_and_width(size)
    if image.shape[:2] == wanted:
        return image
    scale = min(image.shape[0] / wanted[0], image.shape[1] / wanted[1])
    # Rounded, a side can come out longer than the image's.
    height, width = (min(scale * side, own) for side, own in zip(wanted, image.shape, strict=False))
    left, top = (image.shape[1] - width) / 2, (image.shape[0] - height) / 2
    box = (left, top, left + width, top + height)
    return np.asarray(
        Image.fromarray(image).resize(wanted[::-1], Image.Resampling.BICUBIC, box=box)
    )


def height_and_width(size: int | tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image size; a number is the side of a square."""
    return (size, size) if isinstance(size, int) else size


def _decode_jpeg(encoded: bytes, name: str) -> np.ndarray:
    image = None if simplejpeg is None else _decode_strictly(encoded, name)
    if image is None:
        # Metadata can be broken, and Pillow would read it.
        image = _decode_with_pillow(_without_metadata(encoded), name)
    return upright(image, jpeg_orientation(encoded))


def _decode_strictly(encoded: bytes, name: str) -> np.ndarray | None:
    """None for CMYK: turbojpeg cannot convert it to RGB, Pillow can."""
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        _check_pixels(width, height, name)
        if colorspace in ("CMYK", "YCCK"):
            return None
        return simplejpeg.decode_jpeg(encoded, colorspace="RGB")
    except InputError:
        raise
    except Exception as error:  # ValueError for damage, others for what turbojpeg cannot represent
        for clean in (_without_padding(encoded, str(error)), _without_metadata(encoded)):
            if len(clean) < len(encoded):
                return _decode_strictly(clean, name)
        raise InputError(
            f"{name}: cannot decode this JPEG ({reason(error)}); remove or replace it"
        ) from error


def _without_metadata(encoded: bytes) -> bytes:
    """The JPEG without segments that do not affect its pixels: EXIF, XMP, colour profiles, comments
    and programs' own data. They can be broken.
    """
    kept = [
        segment
        for marker, segment in jpeg_segments(encoded)
        if marker in _ABOUT_COLOURS or marker not in _METADATA
    ]
    return b"".join([encoded[:2], *kept])


def _without_padding(encoded: bytes, message: str) -> bytes:
    """The JPEG without bytes between its segments and, if the strict decoder reports bytes left
    over before the end, without all zeros there. Lost image data filled up with zeros are then too
    short.
    """
    *segments, scans = [segment for _, segment in jpeg_segments(encoded)] or [b""]
    if "extraneous bytes before marker 0xd9" in message:
        data, end, rest = scans.partition(_JPEG_END)
        data = data.rstrip(b"\0")
        scans = data + (b"\0" if data.endswith(b"\xff") else b"") + end + rest  # FF 00 is data
    return b"".join([encoded[:2], *segments, scans])


def _decode_with_pillow(encoded: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            _check_pixels(image.width, image.height, name)
            if image.format == "PNG":  # loading ignores the checksums of the pixel data
                Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
            pixels = upright(_to_rgb(image, encoded, name), orientation_left(image))
            _note_frames(image, name)
            return pixels
    except InputError:
        raise
    except UnidentifiedImageError as error:  # its own message gives an address in memory
        why = "no image of a known format: " + ", ".join(_FORMATS)
        if encoded[4:8] == b"ftyp":
            why = "HEIC, or another format that is not read; convert it to JPEG or PNG"
        elif suffix := suffix_of(encoded[:16]):
            why = f"a {suffix} file, damaged or of a rare kind such as 12 bits a channel"
        raise InputError(
            f"{name}: cannot decode this image ({why}); remove or replace it"
        ) from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, struct.error, IndexError and more.
        raise InputError(
            f"{name}: cannot decode this image ({reason(error)}); remove or replace it"
        ) from error


def _note_frames(image: ImageFile.ImageFile, name: str) -> None:
    """Notes an image with several frames, by its headers; warns of the first of each format."""
    frames = 1
    with contextlib.suppress(Exception):  # damaged ones after the first do not count
        frames = int(getattr(image, "n_frames", 1))
    if frames < 2:
        return
    if (noted := _FRAMES.get()) is not None:
        noted.append(frames)
    if image.format not in _SAID_FRAMES:
        _SAID_FRAMES.add(str(image.format))
        logging.getLogger("arcface_jax").warning(
            "%s: has %d frames or pages; the first counts, here and in other such images, which "
            "--check names; keep each that is wanted as a file of its own",
            *(name, frames),
        )


def _to_rgb(image: ImageFile.ImageFile, encoded: bytes, name: str) -> np.ndarray:
    tags = image.tag_v2 if image.format == "TIFF" else {}  # type: ignore[attr-defined]
    kinds = {
        "floating-point": image.mode == "F",
        "signed": _SIGNED in np.ravel(tags.get(_TIFF_SAMPLE_FORMAT, 1)),
        "32-bit": bool(tags) and image.mode == "I",
    }
    if any(kinds.values()):
        kind = next(kind for kind, found in kinds.items() if found)
        raise InputError(
            f"{name}: {kind} pixels have no agreed range; save the image with 8 bits a channel"
        )
    if tags:
        forget_details(image)
    deep = read_deep(image, encoded)
    if deep is not None:
        return to_eight_bits(deep, name)
    image.load()
    if image.format == "PNG" and image.mode == "L" and "transparency" in image.info:
        # Pillow scales 2 and 4 bits to 8, but not the grey that is transparent.
        image.info["transparency"] *= {2: 85, 4: 17}.get(encoded[_PNG_DEPTH], 1)
    rgb: Image.Image = image
    if image.has_transparency_data:
        rgb = image.convert("RGBA")
        rgb = Image.alpha_composite(Image.new("RGBA", image.size, "white"), rgb)
    return np.array(rgb.convert("RGB"))


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}×{height} pixels, more than the limit of {MAX_PIXELS:,}; scale it down"
        )
