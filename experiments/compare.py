"""Trains several losses on one budget over several seeds; compares them on unseen people.

python -m experiments.compare                                       ArcFace, softmax, NormFace
python -m experiments.compare --losses arcface arcface:0.3 cosface  others; a number is the margin
python -m experiments.compare -- folder --data.root DIR             your faces: options of train

The first loss is tested against each other one, over the seeds. Runs that are complete already are
read, not repeated, so the same command goes on after a break. `python -m experiments.study` is the
paper's whole study on a small budget. Writes comparison.md, .json and .png into --folder.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from arcface_jax.commands.command import (
    Count,
    Seed,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    split_arguments,
    table_of,
    write_json,
)
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.tables import markdown_table
from arcface_jax.figures.study import losses_figure
from arcface_jax.figures.style import save
from arcface_jax.files import write_whole
from arcface_jax.losses import LOSSES
from arcface_jax.runs.run_folder import finite
from arcface_jax.runs.verifier import ALL_PAIRS, ALL_PAIRS_FARS
from arcface_jax.training.config import Config

from .study.plan import changed, loss_changes
from .study.pool import completed_runs, interrupt_on_termination, run_all
from .study.run import Case
from .study.tables import (
    DIFFERENCE_HEADER,
    Results,
    difference_rows,
    last,
    percents,
    seed_differences,
    tests_by_name,
    verification_numbers,
    verification_rows,
)
from .train import parse

COLUMNS = {
    "accuracy": "accuracy, %",
    "eer": "EER, %",
    "auc": "AUC, %",
    **{
        f"{ALL_PAIRS}tar@far={far:g}": f"TAR at FAR {far:.0e}, all pairs, %".replace("e-0", "e-")
        for far in ALL_PAIRS_FARS
    },
    "tar@far=0.01": "TAR at FAR 1e-2, %",
    "tar@far=0.001": "TAR at FAR 1e-3, %",
}
"""What the table shows where all runs have it, as the results name it, and as a person reads it."""


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which runs to compare."""

    losses: tuple[str, ...] = ("arcface", "softmax", "normface")
    """Losses with their default margin, or NAME:MARGIN; module:Class for one of your own."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds; each draws other identities, another split, other initial weights."""
    folder: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/compare")
    """Where the runs and the table go."""
    processes: Count | None = None
    """Runs at once, each on one core. Without it: as many as cores. Give 1 on an accelerator."""


def case_of(loss: str, base: Config, seeds: Sequence[int]) -> Case:
    """The case of NAME or NAME:MARGIN, where NAME may be module:Class."""
    name, _, margin = loss.rpartition(":")
    try:
        margins = {"loss.margin": float(margin)} if name else {}
    except ValueError as error:
        if name in LOSSES:
            raise InputError(
                f"--losses {loss}: {margin!r} is no number; give NAME:MARGIN"
            ) from error
        margins = {}  # module:Class
    name = name if margins else loss
    with concerning(f"--losses {loss}"):
        config = changed(base, loss_changes(name))
        if margins and not hasattr(config.loss, "margin"):
            raise InputError(f"{name} has no margin to set")
        config = changed(config, margins)
    path = name.replace(":", ".")
    return Case(f"{path}_m{margin}" if margins else path, config, seeds=tuple(seeds))


def columns_of(runs: dict[str, Results]) -> dict[str, str]:
    """Those of `COLUMNS` that every run has: not all pairs of few people, nor of older runs. The
    TAR of a few thousand drawn pairs is shown only where there is none of all pairs.
    """
    found = [last(results) for by_seed in runs.values() for results in by_seed.values()]
    shared = {name: title for name, title in COLUMNS.items() if all(name in one for one in found)}
    wide = any(name.startswith(ALL_PAIRS) for name in shared)
    return {name: title for name, title in shared.items() if not (wide and name.startswith("tar"))}


def write_comparison(
    folder: pathlib.Path, runs: dict[str, Results]
) -> tuple[list[list[str]], list[list[str]]]:
    """Writes comparison.md, .json and the picture; returns the rows of both tables."""
    first, *others = runs
    columns = columns_of(runs)
    tests = seed_differences(runs, first, others, columns)
    rows = verification_rows(runs, columns)
    text = markdown_table(("loss", *columns.values()), rows)
    rows_of_tests = difference_rows(tests, first, columns)
    if tests:
        text += "\n" + markdown_table(DIFFERENCE_HEADER, rows_of_tests)
    write_whole(folder / "comparison.md", text)
    numbers = {"losses": verification_numbers(runs, columns), "tests": tests_by_name(tests)}
    write_json(folder / "comparison.json", finite(numbers))
    accuracies = {name: percents(one, "accuracy") for name, one in runs.items()}
    figure = losses_figure({"people never seen in training": accuracies}, COLUMNS["accuracy"])
    save(figure, folder / "comparison")
    return rows, rows_of_tests


def main() -> int:
    """Trains what is missing, then prints and writes the table."""
    arguments, of_train = split_arguments()
    config = read_options(CompareConfig, "compare", __doc__, arguments)
    base = parse(of_train)
    console = new_console()
    tell, begin = functools.partial(say, console), functools.partial(progress_bar, console)
    cases = [case_of(loss, base, config.seeds) for loss in dict.fromkeys(config.losses)]
    if not cases:
        raise InputError("--losses: nothing to compare; give at least one")
    make_folder(config.folder)
    interrupt_on_termination()
    for one in run_all(cases, config.folder, config.processes or os.cpu_count() or 1, tell, begin):
        if one.results is None:
            raise InputError(f"{one.name}, seed {one.seed}: {one.error}")
    runs: dict[str, Results] = {case.name: completed_runs(case, config.folder) for case in cases}
    rows, rows_of_tests = write_comparison(config.folder, runs)
    title = f"Mean ± deviation over {len(config.seeds)} seeds, people never seen in training"
    header = ("loss", *columns_of(runs).values())
    console.print(table_of(header, rows, left=len(header), title=title))
    if rows_of_tests:
        console.print(table_of(DIFFERENCE_HEADER, rows_of_tests, left=len(DIFFERENCE_HEADER)))
    tell(f"Written to {config.folder / 'comparison.md'}, .json and .png")
    return 0


if __name__ == "__main__":
    run_command(main)
