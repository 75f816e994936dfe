import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from arcface_jax.data import decode as decode_module
from arcface_jax.data.decode import decode, encode_png, resize
from arcface_jax.errors import InputError


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)


@pytest.fixture
def smooth() -> np.ndarray:
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([x * 4, y * 5, 255 - x * 4], axis=-1).astype(np.uint8)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_lossless_formats_come_back_exactly(noise, format):
    image = decode(saved(Image.fromarray(noise), format), "x")
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, noise)
    np.testing.assert_array_equal(decode(encode_png(noise), "x"), noise)


def test_jpeg_and_webp_keep_the_colour_order(smooth):
    for format in ("JPEG", "WEBP"):
        image = decode(saved(Image.fromarray(smooth), format, quality=95), "x")
        assert np.abs(image.astype(int) - smooth).mean() < 3, format


def test_jpeg_is_the_same_with_and_without_simplejpeg(smooth, monkeypatch):
    encoded = simplejpeg.encode_jpeg(smooth, quality=95)
    fast = decode(encoded, "x")
    monkeypatch.setattr(decode_module, "simplejpeg", None)
    assert np.abs(decode(encoded, "x").astype(int) - fast).max() <= 2


def test_grey_one_bit_palette_and_cmyk_become_rgb(noise):
    grey = Image.fromarray(noise[..., 0])
    for format in ("PNG", "PPM"):
        np.testing.assert_array_equal(
            decode(saved(grey, format), "x"), np.repeat(noise[..., :1], 3, axis=2)
        )
    bits = Image.fromarray(noise[..., 0]).convert("1", dither=Image.Dither.NONE)
    np.testing.assert_array_equal(
        decode(saved(bits, "PNG"), "x")[..., 0], np.where(noise[..., 0] >= 128, 255, 0)
    )
    palette = Image.fromarray(noise).quantize(16)
    np.testing.assert_array_equal(
        decode(saved(palette, "PNG"), "x"), np.asarray(palette.convert("RGB"))
    )
    assert decode(saved(Image.fromarray(noise).convert("CMYK"), "JPEG"), "x").shape == noise.shape
    assert decode(saved(grey, "JPEG"), "x").shape == noise.shape


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 256, 32768, 65535]], np.uint16)
    for format in ("PNG", "PPM", "TIFF"):
        np.testing.assert_array_equal(
            decode(saved(Image.fromarray(values), format), "x")[..., 0], [[0, 1, 128, 255]]
        )


def test_transparency_is_laid_over_white():
    pixels = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], np.uint8)
    np.testing.assert_array_equal(
        decode(saved(Image.fromarray(pixels), "PNG"), "x"), [[[10, 20, 30], [255, 255, 255]]]
    )


def test_floating_point_pixels_are_refused():
    with pytest.raises(InputError, match=r"face\.tif: floating-point pixels"):
        decode(saved(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"), "face.tif")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_alike_by_both_decoders(smooth, orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    encoded = saved(Image.fromarray(smooth), "JPEG", quality=95, exif=exif)
    fast = decode(encoded, "x")
    assert fast.shape == ((64, 48, 3) if orientation >= 5 else (48, 64, 3))
    monkeypatch.setattr(decode_module, "simplejpeg", None)
    assert np.abs(decode(encoded, "x").astype(int) - fast).max() <= 2


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "PPM", "TIFF"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_image_is_an_error_that_names_it(smooth, format, kept):
    encoded = saved(Image.fromarray(smooth), format)
    with pytest.raises(InputError, match=r"^face\.img: "):
        decode(encoded[: int(len(encoded) * kept)], "face.img")


def test_a_flipped_bit_of_png_pixels_is_noticed(noise):
    encoded = bytearray(encode_png(noise))
    encoded[encoded.index(b"IDAT") + 100] ^= 4
    with pytest.raises(InputError, match="cannot decode"):
        decode(bytes(encoded), "x")


def test_a_huge_image_is_refused_before_decoding():
    jpeg = bytearray(simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8)))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = b"\xff\xff\xff\xff"
    png = saved(Image.new("1", (8000, 8000)), "PNG")
    assert len(png) < 100_000
    ppm = b"P6 100000 100000 255 "
    for encoded in (bytes(jpeg), png, ppm):
        with pytest.raises(InputError, match=r"bomb: "):
            decode(encoded, "bomb")


def test_formats_that_run_programs_are_not_admitted():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    with pytest.raises(InputError, match="cannot decode"):
        decode(postscript, "x.eps")


def test_resize_cuts_the_centred_square_and_keeps_the_shape_of_faces():
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 20:60] = 255
    image[16:24, 36:44] = 0  # a square of a fifth of the side, in the centre
    small = resize(image, 20)
    assert small.shape == (20, 20, 3)
    dark = small[..., 0] < 128
    assert dark.any(axis=0).sum() == dark.any(axis=1).sum() == 4
    assert not dark[:, 0].any()
    np.testing.assert_array_equal(resize(image.transpose(1, 0, 2), 20), small.transpose(1, 0, 2))


def test_resize_of_the_right_size_changes_nothing(noise):
    square = noise[:, :10]
    assert resize(square, 10) is square


def test_resize_down_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(resize(stripes, 16)[2:-2, 2:-2].astype(int)) <= 2


def test_resizing_to_other_proportions_cuts_the_longer_side():
    """100 × 60 to 20 × 15: the full width of 60 gives 80 of the height, 10 less at each end, in
    scale 1/4.
    """
    image = np.zeros((100, 60, 3), np.uint8)
    image[10:90] = 200
    assert resize(image, (20, 15)).shape == (20, 15, 3)
    inside = resize(image, (20, 15))[2:-2]  # bicubic reaches two rows past the cut
    assert (inside == 200).all()
    np.testing.assert_array_equal(resize(image, (16, 16)), resize(image, 16))


def test_what_is_no_image_is_said_in_the_same_words_each_time():
    messages = set()
    for _ in range(3):
        with pytest.raises(
            InputError, match=r"x: cannot decode this image \(no image of a known format: JPEG, PNG"
        ) as error:
            decode(b"a text", "x")
        messages.add(str(error.value))
    assert len(messages) == 1


@pytest.mark.parametrize("shape", [(29, 40), (40, 29), (57, 250), (29, 29), (1, 2000)])
def test_sides_that_do_not_divide_are_scaled(shape):
    assert resize(np.full((*shape, 3), 9, np.uint8), 112).shape == (112, 112, 3)
