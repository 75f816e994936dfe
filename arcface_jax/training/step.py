"""One optimiser step: for one device, for a mesh of devices under jit, and under pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise
from arcface_jax.training.objective import Objective
from arcface_jax.training.state import TrainState

DATA_AXIS = "data"
"""The mesh and pmap axis over which a batch is split."""

StepFunction = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


def flip_at_random(key: jax.Array, images: jax.Array, first_example: int | jax.Array = 0) -> jax.Array:
    """Mirrors each image with probability ½.

    The choice depends on the key and the example's number in the global batch,
    so that it is the same however the batch is split over devices.

    Args:
      key: the step's key.
      images: [N, H, W, channels].
      first_example: number of images[0] in the global batch.
    """
    examples = first_example + jnp.arange(images.shape[0])
    flips = jax.vmap(lambda example: jax.random.bernoulli(jax.random.fold_in(key, example)))(examples)
    return jnp.where(flips[:, None, None, None], images[:, :, ::-1, :], images)


def make_train_step(
    backbone: nn.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    seed: int,
    flip: bool = True,
    pixels: PixelConvention = ARCFACE_TORCH,
    axis_name: str | None = None,
) -> StepFunction:
    """Builds the pure step (state, uint8 images [N, H, W, 3], labels [N]) -> (state, metrics).

    Args:
      backbone: Flax module of `arcface_jax.models`.
      objective: head and loss.
      optimiser: optax transformation over {"backbone", "head"}.
      seed: of the flips and of dropout.
      flip: mirror at random.
      pixels: what the backbone expects.
      axis_name: mapped axis that the batch is split over (pmap); gradients, running
        statistics and metrics are then averaged over it. None under jit, where the
        compiler does this from the arrays' sharding.

    Returns: a function to be compiled by `jit_step` or `pmap_step`. Its metrics are
      scalars: loss, accuracy (share of examples whose own class has the highest
      score, before the margin), feature_norm, gradient_norm.
    """

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        flip_key, dropout_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), state.step))
        if flip:
            shard = 0 if axis_name is None else jax.lax.axis_index(axis_name)
            images = flip_at_random(flip_key, images, shard * images.shape[0])
        if axis_name is not None:
            dropout_key = jax.random.fold_in(dropout_key, jax.lax.axis_index(axis_name))
        inputs = normalise(images, pixels)

        def mean_loss(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
            embeddings, updates = backbone.apply(
                {"params": params["backbone"], "batch_stats": state.batch_stats},
                inputs,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": dropout_key},
            )
            loss = jnp.mean(objective.loss(params["head"], embeddings, labels))
            scores = objective.scores(params["head"], embeddings)
            metrics = {
                "loss": loss,
                "accuracy": jnp.mean(jnp.argmax(scores, axis=-1) == labels),
                "feature_norm": jnp.mean(jnp.linalg.norm(embeddings, axis=-1)),
            }
            return loss, (updates.get("batch_stats", {}), metrics)

        gradients, (batch_stats, metrics) = jax.grad(mean_loss, has_aux=True)(state.params)
        if axis_name is not None:
            gradients, batch_stats, metrics = jax.lax.pmean((gradients, batch_stats, metrics), axis_name)
        updates, optimiser_state = optimiser.update(gradients, state.optimiser_state, state.params)
        metrics["gradient_norm"] = optax.tree.norm(gradients)
        state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            optimiser_state=optimiser_state,
        )
        return state, metrics

    return step


def jit_step(step: StepFunction) -> StepFunction:
    """Compiles a step without `axis_name`. The state's buffers are reused for the new state.

    With the state replicated and the batch sharded over a mesh (see `parallel`)
    this is data parallelism with batch statistics over all devices.
    """
    return jax.jit(step, donate_argnums=0)


def pmap_step(step: StepFunction, devices: Sequence[jax.Device]) -> StepFunction:
    """Compiles a step whose axis_name is DATA_AXIS for `jax.pmap` over `devices`.

    State and metrics have a leading device axis, images and labels are
    [devices, N/devices, …]; the state is donated.
    """
    return jax.pmap(step, axis_name=DATA_AXIS, devices=devices, donate_argnums=0)
