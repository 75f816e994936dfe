"""Which way up an image is, from its metadata. Broken metadata is ignored."""

import contextlib
import re
import struct
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

_SCAN, _APP1 = 0xDA, 0xE1
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_IN_XMP = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([1-8])\b")
_TAG = 0x0112
_POINTERS = (0x8769, 0x8825, 0xA005)  # to EXIF, GPS, interoperability
_INTEGERS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}  # EXIF type → struct format


def jpeg_orientation(encoded: bytes) -> int:
    """1 … 8, from the first EXIF segment of a JPEG with an orientation, or else its XMP; else 1.

    Any segments may come before it.
    """
    if _EXIF not in encoded and _XMP not in encoded:
        return 1
    contents = [content[4:] for marker, content in jpeg_segments(encoded) if marker == _APP1]
    return _first(
        (content for content in contents if content.startswith(_EXIF)),
        (content for content in contents if content.startswith(_XMP)),
    )


def orientation_left(image: Image.Image) -> int:
    """1 … 8: the orientation still to apply to an image that Pillow has loaded; 1 for none.

    Loading rotates a TIFF, and may find EXIF after the pixels of a PNG.
    """
    if image.format == "TIFF":
        return 1
    exif = [image.info.get("exif")]
    if text := image.info.get("Raw profile type exif"):  # ImageMagick's: three lines, then digits
        with contextlib.suppress(ValueError):
            exif.append(bytes.fromhex("".join(str(text).split("\n")[3:])))
    xmp = [image.info.get("xmp")]
    return _first(
        (block for block in exif if isinstance(block, bytes)),
        (block for block in xmp if isinstance(block, bytes)),
    )


def forget_details(image: Image.Image) -> None:
    """Keeps Pillow from reading EXIF about exposure and place when it loads a TIFF; it can be
    broken.
    """
    exif = image.getexif()
    for pointer in _POINTERS:
        exif.pop(pointer, None)


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """The image [height, width, 3], turned upright by its orientation, 1 … 8.

    References: Exif 2.32 (CIPA DC-008), tag Orientation.
    """
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def jpeg_segments(encoded: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, bytes from the marker on) of each segment of a JPEG up to the first scan, which is
    all the rest. Bytes between segments are left out.
    """
    at = 2
    while (at := encoded.find(b"\xff", at)) >= 0 and at + 1 < len(encoded):
        marker = encoded[at + 1]
        if marker == _SCAN:
            yield marker, encoded[at:]
            return
        if marker == 0xFF:  # a fill byte
            at += 1
        elif marker in (0x00, 0x01):  # no marker, and one without content
            at += 2
        else:
            end = at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
            yield marker, encoded[at:end]
            at = end


def _first(exif: Iterable[bytes], xmp: Iterable[bytes]) -> int:
    for block in exif:
        if found := _in_exif(block.removeprefix(_EXIF)):
            return found
    for block in xmp:
        if match := _IN_XMP.search(block):
            return int(match[1])
    return 1


def _in_exif(block: bytes) -> int | None:
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return None
    try:
        (start,) = struct.unpack_from(f"{order}I", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == _TAG and kind in _INTEGERS:
                (value,) = struct.unpack_from(f"{order}{_INTEGERS[kind]}", block, entry + 8)
                return value if 1 <= value <= 8 else None
    except struct.error:  # cut short
        pass
    return None
