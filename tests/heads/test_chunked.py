"""The chunked margin softmax: equal to the dense one and to NumPy, its gradients, its memory,
its edges.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from arcface_jax.heads.chunked import chunked_margin_softmax_loss
from jax.test_util import check_grads

from arcface_jax.cosine import row_norms
from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import split_classes
from arcface_jax.losses import (
    AdaFaceState,
    adaface_loss,
    adaface_psi,
    blank_ignored,
    elasticface_loss,
    elasticface_psi,
    margin_softmax_loss,
)
from arcface_jax.margins import NAMED_MARGINS, PAST_PI, arcface, class_wise, cm2, combined

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
BOTH = {"filter_threshold": 0.2, "label_smoothing": 0.1}
OPTIONS = (
    (1, "running", {}),
    (1, "running", {"label_smoothing": 0.1}),
    (1, "running", {"filter_threshold": 0.2}),
    (1, "fixed", BOTH),
    (3, "running", BOTH),
    (3, "fixed", {}),
)


def value_and_gradients(loss, importance, **options):
    """(loss [N], gradients by embeddings, weights and scale) of Σ importance·loss."""

    def total(e, w, s, y):
        each = loss(e, w, y, scale=s, **options)
        return each @ importance, each

    @jax.jit
    def run(e, w, s, y):
        gradients, each = jax.grad(total, argnums=(0, 1, 2), has_aux=True)(e, w, s, y)
        return each, gradients

    return run


def same(got, wanted, tolerance=1e-12):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def compare(problem, centres=1, chunk=7, shift="running", scale=16.0, **options):
    embeddings, tables, labels, importance = problem
    arguments = (embeddings, tables[centres], jnp.asarray(scale), labels)
    wanted = value_and_gradients(margin_softmax_loss, importance, **options)(*arguments)
    chunked = functools.partial(chunked_margin_softmax_loss, chunk=chunk, shift=shift)
    same(value_and_gradients(chunked, importance, **options)(*arguments), wanted)


@pytest.mark.parametrize("first", range(0, len(MARGINS), 16))
def test_every_margin_and_gradient_equals_the_dense_loss(problem, first):
    """Example i has the margin number first + i, so that one program tests many."""
    margins = [*MARGINS.values()][first : first + 16]

    def psi(cosine):
        return sum(
            jnp.where(jnp.arange(16) % len(margins) == i, psi(cosine), 0.0)
            for i, psi in enumerate(margins)
        )

    with jax.enable_x64(True):
        compare(problem, psi=psi)


@pytest.mark.parametrize(("centres", "shift", "options"), OPTIONS)
def test_every_option_equals_the_dense_loss(problem, centres, shift, options):
    with jax.enable_x64(True):
        compare(problem, centres, shift=shift, psi=cm2(), **options)


@pytest.mark.parametrize("broken", [np.nan, np.inf, 3e19])
def test_a_class_weight_that_is_not_finite_shows_in_the_loss(problem, broken):
    embeddings, tables, labels, _ = problem
    weights = tables[1].astype(np.float32)
    weights[20, 0] = broken  # the square of 3e19 overflows
    for loss in (margin_softmax_loss, functools.partial(chunked_margin_softmax_loss, chunk=7)):
        values = jax.jit(loss)(embeddings.astype(np.float32), weights, labels)
        np.testing.assert_array_equal(np.isnan(values), labels >= 0)


@pytest.mark.parametrize("chunk", [1, 1000])
def test_any_chunk(problem, chunk):
    with jax.enable_x64(True):
        compare(problem, 3, chunk=chunk)


@pytest.mark.parametrize(
    ("classes", "chunk"), [(53, 7), (53, 10), (8, 4), (5, 9), (1, 1), (100_003, 2048)]
)
def test_the_chunks_own_every_class_once(classes, chunk):
    chunks = split_classes(classes, chunk)
    owned = [c[fresh] for c, fresh in (chunks.classes_of(i, classes) for i in range(chunks.count))]
    np.testing.assert_array_equal(np.concatenate(owned), np.arange(classes))
    assert chunks.size <= chunk
    assert chunks.count * chunks.size - classes < chunks.count  # waste: less than one class a chunk


def test_margins_and_scales_for_each_example(problem):
    embeddings, tables, labels, _ = problem
    margins, scales = np.linspace(0.1, 0.7, 53), np.linspace(5.0, 50.0, 16)
    with jax.enable_x64(True):
        compare(problem, scale=scales, psi=arcface(class_wise(margins, labels)))

        # ... and a margin that is learnt.
        def slope(loss, **options):
            def total(m):
                return loss(
                    embeddings, tables[1], labels, psi=arcface(m), scale=9.0, **options
                ).sum()

            return jax.jit(jax.grad(total))(jnp.full(16, 0.4))

        same(slope(chunked_margin_softmax_loss, chunk=20), slope(margin_softmax_loss))


def test_adaptive_margins(problem):
    embeddings, tables, labels, _ = problem
    key, state = jax.random.key(1), AdaFaceState(jnp.float32(3.0), jnp.float32(1.0))
    e, w = embeddings.astype(np.float32), tables[1].astype(np.float32)
    wanted, state = adaface_loss(e, w, labels, state, scale=16.0)
    psi = adaface_psi(row_norms(blank_ignored(e, labels)), state)
    same(chunked_margin_softmax_loss(e, w, labels, psi=psi, scale=16.0, chunk=9), wanted, 1e-5)
    psi = elasticface_psi(key, labels >= 0, plus=True)
    wanted = elasticface_loss(e, w, labels, key, plus=True, scale=16.0)
    same(chunked_margin_softmax_loss(e, w, labels, psi=psi, scale=16.0, chunk=9), wanted, 1e-5)


def test_against_numpy():
    generator = np.random.default_rng(3)
    e, w, y = generator.normal(size=(4, 6)), generator.normal(size=(11, 6)), np.array([0, 10, 3, 3])
    cosine = (e / np.linalg.norm(e, axis=1)[:, None]) @ (w / np.linalg.norm(w, axis=1)[:, None]).T
    logits = 64.0 * cosine
    logits[np.arange(4), y] = 64.0 * np.cos(np.arccos(cosine[np.arange(4), y]) + 0.5)
    wanted = np.log(np.exp(logits - 64.0).sum(axis=1)) + 64.0 - logits[np.arange(4), y]
    np.testing.assert_allclose(chunked_margin_softmax_loss(e, w, y, chunk=3), wanted, rtol=1e-4)


def test_gradients_against_finite_differences():
    generator = np.random.default_rng(4)
    e, w, y = (
        generator.normal(size=(4, 6)),
        generator.normal(size=(11, 2, 6)),
        np.array([0, 10, -1, 3]),
    )
    with jax.enable_x64(True):
        check_grads(
            jax.jit(
                lambda e, w, s: chunked_margin_softmax_loss(
                    e, w, y, scale=s, chunk=3, label_smoothing=0.1
                )
            ),
            (e, w, jnp.linspace(3.0, 9.0, 4)),
            order=1,
            modes=["rev"],
            atol=1e-5,
            rtol=1e-5,
        )


def test_a_row_without_direction_and_rows_to_ignore(problem):
    embeddings, tables, labels, importance = problem
    e, w = embeddings.copy(), tables[1].copy()
    e[2], w[7], w[labels[4]] = 0.0, 0.0, 0.0
    with jax.enable_x64(True):
        compare((e, {1: w}, labels, importance))
        e[3] = np.nan  # labelled −1
        each, gradients = value_and_gradients(chunked_margin_softmax_loss, importance)(
            e, w, 16.0, labels
        )
    assert np.asarray(each)[3] == 0.0
    assert all(np.isfinite(g).all() for g in gradients)


def test_a_single_class_costs_nothing():
    loss = lambda e, w: chunked_margin_softmax_loss(e, w, np.array([0, 0])).sum()  # noqa: E731
    value, gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(
        jnp.ones((2, 4)), jnp.ones((1, 4))
    )
    assert value == 0.0
    assert all((g == 0.0).all() for g in gradients)


def test_the_running_maximum_holds_where_the_fixed_shift_underflows():
    e, w = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[-0.99, 0.1], [-1.0, 0.0]])
    loss = functools.partial(
        chunked_margin_softmax_loss, e, w, np.array([0]), psi=lambda c: c, scale=200.0
    )
    wanted = margin_softmax_loss(e, w, np.array([0]), psi=lambda c: c, scale=200.0)
    np.testing.assert_allclose(loss(), wanted, rtol=1e-4)
    assert loss(shift="fixed") == 0.0  # e^{200(−1 − 1)} is 0 in float32


def test_a_row_that_the_fixed_shift_loses_has_no_gradient():
    # e^{200(.5 − 1)} is 0 in float32, and e^{200·.5} is ∞: neither may turn into NaN.
    e, w = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[-1.0, 0.1], [0.5, 0.75**0.5]])

    def loss(e, w):
        return chunked_margin_softmax_loss(e, w, np.array([0]), scale=200.0, shift="fixed")[0]

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(e, w)
    assert value == 0.0
    assert all((gradient == 0.0).all() for gradient in gradients)


def test_bf16_weights_and_their_gradient(problem):
    embeddings, tables, labels, importance = problem
    e, w = jnp.asarray(embeddings, jnp.bfloat16), jnp.asarray(tables[1], jnp.bfloat16)
    got = value_and_gradients(
        functools.partial(chunked_margin_softmax_loss, chunk=7), importance.astype(np.float32)
    )
    wanted = value_and_gradients(margin_softmax_loss, importance.astype(np.float32))
    (loss, gradients), (wanted_loss, wanted_gradients) = (
        got(e, w, 16.0, labels),
        wanted(e, w, 16.0, labels),
    )
    same(loss, wanted_loss, 1e-4)
    assert gradients[1].dtype == jnp.bfloat16
    for a, b in zip(gradients, wanted_gradients, strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("centres", [1, 3])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_memory_beyond_the_arguments_does_not_grow_with_the_classes(dtype, centres):
    rows, dim, chunk = 32, 64, 256

    def temporary(classes):
        shape = (classes, dim) if centres == 1 else (classes, centres, dim)
        arguments = (
            jax.ShapeDtypeStruct((rows, dim), jnp.float32),
            jax.ShapeDtypeStruct(shape, dtype),
            jax.ShapeDtypeStruct((rows,), jnp.int32),
        )
        loss = lambda e, w, y: chunked_margin_softmax_loss(e, w, y, chunk=chunk).mean()  # noqa: E731
        compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    few, many = temporary(4096), temporary(65536)
    # The bits of a bfloat16 gradient are copied once where the compiler has no bfloat16 slices (see
    # heads.chunks).
    copied = (65536 - 4096) * centres * dim * 2 if dtype == jnp.bfloat16 else 0
    assert many - few <= copied + 4096
    assert (
        few - (4096 * centres * dim * 2 if dtype == jnp.bfloat16 else 0)
        < 12 * chunk * centres * (rows + dim) * 4
    )


def test_mapped_rematerialised_and_lowered_for_accelerators(problem):
    embeddings, tables, labels, _ = problem
    e, w = embeddings.astype(np.float32).reshape(2, 8, 8), tables[3].astype(np.float32)
    loss = lambda e, w, y: chunked_margin_softmax_loss(e, w, y, chunk=9, label_smoothing=0.1).sum()  # noqa: E731
    one, again = (jax.grad(f, argnums=(0, 1)) for f in (loss, jax.checkpoint(loss)))

    @jax.jit
    def program(e, w, y):
        scanned = jax.lax.scan(
            lambda carry, batch: (carry, again(batch[0], w, batch[1])), None, (e, y)
        )[1]
        return jax.vmap(one, in_axes=(0, None, 0))(e, w, y), scanned

    mapped, scanned = program(e, w, labels.reshape(2, 8))
    wanted = jax.jit(jax.grad(loss, argnums=(0, 1)))(e.reshape(16, 8), w, labels)
    for of_e, of_w in (mapped, scanned):
        np.testing.assert_allclose(of_e.reshape(16, 8), wanted[0], atol=1e-4)
        np.testing.assert_allclose(of_w.sum(axis=0), wanted[1], atol=1e-4)
    exported = jax.export.export(program, platforms=("tpu", "cuda"))(e, w, labels.reshape(2, 8))
    assert exported.platforms == ("tpu", "cuda")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk is 0; pass a number of classes, 1 or more"),
        ({"shift": "none"}, "shift is 'none'; pass one of running, fixed"),
        ({"scale": -1.0}, "scale is -1; pass a finite number above 0"),
        ({"scale": np.ones(3)}, r"scale has shape \(3,\)"),
        ({"label_smoothing": 2.0}, "label_smoothing is 2"),
        ({"filter_threshold": -2.0}, "filter_threshold is -2"),
        ({"psi": jnp.sum}, r"psi gives shape \(\)"),
        ({"psi": "arcface"}, "psi is 'arcface'; pass a margin"),
    ],
)
def test_bad_input_is_named(problem, options, message):
    embeddings, tables, labels, _ = problem
    with pytest.raises(InputError, match=message):
        chunked_margin_softmax_loss(embeddings, tables[1], labels, **options)


def test_shapes_and_labels_that_do_not_fit(problem):
    embeddings, tables, labels, _ = problem
    with pytest.raises(InputError, match="last axes"):
        chunked_margin_softmax_loss(embeddings, tables[1][:, :4], labels)
    with pytest.raises(InputError, match=r"labels\[0\] is 99; pass a class, 0 to 52"):
        chunked_margin_softmax_loss(embeddings, tables[1], np.full(16, 99))
