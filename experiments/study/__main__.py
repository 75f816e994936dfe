"""The ArcFace paper's study from our own runs: losses, angles, margins, sizes, wrong labels.

python -m experiments.study --omniglot omniglot.zip      everything: hours on two CPU cores
python -m experiments.study losses angles                two parts, which share common runs
python -m experiments.study --plan                       how many runs there are, and are done
python -m experiments.study margins -- --run.steps 800   another budget: options of train
python -m experiments.study small --faces DIR            sets of 10 to 1,000 classes: which collapse

Parts: losses, angles, margins, scales, sizes, noise, optimisation, gradients, precision, tail,
small.

A run that is complete is read, not repeated, so that the same command goes on after a break. Each
part writes PART.md, PART.json and pictures into the folder; study.md has all parts, and what they
cost.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Annotated

import tyro

from arcface_jax.commands.command import (
    Count,
    Existing,
    Seed,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    split_arguments,
    write_json,
)
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, printable
from arcface_jax.figures.ridges import animate_angles
from arcface_jax.figures.style import save
from arcface_jax.files import write_whole
from arcface_jax.models import registry
from arcface_jax.runs.run_folder import finite
from arcface_jax.training.config import Config

from .plan import PARTS, Part, Plan, base_config
from .pool import completed_runs, interrupt_on_termination, merge, missing, run_all
from .report import REPORTS, Findings
from .run import Case

TITLES: dict[Part, str] = {
    "losses": "Losses under one budget, people never seen in training (mean ± deviation over "
    "seeds)",
    "angles": "Angles between embeddings, class centres and class weights (Table 3)",
    "margins": "ArcFace over the margin",
    "scales": "ArcFace over the scale",
    "sizes": "ArcFace over the embedding size",
    "noise": "Wrong labels: one centre, sub-centres, and training again after the clean-up",
    "gradients": "The slope of ArcFace's margin, and how many dimensions the embeddings fill",
    "optimisation": "Where training from scratch fails, and what cures it",
    "precision": "The head's products in float32 and with factors rounded to bfloat16",
    "tail": "A long tail of classes: margins by class size and class weights",
    "small": "Small sets: accuracy in % on new classes, before and after training (median angle to "
    "the own class weight)",
}


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """What to run, and where."""

    parts: Annotated[tuple[Part, ...], tyro.conf.Positional] = tuple(
        part for part in PARTS if part != "small"
    )
    """Parts of the study; all but small by default."""
    folder: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/study")
    """Where the runs, tables and pictures go."""
    only: tuple[str, ...] = ()
    """Only the settings of the parts with such a folder, such as arcface or arcface_m0.3."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds, each of other people, split and weights; part optimisation has the first alone."""
    test_seeds: tuple[Seed, ...] = (0, 1, 2, 3, 4)
    """Seeds of ArcFace, softmax and NormFace, for the tests between them."""
    omniglot: Annotated[Existing | None, tyro.conf.arg(metavar="FILE")] = None
    """Zip file of Omniglot characters, one more data set of parts losses, gradients, tail and
    small.
    """
    faces: Annotated[Existing | None, tyro.conf.arg(metavar="DIR")] = None
    """Folder or zip file of aligned faces, a third data set of part small."""
    processes: Count | None = None
    """Runs at once, each on one core. Without it: as many as cores. Give 1 on an accelerator."""
    plan: bool = False
    """Only say what there is to run."""


def chosen_cases(config: StudyConfig, plan: Plan) -> list[Case]:
    """The cases of the wanted parts, each once."""
    cases = merge([case for part in config.parts for case in plan.cases(part).values()])
    names = {case.name.rpartition("/")[2] for case in cases}
    for name in config.only:
        if name not in names:
            raise InputError(
                f"--only {name}: no setting of {', '.join(config.parts)} is called so; choose "
                f"among {', '.join(sorted(names))}"
            )
    return [
        case for case in cases if not config.only or case.name.rpartition("/")[2] in config.only
    ]


def describe(cases: Sequence[Case], root: pathlib.Path) -> str:
    """How many runs there are, how many are done, and what the rest is likely to take."""
    todo = missing(cases, root)
    runs, left = (sum(len(case.seeds) for case in some) for some in (cases, todo))
    found = [one for case in cases for one in completed_runs(case, root).values()]
    costs = [one["cpu_seconds"] for one in found]
    text = f"{number_of(runs, 'run')} of {number_of(len(cases), 'setting')}, {runs - left} complete"
    if costs and left:
        each = sum(costs) / len(costs)
        text += f"; those took {each:.0f} s of computing each, so {left} more about "
        text += f"{left * each / 60:.0f} min of one core"
    return text


def write_report(part: Part, plan: Plan, root: pathlib.Path) -> list[pathlib.Path]:
    """Writes tables and pictures of a part from what is complete; returns the files."""
    cases = plan.cases(part)
    runs = {label: completed_runs(case, root) for label, case in cases.items()}
    if not any(runs.values()):
        return []
    report = REPORTS[part](Findings(cases, runs, root))
    write_whole(root / f"{part}.md", f"## {TITLES[part]}\n\n{report.text}")
    write_json(root / f"{part}.json", finite(report.numbers))
    files = [root / f"{part}.md", root / f"{part}.json"]
    for name, figure in report.figures.items():
        files += save(figure, root / name, ("png", "svg"))
    if report.angles:
        files.append(animate_angles(report.angles, root / "theta"))
    return files


def write_summary(plan: Plan, root: pathlib.Path) -> pathlib.Path:
    """Puts what every part wrote into one file, with the budget and its cost."""
    texts = [(root / f"{part}.md").read_text() for part in PARTS if (root / f"{part}.md").exists()]
    runs = [json.loads(file.read_text()) for file in sorted(root.rglob("results.json"))]
    data, run, model = plan.base.data, plan.base.run, plan.base.model
    budget = (
        f"{number_of(run.steps, 'step')} of {number_of(run.batch_size, 'image')} of "
        f"{'×'.join(map(str, data.size))} pixels; "
        f"{registry.in_words(model.name, model.width, model.embedding_size)}; "
        f"{number_of(len(runs), 'run')}, {sum(one['cpu_seconds'] for one in runs) / 60:.0f} min of "
        "one core in all."
    )
    write_whole(root / "study.md", "\n".join(["# Study\n", budget + "\n", *texts]))
    return root / "study.md"


def main() -> int:
    """Runs what is missing and writes the tables; 1 if a run failed."""
    arguments, of_train = split_arguments()
    config = read_options(StudyConfig, "study", __doc__, arguments)
    if config.faces is not None and "small" not in config.parts:
        raise InputError("--faces: is for part small; name it too, or leave --faces out")
    base = read_options(Config, "study --", None, of_train, default=base_config())
    plan = Plan(base, config.seeds, config.test_seeds, config.omniglot, config.faces)
    cases = chosen_cases(config, plan)
    console = new_console()
    tell, begin = functools.partial(say, console), functools.partial(progress_bar, console)
    tell(f"Study in {config.folder}: {describe(cases, config.folder)}.")
    if config.plan:
        return 0
    make_folder(config.folder)
    interrupt_on_termination()
    done = run_all(cases, config.folder, config.processes or os.cpu_count() or 1, tell, begin)
    for part in config.parts:
        for file in write_report(part, plan, config.folder):
            tell(f"  {file}")
    tell(f"  {write_summary(plan, config.folder)}")
    failed = [one for one in done if one.results is None]
    for one in failed:
        tell(f"{one.name}, seed {one.seed} failed: {printable(str(one.error))}", "red")
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
