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
from arcface_jax.losses import ArcFace
from arcface_jax.models import registry
from arcface_jax.models.apply import linen_apply
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.schedules import sgd
from arcface_jax.training.state import TrainState, initial_state
from arcface_jax.training.step import make_step

from .measured_process import serve

OURS, TORCH = "arcface-jax", "torch"

TORCH_WIDTH = 16
"""Fewest channels of the first stage that PyTorch can be given: oneDNN's strided 1×1 convolution
writes beyond its memory where the input, channels last, has less than a block of them
(github.com/uxlfoundation/oneDNN/issues/6035).
"""


def jax_step(
    network: str,
    image: int,
    width: int,
    batch: int,
    dim: int,
    classes: int,
    *,
    dtype: Any = jnp.float32,
    head: HeadConfig = HeadConfig(),
) -> tuple[Callable[[], jax.Array], Any]:
    """(takes a step on the same images and gives the loss, the plan of its memory).

    It is the step of the command train: its metrics, its check for bad steps, its schedule.
    """
    backbone = registry.create(network, width=width, embedding_size=dim, dtype=dtype)
    schedule, loss = optax.constant_schedule(0.1), ArcFace()
    optimiser = sgd(schedule, decay="all")
    images = jax.random.normal(jax.random.key(0), (batch, image, image, 3))
    labels, key = jnp.arange(batch) % classes, jax.random.key(1)

    @jax.jit
    def create() -> TrainState:
        variables = backbone.init(key, images[:1])
        sizes: Any = {"num_classes": classes, "embedding_size": dim}
        return initial_state(variables, loss, optimiser, key, **sizes)

    step = make_step(linen_apply(backbone), loss, optimiser, head=head, schedule=schedule)
    held = {"state": create()}
    program = jax.jit(step, donate_argnums=0).lower(held["state"], key, images, labels)
    compiled = program.compile()

    def take() -> jax.Array:
        held["state"], metrics = compiled(held.pop("state"), key, images, labels)
        return metrics["loss"]

    return take, compiled.memory_analysis()


def measure(
    case: str, depth: int, image: int, width: int, batch: int, dim: int, classes: int, steps: int
) -> dict[str, Any]:
    """Seconds of each step after two, and what it took to get there."""
    start, temporary = time.perf_counter(), None
    step: Callable[[], Any]
    if case == OURS:
        step, plan = jax_step(f"iresnet{depth}", image, width, batch, dim, classes)
        temporary = 0 if plan is None else plan.temp_size_in_bytes
    else:
        try:
            from .torch_step import torch_network, torch_step
        except ImportError as error:
            raise InputError(
                "torch is not installed; install it, or measure arcface-jax alone"
            ) from error
        network = torch_network(f"iresnet{depth}", width, dim, image)
        step = torch_step(network, dim, image, batch, classes)
    first_loss = float(step())
    ready = time.perf_counter() - start
    float(step())
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        float(step())
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
