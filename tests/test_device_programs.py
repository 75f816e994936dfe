"""Every public loss under every transformation, in bf16 and float64, and lowered for TPU and
CUDA without either.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.cosine import arcface_logits, cosine_logits
from arcface_jax.losses import (
    AdaFace,
    AdaFaceState,
    CurricularFaceState,
    adaface_loss,
    angular_triplet_loss,
    circle_eta,
    combination_loss,
    curricularface_loss,
    elasticface_loss,
    magface_loss,
    margin_cross_entropy,
    margin_softmax_loss,
    normface_loss,
    softmax_loss,
    sphereface2_loss,
    uniface_loss,
)
from arcface_jax.losses.subcenter import dominant_centres, subcenter_counts, within_angle
from arcface_jax.margins import NAMED_MARGINS, PAST_PI, annealed, arcface, class_wise, combined
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import make_step

BATCHES, ROWS, CLASSES, DIM = 2, 6, 5, 8


MARGINS = (
    *NAMED_MARGINS.values(),
    *(combined(1.2, 0.3, 0.1, past_pi=rule) for rule in PAST_PI),
    arcface(gradient="straight_through"),
    annealed(arcface(), 2.0),
    lambda c: c**3,
)


def every_margin(e, w, y):
    """The mean over all margins, so that one program holds them all; among them one for each
    class and one traced.
    """
    cosine = cosine_logits(e, w)
    margins = (
        *MARGINS,
        arcface(class_wise(jnp.linspace(0.1, 0.6, CLASSES), y)),
        annealed(arcface(), jnp.float32(2.0)),
    )
    return sum(margin_cross_entropy(cosine, y, psi=psi, scale=16.0) for psi in margins) / len(
        margins
    )


# Each takes (embeddings [N, D], class_weights [C, D], labels [N]) and gives [N].
LOSSES = {
    "every margin": every_margin,
    "smoothed and filtered": lambda e, w, y: margin_softmax_loss(
        e, w, y, scale=16.0, label_smoothing=0.1, filter_threshold=0.3
    ),
    "sub-centres": lambda e, w, y: margin_softmax_loss(
        e, jnp.stack([w, w[::-1]], axis=1), y, scale=16.0
    ),
    "arcface_logits": lambda e, w, y: jax.nn.logsumexp(
        arcface_logits(e, w, y, scale=16.0)[0], axis=1
    ),
    "plain softmax": lambda e, w, y: softmax_loss(
        e, w, jnp.linspace(-1.0, 1.0, CLASSES).astype(w.dtype), y
    ),
    "normface": lambda e, w, y: normface_loss(e, w, y, jnp.float32(2.0)),
    "triplet, hard": lambda e, w, y: angular_triplet_loss(e, y, mining="hard"),
    "softmax, intra, inter and triplet": lambda e, w, y: combination_loss(
        e, w, y, scale=16.0, intra_weight=1.0, inter_weight=1.0, triplet_weight=1.0
    ),
    "sphereface2": lambda e, w, y: sphereface2_loss(e, w, y, jnp.float32(-1.0)),
    "uniface": lambda e, w, y: uniface_loss(e, w, y, jnp.float32(4.0), scale=16.0),
    "adaface": lambda e, w, y: adaface_loss(
        e, w, y, AdaFaceState(jnp.float32(3.0), jnp.float32(1.0)), scale=16.0
    )[0],
    "magface": lambda e, w, y: magface_loss(e, w, y, lower_norm=1.0, upper_norm=5.0, scale=16.0),
    "curricularface": lambda e, w, y: curricularface_loss(
        e, w, y, CurricularFaceState(jnp.float32(0.3)), scale=16.0
    )[0],
    "wrong classes with logits of their own": lambda e, w, y: margin_softmax_loss(
        e, w, y, eta=lambda cosine: circle_eta(cosine, 0.25), scale=16.0, chunk=2
    ),
    "elasticface": lambda e, w, y: elasticface_loss(e, w, y, jax.random.key(0), scale=16.0),
    "elasticface+": lambda e, w, y: elasticface_loss(
        e, w, y, jax.random.key(0), kind="cos", plus=True, scale=16.0
    ),
}


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(BATCHES, ROWS, DIM)).astype(jnp.bfloat16).astype(np.float32)
    weights = generator.normal(size=(CLASSES, DIM)).astype(jnp.bfloat16).astype(np.float32)
    labels = generator.integers(0, CLASSES, size=(BATCHES, ROWS)).astype(np.int32)
    labels[0, 1] = -1
    return embeddings, weights, labels


def losses_and_gradients(loss):
    """A function of one batch, to (gradients, loss [N])."""

    def total(e, w, y):
        each = loss(e, w, y)
        return each.sum(), each

    return jax.grad(total, argnums=(0, 1), has_aux=True)


@functools.cache
def traced_once(name):
    return jax.jit(LOSSES[name])


@functools.cache
def compiled(name):
    return jax.jit(losses_and_gradients(traced_once(name)))


def transformed(name):
    """On each device its own batch, and beside it vmap over all batches and a scan with
    rematerialisation over them: one program.
    """
    one = compiled(name)
    again = losses_and_gradients(jax.checkpoint(traced_once(name)))

    @functools.partial(jax.pmap, in_axes=(0, 0, None, None, None))
    def program(own_e, own_y, e, w, y):
        scanned = jax.lax.scan(
            lambda carry, batch: (carry, again(batch[0], w, batch[1])), None, (e, y)
        )[1]
        return one(own_e, w, own_y), jax.vmap(one, in_axes=(0, None, 0))(e, w, y), scanned

    return program


def close(got, wanted, rtol, atol):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=rtol, atol=atol
        )


@pytest.mark.parametrize("name", LOSSES)
def test_every_transformation_gives_the_same(name, data):
    embeddings, weights, labels = data
    one = compiled(name)
    each = [one(e, weights, y) for e, y in zip(embeddings, labels, strict=True)]
    wanted = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(wanted))
    on_devices, *on_each = jax.device_get(
        transformed(name)(embeddings, labels, embeddings, weights, labels)
    )
    close(on_devices, wanted, 1e-4, 1e-4)
    for device in range(BATCHES):
        mapped, scanned = jax.tree.map(lambda leaf, d=device: leaf[d], on_each)
        close(mapped, wanted, 1e-4, 1e-4)
        close(scanned, wanted, 1e-4, 1e-4)


@pytest.mark.accelerator
@pytest.mark.parametrize("name", LOSSES)
def test_bf16_and_float64(name, data):
    embeddings, weights, labels = data
    one = compiled(name)
    gradients, loss = one(embeddings[0], weights, labels[0])
    assert loss.dtype == jnp.float32
    half_gradients, half_loss = one(
        embeddings[0].astype(jnp.bfloat16), weights.astype(jnp.bfloat16), labels[0]
    )
    assert half_loss.dtype == jnp.float32
    assert all(gradient.dtype == jnp.bfloat16 for gradient in half_gradients)
    # The inputs are exact in bf16, so the loss is the same and only the gradient's storage is
    # coarser.
    close(half_loss, loss, 1e-5, 1e-5)
    close(half_gradients, gradients, 1e-2, 1e-2)
    with jax.enable_x64(True):
        double_gradients, double_loss = one(
            embeddings[0].astype(np.float64), weights.astype(np.float64), labels[0]
        )
        assert double_loss.dtype == jnp.float64
        assert all(gradient.dtype == jnp.float64 for gradient in double_gradients)
        if not name.startswith("elasticface"):  # another dtype draws other margins
            close(double_loss, loss, 1e-4, 1e-5)
            close(double_gradients, gradients, 1e-3, 1e-3)


@pytest.mark.parametrize("name", LOSSES)
def test_it_lowers_for_tpu_and_cuda(name, data):
    embeddings, weights, labels = data
    program = jax.export.export(compiled(name), platforms=("tpu", "cuda"))
    exported = program(
        embeddings[0].astype(jnp.bfloat16), weights, labels[0]
    )  # as a bf16 backbone would call it
    assert exported.platforms == ("tpu", "cuda")


def test_the_clean_up_runs_and_lowers(data):
    embeddings, weights, labels = data

    @jax.jit
    def clean(e, w, y):
        w = jnp.stack([w, w[::-1]], axis=1)
        return within_angle(e, dominant_centres(w, subcenter_counts(e, w, y)), y)

    assert clean(embeddings[0], weights, labels[0]).shape == (ROWS,)
    mapped = jax.jit(jax.vmap(clean, in_axes=(0, None, 0)))(embeddings, weights, labels)
    assert mapped.shape == (BATCHES, ROWS)
    jax.export.export(clean, platforms=("tpu", "cuda"))(embeddings[0], weights, labels[0])


def test_a_scan_carries_the_state_as_a_loop_does(data):
    embeddings, weights, labels = data

    def step(state, batch, axis=None):
        ada, curricular = state
        ada = adaface_loss(batch[0], weights, batch[1], ada, axis_name=axis)[1]
        return (
            ada,
            curricularface_loss(batch[0], weights, batch[1], curricular, axis_name=axis)[1],
        ), None

    looped = start = (
        AdaFaceState(jnp.float32(3.0), jnp.float32(1.0)),
        CurricularFaceState(jnp.float32(0.3)),
    )
    one = jax.jit(step)
    for batch in zip(embeddings, labels, strict=True):
        looped, _ = one(looped, batch)
    close(
        jax.jit(lambda e, y: jax.lax.scan(step, start, (e, y))[0])(embeddings, labels),
        looped,
        1e-5,
        1e-6,
    )

    # The same with every batch on two devices, half each.
    def on_a_device(e, y):
        return jax.lax.scan(lambda state, batch: step(state, batch, "devices"), start, (e, y))[0]

    halves = jax.pmap(on_a_device, axis_name="devices")(
        embeddings.reshape(BATCHES, 2, ROWS // 2, DIM).swapaxes(0, 1),
        labels.reshape(BATCHES, 2, ROWS // 2).swapaxes(0, 1),
    )
    for device in (0, 1):
        close(jax.tree.map(lambda leaf, d=device: leaf[d], halves), looped, 1e-5, 1e-6)


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(),
        HeadConfig("chunked", chunk=2),
        HeadConfig("chunked", chunk=2, sample_rate=0.5, update="fused", dtype="bfloat16"),
    ],
    ids=["dense", "chunked", "sampled and fused"],
)
def test_a_training_step_lowers_for_tpu_and_cuda(head):
    apply = lambda params, statistics, images: (images @ params["kernel"], statistics)  # noqa: E731
    loss, optimiser, sizes = (
        AdaFace(),
        optax.sgd(0.1),
        {"num_classes": CLASSES, "embedding_size": DIM},
    )
    step = jax.jit(make_step(apply, loss, optimiser, head=head, num_classes=CLASSES))
    backbone = {"params": {"kernel": jnp.ones((3, DIM))}}
    make = functools.partial(initial_state, backbone, loss, optimiser, head=head, **sizes)
    key = jax.eval_shape(jax.random.key, 0)
    state = jax.eval_shape(make, key)
    batch = jax.ShapeDtypeStruct((ROWS, 3), jnp.float32), jax.ShapeDtypeStruct((ROWS,), jnp.int32)
    exported = jax.export.export(step, platforms=("tpu", "cuda"))(state, key, *batch)
    assert exported.platforms == ("tpu", "cuda")
