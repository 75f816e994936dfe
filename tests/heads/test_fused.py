"""The fused head step: equal to loss, gradient and optax step in turn; in place; bfloat16
trains as well.
"""

import functools

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import load, rounding_noise, store
from arcface_jax.heads.fused import HeadState, RowSgd, fused_head_step, init_head
from arcface_jax.heads.sampling import sample_classes
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.margins import arcface, cm2
from tests.heads.conftest import make_problem
from tests.in_numpy import shard, unshard

STRAIGHT = arcface(past_pi="linear", gradient="straight_through")
CASES = {
    "straight-through": (1, {"psi": STRAIGHT}),
    "sub-centres": (3, {"psi": cm2(), "label_smoothing": 0.1, "filter_threshold": 0.2}),
}
begin = jax.jit(functools.partial(init_head, optimiser=RowSgd()), static_argnames="dtype")
SGD = optax.chain(optax.add_decayed_weights(5e-4), optax.sgd(0.1, momentum=0.9))


def reference(problem, case, steps=3):
    """((losses, embedding gradients, cosines of the true class, hits), class weights) of plain
    steps in float64, all with the same batch.
    """
    embeddings, tables, labels, _ = problem
    centres, options = CASES[case]

    def mean(e, w):
        loss, *seen = margin_softmax_loss(e, w, labels, scale=16.0, with_cosines=True, **options)
        return loss.mean(), (loss, *seen)

    @jax.jit
    def step(w, state):
        (of_e, of_w), (loss, *seen) = jax.grad(mean, argnums=(0, 1), has_aux=True)(embeddings, w)
        updates, state = SGD.update(of_w, state, w)
        return optax.apply_updates(w, updates), state, (loss, of_e, *seen)

    with jax.enable_x64(True):
        weights, state = tables[centres], jax.jit(SGD.init)(tables[centres])
        for _ in range(steps):
            weights, state, seen = step(weights, state)
    return jax.device_get((seen, weights))


@pytest.fixture(scope="module")
def plain():
    return functools.cache(functools.partial(reference, make_problem()))


def assert_same(found, wanted, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=10 * tolerance, atol=tolerance)


@pytest.mark.accelerator
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("chunk", [5, 64])
def test_three_steps_are_three_optax_steps(problem, plain, case, chunk):
    embeddings, tables, labels, _ = problem
    centres, options = CASES[case]
    step = jax.jit(
        functools.partial(fused_head_step, scale=16.0, chunk=chunk, **options), donate_argnums=0
    )
    with jax.enable_x64(True):
        state = begin(tables[centres], dtype=jnp.float64)
        for _ in range(3):
            state, *seen = step(state, embeddings, labels, 0.1)
    assert int(state.step) == 3
    assert_same((seen, state.weights), plain(case), 1e-12)


@pytest.mark.accelerator
def test_in_float32_to_rounding(problem, plain):
    embeddings, tables, labels, _ = problem
    step = jax.jit(
        functools.partial(fused_head_step, scale=16.0, chunk=9, psi=STRAIGHT), donate_argnums=0
    )
    state = begin(tables[1].astype(np.float32), dtype=jnp.float32)
    for _ in range(3):
        state, *seen = step(state, embeddings.astype(np.float32), labels, 0.1)
    # Other devices' exponentials are off by a few units in the last place.
    tolerance = 1e-6 if jax.default_backend() == "cpu" else 1e-5
    assert_same((seen, state.class_weights), plain("straight-through"), tolerance)


@pytest.mark.parametrize(
    ("mapped", "devices", "case"),
    [
        *(("shard_map", devices, "straight-through") for devices in (1, 2, 4)),
        ("shard_map", 8, "sub-centres"),
        ("pmap", 8, "straight-through"),
        ("vmap", 4, "sub-centres"),
    ],
    indirect=["mapped"],
)
def test_classes_split_over_devices(problem, plain, mapped, devices, case):
    embeddings, tables, labels, _ = problem
    centres, options = CASES[case]

    def on_device(weights, velocity, e, y):
        state = HeadState(weights, (velocity,), jnp.zeros((), jnp.int32))
        axis = {"axis_name": "classes", "num_classes": 53, "chunk": 4}
        state, *seen = fused_head_step(state, e, y, 0.1, scale=16.0, **axis, **options)
        return state.weights, state.slots[0], seen

    with jax.enable_x64(True):
        shards = shard(tables[centres], devices)
        weights = shards.reshape(-1, *shards.shape[2:])
        velocity, step = np.zeros_like(weights), mapped(on_device, devices)
        for _ in range(3):
            weights, velocity, seen = jax.device_get(step(weights, velocity, embeddings, labels))
    assert_same((seen, unshard(weights.reshape(shards.shape), 53)), plain(case), 1e-12)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_it_works_in_place(dtype):
    """No temporary of the size of the weights, and every array of the state aliased to its
    successor.
    """
    classes, dim, chunk = 2**16, 32, 512
    weights = jax.ShapeDtypeStruct((classes, dim), jnp.float32)
    state = jax.eval_shape(functools.partial(init_head, optimiser=RowSgd(), dtype=dtype), weights)
    step = jax.jit(functools.partial(fused_head_step, chunk=chunk), donate_argnums=0)
    batch = jax.ShapeDtypeStruct((16, dim), jnp.float32), jax.ShapeDtypeStruct((16,), jnp.int32)
    memory = (
        step.lower(state, *batch, 0.1, rounding_key=jax.random.key(0)).compile().memory_analysis()
    )
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert memory.alias_size_in_bytes == whole
    assert memory.temp_size_in_bytes < 24 * chunk * (dim + 16) * 4 < classes * dim * 2


def test_it_lowers_for_accelerators():
    state = jax.eval_shape(
        functools.partial(init_head, optimiser=RowSgd(), dtype=jnp.bfloat16), jnp.ones((300, 8))
    )

    @jax.jit
    def step(state, e, y, key):
        sample = sample_classes(key, y, num_classes=300, rate=0.1)
        options = {"chunk": 64, "sample": sample, "rounding_key": key}
        return fused_head_step(state, e, y, 0.1, **options)

    batch = jax.ShapeDtypeStruct((16, 8), jnp.bfloat16), jax.ShapeDtypeStruct((16,), jnp.int32)
    exported = jax.export.export(step, platforms=("tpu", "cuda"))(
        state, *batch, jax.eval_shape(jax.random.key, 0)
    )
    assert exported.platforms == ("tpu", "cuda")


def test_stochastic_rounding_is_unbiased_and_exact_where_it_can_be():
    values = np.float32([1.0, 1.0 + 2.0**-10, -3.3, 1e-30, 0.0, np.inf, -np.inf, np.nan])

    @jax.jit
    def program(values):
        keys = jax.random.split(jax.random.key(0), 4000)
        at_random = jax.vmap(lambda key: load(store(values, jnp.bfloat16, key)))(keys)
        return at_random, load(store(values, jnp.bfloat16))

    rounded, nearest = (each.astype(np.float64) for each in map(np.asarray, program(values)))
    assert (rounded[:, [0, 4, 5, 6]] == np.asarray(values, np.float64)[[0, 4, 5, 6]]).all()
    assert np.isnan(rounded[:, 7]).all()
    for column in (1, 2, 3):
        value = float(values[column])
        ends = np.unique(rounded[:, column])
        assert len(ends) == 2
        assert ends[0] < value < ends[1]
        # Within four standard errors of a draw between the two neighbours.
        assert abs(rounded[:, column].mean() - value) < 4 * (ends[1] - ends[0]) / 2 / np.sqrt(4000)
    np.testing.assert_array_equal(nearest, values.astype(jnp.bfloat16).astype(np.float64))


def test_the_noise_of_rounding_is_uniform_and_new_with_every_key_and_element():
    keys = jax.random.split(jax.random.key(3), 64)
    noise_of = jax.jit(jax.vmap(lambda key: rounding_noise(key, (64, 64))))
    noise = np.asarray(noise_of(keys)).reshape(64, -1) / 2.0**16
    assert noise.min() >= 0.0
    assert noise.max() < 1.0
    # Sixteen equal bins hold an equal part, to five standard deviations; so do the bins of the
    # lowest four bits.
    for part in (noise * 16, noise * 2.0**16 % 16):
        filled = np.bincount(part.astype(int).ravel(), minlength=16) / noise.size
        assert np.abs(filled - 1 / 16).max() < 5 * np.sqrt(1 / 16 / noise.size)
    centred = noise - 0.5
    for a, b in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[1:], centred[:-1]),
        (centred[:, 64:], centred[:, :-64]),
    ):
        assert abs((a * b).mean() * 12) < 5 / np.sqrt(a.size)


@functools.partial(jax.jit, static_argnums=1)
def train(seed, dtype, weights, batches):
    keys = jax.random.split(jax.random.key(seed), len(batches[0]))

    def step(state, batch):
        e, y, key = batch
        rounding_key = key if dtype == jnp.bfloat16 else None
        state, loss, *_ = fused_head_step(
            state, e, y, 0.05, scale=16.0, rounding_key=rounding_key, chunk=64
        )
        return state, loss.mean()

    return jax.lax.scan(step, init_head(weights, RowSgd(), dtype=dtype), (*batches, keys))[1]


def trained_loss(seed, dtype, steps=150, classes=64, dim=16):
    """The first loss, and the mean over the last ten steps, on fixed noisy clusters."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(classes, dim))
    labels = generator.integers(0, classes, size=(steps, 64))
    batches = (centres[labels] + 0.5 * generator.normal(size=(steps, 64, dim))).astype(np.float32)
    weights = np.float32(0.1 * generator.normal(size=(classes, dim)))
    losses = np.asarray(train(seed, dtype, weights, (batches, labels)))
    return losses[0], losses[-10:].mean()


def test_bf16_trains_as_well():
    exact, rounded = (
        np.array([trained_loss(seed, dtype) for seed in range(3)])
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert (exact[:, 1] < 0.5 * exact[:, 0]).all()
    np.testing.assert_allclose(rounded[:, 1], exact[:, 1], rtol=0.03)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"axis_name": "classes"}, "num_classes is None with axis_name 'classes'"),
        ({"psi": "arcface"}, "psi is 'arcface'; pass a margin"),
        ({"label_smoothing": -0.1}, r"label_smoothing is -0\.1"),
        ({"chunk": 0}, "chunk is 0"),
        ({"scale": 0.0}, "scale is 0"),
    ],
)
def test_bad_input_is_named(problem, options, message):
    embeddings, tables, labels, _ = problem
    state = begin(tables[1].astype(np.float32), dtype=jnp.float32)
    with pytest.raises(InputError, match=message):
        jax.eval_shape(lambda: fused_head_step(state, embeddings, labels, 0.1, **options))
    with pytest.raises(InputError, match="dtype is float16; pass one of"):
        init_head(tables[1], RowSgd(), dtype=jnp.float16)
    with pytest.raises(
        InputError, match=r"embeddings has shape \(16, 4\) and the head's weights \(53, 8\)"
    ):
        fused_head_step(state, embeddings[:, :4], labels, 0.1)
