"""A network of every kind as a Linen module, with the weights that it comes with."""

import types

import equinox
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from arcface_jax.errors import InputError
from arcface_jax.interop.quantise import quantise
from arcface_jax.models.any_network import Adapted, as_linen, brings_weights
from arcface_jax.models.layer_order import depths
from arcface_jax.models.layers import generalised_mean
from tests.models import own_nets

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)
WITH_STATISTICS = {
    "trained_linen": lambda: own_nets.trained_linen(8, KEY),
    "NnxNet": lambda: own_nets.NnxNet(rngs=nnx.Rngs(0)),
    "equinox_net": lambda: own_nets.equinox_net(8, KEY),
    "function_with_statistics": lambda: own_nets.function_with_statistics(8, KEY),
}
WITHOUT = {
    "PlainEquinoxNet": lambda: own_nets.PlainEquinoxNet(key=KEY),
    "function_pair": lambda: own_nets.function_pair(8, KEY),
}


def own_embeddings(network):
    """What a network in use makes of the images, by its own library."""
    if isinstance(network, nnx.Module):
        network.eval()
        return network(IMAGES)
    if isinstance(network, equinox.Module):
        return network(IMAGES)
    first, *rest = network
    if isinstance(first, nn.Module):
        return first.apply(*rest, IMAGES)
    if isinstance(first, equinox.Module):
        return equinox.nn.inference_mode(first)(IMAGES, *rest, key=KEY)[0]
    found = first(*rest, IMAGES, **({"train": False, "key": KEY} if len(rest) > 1 else {}))
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    "make", (WITH_STATISTICS | WITHOUT).values(), ids=WITH_STATISTICS | WITHOUT
)
def test_it_starts_from_its_own_weights_and_embeds_as_by_its_own_library(make):
    network = make()
    module = as_linen(network)
    variables = module.init(jax.random.key(9), IMAGES)
    floating = [leaf for leaf in jax.tree.leaves(variables) if leaf.dtype.kind == "f"]
    assert {leaf.dtype.name for leaf in floating} == {"float32"}
    np.testing.assert_allclose(
        module.apply(variables, IMAGES), own_embeddings(network), rtol=2e-2, atol=1e-5
    )  # the function multiplies in bfloat16 itself
    again = as_linen(make()).init(jax.random.key(10), IMAGES)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


@pytest.mark.parametrize("make", WITH_STATISTICS.values(), ids=WITH_STATISTICS)
def test_training_has_dropout_and_moves_the_statistics(make):
    module = as_linen(make())
    variables = module.init(KEY, IMAGES)

    def trained(seed):
        given = {
            "train": True,
            "mutable": ["batch_stats"],
            "rngs": {"dropout": jax.random.key(seed)},
        }
        return module.apply(variables, IMAGES, **given)

    (one, new), (same, _), (other, _) = trained(1), trained(1), trained(2)
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other)
    before, after = variables["batch_stats"], new["batch_stats"]
    assert jax.tree.structure(before) == jax.tree.structure(after)
    types = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (before, after)]
    assert types[0] == types[1]
    assert not any(map(np.array_equal, jax.tree.leaves(before), jax.tree.leaves(after)))


def test_paths_are_names_and_a_network_is_a_part_of_another():
    trunk = as_linen(own_nets.NnxNet(rngs=nnx.Rngs(0)))
    assert trunk.kind == "NnxNet"

    class Net(nn.Module):
        trunk: nn.Module

        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(3)(self.trunk(images, train))

    params = jax.eval_shape(Net(trunk).init, KEY, IMAGES)["params"]
    assert sorted(params) == ["Dense_0", "trunk"]
    assert params["trunk"]["first"]["0"]["kernel"].shape == (5, 8)
    assert brings_weights(Net(trunk))
    assert not brings_weights(Net(own_nets.LinenNet()))
    plain = own_nets.LinenNet()
    assert as_linen(plain) is plain


def test_frozen_weights_are_no_parameters_and_stay():
    trunk = as_linen(own_nets.equinox_net(8, KEY), frozen=True)
    variables = trunk.init(KEY, IMAGES)
    assert set(variables) == {"batch_stats"}
    given = {"train": True, "mutable": ["batch_stats"], "rngs": {"dropout": KEY}}
    features, new = trunk.apply(variables, IMAGES, **given)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], variables["batch_stats"])
    np.testing.assert_allclose(features, own_embeddings(own_nets.equinox_net(8, KEY)), atol=1e-5)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (3, "int is no network; give a flax"),
        (None, "NoneType is no network"),
        (jnp.mean, "is no network"),
        ((jnp.mean,), "is no network"),
        ((3, {}), "int is no network"),
        ((own_nets.LinenNet(), {"kernel": 1}), "variables of a Linen module are params and batch"),
        ((own_nets.LinenNet(), {"params": {}, "cache": {}}), "variables of a Linen module"),
        ((own_nets.PlainEquinoxNet(key=KEY), 1, 2), "is no network"),
        ((lambda params, images: images, {"a/b": np.ones(2), "a.b": np.ones(2)}), "have one name"),
        (types.SimpleNamespace(apply=1), "SimpleNamespace is no network"),
    ],
)
def test_what_is_no_network_is_said_in_one_line(network, message):
    with pytest.raises(InputError, match=message) as caught:
        as_linen(network)
    assert "\n" not in str(caught.value)


def test_smaller_weights_need_kernels():
    variables = as_linen(own_nets.PlainEquinoxNet(key=KEY)).init(KEY, IMAGES)
    with pytest.raises(InputError, match="weights int8: is for arrays called kernel"):
        quantise(variables, "int8")


class Deep(nn.Module):
    """Its names are in the wrong order."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(4, (2, 2), name="z")(images)
        x = nn.BatchNorm(use_running_average=True, name="a")(x).reshape(len(x), -1)
        return nn.Dense(3, name="c")(nn.Dense(2, name="y")(x))


def cast_and_looped(params, images):
    """All is cast at first, two matrices are stacked in a loop, one is not used."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    x = jax.jit(lambda x: x @ half["z"] + half["bias"])(images.mean((1, 2)))
    x = jax.lax.scan(lambda x, matrix: (x @ matrix, None), x, half["y"])[0]
    return x @ half["a"]


LOOPED = {"z": (3, 2), "bias": (2,), "y": (2, 2, 2), "a": (2, 8), "unused": (4, 4)}


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (Deep(), {"z": 0, "a": 0, "y": 0.5, "c": 1}),
        (WITH_STATISTICS["NnxNet"](), {"zeroth": 0, "first": 1, "norm": 1}),
        (WITH_STATISTICS["equinox_net"](), {"zeroth": 0, "first": 1, "norm": 1}),
        (
            (cast_and_looped, {name: np.ones(shape) for name, shape in LOOPED.items()}),
            {"z": 0, "bias": 0, "y": 0.5, "a": 1, "unused": 1},
        ),
    ],
)
def test_the_depth_of_a_layer_is_its_place_in_the_computation(network, expected):
    module = as_linen(network)
    variables = jax.eval_shape(module.init, KEY, IMAGES)

    def apply(params, images, statistics):
        return module.apply({"params": params, "batch_stats": statistics}, images)

    found = depths(apply, variables["params"], IMAGES, variables.get("batch_stats", {}))
    for name, depth in expected.items():
        assert set(jax.tree.leaves(found[name])) == {depth}
    assert found.keys() == expected.keys()


def test_generalised_mean_by_hand():
    x = jnp.asarray([[[[1.0, 2.0], [2.0, -9.0]]]])  # one row of two pixels
    by_hand = [[((1 + 8) / 2) ** (1 / 3), (8 / 2) ** (1 / 3)]]
    np.testing.assert_allclose(generalised_mean(x), by_hand, rtol=1e-5)
    np.testing.assert_allclose(generalised_mean(x[0], 1.0), [[1.5, 1.0]], rtol=1e-5)
    assert np.isfinite(jax.grad(lambda x: generalised_mean(x).sum())(jnp.zeros((1, 3, 2)))).all()


def test_adapted_is_what_it_says():
    assert isinstance(as_linen(WITHOUT["function_pair"]()), Adapted)
