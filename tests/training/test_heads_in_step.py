"""Every loss, and every way to go over the classes, in the training step: on one device, a
mesh, and under pmap.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.heads import unshard_classes
from arcface_jax.models.layers import EmbeddingBatchNorm
from arcface_jax.training.config import HeadConfig, LossConfig
from arcface_jax.training.objective import Moment
from arcface_jax.training.objectives import create_objective
from arcface_jax.training.parallel import MeshStep, OverMesh, PmapStep, data_mesh
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import DATA_AXIS, TrainStep

CLASSES, SIZE, BATCH, RATE = (
    11,
    6,
    16,
    0.05,
)  # a prime number of classes: no number of devices divides it
SCHEDULE = optax.constant_schedule(RATE)
CHUNKED, SHARDED = HeadConfig("chunked", chunk=4), HeadConfig("sharded", chunk=4)


def fused(head, **changes):
    return dataclasses.replace(head, update="fused", **changes)


class Small(nn.Module):
    """A convolution, a dense layer and a batch normalisation."""

    axis_name: str | None = None
    statistics: bool = True

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(images))
        x = nn.Dense(8, name="fc")(x.reshape(x.shape[0], -1))
        return (
            EmbeddingBatchNorm(1e-5, self.axis_name, name="features")(x, train)
            if self.statistics
            else x
        )


def batches(count=3):
    random = np.random.default_rng(0)
    for _ in range(count):
        images = random.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
        yield images, random.integers(0, CLASSES, BATCH).astype(np.int32)


DENSE = HeadConfig()


def train(loss, head=DENSE, devices=1, pmap=False, statistics=True, **options):
    """Three steps: (losses, the last state fetched, class weights [C, …] whatever the layout)."""
    objective = create_objective(loss, head, num_classes=CLASSES, steps=4)
    split = objective.splits_classes
    whole = (
        OverMesh(objective, data_mesh(jax.devices()[:devices])) if split and not pmap else objective
    )
    backbone, optimiser = Small(DATA_AXIS if pmap else None, statistics), sgd(SCHEDULE)
    axis = DATA_AXIS if pmap else None
    step = TrainStep(
        backbone=backbone,
        objective=whole,
        optimiser=optimiser,
        seed=5,
        schedule=SCHEDULE,
        axis_name=axis,
        **options,
    )
    parallel = (PmapStep if pmap else MeshStep)(step, jax.devices()[:devices], split_classes=split)
    make = functools.partial(
        initial_state,
        backbone,
        objective,
        optimiser,
        num_classes=CLASSES,
        embedding_size=8,
        image_size=SIZE,
        seed=0,
        shards=devices if split else 1,
    )
    state, losses = parallel.place(parallel.create(make)), []
    for images, labels in batches():
        state, metrics = parallel(state, images, labels)
        losses.append([float(metrics[name]) for name in ("loss", "gradient_norm", "bad_steps")])
    state = jax.device_get(parallel.fetch(state))
    weights = objective.class_weights(state.params["head"], state.head_state)
    if split:
        weights = unshard_classes(
            jnp.asarray(weights).reshape(devices, -1, *weights.shape[1:]), CLASSES
        )
    return np.array(losses), state, None if weights is None else np.asarray(weights, np.float32)


@functools.cache
def dense(loss):
    return train(loss)


def assert_same(found, expected, *, same_norm=True):
    """Losses, and what the three steps made of backbone and class weights."""
    columns = slice(None) if same_norm else [0, 2]
    np.testing.assert_allclose(found[0][:, columns], expected[0][:, columns], rtol=3e-5)
    first, second = found[1].params["backbone"], expected[1].params["backbone"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5), first, second)
    if expected[2] is not None:
        np.testing.assert_allclose(found[2], expected[2], rtol=1e-3, atol=1e-5)


NAMES = (
    "adaface",
    "magface",
    "elasticface_plus",
    "curricularface",
    "inter",
    "triplet",
    "sphereface2",
    "uniface",
)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("adaface", "triplet") else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
def test_every_loss_is_the_same_under_pmap(name):
    assert_same(train(LossConfig(name), devices=2, pmap=True), dense(LossConfig(name)))


@pytest.mark.parametrize(
    ("loss", "head", "devices", "pmap"),
    [
        (LossConfig(), CHUNKED, 2, False),
        (LossConfig(), SHARDED, 4, False),
        (LossConfig(), SHARDED, 2, True),
        (LossConfig(), fused(CHUNKED), 1, False),
        (LossConfig(), fused(SHARDED), 4, False),
        pytest.param(LossConfig(), fused(SHARDED), 2, True, marks=pytest.mark.slow),
        pytest.param(LossConfig("adaface"), SHARDED, 4, False, marks=pytest.mark.slow),
        (LossConfig("adaface"), fused(SHARDED), 2, True),
        pytest.param(LossConfig("magface"), SHARDED, 2, False, marks=pytest.mark.slow),
        pytest.param(LossConfig("elasticface_plus"), SHARDED, 4, False, marks=pytest.mark.slow),
        (LossConfig(sub_centers=3, label_smoothing=0.1), SHARDED, 2, False),
        (LossConfig(margin_warmup=0.5, filter_threshold=0.4), fused(SHARDED), 2, False),
    ],
)
def test_every_head_gives_the_dense_steps(loss, head, devices, pmap):
    found = train(loss, head, devices, pmap)
    # The gradient of a fused head is never there to be measured.
    assert_same(found, dense(loss), same_norm=head.update == "optimiser")


def test_bfloat16_rows_stay_near_the_float32_ones():
    losses, state, weights = train(LossConfig(), fused(SHARDED, dtype="bfloat16"), 2)
    assert state.head_state["rows"].weights.dtype == np.uint16
    expected = dense(LossConfig())
    np.testing.assert_allclose(losses[:, 0], expected[0][:, 0], rtol=2e-2)
    np.testing.assert_allclose(weights, expected[2], rtol=0.02, atol=0.02)


def test_a_sampled_head_sees_fewer_classes_and_v1_leaves_the_others_alone():
    sampled = dataclasses.replace(SHARDED, sample_rate=0.2)
    losses, _, _ = train(LossConfig(), sampled, 2)
    assert (losses[:, 0] < dense(LossConfig())[0][:, 0]).all()
    absent = np.setdiff1d(np.arange(CLASSES), np.concatenate([labels for _, labels in batches(1)]))
    assert len(absent)  # else the test shows nothing
    moved = {}
    for unsampled in ("update", "keep"):
        objective = fused(dataclasses.replace(CHUNKED, sample_rate=0.01), unsampled=unsampled)
        moved[unsampled] = train(LossConfig(), objective)[2]
    before = np.asarray(
        create_objective(LossConfig()).init(jax.random.split(jax.random.key(0))[1], CLASSES, 8)[
            "class_weights"
        ]
    )
    never = np.setdiff1d(np.arange(CLASSES), np.concatenate([labels for _, labels in batches()]))
    np.testing.assert_array_equal(moved["keep"][never], before[never])
    assert (np.abs(moved["update"] - before)[never] > 0).all()  # weight decay


def test_accumulation_equals_the_large_batch_where_no_statistics_are_shared():
    """Without batch normalisation parts know nothing of each other: the gradient is the batch's."""
    whole = train(LossConfig(), statistics=False)
    for devices in (1, 2):
        parts = train(LossConfig(), devices=devices, accumulate=4, statistics=False)
        assert_same(parts, whole)
    assert_same(train(LossConfig(), SHARDED, 2, True, accumulate=4, statistics=False), whole)


def test_accumulation_has_each_parts_own_statistics():
    state = train(LossConfig(), accumulate=4)[1]
    assert int(state.step) == 3
    # The running mean has moved twelve times, not three.
    moved = np.abs(state.batch_stats["features"]["norm"]["mean"]).max()
    once = np.abs(dense(LossConfig())[1].batch_stats["features"]["norm"]["mean"]).max()
    assert moved > 1.5 * once


def test_a_frozen_backbones_statistics_stay_and_only_the_head_has_a_gradient():
    losses, state, _ = train(LossConfig(), frozen_steps=3)
    free = train(LossConfig(), frozen_steps=2)[0]
    np.testing.assert_allclose(losses[:2], free[:2], rtol=1e-5)
    assert losses[2, 1] < free[2, 1]
    assert not np.any(state.batch_stats["features"]["norm"]["mean"])
    assert np.any(train(LossConfig(), frozen_steps=2)[1].batch_stats["features"]["norm"]["mean"])


def test_embeddings_too_long_to_have_a_length_leave_a_fused_heads_rows_alone():
    objective = create_objective(LossConfig(), fused(CHUNKED), num_classes=CLASSES)
    state = objective.init_state(jax.random.key(0), CLASSES, 8)
    embeddings = jnp.full((BATCH, 8), 1e20)  # finite, and their squares are not
    moment = Moment(jnp.int32(0), jax.random.key(1), jnp.float32(0.1))
    outcome, _ = objective.gradients({}, state, embeddings, jnp.zeros(BATCH, jnp.int32), moment)
    jax.tree.map(np.testing.assert_array_equal, outcome.state["rows"], state["rows"])
    assert np.isnan(outcome.loss).all()


def test_a_schedule_goes_by_the_updates_that_were_made():
    """After a bad step a fused head learns at the rate at which the optimiser trains the
    backbone.
    """
    falls = optax.piecewise_constant_schedule(0.1, {1: 0.0})  # nothing moves after the first update
    objective = create_objective(LossConfig(), fused(CHUNKED), num_classes=CLASSES)
    step = jax.jit(
        TrainStep(
            backbone=Small(), objective=objective, optimiser=sgd(falls), seed=5, schedule=falls
        )
    )
    state = initial_state(
        Small(),
        objective,
        sgd(falls),
        num_classes=CLASSES,
        embedding_size=8,
        image_size=SIZE,
        seed=0,
    )
    state = dataclasses.replace(state, step=state.step + 3, bad_steps=jnp.array([0, 3], jnp.int32))
    before = state
    for moves in (True, False):
        state, _ = step(before, *next(batches(1)))
        changed = not np.array_equal(
            state.head_state["rows"].weights, before.head_state["rows"].weights
        )
        kernels = [one.params["backbone"]["fc"]["kernel"] for one in (state, before)]
        assert (changed, not np.array_equal(*kernels)) == (moves, moves)
        before = state


def test_clipping_scales_all_gradients_to_the_norm():
    """One step of SGD without momentum: the update's length is the rate times the clipped norm
    (and the decay).
    """
    objective, optimiser = create_objective(LossConfig()), optax.sgd(1.0)
    step = TrainStep(backbone=Small(), objective=objective, optimiser=optimiser, seed=5, clip=0.25)
    state = initial_state(
        Small(),
        objective,
        optimiser,
        num_classes=CLASSES,
        embedding_size=8,
        image_size=SIZE,
        seed=0,
    )
    new, metrics = jax.jit(step)(state, *next(batches(1)))
    assert float(metrics["gradient_norm"]) > 0.25
    moved = jax.tree.map(jnp.subtract, new.params, state.params)
    assert float(optax.tree.norm(moved)) == pytest.approx(0.25, rel=1e-5)


def test_the_moving_average_follows_its_equation():
    objective, optimiser = create_objective(LossConfig()), sgd(SCHEDULE)
    step = jax.jit(
        TrainStep(
            backbone=Small(), objective=objective, optimiser=optimiser, seed=5, average_decay=0.15
        )
    )
    state = initial_state(
        Small(),
        objective,
        optimiser,
        num_classes=CLASSES,
        embedding_size=8,
        image_size=SIZE,
        seed=0,
        average=True,
    )
    average = jax.device_get(state.average)
    for number, (images, labels) in enumerate(batches()):
        state, _ = step(state, images, labels)
        decay = min(0.15, (1 + number) / (10 + number))
        latest = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
        average = jax.tree.map(
            lambda a, w, d=decay: d * a + (1 - d) * np.asarray(w), average, latest
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.average, average
    )


@pytest.mark.parametrize("head", [DENSE, fused(SHARDED)])
def test_a_step_that_is_not_finite_touches_nothing(head):
    objective = create_objective(LossConfig(), head, num_classes=CLASSES)
    whole = (
        OverMesh(objective, data_mesh(jax.devices()[:1])) if objective.splits_classes else objective
    )
    backbone, optimiser = Small(), sgd(SCHEDULE)
    step = TrainStep(
        backbone=backbone, objective=whole, optimiser=optimiser, seed=5, schedule=SCHEDULE
    )
    state = initial_state(
        backbone,
        objective,
        optimiser,
        num_classes=CLASSES,
        embedding_size=8,
        image_size=SIZE,
        seed=0,
        average=True,
    )
    huge = jax.tree.map(lambda leaf: leaf * 1e38, state.params["backbone"])
    bad = dataclasses.replace(state, params={**state.params, "backbone": huge})
    new, metrics = jax.jit(step)(bad, *next(batches(1)))
    assert not np.isfinite(metrics["loss"])
    assert new.bad_steps.tolist() == [1, 1]
    assert (int(new.step), int(new.updates)) == (1, 0)
    same = dataclasses.replace(new, step=bad.step, bad_steps=bad.bad_steps)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(same), jax.device_get(bad))
    good = dataclasses.replace(new, params=state.params)
    assert jax.jit(step)(good, *next(batches(1)))[0].bad_steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("loss", "head", "named"),
    [
        (
            LossConfig("curricularface"),
            SHARDED,
            "head.kind sharded has no loss.name curricularface",
        ),
        (
            LossConfig(),
            HeadConfig(sample_rate=0.5),
            "head.sample_rate 0.5 does nothing with head.kind dense",
        ),
        (LossConfig(), HeadConfig(chunk=5), "head.chunk 5 does nothing with head.kind dense"),
        (LossConfig(), HeadConfig("chunked", chunk=0), "head.chunk is 0"),
        (LossConfig(), HeadConfig("chunked", sample_rate=1.5), "head.sample_rate"),
        (LossConfig(), HeadConfig("chunked", dtype="bfloat16"), "head.dtype bfloat16 does nothing"),
        (LossConfig("magface"), fused(CHUNKED), "head.update fused has no loss.name magface"),
        (LossConfig(), fused(CHUNKED, unsampled="keep"), "head.unsampled keep does nothing"),
        (LossConfig("triplet", sub_centers=3), HeadConfig(), "loss.sub_centers 3 does nothing"),
        (
            LossConfig("softmax", margin_warmup=0.1),
            HeadConfig(),
            "loss.margin_warmup 0.1 does nothing",
        ),
        (LossConfig("adaface", gradient="straight_through"), HeadConfig(), "loss.gradient"),
        (LossConfig("uniface", label_smoothing=0.1), HeadConfig(), "loss.label_smoothing"),
        (LossConfig(sub_centers=0), HeadConfig(), "loss.sub_centers is 0"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(loss, head, named):
    with pytest.raises(InputError, match=named):
        create_objective(loss, head, num_classes=CLASSES)
