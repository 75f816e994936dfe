"""A small network trained in seconds: what the studies of analysis use where no trained model is
given.

It is no recipe to train a model to keep; that is the command train.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from arcface_jax.data.augment import Augmentation, augment
from arcface_jax.interop.model import TrainedModel
from arcface_jax.losses import ArcFace, Loss, Softmax
from arcface_jax.models.apply import linen_apply
from arcface_jax.models.iresnet import IResNet
from arcface_jax.pixels import ARCFACE_TORCH, normalise
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import TrainState, initial_state
from arcface_jax.training.step import make_step


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
    start, step = _compiled(recipe, num_classes)
    state = start(to_network, to_head, jnp.zeros((1, *images.shape[1:]), jnp.float32))
    rng = np.random.default_rng(seed)
    for number in range(recipe.steps):
        chosen = rng.choice(len(images), batch_size, replace=False)
        state, _ = step(state, to_data, images[chosen], labels[chosen])
        if on_step is not None:
            on_step(number)
    height, width = images.shape[1:3]
    class_weights = np.asarray(state.class_weights)
    name = f"small model, seed {seed}"
    return TrainedModel(
        recipe.backbone,
        state.backbone_variables,
        ARCFACE_TORCH,
        (height, width),
        name,
        class_weights,
    )


@functools.cache
def _compiled(recipe: SmallRecipe, num_classes: int) -> tuple[Callable[..., TrainState], Any]:
    """(the state at step 0 of two keys and an image, the step), compiled once for all seeds."""
    loss: Loss = Softmax()
    if recipe.margin is not None:
        loss = ArcFace(margin=recipe.margin, scale=recipe.scale, margin_warmup=0.5)

    @jax.jit
    def start(to_network: jax.Array, to_head: jax.Array, images: jax.Array) -> TrainState:
        state = initial_state(
            recipe.backbone.init(to_network, images),
            loss,
            recipe.optimiser,
            to_head,
            num_classes=num_classes,
            embedding_size=recipe.embedding_size,
        )
        weights = jax.random.normal(to_head, (num_classes, recipe.embedding_size))
        if recipe.embedding_size == 2:
            directions = 2 * np.pi * np.arange(num_classes) / num_classes
            weights = jnp.stack([jnp.cos(directions), jnp.sin(directions)], axis=1)
        head = {**state.params["head"], "class_weights": weights}
        return dataclasses.replace(state, params={**state.params, "head": head})

    step = make_step(
        linen_apply(recipe.backbone),
        loss,
        recipe.optimiser,
        prepare=lambda images, keys: normalise(augment(images, keys, Augmentation())),
        total_steps=recipe.steps,
    )
    return start, jax.jit(step, donate_argnums=0)
