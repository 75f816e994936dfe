"""A training run as one HTML page: results, pictures, configuration."""

import pathlib
from collections.abc import Sequence

import numpy as np

from arcface_jax.commands.html_page import facts, page, picture, table
from arcface_jax.counts import number_of
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.evaluation.embedding_rule import FLIP
from arcface_jax.evaluation.roc import roc_curve
from arcface_jax.figures.data import file_of
from arcface_jax.figures.evaluation import roc_figure, score_histogram
from arcface_jax.figures.monitor import monitor
from arcface_jax.figures.samples import contact_sheet
from arcface_jax.figures.style import save
from arcface_jax.figures.training import angle_histogram, learning_curve, training_curves
from arcface_jax.losses import loss_name
from arcface_jax.runs.checkpoints import library_versions
from arcface_jax.runs.console import ALL_PAIRS_TITLES, BEFORE, TABLE_FARS, all_pairs_cells
from arcface_jax.runs.loop import RunResult, best_so_far
from arcface_jax.runs.run_folder import RunFolder, read_metrics
from arcface_jax.runs.setup import Setup
from arcface_jax.runs.verifier import Numbers, by_set
from arcface_jax.training.config_file import as_dict

_SHEET_ROWS, _SHEET_COLUMNS = 6, 8


def sample_grid(
    source: FaceSource, image_size: tuple[int, int]
) -> tuple[np.ndarray, list[str], list[list[str]]]:
    """Images for `contact_sheet`, [rows, columns, H, W, 3], one identity a row; the identities'
    names; the images' files, "" where an identity has too few, or one cannot be decoded.
    """
    labels = np.asarray(source.labels)
    rows = [
        np.flatnonzero(labels == identity)[:_SHEET_COLUMNS]
        for identity in np.unique(labels)[:_SHEET_ROWS]
    ]
    sample = load_source(Subset(source, np.concatenate(rows)), image_size, on_unreadable="skip")
    places = [(row, column) for row, chosen in enumerate(rows) for column in range(len(chosen))]
    grid = np.zeros((len(rows), _SHEET_COLUMNS, *image_size, 3), np.uint8)
    files = [[""] * _SHEET_COLUMNS for _ in rows]
    for index, image in zip(sample.kept, sample.images, strict=True):
        row, column = places[index]
        grid[row, column] = image
        files[row][column] = file_of(source, int(rows[row][column]))
    names = [str(source.identity_names[int(labels[chosen[0]])]) for chosen in rows]
    return grid, names, files


def draw_run(setup: Setup, folder: RunFolder, result: RunResult) -> list[pathlib.Path]:
    """Draws everything into the run's figures folder; returns the files."""
    data = setup.data
    metrics = [line for line in read_metrics(folder.path) if line.get("loss") is not None]
    samples, names, files = sample_grid(data.train, setup.config.data.size)
    expected = setup.program.expected_initial_loss()
    checks = sorted(result.verifications)
    roc = roc_curve(result.similarities, data.pairs.same)
    numbers = [result.verifications[step] for step in checks]
    accuracy, deviation, auc = (
        [one[name] for one in numbers] for name in ("accuracy", "accuracy_std", "auc")
    )
    steps = [int(line["step"]) for line in metrics]
    losses, accuracies = ([line[name] for line in metrics] for name in ("loss", "accuracy"))
    pictures = {
        "samples": contact_sheet(samples, "Training images, one person a row", names, files),
        "loss": training_curves(steps, losses, accuracies, expected),
        "learning_curve": learning_curve(checks, accuracy, deviation, auc),
        "roc": roc_figure({loss_name(setup.config.loss): roc}),
        "scores": score_histogram(result.similarities, data.pairs.same),
        "angles": angle_histogram(result.angles),
        "monitor": monitor(metrics),
    }
    return [
        file for name, figure in pictures.items() for file in save(figure, folder.figures / name)
    ]


CAPTIONS = {
    "learning_curve": "Verification of the first set during training: accuracy with its deviation "
    "over folds (bars), and AUC.",
    "roc": "True against false accept rate of the final model.",
    "scores": "Similarities of same and of different pairs; each bar is a share of the pairs of "
    "its kind.",
    "loss": "Training loss and accuracy; dotted, the loss expected before it.",
    "angles": "Angles between training images and the centres of their classes, at the start, "
    "middle and end; each bar is the share of the images in two degrees.",
    "monitor": "Learning rate, angle to the own class, length of the embeddings, and norm of the "
    "gradient.",
    "samples": "Some of the training images, as they are before augmentation: one person a row.",
}
"""Pictures of a run in the order in which a person wants them, and what each shows."""


def _row(label: str, numbers: Numbers) -> list[str]:
    rates = [f"{100 * numbers[f'tar@far={far:g}']:.2f}" for far in TABLE_FARS]
    accuracy = f"{100 * numbers['accuracy']:.2f} ± {100 * numbers['accuracy_std']:.2f}"
    area = [f"{100 * numbers['eer']:.2f}", f"{numbers['auc']:.4f}"]
    wide = all_pairs_cells(numbers) or ["–"] * len(ALL_PAIRS_TITLES)
    return [label, accuracy, *rates, *area, *wide]


def results_table(result: RunResult, first_set: str) -> str:
    """Each set: before training, at its best, and at the end."""
    header = [
        "",
        "accuracy ± deviation over folds, %",
        *(f"TAR at FAR {far:g}, %" for far in TABLE_FARS),
        "EER, %",
        "AUC",
    ]
    header += [f"all pairs: {title}" for title in ALL_PAIRS_TITLES]
    body = []
    last = max(result.verifications)
    for name, (best, _) in best_so_far(result.verifications).items():
        for step in sorted({0, best, last}):
            when = BEFORE if step == 0 else f"step {step}"
            when += ", best" if step == best else ""
            numbers = by_set(result.verifications[step])[name]
            body.append(_row(f"{name or first_set}, {when}", numbers))
    return table(header, body)


def run_page(title: str, setup: Setup, result: RunResult, pictures: Sequence[pathlib.Path]) -> str:
    """The page; `pictures` are PNG files named as `CAPTIONS` has them."""
    network = setup.config.model
    devices, data = setup.program.placement.devices, setup.data
    trained_on = (
        f"{number_of(len(data.train), 'image')} of {number_of(data.num_classes, 'identity')}"
    )
    sets = (
        f"{s.name}: {number_of(len(s.images), 'image')}, {number_of(len(s.pairs), 'pair')}"
        for s in data.sets
    )
    versions = ", ".join(f"{name} {version}" for name, version in library_versions().items())
    about = [
        ["model", f"{network.name}, embeddings of {number_of(network.embedding_size, 'number')}"],
        ["mirror images", f"--flip {FLIP if setup.config.data.flip_test else 'none'}"],
        ["training data", f"{trained_on} ({data.fingerprint[:12]})"],
        *(["verification set", one] for one in sets),
        ["loss", f"{loss_name(setup.config.loss)}: {setup.config.loss}"],
        ["devices", f"{len(devices)} × {devices[0].device_kind}"],
        ["time", f"{result.seconds:.0f} s from step {result.began_at} on, verification included"],
        ["skipped steps", f"{result.bad_steps}"],
        ["versions", versions],
    ]
    if result.speeds:  # a run of a few steps has none
        speed, wait = result.speeds["images_per_second"], result.speeds["data_wait"]
        about[-2:-2] = [["speed", f"{speed:.0f} images/s"], ["waiting for data", f"{wait:.0%}"]]
    settings = [
        [f"{section}.{name}", str(value)]
        for section, values in as_dict(setup.config).items()
        for name, value in values.items()
    ]
    files = {file.stem: file for file in pictures if file.suffix == ".png"}
    parts = [
        results_table(result, data.sets[0].name),
        facts("train", about),
        *(picture(files[name], caption) for name, caption in CAPTIONS.items() if name in files),
        "<h2>Configuration</h2>",
        table(["", ""], settings, words=True),
    ]
    return page(title, parts)
