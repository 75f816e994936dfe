"""Measures parts of the library on this machine.

python -m experiments.benchmark head                   the head: time and memory beside the dense head and PyTorch
python -m experiments.benchmark head --traffic         what it sends between devices
python -m experiments.benchmark head --recall          how much of the softmax a part of the classes holds
python -m experiments.benchmark head-storage           loss with weights and momentum in float32 and bfloat16
python -m experiments.benchmark step                   training steps of a network beside plain PyTorch
python -m experiments.benchmark embed MODEL            embedding photos beside ONNX Runtime
"""

import sys
from collections.abc import Callable
from typing import Any

import tyro

from arcface_jax.errors import InputError
from experiments.benchmark_embed import EmbedBenchmark, run_embed_benchmark
from experiments.benchmark_head import HeadBenchmark, run_head_benchmark
from experiments.benchmark_step import StepBenchmark, run_step_benchmark
from experiments.benchmark_storage import StorageBenchmark, run_storage_benchmark
from experiments.command import run_command

BENCHMARKS: dict[str, tuple[type[Any], Callable[[Any], None]]] = {
    "head": (HeadBenchmark, run_head_benchmark),
    "head-storage": (StorageBenchmark, run_storage_benchmark),
    "step": (StepBenchmark, run_step_benchmark),
    "embed": (EmbedBenchmark, run_embed_benchmark),
}


def main() -> None:
    """Reads the name of a benchmark, then its options."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print(f"{__doc__}\nEach has its own --help.")
        return
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark is called {name!r}; choose one of {', '.join(BENCHMARKS)}")
    options, benchmark = BENCHMARKS[name]
    benchmark(tyro.cli(options, args=sys.argv[2:], prog=f"python -m experiments.benchmark {name}"))


if __name__ == "__main__":
    run_command(main)
