"""Trains several losses under the same budget over several seeds, and compares the verification of unseen people.

python -m experiments.compare                                        ArcFace and softmax, three seeds
python -m experiments.compare --losses arcface cosface --seeds 0 1   others
python -m experiments.compare -- folder --data.root DIR              your own faces (options of experiments.train)

Runs that are complete already are read, not repeated, so the same command goes on after a break.
"""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from arcface_jax.errors import InputError
from arcface_jax.training.config import Config, LossName
from arcface_jax.training.config_file import differences, read_config
from arcface_jax.training.run_folder import CONFIG_FILE, RESULTS_FILE
from experiments.command import help_text, run_command
from experiments.train import parse, run

# What the table shows, as the results name it, and as a person reads it.
COLUMNS = {
    "accuracy": "accuracy",
    "tar@far=0.01": "TAR at FAR 1e-2",
    "tar@far=0.001": "TAR at FAR 1e-3",
    "eer": "EER",
    "auc": "AUC",
}


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Which runs to compare."""

    losses: tuple[LossName, ...] = ("arcface", "softmax")
    """Losses, each with its default margin and scale."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each draws other identities, another split, other initial weights."""
    folder: Annotated[pathlib.Path, tyro.conf.arg(metavar="DIR")] = pathlib.Path("runs/compare")
    """Where the runs and the table go."""


def completed(path: pathlib.Path, config: Config) -> dict[str, dict[str, float]] | None:
    """The verifications of a run by step, if it is complete; the run must have had this configuration."""
    if not (path / RESULTS_FILE).exists():
        return None
    if differences(config, read_config(path / CONFIG_FILE)):
        raise InputError(f"folder {path} holds a run of another configuration; choose another --folder")
    verifications: dict[str, dict[str, float]] = json.loads((path / RESULTS_FILE).read_text())["verifications"]
    return verifications


def last_and_first(verifications: dict[str, dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of the trained network and of the untrained one."""
    return verifications[max(verifications, key=int)], verifications["0"]


def summary(numbers: Sequence[dict[str, float]], column: str) -> str:
    """Median over seeds, with the lowest and the highest."""
    values = np.array([one[column] for one in numbers])
    if column == "auc":
        return f"{np.median(values):.4f} ({values.min():.4f}–{values.max():.4f})"
    return f"{np.median(values):.2%} ({values.min():.2%}–{values.max():.2%})"


def table_rows(runs: dict[str, list[dict[str, float]]]) -> list[list[str]]:
    """One row a loss: its name and the summary of each column."""
    return [[name, *(summary(numbers, column) for column in COLUMNS)] for name, numbers in runs.items()]


def markdown(rows: list[list[str]]) -> str:
    """The table as Markdown."""
    lines = [["loss", *COLUMNS.values()], ["---", *("---:" for _ in COLUMNS)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Trains what is missing, then prints and writes the table."""
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    config = tyro.cli(
        CompareConfig, args=arguments[:split], prog="python -m experiments.compare", description=help_text(__doc__)
    )
    base = parse(arguments[split + 1 :])
    console = Console()
    runs: dict[str, list[dict[str, float]]] = {"untrained": []}
    for loss in config.losses:
        runs[loss] = []
        for seed in config.seeds:
            path = config.folder / f"{loss}-{seed}"
            settings = dataclasses.replace(base.run, seed=seed, folder=str(path))
            own = dataclasses.replace(base, loss=dataclasses.replace(base.loss, name=loss), run=settings)
            verifications = completed(path, own)
            if verifications is None:
                console.rule(f"{loss}, seed {seed}")
                if (status := run(own, console)) != 0:
                    return status
                verifications = completed(path, own) or {}
            trained, untrained = last_and_first(verifications)
            runs[loss].append(trained)
            if loss == config.losses[0]:
                runs["untrained"].append(untrained)
    rows = table_rows(runs)
    table = Table(title=f"Median over {len(config.seeds)} seeds (lowest–highest), people never seen in training")
    for column in ("loss", *COLUMNS.values()):
        table.add_column(column)
    for row in rows:
        table.add_row(*(cell.replace(" (", "\n(") for cell in row))  # a narrow terminal would cut the range off
    console.print(table)
    (config.folder / "comparison.md").write_text(markdown(rows))
    console.print(f"Written to {config.folder / 'comparison.md'}")
    return 0


if __name__ == "__main__":
    run_command(main)
