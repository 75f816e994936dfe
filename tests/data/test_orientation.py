"""Which way up an image is, wherever its file says so, and with both JPEG decoders."""

import io
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from arcface_jax.data import decode as decode_module
from arcface_jax.data.decode import READS_AVIF, decode
from arcface_jax.errors import InputError
from tests.data.png_by_hand import chunk, png

UPRIGHT = ("RGBW", "GRWB", "WBGR", "BWRG", "RBGW", "BRWG", "WGBR", "GWRB")
"""The quarters of `STORED` in reading order, seen by orientations 1 … 8 (Exif 2.32)."""

COLOURS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
STORED = np.zeros((32, 48, 3), np.uint8)
for _number, _name in enumerate("RGBW"):
    _row, _column = divmod(_number, 2)
    STORED[16 * _row : 16 * _row + 16, 24 * _column : 24 * _column + 24] = COLOURS[_name]


def quarters(image: np.ndarray) -> str:
    """Names of the four quarters' colours in reading order."""
    height, width, _ = image.shape
    seen = [
        image[row, column].astype(int)
        for row in (height // 4, height * 3 // 4)
        for column in (width // 4, width * 3 // 4)
    ]
    return "".join(min(COLOURS, key=lambda name: np.abs(one - COLOURS[name]).sum()) for one in seen)


def exif(orientation: int, order: str = "<", kind: int = 3) -> bytes:
    """A block of EXIF with a second tag before the orientation."""
    number = struct.pack(order + {1: "B", 3: "H", 4: "I"}[kind], orientation).ljust(4, b"\0")
    return (
        {"<": b"II*\0", ">": b"MM\0*"}[order]
        + struct.pack(order + "IHHHIIHHI", 8, 2, 0x0100, 3, 1, 0, 0x0112, kind, 1)
        + number
        + bytes(4)
    )


def segment(content: bytes, marker: int = 0xE1) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def exif_segment(*arguments, **options) -> bytes:
    return segment(b"Exif\0\0" + exif(*arguments, **options))


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def xmp_segment(orientation: int) -> bytes:
    return segment(b"http://ns.adobe.com/xap/1.0/\0" + xmp(orientation))


def saved(format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(STORED).save(buffer, format=format, **options)
    return buffer.getvalue()


JPEG = saved("JPEG", quality=95, subsampling=0)
PNG = saved("PNG")
ICC = b"".join(
    segment(b"ICC_PROFILE\0" + bytes([part, 3]) + bytes(65000), 0xE2) for part in (1, 2, 3)
)
THUMBNAIL = segment(b"JFXX\0\x10" + JPEG[:2000] + exif_segment(3), 0xE0)
LONG_XMP = segment(b"http://ns.adobe.com/xap/1.0/\0" + b"<x/>" * 12000)
MORE_XMP = segment(b"http://ns.adobe.com/xmp/extension/\0" + b"0" * 60000)


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(decode_module, "simplejpeg", None)


BEFORE_EXIF = {
    "nothing": b"",
    "a JFIF thumbnail": THUMBNAIL,
    "an ICC profile in three parts": ICC,
    "long XMP": LONG_XMP + MORE_XMP,
    "all of them": THUMBNAIL + LONG_XMP + MORE_XMP * 3 + ICC,
    "XMP that says otherwise": xmp_segment(3),
    "EXIF that is broken": segment(b"Exif\0\0II*\0" + bytes(4) + b"\xff\xff"),
    "EXIF that is empty": segment(b"Exif\0\0"),
    "EXIF without it": segment(b"Exif\0\0" + exif(1).replace(b"\x12\x01", b"\x13\x01")),
    "fill bytes": b"\xff" * 7,
    "junk": b"\0junk\xff\0",
}


@pytest.mark.parametrize("before", BEFORE_EXIF)
def test_exif_of_a_jpeg_is_found_behind_anything(before, decoder):
    encoded = JPEG[:20] + BEFORE_EXIF[before] + exif_segment(6) + JPEG[20:]  # after JFIF's
    assert quarters(decode(encoded, "x")) == UPRIGHT[6 - 1]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied_once(orientation, decoder):
    wanted = UPRIGHT[orientation - 1]
    variants = {
        "little-endian": exif_segment(orientation),
        "big-endian": exif_segment(orientation, ">"),
        "as a long": exif_segment(orientation, kind=4),
        "as a byte": exif_segment(orientation, kind=1),
        "XMP alone": xmp_segment(orientation),
        "XMP as well": exif_segment(orientation) + xmp_segment(orientation),
        "two segments": exif_segment(orientation) + exif_segment(1 + orientation % 8),
    }
    for name, header in variants.items():
        image = decode(JPEG[:2] + header + JPEG[2:], "x")
        assert quarters(image) == wanted, name
        assert image.shape == ((48, 32, 3) if orientation >= 5 else (32, 48, 3)), name
        assert image.flags.c_contiguous


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"II",
        b"no TIFF header",
        b"II*\0\xff\xff\xff\xff",
        exif(6)[:20],
        exif(0),
        exif(9),
        exif(65535),
        exif(6).replace(b"\x12\x01\x03\0", b"\x12\x01\x02\0"),  # as text
        b"MM\0*\0\0\0\x08\xff\xff" + b"\x01\0\0\x02\xff\xff\xff\xff\xff\xff\xff\xff" * 3,
    ],
)
def test_broken_exif_stops_no_readable_image(broken, decoder):
    png_exif = chunk(b"eXIf", broken)
    files = [JPEG[:2] + segment(b"Exif\0\0" + broken) + JPEG[2:], PNG[:33] + png_exif + PNG[33:]]
    for encoded in files:
        assert quarters(decode(encoded, "x")) == "RGBW"


@pytest.mark.parametrize("pointer", [0x8769, 0x8825])
def test_a_tiff_may_point_to_exif_that_is_not_there(pointer):
    tags = {pointer: 4000000, 0x0112: 6}
    assert quarters(decode(saved("TIFF", tiffinfo=tags), "x")) == UPRIGHT[6 - 1]
    buffer = io.BytesIO()
    samples = STORED.astype(np.uint16) * 257
    extra = [(0x0112, "H", 1, 6, True), (pointer, "I", 1, 4000000, True)]
    tifffile.imwrite(buffer, samples, photometric="rgb", extratags=extra)
    assert quarters(decode(buffer.getvalue(), "x")) == UPRIGHT[6 - 1]


def raw_profile(block: bytes) -> bytes:
    """EXIF as ImageMagick used to write it into a PNG: hexadecimal text."""
    block = b"Exif\0\0" + block
    lines = [block.hex()[at : at + 72] for at in range(0, 2 * len(block), 72)]
    text = "\n".join(["", "exif", f"{len(block):8d}", *lines, ""])
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text.encode()))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_png_webp_tiff_and_avif_are_turned_once(orientation):
    block = exif(orientation)
    tags = Image.Exif()
    tags[0x0112] = orientation
    itxt = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(orientation))
    files = {
        "before the pixels": PNG[:33] + chunk(b"eXIf", block) + PNG[33:],
        "behind the pixels": PNG[:-12] + chunk(b"eXIf", block) + PNG[-12:],
        "a raw profile": PNG[:33] + raw_profile(block) + PNG[33:],
        "XMP": PNG[:33] + itxt + PNG[33:],
        "WebP": saved("WEBP", lossless=True, exif=tags),
        "WebP, with a header": saved("WEBP", lossless=True, exif=b"Exif\0\0" + block),
        "TIFF": saved("TIFF", exif=tags),
        "TIFF in LZW": saved("TIFF", exif=tags, compression="tiff_lzw"),
        "TIFF with XMP": saved("TIFF", tiffinfo={0x0112: orientation, 700: xmp(orientation)}),
        **({"AVIF": saved("AVIF", quality=95, exif=tags)} if READS_AVIF else {}),
    }
    for name, encoded in files.items():
        assert quarters(decode(encoded, "x")) == UPRIGHT[orientation - 1], name


@pytest.mark.parametrize(
    ("channels", "bright"),
    [([0], [0, 1, 1, 0]), ([0, 1], [1, 1, 1, 0]), ([0, 0, 0], [0, 1, 1, 0])],
    ids=["grey", "grey and opacity", "RGB"],
)
def test_a_png_of_16_bits_is_turned_too(channels, bright):
    """Its two bytes a sample are read one after the other; the EXIF stands behind them."""
    samples = STORED[..., channels].astype(np.uint16) * 257
    image = decode(png(samples, behind=chunk(b"eXIf", exif(6))), "x")
    assert image.shape == (48, 32, 3)
    np.testing.assert_array_equal(image[12::24, 8::16, 0].ravel() // 255, bright)


def test_a_jpeg_whose_exif_is_cut_off_is_an_error(decoder):
    with pytest.raises(InputError, match=r"^face\.jpg: cannot decode"):
        decode(JPEG[:2] + exif_segment(6)[:20], "face.jpg")
