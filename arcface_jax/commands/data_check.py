"""Checks the data before a long run: the command train with --check."""

import contextlib
import functools
import logging
import pathlib
import time
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

from arcface_jax.analysis.label_noise import judge_labels
from arcface_jax.command_name import command
from arcface_jax.commands.check_report import LIST_FILE, PAGE_FILE, write_list, write_page
from arcface_jax.commands.command import progress_bar, say, say_written
from arcface_jax.commands.fine_tuning import open_start
from arcface_jax.commands.models import Embedder
from arcface_jax.counts import number_of
from arcface_jax.data.check import Finding, Row, check_source_labels, is_picture, report
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.open import open_source, place_of_set
from arcface_jax.data.scan import Scan, scan
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.errors import concerning
from arcface_jax.figures.data import identity_sheet
from arcface_jax.figures.style import save
from arcface_jax.progress import in_words
from arcface_jax.runs.dataset import configured_source
from arcface_jax.runs.setup import Setup, prepare
from arcface_jax.training.abstract import cost
from arcface_jax.training.config import Config
from arcface_jax.training.program import create_program

_TIMED_STEPS = 5
_EMBEDDED_AT_ONCE = 512


def check_data(
    config: Config,
    console: Console,
    folder: pathlib.Path,
    against: Sequence[str] = (),
    model: Embedder | None = None,
) -> int:
    """Reads every image, prints what deserves a look and writes it down, times a few steps.

    Args:
      config: of the run that is planned.
      console: where to print.
      folder: for check.html, check.csv and the contact sheet.
      against: test sets besides those of data.verify, as [NAME=]SOURCE[+PAIRS].
      model: to judge the labels by, or None.

    Returns: the exit status, 1 if anything deserves a look.
    """
    start = open_start(config)
    program = create_program(config, 2)  # a wrong setting is found before images are read
    with _remarks_unsaid():
        source = configured_source(config.data, config.run.seed)
        check_source_labels(source)
        tests = {}
        for specification in dict.fromkeys((*config.data.verify, *against)):
            name, place = place_of_set(specification)
            with concerning(f"--against {specification}" if specification in against else name):
                tests[name if name not in tests else specification] = open_source(place)
        folder.mkdir(parents=True, exist_ok=True)
        found = _scanned(console, "Reading every image", source)
        of_tests = {
            name: (test, _scanned(console, f"Reading {name}", test)) for name, test in tests.items()
        }
        with progress_bar(console, "Looking for what deserves a look"):
            of_data = report(source, found, config.data.size, of_tests)
        findings = list(of_data.findings)
        counts = of_data.images_per_identity
        lines = [
            f"{number_of(of_data.num_images, 'image')} of "
            f"{number_of(of_data.num_identities, 'identity')}, {counts.min()} to {counts.max()} of "
            f"each (median {np.median(counts):g})."
        ]
        if model is not None:
            judged, said = mislabelled(console, source, found, model)
            findings += judged
            lines.append(said)
        for name, (test, _) in of_tests.items():
            lines += test.remarks
            if not any(finding.other is test for finding in findings):
                lines.append(f"No image is in {name} too.")
        if not of_data.aligned and config.data.source != "synthetic":  # drawn as they are meant
            lines.append(
                "If these are faces, they are not aligned: the average image has no eyes where "
                "aligned crops have them. Look at the contact sheet, and align photographs with "
                f"{command('convert')} --landmarks or --detect."
            )
        for line in lines:
            say(console, line)
        for finding in findings:
            line = escape(finding.line(source))
            console.print(f"[yellow]•[/yellow] {line}", highlight=False, soft_wrap=True)
        (sheet,) = save(identity_sheet(source, seed=config.run.seed), folder / "contact_sheet")
        write_list(folder / LIST_FILE, source, findings)
        write_page(folder / PAGE_FILE, source, findings, lines, sheet)
        say_written(console, folder / PAGE_FILE, folder / LIST_FILE, sheet)
        if not found.messages:
            begin = functools.partial(progress_bar, console)
            setup = prepare(config, begin, start, program=program)
            with progress_bar(console, f"Timing {_TIMED_STEPS} steps"):
                about = cost_in_words(config, setup)
            say(console, about)
    console.print(f"Findings: {len(findings)}." if findings else "Nothing deserves a look.")
    return 1 if findings else 0


@contextlib.contextmanager
def _remarks_unsaid() -> Iterator[None]:
    """Keeps sources from saying their remarks each time that they are opened."""

    def is_other(record: logging.LogRecord) -> bool:
        return record.funcName != FaceSource.remark.__name__

    logger = logging.getLogger("arcface_jax")
    logger.addFilter(is_other)
    try:
        yield
    finally:
        logger.removeFilter(is_other)


def _scanned(console: Console, title: str, source: FaceSource) -> Scan:
    with progress_bar(console, title, len(source)) as move:
        return scan(source, progress=move)


def mislabelled(
    console: Console, source: FaceSource, found: Scan, model: Embedder
) -> tuple[list[Finding], str]:
    """(the images whose label is probably wrong, what to say of the judgement).

    Images that show nothing are left out. The rule, and how often it errs, is that of
    `analysis.label_noise.judge_labels`. Embeddings are kept, 4·D bytes an image; images are not.
    """
    chosen = np.flatnonzero(is_picture(found))
    labels = np.asarray(source.labels)[chosen]
    if len(np.unique(labels)) < 2:
        return [], "The labels are not judged: that takes images of two identities."
    parts = []
    with progress_bar(console, "Embedding", len(chosen)) as move:
        for start in range(0, len(chosen), _EMBEDDED_AT_ONCE):
            part = Subset(source, chosen[start : start + _EMBEDDED_AT_ONCE])
            images = load_source(part, model.image_size).images
            parts.append(model.embed(images, part.where))
            move(len(part))
    judged = judge_labels(np.concatenate(parts), labels)
    told = f"{model.name} finds {judged.told:.1%} of the images nearest to their own identity"
    wrong = np.flatnonzero(judged.wrong)
    wrong = wrong[np.argsort((judged.own - judged.other)[wrong], kind="stable")]
    if not judged.reliable:
        return [], f"The labels are not judged: {told}, which is too few to go by."
    rows = tuple(
        Row(
            int(chosen[at]),
            number=round(float(judged.other[at]), 3),
            note=f"cosine {judged.own[at]:.2f} with the others of its identity, "
            f"{judged.other[at]:.2f} with {source.identity_names[judged.nearest[at]]}",
        )
        for at in wrong
    )
    summary = (
        f"{number_of(len(rows), 'image', 'are')} unlike the others of the identity and like those "
        "of another, so that the label is probably wrong"
    )
    measure = "cosine with the other identity"
    return [Finding("mislabelled", summary, rows, measure)] if rows else [], f"{told}."


def cost_in_words(config: Config, setup: Setup) -> str:
    """Memory by `training.abstract`, and the hours of the run, from a few timed steps."""
    program = setup.program
    state, step = setup.initial_state(), program.compile_step()
    batches = setup.batches()
    # The first step compiles.
    for number in range(_TIMED_STEPS + 1):
        if number == 1:
            started = time.perf_counter()
        batch = next(batches)
        state, metrics = step(state, program.key, batch.images, batch.labels)
        jax.block_until_ready(metrics)
    seconds = time.perf_counter() - started
    batches.close()
    devices = len(program.placement.devices)
    planned = cost(config, setup.data.num_classes, (devices,))
    memory, images = planned.memory[devices], config.run.steps * config.run.batch_size
    speed = _TIMED_STEPS * config.run.batch_size / seconds
    return (
        f"{number_of(planned.class_weights, 'weight')} of the head and {planned.parameters:,} of "
        f"the backbone; about {memory.total / 1e9:.1f} GB on each of "
        f"{number_of(devices, 'device')}, {memory.state / 1e9:.1f} of it kept from step to step; "
        f"{images / len(setup.data.train):.1f} epochs of "
        f"{number_of(len(setup.data.train), 'image')} take {in_words(images / speed)} at "
        f"{speed:,.0f} images a second"
    )
