"""Measures parts of the library on this machine.

python -m experiments.benchmark head                   the head: time and memory beside the dense
head and PyTorch
python -m experiments.benchmark head --traffic         what it sends between devices
python -m experiments.benchmark head --recall          how much of the softmax a part of the classes
holds
python -m experiments.benchmark head-storage           loss with weights and momentum in float32 and
bfloat16
python -m experiments.benchmark step                   training steps of a network beside plain
PyTorch
python -m experiments.benchmark data                   images a second of the input pipeline beside
plain loops
python -m experiments.benchmark evaluation             ten folds, ROC, 1:1, 1:N beside a loop,
scikit-learn, NumPy
python -m experiments.benchmark embed MODEL            embedding photos beside ONNX Runtime
python -m experiments.benchmark compile                compiling a training step, without and with
the cache
python -m experiments.benchmark step --compare FILE    ratios beside those of a former run: its
records.json

Each measures in rounds, everything in turn, and gives the ratios of the rounds: those stay the same
on a busy machine, where times do not. All of it goes to runs/benchmark-NAME, or --output:
records.json and pictures; --traffic and --recall print a table alone.
"""

import importlib
import sys

import tyro

from arcface_jax.errors import InputError
from experiments.command import run_command

BENCHMARKS = {
    "head": ("benchmark_head", "HeadBenchmark", "run_head_benchmark"),
    "head-storage": ("benchmark_storage", "StorageBenchmark", "run_storage_benchmark"),
    "step": ("benchmark_step", "StepBenchmark", "run_step_benchmark"),
    "data": ("benchmark_data", "DataBenchmark", "run_data_benchmark"),
    "evaluation": ("benchmark_evaluation", "EvaluationBenchmark", "run_evaluation_benchmark"),
    "embed": ("benchmark_embed", "EmbedBenchmark", "run_embed_benchmark"),
    "compile": ("benchmark_compile", "CompileBenchmark", "run_compile_benchmark"),
}
"""By name: its module, the class of its options, and what measures. Only the module that is
asked for is imported.
"""


def main() -> int:
    """Reads the name of a benchmark, then its options; returns 1 if --compare finds a ratio
    worse.
    """
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ("", "-h", "--help"):
        print(f"{__doc__}\nEach has its own --help.")
        return 0
    if name not in BENCHMARKS:
        raise InputError(f"no benchmark is called {name!r}; choose one of {', '.join(BENCHMARKS)}")
    file, options, measure = BENCHMARKS[name]
    module = importlib.import_module(f"experiments.{file}")
    config = tyro.cli(
        getattr(module, options), args=sys.argv[2:], prog=f"python -m experiments.benchmark {name}"
    )
    return int(getattr(module, measure)(config))


if __name__ == "__main__":
    run_command(main)
