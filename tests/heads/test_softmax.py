"""The one margin softmax: the same loss, gradients and cosines as NumPy's however it goes over the
classes.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.cosine import row_norms
from arcface_jax.errors import InputError
from arcface_jax.heads import sample_classes
from arcface_jax.heads.shards import shard_sizes
from arcface_jax.heads.softmax import blank_ignored
from arcface_jax.losses import (
    AdaFaceState,
    adaface_loss,
    adaface_psi,
    elasticface_loss,
    elasticface_psi,
    margin_softmax_loss,
)
from arcface_jax.margins import (
    ARCFACE,
    NAMED_MARGINS,
    PAST_PI,
    arcface,
    class_wise,
    cm2,
    combined,
)
from tests.in_numpy import margin_softmax, shard, unshard

MARGINS = {
    **NAMED_MARGINS,
    **{f"arcface {rule}": arcface(past_pi=rule) for rule in PAST_PI},
    **{
        f"straight-through {rule}": combined(
            1.1, 0.4, 0.1, past_pi=rule, gradient="straight_through"
        )
        for rule in PAST_PI
    },
    "a plain function": lambda c: 1.5 * c**3,
}

# name: (sub-centres, scale, options)
CASES = {
    "plain": (1, 16.0, {}),
    "everything": (
        3,
        np.linspace(5.0, 20.0, 16),
        {"psi": cm2(), "label_smoothing": 0.1, "filter_threshold": 0.2},
    ),
    "smoothed": (1, 9.0, {"psi": arcface(past_pi="reflect"), "label_smoothing": 0.1}),
    "filtered": (3, 16.0, {"psi": lambda c: c**3, "filter_threshold": 0.2}),
}
PSI = {case: jax.jit(options.get("psi", ARCFACE)) for case, (*_, options) in CASES.items()}
# (mapping, devices, chunk)
WAYS = [
    *(("jit", 1, chunk) for chunk in (None, 1, 7, 1000)),
    *(("shard_map", devices, chunk) for devices, chunk in ((1, 5), (2, None), (4, 5), (8, 3))),
    ("pmap", 8, 5),
    *(("vmap", devices, chunk) for devices, chunk in ((2, None), (8, 5))),
]
RUNS = [
    pytest.param(*run, marks=[pytest.mark.accelerator] * (run[0] == "jit"))
    if (run[3] == "everything" and run[2] != 1000)
    or run[:3] in (("jit", 1, None), ("jit", 1, 7), ("shard_map", 4, 5))
    else pytest.param(*run, marks=pytest.mark.slow)
    for run in ((*way, case) for way, case in itertools.product(WAYS, CASES))
]


def numpy_results(problem, case, moved=(0.0, 0.0, 0.0), classes=None):
    embeddings, tables, labels, _ = problem
    centres, scale, options = CASES[case]
    of_e, of_w, of_s = moved
    return margin_softmax(
        embeddings + of_e,
        tables[centres] + of_w,
        labels,
        PSI[case],
        scale + of_s,
        options.get("label_smoothing", 0.0),
        options.get("filter_threshold"),
        classes,
    )


def numpy_slope(problem, case, along, classes, step=1e-6):
    """Of Σ importance·loss along a direction, from finite differences."""
    ends = [
        numpy_results(problem, case, [sign * step * part for part in along], classes)[0]
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) @ problem[3] / (2 * step)


@pytest.mark.parametrize(("mapped", "devices", "chunk", "case"), RUNS, indirect=["mapped"])
def test_loss_gradients_and_cosines(problem, mapped, devices, chunk, case):
    """Over all classes and over a sample of them, against NumPy and its finite differences."""
    embeddings, tables, labels, importance = problem
    centres, scale, options = CASES[case]
    axis = {"axis_name": mapped.axis, "num_classes": 53}

    def on_device(e, w, y, weight, s):
        def total(e, w, s, sample):
            s = s if np.ndim(scale) else jnp.mean(s)
            seen = margin_softmax_loss(
                e, w, y, scale=s, chunk=chunk, sample=sample, with_cosines=True, **axis, **options
            )
            return seen[0] @ weight, seen

        sample = sample_classes(jax.random.key(2), y, rate=0.4, **axis)
        slopes = jax.grad(total, argnums=(0, 1, 2), has_aux=True)
        found = [slopes(e, w, s, each) for each in (None, sample)]
        return found, sample.rows, jnp.reshape(sample.active, 1)

    holey = np.where(labels[:, None] < 0, np.nan, embeddings)  # padding may hold anything
    with jax.enable_x64(True):
        shards = shard(tables[centres], devices)
        flat = shards.reshape(-1, *shards.shape[2:])
        scales = np.broadcast_to(scale, 16)
        run = mapped(on_device, devices)
        found, rows, active = jax.device_get(run(holey, flat, labels, importance, scales))
    sizes, rows = shard_sizes(53, devices), rows.reshape(devices, -1)
    firsts = np.cumsum([0, *sizes[:-1]])
    sampled = np.concatenate(
        [part[:n] + first for part, n, first in zip(rows, active, firsts, strict=True)]
    )
    assert len(sampled) < 53
    generator = np.random.default_rng(1)
    for classes, ((of_e, of_w, of_s), seen) in zip((None, sampled), found, strict=True):
        with jax.enable_x64(True):
            wanted = numpy_results(problem, case, classes=classes)
        for one, other in zip(seen, wanted, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)
        of_w = of_w.reshape(shards.shape)
        for part, size in zip(of_w, sizes, strict=True):
            assert not part[size:].any()  # padding
        of_w = unshard(of_w, 53)
        assert not of_e[3].any()
        if classes is not None:
            assert not np.delete(of_w, classes, axis=0).any()
        for _ in range(3):
            along = generator.normal(size=of_e.shape), generator.normal(size=of_w.shape)
            along = (*along, generator.normal(size=np.shape(scale)))
            slope = sum(np.sum(g * a) for g, a in zip((of_e, of_w, of_s), along, strict=True))
            with jax.enable_x64(True):
                wanted_slope = numpy_slope(problem, case, along, classes)
            np.testing.assert_allclose(slope, wanted_slope, rtol=1e-5, atol=1e-5)


def value_and_gradients(importance, **options):
    """(loss [N], gradients by embeddings, weights and scale) of Σ importance·loss."""

    def total(e, w, s, y):
        each = margin_softmax_loss(e, w, y, scale=s, **options)
        return each @ importance, each

    @jax.jit
    def run(e, w, s, y):
        gradients, each = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(e, w, s, y)
        return each, gradients

    return run


def same(got, wanted, tolerance=1e-12):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("first", range(0, len(MARGINS), 16))
def test_every_margin_in_chunks_equals_the_dense_loss(problem, first):
    """Example i has the margin number first + i, so that one program tests many."""
    embeddings, tables, labels, importance = problem
    margins = [*MARGINS.values()][first : first + 16]

    def psi(cosine):
        return sum(
            jnp.where(jnp.arange(16) % len(margins) == i, psi(cosine), 0.0)
            for i, psi in enumerate(margins)
        )

    with jax.enable_x64(True):
        arguments = (embeddings, tables[1], np.float64(16.0), labels)
        wanted = value_and_gradients(importance, psi=psi)(*arguments)
        same(value_and_gradients(importance, psi=psi, chunk=7)(*arguments), wanted)


def test_a_margin_of_each_example_that_is_learnt(problem):
    embeddings, tables, labels, _ = problem
    margins = np.linspace(0.1, 0.7, 53)

    def slope(**options):
        def total(m):
            psi = arcface(class_wise(m, labels))
            return margin_softmax_loss(
                embeddings, tables[1], labels, psi=psi, scale=9.0, **options
            ).sum()

        return jax.jit(jax.value_and_grad(total))(margins)

    with jax.enable_x64(True):
        same(slope(chunk=20), slope())


def test_adaptive_margins(problem):
    embeddings, tables, labels, _ = problem

    @jax.jit
    def program(e, w):
        key, state = jax.random.key(1), AdaFaceState(jnp.float32(3.0), jnp.float32(1.0))
        adaptive, state = adaface_loss(e, w, labels, state, scale=16.0)
        drawn = elasticface_loss(e, w, labels, key, plus=True, scale=16.0)
        psis = (
            adaface_psi(row_norms(blank_ignored(e, labels)), state),
            elasticface_psi(key, labels >= 0, plus=True),
        )
        return [margin_softmax_loss(e, w, labels, psi=psi, scale=16.0, chunk=9) for psi in psis], [
            adaptive,
            drawn,
        ]

    same(*program(embeddings.astype(np.float32), tables[1].astype(np.float32)), 1e-5)


def test_a_hit_is_strictly_nearer_than_every_other_class():
    """Two classes with one centre: neither is nearer."""
    embeddings = np.float32([[2.0, 0.0], [0.1, 3.0], [1.0, 1.0]])
    weights = np.float32([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    # What the softmax leaves out is as near as before.
    options = {"with_cosines": True, "filter_threshold": 0.5}
    for chunk in (None, 1, 2):
        loss = jax.jit(functools.partial(margin_softmax_loss, chunk=chunk, **options))
        _, cosine, hit = loss(embeddings, weights, np.array([0, 2, -1]))
        assert hit.tolist() == [False, True, False]
        np.testing.assert_allclose(cosine, [1.0, 3.0 / 9.01**0.5, 0.0], rtol=1e-6)


def test_rows_without_a_direction(problem):
    embeddings, tables, labels, importance = problem
    e, w = embeddings.copy(), tables[1].copy()
    e[2], w[7], w[labels[4]] = 0.0, 0.0, 0.0
    with jax.enable_x64(True):
        arguments = (e, w, np.float64(16.0), labels)
        each, gradients = value_and_gradients(importance)(*arguments)
        same(value_and_gradients(importance, chunk=7)(*arguments), (each, gradients))
    cosine = (e / np.maximum(np.linalg.norm(e, axis=1, keepdims=True), 1e-30)) @ (
        w / np.maximum(np.linalg.norm(w, axis=1, keepdims=True), 1e-30)
    ).T
    logits = 16.0 * cosine
    sine = np.sqrt(1.0 - cosine[4, labels[4]] ** 2 + 1e-6)
    logits[4, labels[4]] = 16.0 * (cosine[4, labels[4]] * np.cos(0.5) - sine * np.sin(0.5))
    wanted = np.log(np.exp(logits[4]).sum()) - logits[4, labels[4]]
    np.testing.assert_allclose(each[4], wanted, rtol=1e-12)
    assert all(np.isfinite(g).all() for g in gradients)
    assert not gradients[0][2].any()
    assert not gradients[1][7].any()


@pytest.mark.parametrize("chunk", [None, 4])
def test_a_single_class_costs_nothing(chunk):
    loss = lambda e, w: margin_softmax_loss(e, w, np.array([0, 0]), chunk=chunk).sum()  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        np.ones((2, 4), np.float32), np.ones((1, 4), np.float32)
    )
    assert value == 0.0
    assert all((g == 0.0).all() for g in gradients)


@pytest.mark.parametrize("chunk", [None, 7])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": -1.0}, "scale is -1; pass a finite number above 0"),
        ({"scale": np.ones(3)}, r"scale has shape \(3,\)"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2"),
        ({"filter_threshold": -2.0}, "filter_threshold is -2"),
        ({"psi": jnp.sum}, r"psi gives shape \(\)"),
        ({"psi": "arcface"}, "psi is 'arcface'; pass a margin"),
        ({"axis_name": "classes"}, "num_classes is None with axis_name 'classes'"),
        ({"num_classes": 40}, "class_weights has 53 rows on each of 1 device; 40 classes need"),
    ],
)
def test_bad_input_is_named(problem, options, message, chunk):
    embeddings, tables, labels, _ = problem
    with pytest.raises(InputError, match=message):
        jax.eval_shape(
            lambda: margin_softmax_loss(embeddings, tables[1], labels, chunk=chunk, **options)
        )


def test_chunks_shapes_and_labels_that_do_not_fit(problem):
    embeddings, tables, labels, _ = problem
    with pytest.raises(InputError, match="chunk is 0; pass a number of classes, 1 or more"):
        margin_softmax_loss(embeddings, tables[1], labels, chunk=0)
    with pytest.raises(InputError, match="last axes"):
        margin_softmax_loss(embeddings, tables[1][:, :4], labels, chunk=7)
    with pytest.raises(InputError, match=r"labels\[0\] is 99; pass a class, 0 to 52"):
        margin_softmax_loss(embeddings, tables[1], np.full(16, 99), chunk=7)
