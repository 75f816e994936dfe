"""One step: by hand, on any number of devices, and around it clipping, averages and bad steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import LOSSES, ArcFace, Context, NormFace
from arcface_jax.losses.penalties import distillation_penalty
from arcface_jax.training.sharding import check_batch
from arcface_jax.training.state import TrainState
from arcface_jax.training.step import loss_and_gradients, make_pass
from tests.training.steps import (
    ARCFACE,
    BATCH,
    CHUNKED,
    CLASSES,
    DENSE,
    KEY,
    MIRRORED,
    SHARDED,
    Small,
    assert_same,
    batches,
    build,
    program,
    train,
)


def fused(head, **changes):
    return dataclasses.replace(head, update="fused", **changes)


@functools.cache
def dense(loss):
    return train(loss)


def running_means(*runs):
    """Of the embeddings, after each of these runs."""
    return [run[1].batch_stats["features"]["norm"]["mean"] for run in runs]


def test_jit_over_a_mesh_equals_one_device():
    """Eight devices; a mesh of two is below, with a head that goes over its classes in chunks."""
    assert_same(train(devices=8), dense(ARCFACE))


@pytest.mark.parametrize("devices", [1, 8])
def test_pmap_with_statistics_over_devices_equals_one_device(devices):
    assert_same(train(devices=devices, pmap=True), dense(ARCFACE))


def test_pmap_by_hand_equals_one_device():
    """The transform as a notebook writes it: a state repeated for each of eight devices."""
    _, step, state = build(pmap=True, devices=8)
    state = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (8, *leaf.shape)), state)
    mapped = jax.pmap(step, axis_name="data", in_axes=(0, None, 0, 0))
    for images, labels in batches():
        images, labels = images.reshape(8, 2, *images.shape[1:]), labels.reshape(8, 2)
        state, metrics = mapped(state, KEY, images, labels)
    expected = dense(ARCFACE)
    np.testing.assert_allclose(metrics["loss"], expected[0][-1, 0], rtol=3e-5)
    kernel = np.asarray(state.params["backbone"]["fc"]["kernel"])[3]
    np.testing.assert_allclose(kernel, expected[1].params["backbone"]["fc"]["kernel"], atol=2e-5)


def test_augmentation_does_not_depend_on_the_split_over_devices():
    whole = train(augmentation=MIRRORED)
    assert_same(train(augmentation=MIRRORED, devices=4, pmap=True), whole)
    assert not np.allclose(whole[0][:, 0], dense(ARCFACE)[0][:, 0], rtol=1e-3)


def test_local_statistics_are_each_devices_own():
    local = train(devices=8, pmap=True, local=True)
    assert not np.allclose(local[0][:, 0], dense(ARCFACE)[0][:, 0], rtol=1e-3)
    # The running mean is the mean of the devices' means, which for equal shares is the batch's.
    means = running_means(train(devices=8, pmap=True, local=True, steps=1), train(steps=1))
    np.testing.assert_allclose(*means, rtol=1e-4, atol=1e-6)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)))


def test_step_by_hand():
    """Loss, gradient, metrics and update against the pieces put together without the step."""
    step, state = program()
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
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), cosine

    differentiate = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, cosine), gradient = jax.device_get(differentiate(state.params))
    decayed = jax.tree.map(lambda g, w: g + 5e-4 * w * (w.ndim > 1), gradient, state.params)
    expected = jax.tree.map(lambda w, g: w - 0.05 * g, state.params, decayed)
    new, metrics = step(state, KEY, images, labels)
    assert int(new.step) == 1
    own = cosine[np.arange(BATCH), labels]
    wanted = {
        "loss": value,
        "gradient_norm": norm(gradient),
        "accuracy": np.mean(np.argmax(cosine, 1) == labels),
        "theta": np.degrees(np.mean(np.arccos(own))),
        "learning_rate": 0.05,
    }
    for name, number in wanted.items():
        assert float(metrics[name]) == pytest.approx(float(number), rel=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.params, expected
    )


@pytest.mark.parametrize("name", ["arcface", "sphereface", "cm2", "softmax"])
def test_a_loss_learns_one_batch(name):
    cls = LOSSES[name]
    loss = cls(scale=16.0) if name != "softmax" else cls()
    step, state = program(loss)
    images, labels = next(batches(1))
    first = None
    for _ in range(60):
        state, metrics = jax.device_get(step(state, KEY, images, labels))
        first = first or float(metrics["loss"])
    assert float(metrics["loss"]) < 0.5 * first
    assert float(metrics["accuracy"]) > 0.9


def test_the_learnt_scale_of_normface_moves():
    loss = NormFace(scale=16.0, learn_scale=True)
    state = train(loss)[1]
    assert float(state.params["head"]["log_scale"]) != pytest.approx(np.log(16.0), abs=1e-6)


def test_a_batch_must_split_evenly():
    with pytest.raises(InputError, match=r"batch_size 12 .* 8 devices"):
        check_batch(12, 8)


NAMES = (
    "adaface",
    "magface",
    "elasticface_plus",
    "curricularface",
    "intra",
    "inter",
    "triplet",
    "sphereface2",
    "uniface",
    "kappaface",
    "unitsface",
)


@functools.cache
def loss_named(name, **numbers):
    scale = {} if name in ("triplet", "softmax") else {"scale": 16.0}
    return LOSSES[name](**scale, **numbers)


@pytest.mark.parametrize(
    "name",
    [
        name if name in ("adaface", "triplet") else pytest.param(name, marks=pytest.mark.slow)
        for name in NAMES
    ],
)
def test_every_loss_is_the_same_under_pmap(name):
    loss = loss_named(name)
    assert_same(train(loss, devices=2, pmap=True), dense(loss))


ALL = ArcFace(
    scale=16.0, sub_centers=3, label_smoothing=0.1, margin_warmup=0.5, filter_threshold=0.4
)
SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("loss", "head", "devices", "pmap"),
    [
        (ARCFACE, CHUNKED, 2, False),
        (ARCFACE, SHARDED, 4, False),
        (ARCFACE, SHARDED, 2, True),
        (ARCFACE, fused(CHUNKED), 1, False),
        (ARCFACE, fused(SHARDED), 4, False),
        pytest.param(ARCFACE, fused(SHARDED), 2, True, marks=SLOW),
        pytest.param(loss_named("adaface"), SHARDED, 4, False, marks=SLOW),
        (loss_named("adaface"), fused(SHARDED), 2, True),
        pytest.param(loss_named("magface"), SHARDED, 2, False, marks=SLOW),
        pytest.param(loss_named("elasticface_plus"), SHARDED, 4, False, marks=SLOW),
        pytest.param(loss_named("intra"), SHARDED, 4, False, marks=SLOW),
        *(
            pytest.param(loss_named(name), SHARDED, 4, False, marks=SLOW)
            for name in ("curricularface", "sphereface2", "kappaface", "unitsface")
        ),
        pytest.param(loss_named("uniface"), SHARDED, 2, True, marks=SLOW),
        pytest.param(loss_named("circle"), fused(SHARDED), 4, False, marks=SLOW),
        (ALL, SHARDED, 2, False),
        (ALL, fused(SHARDED), 2, False),
    ],
)
def test_every_head_gives_the_dense_steps(loss, head, devices, pmap):
    # The gradient of a fused head is never there to be measured.
    assert_same(train(loss, head, devices, pmap), dense(loss), same_norm=head.update == "optimiser")


def test_bfloat16_rows_stay_near_the_float32_ones():
    seen, state, weights = train(ARCFACE, fused(SHARDED, dtype="bfloat16"), 2)
    assert state.head_state["rows"].weights.dtype == np.uint16
    expected = dense(ARCFACE)
    np.testing.assert_allclose(seen[:, 0], expected[0][:, 0], rtol=2e-2)
    np.testing.assert_allclose(weights, expected[2], rtol=0.02, atol=0.02)


def test_a_sampled_head_sees_fewer_classes_and_v1_leaves_the_others_alone():
    sampled = dataclasses.replace(SHARDED, sample_rate=0.2)
    assert (train(ARCFACE, sampled, 2)[0][:, 0] < dense(ARCFACE)[0][:, 0]).all()
    moved = {}
    for unsampled in ("update", "keep"):
        head = fused(dataclasses.replace(CHUNKED, sample_rate=0.01), unsampled=unsampled)
        moved[unsampled] = train(ARCFACE, head)[2]
    before = build()[2].class_weights
    never = np.setdiff1d(np.arange(CLASSES), np.concatenate([labels for _, labels in batches()]))
    assert len(never)  # else the test shows nothing
    np.testing.assert_array_equal(moved["keep"][never], before[never])
    assert (np.abs(moved["update"] - before)[never] > 0).all()  # weight decay


def test_accumulation_equals_the_large_batch_where_no_statistics_are_shared():
    """Without batch normalisation parts know nothing of each other: the gradient is the batch's.

    Each of their examples is mirrored or not as it is in the whole batch.
    """
    options = {"statistics": False, "augmentation": MIRRORED}
    whole = train(**options)
    assert_same(train(devices=2, accumulate=2, **options), whole)
    assert_same(train(ARCFACE, SHARDED, 2, True, accumulate=2, **options), whole)


def test_accumulation_has_each_parts_own_statistics():
    run = train(accumulate=4)
    assert int(run[1].step) == 3
    # The running mean has moved twelve times, not three.
    parts, whole = (np.abs(mean).max() for mean in running_means(run, dense(ARCFACE)))
    assert parts > 1.5 * whole


@pytest.mark.parametrize("options", [{"accumulate": 4}, {"frozen": True}])
def test_no_convolution_stands_in_a_loop_or_a_branch_on_a_cpu(options):
    """There XLA's CPU compiler has gradients of convolutions that are twenty times slower."""
    step, state = program(**options)
    text = step.lower(state, KEY, *next(batches(1))).as_text()
    loops = [part.split("\n    }")[0] for part in text.split("stablehlo.while")[1:]]
    assert not any("convolution" in part for part in loops)
    assert "stablehlo.case" not in text


def test_a_frozen_backbone_stays_and_only_the_head_has_a_gradient():
    step, before = program(frozen=True)
    new, metrics = jax.device_get(step(before, KEY, *next(batches(1))))
    assert metrics["gradient_norm"] == metrics["head_gradient_norm"] > 0
    biases = [state.params["backbone"]["conv"]["bias"] for state in (new, before)]
    np.testing.assert_array_equal(*biases)
    jax.tree.map(np.testing.assert_array_equal, new.batch_stats, before.batch_stats)
    assert (new.class_weights != before.class_weights).any()


def test_embeddings_too_long_to_have_a_length_leave_a_fused_heads_rows_alone():
    state = build(head=fused(CHUNKED))[2]
    embeddings = np.full((BATCH, 8), 1e20, np.float32)  # finite, and their squares are not

    @jax.jit
    def output(embeddings):
        labels, context = jnp.zeros(BATCH, jnp.int32), Context(key=KEY)
        arguments = (ARCFACE, fused(CHUNKED), {}, state.head_state, embeddings, labels, context)
        return loss_and_gradients(*arguments, num_classes=CLASSES, learning_rate=0.1)[0]

    out = output(embeddings)
    jax.tree.map(np.testing.assert_array_equal, out.state["rows"], state.head_state["rows"])
    assert np.isnan(out.loss).all()


def test_a_schedule_goes_by_the_updates_that_were_made():
    """After a bad step a fused head learns at the rate at which the optimiser trains the rest."""
    falls = optax.piecewise_constant_schedule(0.1, {1: 0.0})  # nothing moves after the first update
    step, state = program(head=fused(CHUNKED), schedule=falls)
    state = dataclasses.replace(state, step=state.step + 3, bad_steps=np.array([0, 3], np.int32))
    before = state
    for moves in (True, False):
        state = jax.device_get(step(before, KEY, *next(batches(1)))[0])
        rows = [one.head_state["rows"].weights for one in (state, before)]
        kernels = [one.params["backbone"]["fc"]["kernel"] for one in (state, before)]
        assert (not np.array_equal(*rows), not np.array_equal(*kernels)) == (moves, moves)
        before = state


def test_clipping_scales_all_gradients_to_the_norm():
    """SGD without momentum: the update's length is the rate times the clipped norm."""
    step, state = program(optimiser=optax.sgd(1.0), clip=0.25)
    new, metrics = step(state, KEY, *next(batches(1)))
    assert float(metrics["gradient_norm"]) > 0.25
    moved = jax.tree.map(np.subtract, jax.device_get(new.params), state.params)
    assert norm(moved) == pytest.approx(0.25, rel=1e-5)


def test_clipping_the_backbone_alone_leaves_the_head_as_it_is():
    """As arcface_torch's `clip_grad_norm_(backbone.parameters(), 5)`."""
    images, labels = next(batches(1))
    moved = {}
    for name, clipped in (("free", {}), ("clipped", {"clip": 0.25, "clip_over": "backbone"})):
        step, state = program(optimiser=optax.sgd(1.0), **clipped)
        new, metrics = step(state, KEY, images, labels)
        moved[name] = jax.tree.map(np.subtract, jax.device_get(new.params), state.params)
    length = norm(moved["free"]["backbone"])
    assert length > 0.25
    assert norm(moved["clipped"]["backbone"]) == pytest.approx(0.25, rel=1e-5)
    jax.tree.map(np.testing.assert_array_equal, moved["clipped"]["head"], moved["free"]["head"])
    # What is logged is the gradient before it was scaled.
    both = np.hypot(length, float(metrics["head_gradient_norm"]))
    assert float(metrics["gradient_norm"]) == pytest.approx(both, rel=1e-5)


def test_the_moving_average_follows_its_equation():
    step, state = program(average=True, average_decay=0.15)
    average = state.average
    for number, (images, labels) in enumerate(batches()):
        state = jax.device_get(step(state, KEY, images, labels)[0])
        decay = min(0.15, (1 + number) / (10 + number))
        latest = {"params": state.params["backbone"], "batch_stats": state.batch_stats}
        average = jax.tree.map(
            lambda a, w, d=decay: d * a + (1 - d) * np.asarray(w), average, latest
        )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), state.average, average
    )


@pytest.mark.parametrize("head", [DENSE, fused(SHARDED)], ids=["dense", "fused"])
def test_a_step_that_is_not_finite_touches_nothing(head):
    step, state = program(head=head, average=True)
    huge = jax.tree.map(lambda leaf: leaf * 1e38, state.params["backbone"])
    bad = dataclasses.replace(state, params={**state.params, "backbone": huge})
    new, metrics = jax.device_get(step(bad, KEY, *next(batches(1))))
    assert not np.isfinite(metrics["loss"])
    assert new.bad_steps.tolist() == [1, 1]
    assert (int(new.step), int(new.updates)) == (1, 0)
    same = dataclasses.replace(new, step=bad.step, bad_steps=bad.bad_steps)
    jax.tree.map(np.testing.assert_array_equal, same, bad)
    good = dataclasses.replace(new, params=state.params)
    assert step(good, KEY, *next(batches(1)))[0].bad_steps.tolist() == [0, 1]


def products(program, *sizes):
    """How many dot products of a StableHLO program have these sizes, in any order."""
    count = 0
    for line in program.splitlines():
        if "stablehlo.dot_general" in line:
            types = line.split(": (")[1]
            numbers = {
                int(n) for t in types.split("tensor<")[1:] for n in t.split("xf")[0].split("x")
            }
            count += numbers == set(sizes)
    return count


def test_a_dense_step_multiplies_batch_by_classes_by_dimension_three_times():
    """Cosines, and their gradients by embeddings and by class weights; accuracy costs none."""
    step, state = program()
    text = step.lower(state, KEY, *next(batches(1))).as_text()
    assert products(text, BATCH, CLASSES, 8) == 3


def test_a_loss_object_is_what_the_step_computes():
    """The step's first loss is the object's own, called as a notebook calls it."""
    step, state = program()
    images, labels = next(batches(1))
    inputs = (images.astype(np.float32) - 127.5) / 127.5

    @jax.jit
    def own_loss(state):
        x, _ = Small().apply(state.backbone_variables, inputs, True, mutable=["batch_stats"])
        return ARCFACE(state.params["head"], {}, x, labels).loss.mean()

    mine = own_loss(state)
    assert float(step(state, KEY, images, labels)[1]["loss"]) == pytest.approx(
        float(mine), rel=1e-5
    )


def test_momentum_starts_where_the_optimiser_says():
    """An optimiser of optax's is stepped as by hand."""
    optimiser = optax.adamw(1e-2)
    step, state = program(optimiser=optimiser)
    new, _ = step(state, KEY, *next(batches(1)))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), jax.device_get(new.params), state.params)
    assert max(jax.tree.leaves(moved)) == pytest.approx(1e-2, rel=0.05)


def test_a_teacher_adds_its_penalty_to_the_gradient_of_the_backbone_alone():
    random = np.random.default_rng(0)
    images, weights = random.normal(size=(4, 6)), random.normal(size=(6, 3))
    taught, classes = random.normal(size=(6, 3)), random.normal(size=(2, 3))
    state = TrainState(
        params={"backbone": {"w": jnp.array(weights)}, "head": {"class_weights": classes}},
        batch_stats={},
        optimiser_state=(),
        head_state={},
        average={},
        step=jnp.int32(0),
        bad_steps=jnp.zeros(2, jnp.int32),
    )

    def passed(**options):
        def apply(params, stats, images):
            return images @ params["w"], stats

        forward = jax.jit(make_pass(apply, NormFace(scale=4.0), **options))
        return forward(state, KEY, jnp.array(images), jnp.array([0, 1, 1, 0]))

    plain = passed()
    found = passed(teacher=lambda images: images @ taught, teacher_weight=3.0)

    def penalty(weights):
        return distillation_penalty(images @ weights, images @ taught).mean()

    apart, slope = jax.value_and_grad(penalty)(jnp.array(weights))
    np.testing.assert_allclose(found.metrics["distillation"], apart, atol=1e-6)
    assert found.metrics["loss"] == plain.metrics["loss"]
    np.testing.assert_allclose(
        found.gradients["backbone"]["w"] - plain.gradients["backbone"]["w"], 3 * slope, atol=1e-5
    )
    np.testing.assert_array_equal(
        found.gradients["head"]["class_weights"], plain.gradients["head"]["class_weights"]
    )
