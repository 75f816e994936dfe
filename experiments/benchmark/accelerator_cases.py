"""Measurements on the device that JAX finds, many in one process: a line of JSON for each.

python -m experiments.benchmark.accelerator_cases iresnet50 112 64 512 100000 10 64 128  (steps)
python -m experiments.benchmark.accelerator_cases head 100000 512 1024 2048 10          (heads)

The numbers are, for "device", the side of a square product; for a network, and for "torch-" and
"embed-" before its name, image side, width, D, C, steps and batches; for "head", C, D, batch, chunk
and steps; for "data", image side, batch and images.
"""

import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError, reason
from arcface_jax.models import registry
from arcface_jax.models.embed import make_embed_function
from arcface_jax.pixels import ARCFACE_TORCH
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.head_plan import HeadSize, planned_bytes, predicted_operations

from .data import DataBenchmark, pipeline_rate, write_images
from .head_cases import jax_stepper, matmul_rate
from .measured_process import Record, serve
from .step_cases import jax_step

PRECISIONS = ("highest", "high", "bfloat16")
HEADS = {"fused": "fused", "chunked": "chunked", "pallas": "chunked", "dense": "dense"}
"""By the name of the measurement, the planner's; pallas is the chunked head by that kernel."""


ROUNDS = 3


def seconds_of(
    step: Callable[[], Any], steps: int, fetch: Callable[[Any], object] = np.asarray
) -> list[float]:
    """Seconds per step in each of some rounds of so many steps.

    The steps of a round are started one after the other, as in training, and waited for at its end.
    """
    found = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for result in [step() for _ in range(steps)]:
            fetch(result)
        found.append((time.perf_counter() - begun) / steps)
    return found


def measured(
    begin: Callable[[], tuple[Callable[[], Any], Any]],
    steps: int,
    fetch: Callable[[Any], object] = np.asarray,
) -> Record:
    """What `begin`, which compiles, and the step that it gives took, or why they could not."""
    begun, peak = time.perf_counter(), peak_bytes()
    try:
        step, plan = begin()
        compiled = time.perf_counter() - begun
        fetch(step())  # the first also loads the program, and PyTorch compiles in it
        ready = time.perf_counter() - begun
        fetch(step())
        seconds = seconds_of(step, steps, fetch)
    except Exception as error:  # of the device's own kinds, most of them for want of memory
        return {"failed": "out of memory" if is_out_of_memory(error) else reason(error)[:200]}
    # The device counts its peak since the process began: one that did not rise says nothing.
    rose = peak_bytes() > peak
    return {
        "seconds": seconds,
        "seconds_to_compile": compiled if plan is not None else ready,
        "planned_gb": None if plan is None else planned_bytes(plan) / 1e9,
        "peak_gb": peak_bytes() / 1e9 if rose else None,
    }


def peak_bytes() -> int:
    """The most bytes that JAX has held on the device at a time; 0 where it is not counted."""
    counts = jax.devices()[0].memory_stats() or {}
    return int(counts.get("peak_bytes_in_use", 0))


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device said that its memory does not suffice."""
    words = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory", "MemoryError")
    return any(word in f"{type(error).__name__}: {error}" for word in words)


def network_steps(
    network: str, image: int, width: int, dim: int, classes: int, steps: int, *batches: int
) -> Iterator[Record]:
    """Training steps in bfloat16, head included."""
    head = HeadConfig(precision="bfloat16")
    for batch in batches:

        def begin(batch: int = batch) -> tuple[Callable[[], Any], Any]:
            sizes = (network, image, width, batch, dim, classes)
            return jax_step(*sizes, dtype=jnp.bfloat16, head=head)

        yield {"case": "step", "what": network, "batch": batch, **measured(begin, steps)}


def torch_steps(
    network: str, image: int, width: int, dim: int, classes: int, steps: int, *batches: int
) -> Iterator[Record]:
    """The same in PyTorch: autocast to bfloat16, channels last, compiled on a GPU."""
    import torch

    from .torch_step import torch_network, torch_step

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if jax.default_backend() != {"cuda": "gpu"}.get(device, device):
        raise InputError(f"PyTorch sees no {jax.default_backend()}: no comparison")
    for batch in batches:

        def begin(batch: int = batch) -> tuple[Callable[[], Any], None]:
            theirs = torch_network(network, width, dim, image)
            sizes = (dim, image, batch, classes)
            return torch_step(theirs, *sizes, device=device, bfloat16=True), None

        yield {"case": "torch", "what": network, "batch": batch, **measured(begin, steps, float)}


def embeddings(
    network: str, image: int, width: int, dim: int, _: int, steps: int, *batches: int
) -> Iterator[Record]:
    """Embedding uint8 images in bfloat16, those of the host."""
    backbone = registry.create(network, width=width, embedding_size=dim, dtype=jnp.bfloat16)
    variables = jax.jit(backbone.init)(jax.random.key(0), jnp.zeros((1, image, image, 3)))
    embed = make_embed_function(backbone, ARCFACE_TORCH)
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, image, image, 3), np.uint8)

        def begin(images: np.ndarray = images) -> tuple[Callable[[], Any], None]:
            return lambda: embed(variables, images), None

        yield {"case": "embed", "what": network, "batch": batch, **measured(begin, steps)}


def head_steps(classes: int, dim: int, batch: int, chunk: int, steps: int) -> Iterator[Record]:
    """A step of every head at every precision: loss, gradients, SGD with momentum."""
    for precision, head in itertools.product(reversed(PRECISIONS), HEADS):
        kernel = "pallas" if head == "pallas" else "xla"
        options: Any = {"chunk": chunk, "precision": precision, "kernel": kernel}
        size = HeadSize(HEADS[head], classes, dim, batch, **options)

        def begin(size: HeadSize = size) -> tuple[Callable[[], Any], Any]:
            make, step, plan = jax_stepper(size)
            make()
            return step, plan

        about = {"case": "head", "what": head, "batch": batch, "classes": classes}
        about |= {"precision": precision, "operations": predicted_operations(size)}
        yield {**about, **measured(begin, steps)}


def data_rate(image: int, batch: int, images: int) -> Record:
    """Images a second of the input pipeline alone, out of a RecordIO file of JPEGs."""
    with tempfile.TemporaryDirectory() as folder:
        faces = SyntheticFaces(max(2, images // 10), 10, image_size=image)
        source = write_images(faces, pathlib.Path(folder) / "set", "recordio", 95)
        config = DataBenchmark(image_size=image, batch=batch)
        rate = pipeline_rate(source, config, 0)
    return {"case": "data", "what": "RecordIO", "batch": batch, "seconds": [batch / rate]}


def device_rates(side: int) -> Record:
    """What the device is, and the operations a second of its products at each precision."""
    device = jax.devices()[0]
    rates = {each: matmul_rate(side, precision=each, together=4) for each in PRECISIONS}
    return {"case": "device", "what": device.device_kind, "platform": device.platform, **rates}


def measure(case: str, *numbers: int) -> Record | Iterator[Record]:
    """The records of a case; see above for its numbers."""
    alone: dict[str, Callable[..., Any]] = {
        "device": device_rates,
        "head": head_steps,
        "data": data_rate,
    }
    if case in alone:
        found: Record | Iterator[Record] = alone[case](*numbers)
        return found
    for prefix, steps in {"torch-": torch_steps, "embed-": embeddings, "": network_steps}.items():
        if case.startswith(prefix):
            return steps(case.removeprefix(prefix), *numbers)
    raise AssertionError(case)


if __name__ == "__main__":
    serve(measure)
