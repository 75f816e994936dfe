"""AdaFace, MagFace, CurricularFace and ElasticFace against float64 NumPy, and alike on one
device and on many.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    AdaFaceState,
    CurricularFaceState,
    adaface_init,
    adaface_loss,
    adaface_psi,
    adaface_update,
    curricular_cosines,
    curricularface_init,
    curricularface_loss,
    elastic_margins,
    elasticface_loss,
    elasticface_psi,
    magface_loss,
    magface_margins,
    magface_psi,
    magface_regulariser,
    margin_softmax_loss,
)
from arcface_jax.margins import arcface, cosface

ROWS, CLASSES, DIM = 8, 5, 6


@pytest.fixture(scope="module")
def data():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(ROWS, DIM)) * generator.uniform(1, 60, size=(ROWS, 1))
    return embeddings, generator.normal(size=(CLASSES, DIM)), generator.integers(0, CLASSES, ROWS)


def cosines(embeddings, weights):
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return unit @ (weights / np.linalg.norm(weights, axis=1, keepdims=True)).T


def numpy_loss(cosine, labels, target, scale=64.0, negatives=None):
    """Cross-entropy with `target` [N] in the place of the true class's cosine."""
    logits = scale * (cosine if negatives is None else negatives)
    logits[np.arange(len(labels)), labels] = scale * target
    largest = logits.max(axis=1)
    log_partition = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return log_partition - scale * target


def numpy_adaface(cosine, norms, labels, mean, std, m=0.4, h=0.333):
    mean = 0.01 * norms.mean() + 0.99 * mean
    std = 0.01 * norms.std(ddof=1) + 0.99 * std
    quality = np.clip(h * (norms - mean) / (std + 1e-3), -1, 1)
    theta = np.arccos(np.clip(cosine[np.arange(len(labels)), labels], -1 + 1e-3, 1 - 1e-3))
    target = np.cos(np.clip(theta - m * quality, 1e-3, np.pi - 1e-3)) - (m + m * quality)
    return numpy_loss(cosine, labels, target), mean, std


# AdaFace
# ----------------------------------------------------------------------------------------


def test_adaface_over_two_steps(data):
    embeddings, weights, labels = data
    norms, cosine = np.linalg.norm(embeddings, axis=1).clip(1e-3, 100), cosines(embeddings, weights)
    state, mean, std = adaface_init(), 20.0, 100.0
    step = jax.jit(adaface_loss)
    for _ in range(2):
        loss, state = step(embeddings, weights, labels, state)
        wanted, mean, std = numpy_adaface(cosine.copy(), norms, labels, mean, std)
        np.testing.assert_allclose(loss, wanted, rtol=2e-5, atol=1e-5)
        np.testing.assert_allclose(state, (mean, std), rtol=1e-6)


def test_adaface_is_arcface_for_a_poor_image_and_cosface_for_an_average_one():
    state = AdaFaceState(jnp.float32(50.0), jnp.float32(1.0))
    cosine = jnp.asarray([0.3, 0.3, 0.3])
    psi = adaface_psi(jnp.asarray([1.0, 50.0, 99.0]), state, margin=0.4)
    good = np.cos(np.arccos(0.3) - 0.4) - 0.8
    np.testing.assert_allclose(psi(cosine), [arcface(0.4)(0.3), cosface(0.4)(0.3), good], atol=2e-6)


def test_adaface_clips_the_angle_at_both_ends():
    state = AdaFaceState(jnp.float32(50.0), jnp.float32(1.0))
    near, far = np.cos(0.1), np.cos(np.pi - 0.1)
    psi = adaface_psi(jnp.asarray([99.0, 1.0]), state)  # angle − 0.4 and angle + 0.4
    cosine = jnp.asarray([near, far])
    np.testing.assert_allclose(psi(cosine), [np.cos(1e-3) - 0.8, np.cos(np.pi - 1e-3)], atol=1e-6)
    assert jax.vmap(jax.grad(lambda c: adaface_psi(jnp.float32(99.0), state)(c)))(cosine)[0] == 0


def test_adaface_ignores_padding_and_survives_small_batches(data):
    embeddings, weights, labels = data
    state = adaface_init()
    step = jax.jit(adaface_loss)
    loss, new = step(embeddings, weights, labels, state)
    padded = np.concatenate([embeddings, np.full((3, DIM), np.nan)])
    padded_loss, padded_new = step(padded, weights, np.concatenate([labels, [-1] * 3]), state)
    np.testing.assert_allclose(padded_loss, np.concatenate([loss, [0, 0, 0]]), rtol=1e-6)
    np.testing.assert_allclose(padded_new, new, rtol=1e-6)
    total = lambda w: adaface_loss(padded, w, np.concatenate([labels, [-1] * 3]), state)[0].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(weights)
    assert np.isfinite(gradient).all()
    nothing = adaface_update(state, jnp.ones(2), jnp.zeros(2, bool))
    assert (float(nothing.mean), float(nothing.std)) == (20.0, 100.0)
    single = adaface_update(
        state, jnp.ones(1), jnp.ones(1, bool)
    )  # a deviation of one value does not exist
    assert (float(single.mean), float(single.std)) == (pytest.approx(19.81), 100.0)


def test_no_gradient_through_the_lengths_in_adaface(data):
    embeddings, weights, labels = data
    total = lambda e: adaface_loss(e, weights, labels, adaface_init())[0].sum()  # noqa: E731
    gradient = jax.jit(jax.grad(total))(embeddings)
    along = jnp.sum(gradient * embeddings, axis=1)
    np.testing.assert_allclose(
        along, 0.0, atol=1e-3 * float(jnp.abs(gradient).max() * np.abs(embeddings).max())
    )


# MagFace
# ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("past_pi", ["easy", "linear"])
def test_magface(data, past_pi):
    embeddings, weights, labels = data
    norms = np.linalg.norm(embeddings, axis=1).clip(10, 110)
    margins = 0.45 + (0.8 - 0.45) / 100 * (norms - 10)
    cosine = cosines(embeddings, weights)
    own = cosine[np.arange(ROWS), labels]
    if past_pi == "easy":
        target = np.where(own > 0, np.cos(np.arccos(own) + margins), own)
    else:
        target = np.where(
            own > np.cos(np.pi - margins),
            np.cos(np.arccos(own) + margins),
            own - margins * np.sin(margins),
        )
    wanted = numpy_loss(cosine, labels, target) + 35 * (1 / norms + norms / 110**2)
    np.testing.assert_allclose(
        magface_loss(embeddings, weights, labels, past_pi=past_pi), wanted, rtol=2e-5
    )
    np.testing.assert_allclose(magface_margins(norms.astype(np.float32)), margins, rtol=1e-6)


def test_magface_rewards_length_and_its_gradient_goes_through_it():
    norms = jnp.asarray([20.0, 60.0, 109.0, 200.0, 5.0])
    slope = jax.vmap(jax.grad(lambda a: magface_regulariser(a)))(norms)
    np.testing.assert_allclose(
        slope, np.where((norms > 10) & (norms < 110), -1 / norms**2 + 1 / 110**2, 0), atol=1e-8
    )
    slope = jax.grad(lambda a: magface_psi(a)(jnp.asarray([0.5]))[0])(jnp.asarray([60.0]))
    margin = 0.45 + 0.0035 * 50
    assert float(slope[0]) == pytest.approx(-np.sin(np.arccos(0.5) + margin) * 0.0035, rel=1e-4)


def test_magface_ignores_padding(data):
    embeddings, weights, _ = data
    assert not magface_loss(np.full_like(embeddings, np.nan), weights, np.full(ROWS, -1)).any()


# CurricularFace
# ----------------------------------------------------------------------------------------


def test_curricularface_over_two_steps(data):
    embeddings, weights, labels = data
    cosine, state, t = cosines(embeddings, weights), curricularface_init(), 0.0
    own = cosine[np.arange(ROWS), labels]
    target = np.where(
        own > np.cos(np.pi - 0.5), np.cos(np.arccos(own) + 0.5), own - 0.5 * np.sin(0.5)
    )
    step = jax.jit(curricularface_loss)
    for _ in range(2):
        t = 0.99 * t + 0.01 * own.mean()
        negatives = np.where(cosine > target[:, None], cosine * (t + cosine), cosine)
        assert (negatives != cosine).any()
        loss, state = step(embeddings, weights, labels, state)
        np.testing.assert_allclose(
            loss, numpy_loss(cosine, labels, target, negatives=negatives), rtol=2e-5, atol=1e-5
        )
        assert float(state.t) == pytest.approx(t, rel=1e-5)


def test_hard_classes_are_lessened_early_and_strengthened_late():
    cosine, threshold = jnp.asarray([[0.5, 0.1]]), jnp.asarray([0.3])
    assert curricular_cosines(cosine, threshold, jnp.float32(0.0)).tolist() == [
        [0.25, pytest.approx(0.1)]
    ]
    assert curricular_cosines(cosine, threshold, jnp.float32(0.9)).tolist() == [
        [pytest.approx(0.7), pytest.approx(0.1)]
    ]


def test_padding_does_not_move_t(data):
    embeddings, weights, _ = data
    loss, state = curricularface_loss(
        embeddings, weights, np.full(ROWS, -1), CurricularFaceState(jnp.float32(0.25))
    )
    assert not loss.any()
    assert float(state.t) == 0.25


# ElasticFace
# ----------------------------------------------------------------------------------------


def test_the_margins_have_the_published_distribution():
    margins = elastic_margins(
        jax.random.key(0), jnp.zeros(20_000), jnp.ones(20_000, bool), mean=0.5, std=0.0125
    )
    assert float(margins.mean()) == pytest.approx(0.5, abs=4e-4)
    assert float(margins.std()) == pytest.approx(0.0125, rel=0.03)


@pytest.mark.parametrize(("kind", "mean"), [("arc", 0.5), ("cos", 0.35)])
@pytest.mark.parametrize("plus", [False, True])
def test_elasticface_is_a_margin_for_each_example(data, kind, mean, plus):
    embeddings, weights, labels = data
    key = jax.random.key(3)
    own = cosines(embeddings, weights)[np.arange(ROWS), labels]
    margins = elastic_margins(
        key, jnp.float32(own), jnp.ones(ROWS, bool), mean=mean, std=0.0125, plus=plus
    )
    psi = arcface(margins) if kind == "arc" else cosface(margins)
    wanted = margin_softmax_loss(embeddings, weights, labels, psi=psi)
    loss = elasticface_loss(embeddings, weights, labels, key, kind=kind, mean=mean, plus=plus)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5, atol=1e-5)


def test_plus_gives_the_farthest_example_the_largest_margin():
    # A three-cycle: applying the sorting permutation in place of its inverse would give another
    # order.
    cosine = jnp.asarray([0.1, 0.9, 0.5, -0.2, 0.99])
    valid = jnp.asarray([True, True, True, True, False])
    margins = elastic_margins(jax.random.key(1), cosine, valid, mean=0.5, std=0.1, plus=True)
    assert np.argsort(margins[:4]).tolist() == np.argsort(-cosine[:4]).tolist()
    drawn = elastic_margins(jax.random.key(1), cosine, valid, mean=0.5, std=0.1)
    np.testing.assert_allclose(np.sort(margins[:4]), np.sort(drawn[:4]))


def test_another_key_gives_other_margins(data):
    losses = [elasticface_loss(*data, jax.random.key(seed)) for seed in (0, 0, 1)]
    assert jnp.array_equal(losses[0], losses[1])
    assert not jnp.allclose(losses[0], losses[2])


# One device and many
# ----------------------------------------------------------------------------------------

DEVICES = 4


def split(array):
    return jnp.asarray(array).reshape(DEVICES, -1, *np.shape(array)[1:])


@pytest.fixture(scope="module")
def padded(data):
    embeddings, weights, labels = data
    return (
        embeddings,
        weights,
        np.where(np.arange(ROWS) == 2, -1, labels),
    )  # one padded row, on one device


def gradient_loss_state(function, weights, axis_name):
    def total(e, y):
        loss, state = function(e, weights, y, axis_name)
        return loss.sum(), (loss, state)

    return jax.grad(total, has_aux=True)


@pytest.fixture(scope="module")
def on_one(padded):
    embeddings, weights, labels = padded
    return functools.cache(
        lambda name: jax.jit(gradient_loss_state(STATEFUL[name], weights, None))(
            embeddings.astype(np.float32), labels
        )
    )


def on_many(function, embeddings, weights, labels, mapping):
    one_device = gradient_loss_state(function, weights, "devices")
    if mapping is jax.shard_map:
        mesh = jax.make_mesh((DEVICES,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
        rows, everywhere = (
            PartitionSpec("devices"),
            PartitionSpec(),
        )  # the map itself checks that the state agrees
        mapped = jax.shard_map(
            one_device,
            mesh=mesh,
            in_specs=(rows, rows),
            out_specs=(rows, (rows, everywhere)),
            check_vma=True,
        )
        return jax.jit(mapped)(jnp.asarray(embeddings, jnp.float32), jnp.asarray(labels))
    mapped = mapping(one_device, axis_name="devices")
    mapped = jax.jit(mapped) if mapping is jax.vmap else mapped
    return mapped(split(embeddings).astype(jnp.float32), split(labels))


STATEFUL = {
    "adaface": lambda e, w, y, axis: adaface_loss(
        e, w, y, AdaFaceState(30.0, 5.0), ema=0.5, axis_name=axis
    ),
    "curricularface": lambda e, w, y, axis: curricularface_loss(
        e, w, y, curricularface_init(), decay=0.2, axis_name=axis
    ),
    "elasticface": lambda e, w, y, axis: (
        elasticface_loss(e, w, y, jax.random.key(0), std=0.1, axis_name=axis),
        (),
    ),
    "elasticface+": lambda e, w, y, axis: (
        elasticface_loss(e, w, y, jax.random.key(0), std=0.1, plus=True, axis_name=axis),
        (),
    ),
}


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("mapping", [jax.vmap, jax.pmap, jax.shard_map])
def test_many_devices_agree_with_one(padded, on_one, name, mapping):
    gradient, (loss, state) = on_one(name)
    many_gradient, (many_loss, many_state) = on_many(STATEFUL[name], *padded, mapping)
    np.testing.assert_allclose(many_loss.reshape(-1), loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(many_gradient.reshape(ROWS, DIM), gradient, rtol=1e-3, atol=1e-4)
    for everywhere, once in zip(jax.tree.leaves(many_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(everywhere, np.full(np.shape(everywhere), once), rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda e, w, y: adaface_loss(e, w, y, adaface_init(), margin=-0.1), r"margin is -0\.1"),
        (
            lambda e, w, y: adaface_loss(e, w, y, adaface_init(), concentration=0),
            "concentration is 0",
        ),
        (lambda e, w, y: adaface_loss(e, w, y, adaface_init(), ema=1.5), r"ema is 1\.5"),
        (lambda e, w, y: adaface_loss(e, w, y + 9, adaface_init()), r"labels\[0\] is"),
        (lambda e, w, y: adaface_init(std=-1.0), "std is -1"),
        (
            lambda e, w, y: magface_loss(e, w, y, upper_norm=5.0),
            "upper_norm is 5; pass a number above lower_norm, 10",
        ),
        (lambda e, w, y: magface_loss(e, w, y, lower_norm=0.0), "lower_norm is 0"),
        (lambda e, w, y: magface_loss(e, w, y, upper_margin=0.1), r"upper_margin is 0\.1"),
        (
            lambda e, w, y: magface_loss(e, w, y, regulariser_weight=-1.0),
            "regulariser_weight is -1",
        ),
        (
            lambda e, w, y: curricularface_loss(e, w, y, curricularface_init(), decay=2.0),
            "decay is 2",
        ),
        (
            lambda e, w, y: curricularface_loss(e, w, y, curricularface_init(), scale=0.0),
            "scale is 0",
        ),
        (
            lambda e, w, y: elasticface_loss(e, w, y, jax.random.key(0), kind="sphere"),
            "kind is 'sphere'; pass one of",
        ),
        (lambda e, w, y: elasticface_psi(jax.random.key(0), y >= 0, std=-0.1), r"std is -0\.1"),
        (lambda e, w, y: elasticface_psi(jax.random.key(0), y >= 0, mean=-0.1), r"mean is -0\.1"),
    ],
)
def test_bad_input_is_named(data, call, message):
    with pytest.raises(InputError, match=message):
        call(*data)
