"""Losses over a batch, or classes, that many devices share: alike on one device."""

import functools

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from arcface_jax.heads import shard_classes
from arcface_jax.losses import (
    AdaFace,
    ArcFace,
    Circle,
    Context,
    CurricularFace,
    ElasticFace,
    ElasticFacePlus,
    Intra,
    KappaFace,
    MagFace,
    NormFace,
    Triplet,
    UniFace,
    UniTSFace,
)
from tests.in_numpy import unshard
from tests.losses.conftest import make_data

DEVICES, LOSSES = (
    4,
    {
        "adaface": AdaFace(ema=0.5),
        "curricularface": CurricularFace(decay=0.2),
        "elasticface": ElasticFace(std=0.1),
        "elasticface+": ElasticFacePlus(std=0.1),
        "magface": MagFace(),
        "intra": Intra(),
        "normface": NormFace(learn_scale=True, label_smoothing=0.1),
        "arcface": ArcFace(sub_centers=2, filter_threshold=0.3),
        "triplet": Triplet(),
        "circle": Circle(scale=16.0, label_smoothing=0.1, sub_centers=2),
        "kappaface": KappaFace(decay=0.5),
        "uniface": UniFace(scale=16.0),
        "unitsface": UniTSFace(scale=16.0),
    },
)
RUNS = [
    *(
        (name, mapping, False)
        for name in ("adaface", "curricularface", "elasticface+")
        for mapping in ("vmap", "pmap", "shard_map")
    ),
    *((name, "vmap", False) for name in ("elasticface", "triplet")),
    *((name, "vmap", True) for name in ("magface", "intra", "normface", "arcface", "elasticface+")),
    *(("adaface", mapping, True) for mapping in ("pmap", "shard_map")),
    *((name, "vmap", True) for name in ("circle", "unitsface")),
    *((name, "shard_map", True) for name in ("curricularface", "kappaface", "uniface")),
]


def on_device(loss, axis, split, params, embeddings, labels):
    """(gradients by embeddings and parameters of the sum of these losses, the output)."""
    over = {"axis_name": axis, "num_classes": 5, "chunk": 2} if split else {}
    context = Context(key=jax.random.key(0), axis_name=axis)

    def total(e, params):
        out = loss(params, loss.init_state(5), e, labels, context, **over)
        return out.loss.sum(), out

    return jax.grad(total, argnums=(0, 1), has_aux=True)(embeddings, params)


@pytest.fixture(scope="module")
def problem():
    """Embeddings, labels with one ignored, and the parameters of a loss."""
    embeddings, _, labels = make_data()
    labels = np.where(np.arange(8) == 2, -1, labels)
    params_of = lambda loss: loss.init_params(jax.random.key(1), 5, 6)  # noqa: E731
    return embeddings.astype(np.float32), labels, params_of


@pytest.fixture(scope="module")
def on_one(problem):
    embeddings, labels, params_of = problem

    @functools.cache
    def run(name):
        one = functools.partial(on_device, LOSSES[name], None, False)
        return jax.jit(one)(params_of(LOSSES[name]), embeddings, labels)

    return run


@pytest.mark.parametrize(("name", "mapping", "split"), RUNS)
def test_many_devices_agree_with_one(problem, on_one, name, mapping, split):
    embeddings, labels, params_of = problem
    loss, ((gradient, of_params), out) = LOSSES[name], on_one(name)
    params, one = params_of(loss), functools.partial(on_device, loss, "devices", split)
    if split:
        params["class_weights"] = shard_classes(params["class_weights"], DEVICES)
    if mapping == "shard_map":
        rows, everywhere = PartitionSpec("devices"), PartitionSpec()
        if split:
            flat = params["class_weights"].reshape(-1, *params["class_weights"].shape[2:])
            params["class_weights"] = flat
        specs = dict.fromkeys(params, everywhere)
        specs |= {"class_weights": rows} if split else {}
        mapped = jax.shard_map(  # which checks that the state is the same everywhere
            one,
            mesh=jax.make_mesh((DEVICES,), ("devices",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=(specs, rows, rows),
            out_specs=((rows, specs), type(out)(rows, everywhere, rows, rows)),
        )
        (many_gradient, many_of_params), many = jax.jit(mapped)(params, embeddings, labels)
    else:
        axes = ({key: 0 if split and key == "class_weights" else None for key in params}, 0, 0)
        map_of = {"pmap": jax.pmap, "vmap": lambda *a, **k: jax.jit(jax.vmap(*a, **k))}[mapping]
        (many_gradient, many_of_params), many = map_of(one, in_axes=axes, axis_name="devices")(
            params, embeddings.reshape(DEVICES, 2, 6), labels.reshape(DEVICES, 2)
        )
    np.testing.assert_allclose(many_gradient.reshape(8, 6), gradient, rtol=1e-3, atol=1e-4)
    for key, wanted in of_params.items():
        found = many_of_params[key]
        if split and key == "class_weights":
            found = unshard(found.reshape(DEVICES, 2, *wanted.shape[1:]), 5)
        elif mapping != "shard_map":
            found = found.sum(axis=0)
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=2e-3)
    np.testing.assert_allclose(many.loss.reshape(8), out.loss, rtol=1e-4, atol=1e-5)
    for everywhere, once in zip(
        jax.tree.leaves(many.state), jax.tree.leaves(out.state), strict=True
    ):
        np.testing.assert_allclose(everywhere, np.full(np.shape(everywhere), once), rtol=1e-5)
    if name != "triplet":  # whose positives are those on the device
        np.testing.assert_allclose(many.target_cosine.reshape(8), out.target_cosine, atol=1e-5)
        np.testing.assert_array_equal(many.hit.reshape(8), out.hit)
