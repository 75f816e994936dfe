"""The precision of a head's products: factors rounded forwards and backwards as said, in every head
and every loss, against float64 NumPy.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from jax.sharding import PartitionSpec

from arcface_jax.cosine import PRECISIONS, cosine_logits, product
from arcface_jax.errors import InputError
from arcface_jax.heads import (
    RowSgd,
    fused_head_step,
    hard_classes,
    init_head,
    partition_recall,
    sample_classes,
)
from arcface_jax.losses import LOSSES, ArcFace, Context, margin_softmax_loss
from arcface_jax.margins import normface
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.step import loss_and_gradients
from tests.devices import HIGH_ROUNDOFF, roundoff

ROUNDOFF = {
    "highest": 2.0**-24,
    "high": roundoff(HIGH_ROUNDOFF),
    "bfloat16": 2.0**-8,
    "tf32": 2.0**-11,
}
CHUNKS = {"dense": None, "chunked": 16}


def rounded(x, precision):
    """To the nearest number of so many bits, ties to even, in float64."""
    if precision == "bfloat16":
        return x.astype(np.float32).astype(ml_dtypes.bfloat16).astype(np.float64)
    if precision == "tf32":
        fraction, exponent = np.frexp(x.astype(np.float64))  # 10 bits after the leading one
        return np.ldexp(np.rint(np.ldexp(fraction, 11)), exponent - 11)
    return x


def batch(rows=16, classes=53, dim=40):
    generator = np.random.default_rng(3)
    weights = generator.normal(size=(classes, dim))
    labels = generator.integers(0, classes, rows)
    labels[2] = -1
    embeddings = weights[labels] + generator.normal(size=(rows, dim))
    return embeddings.astype(np.float32), weights.astype(np.float32), labels


def in_float64(embeddings, weights, labels, scale, precision):
    """(loss, gradients of its sum by embeddings and by class weights), NormFace, with the factors
    of every product rounded.
    """
    rows = np.arange(len(labels))
    cut = lambda x: rounded(x, precision)  # noqa: E731
    lengths = [np.linalg.norm(x, axis=1, keepdims=True) for x in (embeddings, weights)]
    unit = embeddings / lengths[0] * (labels >= 0)[:, None]
    cosine = cut(unit) @ cut(weights).T / lengths[1].T
    p = np.exp(scale * (cosine - cosine.max(axis=1, keepdims=True)))
    p /= p.sum(axis=1, keepdims=True)
    slopes = scale * (p - (np.arange(len(weights)) == labels[:, None])) * (labels >= 0)[:, None]
    scaled = slopes / lengths[1].T
    of_unit = cut(scaled) @ cut(weights)
    of_embeddings = (of_unit - (of_unit * unit).sum(1, keepdims=True) * unit) / lengths[0]
    along = (slopes * cosine).sum(axis=0)[:, None]
    of_weights = cut(scaled).T @ cut(unit) - along * weights / lengths[1] ** 2
    return np.where(labels < 0, 0.0, -np.log(p[rows, labels])), of_embeddings, of_weights


@pytest.mark.accelerator
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("equation", ["nd,cd->nc", "nc,cd->nd", "nc,nd->cd", "nd,ckd->nck"])
def test_a_product_is_off_by_no_more_than_its_roundoff(equation, precision):
    generator, sizes = np.random.default_rng(0), {"n": 6, "d": 64, "c": 9, "k": 2}
    shapes = [[sizes[letter] for letter in term] for term in re.split(",|->", equation)]
    a, b, slopes = (generator.normal(size=shape).astype(np.float32) for shape in shapes)
    found, pull_back = jax.vjp(lambda a, b: product(equation, a, b, precision), a, b)
    of_a, of_b = pull_back(jnp.asarray(slopes))
    first, second = equation.split("->")[0].split(",")
    out, u = equation.split("->")[1], ROUNDOFF[precision]
    for value, terms, factors in (
        (found, equation, (a, b)),
        (of_a, f"{out},{second}->{first}", (slopes, b)),
        (of_b, f"{first},{out}->{second}", (a, slopes)),
    ):
        exact = [factor.astype(np.float64) for factor in factors]
        most = np.einsum(terms, *map(np.abs, exact))  # Σ|a·b|
        sums = 64 * 2.0**-24 * most  # n·u of a sum of n products in float32
        error = np.abs(value - np.einsum(terms, *exact))
        assert (error <= (2 * u + u**2) * most + sums).all()
        if precision == "high" and jax.default_backend() != "cpu":
            continue  # nobody promises how the device rounds
        known = np.einsum(terms, *(rounded(factor, precision) for factor in exact))
        assert (np.abs(value - known) <= 1.1 * sums).all()
        if u > 2.0**-20:
            assert error.max() > u * most.max() / 100  # it was rounded


@pytest.mark.accelerator
@pytest.mark.parametrize("precision", ["bfloat16", "tf32"])
@pytest.mark.parametrize("head", ["dense", "chunked", "fused"])
def test_loss_and_gradients_are_those_of_rounded_factors(head, precision):
    """Beside float64: the loss within 2·s·δ where cosines are off by δ = 2u + u², Σ|a·b| ≤ 1."""
    embeddings, weights, labels = batch()
    scale = 8.0
    loss, of_e, of_w = in_float64(embeddings, weights, labels, scale, precision)
    options = {"psi": normface(), "scale": scale, "precision": precision}

    @jax.jit
    def run(e, w):
        if head == "fused":
            optimiser = RowSgd(momentum=0.0, weight_decay=0.0)
            state = init_head(w, optimiser)
            step = fused_head_step(state, e, labels, 1.0, optimiser=optimiser, chunk=16, **options)
            found = step.embedding_gradients, w - step.state.weights
            return step.loss, *(len(labels) * gradient for gradient in found)
        total = lambda e, w: (  # noqa: E731
            (loss := margin_softmax_loss(e, w, labels, chunk=CHUNKS[head], **options)).sum(),
            loss,
        )
        gradients, loss = jax.grad(total, argnums=(0, 1), has_aux=True)(e, w)
        return loss, *gradients

    found = run(embeddings, weights)
    for value, wanted in zip(found, (loss, of_e, of_w), strict=True):
        # A slope next to the middle of two numbers may go to either: one of a row's, by 2u.
        difference = np.abs(np.asarray(value, np.float64) - wanted).max()
        assert difference <= ROUNDOFF[precision] * np.abs(wanted).max() / 20
    u, exact = ROUNDOFF[precision], in_float64(embeddings, weights, labels, scale, "highest")
    assert (np.abs(found[0] - exact[0]) <= 2 * scale * (2 * u + u**2) + 1e-5).all()
    for value, wanted in zip(found[1:], exact[1:], strict=True):
        error = np.linalg.norm(value - wanted) / np.linalg.norm(wanted)
        assert u / 20 < error < scale * u


def test_float64_stays_as_it_is_but_for_the_factors():
    embeddings, weights, labels = batch()
    wanted = in_float64(*(x.astype(np.float64) for x in (embeddings, weights)), labels, 16.0, None)

    @jax.jit
    def run(e, w):
        options = {"psi": normface(), "scale": 16.0}
        return {
            one: margin_softmax_loss(e, w, labels, precision=one, **options) for one in PRECISIONS
        }

    with jax.enable_x64(True):
        losses = run(embeddings.astype(np.float64), weights.astype(np.float64))
    assert {loss.dtype for loss in losses.values()} == {jnp.dtype(jnp.float64)}
    np.testing.assert_allclose(losses["highest"], wanted[0], rtol=1e-10)
    errors = {one: np.abs(loss - losses["highest"]).max() for one, loss in losses.items()}
    assert errors["high"] == 0.0 < errors["tf32"] < errors["bfloat16"] < 0.3


# What a program multiplies
# ----------------------------------------------------------------------------------------


def products_of(jaxpr):
    """(types of both factors) of all matrix products of a program, those in loops too."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield tuple(str(factor.aval.dtype) for factor in equation.invars)
        for inner in jaxprs_in_params(equation.params):
            yield from products_of(inner)


def traced(function, *arguments):
    return list(products_of(jax.make_jaxpr(function)(*arguments).jaxpr))


WITH_WEIGHTS = [
    *((name, "dense") for name in LOSSES if name != "triplet"),
    *((name, "chunked") for name, loss in LOSSES.items() if loss.any_head),
]


@pytest.mark.parametrize(("name", "way"), WITH_WEIGHTS)
def test_every_product_of_every_loss_is_in_bfloat16(name, way):
    loss = LOSSES[name]()
    over = {} if way == "dense" else {"chunk": 16}
    embeddings, _, labels = batch()
    params = loss.init_params(jax.random.key(0), 53, 40)

    def mean(precision, params, e):
        context = Context(key=jax.random.key(1), precision=precision)
        return loss(params, loss.init_state(53), e, labels, context, **over).loss.mean()

    for precision, dtype in (("bfloat16", "bfloat16"), ("highest", "float32")):
        both = jax.grad(lambda *a, p=precision: mean(p, *a), argnums=(0, 1))
        found = traced(both, params, embeddings)
        assert len(found) >= 3
        assert set(found) == {(dtype, dtype)}


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("chunk", "fused"), [(None, False), (16, False), (16, True)])
def test_every_product_of_a_sharded_head_is_in_bfloat16(sampled, chunk, fused):
    embeddings, weights, labels = batch(classes=64)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]), ("classes",))
    axis = {"axis_name": "classes", "num_classes": 64}
    options = {"chunk": chunk, "precision": "bfloat16", **axis}

    def on_device(e, w, y):
        sample = sample_classes(jax.random.key(0), y, rate=0.5, **axis) if sampled else None
        if fused:
            optimiser = RowSgd()
            step = fused_head_step(init_head(w, optimiser), e, y, 0.1, sample=sample, **options)
            return step.embedding_gradients, step.state.weights
        total = lambda e, w: margin_softmax_loss(e, w, y, sample=sample, **options).sum()  # noqa: E731
        return jax.grad(total, argnums=(0, 1))(e, w)

    spec = PartitionSpec("classes")
    found = traced(
        jax.shard_map(on_device, mesh=mesh, in_specs=spec, out_specs=spec),
        embeddings,
        weights,
        labels,
    )
    assert len(found) >= 3
    assert set(found) == {("bfloat16", "bfloat16")}


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(),
        HeadConfig("chunked", chunk=16),
        HeadConfig("chunked", chunk=16, sample_rate=0.5),
        HeadConfig("chunked", chunk=16, update="fused"),
        HeadConfig("chunked", chunk=16, sample_rate=0.5, update="fused", dtype="bfloat16"),
    ],
    ids=["dense", "chunked", "sampled", "fused", "fused, sampled, kept in bfloat16"],
)
def test_a_configuration_says_what_a_step_multiplies_at(head, monkeypatch):
    embeddings, weights, labels = batch()
    fused = head.update == "fused"
    rows = {"rows": init_head(weights, RowSgd(), dtype=head.dtype)} if fused else {}
    params = {} if fused else {"class_weights": weights}

    def products(precision):
        chosen = dataclasses.replace(head, precision=precision)
        one = lambda e, key: loss_and_gradients(  # noqa: E731
            ArcFace(), chosen, params, rows, e, labels, Context(key=key), num_classes=53
        )
        return set(traced(one, embeddings, jax.random.key(0)))

    float32, bfloat16 = {("float32",) * 2}, {("bfloat16",) * 2}
    found = {one: products(one) for one in ("highest", "high", "bfloat16", None)}
    assert found == {"highest": float32, "high": float32, "bfloat16": bfloat16, None: float32}
    for platform in ("gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda name=platform: name)
        assert products(None) == bfloat16


def test_a_sample_is_found_and_weighed_in_bfloat16():
    embeddings, weights, labels = batch()

    def of(e, w):
        sample = hard_classes(e, w, labels, count=9, chunk=16, precision="bfloat16")
        return partition_recall(e, w, labels, sample, chunk=16, precision="bfloat16")

    assert set(traced(of, embeddings, weights)) == {("bfloat16", "bfloat16")}


@pytest.mark.parametrize("precision", ["fp16", "float32", "BFLOAT16", ""])
def test_another_precision_is_refused(precision):
    embeddings, weights, labels = batch()
    for run in (
        lambda: cosine_logits(embeddings, weights, precision=precision),
        lambda: margin_softmax_loss(embeddings, weights, labels, precision=precision),
        lambda: margin_softmax_loss(embeddings, weights, labels, chunk=8, precision=precision),
    ):
        with pytest.raises(InputError, match=f"^precision is '{precision}'; .*highest"):
            run()


def test_contexts_of_another_precision_are_other_programs():
    """It is static: a jitted loss is compiled again for it."""
    one, other = Context(), dataclasses.replace(Context(), precision="bfloat16")
    assert jax.tree.structure(one) != jax.tree.structure(other)
