"""One measurement of one training step in a process of its own.

python -m experiments.benchmark.step_cases arcface-jax 18 32 16 64 512 1000 5  (one line of JSON)

The numbers are depth, image side, width, batch, D, C and steps.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from arcface_jax.errors import InputError
from arcface_jax.losses import margin_softmax_loss
from arcface_jax.models import registry
from arcface_jax.models.iresnet import STAGE_BLOCKS
from arcface_jax.training.schedules import sgd

from .measured_process import serve

OURS, TORCH = "arcface-jax", "torch"

TORCH_WIDTH = 16
"""Fewest channels of the first stage that PyTorch can be given: oneDNN's strided 1×1 convolution
writes beyond its memory where the input, channels last, has less than a block of them
(github.com/uxlfoundation/oneDNN/issues/6035).
"""


def jax_step(
    depth: int, image: int, width: int, batch: int, dim: int, classes: int
) -> tuple[Callable[[], float], int]:
    """(takes a step on the same images and gives the loss, temporary bytes as planned)."""
    backbone = registry.create(f"iresnet{depth}", width=width, embedding_size=dim)
    optimiser = sgd(optax.constant_schedule(0.1), decay="all")
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (batch, image, image, 3))
    labels = jnp.arange(batch) % classes

    @jax.jit
    def create() -> Any:
        variables = backbone.init(keys[1], images[:1])
        params = {
            "backbone": variables["params"],
            "head": 0.01 * jax.random.normal(keys[2], (classes, dim)),
        }
        return params, variables["batch_stats"], optimiser.init(params)

    def mean_loss(
        params: Any, batch_stats: Any, images: jax.Array, labels: jax.Array
    ) -> tuple[jax.Array, Any]:
        variables = {"params": params["backbone"], "batch_stats": batch_stats}
        embeddings, updates = backbone.apply(variables, images, train=True, mutable=["batch_stats"])
        return jnp.mean(margin_softmax_loss(embeddings, params["head"], labels)), updates[
            "batch_stats"
        ]

    def step(state: Any, images: jax.Array, labels: jax.Array) -> tuple[Any, jax.Array]:
        params, batch_stats, optimiser_state = state
        (loss, batch_stats), gradients = jax.value_and_grad(mean_loss, has_aux=True)(
            params, batch_stats, images, labels
        )
        updates, optimiser_state = optimiser.update(gradients, optimiser_state, params)
        return (optax.apply_updates(params, updates), batch_stats, optimiser_state), loss

    held = {"state": create()}
    compiled = jax.jit(step, donate_argnums=0).lower(held["state"], images, labels).compile()

    def take() -> float:
        held["state"], loss = compiled(held.pop("state"), images, labels)
        return float(loss)

    planned = compiled.memory_analysis()
    return take, 0 if planned is None else planned.temp_size_in_bytes


def measure(
    case: str, depth: int, image: int, width: int, batch: int, dim: int, classes: int, steps: int
) -> dict[str, Any]:
    """Seconds of each step after two, and what it took to get there."""
    start, temporary = time.perf_counter(), None
    if case == OURS:
        step, temporary = jax_step(depth, image, width, batch, dim, classes)
    else:
        try:
            from .torch_iresnet import torch_step
        except ImportError as error:
            raise InputError(
                "torch is not installed; install it, or measure arcface-jax alone"
            ) from error
        step = torch_step(STAGE_BLOCKS[depth], width, dim, image, batch, classes)
    first_loss = step()
    ready = time.perf_counter() - start
    step()
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return {
        "case": case,
        "depth": depth,
        "image": image,
        "width": width,
        "batch": batch,
        "embedding_size": dim,
        "classes": classes,
        "seconds": times,
        "seconds_until_ready": ready,
        "planned_temporary_mb": None if temporary is None else temporary / 2**20,
        "first_loss": first_loss,
    }


if __name__ == "__main__":
    serve(measure)
