"""The sums over classes in Pallas, interpreted: against float64 NumPy for every psi; and lowered
for CUDA and TPU.
"""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.errors import InputError
from arcface_jax.heads import pallas_sums
from arcface_jax.heads.class_sums import SumOptions, class_sums
from arcface_jax.heads.pallas_sums import Tiles
from arcface_jax.heads.softmax import losses_from_sums
from arcface_jax.losses import ArcFace, margin_softmax_loss
from arcface_jax.losses.loss import Context
from arcface_jax.margins import NAMED_MARGINS
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.step import loss_and_gradients
from tests.in_numpy import unit

ROWS, CLASSES, DIM = 13, 53, 10
# As on a TPU, one program after the other, and as on a GPU, apart, with D in parts. Neither N, C
# nor D is a multiple of its tile.
WAYS = {"in turn": Tiles(8, 16, None, None), "apart": Tiles(8, 16, 4, 4)}
OPTIONS = SumOptions(
    None, cosine_sum=True, nearest_wrong=True, scale_gradient=True, kernel="pallas"
)


def problem(seed=0):
    """(unit embeddings, class weights, labels, scales): an unlabelled example, one of another
    shard, a class without a direction, one of no length, and cosines of ±1.
    """
    generator = np.random.default_rng(seed)
    e, w = generator.normal(size=(ROWS, DIM)), generator.normal(size=(CLASSES, DIM))
    labels = generator.integers(0, CLASSES, ROWS)
    labels[:4] = -1, CLASSES + 3, 52, 7
    w[20], w[52], w[7] = 0.0, 3 * e[2], -e[3]
    w[30] *= 1e3
    return unit(e), w, labels, generator.uniform(5.0, 20.0, ROWS)


def in_numpy(e, w, labels, scale, slopes, threshold=None, tiles=None, skip=0.0):
    """(sums and their count of wrong classes, gradients by e, w and scale), with the tiles that
    `skip` leaves out.

    `slopes` are of the true class's cosine, the logarithm of the partition function and the sum of
    cosines.
    """
    norms = np.linalg.norm(w, axis=1)
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    cosine = e @ w.T * inverse
    target = labels[:, None] == np.arange(len(w))
    kept = ~target & (cosine <= (2.0 if threshold is None else threshold))
    with np.errstate(divide="ignore"):
        partition = np.log(np.sum(np.where(kept, np.exp(scale[:, None] * cosine), 0.0), axis=1))
    sums = (
        np.sum(target * cosine, axis=1),
        partition,
        np.sum(kept * cosine, axis=1),
        kept.sum(axis=1),
        np.max(np.where(target, -2.0, cosine), axis=1),
        np.zeros(len(labels)),  # the binary sum
    )
    of_target, of_partition, of_sum = slopes
    finite = np.where(np.isfinite(partition), partition, 0.0)
    p = np.where(kept, np.exp(np.minimum(scale[:, None] * cosine - finite[:, None], 0.0)), 0.0)
    weight = scale * of_partition
    slope = weight[:, None] * p + kept * of_sum[:, None] + target * of_target[:, None]
    if skip:
        negligible = skip * np.abs(weight).max() / len(w)
        for i in range(0, len(e), tiles.rows):
            for j in range(0, len(w), tiles.classes):
                tile = slope[i : i + tiles.rows, j : j + tiles.classes]
                tile *= np.any(np.abs(tile) > negligible)
    normalised = w * inverse[:, None]
    of_w = slope.T @ e
    of_w = (of_w - np.sum(of_w * normalised, axis=1)[:, None] * normalised) * inverse[:, None]
    of_scale = of_partition * np.sum(p * cosine, axis=1)
    return sums, (slope @ normalised, of_w, of_scale)


@functools.cache
def run(way, options):
    """The sums and their gradients, compiled once."""
    return jax.jit(
        lambda e, w, y, s, slopes: forwards_and_backwards(WAYS[way], options, e, w, y, s, slopes)
    )


def forwards_and_backwards(tiles, options, e, w, labels, scale, slopes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pallas_sums, "INTERPRETED", (tiles, tiles))
        sums, pull_back = jax.vjp(
            lambda *moved: class_sums(*moved[:2], labels, moved[2], CLASSES, options), e, w, scale
        )
        none = jnp.zeros_like(sums.target)
        return sums, pull_back(type(sums)(*slopes, none, none, none))


def assert_same(found, wanted, rtol, atol):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(np.float64(one), other, rtol=rtol, atol=atol)


@pytest.mark.parametrize("way", WAYS)
def test_every_margin_against_float64(way):
    """The sums and gradients are compiled once; a margin is what their slopes follow from."""
    e, w, labels, scale = problem()
    found = run(way, OPTIONS)
    singles = [np.float32(array) for array in (e, w)] + [np.int32(labels), np.float32(scale)]
    sums, _ = found(*singles, np.zeros((3, ROWS), np.float32))
    known = (labels >= 0) & (labels < CLASSES)
    for name, psi in NAMED_MARGINS.items():

        def loss(target, partition, cosine_sum, psi=psi):
            whole = sums._replace(target=target, log_partition=partition, cosine_sum=cosine_sum)
            return losses_from_sums(whole, known, psi, singles[3], 0.1).mean()

        slopes = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*sums[:3])
        again, gradients = found(*singles, jnp.stack(slopes))
        wanted = in_numpy(e, w, labels, scale, np.float64(slopes))
        assert_same(again, wanted[0], 1e-5, 2e-6)
        for one, other in zip(gradients, wanted[1], strict=True):
            # At cosθ = −1 a slope of a thousand is along the row, and cancels.
            most = 2e-5 * np.abs(other).max() + 1e-7 * max(map(np.max, map(np.abs, slopes)))
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=most, err_msg=name)


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from(sorted(WAYS)),
    st.sampled_from([1.0, 8.0, 64.0]),
    st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_float64_is_numpys(seed, way, scale, length):
    """Of any data: filtered, unlabelled, at any length of the weights."""
    e, w, labels, scales = problem(seed)
    slopes = np.random.default_rng(seed).normal(size=(3, ROWS))
    arguments = (e, w * length, labels, scales * scale / 20.0, slopes)
    with jax.enable_x64(True):
        options = dataclasses.replace(OPTIONS, filter_threshold=0.5)
        found = run(way, options)(*arguments)
    of_e, of_w, of_scale = map(np.asarray, found[1])
    sums, (want_e, want_w, want_scale) = in_numpy(*arguments, threshold=0.5)
    assert_same(found[0], sums, 1e-9, 1e-9)
    assert_same((of_e, of_w * length, of_scale), (want_e, want_w * length, want_scale), 1e-8, 1e-8)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(sorted(WAYS)), st.floats(1.0, 20.0))
def test_what_is_skipped_is_within_its_bound(seed, way, scale):
    """|Δ dL/du| ≤ δ·M and |Δ dL/dw| ≤ δ·M·N/(C·‖w‖), M the largest slope by a logit's cosine; and
    it is the negligible tiles, no more, no fewer.
    """
    generator = np.random.default_rng(seed)
    e, w, labels, _ = problem(seed)
    # Two groups of similar classes and examples, each in tiles of its own, far from the other.
    first, group = np.arange(ROWS) < 8, np.eye(DIM)[0] * 5
    e = unit(e * 3 + np.where(first[:, None], group, -group))
    w = w + np.where(np.arange(CLASSES)[:, None] < 32, group, -group)
    labels = np.where(labels < 0, -1, np.where(first, labels % 32, 32 + labels % 21))
    slopes = generator.uniform(size=(3, ROWS)) * [[-1.0], [1.0], [0.0]]
    slopes[:, labels < 0] = 0.0
    arguments, delta = (e, w, labels, np.full(ROWS, scale), slopes), 0.3
    with jax.enable_x64(True):
        options = dataclasses.replace(OPTIONS, skip=delta)
        _, found = run(way, options)(*arguments)
    found = [np.asarray(gradient) for gradient in found]
    skipped = in_numpy(*arguments, tiles=WAYS[way], skip=delta)[1]
    assert_same(found[:2], skipped[:2], 1e-8, 1e-8)
    exact = in_numpy(*arguments)[1]
    most = delta * np.abs(scale * slopes[1]).max()
    norms = np.linalg.norm(w, axis=1)
    assert np.linalg.norm(found[0] - exact[0], axis=1).max() <= most * (1 + 1e-9)
    changed = np.linalg.norm(found[1] - exact[1], axis=1) * norms
    assert changed.max() <= most * ROWS / CLASSES * (1 + 1e-9)
    assert np.any(skipped[0] != exact[0]) or scale < 10


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_products_of_bf16_are_summed_in_float32(dtype):
    """Against NumPy with both factors rounded; then the sums agree to float32's rounding, and the
    gradients, whose slopes are rounded, to bf16's.
    """
    e, w, labels, scale = (np.float32(array) for array in problem())
    e, w, labels = e.astype(jnp.bfloat16), w.astype(jnp.bfloat16), labels.astype(np.int32)
    slopes = np.float32(np.random.default_rng(0).normal(size=(3, ROWS)))
    options = dataclasses.replace(OPTIONS, precision="bfloat16")
    sums, gradients = run("apart", options)(
        e.astype(np.float32), w.astype(dtype), labels, scale, slopes
    )
    wanted = in_numpy(*(array.astype(np.float64) for array in (e, w, labels, scale, slopes)))
    assert_same(sums, wanted[0], 1e-5, 1e-5)
    assert gradients[1].dtype == dtype
    for one, other in zip(gradients, wanted[1], strict=True):
        largest = np.abs(other).max()
        one = np.asarray(one).astype(np.float64)
        np.testing.assert_allclose(one, other, rtol=2**-7, atol=2**-7 * largest)


def test_the_loss_is_the_same_whatever_the_kernel():
    """And a class weight that is not finite shows in every loss."""
    e, w, labels, scale = problem()
    labels[1] = 4
    e, w = np.float32(e), np.float32(w)
    options = {"scale": np.float32(scale), "label_smoothing": 0.1, "with_cosines": True}
    loss = functools.partial(margin_softmax_loss, **options)
    tiled = jax.jit(functools.partial(loss, kernel="pallas"))
    assert_same(tiled(e, w, labels), jax.jit(loss)(e, w, labels), 2e-5, 2e-5)
    for broken in (np.nan, np.inf, 3e19):  # the square of 3e19 overflows
        w[33, 0] = broken
        np.testing.assert_array_equal(np.isnan(tiled(e, w, labels)[0]), labels >= 0)


def test_a_training_step_takes_it_by_an_option():
    e, w, labels, _ = (np.float32(array) for array in problem())
    labels = np.minimum(labels, CLASSES - 1).astype(np.int32)

    def run(head):
        params, context = {"class_weights": w}, Context(key=jax.random.key(0))
        step = functools.partial(loss_and_gradients, ArcFace(scale=16.0), head)
        out, gradients, of_e = jax.jit(step)(params, {}, e, labels, context)
        return out.loss, gradients["class_weights"], of_e

    tiled = run(HeadConfig("chunked", kernel="pallas", skip=1e-6))
    # At cosθ = −1 a slope of a thousand is along the row, and cancels.
    assert_same(tiled, run(HeadConfig("chunked")), 1e-4, 1e-4)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("precision", ["highest", "bfloat16"])
def test_it_is_lowered_without_a_device_and_has_no_logits(platform, precision):
    rows, classes, dim = 640, 1031, 96

    def total(e, w, y):
        loss = margin_softmax_loss(
            e, w, y, kernel="pallas", skip=0.1, precision=precision, with_cosines=True
        )
        return loss[0].sum()

    arguments = (
        jax.ShapeDtypeStruct((rows, dim), jnp.float32),
        jax.ShapeDtypeStruct((classes, dim), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )
    traced = jax.jit(jax.grad(total, argnums=(0, 1))).trace(*arguments)
    try:
        text = traced.lower(lowering_platforms=(platform,)).as_text()
    except ValueError as error:
        if "Cannot lower pallas_call" not in str(error):
            raise
        pytest.skip(str(error))
    kernels = re.findall(r"custom_call @(\S+?)\(", text)
    name = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}[platform]
    assert kernels.count(name) == 3
    shapes = re.findall(r"tensor<([\dx]+)x(?:f32|bf16|i1)>", text)
    assert f"{classes}x{dim}" in shapes
    assert not any({str(rows), str(classes)} <= set(shape.split("x")) for shape in shapes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kernel": "cuda"}, "kernel is 'cuda'; pass one of xla, pallas"),
        ({"kernel": "pallas", "chunk": 9}, "chunk 9 does nothing with kernel pallas; leave it out"),
        ({"skip": 0.1}, "skip 0.1 does nothing with kernel xla; leave it out"),
        ({"kernel": "pallas", "skip": 2.0}, r"skip is 2; pass a number in \[0, 1\]"),
        ({"kernel": "pallas", "precision": "tf32"}, "precision is 'tf32'; pass one of highest, .*"),
    ],
)
def test_what_does_not_go_together_is_refused(options, said):
    e, w, labels, _ = problem()
    with pytest.raises(InputError, match=said):
        margin_softmax_loss(e[2:], w, labels[2:], **options)


def test_sub_centres_are_refused():
    e, w, labels, _ = problem()
    with pytest.raises(InputError, match=r"kernel pallas has no sub-centres; pass \[C, D\]"):
        margin_softmax_loss(e[2:], w[:, None], labels[2:], kernel="pallas")
