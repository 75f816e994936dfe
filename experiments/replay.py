"""Takes a step apart whose loss or gradient was not finite, on one device, layer by layer.

python -m experiments.replay runs/RUN/bad-step-N

Prints the norms of every layer, and writes them to report.json there.
"""

import dataclasses
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from arcface_jax.commands.command import Existing, new_console, read_options, run_command
from arcface_jax.runs.bad_steps import Diagnosis, LayerNorms, diagnose


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Which step."""

    folder: Annotated[Existing, tyro.conf.Positional]
    """The bad-step folder of a run, which named it when it stopped."""


def print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    """Loss, cosines, and a row for each layer."""
    cosines = np.array(diagnosis.cosines)
    finite = cosines[np.isfinite(cosines)]
    spread = f"{finite.min():.3f} to {finite.max():.3f}" if finite.size else "none"
    console.print(
        f"Loss {diagnosis.loss:.6g}; first number that is not finite: {diagnosis.first_bad()}"
    )
    console.print(
        f"Cosines with the own class: {spread}; {len(cosines) - len(finite)} of {len(cosines)} are "
        "not finite"
    )
    for kind in ("activations", "parameters", "gradients"):
        table = Table("layer", "norm of the finite part", "not finite", title=kind.capitalize())
        layers: list[LayerNorms] = getattr(diagnosis, kind)
        for layer in layers:
            style = "red" if layer.bad else None
            table.add_row(layer.name, f"{layer.norm:.4g}", str(layer.bad or ""), style=style)
        console.print(table)


def main() -> None:
    """Replays and prints."""
    config = read_options(ReplayConfig, "replay", __doc__)
    print_diagnosis(new_console(), diagnose(config.folder))


if __name__ == "__main__":
    run_command(main)
