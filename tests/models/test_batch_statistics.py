import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.models import registry
from arcface_jax.models.batch_statistics import with_statistics


class TwoNorms(nn.Module):
    """Small enough to follow by hand: BN – dense – BN."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.BatchNorm(use_running_average=not train, name="first")(x)
        x = nn.Dense(4, name="dense")(jnp.mean(x, (1, 2)))
        return nn.BatchNorm(use_running_average=not train, name="second")(x)


def test_each_layers_input_is_measured_and_the_embedding_is_unchanged():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(2.0, 3.0, (6, 5, 5, 3)), jnp.float32)
    network = TwoNorms()
    variables = network.init(jax.random.key(0), images)
    running = jax.tree.map(
        lambda x: jnp.asarray(rng.uniform(0.5, 2.0, x.shape), jnp.float32), variables["batch_stats"]
    )
    variables = {"params": variables["params"], "batch_stats": running}
    embeddings, layers = jax.jit(with_statistics(network, variables))(images)
    np.testing.assert_allclose(embeddings, network.apply(variables, images), rtol=1e-5)
    normalised = (np.asarray(images) - running["first"]["mean"]) / np.sqrt(
        running["first"]["var"] + 1e-5
    )
    dense = variables["params"]["dense"]
    inputs = [
        np.asarray(images).reshape(-1, 3),
        normalised.mean((1, 2)) @ dense["kernel"] + dense["bias"],
    ]
    for name, seen, layer in zip(("first", "second"), inputs, layers, strict=True):
        np.testing.assert_allclose(layer.mean, seen.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.variance, seen.var(0), rtol=1e-4)
        np.testing.assert_allclose(layer.running_mean, running[name]["mean"])
        np.testing.assert_allclose(layer.running_variance, running[name]["var"])


@pytest.mark.parametrize("name", ["iresnet18", "mobilefacenet", "mbf", "resnet20", "vit_t"])
def test_every_batch_normalisation_of_a_backbone_is_found(name):
    network = registry.create(name, embedding_size=8, width=8)
    images = jax.ShapeDtypeStruct((2, 112, 112, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: network.init(jax.random.key(0), x), images)
    means = [
        path
        for path, _ in jax.tree.leaves_with_path(variables["batch_stats"])
        if path[-1].key == "mean"
    ]
    _, layers = jax.eval_shape(lambda v, x: with_statistics(network, v)(x), variables, images)
    assert len(layers) == len(means) > 0
