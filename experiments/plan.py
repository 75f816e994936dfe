"""Says which head fits how many identities, before anything is allocated.

python -m experiments.plan 1000000                                       one device of 80 GiB
python -m experiments.plan 29000000 --batch 512 --compile                beside it, the plan of
XLA's compiler
python -m experiments.plan 100000000 --devices 8 --compile
python -m experiments.plan --preset webface42m-r100                      a whole run: network, head,
devices
python -m experiments.plan --all-presets --markdown
"""

import dataclasses
import sys
from typing import Annotated

import jax
import tyro
from rich.table import Table

from arcface_jax.errors import InputError
from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.training.head_plan import (
    HeadSize,
    compiled_memory,
    predicted_memory,
    predicted_operations,
)
from experiments.command import help_text, new_console, run_command
from experiments.preset_plan import PresetPlan, print_presets

_HEADS = (
    ("dense", "float32"),
    ("chunked", "float32"),
    ("fused", "float32"),
    ("fused", "bfloat16"),
    ("partial", "float32"),
    ("partial", "bfloat16"),
)
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """A head to plan for: SGD with momentum, float32 arithmetic. The backbone's memory comes on
    top.
    """

    identities: Annotated[int, tyro.conf.Positional]
    """Identities, C in the papers."""
    dim: int = 512
    """Length of the embeddings, D."""
    batch: int = 512
    """Images of a step, N, over all devices."""
    devices: int = 1
    """Devices that share the classes."""
    memory_gib: float = 80.0
    """What each has for the head."""
    tflops: float | None = None
    """Float32 matmul rate of a device in 10¹² operations a second; gives the least time of a
    step.
    """
    chunk: int = DEFAULT_CHUNK
    """Classes at a time."""
    rate: float = 0.1
    """What part of the classes the partial head samples."""
    compile: bool = False
    """Compile every step from shapes too, for simulated devices, and show what the compiler
    plans.
    """


def plan_table(config: PlanConfig) -> tuple[Table, str | None]:
    """A row for every head, and the first of them, in order of simplicity and exactness, that
    fits.
    """
    table = Table(
        title=f"{config.identities:,} identities × {config.dim}, N = {config.batch}, "
        f"{config.devices} devices"
    )
    names = ["head", "dtype", "weights + momentum", "gradient", "working", "GiB a device"]
    names += ["compiled plan"] if config.compile else []
    names += ["fits"] + (["≥ s/step"] if config.tflops else [])
    for name in names:
        table.add_column(name, justify="left" if name in ("head", "dtype", "fits") else "right")
    best = None
    for head, dtype in _HEADS:
        size = HeadSize(
            head,
            config.identities,
            config.dim,
            config.batch,
            config.devices,
            dtype,
            config.chunk,
            config.rate,
        )
        memory = predicted_memory(size)
        total = compiled_memory(size).total if config.compile else memory.total
        fits = total <= config.memory_gib * _GIB
        best = best or (f"{head} in {dtype}" if fits else None)
        row = [
            head,
            dtype,
            *(f"{part / _GIB:.3f}" for part in (memory.state, memory.gradient, memory.working)),
        ]
        row += [f"{memory.total / _GIB:.3f}"] + ([f"{total / _GIB:.3f}"] if config.compile else [])
        row += ["yes" if fits else "no"]
        row += [f"{predicted_operations(size) / config.tflops / 1e12:.4f}"] if config.tflops else []
        table.add_row(*row)
    return table, best


def run(config: PlanConfig) -> None:
    """Prints the table and the choice."""
    positive = {
        "IDENTITIES": config.identities,
        "--memory-gib": config.memory_gib,
        "--tflops": config.tflops,
    }
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise InputError(f"{name} {value:g}: give a number above 0")
    if config.compile:
        # Simulated devices have to be asked for before JAX starts its backend.
        jax.config.update("jax_num_cpu_devices", max(1, config.devices))
    console = new_console()
    table, best = plan_table(config)
    console.print(table)
    if best is None:
        console.print(f"No head fits {config.memory_gib:g} GiB; use more devices.")
    else:
        exact = (
            "over a sample of the classes" if best.startswith("partial") else "the exact softmax"
        )
        console.print(f"The first that fits {config.memory_gib:g} GiB: {best}, {exact}.")
    if config.compile:
        console.print("“compiled plan” is what XLA's compiler plans for these shapes, not a run.")


def main() -> None:
    """Plans a head by the number of its identities, or whole presets."""
    arguments = sys.argv[1:]
    program, about = "python -m experiments.plan", help_text(__doc__)
    # Each takes its own options, so that none is accepted that does nothing.
    if any(argument.split("=")[0] in ("--preset", "--all-presets") for argument in arguments):
        # Shapes need no accelerator, and must not wait for one that is busy.
        jax.config.update("jax_platforms", "cpu")
        print_presets(
            tyro.cli(PresetPlan, args=arguments, prog=program, description=about), new_console()
        )
    else:
        run(tyro.cli(PlanConfig, args=arguments, prog=program, description=about))


if __name__ == "__main__":
    run_command(main)
