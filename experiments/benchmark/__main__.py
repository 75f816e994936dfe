"""Measures parts of the library on this machine.

python -m experiments.benchmark head                   the head, beside dense and PyTorch
python -m experiments.benchmark head --traffic         what it sends between devices
python -m experiments.benchmark head --recall          the softmax that some classes hold
python -m experiments.benchmark head --errors          loss and gradients at lower precision
python -m experiments.benchmark head-storage           a head kept and multiplied in bfloat16
python -m experiments.benchmark step                   training steps, beside PyTorch
python -m experiments.benchmark data                   the input pipeline, beside plain loops
python -m experiments.benchmark stream                 orders of ten million images
python -m experiments.benchmark evaluation             beside a loop, scikit-learn, NumPy
python -m experiments.benchmark embed MODEL            embedding photos, beside ONNX Runtime
python -m experiments.benchmark accelerator            the whole on one GPU or TPU, in eight minutes
python -m experiments.benchmark compile                compiling a step, without and with the cache
python -m experiments.benchmark step --compare FILE    beside a former run: its records.json

Each measures in rounds, everything in turn, and gives the ratios of the rounds: those stay the same
on a busy machine, where times do not. All of it goes to runs/benchmark-NAME, or --output:
records.json and pictures; --traffic, --recall and --errors print a table alone.
"""

import importlib
import sys

from arcface_jax.commands.command import read_options, run_command, verb_of
from arcface_jax.commands.help_page import Page

BENCHMARKS = {
    "head": ("head", "HeadBenchmark", "run_head_benchmark"),
    "head-storage": ("head_storage", "StorageBenchmark", "run_storage_benchmark"),
    "step": ("step", "StepBenchmark", "run_step_benchmark"),
    "data": ("data", "DataBenchmark", "run_data_benchmark"),
    "stream": ("stream", "StreamBenchmark", "run_stream_benchmark"),
    "evaluation": ("evaluation", "EvaluationBenchmark", "run_evaluation_benchmark"),
    "embed": ("embed", "EmbedBenchmark", "run_embed_benchmark"),
    "accelerator": ("accelerator", "AcceleratorBenchmark", "run_accelerator_benchmark"),
    "compile": ("compile", "CompileBenchmark", "run_compile_benchmark"),
}
"""By name: module, options, what measures; only the module that is asked for is imported."""


def main() -> int:
    """Reads a benchmark's name, then its options; returns 1 if --compare finds a ratio worse."""
    name = verb_of(Page("benchmark", __doc__, verbs=dict.fromkeys(BENCHMARKS, "")), "benchmark")
    file, options, measure = BENCHMARKS[name]
    module = importlib.import_module(f".{file}", __package__)
    config = read_options(getattr(module, options), f"benchmark {name}", None, sys.argv[2:])
    return int(getattr(module, measure)(config))


if __name__ == "__main__":
    run_command(main)
