"""What sums over classes: which chunk owns a class, its memory, its products, its edges."""

import functools
import re
from collections import Counter

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.heads.chunks import split_classes
from arcface_jax.losses import margin_softmax_loss


@pytest.mark.parametrize(
    ("classes", "chunk"), [(53, 7), (53, 10), (8, 4), (5, 9), (1, 1), (53, None), (100_003, 2048)]
)
def test_the_chunks_own_every_class_once(classes, chunk):
    chunks = split_classes(classes, chunk)
    classes_of = jax.jit(jax.vmap(chunks.classes_of, (0, None)))
    numbers, fresh = map(np.asarray, classes_of(np.arange(chunks.count), classes))
    owned = [c[there] for c, there in zip(numbers, fresh, strict=True)]
    np.testing.assert_array_equal(np.concatenate(owned), np.arange(classes))
    assert chunks.size <= (chunk or classes)
    # Twice in a chunk is less than one class, or than 64 where that is a sixteenth of it at most.
    waste = 1 if chunks.size < 1024 else 64
    assert chunks.count * chunks.size - classes < chunks.count * waste
    if chunk == 2048:
        assert chunks.size % 64 == 0


@pytest.mark.parametrize("chunk", [None, 7])
def test_a_class_weight_that_is_not_finite_shows_in_the_loss(problem, chunk):
    embeddings, tables, labels, _ = problem
    loss = jax.jit(functools.partial(margin_softmax_loss, chunk=chunk))
    for broken in (np.nan, np.inf, 3e19):  # the square of 3e19 overflows
        weights = tables[1].astype(np.float32)
        weights[20, 0] = broken
        values = loss(embeddings.astype(np.float32), weights, labels)
        np.testing.assert_array_equal(np.isnan(values), labels >= 0, str(broken))


@pytest.mark.parametrize("scale", [64.0, 200.0])
@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_the_shift_follows_the_largest_logit(chunk, scale):
    """With every wrong class opposite, e^{s(cosθ − 1)} is 0 in float32: 1 is no shift. At s = 64
    none is needed.
    """
    e, w = np.float32([[1.0, 0.0]]), np.float32([[-0.99, 0.1], [-1.0, 0.0]])
    options = {"psi": lambda c: c, "scale": scale, "chunk": chunk}
    loss = jax.jit(functools.partial(margin_softmax_loss, **options))(e, w, np.array([0]))
    own = -0.99 / (0.99**2 + 0.01) ** 0.5
    np.testing.assert_allclose(loss, np.log1p(np.exp(scale * (-1.0 - own))), rtol=1e-4)


def test_bf16_weights_and_their_gradient(problem):
    embeddings, tables, labels, importance = problem
    e, w = jnp.asarray(embeddings, jnp.bfloat16), jnp.asarray(tables[1], jnp.bfloat16)

    def run(chunk):
        def total(e, w):
            loss = margin_softmax_loss(e, w, labels, scale=16.0, chunk=chunk)
            return loss @ jnp.float32(importance), loss

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(e, w)

    (gradients, loss), (wanted_gradients, wanted_loss) = run(7), run(None)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-4, atol=1e-4)
    for a, b in zip(gradients, wanted_gradients, strict=True):
        assert a.dtype == b.dtype == jnp.bfloat16
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
        loss = lambda e, w, y: margin_softmax_loss(e, w, y, chunk=chunk).mean()  # noqa: E731
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


def products(program):
    """How many dots optimised HLO has over each set of axes: {(N, D, C): …} for a product of
    [N, D] and [C, D].
    """
    shapes = dict(re.findall(r"%?([\w.-]+) = \w+\[([\d,]*)\]", program))
    operand = r"(?:\w+\[[\d,]*\]\S* )?%?([\w.-]+)"
    counts = Counter()
    for factors in re.findall(rf" dot\({operand}, {operand}\)", program):
        axes = {int(axis) for name in factors for axis in shapes[name].split(",")}
        counts[tuple(sorted(axes))] += 1
    return counts


@pytest.mark.parametrize(("chunk", "width", "count"), [(None, 257, 3), (130, 129, 4)])
def test_the_cosines_cost_no_product_of_their_own(chunk, width, count):
    """Three products of N × C × D for loss, gradients, true class's cosines and hits; four in
    chunks, whose cosines are formed again on the way back.
    """
    rows, classes, dim = 24, 257, 40
    arguments = (
        jax.ShapeDtypeStruct((rows, dim), jnp.float32),
        jax.ShapeDtypeStruct((classes, dim), jnp.float32),
        jax.ShapeDtypeStruct((rows,), jnp.int32),
    )

    def total(e, w, y):
        loss, cosine, hit = margin_softmax_loss(e, w, y, chunk=chunk, with_cosines=True)
        return loss.mean(), (cosine, hit)

    step = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    assert products(step.lower(*arguments).compile().as_text()) == {(rows, dim, width): count}


def test_mapped_rematerialised_and_lowered_for_accelerators(problem):
    embeddings, tables, labels, _ = problem
    e, w = embeddings.astype(np.float32).reshape(2, 8, 8), tables[3].astype(np.float32)
    loss = lambda e, w, y: margin_softmax_loss(e, w, y, chunk=9, label_smoothing=0.1).sum()  # noqa: E731
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
