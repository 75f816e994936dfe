"""Which 8 of more bits are kept, and what tells how many there are."""

import io
import logging
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from arcface_jax.data import sixteen_bits
from arcface_jax.data.check import check
from arcface_jax.data.decode import decode
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from tests.data.png_by_hand import chunk, png

RAMP = np.arange(256, dtype=np.uint16).reshape(16, 16, 1)
"""Every 8-bit value once."""


@pytest.fixture(autouse=True)
def said(caplog, monkeypatch):
    """What is said of images whose bits are taken for granted."""
    monkeypatch.setattr(sixteen_bits, "_WARNED_OF", set())
    caplog.set_level(logging.WARNING, "arcface_jax")
    return lambda: [record.getMessage() for record in caplog.records]


def colours(samples: np.ndarray) -> np.ndarray:
    """RGB whose channels differ: as it is, upside down, and back to front."""
    return np.concatenate([samples, samples[::-1], samples[:, ::-1]], axis=2)


def tiff(samples: np.ndarray, **options) -> bytes:
    buffer = io.BytesIO()
    photometric = "rgb" if samples.shape[-1] > 1 else "minisblack"
    tifffile.imwrite(buffer, samples.squeeze(), **{"photometric": photometric} | options)
    return buffer.getvalue()


def pnm(samples: np.ndarray, maxval: int, plain: bool = False) -> bytes:
    height, width, channels = samples.shape
    magic = {1: b"52", 3: b"63"}[channels]
    head = b"P%c\n# a comment\n%d %d\n%d\n" % (magic[plain], width, height, maxval)
    if plain:
        return head + b"# another\n" + " ".join(map(str, samples.ravel())).encode()
    return head + samples.astype(">u2" if maxval > 255 else np.uint8).tobytes()


WRITERS = {
    "PNG": png,
    "TIFF": tiff,
    "big-endian TIFF": lambda samples: tiff(samples, byteorder=">"),
    "deflated TIFF": lambda samples: tiff(samples, compression="zlib", predictor=True),
    "big-endian, deflated": lambda samples: tiff(samples, byteorder=">", compression="zlib"),
    "PNM": lambda samples: pnm(samples, 65535),
    "plain PNM": lambda samples: pnm(samples, 65535, plain=True),
}


@pytest.mark.parametrize("make", [lambda grey: grey, colours], ids=["grey", "RGB"])
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize(
    ("shift", "below", "bits"), [(0, 0, 8), (4, 15, 12), (6, 63, 16), (8, 255, None)]
)
def test_8_12_and_16_bits_give_the_same_picture(writer, make, shift, below, bits, said):
    """`below` fills the bits under the highest 8, which do not count. 14 bits are not told from
    16, so they are darker by a factor of four.
    """
    wanted = make(RAMP)
    image = decode(WRITERS[writer]((wanted << shift) + below), "face.img")
    np.testing.assert_array_equal(
        image, np.broadcast_to(wanted >> (2 if shift == 6 else 0), image.shape)
    )
    messages = [f"taken for {bits} bits"] if bits else []
    assert [message for one in said() for message in messages if message in one] == messages
    assert all(one.startswith("face.img: does not say how many of its 16 b") for one in said())


def test_it_is_said_once_for_each_number_of_bits(said):
    for number in range(3):
        decode(png(RAMP), f"{number}.png")
        decode(png(RAMP << 4), f"{number}.png")
        decode(png(RAMP << 6), f"{number}.png")
    assert [message.partition(", here")[0] for message in said()] == [
        "0.png: does not say how many of its 16 bits count; as its largest sample is "
        f"{largest}, it is taken for {bits} bits"
        for largest, bits in (("255", 8), ("4,080", 12), ("16,320", 16))
    ]


@pytest.mark.parametrize(
    ("largest", "named"),
    [
        ([255, 200], {}),
        ([255, 1020], {0: "taken for 8 bits", 1: "taken for 12 bits"}),  # of 10 bits
        ([1020, 1000, 4095], {}),
        ([4095, 16000], {0: "taken for 12 bits", 1: "taken for 16 bits"}),  # of 14 bits
        ([16000, 16384], {}),
        ([255, 4095, 65535], {0: "taken for 8 bits", 1: "taken for 12 bits"}),
        ([0, 65535], {}),  # black is black
    ],
)
def test_the_check_names_images_whose_bits_do_not_fit_the_others(tmp_path, largest, named):
    rng = np.random.default_rng(0)
    for number, top in enumerate(largest):
        (tmp_path / "p").mkdir(exist_ok=True)
        samples = rng.integers(0, top + 1, (16, 16, 1)).astype(np.uint16)
        samples[0, 0] = top
        encoded = tiff(samples) if number % 2 else png(samples)
        (tmp_path / "p" / f"{number}.img").write_bytes(encoded)
    said_of = chunk(b"sBIT", bytes([10]))
    (tmp_path / "p" / "said.png").write_bytes(png(RAMP << 2, said_of))
    (tmp_path / "p" / "said.pgm").write_bytes(pnm(RAMP << 2, 1023))
    findings = {each.kind: each for each in check(FolderSource(tmp_path)).findings}
    rows = findings["unsaid bits"].rows if "unsaid bits" in findings else ()
    assert {row.image: row.note for row in rows} == named
    assert [row.number for row in rows] == [largest[row.image] for row in rows]


@pytest.mark.parametrize(
    ("bits", "samples", "wanted"),
    [
        (8, [0, 1, 200, 255], [0, 1, 200, 255]),
        (10, [0, 4, 515, 1023], [0, 1, 128, 255]),
        (12, [0, 16, 2049, 4095], [0, 1, 128, 255]),
        (14, [0, 64, 8193, 16383], [0, 1, 128, 255]),
        (12, [0, 7, 100, 255], [0, 0, 6, 15]),  # dark, of 12 bits and not of 8
        (5, [0, 1, 30, 31], [0, 8, 246, 255]),
        (16, [0, 255, 256, 300], [0, 0, 1, 1]),  # a picture of 16 bits that is nearly black
        (8, [0, 257, 514, 65535], [0, 1, 2, 255]),  # filled up, as PNG wants it
        (12, [0, 16, 32, 48], [0, 0, 0, 0]),  # shifted up, and nearly black
        (12, [0, 2193, 2209, 4049], [0, 8, 8, 15]),  # scaled up: v · 65535 / 4095
        (12, [0, 2193, 2209, 65535], [0, 8, 8, 255]),
    ],
)
def test_a_png_can_say_its_bits(bits, samples, wanted, said):
    encoded = png(np.array(samples).reshape(2, 2, 1), chunk(b"sBIT", bytes([bits])))
    np.testing.assert_array_equal(decode(encoded, "x")[..., 0].ravel(), wanted)
    assert not said()


def test_bits_that_cannot_be_say_nothing(said):
    for wrong in (b"", b"\0", b"\x11", b"\x08\x08"):
        encoded = png(RAMP, chunk(b"sBIT", wrong))
        np.testing.assert_array_equal(decode(encoded, "x")[..., :1], RAMP)


@pytest.mark.parametrize(
    ("maxval", "samples", "wanted"),
    [
        (256, [0, 1, 128, 256], [0, 0, 127, 255]),
        (1000, [0, 4, 500, 1000], [0, 1, 127, 255]),
        (1023, [0, 4, 512, 1023], [0, 1, 128, 255]),
        (4095, [0, 16, 255, 4095], [0, 1, 15, 255]),
        (4095, [0, 16, 128, 255], [0, 1, 8, 15]),  # said, so dark
        (65534, [0, 257, 32768, 65534], [0, 1, 128, 255]),
        (15, [0, 1, 8, 15], [0, 17, 136, 255]),
    ],
)
def test_pgm_and_ppm_say_their_largest_value(maxval, samples, wanted, said):
    samples = np.array(samples).reshape(2, 2, 1)
    wanted = np.array(wanted).reshape(2, 2, 1)
    for plain in (False, True):
        for make in (lambda grey: grey, colours):
            image = decode(pnm(make(samples), maxval, plain), "x")
            np.testing.assert_array_equal(image, np.broadcast_to(make(wanted), image.shape))
    assert not said()


@pytest.mark.parametrize("plain", [False, True])
def test_a_pgm_that_is_cut_short_is_an_error(plain):
    with pytest.raises(InputError, match=r"^face\.pgm: cannot decode"):
        decode(pnm(RAMP << 4, 4095, plain)[:-6], "face.pgm")


@pytest.mark.parametrize("shift", [0, 4, 8])
def test_opacity_has_bits_of_its_own(shift):
    """Half of the ramp over white; grey and RGB; opacity full, half and none."""
    for ramp in (RAMP, colours(RAMP)):
        opacity = np.resize([255, 128, 0, 255], RAMP.shape)
        samples = np.concatenate([ramp, opacity], axis=2) << shift
        wanted = (ramp.astype(int) * opacity + 255 * (255 - opacity) + 127) // 255
        image = decode(png(samples), "x")
        np.testing.assert_array_equal(image, np.broadcast_to(wanted, image.shape))


def test_a_transparent_colour_of_16_bits_is_white():
    samples = np.array([[[300], [301]]]) * 100
    encoded = png(samples, chunk(b"tRNS", struct.pack(">H", 30000)))
    np.testing.assert_array_equal(decode(encoded, "x")[0, :, 0], [255, 30100 >> 8])
    encoded = png(colours(samples), chunk(b"tRNS", struct.pack(">HHH", 30000, 30000, 30100)))
    np.testing.assert_array_equal(decode(encoded, "x")[0], [[255] * 3, [117, 117, 117]])


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_few_bits_fill_the_range_and_can_be_transparent(depth):
    top = 2**depth - 1
    samples = np.arange(16).reshape(2, 8, 1) % (top + 1)
    wanted = samples * 255 // top
    assert (decode(png(samples, depth=depth), "x") == wanted).all()
    encoded = png(samples, chunk(b"tRNS", struct.pack(">H", top - 1)), depth=depth)
    assert (decode(encoded, "x") == np.where(samples == top - 1, 255, wanted)).all()


def test_tiff_of_12_bits_white_at_zero_or_without_a_range():
    packed = np.array([[0x00, 0x01, 0x00], [0x80, 0x1F, 0xFF]], np.uint8)  # 0, 256; 2049, 4095
    tags = [(256, 2), (257, 2), (258, 12), (259, 1), (262, 1), (273, 134), (277, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    encoded = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries
    encoded = encoded.ljust(134, b"\0") + packed.tobytes()
    np.testing.assert_array_equal(decode(encoded, "x")[..., 0], [[0, 16], [128, 255]])
    for shift in (0, 4, 8):
        inverted = tiff(RAMP << shift, photometric="miniswhite")
        np.testing.assert_array_equal(decode(inverted, "x")[..., :1], 255 - RAMP)
    for kind, why in ((np.int16, "signed"), (np.int32, "signed"), (np.uint32, "32-bit")):
        with pytest.raises(InputError, match=rf"face\.tif: {why} pixels have no agreed range"):
            decode(tiff(RAMP.astype(kind)), "face.tif")


def test_planes_of_a_tiff_one_after_the_other():
    """Pillow takes their bytes for samples of 8 bits."""
    planes = np.moveaxis(colours(RAMP), 2, 0)
    for compression in (None, "zlib"):
        buffer = io.BytesIO()
        options = {"planarconfig": "separate", "compression": compression}
        tifffile.imwrite(buffer, planes, photometric="rgb", **options)
        with pytest.raises(InputError, match=r"x: cannot decode .*colours lie in planes"):
            decode(buffer.getvalue(), "x")


def test_an_interlaced_png():
    """Its pixels come in seven passes (PNG, section 8.2), each with its own rows."""
    wanted = colours(RAMP)
    passes = [(0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2)]
    rows = b""
    for top, down, left, right in [*passes, (1, 2, 0, 1)]:
        part = (wanted << 4)[top::down, left::right].astype(">u2")
        rows += b"".join(b"\0" + row.tobytes() for row in part)
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 1)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(b"\x89PNG\r\n\x1a\n" + chunks, "x"), wanted)


def test_black_is_black(said):
    for samples in (RAMP * 0, colours(RAMP * 0)):
        assert not decode(png(samples), "x").any()
    assert not said()


def test_eight_bits_are_as_they_were(said):
    picture = colours(RAMP).astype(np.uint8)
    for format in ("PNG", "TIFF", "PPM"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format=format)
        np.testing.assert_array_equal(decode(buffer.getvalue(), "x"), picture)


@pytest.mark.parametrize("sample", [70000, -5, 1001, 10**30])
def test_text_samples_beyond_the_largest_value_are_said(sample):
    encoded = f"P2 2 1 1000 {sample} 3\n".encode()
    with pytest.raises(InputError, match=r"^x: .*it has samples outside 0 to 1000, its own larg"):
        decode(encoded, "x")
