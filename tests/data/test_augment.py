import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from arcface_jax.data import augment as module
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.data.augment import ADAFACE_AUGMENTATION, Augmentation, augment, example_keys
from arcface_jax.errors import InputError

SIZE = 32
EVERYTHING = Augmentation(
    flip=0.5, crop=0.5, low_resolution=0.5, photometric=0.5, erasing=0.5, mask=0.5
)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(1, 256, (16, SIZE, SIZE, 3), dtype=np.uint8)


def keys(count: int, seed: int = 0) -> jax.Array:
    return example_keys(jax.random.key(seed), 0, count)


@functools.cache
def many(name: str, count: int = 200):
    """One image, changed `count` times by one of the module's functions."""
    image = np.random.default_rng(1).integers(1, 256, (SIZE, SIZE, 3)).astype(np.float32)
    function = jax.jit(jax.vmap(getattr(module, name), (None, 0)))
    return image, np.asarray(function(image, keys(count)))


def test_flip_alone_is_exact_and_happens_to_half(images):
    many_images = np.tile(images, (64, 1, 1, 1))
    result = np.asarray(augment(many_images, keys(len(many_images))))
    assert result.dtype == np.uint8
    same = (result == many_images).all(axis=(1, 2, 3))
    mirrored = (result == many_images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.06  # 4 standard deviations of 1,024 draws


def test_a_rate_of_zero_changes_nothing_and_of_one_changes_all(images):
    np.testing.assert_array_equal(augment(images, keys(16), Augmentation(flip=0.0)), images)
    np.testing.assert_array_equal(
        augment(images, keys(16), Augmentation(flip=1.0)), images[:, :, ::-1]
    )


def test_each_example_depends_on_its_key_and_pixels_alone(images):
    together = np.asarray(augment(images, keys(16), EVERYTHING))
    assert together.dtype == np.uint8
    assert not np.array_equal(together, images)
    np.testing.assert_array_equal(augment(images, keys(16), EVERYTHING), together)
    order = np.random.default_rng(0).permutation(16)
    np.testing.assert_array_equal(
        augment(images[order], keys(16)[order], EVERYTHING), together[order]
    )
    assert not np.array_equal(augment(images, keys(16, seed=1), EVERYTHING), together)


def test_devices_do_not_change_the_result(images):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    sharded = augment(
        jax.device_put(images, sharding), jax.device_put(keys(16), sharding), EVERYTHING
    )
    assert sharded.sharding == sharding
    difference = np.abs(
        np.asarray(sharded).astype(int) - np.asarray(augment(images, keys(16), EVERYTHING))
    )
    assert difference.max() <= 1  # a float that rounds the other way


def test_switching_one_on_leaves_the_others_as_they_were(images):
    erased = np.asarray(augment(images, keys(16), Augmentation(flip=0.5, erasing=0.5)))
    both = np.asarray(augment(images, keys(16), Augmentation(flip=0.5, erasing=0.5, crop=0.5)))
    unchanged = (both == erased).all(axis=(1, 2, 3))
    assert 2 <= unchanged.sum() <= 14
    cropped = both[~unchanged]
    assert ((cropped == erased[~unchanged]) | (cropped == 0)).all()


def test_keys_differ_by_row_step_and_run():
    data = [
        jax.random.key_data(example_keys(jax.random.key(seed), step, 8))
        for seed in (0, 1)
        for step in (0, 1)
    ]
    assert len(np.unique(np.concatenate(data), axis=0)) == 32
    np.testing.assert_array_equal(
        jax.random.key_data(example_keys(jax.random.key(0), 0, 4)), data[0][:4]
    )


def rectangles(inside: np.ndarray) -> np.ndarray:
    """[M, 2]: height and width of the one full rectangle in each bool image."""
    sizes = []
    for image in inside:
        rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
        assert image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        sizes.append((rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1))
    return np.array(sizes)


def test_a_crop_keeps_a_rectangle_at_its_place():
    image, cropped = many("crop")
    inside = (cropped != 0).all(axis=-1)
    np.testing.assert_array_equal(cropped, image * inside[..., None])
    sizes = rectangles(inside)
    share = sizes.prod(axis=1) / SIZE**2
    assert 0.17 < share.min() < 0.3
    assert share.max() > 0.9
    assert abs(share.mean() - 0.6) < 0.07  # uniform in [0.2, 1]
    ratio = sizes[share < 0.7, 1] / sizes[share < 0.7, 0]
    assert 0.68 < ratio.min() < 0.85
    assert 1.2 < ratio.max() < 1.45


def test_erasing_puts_noise_into_a_rectangle():
    image, erased = many("erase")
    changed = (erased != image).any(axis=-1)
    sizes = rectangles(changed)
    share = sizes.prod(axis=1) / SIZE**2
    assert 0.015 < share.min() < 0.05
    assert 0.28 < share.max() < 0.36
    noise = erased[changed]
    assert abs(noise.mean() - 127.5) < 2
    assert abs(noise.std() - 255 / 12**0.5) < 2


def test_every_side_is_reached():
    for name in ("crop", "erase"):
        image, changed = many(name)
        counts = (changed != image).any(axis=-1).sum(axis=0)
        assert min(counts[0].max(), counts[-1].max(), counts[:, 0].max(), counts[:, -1].max()) > 0


def resampled(image: np.ndarray, small: int, method: Image.Resampling) -> np.ndarray:
    """Pillow's bilinear down-scaling with antialiasing, then `method` up; float pixels, so
    channel by channel.
    """
    planes = []
    for channel in range(3):
        plane = Image.fromarray(image[..., channel].astype(np.float32))
        planes.append(
            plane.resize((small, small), Image.Resampling.BILINEAR).resize((SIZE, SIZE), method)
        )
    return np.stack([np.asarray(plane) for plane in planes], axis=-1)


def test_low_resolution_is_what_pillow_does():
    image, lowered = many("lower_resolution", 60)
    sizes = set()
    for result in lowered:
        errors = {
            (small, method): np.abs(result - resampled(image, small, method)).max()
            for small in range(6, SIZE + 1)
            for method in (Image.Resampling.BILINEAR, Image.Resampling.NEAREST)
        }
        best = min(errors, key=lambda choice: errors[choice])
        if SIZE % best[0] and best[1] == Image.Resampling.NEAREST:
            assert (
                np.median(np.abs(result - resampled(image, *best))) < 0.01
            )  # blocks whose edges round differently
        else:
            assert errors[best] < 0.01
        sizes.add(best)
    assert len(sizes) > 20
    assert {method for _, method in sizes} == {Image.Resampling.BILINEAR, Image.Resampling.NEAREST}


def test_colours_change_as_pillow_changes_them():
    picture = np.random.default_rng(2).integers(60, 200, (SIZE, SIZE, 3)).astype(np.uint8)

    def pillow(order, factors):
        image = Image.fromarray(picture)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
        for which in order:
            image = kinds[which](image).enhance(float(factors[which]))
        return np.asarray(image).astype(float)

    change = jax.jit(module.change_colours)
    orders = set()
    for key in keys(12):
        factors_key, order_key = jax.random.split(key)
        factors = jax.random.uniform(factors_key, (3,), minval=0.5, maxval=1.5)
        order = tuple(jax.random.permutation(order_key, 3).tolist())
        orders.add(order)
        result = np.asarray(change(picture.astype(np.float32), key))
        assert (
            np.abs(result - pillow(order, factors)).max() <= 4
        )  # Pillow rounds after each of three steps
    assert len(orders) > 3


def test_a_mask_covers_the_mouth_and_leaves_the_eyes():
    image = np.full((112, 112, 3), 7.0, np.float32)
    masked = np.asarray(jax.jit(jax.vmap(module.draw_mask, (None, 0)))(image, keys(50)))
    covered = (masked != 7.0).any(axis=-1)
    points = np.round(TEMPLATE).astype(int)
    for x, y in points[3:]:
        assert covered[:, y, x].all()
    for x, y in points[:2]:
        assert not covered[:, : y + 4, x - 6 : x + 7].any()
    assert ((masked >= 0) & (masked <= 255)).all()
    shares = covered.mean(axis=(1, 2))
    assert 0.15 < shares.min() < shares.max() < 0.42
    colours = masked[:, 95, 56]
    assert colours.std(axis=0).min() > 20
    small = np.asarray(jax.jit(module.draw_mask)(jnp.full((56, 56, 3), 7.0), keys(1)[0]))
    assert abs((small != 7.0).any(axis=-1).mean() - shares[0]) < 0.02


def test_bad_arguments_are_refused(images):
    with pytest.raises(InputError, match=r"augmentation crop = 1\.5"):
        Augmentation(crop=1.5)
    with pytest.raises(InputError, match="augmentation mask = nan"):
        Augmentation(mask=float("nan"))
    with pytest.raises(TypeError, match="images must be uint8, got float32"):
        augment(images.astype(np.float32), keys(16), ADAFACE_AUGMENTATION)
