"""Encoded bytes to RGB pixels, and pixels to the network's size.

Files come from strangers, so every way in is bounded: the number of pixels is read from the header
before any is decoded, only raster formats are admitted, and whatever a decoder raises becomes one
`InputError` that names the image.
"""

import io
import re

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from arcface_jax.errors import InputError, reason

try:
    import simplejpeg
except ImportError:  # Pillow decodes JPEG too, at about half the speed and with looser checks
    simplejpeg = None

MAX_PIXELS = 50_000_000
"""Images of more pixels are refused before decoding, whatever their file size."""

_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "WEBP", "TIFF", "GIF")
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
    )
)
_JPEG_START = b"\xff\xd8\xff"
_EXIF_ORIENTATION = 0x0112


def decode(encoded: bytes, name: str) -> np.ndarray:
    """Decodes one image file's bytes.

    JPEG goes through libjpeg-turbo in strict mode, so that a damaged stream is an error and not a
    half-grey face. The EXIF orientation is applied. Grey, palette and 1-bit images become RGB,
    16-bit samples keep their high byte, and transparent pixels are laid over white. The first frame
    of several counts.

    Args:
      encoded: the file's content: JPEG, PNG, PGM, PPM, BMP, WebP, TIFF or GIF.
      name: the file or record, for the error message.

    Returns: uint8 [height, width, 3], RGB.

    Raises:
      InputError: empty, damaged, of an unknown format, or of more than `MAX_PIXELS` pixels.
    """
    if not encoded:
        raise InputError(f"{name}: empty image (0 bytes); remove or replace it")
    if simplejpeg is not None and encoded[:3] == _JPEG_START:
        return _decode_jpeg(encoded, name)
    return _decode_with_pillow(encoded, name)


def suffix_of(start: bytes) -> str | None:
    """The usual suffix of the format that the first 16 bytes of an image file tell; None for a
    format that `decode` does not read.
    """
    return next((suffix for signature, suffix in _SIGNATURES if signature.match(start)), None)


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a uint8 [height, width, 3] image, lossless: `decode` gives it back."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def resize(image: np.ndarray, size: int | tuple[int, int]) -> np.ndarray:
    """Makes an image size × size, or height × width, without distorting it.

    The largest centred part with these proportions is cut out, then scaled by bicubic interpolation
    with an antialiasing support. Stretching would change the proportions of a face, and padding
    would add borders that a network trained on aligned crops has never seen; so what is lost is the
    margin of the longer side. An image that has the size already is returned as it is.

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
    """(height, width) of an image size that may be the side of a square."""
    return (size, size) if isinstance(size, int) else size


def _decode_jpeg(encoded: bytes, name: str) -> np.ndarray:
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(encoded)
        _check_pixels(width, height, name)
        # turbojpeg does not turn these into RGB; Pillow does.
        if colorspace not in ("CMYK", "YCCK"):
            image = simplejpeg.decode_jpeg(encoded, colorspace="RGB")
            return _upright(image, encoded)
    except InputError:
        raise
    except Exception as error:  # ValueError for damage, others for what turbojpeg cannot represent
        raise InputError(
            f"{name}: cannot decode this JPEG ({reason(error)}); remove or replace it"
        ) from error
    return _decode_with_pillow(encoded, name)


def _upright(image: np.ndarray, encoded: bytes) -> np.ndarray:
    """Applies the EXIF orientation, which turbojpeg ignores."""
    if b"Exif\0\0" not in encoded[:4096]:
        return image
    orientation = (
        Image.open(io.BytesIO(encoded), formats=_FORMATS).getexif().get(_EXIF_ORIENTATION, 1)
    )
    if orientation == 1:
        return image
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = orientation
    rotated = Image.fromarray(image)
    rotated.info["exif"] = exif.tobytes()
    return np.asarray(ImageOps.exif_transpose(rotated))


def _decode_with_pillow(encoded: bytes, name: str) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            _check_pixels(image.width, image.height, name)
            if image.format == "PNG":  # loading ignores the checksums of the pixel data
                Image.open(io.BytesIO(encoded), formats=("PNG",)).verify()
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), name)
    except InputError:
        raise
    except UnidentifiedImageError as error:  # its own message gives an address in memory
        known = "no image of a known format: " + ", ".join(_FORMATS)
        raise InputError(
            f"{name}: cannot decode this image ({known}); remove or replace it"
        ) from error
    except Exception as error:
        # Pillow's plugins raise OSError, SyntaxError, struct.error, IndexError and more.
        raise InputError(
            f"{name}: cannot decode this image ({reason(error)}); remove or replace it"
        ) from error


def _to_rgb(image: Image.Image, name: str) -> np.ndarray:
    # 16-bit grey; convert("RGB") would clip at 255 instead of scaling.
    if image.mode.startswith("I"):
        grey = np.clip(np.asarray(image).astype(np.int64), 0, 65535) >> 8
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise InputError(
            f"{name}: floating-point pixels have no agreed range; save the image with 8 bits a "
            "channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.array(image.convert("RGB"))


def _check_pixels(width: int, height: int, name: str) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{name}: {width}×{height} pixels, more than the limit of {MAX_PIXELS:,}; scale it down"
        )
