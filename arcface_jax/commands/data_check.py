"""Checks the data before a long run: the command train with --check [--against TEST_SET]."""

import functools
import pathlib
import time

import jax
import numpy as np
from rich.console import Console
from rich.markup import escape

from arcface_jax.commands.command import progress_bar, say
from arcface_jax.data.check import report
from arcface_jax.data.open import open_source
from arcface_jax.data.scan import overlap, scan
from arcface_jax.figures.data import identity_sheet
from arcface_jax.figures.style import save
from arcface_jax.runs.dataset import configured_source
from arcface_jax.runs.setup import Setup, prepare
from arcface_jax.training.abstract import cost
from arcface_jax.training.config import Config

_TIMED_STEPS = 5


def check_data(config: Config, console: Console, folder: pathlib.Path, against: list[str]) -> int:
    """Reads every image, times a few steps, prints what deserves a look; 1 if anything does."""
    source = configured_source(config.data, config.run.seed)
    with progress_bar(console, "Reading every image", len(source)) as move:
        found = scan(source, progress=move)
    with progress_bar(console, "Looking for what deserves a look"):
        findings = report(source, found, config.data.size)
    counts = findings.images_per_identity
    console.print(
        f"{findings.num_images:,} images of {findings.num_identities:,} identities, {counts.min()} "
        f"to {counts.max()} of each (median {np.median(counts):g})"
    )
    warnings = [*source.remarks, *findings.warnings()]
    for path in against:
        other = open_source(path)
        with progress_bar(console, f"Reading {path}", len(other)) as move:
            shared = overlap(found, scan(other, progress=move))
        if len(shared):
            first, second = shared[0]
            warnings.append(
                f"{len(shared)} images are in {path} too; the first: image {first} "
                f"({source.where(int(first))}) is image {second} there. A test on them is void"
            )
        else:
            console.print(f"No image is in {path} too.", markup=False)
    for warning in warnings:
        console.print(f"[yellow]•[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)
    if not findings.messages:
        setup = prepare(config, functools.partial(progress_bar, console))
        with progress_bar(console, f"Timing {_TIMED_STEPS} steps"):
            about = cost_in_words(config, setup)
        say(console, about)
    for file in save(identity_sheet(source, seed=config.run.seed), folder / "contact_sheet"):
        say(console, f"Contact sheet of random identities: {file}")
    console.print(f"Findings: {len(warnings)}." if warnings else "Nothing deserves a look.")
    return 1 if warnings else 0


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
        f"{planned.class_weights:,} weights of the head and {planned.parameters:,} of the "
        f"backbone; about {memory.total / 1e9:.1f} GB on each of {devices} devices, "
        f"{memory.state / 1e9:.1f} of it kept from step to step; "
        f"{images / len(setup.data.train):.1f} epochs of {len(setup.data.train):,} images take "
        f"{images / speed / 3600:.1f} hours at {speed:,.0f} images a second"
    )
