"""Trains a head kept, and multiplied, in float32 and bfloat16, over seeds: does bfloat16 train as
well?
"""

import dataclasses
import functools
import pathlib
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.commands.command import Count, Range, table_of
from arcface_jax.figures.benchmark import loss_by_storage
from arcface_jax.heads.fused import HeadState, RowSgd, fused_head_step, init_head

from .report import BenchmarkOptions, Report, ratio_of_rounds

STORAGES = {
    "float32": (jnp.float32, False, "highest"),
    "bfloat16, to nearest": (jnp.bfloat16, False, "highest"),
    "bfloat16, at random": (jnp.bfloat16, True, "highest"),
    "float32, products in tf32": (jnp.float32, False, "tf32"),
    "float32, products in bfloat16": (jnp.float32, False, "bfloat16"),
    "bfloat16, at random, products in bfloat16": (jnp.bfloat16, True, "bfloat16"),
}
"""What weights and momentum are kept in, whether they are rounded at random, and the precision of
the products.
"""


@dataclasses.dataclass(frozen=True)
class StorageBenchmark(BenchmarkOptions):
    """A head alone, learning noisy clusters on a sphere by SGD with momentum."""

    classes: Count = 2000
    """Identities of the head, C."""
    dim: Count = 64
    """Length of the embeddings, D."""
    batch: Count = 256
    """Images of a step, N."""
    steps: Count = 600
    """Steps of a run."""
    seeds: Count = 5
    """Runs of each kind."""
    learning_rate: Annotated[float, Range(0.0)] = 0.1
    """At the first step."""
    noise: Annotated[float, Range(0.0)] = 0.7
    """Standard deviation of an embedding's noise in each dimension, the centres' being 1."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-storage")
    """Folder for records.json and the pictures."""


@functools.partial(jax.jit, static_argnums=(0, 1))
def losses_of_a_run(config: StorageBenchmark, storage: str, seed: jax.Array) -> jax.Array:
    """Mean loss of every step, [steps]. The data depend on the seed alone."""
    dtype, at_random, precision = STORAGES[storage]
    keys = jax.random.split(jax.random.key(seed), 3)
    centres = jax.random.normal(keys[0], (config.classes, config.dim))
    state = init_head(0.1 * jax.random.normal(keys[1], centres.shape), RowSgd(), dtype=dtype)

    def step(state: HeadState, number: jax.Array) -> tuple[HeadState, jax.Array]:
        which, noise, rounding = jax.random.split(jax.random.fold_in(keys[2], number), 3)
        labels = jax.random.randint(which, (config.batch,), 0, config.classes)
        embeddings = centres[labels] + config.noise * jax.random.normal(
            noise, (config.batch, config.dim)
        )
        rate = config.learning_rate * (1.0 - number / config.steps)
        key = rounding if at_random else None
        step = fused_head_step(
            state, embeddings, labels, rate, rounding_key=key, precision=precision
        )
        return step.state, step.loss.mean()

    return jax.lax.scan(step, state, jnp.arange(config.steps))[1]


def run_storage_benchmark(config: StorageBenchmark) -> int:
    """Trains, prints the last tenth's loss, draws the curves; a round is a seed."""
    report = Report("head-storage", config)
    curves = {}
    with report.work("Training", len(STORAGES) * config.seeds) as move:
        for storage in STORAGES:
            runs = []
            for seed in range(config.seeds):
                move(0, f"{storage}, seed {seed}")
                runs.append(np.asarray(losses_of_a_run(config, storage, seed)))
                move(1)
            curves[storage] = np.stack(runs)
    tenth = config.steps // 10
    last = {storage: values[:, -tenth:].mean(axis=1) for storage, values in curves.items()}
    rows = []
    for storage, values in last.items():
        difference = f"{(values - last['float32']).mean():+.4f}"
        rows.append((storage, f"{values.mean():.4f}", f"{values.std():.4f}", difference))
        about = {"kept_in": storage, "classes": config.classes, "steps": config.steps}
        report.add({**about, "loss": values.tolist()})
    title = f"Mean loss of the last tenth of {config.steps} steps, {config.seeds} seeds"
    header = ("kept in", "mean", "standard deviation", "mean difference to float32, same seed")
    report.console.print(table_of(header, rows, title=title))
    report.draw(loss_by_storage(curves), "loss_by_storage")
    sizes = f"C = {config.classes:,}, N = {config.batch}, {config.steps} steps"
    exact = last["float32"].tolist()
    ratios = {
        f"{sizes}: loss in float32 / in {storage}": ratio_of_rounds(exact, values.tolist())
        for storage, values in last.items()
        if storage != "float32"
    }
    return report.finish(ratios, "ratio of losses")
