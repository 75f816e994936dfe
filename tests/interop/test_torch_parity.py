"""Every imported network computes, layer by layer and in its gradients, what the PyTorch
network computes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.torch import export_state_dict, model_from_state_dict
from arcface_jax.interop.torch_keys import naming_of

torch = pytest.importorskip("torch")

from tests.devices import DEFAULT_ROUNDOFF, roundoff  # noqa: E402
from tests.interop import torch_networks as networks  # noqa: E402 (needs torch)

# On a GPU convolutions round their factors to TF32, layer after layer.
TOLERANCE = max(1e-5, 32 * roundoff(DEFAULT_ROUNDOFF))
# A gradient has been through the layers twice, and some are sums that nearly cancel.
GRADIENT_TOLERANCE = max(1e-5, 128 * roundoff(DEFAULT_ROUNDOFF))
# Network, image size, the prefix and project its checkpoints have.
CASES = {
    "arcface_torch": (networks.IResNet, (32, 32), "", None),
    "elasticface": (
        functools.partial(networks.IResNet, width=8, squeeze=4),
        (32, 32),
        "",
        "elasticface",
    ),
    "magface": (
        functools.partial(networks.IResNet, epsilon=2e-5),
        (32, 32),
        "features.module.",
        None,
    ),
    "adaface": (networks.Ir, (32, 32), "model.", None),
    "curricularface": (functools.partial(networks.Ir, inner_norm=False), (32, 32), "", None),
    "curricularface se": (
        functools.partial(networks.Ir, blocks=(1, 1, 1, 1), width=8, inner_norm=False, squeeze=4),
        (32, 32),
        "",
        None,
    ),
    "mobilefacenet": (networks.MobileFaceNet, (32, 48), "", None),
    "mbf": (networks.Mbf, (32, 32), "", None),
    "mbf_large": (
        functools.partial(networks.Mbf, blocks=(2, 1, 1, 1), scale=4),
        (32, 32),
        "module.",
        None,
    ),
    "vit": (networks.Vit, (30, 30), "", None),
}


def arrays(network, prefix=""):
    return {prefix + key: value.numpy().copy() for key, value in network.state_dict().items()}


@functools.cache
def pair(name):
    """(PyTorch network, imported model, images [N, H, W, 3])."""
    build, size, prefix, project = CASES[name]
    network = networks.randomise(build())
    model = model_from_state_dict(arrays(network, prefix), project)
    images = np.random.default_rng(0).normal(size=(3, *size, 3)).astype(np.float32)
    return network, model, images


def relative_difference(ours, theirs):
    return np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max()


def nchw(images):
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


@functools.cache
def computed(name):
    """((total, embeddings and intermediates), gradients by parameters and images) of Σ
    embeddings · weights.
    """
    _, model, images = pair(name)

    def total(params, images):
        variables = {**model.variables, "params": params}
        embeddings, state = model.backbone.apply(
            variables, images, capture_intermediates=True, mutable=["intermediates"]
        )
        return jnp.sum(embeddings * weights_of(model)), (embeddings, state["intermediates"])

    return jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(
        model.variables["params"], images
    )


def weights_of(model):
    return np.random.default_rng(1).normal(size=(3, model.embedding_size)).astype(np.float32)


@pytest.mark.accelerator
@pytest.mark.parametrize("name", CASES)
def test_every_layer_agrees(name):
    network, model, images = pair(name)
    theirs = {}
    hooks = [
        module.register_forward_hook(
            lambda _, __, output, key=key: theirs.__setitem__(key, output.detach().numpy())
        )
        for key, module in network.named_modules()
    ]
    expected = network(nchw(images)).detach().numpy()
    for hook in hooks:
        hook.remove()
    (_, (embeddings, intermediates)), _ = computed(name)
    assert relative_difference(embeddings, expected) <= TOLERANCE
    naming, compared = naming_of(model.backbone), set()
    for path, value in jax.tree_util.tree_leaves_with_path(intermediates):
        modules = [key.key for key in path if hasattr(key, "key") and key.key != "__call__"]
        if not modules or modules == ["features", "norm"]:
            continue
        try:
            key = naming(modules)
        except (KeyError, IndexError):  # a group of layers that PyTorch has no module for
            continue
        if key in theirs:
            output = theirs[key].transpose(0, 2, 3, 1) if theirs[key].ndim == 4 else theirs[key]
            assert (
                relative_difference(np.asarray(value).reshape(output.shape), output) <= TOLERANCE
            ), key
            compared.add(key)
    layers = {key.rpartition(".")[0] for key in arrays(network)} - {""}
    assert layers <= compared


@pytest.mark.accelerator
@pytest.mark.parametrize("name", CASES)
def test_gradients_agree(name):
    network, model, images = pair(name)
    inputs = nchw(images).requires_grad_()
    network.zero_grad()
    (network(inputs) * torch.from_numpy(weights_of(model))).sum().backward()
    _, (gradients, by_image) = computed(name)
    by_theirs = inputs.grad.numpy().transpose(0, 2, 3, 1)
    assert relative_difference(by_image, by_theirs) <= GRADIENT_TOLERANCE
    ours = export_state_dict(
        TrainedModel(model.backbone, {"params": gradients}, model.pixels, model.image_size, "")
    )
    for key, parameter in network.named_parameters():
        if key == "mask_token" or (
            key == "features.weight" and name in ("arcface_torch", "elasticface", "magface")
        ):
            assert not np.any(ours[key])  # not used in evaluation; frozen
        else:
            assert relative_difference(ours[key], parameter.grad.numpy()) <= GRADIENT_TOLERANCE, key


@pytest.mark.parametrize("name", CASES)
def test_export_gives_the_same_bits_back(name):
    network, model, _ = pair(name)
    original, exported = arrays(network), export_state_dict(model)
    assert exported.keys() == original.keys()
    for key, value in original.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
        assert exported[key].dtype == value.dtype
    again = model_from_state_dict(exported, model.source)
    jax.tree.map(np.testing.assert_array_equal, dict(again.variables), dict(model.variables))
    assert again.backbone == model.backbone
