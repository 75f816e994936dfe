"""What every loss promises: the object, its function and float64 NumPy agree, padding is ignored,
its numbers are kept, named and checked.
"""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import (
    LOSSES,
    ArcFace,
    Context,
    Inter,
    Loss,
    LossOutput,
    MarginSoftmax,
    adaface_loss,
    angular_triplet_loss,
    circle_eta,
    circle_psi,
    combination_loss,
    curricularface_loss,
    divided_angle,
    elasticface_loss,
    loss_class,
    loss_name,
    magface_loss,
    margin_softmax_loss,
    softmax_loss,
    sphereface2_loss,
    uniface_loss,
    uss_loss,
)
from arcface_jax.margins import (
    arcface,
    cm1,
    cm2,
    cosface,
    expface,
    normface,
    sphereface,
    x2softmax,
)
from tests import in_numpy, processes

FIXED = {
    "arcface": (arcface(), (1, 0.5, 0)),
    "cosface": (cosface(), (1, 0, 0.35)),
    "sphereface": (sphereface(), (1.35, 0, 0)),
    "cm1": (cm1(), (1, 0.3, 0.2)),
    "cm2": (cm2(), (0.9, 0.4, 0.15)),
    "normface": (normface(), (1, 0, 0)),
}
ELASTIC = {
    "elasticface": {"kind": "arc", "mean": 0.5, "std": 0.0125, "plus": False},
    "elasticface_plus": {"kind": "arc", "mean": 0.5, "std": 0.0175, "plus": True},
    "elasticface_cos": {"kind": "cos", "mean": 0.35, "std": 0.0125, "plus": False},
    "elasticface_cos_plus": {"kind": "cos", "mean": 0.35, "std": 0.025, "plus": True},
}


STRAIGHT = {"gradient": "straight_through"}
OF_ANGLE = {
    "expface": (expface(**STRAIGHT), lambda t: np.cos(np.pi * (t / np.pi) ** 0.7)),
    "x2softmax": (x2softmax(**STRAIGHT), lambda t: 0.65 - 0.9 * t**2),
    "sphereface_r": (
        sphereface(1.5, past_pi="clip", **STRAIGHT),
        lambda t: np.cos(np.minimum(1.5 * t, np.pi)),
    ),
}
SCALES = {"sphereface_r": 30.0, "sphereface_r_v2": 30.0, "circle": 256.0, "softmax": 1.0}


def as_function(name, params, state, e, y, key):
    """(loss [N], new state) from the function that the object stands for, with its defaults."""
    w = params.get("class_weights")
    if name in FIXED:
        return margin_softmax_loss(e, w, y, psi=FIXED[name][0]), state
    if name in ELASTIC:
        return elasticface_loss(e, w, y, key, **ELASTIC[name]), state
    if name in OF_ANGLE:
        scale = SCALES.get(name, 64.0)
        return margin_softmax_loss(e, w, y, psi=OF_ANGLE[name][0], scale=scale), state
    if name == "kappaface":  # of which there is none
        out = LOSSES[name]()(params, state, e, y)
        return out.loss, out.state
    if name in ("adaface", "curricularface"):
        function = adaface_loss if name == "adaface" else curricularface_loss
        loss, new = function(e, w, y, state[name])
        return loss, {name: new}
    return {
        "softmax": lambda: softmax_loss(e, w, params["bias"], y),
        "magface": lambda: magface_loss(e, w, y),
        "sphereface2": lambda: sphereface2_loss(e, w, y, params["bias"]),
        "uniface": lambda: uniface_loss(e, w, y, params["bias"]),
        "intra": lambda: combination_loss(e, w, y, psi=normface(), intra_weight=1.0),
        "inter": lambda: combination_loss(e, w, y, psi=normface(), inter_weight=1.0),
        "intertopk": lambda: LOSSES["intertopk"]()({"class_weights": w}, {}, e, y).loss,
        "triplet": lambda: angular_triplet_loss(e, y),
        "sphereface_r_v2": lambda: margin_softmax_loss(
            e, w, y, psi=normface(), eta=lambda c: divided_angle(c, 1.5, **STRAIGHT), scale=30.0
        ),
        "circle": lambda: margin_softmax_loss(
            e,
            w,
            y,
            psi=lambda c: circle_psi(c, 0.25),
            eta=lambda c: circle_eta(c, 0.25),
            scale=256.0,
        ),
        "unitsface": lambda: (
            margin_softmax_loss(e, w, y, psi=cosface(0.4)) + uss_loss(e, y, params["bias"])
        ),
    }[name](), state


def elastic_target(mine, drawn, kind, mean, std, plus):
    margins = mean + std * drawn
    if plus:  # the nearest gets the smallest
        margins = np.sort(margins)[np.argsort(np.argsort(-mine))]
    return np.cos(np.arccos(mine) + margins) if kind == "arc" else mine - margins


def as_numpy(name, params, e, y, drawn):
    """(loss, cosθ_y, hit) of each, and the numbers of the new state; no row is ignored."""
    if name == "triplet":
        cosine = np.where(np.eye(len(y)), np.nan, np.cos(in_numpy.angles(e, e)))
        same = (y[:, None] == y) & ~np.isnan(cosine)
        nearest = np.nanargmax(cosine, axis=1)
        positive = np.where(same, cosine, 0.0).sum(axis=1) / np.maximum(same.sum(axis=1), 1)
        return in_numpy.triplet(e, y, 0.35, "semi_hard"), positive, y[nearest] == y, []
    w, state, penalty, scale = params["class_weights"], [], 0.0, SCALES.get(name, 64.0)
    cosine, norms = in_numpy.cosines(e, w), np.linalg.norm(e, axis=1)
    mine, scores = in_numpy.own(cosine, y), cosine
    target, entering = mine, cosine
    if name in FIXED:
        m1, m2, m3 = FIXED[name][1]
        target = np.cos(m1 * np.arccos(mine) + m2) - m3
    elif name in ELASTIC:
        target = elastic_target(mine, drawn, **ELASTIC[name])
    elif name == "adaface":
        target, *state = in_numpy.adaface(mine, norms)
    elif name == "magface":
        target, penalty = in_numpy.magface(mine, norms)
    elif name == "curricularface":
        entering, target, *state = in_numpy.curricularface(cosine, y, 0.0)
    elif name == "intertopk":  # whose five nearest are all the wrong ones
        entering, target = (np.cos(np.arccos(c) + m) for c, m in ((cosine, -0.06), (mine, 0.2)))
    elif name == "softmax":
        entering = scores = e @ w.T + params["bias"]
        target = in_numpy.own(scores, y)
    elif name in OF_ANGLE:
        target = OF_ANGLE[name][1](np.arccos(mine))
    elif name == "sphereface_r_v2":
        entering = np.cos(np.arccos(cosine) / 1.5)
    elif name == "circle":
        entering = np.maximum(cosine + 0.25, 0) * (cosine - 0.25)
        target = (1.25 - mine) * (mine - 0.75)
    elif name == "kappaface":
        factors, *state = in_numpy.kappaface(mine, y, len(w), e.shape[1])
        target = np.cos(np.arccos(mine) + 0.8 * factors[y])
    elif name == "unitsface":
        target, penalty = mine - 0.4, in_numpy.uss(e, y, params["bias"], 64.0, 0.1)
    elif name == "intra":
        penalty = np.arccos(mine) / np.pi
    elif name == "inter":
        penalty = in_numpy.inter(w, y)
    if name == "sphereface2":
        similar, bias = 40 * (2 * ((cosine + 1) / 2) ** 3 - 1), params["bias"]
        positive, negative = similar - 16 + bias, similar + 16 + bias
        loss = in_numpy.binary(positive, negative, y, (0.7 / 40, 0.3 / 40))
    elif name == "uniface":
        positive, negative = (64 * (cosine - m) - params["bias"] for m in (0.4, 0.0))
        loss = in_numpy.binary(positive, negative, y, (1.0, 1.0))
    else:
        loss = in_numpy.cross_entropy(entering, y, target, scale) + penalty
    others = np.where(np.arange(len(w)) == y[:, None], -np.inf, scores).max(axis=1)
    return loss, mine, in_numpy.own(scores, y) > others, state


@pytest.mark.parametrize("name", LOSSES)
def test_the_object_its_function_and_numpy_agree_and_padding_is_ignored(data, name):
    embeddings, weights, labels = data
    labels = np.concatenate([labels, [-1, -1]])
    embeddings = np.concatenate([embeddings, np.full((2, 6), np.nan)])
    loss = LOSSES[name]()
    with jax.enable_x64(True):
        key = jax.random.key(3)
        params = jax.device_get(jax.jit(lambda: loss.init_params(key, 5, 6))())
        params |= {"class_weights": weights} if "class_weights" in params else {}
        params |= {"bias": np.linspace(-1.0, 1.0, 5)} if name == "softmax" else {}

        start = loss.init_state(5)

        def total(params, e, labels):
            out = loss(params, start, e, labels, Context(key=key))
            return out.loss.sum(), out

        @jax.jit
        def run(params, e, labels):
            gradients, out = jax.grad(total, argnums=(0, 1), has_aux=True)(params, e, labels)
            drawn = jax.random.normal(key, (10,), jnp.float64)
            return gradients, out, as_function(name, params, start, e, labels, key), drawn

        results = jax.device_get(run(params, embeddings, labels))
        ignored = jax.device_get(run(params, embeddings, np.full_like(labels, -1)))
    (of_params, of_e), out, (function_loss, function_state), drawn = results
    wanted = as_numpy(name, params, embeddings[:8], labels[:8], drawn[:8])

    assert [part.shape for part in out if isinstance(part, np.ndarray)] == [(10,)] * 3
    np.testing.assert_allclose(out.loss, function_loss, rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, out.state, function_state)
    assert jax.tree.structure(out.state) == jax.tree.structure(start)
    np.testing.assert_allclose(out.loss[:8], wanted[0], rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(out.target_cosine[:8], wanted[1], atol=1e-12)
    np.testing.assert_array_equal(out.hit[:8], wanted[2])
    np.testing.assert_allclose(jax.tree.leaves(out.state), wanted[3], rtol=1e-6)
    for part in (out.loss, out.target_cosine, out.hit, of_e):
        assert not part[8:].any()
    assert of_e[:8].any()
    for gradient in jax.tree.leaves((of_params, of_e)):
        assert np.isfinite(gradient).all()

    (of_params, of_e), out, *_ = ignored  # a batch of nothing else
    for part in (out.loss, out.target_cosine, out.hit, of_e):
        assert not part.any()
    for value in jax.tree.leaves((of_params, out.state)):
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", LOSSES)
def test_its_numbers_are_all_there_is_of_it(name):
    cls = LOSSES[name]
    loss = cls(**{"margin": 0.25} if "margin" in cls.__dataclass_fields__ else {})
    again = cls(**dataclasses.asdict(loss))
    assert again == loss
    assert hash(again) == hash(loss)
    assert loss_name(loss) == loss_name(cls) == name
    assert loss_class(loss_name(loss)) is cls
    assert str(loss) == str(again) != ""


def test_a_loss_of_ones_own_is_known_by_its_import_path(tmp_path, monkeypatch):
    (tmp_path / "my_loss_for_a_test.py").write_text(
        "import dataclasses\n"
        "from arcface_jax.losses import MarginSoftmax\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Cubed(MarginSoftmax):\n"
        "    def psi(self, context):\n"
        "        return lambda c: c**3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cls = loss_class("my_loss_for_a_test:Cubed")
    assert loss_name(cls()) == "my_loss_for_a_test:Cubed"
    y = np.array([0, 3])

    @jax.jit
    def both(e, w):
        wanted = margin_softmax_loss(e, w, y, psi=lambda c: c**3, scale=8.0)
        return cls(scale=8.0)({"class_weights": w}, {}, e, y).loss, wanted

    np.testing.assert_allclose(*both(np.eye(4)[:2], np.eye(4) + 0.1), rtol=1e-6)
    for name, message in (
        ("arcfaec", "loss.name arcfaec: no such loss; choose one of .*arcface"),
        ("my_loss_for_a_test:dataclasses", "is no subclass of arcface_jax.losses.Loss"),
        ("my_loss_for_a_test:Squared", "loss.name"),
    ):
        with pytest.raises(InputError, match=message):
            loss_class(name)


RULES = {"past_pi": ("wrap",), "gradient": ("none",)}
ANGULAR = {**RULES, "margin": (-0.1, np.nan)}
SOFTMAX = {
    "scale": (0.0, -64.0, np.inf),
    "sub_centers": (0,),
    "label_smoothing": (-0.1, 1.5),
    "filter_threshold": (2.0,),
    "margin_by_size": (-0.1, 11.0),
    "margin_of_largest": (-0.1, 1.5),
    "class_balance": ("rare",),
    "balance_beta": (0.0, 1.0),
}
WARMED = {**SOFTMAX, "margin_warmup": (-0.5, 1.5)}
LATER = {**WARMED, "exact_from": (-0.5, 1.5)}
NUMBERS = {"m1": (0.0, 11.0), "m2": (-0.1, 4.0), "m3": (-0.1, 2.5)}
DRAWN = {**SOFTMAX, "kind": ("sphere",), "mean": (-0.1,), "std": (-0.1,)}
BAD = {
    "softmax": {"label_smoothing": (-0.1,)},
    "normface": SOFTMAX,
    "arcface": {**LATER, **ANGULAR},
    "sphereface": {**LATER, **ANGULAR},
    "cosface": {**WARMED, "margin": (-0.1, 2.5)},
    "cm1": {**LATER, **NUMBERS, **RULES},
    "cm2": {**LATER, **NUMBERS, **RULES},
    **dict.fromkeys(ELASTIC, DRAWN),
    "adaface": {**SOFTMAX, "margin": (-0.1, 2.0), "concentration": (0.0,), "ema": (-0.1, 1.5)},
    "magface": {
        **SOFTMAX,
        "l_a": (0.0,),
        "u_a": (5.0,),
        "l_m": (-0.1,),
        "u_m": (0.1, 4.0),
        "regulariser_weight": (-1.0,),
        "past_pi": ("wrap",),
    },
    "curricularface": {
        **SOFTMAX,
        "margin": (-0.1,),
        "past_pi": ("wrap",),
        "decay": (2.0,),
    },
    "sphereface2": {
        "scale": (0.0,),
        "margin": (-0.4,),
        "balance": (0.0, 1.5),
        "exponent": (0.5,),
        "gradient": ("none",),
    },
    "uniface": {"scale": (0.0,), "margin": (-0.1,), "negative_weight": (0.0,)},
    "intra": {**SOFTMAX, "weight": (-1.0,)},
    "inter": {**SOFTMAX, "weight": (-1.0,)},
    "intertopk": {**LATER, **ANGULAR, "top_k": (0,), "top_margin": (-0.1, 4.0)},
    "triplet": {"margin": (-0.35, 4.0), "mining": ("easy",)},
    "sphereface_r": {**LATER, **ANGULAR},
    "sphereface_r_v2": {**SOFTMAX, "margin": (0.0, 11.0), "gradient": ("none",)},
    "expface": {**SOFTMAX, "margin": (0.0, 1.5), "gradient": ("none",)},
    "x2softmax": {
        **SOFTMAX,
        "a": (0.0, 0.9, -101.0),
        "h": (0.5, -4.0),
        "k": (-2.0, 1.5),
        "gradient": ("none",),
    },
    "circle": {**SOFTMAX, "margin": (-0.1, 1.5)},
    "kappaface": {
        **SOFTMAX,
        "margin": (-0.1, 4.0),
        "temperature": (0.0, 1.5),
        "concentration_share": (-0.1, 1.5),
        "decay": (-0.1, 1.5),
        "gradient": ("none",),
    },
    "unitsface": {**WARMED, "margin": (-0.1, 2.5), "pair_margin": (-0.1, 2.5)},
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_bad_number_is_refused_at_once_by_the_name_of_its_field(name):
    unchecked = {"plus", "learn_scale"}
    fields = {field.name for field in dataclasses.fields(LOSSES[name])}
    assert BAD[name].keys() == fields - unchecked
    for field, values in BAD[name].items():
        for value in values:
            with pytest.raises(InputError, match=rf"^{field} is .*; pass ") as raised:
                LOSSES[name](**{field: value})
            assert "\n" not in str(raised.value)


def test_making_a_loss_starts_no_device():
    program = (
        "from arcface_jax.losses import LOSSES\n"
        "made = [cls() for cls in LOSSES.values()]\n"
        "print(*made)\n"
        "import jax._src.xla_bridge as bridge\n"
        "assert made and not bridge._backends, bridge._backends\n"
    )
    done = processes.run([sys.executable, "-c", program], seconds=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LOSSES)
def test_the_expected_first_loss_is_near_the_mean_of_an_untrained_network(name):
    """Independent standard normal embeddings, as a batch normalisation leaves them."""
    cls, classes, dim = LOSSES[name], 200, 64
    loss = cls(scale=16.0) if issubclass(cls, MarginSoftmax) else cls()
    generator = np.random.default_rng(4)
    embeddings = generator.normal(size=(512, dim)).astype(np.float32)
    labels = generator.integers(0, classes, 512)
    if name in ("triplet", "unitsface"):
        labels = np.arange(512) % 128
    if name == "unitsface":  # whose negatives cost more the more they are
        embeddings, labels = embeddings[:128], labels[:128] % 32

    @jax.jit
    def first_loss(embeddings, labels):
        params = loss.init_params(jax.random.key(3), classes, dim)
        context = Context(key=jax.random.key(6))
        start = loss.init_state(classes)
        return loss(params, start, embeddings, labels, context).loss.mean()

    measured = float(first_loss(embeddings, labels))
    assert loss.expected_initial_loss(classes, dim) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize("centers", [2, 3])
def test_the_expected_first_loss_knows_of_sub_centres_and_smoothing(centers):
    loss = ArcFace(scale=16.0, sub_centers=centers, label_smoothing=0.2)
    embeddings = np.random.default_rng(4).normal(size=(512, 64)).astype(np.float32)

    @jax.jit
    def first_loss(embeddings, labels):
        params = loss.init_params(jax.random.key(3), 200, 64)
        assert params["class_weights"].shape == (200, centers, 64)
        return loss(params, {}, embeddings, labels).loss.mean()

    measured = float(first_loss(embeddings, np.arange(512) % 200))
    assert loss.expected_initial_loss(200, 64) == pytest.approx(measured, rel=0.03)


def test_a_loss_needs_only_its_call():
    """The smallest loss: no state, default parameters, a first loss by simulation."""

    @dataclasses.dataclass(frozen=True)
    class Squared(Loss):
        def __call__(self, params, state, embeddings, labels, context=None):
            own = params["class_weights"][labels]
            loss = jnp.sum((embeddings - own) ** 2, axis=1)
            return LossOutput(loss, state, jnp.zeros_like(loss), loss < 1.0)

    # |x − w|² of standard normal x and w of deviation 0.01 is D on average.
    assert Squared().expected_initial_loss(10, 64) == pytest.approx(64.0, rel=0.1)
    assert not Squared.any_head
    assert not Inter.any_head
