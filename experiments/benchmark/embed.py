"""Measures embedding beside ONNX Runtime: the same network, the same images, turn by turn."""

import dataclasses
import functools
import importlib
import os
import pathlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Annotated

import jax
import numpy as np
import tyro
from rich.table import Table

from arcface_jax.command_name import install
from arcface_jax.commands.command import Count, Existing, table_of
from arcface_jax.commands.models import Trained, open_trained
from arcface_jax.errors import InputError, reason
from arcface_jax.interop.inference import unit_embedding
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.onnx import export_onnx
from arcface_jax.pixels import normalise

from .report import (
    BenchmarkOptions,
    Record,
    Report,
    rates,
    ratio_of_rounds,
    take_turns,
)

OURS, THEIRS = "arcface-jax", "ONNX Runtime"


@dataclasses.dataclass(frozen=True)
class EmbedBenchmark(BenchmarkOptions):
    """Images a second of the command embed's network and of ONNX Runtime on the processor."""

    model: Annotated[Trained, tyro.conf.Positional]
    """The folder of a run, a PyTorch checkpoint (.pt, .pth, .ckpt), or an .onnx or .params file."""
    batches: tuple[Count, ...] = (1, 8, 32)
    """Images in one call."""
    rounds: Count = 10
    """How often each is measured, one after the other, so that what slows one slows both."""
    threads: Count = os.cpu_count() or 1
    """Of ONNX Runtime; JAX takes all processors there are."""
    onnx: Existing | None = None
    """The same network from another exporter; that of the command export if not given."""
    project: str | None = None
    """Project of a PyTorch checkpoint where its keys do not tell, such as adaface."""
    output: pathlib.Path = pathlib.Path("runs/benchmark-embed")
    """Folder for records.json and the picture."""


def run_embed_benchmark(config: EmbedBenchmark) -> int:
    """Measures every batch size, prints a table; ratios over 1 mean that JAX is faster."""
    report = Report("embed", config, ["onnxruntime"])
    model = open_trained(config.model, config.project)
    ours, theirs = jax.jit(unit_embedding(model)), onnx_embedding(model, config)
    images = np.random.default_rng(0).integers(
        0, 256, (max(config.batches), *model.image_size, 3), np.uint8
    )
    difference = float(np.abs(np.asarray(ours(images)) - theirs(images)).max())
    if not difference < 1e-3:
        raise InputError(
            f"--onnx: its embeddings differ by {difference:.2g} from the model's; give the same "
            "network"
        )
    threads, largest = config.threads, f"largest difference {difference:.2g}"
    report.say(f"{model.source}, ONNX Runtime with {threads} threads; {largest}")
    about = {"model": model.source, "onnxruntime_threads": threads}
    about["largest_difference"] = difference
    network = f"{type(model.backbone).__name__}, {'×'.join(map(str, model.image_size))}"
    ratios = {}
    for batch in config.batches:
        part = images[:batch]
        cases = {
            OURS: functools.partial(lambda x: np.asarray(ours(x)), part),
            THEIRS: functools.partial(theirs, part),
        }
        seconds = take_turns(cases, config.rounds, begin=report.work)
        for case, taken in seconds.items():
            report.add({**about, "batch": batch, "case": case, "seconds": taken})
        ratios[f"{network}, batch {batch}, beside {THEIRS}"] = ratio_of_rounds(
            seconds[THEIRS], seconds[OURS]
        )
    report.console.print(embed_table(report.records))
    return report.finish(ratios)


def embed_table(records: Sequence[Record]) -> Table:
    """Medians over rounds, and the range, in images a second."""
    rows = [
        [str(one["batch"]), one["case"], *rates([one["batch"] / s for s in one["seconds"]])]
        for one in records
    ]
    header = ("batch", "", "median", "lowest", "highest")
    return table_of(header, rows, left=2, title="Images a second")


def onnx_embedding(
    model: TrainedModel, config: EmbedBenchmark
) -> Callable[[np.ndarray], np.ndarray]:
    """uint8 [N, H, W, 3] to unit embeddings by ONNX Runtime; floats for a [N, 3, H, W] network."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise InputError(f"onnxruntime is needed to compare with: {install('onnx')}") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = config.threads, 3
    with tempfile.TemporaryDirectory() as folder:
        path = config.onnx
        if path is None:
            path = pathlib.Path(folder) / "model.onnx"
            export_onnx(unit_embedding(model, shift_depthwise=False), model.image_size, path)
        try:
            session = runtime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the runtime has an error class of its own for each fault
            raise InputError(
                f"{path}: ONNX Runtime cannot read it ({reason(error)}); export it again"
            ) from error
    (entry,) = session.get_inputs()

    def embed(images: np.ndarray) -> np.ndarray:
        if entry.type == "tensor(uint8)":
            return session.run(None, {entry.name: images})[0]
        planes = np.asarray(normalise(jax.numpy.asarray(images), model.pixels)).transpose(
            0, 3, 1, 2
        )
        embeddings = session.run(None, {entry.name: np.ascontiguousarray(planes)})[0]
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)

    return embed
