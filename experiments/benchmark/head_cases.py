"""One measurement of one head in a process of its own: time, and the resident memory of its steps
alone.

python -m experiments.benchmark.head_cases fused-float32 256 100000 512 2048 2  (one line of JSON)
"""

import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.cosine import product
from arcface_jax.errors import InputError
from arcface_jax.heads.fused import HeadState
from arcface_jax.training.head_plan import HeadSize, compile_step, predicted_operations

from .measured_process import serve

CASES = {
    "dense": ("dense", "float32"),
    "chunked": ("chunked", "float32"),
    "fused-float32": ("fused", "float32"),
    "fused-bfloat16": ("fused", "bfloat16"),
    "partial-0.1": ("partial", "float32"),
}
TORCH = "torch"
_STATUS, _CLEAR = pathlib.Path("/proc/self/status"), pathlib.Path("/proc/self/clear_refs")
_BLOCK = 4096


def head_size(case: str, batch: int, classes: int, dim: int, chunk: int) -> HeadSize:
    """The planner's description of a case; PyTorch's head needs what the dense one does."""
    head, dtype = CASES["dense" if case == TORCH else case]
    return HeadSize(head, classes, dim, batch, dtype=dtype, chunk=chunk)


def _resident(field: str) -> float:
    """VmRSS or VmHWM of this process in MB; where /proc is missing, the peak since its start."""
    if not _STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def _forget_peak() -> None:
    if _CLEAR.exists():
        _CLEAR.write_text("5")


def matmul_rate(
    size: int = 2048, repeats: int = 5, precision: str = "highest", together: int = 1
) -> float:
    """Operations a second of a product of two [size, size] matrices: the median of some, each of
    so many started together.
    """
    a = jax.random.normal(jax.random.key(0), (size, size))
    a = a.astype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)
    squared = jax.jit(lambda a: product("nd,cd->nc", a, a, precision))

    def work() -> None:
        jax.block_until_ready([squared(a) for _ in range(together)])

    work()
    times = [_time(work) for _ in range(repeats)]
    return 2.0 * size**3 * together / statistics.median(times)


def _time(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _block(dim: int) -> jax.Array:
    return jax.random.normal(jax.random.key(1), (_BLOCK, dim))


def jax_stepper(size: HeadSize) -> tuple[Callable[[], Any], Callable[[], jax.Array], Any]:
    """(makes the state, takes a step and gives the mean loss, the plan of its memory)."""
    compiled = compile_step(size)
    dtype = jnp.uint16 if size.dtype == "bfloat16" else jnp.float32
    # Rows are those of a small block: a random array of this size would need another while it is
    # made.
    bits = jax.lax.bitcast_convert_type(_block(size.dim).astype(jnp.bfloat16), jnp.uint16)
    block = bits if size.dtype == "bfloat16" else _block(size.dim)
    embeddings = jax.random.normal(jax.random.key(2), (size.batch, size.dim))
    labels = jnp.arange(size.batch) * (size.num_classes // size.batch)
    rate, key, held = jnp.float32(0.1), jax.random.key_data(jax.random.key(3)), {}

    @jax.jit
    def fill() -> jax.Array:
        return block[jnp.arange(size.rows) % _BLOCK]

    def make() -> None:
        weights = fill()
        held["state"] = HeadState(
            weights, (jnp.zeros(weights.shape, dtype),), jnp.zeros((), jnp.int32)
        )
        jax.block_until_ready(held["state"])

    def step() -> jax.Array:
        held["state"], loss, _ = compiled(
            held.pop("state"), embeddings, labels, rate, jax.random.wrap_key_data(key)
        )
        return loss.mean()

    return make, step, compiled.memory_analysis()


def torch_stepper(size: HeadSize) -> tuple[Callable[[], Any], Callable[[], Any], None]:
    """A plain PyTorch head: normalise, linear, margin, cross-entropy, backward, SGD."""
    try:
        import torch

        from .torch_step import arcface_loss
    except ImportError as error:
        raise InputError(
            "head torch needs PyTorch; install torch, or leave it out of --heads"
        ) from error
    embeddings = torch.randn(size.batch, size.dim, requires_grad=True)
    labels = torch.arange(size.batch) * (size.num_classes // size.batch)
    held: dict[str, Any] = {}

    def make() -> None:
        held["weights"] = torch.nn.Parameter(
            torch.empty(size.num_classes, size.dim).normal_(std=0.01)
        )
        held["sgd"] = torch.optim.SGD([held["weights"]], lr=0.1, momentum=0.9, weight_decay=5e-4)

    def step() -> Any:
        loss = arcface_loss(embeddings, held["weights"], labels)
        held["sgd"].zero_grad()
        loss.backward()
        held["sgd"].step()
        return loss.detach()

    return make, step, None


def measure(
    case: str, batch: int, classes: int, dim: int, chunk: int, steps: int
) -> dict[str, Any]:
    """Seconds of each step after the first, MB, and the matmul rate before and after."""
    size = head_size(case, batch, classes, dim, chunk)
    rates = [matmul_rate()]
    stepper: Callable[[HeadSize], Any] = torch_stepper if case == TORCH else jax_stepper
    make, step, plan = stepper(size)
    before = _resident("VmRSS")
    make()
    _forget_peak()
    first_loss = float(step())
    times = [_time(lambda: float(step())) for _ in range(steps)]
    peak = _resident("VmHWM") - before
    rates.append(matmul_rate())
    return {
        "case": case,
        "batch": batch,
        "classes": classes,
        "dim": dim,
        "seconds": times,
        "peak_mb": peak,
        "planned_temporary_mb": 0.0 if plan is None else plan.temp_size_in_bytes / 2**20,
        "operations": predicted_operations(size),
        "matmul_rate": statistics.mean(rates),
        "first_loss": first_loss,
    }


if __name__ == "__main__":
    serve(measure)
