"""Trains losses on one budget over data sets and seeds; writes a table for a paper.

python -m experiments.compare                                       ArcFace, softmax, NormFace
python -m experiments.compare --losses arcface arcface:0.3 cosface  others; a number is the margin
python -m experiments.compare --losses arcface my_losses:Mine       a loss of your own
python -m experiments.compare -- folder --data.root DIR             your images: options of train
python -m experiments.compare --names A B -- --data.root A.zip -- --data.root B.zip    several sets

Figures are mean ± deviation over the seeds, on classes that were held out, and on each set of
--data.verify. Bold are the best and what a paired test over the seeds cannot tell from it, where it
tells any apart. Complete runs are read, not repeated, so the same command goes on after a break; a
run that failed is named and left out. Writes comparison.md, .tex, .csv, .json and .png into
--folder. `python -m experiments.study` is the paper's whole study on a small budget.
"""

import csv
import dataclasses
import functools
import io
import itertools
import os
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import tyro

from arcface_jax.analysis.over_seeds import (
    BEST,
    FEWEST_SEEDS,
    LEVEL,
    TOO_FEW,
    WORSE,
    PairedDifference,
    Standing,
    standings,
    summarise,
)
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
from arcface_jax.commands.loss_options import can_be_automatic, take_automatic, with_automatic
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, concerning, printable
from arcface_jax.evaluation.tables import latex_table, markdown_table
from arcface_jax.figures.study import losses_figure
from arcface_jax.figures.style import save
from arcface_jax.files import write_whole
from arcface_jax.losses import LOSSES
from arcface_jax.runs.run_folder import finite
from arcface_jax.runs.verifier import ALL_PAIRS, ALL_PAIRS_FARS, RETRIEVED, by_set
from arcface_jax.training.config import Config

from .study.plan import changed, loss_changes
from .study.pool import completed_runs, interrupt_on_termination, run_all
from .study.run import Case
from .study.tables import (
    DIFFERENCE_HEADER,
    LOWER_IS_BETTER,
    Results,
    by_seed,
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
    **{f"top-{k}": f"top-{k}, %" for k in RETRIEVED},
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
    names: tuple[str, ...] = ()
    """Names of the data sets in the tables, one for each --. Without them: those of data.root."""
    folder: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/compare")
    """Where the runs and the tables go."""
    processes: Count | None = None
    """Runs at once, each on one core. Without it: as many as cores. Give 1 on an accelerator."""


@dataclasses.dataclass(frozen=True)
class Base:
    """What the losses of a data set have in common, and which of their numbers its classes decide
    for each.
    """

    config: Config
    automatic: tuple[str, ...] = ()


def data_sets(arguments: Sequence[str], names: Sequence[str]) -> dict[str, Base]:
    """What each -- begins, by the name of its data."""
    marks = [-1, *(at for at, word in enumerate(arguments) if word == "--"), len(arguments)]
    parts = [take_automatic(list(arguments[a + 1 : b])) for a, b in itertools.pairwise(marks)]
    bases = [Base(parse(rest), automatic) for automatic, rest in parts]
    if not names:
        roots = (base.config.data.root for base in bases)
        names = ["synthetic" if root is None else pathlib.Path(root).stem for root in roots]
    folders = set(map(folder_of, names))
    if len(bases) != len(names):
        raise InputError(
            f"--names: {number_of(len(names), 'name')} for {number_of(len(bases), 'data set')}; "
            "give one for each --"
        )
    if len(names) != len(folders) or "" in folders:
        raise InputError(
            f"--names: {number_of(len(bases), 'data set', 'are')} called {', '.join(names)}; "
            "give each one that differs from the others in a letter or digit"
        )
    return dict(zip(names, bases, strict=True))


def folder_of(data_set: str) -> str:
    """Where the runs of a data set lie, in --folder."""
    return re.sub(r"\W+", "_", data_set).strip("_")


def case_of(loss: str, base: Base, seeds: Sequence[int], folder: str) -> Case:
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
        config = changed(base.config, loss_changes(name))
        if margins and not hasattr(config.loss, "margin"):
            raise InputError(f"{name} has no margin to set")
        automatic = [
            one
            for one in base.automatic
            if can_be_automatic(config.loss, one) and f"loss.{one}" not in margins
        ]
        config = with_automatic(changed(config, margins), automatic)
    path = name.replace(":", ".") + (f"_m{margin}" if margins else "")
    return Case(f"{folder}/{path}", config, seeds=tuple(seeds))


def columns_of(runs: dict[str, Results]) -> dict[str, str]:
    """Those of `COLUMNS` that every run has: not all pairs of few people, nor of older runs. The
    TAR of a few thousand drawn pairs is shown only where there is none of all pairs.
    """
    found = [last(results) for by_seed in runs.values() for results in by_seed.values()]
    shared = {
        name: title
        for name, title in COLUMNS.items()
        if all(one.get(name) is not None for one in found)
    }
    wide = any(name.startswith(ALL_PAIRS) for name in shared)
    return {name: title for name, title in shared.items() if not (wide and name.startswith("tar"))}


@dataclasses.dataclass(frozen=True)
class Block:
    """The losses on one set of images: results by loss and seed, and what all have of `COLUMNS`."""

    title: str
    runs: dict[str, Results]
    columns: dict[str, str]

    @functools.cached_property
    def standings(self) -> dict[str, dict[str, Standing]]:
        """By column and loss."""
        return {
            column: standings(
                {name: by_seed(one, column) for name, one in self.runs.items()},
                lower_is_better=column in LOWER_IS_BETTER,
            )
            for column in self.columns
        }

    @functools.cached_property
    def tests(self) -> dict[tuple[str, str], PairedDifference]:
        """The first loss against each other one."""
        first, *others = self.runs
        return seed_differences(self.runs, first, others, self.columns)

    @property
    def rows_of_tests(self) -> list[list[str]]:
        """The same as text."""
        return difference_rows(self.tests, next(iter(self.runs)), self.columns)

    def rows(self, columns: Iterable[str]) -> tuple[list[list[str]], set[tuple[int, int]]]:
        """(a row of each loss, the best mean first, and of the start; which cells are bold)."""
        rows, bold = [], set()
        for number, (name, *cells) in enumerate(verification_rows(self.runs, self.columns)):
            given = dict(zip(self.columns, cells, strict=True))
            rows.append([name, *(given.get(column, "–") for column in columns)])
            for at, column in enumerate(columns, start=1):
                verdicts = {
                    each: one.verdict for each, one in self.standings.get(column, {}).items()
                }
                if WORSE in verdicts.values() and verdicts.get(name) in (BEST, LEVEL):
                    bold.add((number, at))
        return rows, bold


def blocks_of(data_set: str, runs: Mapping[str, Results]) -> list[Block]:
    """A block of the classes that were held out, or else of the first set, and one of each other
    set that is verified; without losses whose runs all failed.
    """
    found: dict[str, dict[str, Any]] = {}
    for loss, results in runs.items():
        for seed, one in results.items():
            for step, numbers in one["verifications"].items():
                for name, own in by_set(numbers).items():
                    block = found.setdefault(name, {}).setdefault(loss, {})
                    block.setdefault(seed, {"verifications": {}})["verifications"][step] = own
    titles = {name: f"{data_set}, {name}" if name else data_set for name in found}
    return [Block(titles[name], own, columns_of(own)) for name, own in found.items()]


def notes_on(blocks: Sequence[Block], seeds: int) -> list[str]:
    """What the tables show, and what bold means or why nothing is."""
    verdicts = {
        s.verdict for block in blocks for of in block.standings.values() for s in of.values()
    }
    notes = {
        f"Mean ± deviation over {number_of(seeds, 'seed')}.": seeds > 1,
        "TAR@f: share of the same pairs that pass where f of the others do; of all pairs.": True,
        "Bold: the best, and what a paired t test over the seeds (5 %, Holm) cannot tell from "
        "it.": WORSE in verdicts,
        f"{TOO_FEW.capitalize()} to test a loss of fewer than {FEWEST_SEEDS}.": TOO_FEW in verdicts,
    }
    return [note for note, wanted in notes.items() if wanted]


def as_csv(blocks: Sequence[Block], seeds: Sequence[int]) -> str:
    """A line for each set, loss and figure, with all digits, and the figure of each seed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("set", "loss", "figure", "seeds", "mean", "deviation", "verdict", "p")
    writer.writerow([*header, *(f"seed {seed}" for seed in seeds)])
    for block, column in ((each, column) for each in blocks for column in each.columns):
        for name, standing in block.standings[column].items():
            values = by_seed(block.runs[name], column)
            one = summarise(list(values.values()))
            tested = (one.count, one.mean, one.deviation, standing.verdict, standing.p_value)
            line = (block.title, name, column, *tested, *(values.get(seed, "") for seed in seeds))
            writer.writerow(["" if cell != cell else cell for cell in line])  # NaN
    return text.getvalue()


def write_comparison(
    folder: pathlib.Path, blocks: Sequence[Block], seeds: Sequence[int], notes: Sequence[str]
) -> None:
    """Writes comparison.md, .tex, .csv, .json and the picture."""
    columns = [column for column in COLUMNS if any(column in block.columns for block in blocks)]
    text, numbers, accuracies = [], {}, {}
    for block in blocks:
        rows, bold = block.rows(block.columns)
        text += [
            f"## {block.title}\n",
            markdown_table(("loss", *block.columns.values()), rows, bold=bold),
        ]
        if block.tests:
            text.append(markdown_table(DIFFERENCE_HEADER, block.rows_of_tests))
        values = verification_numbers(block.runs, block.columns)
        numbers[block.title] = {"losses": values, "tests": tests_by_name(block.tests)}
        accuracies[block.title] = {
            name: percents(one, "accuracy") for name, one in block.runs.items()
        }
    write_whole(folder / "comparison.md", "\n".join([*text, *map("{}\n".format, notes)]))
    titles = (re.sub(r"TAR at FAR (\S+), all pairs", r"TAR@\1", COLUMNS[each]) for each in columns)
    parts = [(block.title, *block.rows(columns)) for block in blocks]
    write_whole(folder / "comparison.tex", latex_table(("loss", *titles), parts, notes))
    write_whole(folder / "comparison.csv", as_csv(blocks, seeds))
    write_json(folder / "comparison.json", finite(numbers))
    save(losses_figure(accuracies, COLUMNS["accuracy"]), folder / "comparison")


def main() -> int:
    """Trains what is missing, then prints and writes the tables; 1 if a run failed."""
    arguments, of_train = split_arguments()
    config = read_options(CompareConfig, "compare", __doc__, arguments)
    bases = data_sets(of_train, config.names)
    console = new_console()
    tell, begin = functools.partial(say, console), functools.partial(progress_bar, console)
    losses, seeds = dict.fromkeys(config.losses), list(dict.fromkeys(config.seeds))
    cases = {
        name: [case_of(loss, base, seeds, folder_of(name)) for loss in losses]
        for name, base in bases.items()
    }
    if not losses:
        raise InputError("--losses: nothing to compare; give at least one")
    make_folder(config.folder)
    interrupt_on_termination()
    every = list(itertools.chain.from_iterable(cases.values()))
    done = run_all(every, config.folder, config.processes or os.cpu_count() or 1, tell, begin)
    failed = [f"{one.name}, seed {one.seed}: {one.error}" for one in done if one.results is None]
    blocks = []
    for name, own in cases.items():
        runs = {case.name.partition("/")[2]: completed_runs(case, config.folder) for case in own}
        blocks += blocks_of(name, runs)
    if not blocks:
        raise InputError(failed[0])
    notes = [*notes_on(blocks, len(seeds)), *(f"Failed: {printable(one)}" for one in failed)]
    write_comparison(config.folder, blocks, seeds, notes)
    for block in blocks:
        header, (rows, _) = ("loss", *block.columns.values()), block.rows(block.columns)
        console.print(table_of(header, rows, left=len(header), title=printable(block.title)))
        if block.tests:
            console.print(table_of(DIFFERENCE_HEADER, block.rows_of_tests, left=5))
    for note in notes:
        tell(note)
    tell(f"Written to {config.folder / 'comparison.md'}, .tex, .csv, .json and .png")
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
