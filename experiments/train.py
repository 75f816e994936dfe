"""Trains a face model and verifies it on people it has never seen.

python -m experiments.train                              the embedded synthetic faces
python -m experiments.train folder --data.root DIR       your own faces, DIR/person/*.jpg
python -m experiments.train folder --data.root DIR --model.init FILE   fine-tunes a trained model
python -m experiments.train --config runs/RUN/config.json              a run again
python -m experiments.train ... --check                  only looks at the data and the cost

Writes runs/LOSS-DATE-TIME, or --run.folder: summary.html, metrics, results, checkpoints, pictures.
"""

import dataclasses
import functools
import pathlib
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

from arcface_jax.buckets import as_path, refuse_credentials
from arcface_jax.command_name import command
from arcface_jax.commands.command import (
    INTERRUPTED,
    TERMINATED,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    take_option,
    tell,
)
from arcface_jax.commands.data_check import check_data
from arcface_jax.commands.fine_tuning import (
    network_in_words,
    open_start,
    open_teacher,
    set_by_preset,
    settled,
)
from arcface_jax.commands.help_page import Option, first_sentence, table, unknown
from arcface_jax.commands.loss_options import (
    take_automatic,
    take_loss,
    with_automatic,
    with_plain_loss,
)
from arcface_jax.commands.models import MODEL_HELP, is_export, open_embedder
from arcface_jax.commands.run_report import draw_run, run_page
from arcface_jax.data.open import check_set
from arcface_jax.errors import InputError
from arcface_jax.evaluation.verification import FlipRule
from arcface_jax.files import write_whole
from arcface_jax.losses import loss_name
from arcface_jax.runs.console import ConsoleReporter, print_plan, print_results
from arcface_jax.runs.lock import RunLock
from arcface_jax.runs.loop import RunResult, best_so_far, train
from arcface_jax.runs.processes import is_of_devices, is_over, join_processes, leave, tell_of_loss
from arcface_jax.runs.run_folder import CONFIG_FILE, RunFolder
from arcface_jax.runs.setup import Setup, prepare
from arcface_jax.runs.stopping import Stopped
from arcface_jax.runs.watch import Watch
from arcface_jax.training.config import Config
from arcface_jax.training.config_file import read_config, settings_in

from .recipes.presets import PRESETS

SUMMARY_FILE = "summary.html"

COMMON = (
    "config",
    "check",
    "data.root",
    "data.verify",
    "model.name",
    "model.init",
    "loss.name",
    "loss.margin",
    "loss.scale",
    "optimiser.learning-rate",
    "run.steps",
    "run.batch-size",
    "run.folder",
)
"""The options that --help shows."""

OTHERS = (
    Option("[PRESET]", "", "Configuration to start from; --presets lists them."),
    Option("--presets", "", "List the presets."),
    Option("--config", "FILE", "The config.json of a run, in place of a preset."),
    Option("--check", "", "Only look at the data, and at what the run would cost."),
    Option("--against", "SET", "With --check: report images that this set has as well."),
    Option("--checkpoint", "MODEL", "With --check: report labels that this model finds wrong."),
    Option("--project", "NAME", "With --check: the project of a PyTorch checkpoint, as adaface."),
)
"""The options that are no part of a run's configuration."""


def parse(arguments: list[str]) -> Config:
    """Reads [PRESET] or --config FILE, then the options that change it."""
    base, source, given = PRESETS["synthetic"](), "the default", set()
    preset = arguments[0] if arguments and not arguments[0].startswith("-") else None
    if preset is not None:
        if preset not in PRESETS:
            raise unknown("preset", preset, PRESETS)
        base, arguments = PRESETS[preset](), arguments[1:]
        source, given = f"preset {preset}", set_by_preset(base)
    files, arguments = take_option(arguments, "--config", "a file: the config.json of a run")
    if files:
        if preset is not None or len(files) > 1:
            raise InputError(
                "a preset and --config are two whole configurations; give one of them, once"
            )
        base, source = read_config(as_path(files[0])), files[0]
        given = set(settings_in(as_path(files[0])))
    automatic, arguments = take_automatic(arguments)
    base, arguments = take_loss(base, arguments)
    shown: dict[str, Any] = {"common": COMMON, "also": OTHERS}

    def read(base: Config) -> Config:
        return with_plain_loss(
            read_options(Config, "train", __doc__, arguments, default=base, **shown)
        )

    return with_automatic(settled(read, base, given, source), automatic)


def run_folder_path(config: Config) -> pathlib.Path:
    """config.run.folder, or a new name from the loss and the time."""
    if config.run.folder is not None:
        return as_path(config.run.folder)
    if config.run.resume == "changed" or config.run.distributed:
        raise InputError(
            "run.resume changed and run.distributed need --run.folder, the same for all processes"
        )
    return (
        pathlib.Path("runs")
        / f"{loss_name(config.loss).replace(':', '.')}-{time.strftime('%Y%m%d-%H%M%S')}"
    )


def angle_warning(angles: Mapping[int, np.ndarray]) -> str | None:
    """What to say of a run whose embeddings ended up facing away from their own centres."""
    last = angles[max(angles)]
    # An untrained network's angles lie around 90°: a run that has only just begun is none to warn
    # of.
    if np.median(last) < 100.0:
        return None
    away = float(np.mean(last > 90.0))
    return (
        f"{away:.0%} of the training images are more than 90° from the centre of their own class: "
        "the exact gradient of an angular margin pushed embeddings and classes apart as a whole, "
        "before they had parted. Try --loss.margin-warmup 0.5, --loss.gradient straight_through "
        "or a smaller --loss.scale."
    )


def finish(console: Console, setup: Setup, folder: RunFolder, result: RunResult) -> None:
    """Draws the pictures, writes the results and prints the closing table."""
    with progress_bar(console, "Drawing"):
        pictures = draw_run(setup, folder, result)
    page = run_page(f"Run {folder.path.name}", setup, result, pictures)
    write_whole(folder.path / SUMMARY_FILE, page)
    best = {
        name or "first": {"step": step, "accuracy": value}
        for name, (step, value) in best_so_far(result.verifications).items()
    }
    folder.finish(
        {
            "verifications": {str(step): numbers for step, numbers in result.verifications.items()},
            "best": best,
            "bad_steps": result.bad_steps,
            "speeds": result.speeds,
            "seconds": round(result.seconds, 1),
            "began_at": result.began_at,
        }
    )
    print_results(console, result.verifications)
    if (warning := angle_warning(result.angles)) is not None:
        console.print(f"[yellow]{warning}[/yellow]")
    since = f", since it went on at step {result.began_at}" if result.began_at else ""
    say(
        console, f"Trained and verified in {result.seconds:.0f} s{since}. Written to {folder.path}:"
    )
    files = (SUMMARY_FILE, "config.json", "metrics.jsonl", "results.json")
    written = [folder.path / name for name in (*files, "tensorboard", "checkpoints")]
    for path in (*written, *pictures):
        say(console, f"  {path}")


def run(config: Config, console: Console) -> int:
    """Trains and reports; returns the exit status, 0 unless asked to stop. One of several processes
    that meets an error ends at once, so that the others do not wait for it.
    """
    if not config.run.distributed:
        return run_one(config, console)
    join_processes()
    console.quiet = jax.process_index() > 0
    try:
        return run_one(config, console)
    except (Exception, KeyboardInterrupt) as error:
        if not is_over(error):
            raise
        status = tell(error)
        if status is None:
            if is_of_devices(error):
                tell_of_loss(error)
            else:
                traceback.print_exc()
        leave(status or 1)


def run_one(config: Config, console: Console) -> int:
    """`run` of a single process, or of one that has joined the others."""
    path = run_folder_path(config)
    data, model = config.data, config.model
    for text in (data.root, data.list_root, *data.verify, model.init, model.teacher):
        refuse_credentials(text or "")  # before the configuration is written
    folder = RunFolder(path, config)
    if folder.is_finished:  # as when a cluster starts a job again
        say(console, f"{path}: this run is finished, its results are there")
        return 0
    with RunLock(path, functools.partial(say, console)):
        return run_in(folder, config, console)


def run_in(folder: RunFolder, config: Config, console: Console) -> int:
    """`run` in a folder that no other run uses."""
    path = folder.path
    for change in folder.changes:
        console.print(f"[yellow]Going on with {escape(change)}[/yellow]", highlight=False)
    try:
        start = None if folder.has_checkpoint else open_start(config)
        if start is not None:
            say(console, f"Starting from {config.model.init}: {network_in_words(config)}")
        teacher = open_teacher(config)
        console.print("Preparing the data …")
        setup = prepare(config, functools.partial(progress_bar, console), start, teacher)
    except BaseException:
        folder.discard()
        raise
    print_plan(console, setup)
    try:
        with Watch(path, config.run.steps, config.run.on_event) as watch:
            with ConsoleReporter(console, config.run.steps) as reporter:
                result = train(setup, folder, watch.telling(reporter))
            if jax.process_index() == 0:
                finish(console, setup, folder, result)
    except Stopped as stop:
        again = f"{command('train')} --config {path / CONFIG_FILE} --run.folder {path}"
        say(console, f"Stopped at step {stop.step}, with a checkpoint. To go on: {again}")
        return INTERRUPTED if stop.signal_number == signal.SIGINT else TERMINATED
    except InputError:
        folder.discard()  # of a run that has not begun: its starting point was refused
        raise
    return 0


@dataclasses.dataclass(frozen=True)
class Check:
    """What --check is asked for: test sets to compare with, and a model to judge labels by."""

    against: tuple[str, ...] = ()
    checkpoint: str | None = None
    project: str | None = None


def take_check(arguments: list[str]) -> tuple[Check | None, list[str]]:
    """(--check with its own options, or None; other arguments)."""
    asked, rest = "--check" in arguments, [one for one in arguments if one != "--check"]
    given = {}
    for option, wanted in (
        ("--against", "a test set: the path of a folder, .bin set, list or other source"),
        ("--checkpoint", MODEL_HELP),
        ("--project", "the project of a PyTorch checkpoint, as adaface"),
    ):
        given[option], rest = take_option(rest, option, wanted)
        if given[option] and not asked:
            start = "; a model to start from is --model.init" if option != "--against" else ""
            raise InputError(f"{option} belongs to --check, which looks at the data{start}")
    if not asked:
        return None, rest
    for option in ("--checkpoint", "--project"):
        if len(given[option]) > 1:
            raise InputError(f"{option} is given {len(given[option])} times; give one")
    checkpoint, project = (next(iter(given[each]), None) for each in ("--checkpoint", "--project"))
    if project is not None and checkpoint is None:
        raise InputError("--project is of --checkpoint; give both, or neither")
    return Check(tuple(given["--against"]), checkpoint, project), rest


def main() -> int:
    """Parses, trains, reports; or only checks the data, or lists the presets."""
    if "--presets" in sys.argv[1:]:
        print(table({name: first_sentence(make.__doc__ or "") for name, make in PRESETS.items()}))
        return 0
    check, arguments = take_check(sys.argv[1:])
    config, console = parse(arguments), new_console()
    if check is None:
        return run(config, console)
    for each in check.against:  # before a model is opened
        check_set(each)
    model = None
    if check.checkpoint is not None:
        path = as_path(check.checkpoint)
        # Without the mirror image, which would double the work and decide nothing here.
        flip: FlipRule | None = None if is_export(path) else "none"
        model = open_embedder(path, flip=flip, project=check.project)
    folder = as_path(config.run.folder or "runs/check")
    return check_data(config, console, folder, check.against, model)


if __name__ == "__main__":
    run_command(main)
