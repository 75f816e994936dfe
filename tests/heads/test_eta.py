"""Wrong classes with logits of their own: in every head as in NumPy, and so every gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from arcface_jax.errors import InputError
from arcface_jax.heads import RowSgd, fused_head_step, init_head
from arcface_jax.losses import SphereFace2, margin_softmax_loss
from arcface_jax.margins import arcface
from tests import in_numpy

WAYS = [("jit", 1, None), ("jit", 1, 7), ("shard_map", 4, 5)]


def bent(cosine, power, shift):
    """A function of the cosine with a number of each example and one for all."""
    return cosine * (0.5 + power * cosine) + shift


def numpy_loss(e, w, s, power, shift, labels):
    cosine = in_numpy.cosines(np.where(labels[:, None] < 0, 1.0, e), w)
    target = np.cos(np.arccos(in_numpy.own(cosine, labels)) + 0.5)
    values = bent(cosine, power[:, None], shift)
    return in_numpy.cross_entropy(values, labels, target, s, 0.1, cosine <= 0.9)


def numpy_binary(e, w, bias, labels):
    cosine = in_numpy.cosines(np.where(labels[:, None] < 0, 1.0, e), w)
    similar = 10 * (2 * ((cosine + 1) / 2) ** 3 - 1)
    loss = in_numpy.binary(similar - 4 + bias, similar + 4 + bias, labels, (0.07, 0.03))
    return np.where(labels < 0, 0.0, loss)


def slope_along(function, arguments, directions, importance, step=1e-6):
    ends = [
        function(*(a + sign * step * d for a, d in zip(arguments, directions, strict=True)))
        for sign in (1, -1)
    ]
    return (ends[0] - ends[1]) @ importance / (2 * step)


@pytest.mark.parametrize(("mapped", "devices", "chunk"), WAYS, indirect=["mapped"])
def test_losses_and_all_gradients(problem, mapped, devices, chunk):
    embeddings, tables, labels, importance = problem
    power = np.linspace(0.1, 0.9, 16)
    numbers = np.float64(9.0), np.float64(0.2), np.float64(-1.5)  # scale, shift, bias
    over = {"axis_name": mapped.axis, "num_classes": 53, "chunk": chunk}

    def on_device(e, w, power, y, weight, numbers):
        def softmax(e, w, power, s, shift):
            loss = margin_softmax_loss(
                e,
                w,
                y,
                psi=arcface(0.5),
                eta=Partial(bent, power=power, shift=shift),
                scale=s,
                label_smoothing=0.1,
                filter_threshold=0.9,
                **over,
            )
            return loss @ weight, loss

        def binary(e, w, bias):
            out = SphereFace2(scale=10.0)({"class_weights": w, "bias": bias}, {}, e, y, **over)
            return out.loss @ weight, out.loss

        s, shift, bias = (jnp.mean(part) for part in numbers)
        first = jax.grad(softmax, argnums=(0, 1, 2, 3, 4), has_aux=True)(e, w, power, s, shift)
        second = jax.grad(binary, argnums=(0, 1, 2), has_aux=True)(e, w, bias)
        scalars = jax.tree.map(lambda g: jnp.reshape(g, 1), (first[0][3:], second[0][2:]))
        return (first[0][:3], second[0][:2], scalars), first[1], second[1]

    holey = np.where(labels[:, None] < 0, np.nan, embeddings)  # padding may hold anything
    with jax.enable_x64(True):
        shards = in_numpy.shard(tables[1], devices)
        run = mapped(on_device, devices)
        numbers_of_each = [np.full(16, number) for number in numbers]
        found, loss, binary = jax.device_get(
            run(holey, shards.reshape(-1, 8), power, labels, importance, numbers_of_each)
        )
    s, shift, bias = numbers
    of_softmax = functools.partial(numpy_loss, labels=labels)
    of_binary = functools.partial(numpy_binary, labels=labels)
    first = embeddings, tables[1], s, power, shift
    second = embeddings, tables[1], bias
    np.testing.assert_allclose(loss, of_softmax(*first), rtol=1e-5)
    np.testing.assert_allclose(binary, of_binary(*second), rtol=1e-10)

    whole = lambda of_w: in_numpy.unshard(of_w.reshape(shards.shape), 53)  # noqa: E731
    (of_e, of_w, of_power), (also_e, also_w), ((of_s, of_shift), (of_bias,)) = found
    total = (lambda part: part[0]) if devices == 1 else np.sum  # each device's share
    pairs = [
        (of_softmax, first, (of_e, whole(of_w), total(of_s), of_power, total(of_shift))),
        (of_binary, second, (also_e, whole(also_w), total(of_bias))),
    ]
    generator = np.random.default_rng(1)
    for function, arguments, gradients in pairs:
        for gradient, part in zip(gradients, range(len(arguments)), strict=True):
            along = [np.zeros(np.shape(a)) for a in arguments]
            along[part] = generator.normal(size=np.shape(arguments[part]))
            wanted = slope_along(function, arguments, along, importance)
            np.testing.assert_allclose(np.sum(gradient * along[part]), wanted, rtol=2e-5, atol=1e-6)


def test_a_fused_step_is_a_step_of_its_gradient(problem):
    embeddings, tables, labels, _ = problem
    optimiser, eta = RowSgd(momentum=0.0, weight_decay=0.0), Partial(bent, power=0.4, shift=0.1)
    options = {"eta": eta, "scale": 9.0}

    @jax.jit
    def both(e, w):
        step = fused_head_step(
            init_head(w, optimiser, dtype="float64"),
            e,
            labels,
            0.5,
            optimiser=optimiser,
            chunk=7,
            **options,
        )
        mean = lambda e, w: margin_softmax_loss(e, w, labels, **options).mean()  # noqa: E731
        of_e, of_w = jax.grad(mean, argnums=(0, 1))(e, w)
        return (step.state.weights, step.embedding_gradients), (w - 0.5 * of_w, of_e)

    with jax.enable_x64(True):
        found, wanted = both(embeddings, tables[1])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-12)


def test_pallas_has_no_other_logits(problem):
    embeddings, tables, labels, _ = problem
    for loss in (
        functools.partial(margin_softmax_loss, eta=lambda c: c**2, kernel="pallas"),
        lambda e, w, y: SphereFace2()({"class_weights": w, "bias": 0.0}, {}, e, y, kernel="pallas"),
    ):
        with pytest.raises(InputError, match="kernel pallas has the logits s·cosθ alone"):
            jax.eval_shape(loss, embeddings, tables[1], labels)
