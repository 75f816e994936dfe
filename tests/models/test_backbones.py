"""What every registered backbone must do, at a small size."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from arcface_jax.errors import InputError
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mbf import ArcFaceTorchMobileFaceNet
from arcface_jax.models.mobilefacenet import Bottlenecks, MobileFaceNet
from arcface_jax.models.resnet import ResNet
from arcface_jax.models.vit import VisionTransformer

# One or two blocks of every kind of network: all that is computed, but the depth.
SMALL = {
    "iresnet": functools.partial(IResNet, (1, 1), width=8),
    "iresnet variant": functools.partial(
        IResNet,
        (1, 1),
        width=16,
        stem="conv7",
        output="C",
        squeeze=16,
        shortcut="subsampled",
        inner_norm=False,
    ),
    "resnet": functools.partial(ResNet, 1, width=32),
    "mobilefacenet": functools.partial(
        MobileFaceNet, width=16, bottlenecks=(Bottlenecks(2, 64, 2, 2),)
    ),
    "mbf": functools.partial(ArcFaceTorchMobileFaceNet, (1, 0, 1, 0), width=16),
    "vit": functools.partial(VisionTransformer, 32, 2),
}
SIZE, EMBEDDING = 18, 16


IMAGES = np.random.default_rng(1).normal(size=(16, SIZE, SIZE, 3)).astype(np.float32)
LABELS = np.arange(16) % 4


@functools.cache
def small(name, dtype="float32", **options):
    return SMALL[name](embedding_size=EMBEDDING, dtype=jnp.dtype(dtype), **options)


@functools.cache
def initial(name):
    images = np.zeros((1, SIZE, SIZE, 3), np.float32)
    return jax.device_get(jax.jit(small(name).init)(jax.random.key(0), images))


@functools.cache
def trained(name, dtype, remat=False):
    """A step on two devices: (parameters, statistics, gradients) of each and all embeddings."""
    devices, axis = 2, "data"
    model, variables = small(name, dtype, axis_name=axis, remat=remat), initial(name)
    optimiser = optax.sgd(0.02)
    weights = np.random.default_rng(3).normal(size=(4, EMBEDDING)).astype(np.float32)

    def step(params, stats, images, labels):
        def loss(params):
            variables, rngs = (
                {"params": params, "batch_stats": stats},
                {"dropout": jax.random.key(5)},
            )
            embeddings, updates = model.apply(
                variables, images, True, mutable=["batch_stats"], rngs=rngs
            )
            return jnp.mean(margin_softmax_loss(embeddings, weights, labels, scale=8.0)), (
                updates["batch_stats"],
                embeddings,
            )

        gradients, (stats, embeddings) = jax.grad(loss, has_aux=True)(params)
        gradients = jax.lax.pmean(gradients, axis)
        changes, _ = optimiser.update(gradients, optimiser.init(params))
        return optax.apply_updates(params, changes), stats, gradients, embeddings

    images, labels = (rows.reshape(devices, -1, *rows.shape[1:]) for rows in (IMAGES, LABELS))
    pmapped = jax.pmap(
        step, axis_name=axis, in_axes=(None, None, 0, 0), devices=jax.devices()[:devices]
    )
    *results, embeddings = jax.device_get(
        pmapped(variables["params"], variables["batch_stats"], images, labels)
    )
    return *results, embeddings.reshape(16, EMBEDDING)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float32") for name in SMALL),
        # In layers that the others have too.
        *(
            pytest.param(name, "bfloat16", marks=pytest.mark.slow)
            for name in ("iresnet variant", "mobilefacenet", "vit")
        ),
    ],
)
def test_takes_a_training_step_under_pmap(name, dtype):
    """Initial embeddings have unit variance over the whole batch.

    Both devices end with the same state, float32 and finite, and no trainable parameter is left
    without gradient.
    """
    params, stats, gradients, embeddings = trained(name, dtype)
    np.testing.assert_allclose(embeddings.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(embeddings.var(0), 1, rtol=0.05)
    for leaf in jax.tree.leaves((params, stats)):
        assert leaf.dtype == np.float32
        assert np.all(np.isfinite(leaf))
        np.testing.assert_array_equal(leaf[0], leaf[1])
    still = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)
        if not np.any(leaf[0]) and "frozen_scale" not in jax.tree_util.keystr(path)
    ]
    assert not still


@pytest.mark.parametrize(
    "name",
    ["iresnet18", "se_iresnet18", "iresnet50a", "resnet20", "mobilefacenet", "mbf_large", "vit_t"],
)
def test_width_scales_every_registered_backbone(name):
    def count(width: int) -> int:
        size = width * 8 if name == "iresnet50a" else 16  # its embedding is the last stage
        return registry.count_parameters(
            registry.create(name, width=width, embedding_size=size), 32
        )

    assert count(16) < 0.45 * count(32)


@pytest.mark.parametrize("name", SMALL)
def test_images_need_not_be_square(name):
    shape = jax.eval_shape(
        lambda: small(name).init_with_output(jax.random.key(0), jnp.zeros((3, 48, 40, 3)))[0]
    )
    assert shape.shape == (3, EMBEDDING)
    assert shape.dtype == jnp.float32


def test_vit_masks_tokens_and_leaves_out_branches_in_training_only():
    model = SMALL["vit"](embedding_size=EMBEDDING)
    images, variables = IMAGES[:4], initial("vit")

    def embed(**options):
        """In training with one key and with another, and in use."""
        own = model.clone(**options)

        @jax.jit
        def train(key):
            rngs = {"dropout": key}
            return own.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)[0]

        in_use = jax.jit(own.apply)(variables, images)
        return *map(train, jax.random.split(jax.random.key(0))), in_use

    *plain, plain_in_use = embed(mask_ratio=0.0, drop_path=0.0)
    np.testing.assert_array_equal(*plain)
    for option in ({"mask_ratio": 0.3, "drop_path": 0.0}, {"mask_ratio": 0.0, "drop_path": 0.5}):
        *random, in_use = embed(**option)
        assert not np.allclose(*random)
        np.testing.assert_array_equal(in_use, plain_in_use)


def test_vit_puts_the_mask_token_where_a_token_was_left_out():
    """Without blocks, what reaches the first FC is each token's normalisation, or the mask
    token, in its place.
    """
    model = VisionTransformer(8, 0, embedding_size=4, mask_ratio=0.5)
    images = np.random.default_rng(0).normal(size=(3, 36, 27, 3)).astype(np.float32)

    @jax.jit
    def tokens():
        """Without a mask and with it; and the mask token."""
        seen = []

        def spy(next_fun, args, kwargs, context):
            if context.module.name == "feature_fc1":
                seen.append(args[0].reshape(3, 12, 8))
            return next_fun(*args, **kwargs)

        variables = model.init(jax.random.key(1), images)
        with nn.intercept_methods(spy):
            model.apply(variables, images)
            rngs = {"dropout": jax.random.key(2)}
            model.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)
        return *seen, variables["params"]["mask_token"]

    whole, seen, mask_token = jax.device_get(tokens())
    masked = np.all(seen == mask_token, axis=-1)
    np.testing.assert_array_equal(masked.sum(1), 6)
    assert len({tuple(row) for row in masked}) > 1
    np.testing.assert_allclose(seen[~masked], whole[~masked], rtol=1e-5, atol=1e-6)


def test_vit_names_an_image_smaller_than_a_patch():
    with pytest.raises(InputError, match="8×12 is smaller than a patch of 9×9"):
        VisionTransformer(8, 1).init(jax.random.key(0), jnp.zeros((1, 8, 12, 3)))


@pytest.mark.parametrize("name", [name for name in SMALL if name != "iresnet variant"])
def test_computing_blocks_again_changes_memory_alone(name):
    """remat: the same tree, embeddings, statistics, gradients and update."""
    model, variables = small(name, remat=True), initial(name)
    own = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
    results = map(jax.tree.leaves, (trained(name, "float32"), trained(name, "float32", True)))
    for kept, again in zip(*results, strict=True):
        np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-4 * (1 + np.abs(kept).max()))


@pytest.mark.parametrize(
    "network",
    [
        functools.partial(IResNet, (1, 2), width=16),
        functools.partial(ResNet, 1, width=16),
        functools.partial(MobileFaceNet, width=16, bottlenecks=(Bottlenecks(2, 64, 3, 2),)),
        functools.partial(ArcFaceTorchMobileFaceNet, (2, 0, 1, 0), width=16),
        functools.partial(VisionTransformer, 32, 3),
    ],
    ids=lambda network: network.func.__name__,
)
def test_a_network_that_computes_blocks_again_keeps_less_for_its_gradient(network):
    """What the backward pass takes over from the forward pass; XLA's CPU compiler would merge
    the two again.
    """
    images = jax.ShapeDtypeStruct((16, 64, 64, 3), jnp.float32)
    plain, again = (network(embedding_size=16, remat=remat) for remat in (False, True))
    variables = jax.eval_shape(plain.init, jax.random.key(0), images)

    def kept(model) -> int:
        def embed(variables, images):
            rngs = {"dropout": jax.random.key(0)}
            return model.apply(variables, images, True, mutable=["batch_stats"], rngs=rngs)[0]

        pullback = jax.eval_shape(
            lambda variables, images: jax.vjp(embed, variables, images)[1], variables, images
        )
        return sum(leaf.size for leaf in jax.tree.leaves(pullback)) - sum(
            leaf.size for leaf in jax.tree.leaves(variables)
        )

    assert kept(again) < 0.5 * kept(plain)


def test_a_backbone_that_lacks_a_setting_says_so(monkeypatch):
    def build(embedding_size, width, dropout, dtype, axis_name):
        return small("resnet")

    monkeypatch.setattr(registry, "_BUILDERS", {"own": build})
    assert registry.create("own") is small("resnet")
    with pytest.raises(InputError, match=r"model.remat: 'own' has no such setting; leave it out"):
        registry.create("own", remat=True)
    monkeypatch.undo()
    assert registry.create("iresnet18", remat=True).remat
