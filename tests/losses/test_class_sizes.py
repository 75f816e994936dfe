"""Margins and weights by class size: their formulas, and the same numbers from every head."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.heads import RowSgd, init_head
from arcface_jax.losses import (
    LOSSES,
    ArcFace,
    Context,
    CosFace,
    MarginSoftmax,
    NormFace,
    margins_by_size,
    weights_by_size,
)
from arcface_jax.margins import annealed, arcface
from arcface_jax.training.config import Config, HeadConfig
from arcface_jax.training.program import create_program
from arcface_jax.training.step import loss_and_gradients
from tests.in_numpy import adaface, cosines, cross_entropy, own, shard, unshard
from tests.losses.conftest import make_data

COUNTS = np.array([1, 100, 7, 20, 7])


def margins_in_numpy(counts, smallest, largest, power):
    sizes = counts ** -float(power)
    a = (largest - smallest) / (sizes.max() - sizes.min())
    return a * sizes + (smallest - a * sizes.min())


def weights_in_numpy(counts, balance, beta=0.999):
    each = 1 / counts if balance == "inverse" else (1 - beta) / (1 - beta ** counts.astype(float))
    return each * counts.sum() / (each * counts).sum()


@pytest.mark.parametrize("power", [0.01, 0.25, 1.0, 10.0])
def test_margins_run_from_the_largest_class_to_the_smallest(power):
    margins = margins_by_size(COUNTS, power=power)
    np.testing.assert_allclose(margins, margins_in_numpy(COUNTS, 0.05, 0.5, power), rtol=1e-4)
    np.testing.assert_allclose(margins[:2], [0.5, 0.05], rtol=1e-6)


def test_margins_of_four_classes_by_hand():
    # 1, 16, 81, 256 to the power −1/4 are 1, 1/2, 1/3, 1/4.
    margins = margins_by_size(np.array([1, 16, 81, 256]), smallest=0.1, largest=0.4)
    np.testing.assert_allclose(margins, [0.4, 0.2, 0.1 + 0.3 / 9, 0.1], rtol=1e-5)
    np.testing.assert_allclose(margins_by_size(np.full(3, 20)), 0.5)
    np.testing.assert_allclose(margins_by_size(np.array([0, 1, 9])), [0.5, 0.5, 0.05], rtol=1e-5)


@pytest.mark.parametrize(
    ("balance", "beta"), [("inverse", 0.999), ("effective", 0.9), ("effective", 0.9999)]
)
def test_an_image_weighs_one_on_average(balance, beta):
    weights = np.asarray(weights_by_size(COUNTS, balance, beta))
    np.testing.assert_allclose(weights, weights_in_numpy(COUNTS, balance, beta), rtol=1e-5)
    assert (weights * COUNTS).sum() == pytest.approx(COUNTS.sum(), rel=1e-5)
    np.testing.assert_allclose(weights_by_size(np.full(4, 9), balance, beta), 1.0, rtol=1e-6)


def test_weights_by_hand():
    np.testing.assert_allclose(weights_by_size(np.array([1, 3])), [2, 2 / 3], rtol=1e-6)
    # 1 + β + β² images count of three: 1.75 with β = 1/2.
    found = weights_by_size(np.array([1, 3]), "effective", 0.5)
    np.testing.assert_allclose(found[0] / found[1], 1.75, rtol=1e-6)


SHARE = margins_in_numpy(COUNTS, 0.1, 1.0, 0.25)


@pytest.mark.parametrize(
    "name", [name for name, one in LOSSES.items() if issubclass(one, MarginSoftmax)]
)
def test_every_margin_softmax_has_the_share_of_its_margin(data, name):
    embeddings, weights, labels = data
    loss, share = LOSSES[name](margin_by_size=0.25), SHARE[labels]
    cosine = own(cosines(embeddings, weights), labels).astype(np.float32)
    key, norms = jax.random.key(3), np.linalg.norm(embeddings, axis=1)
    context = Context(key=key, class_counts=COUNTS, target=cosine)
    _, context = loss.begin(loss.init_state(5), embeddings, labels, context)
    if name in ("normface", "intra", "inter", "circle", "expface", "sphereface_r_v2", "x2softmax"):
        with pytest.raises(InputError, match=r"does nothing for loss\.name \S+, whose"):
            loss.sized_psi(context, 5)
        return
    found = loss.sized_psi(context, 5)(cosine)
    if name == "adaface":
        wanted = adaface(cosine, norms, m=0.4 * share)[0]
    elif name == "magface":
        margins = share * (0.45 + 0.35 / 100 * (norms.clip(10, 110) - 10))
        wanted = np.where(cosine > 0, np.cos(np.arccos(cosine) + margins), cosine)
    elif name == "kappaface":
        wanted = np.cos(np.arccos(cosine) + share * np.asarray(loss.psi(context).m2))
    elif name == "curricularface":
        past = np.arccos(cosine) + share * 0.5 > np.pi
        linear = cosine - share * 0.5 * np.sin(share * 0.5)
        wanted = np.where(past, linear, np.cos(np.arccos(cosine) + share * 0.5))
    elif name == "sphereface_r":
        wanted = np.cos(np.minimum((1 + share * 0.5) * np.arccos(cosine), np.pi))
    elif name.startswith("elasticface"):
        drawn = loss.psi(context).draw(cosine)
        assert np.std(drawn) > 0
        theta = np.arccos(cosine)
        wanted = np.cos(theta + share * drawn) if loss.kind == "arc" else cosine - share * drawn
    else:
        psi = loss.full_psi()
        m1 = 1 + share * (psi.m1 - 1)
        wanted = np.cos(m1 * np.arccos(cosine) + share * psi.m2) - share * psi.m3
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_share_of_an_annealed_margin_is_of_the_inner_one():
    cosine = np.linspace(-0.5, 0.9, 4)
    psi = annealed(arcface(0.5), 2.0).scaled(0.5)
    expected = (2 * cosine + np.cos(np.arccos(cosine) + 0.25)) / 3
    np.testing.assert_allclose(psi(cosine), expected, atol=1e-5)


def test_the_margin_still_rises_over_its_warm_up(data):
    embeddings, _, labels = data
    loss = CosFace(margin_by_size=0.25, margin_warmup=0.5)
    context = Context(step=5, total_steps=20, class_counts=COUNTS)
    _, context = loss.begin({}, embeddings, labels, context)
    found = loss.sized_psi(context, 5)(np.zeros(8))
    np.testing.assert_allclose(found, -0.35 / 2 * SHARE[labels], atol=1e-6)


# Heads: what the training step calls, in float64, against NumPy and its finite differences.

LOSS = ArcFace(
    scale=9.0,
    margin_by_size=0.25,
    class_balance="effective",
    balance_beta=0.9,
    label_smoothing=0.1,
    filter_threshold=0.5,
)
LABELS = np.array([0, 1, 4, 3, -1, 2, 1, 0])


def mean_in_numpy(embeddings, weights):
    """The losses, and their mean over all rows."""
    cosine = cosines(embeddings, weights)
    mine, margins = own(cosine, LABELS), 0.5 * SHARE[LABELS]
    target = mine * np.cos(margins) - np.sqrt(1 - mine**2 + 1e-6) * np.sin(margins)
    each = cross_entropy(cosine, LABELS, target, 9.0, 0.1, cosine <= 0.5)
    each = each * weights_in_numpy(COUNTS, "effective", 0.9)[LABELS]
    return each, each.mean()


@functools.cache
def slopes_in_numpy():
    """(losses, dL/d embeddings, dL/d class weights) of the mean loss, by central differences."""
    arrays = make_data()[:2]

    def slope(which, place):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [array.copy() for array in arrays]
            moved[which][place] += step
            ends.append(mean_in_numpy(*moved)[1])
        return (ends[0] - ends[1]) / 2e-6

    of = [
        np.array([slope(which, place) for place in np.ndindex(array.shape)]).reshape(array.shape)
        for which, array in enumerate(arrays)
    ]
    return mean_in_numpy(*arrays)[0], *of


DEVICES = 4


@pytest.mark.parametrize(
    "head",
    [
        HeadConfig(),
        HeadConfig("chunked", chunk=2),
        HeadConfig("sharded", chunk=2),
        HeadConfig("chunked", chunk=2, update="fused"),
        HeadConfig("sharded", chunk=2, update="fused"),
        HeadConfig("chunked", chunk=2, sample_rate=0.5),
        HeadConfig("sharded", chunk=2, sample_rate=0.5, update="fused"),
    ],
    ids=lambda head: f"{head.kind}-{head.sample_rate:g}-{head.update}",
)
def test_every_head_gives_the_losses_and_gradients_of_numpy(head):
    """A sample that is drawn holds all classes here, for the batch has them all."""
    split, update = head.kind == "sharded", head.update
    embeddings, weights, _ = make_data()
    optimiser = RowSgd(momentum=0.0, weight_decay=0.0)

    def on_device(rows, e, y):
        context = Context(
            key=jax.random.key(0), class_counts=COUNTS, axis_name="classes" if split else None
        )
        fused = update == "fused"
        state = {"rows": init_head(rows, optimiser, dtype="float64")} if fused else {}
        out, of_head, of_e = loss_and_gradients(
            LOSS,
            head,
            {} if fused else {"class_weights": rows},
            state,
            e,
            y,
            context,
            num_classes=5,
            learning_rate=1.0,
            optimiser=optimiser,
        )
        of_rows = rows - out.state["rows"].weights if fused else of_head["class_weights"]
        return out.loss, of_e, of_rows

    with jax.enable_x64(True):
        if split:
            run = jax.jit(jax.vmap(on_device, axis_name="classes"))
            rows = shard(weights, DEVICES)
            parts = embeddings.reshape(DEVICES, -1, 6), LABELS.reshape(DEVICES, -1)
            losses, of_e, of_rows = jax.device_get(run(rows, *parts))
            # Of each device's mean: those of the optimiser are averaged by the training step.
            of_rows = unshard(of_rows, 5) / (DEVICES if update == "optimiser" else 1)
            losses, of_e = losses.reshape(-1), of_e.reshape(-1, 6) / DEVICES
        else:
            found = jax.jit(on_device)(weights, embeddings, LABELS)
            losses, of_e, of_rows = jax.device_get(found)
    wanted = slopes_in_numpy()
    np.testing.assert_allclose(losses, wanted[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(of_e, wanted[1], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(of_rows, wanted[2], rtol=1e-6, atol=1e-7)
    assert losses[4] == 0.0


def test_the_first_loss_to_expect_is_that_of_the_training_data():
    """Beside the mean over the data of the loss of each class, by its own margin and weight."""
    counts = np.array([900, 90, 9, 1])
    loss = ArcFace(scale=8.0, margin_by_size=0.25, class_balance="inverse")
    found = loss.expected_initial_loss(4, 32, class_counts=counts)
    margins = margins_in_numpy(counts, 0.05, 0.5, 0.25)
    each = [ArcFace(scale=8.0, margin=m).expected_initial_loss(4, 32) for m in margins]
    # A class with one image in a thousand is not in every simulated batch: hence the tolerance.
    assert found == pytest.approx(np.mean(each), rel=0.25)


def test_bad_input_is_named(data):
    loss, (embeddings, weights, labels) = CosFace(margin_by_size=0.25), data
    params = {"class_weights": weights}
    for counts, what in (
        (None, "class_counts is missing; margins and weights by class size need"),
        (np.ones(4), r"class_counts has shape \(4,\); pass one for each class, \(5,\)"),
        (np.array([1, 2, -3, 4, 5]), "class_counts is -3; pass a finite number not below 0"),
    ):
        for one in (loss, NormFace(class_balance="inverse")):
            with pytest.raises(InputError, match=what):
                one(params, {}, embeddings, labels, Context(class_counts=counts))
    for numbers, what in (
        ({"margin_by_size": -1.0}, "margin_by_size is -1; pass"),
        ({"margin_of_largest": 1.5}, "margin_of_largest is 1.5; pass"),
        ({"class_balance": "rare"}, "class_balance is 'rare'; pass one of none, inverse"),
        ({"balance_beta": 1.0}, "balance_beta is 1; pass a number above 0 and below 1"),
    ):
        with pytest.raises(InputError, match=what):
            CosFace(**numbers)


def test_a_run_whose_loss_has_no_margin_stops_before_its_data_are_loaded():
    config = dataclasses.replace(Config(), loss=NormFace(margin_by_size=0.25))
    with pytest.raises(
        InputError, match=r"margin_by_size 0\.25 does nothing for loss\.name normface"
    ):
        create_program(config, 2)


def test_what_people_read():
    loss = ArcFace(margin_by_size=0.25, class_balance="effective")
    assert str(loss) == (
        "64·cos(θ + 0.5), margin by class size^−0.25 down to 10%, classes weighted by effective "
        "number"
    )
