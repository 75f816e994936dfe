"""A small network trained in seconds: what the studies of analysis use where no trained model is
given.

It is no recipe to train a model to keep; that is the command train.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax.data.augment import Augmentation, augment, example_keys
from arcface_jax.interop.model import TrainedModel
from arcface_jax.losses import margin_softmax_loss, softmax_loss
from arcface_jax.margins import arcface
from arcface_jax.models.iresnet import IResNet
from arcface_jax.pixels import ARCFACE_TORCH, normalise
from arcface_jax.training.schedules import sgd


@dataclasses.dataclass(frozen=True)
class SmallRecipe:
    """How the small network is trained, by momentum SGD along a half cosine.

    The margin, ArcFace's m in radians, is reached half-way, for a full margin at the start scatters
    classes that are not yet told apart; 0 is softmax on the sphere, None plain softmax with bias.
    """

    embedding_size: int
    margin: float | None = 0.5
    scale: float = 16.0
    steps: int = 800
    batch_size: int = 64
    learning_rate: float = 0.02

    @property
    def backbone(self) -> IResNet:
        """Three residual blocks behind a stem that halves the resolution twice, as suits a CPU."""
        return IResNet((1, 1, 1), self.embedding_size, width=16, stem="conv7")

    @property
    def optimiser(self) -> optax.GradientTransformation:
        """Momentum SGD with weight decay; clipped, since a margin makes single steps large."""
        rate = optax.cosine_decay_schedule(self.learning_rate, self.steps)
        return optax.chain(optax.clip_by_global_norm(5.0), sgd(rate, decay="all"))


def train_small(
    images: np.ndarray,
    labels: np.ndarray,
    recipe: SmallRecipe,
    seed: int,
    on_step: Callable[[int], None] | None = None,
) -> TrainedModel:
    """Trains on uint8 RGB images [N, H, W, 3] with labels in 0 … C − 1, mirrored at random.

    In two dimensions the class weights start evenly around the circle: there classes cannot pass
    one another, and where a random start crowds them they stay crowded.
    """
    num_classes = int(labels.max()) + 1
    batch_size = min(recipe.batch_size, len(images))
    to_network, to_head, to_data = jax.random.split(jax.random.key(seed), 3)
    backbone = recipe.backbone
    variables = _initialise(backbone, to_network, jnp.zeros((1, *images.shape[1:]), jnp.float32))
    weights = jax.random.normal(to_head, (num_classes, recipe.embedding_size))
    if recipe.embedding_size == 2:
        directions = 2 * np.pi * np.arange(num_classes) / num_classes
        weights = jnp.stack([jnp.cos(directions), jnp.sin(directions)], axis=1)
    bias = jnp.zeros(num_classes)
    params = {"backbone": variables["params"], "class_weights": weights, "bias": bias}
    statistics, state = variables["batch_stats"], recipe.optimiser.init(params)
    rng = np.random.default_rng(seed)
    update = _make_update(
        recipe if recipe.margin is None else dataclasses.replace(recipe, margin=0.0)
    )
    for step in range(recipe.steps):
        chosen = rng.choice(len(images), batch_size, replace=False)
        batch = augment(
            jnp.asarray(images[chosen]), example_keys(to_data, step, batch_size), Augmentation()
        )
        margin = (recipe.margin or 0.0) * min(1.0, 2 * step / recipe.steps)
        params, statistics, state = update(
            params, statistics, state, batch, jnp.asarray(labels[chosen]), margin
        )
        if on_step is not None:
            on_step(step)
    trained = {"params": params["backbone"], "batch_stats": statistics}
    height, width = images.shape[1:3]
    class_weights = np.asarray(params["class_weights"])
    name = f"small model, seed {seed}"
    return TrainedModel(backbone, trained, ARCFACE_TORCH, (height, width), name, class_weights)


@functools.partial(jax.jit, static_argnums=0)
def _initialise(backbone: nn.Module, key: jax.Array, images: jax.Array) -> Any:
    return backbone.init(key, images)


@functools.cache
def _make_update(recipe: SmallRecipe) -> Callable[..., Any]:
    """One step of SGD, compiled once for all seeds and margins: the margin is an argument of
    the step.
    """
    backbone: nn.Module = recipe.backbone

    def update(
        params: Any, statistics: Any, state: Any, images: jax.Array, labels: jax.Array, margin: Any
    ) -> Any:
        def loss(params: Any) -> tuple[jax.Array, Any]:
            embeddings, changed = backbone.apply(
                {"params": params["backbone"], "batch_stats": statistics},
                normalise(images),
                train=True,
                mutable=["batch_stats"],
            )
            weights = params["class_weights"]
            if recipe.margin is None:
                losses = softmax_loss(embeddings, weights, params["bias"], labels)
            else:
                losses = margin_softmax_loss(
                    embeddings, weights, labels, psi=arcface(margin), scale=recipe.scale
                )
            return jnp.mean(losses), changed["batch_stats"]

        gradient, changed = jax.grad(loss, has_aux=True)(params)
        change, next_state = recipe.optimiser.update(gradient, state, params)
        return optax.apply_updates(params, change), changed, next_state

    return jax.jit(update)
