"""One compilation of one training step in a process of its own, from shapes alone.

python -m experiments.benchmark.compile_cases iresnet18 112 64 512 8 1000  (one line of JSON)

The numbers are image side, width, D, batch and C. Whether XLA's results are kept is JAX's own
setting: JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE.
"""

import dataclasses
import itertools
import time
from typing import Any

from arcface_jax.training.abstract import abstract_program, trace_step
from arcface_jax.training.config import Config
from arcface_jax.training.head_plan import planned_bytes

from .measured_process import serve


def step_config(network: str, image: int, width: int, dim: int, batch: int) -> Config:
    """The default configuration with this network."""
    base = Config()
    return dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, image_size=image),
        model=dataclasses.replace(base.model, name=network, width=width, embedding_size=dim),
        run=dataclasses.replace(base.run, batch_size=batch),
    )


def measure(
    network: str, image: int, width: int, dim: int, batch: int, classes: int
) -> dict[str, Any]:
    """Seconds of each stage, and what XLA says of the result; None where it does not tell."""
    program = abstract_program(step_config(network, image, width, dim, batch), classes)
    times = [time.perf_counter()]
    traced = trace_step(program)
    times.append(time.perf_counter())
    lowered = traced.lower()
    times.append(time.perf_counter())
    compiled = lowered.compile()
    times.append(time.perf_counter())
    trace, lower, compilation = (after - before for before, after in itertools.pairwise(times))
    counted, planned = compiled.cost_analysis() or {}, compiled.memory_analysis()
    return {
        "network": network,
        "image": image,
        "width": width,
        "embedding_size": dim,
        "batch": batch,
        "classes": classes,
        "trace": trace,
        "lower": lower,
        "compile": compilation,
        "flops": counted.get("flops"),
        "bytes_accessed": counted.get("bytes accessed"),
        "peak_bytes": None if planned is None else planned_bytes(planned),
    }


if __name__ == "__main__":
    serve(measure)
