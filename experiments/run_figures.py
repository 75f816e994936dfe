"""The pictures of a training run, from what the run found."""

import pathlib

import numpy as np

from arcface_jax.data.in_memory import load_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.evaluation.roc import roc_curve
from arcface_jax.figures.evaluation import roc_figure, score_histogram
from arcface_jax.figures.monitor import monitor
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from arcface_jax.figures.training import angle_histogram, learning_curve, training_curves
from arcface_jax.training.loop import RunResult
from arcface_jax.training.run_folder import RunFolder, read_metrics
from arcface_jax.training.setup import Setup

_SHEET_ROWS, _SHEET_COLUMNS = 6, 10


def sample_grid(source: FaceSource, image_size: tuple[int, int]) -> np.ndarray:
    """Some images [rows, columns, H, W, 3], one identity a row; black where an identity has too
    few.
    """
    labels = np.asarray(source.labels)
    rows = [
        np.flatnonzero(labels == identity)[:_SHEET_COLUMNS]
        for identity in np.unique(labels)[:_SHEET_ROWS]
    ]
    images = iter(
        load_source(Subset(source, np.concatenate(rows)), image_size, on_unreadable="skip").images
    )
    grid = np.zeros((len(rows), _SHEET_COLUMNS, *image_size, 3), np.uint8)
    for row, chosen in enumerate(rows):
        for column, image in zip(range(len(chosen)), images, strict=False):
            grid[row, column] = image
    return grid


def draw_run(setup: Setup, folder: RunFolder, result: RunResult) -> list[pathlib.Path]:
    """Draws everything into the run's figures folder; returns the files."""
    data = setup.data
    metrics = [line for line in read_metrics(folder.path) if line.get("loss") is not None]
    expected = setup.program.objective.expected_initial_loss(
        data.num_classes, setup.config.model.embedding_size
    )
    checks = sorted(result.verifications)
    roc = roc_curve(result.similarities, data.pairs.same)
    pictures = {
        "samples": contact_sheet(
            sample_grid(data.train, setup.config.data.size), "Training images, one person a row"
        ),
        "loss": training_curves(
            [int(line["step"]) for line in metrics],
            [line["loss"] for line in metrics],
            [line["accuracy"] for line in metrics],
            expected,
        ),
        "learning_curve": learning_curve(
            checks,
            [result.verifications[step]["accuracy"] for step in checks],
            [result.verifications[step]["accuracy_std"] for step in checks],
            [result.verifications[step]["auc"] for step in checks],
        ),
        "roc": roc_figure({setup.config.loss.name: roc}),
        "scores": score_histogram(result.similarities, data.pairs.same),
        "angles": angle_histogram(result.angles),
        "monitor": monitor(metrics),
    }
    return [
        file for name, figure in pictures.items() for file in save(figure, folder.figures / name)
    ]
