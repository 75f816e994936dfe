"""One optimiser step: for one device, for a mesh of devices under jit, and under pmap."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from arcface_jax.data.augment import Augmentation, augment, example_keys
from arcface_jax.pixels import ARCFACE_TORCH, PixelConvention, normalise
from arcface_jax.training.objective import Objective
from arcface_jax.training.state import TrainState

DATA_AXIS = "data"
"""The mesh and pmap axis over which a batch is split."""

MIRROR_ONLY = Augmentation()
"""The paper's augmentation."""

StepFunction = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    backbone: nn.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    *,
    seed: int,
    augmentation: Augmentation = MIRROR_ONLY,
    pixels: PixelConvention = ARCFACE_TORCH,
    axis_name: str | None = None,
) -> StepFunction:
    """Builds the pure step (state, uint8 images [N, H, W, 3], labels [N]) -> (state, metrics).

    Args:
      backbone: Flax module of `arcface_jax.models`.
      objective: head and loss.
      optimiser: optax transformation over {"backbone", "head"}.
      seed: of the augmentation and of dropout.
      augmentation: what happens to the images, and how often; by default the paper's mirroring.
      pixels: what the backbone expects.
      axis_name: mapped axis that the batch is split over (pmap); gradients, running
        statistics and metrics are then averaged over it. None under jit, where the
        compiler does this from the arrays' sharding.

    Returns: a function to be compiled by `jit_step` or `pmap_step`. Its metrics are
      scalars: loss, accuracy (share of examples whose own class has the highest
      score, before the margin), feature_norm, gradient_norm.
    """

    def step(state: TrainState, images: jax.Array, labels: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        augment_key, dropout_key = jax.random.split(jax.random.key(seed))
        dropout_key = jax.random.fold_in(dropout_key, state.step)
        if axis_name is None:
            keys = example_keys(augment_key, state.step, images.shape[0])
        else:
            # The keys of the global batch's rows, so that an example fares the same however the batch is split.
            shard, shards = jax.lax.axis_index(axis_name), jax.lax.psum(1, axis_name)
            all_keys = example_keys(augment_key, state.step, images.shape[0] * shards)
            keys = jax.lax.dynamic_slice_in_dim(all_keys, shard * images.shape[0], images.shape[0])
            dropout_key = jax.random.fold_in(dropout_key, shard)
        images = augment(images, keys, augmentation)
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
