import io

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageCms

from arcface_jax.data import decode as decode_module
from arcface_jax.data.decode import READS_AVIF, decode, encode_png, noting_frames, resize, suffix_of
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


@pytest.fixture(params=["simplejpeg", "Pillow"])
def decoder(request, monkeypatch):
    if request.param == "Pillow":
        monkeypatch.setattr(decode_module, "simplejpeg", None)


JPEG = {
    "baseline": {},
    "progressive": {"progressive": True},
    "with restart markers": {"restart_marker_blocks": 2},
}


@pytest.mark.parametrize("kind", JPEG)
def test_bytes_around_the_image_data_of_a_jpeg_do_not_count(smooth, kind, decoder):
    """After the end: what phones append, padding to a block, a second image. Before it: zeros.
    Between segments: what writers leave.
    """
    plain = saved(Image.fromarray(smooth), "JPEG", quality=95, **JPEG[kind])
    end, tables = plain[-2:], plain.index(b"\xff\xdb")
    variants = [
        *(
            plain + after
            for after in (bytes(5000), b"SEFT" * 9, plain, end, b"\xff\xd8\xff\xd9\xff")
        ),
        *(plain[:-2] + bytes(count) + end for count in (1, 2, 3, 4, 9, 5000)),
        *(plain[:-2] + fill + end for fill in (b"\xff", b"\xff" * 9)),
        plain[:-2] + bytes(9) + end + b"trailer" + bytes(9) + end,
        *(plain[:tables] + junk + plain[tables:] for junk in (b"\0", b"\xff" * 5, b"ab\xff\0")),
    ]
    wanted = decode(plain, "x")
    for number, encoded in enumerate(variants):
        np.testing.assert_array_equal(decode(encoded, "x"), wanted, err_msg=str(number))


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content


def profile(number, total):
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, total]) + bytes(200))


@pytest.mark.parametrize("kind", JPEG)
@pytest.mark.parametrize(
    "broken",
    [
        profile(1, 2),
        profile(2, 2),
        profile(1, 1) * 2,
        profile(0, 0),
        profile(3, 2),
        profile(1, 2) + profile(2, 3),
        profile(2, 2) + profile(1, 2) + profile(2, 2),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta"),
        segment(0xED, b"Photoshop 3.0\x008BIM\xff"),
        segment(0xE2, b"MPF\0II*\0\xff\xff"),
        segment(0xFE, b"\xff\xfe\0"),
        segment(0xE5, bytes(9)) + profile(1, 2),
    ],
)
def test_broken_metadata_of_a_jpeg_stops_nothing(smooth, kind, broken, decoder):
    plain = saved(Image.fromarray(smooth), "JPEG", quality=95, **JPEG[kind])
    tables = plain.index(b"\xff\xdb")
    turned = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0")
    wanted = decode(plain, "x")
    np.testing.assert_array_equal(decode(plain[:tables] + broken + plain[tables:], "x"), wanted)
    both = decode(plain[:tables] + turned + broken + plain[tables:-2] + bytes(9) + plain[-2:], "x")
    np.testing.assert_array_equal(both, np.rot90(wanted, -1))


@pytest.mark.parametrize("kind", JPEG)
def test_a_jpeg_cut_short_and_filled_up_is_an_error(smooth, kind):
    plain = saved(Image.fromarray(smooth), "JPEG", quality=95, **JPEG[kind])
    fills = [(2, b"")]  # without its end alone
    for cut in (50, 300)[: 1 if kind == "progressive" else 2]:  # which is whole after each scan
        ends = (b"", bytes(cut), bytes(cut - 2) + b"\xff\xd9", b"\xff\xd9", b"ab\xff\xd9")
        fills += [(cut, end) for end in ends]
    for cut, end in fills:
        with pytest.raises(InputError, match=r"^face\.jpg: cannot decode this JPEG"):
            decode(plain[:-cut] + end, "face.jpg")


def test_cmyk_and_ycck_are_as_adobe_inverts_them(decoder):
    inks = {(0, 255, 255, 0): (255, 0, 0), (255, 0, 0, 0): (0, 255, 255), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        encoded = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
        assert np.abs(decode(encoded, "x").astype(int) - colour).max() <= 2
    adobe = encoded.index(b"Adobe")
    ycck = encoded[: adobe + 11] + b"\x02" + encoded[adobe + 12 :]
    # the inverted inks of black, (255, 255, 255, 0), read as Y, Cb, Cr, K, and turned: C = 255 − R
    assert (decode(ycck, "x") == 0).all()


@pytest.mark.parametrize(("offset", "value"), [(4, 12), (1, 0xC3), (1, 0xCB)])
def test_rare_kinds_of_jpeg_are_refused(smooth, decoder, offset, value):
    """12 bits a sample; lossless; lossless with arithmetic coding. The rest does not fit them."""
    encoded = bytearray(saved(Image.fromarray(smooth), "JPEG"))
    encoded[encoded.index(b"\xff\xc0") + offset] = value
    with pytest.raises(InputError, match=r"^x: cannot decode this .*; remove or replace it$"):
        decode(bytes(encoded), "x")


@pytest.mark.parametrize("format", ["PNG", "WEBP", "BMP", "PPM", "TIFF", "GIF", "AVIF"])
def test_bytes_behind_the_image_do_not_count(smooth, format):
    if format == "AVIF" and not READS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    encoded = saved(Image.fromarray(smooth), format)
    for behind in (bytes(512), b"trailer", encoded):
        np.testing.assert_array_equal(decode(encoded + behind, "x"), decode(encoded, "x"))


def frames_of(format: str, count: int) -> bytes:
    """A film of that many frames, or pages, each of another grey."""
    greys = [Image.new("RGB", (20, 16), (40 * number,) * 3) for number in range(count)]
    return saved(greys[0], format, save_all=True, append_images=greys[1:])


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_frames_are_counted_and_the_first_image_is_said(monkeypatch, caplog, format):
    if format == "AVIF" and not READS_AVIF:
        pytest.skip("no AVIF in this Pillow")
    monkeypatch.setattr(decode_module, "_SAID_FRAMES", set())
    for count in (1, 2, 5):
        encoded = frames_of(format, count)
        with noting_frames() as noted:
            image = decode(encoded, f"{count}.img")
        assert image.shape == (16, 20, 3)
        assert image.max() < 8
        assert noted == [count] * (count > 1)
    decode(frames_of(format, 3), "outside")
    (said,) = caplog.messages
    assert said.startswith("2.img: has 2 frames or pages; the first counts, here and in other such")


def test_of_damaged_further_frames_the_first_still_counts(monkeypatch):
    monkeypatch.setattr(decode_module, "_SAID_FRAMES", set())
    encoded = frames_of("TIFF", 2)
    where = encoded.rfind(b"\0\1\3\0")  # a tag of the second page's directory
    for damaged in (encoded[:where], frames_of("GIF", 3)[:-20]):
        try:
            image = decode(damaged, "x")
        except InputError:
            continue
        assert image.max() < 8


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_counts(smooth, format, decoder):
    if format == "AVIF" and not READS_AVIF:
        pytest.skip("this Pillow has no AVIF")
    white = Image.new("RGB", (64, 48), "white")
    options = {"save_all": True, "append_images": [white]}
    image = decode(saved(Image.fromarray(smooth), format, **options), "x")
    assert np.abs(image.astype(int) - smooth).mean() < 6


def test_palettes_and_grey_with_opacity_are_laid_over_white():
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60, 0, 0, 0])
    wanted = [[10, 20, 30], [255, 255, 255], [127, 127, 127]]
    transparent = saved(palette, "PNG", transparency=bytes([255, 0, 128]))
    np.testing.assert_array_equal(decode(transparent, "x")[0], wanted)
    np.testing.assert_array_equal(
        decode(saved(palette, "GIF", transparency=1), "x")[0], [*wanted[:2], [0, 0, 0]]
    )
    grey = Image.fromarray(np.array([[[9, 255], [9, 0]]], np.uint8), "LA")
    np.testing.assert_array_equal(decode(saved(grey, "PNG"), "x")[0, :, 0], [9, 255])


def test_lab_and_cmyk_tiff_have_the_right_colours(smooth):
    picture = Image.fromarray(smooth)
    profiles = [ImageCms.createProfile(space) for space in ("sRGB", "LAB")]
    lab = ImageCms.profileToProfile(picture, *profiles, outputMode="LAB")
    for image in (lab, picture.convert("CMYK")):
        decoded = decode(saved(image, "TIFF"), "x").astype(int)
        assert np.abs(decoded - smooth).mean() < 4, image.mode


@pytest.mark.skipif(not READS_AVIF, reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_can(smooth):
    encoded = saved(Image.fromarray(smooth), "AVIF", quality=95)
    assert suffix_of(encoded[:16]) == ".avif"
    assert np.abs(decode(encoded, "x").astype(int) - smooth).mean() < 3
    with pytest.raises(InputError, match=r"^x: cannot decode"):
        decode(encoded[:-20], "x")


def test_heic_is_named_with_what_to_do():
    with pytest.raises(InputError, match=r"x\.heic: .*HEIC.*JPEG or PNG"):
        decode(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99), "x.heic")


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
