"""One step, three ways of running it, and what it is by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.data.augment import ADAFACE_AUGMENTATION, Augmentation
from arcface_jax.errors import InputError
from arcface_jax.models.layers import EmbeddingBatchNorm
from arcface_jax.training.config import LossConfig
from arcface_jax.training.objectives import create_objective
from arcface_jax.training.parallel import MeshStep, PmapStep, check_batch
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import initial_state
from arcface_jax.training.step import DATA_AXIS, MIRROR_ONLY, TrainStep

UNCHANGED = Augmentation(flip=0.0)
CLASSES, SIZE, BATCH = 10, 6, 16


class Small(nn.Module):
    """A convolution, a dense layer and a batch normalisation."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(4, (3, 3), name="conv")(images))
        x = nn.Dense(8, name="fc")(x.reshape(x.shape[0], -1))
        return EmbeddingBatchNorm(1e-5, self.axis_name, name="features")(x, train)


def build(
    loss="arcface", axis_name=None, bn_axis=None, augmentation=MIRROR_ONLY, learning_rate=0.01
):
    backbone, objective = Small(bn_axis), create_objective(LossConfig(name=loss))
    optimiser = sgd(optax.constant_schedule(learning_rate))
    step = TrainStep(
        backbone=backbone,
        objective=objective,
        optimiser=optimiser,
        seed=5,
        augmentation=augmentation,
        axis_name=axis_name,
    )
    state = jax.jit(
        lambda: initial_state(
            backbone,
            objective,
            optimiser,
            num_classes=CLASSES,
            embedding_size=8,
            image_size=SIZE,
            seed=0,
        )
    )()
    return step, state


def batches(count=3):
    random = np.random.default_rng(0)
    for _ in range(count):
        images = random.integers(0, 256, (BATCH, SIZE, SIZE, 3), np.uint8)
        yield images, random.integers(0, CLASSES, BATCH).astype(np.int32)


def run(parallel, state, count=3):
    state = parallel.place(state)
    losses = []
    for images, labels in batches(count):
        state, metrics = parallel(state, images, labels)
        losses.append(float(metrics["loss"]))
    return losses, jax.device_get(parallel.fetch(state))


@pytest.fixture(scope="module")
def one_device():
    step, state = build()
    return run(MeshStep(step, jax.devices()[:1]), state)


def assert_same_run(first, second):
    np.testing.assert_allclose(first[0], second[0], rtol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), first[1], second[1]
    )


@pytest.mark.parametrize("devices", [2, 8])
def test_mesh_step_equals_one_device(one_device, devices):
    step, state = build()
    assert_same_run(run(MeshStep(step, jax.devices()[:devices]), state), one_device)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_pmap_step_with_statistics_over_devices_equals_one_device(one_device, devices):
    step, state = build(axis_name=DATA_AXIS, bn_axis=DATA_AXIS)
    assert_same_run(run(PmapStep(step, jax.devices()[:devices]), state), one_device)


def test_augmentation_does_not_depend_on_the_split_over_devices():
    step, state = build(augmentation=ADAFACE_AUGMENTATION)
    whole = run(MeshStep(step, jax.devices()[:1]), state)
    step, state = build(augmentation=ADAFACE_AUGMENTATION, axis_name=DATA_AXIS, bn_axis=DATA_AXIS)
    assert_same_run(run(PmapStep(step, jax.devices()[:4]), state), whole)


def test_augmentation_changes_the_run(one_device):
    step, state = build(augmentation=UNCHANGED)
    assert not np.allclose(
        run(MeshStep(step, jax.devices()[:1]), state)[0], one_device[0], rtol=1e-3
    )


def test_local_statistics_are_each_devices_own(one_device):
    step, state = build(axis_name=DATA_AXIS)
    losses, _ = run(PmapStep(step, jax.devices()[:8]), state)
    assert not np.allclose(losses, one_device[0], rtol=1e-3)
    # The running mean is the mean of the devices' means, which for equal shares is the batch's.
    step, state = build(axis_name=DATA_AXIS)
    local = run(PmapStep(step, jax.devices()[:8]), state, 1)[1].batch_stats["features"]["norm"][
        "mean"
    ]
    step, state = build()
    whole = run(MeshStep(step, jax.devices()[:1]), state, 1)[1].batch_stats["features"]["norm"][
        "mean"
    ]
    np.testing.assert_allclose(local, whole, rtol=1e-4, atol=1e-6)


def test_step_by_hand():
    """Loss, gradient and update against the pieces put together without the step."""
    step, state = build(augmentation=UNCHANGED, learning_rate=0.1)
    images, labels = next(batches(1))

    def loss(params):
        inputs = (images.astype(np.float32) - 127.5) / 127.5
        variables = {"params": params["backbone"], "batch_stats": state.batch_stats}
        x, _ = Small().apply(variables, inputs, True, mutable=["batch_stats"])
        x = x / jnp.linalg.norm(x, axis=1, keepdims=True)
        w = params["head"]["class_weights"]
        cosine = x @ (w / jnp.linalg.norm(w, axis=1, keepdims=True)).T
        target = jnp.cos(jnp.arccos(cosine) + 0.5)
        logits = 16.0 * jnp.where(jax.nn.one_hot(labels, CLASSES) > 0, target, cosine)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    decayed = jax.tree.map(lambda g, w: g + 5e-4 * w * (w.ndim > 1), gradient, state.params)
    expected = jax.tree.map(lambda w, g: w - 0.1 * g, state.params, decayed)
    norm = optax.tree.norm(gradient)
    new, metrics = jax.jit(step, donate_argnums=0)(state, images, labels)
    assert int(new.step) == 1
    assert float(metrics["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.params, expected
    )


@pytest.mark.parametrize(
    "loss", ["arcface", "cosface", "sphereface", "normface", "cm1", "cm2", "softmax"]
)
def test_every_loss_learns_one_batch(loss):
    step, state = build(loss, augmentation=UNCHANGED, learning_rate=0.02)
    compiled = jax.jit(step, donate_argnums=0)
    images, labels = next(batches(1))
    first = None
    for _ in range(60):
        state, metrics = compiled(state, images, labels)
        first = first or float(metrics["loss"])
    assert float(metrics["loss"]) < 0.5 * first
    assert float(metrics["accuracy"]) > 0.9


def test_accuracy_counts_the_highest_score():
    step, state = build(augmentation=UNCHANGED)
    images, labels = next(batches(1))
    inputs = (images.astype(np.float32) - 127.5) / 127.5
    x, _ = Small().apply(state.backbone_variables, inputs, True, mutable=["batch_stats"])
    w = state.params["head"]["class_weights"]
    expected = np.mean(np.argmax(x @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T, 1) == labels)
    assert float(
        jax.jit(step, donate_argnums=0)(state, images, labels)[1]["accuracy"]
    ) == pytest.approx(expected)


def test_a_batch_must_split_evenly():
    with pytest.raises(InputError, match=r"batch_size 12 .* 8 devices"):
        check_batch(12, jax.devices()[:8])


def test_objectives_say_what_they_are():
    said = [
        str(create_objective(LossConfig(name)))
        for name in ("arcface", "cosface", "sphereface", "cm2", "softmax")
    ]
    assert said == [
        "16·cos(θ + 0.5)",
        "16·(cos(θ) − 0.35)",
        "16·cos(1.35·θ)",
        "16·(cos(0.9·θ + 0.4) − 0.15)",
        "w·x + b, nothing normalised",
    ]
    config = LossConfig("arcface", scale=8.0, past_pi="linear", gradient="straight_through")
    assert (
        str(create_objective(config)) == "8·cos(θ + 0.5), past π: linear, straight-through gradient"
    )


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (LossConfig("softmax", margin=0.5), "loss.margin 0.5 does nothing"),
        (LossConfig("softmax", scale=8.0), "loss.scale 8.0 does nothing"),
        (LossConfig("cm1", margin=0.5), "loss.margin 0.5 does nothing"),
        (LossConfig("cosface", past_pi="linear"), "loss.past_pi linear does nothing"),
        (
            LossConfig("normface", gradient="straight_through"),
            "loss.gradient straight_through does nothing",
        ),
        (LossConfig("arcface", margin=-0.1), "-0.1"),
        (LossConfig("arcface", scale=0.0), "loss.scale"),
    ],
)
def test_settings_a_loss_cannot_use_are_refused(config, named):
    with pytest.raises(InputError, match=named):
        create_objective(config)
