"""What the presets of the papers cost, told from shapes alone: `python -m experiments.plan
--preset NAME`.
"""

import dataclasses

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from arcface_jax.errors import InputError
from arcface_jax.evaluation.tables import markdown_table
from arcface_jax.training.abstract import DEVICE_COUNTS, Cost, cost
from arcface_jax.training.config import HeadConfig
from experiments.configs import RECIPES
from experiments.recipes.recipe import Recipe

_GIB = 2**30
_PARTS = ("backbone", "optimiser", "class_rows", "gradients", "activations", "head", "total")
_TOLD_ON = 8
"""Devices that the table of all presets gives the memory on."""


@dataclasses.dataclass(frozen=True)
class PresetPlan:
    """Presets to plan for, with the number of identities that their data set has."""

    preset: str | None = None
    """One of the papers' recipes; `python -m experiments.train --help` lists them."""
    all_presets: bool = False
    """A line for each of them instead."""
    markdown: bool = False
    """Print it as Markdown."""
    devices: tuple[int, ...] = DEVICE_COUNTS
    """Numbers of devices to tell the memory for (with --preset)."""


def find_recipe(name: str) -> Recipe:
    """The recipe called `name`."""
    if name not in RECIPES:
        raise InputError(f"--preset {name}: choose one of {', '.join(RECIPES)}")
    return RECIPES[name]


def head_in_words(head: HeadConfig) -> str:
    """Kind, and what is sampled."""
    return (
        head.kind
        if head.sample_rate == 1.0
        else f"{head.kind}, {head.sample_rate:g} of the classes"
    )


def memory_table(found: Cost) -> Table:
    """A row for each number of devices, in GiB on each."""
    table = Table(
        title="GiB on each device; activations and head are estimates",
        box=SIMPLE,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("devices", justify="right")
    for name in _PARTS:
        table.add_column(name.replace("_", " "), justify="right", no_wrap="_" not in name)
    for memory in found.memory.values():
        table.add_row(
            str(memory.devices), *(f"{getattr(memory, name) / _GIB:.3f}" for name in _PARTS)
        )
    return table


def all_presets_rows() -> list[list[str]]:
    """The table of all presets, its header first."""
    rows = [
        [
            "preset",
            "data",
            "network",
            "head",
            "schedule",
            "published",
            "parameters",
            f"GiB a device, of {_TOLD_ON}",
        ],
    ]
    for name, recipe in RECIPES.items():
        config, data = recipe(), recipe.data
        found = cost(config, data.identities, (_TOLD_ON,))
        memory = found.memory[_TOLD_ON]
        rows.append(
            [
                name,
                f"{data.name}: {data.identities:,} identities, {data.images:,} images",
                config.model.name,
                f"{config.loss.name}; {head_in_words(config.head)}",
                recipe.schedule(),
                recipe.published or "–",
                f"{found.parameters:,} + {found.class_weights:,}",
                f"{(memory.state + memory.gradients) / _GIB:.1f} + "
                f"{(memory.activations + memory.head) / _GIB:.1f}",
            ]
        )
    return rows


_ABOUT_ALL = (
    "Parameters: backbone + class weights. GiB: weights, optimiser and gradients, exact, + "
    "activations and head, estimated before XLA fuses."
)


def _print_all(console: Console, markdown: bool) -> None:
    rows = all_presets_rows()
    if markdown:
        print(markdown_table(rows[0], rows[1:], numbers=False), _ABOUT_ALL, sep="\n")
        return
    table = Table(caption=_ABOUT_ALL)
    for name in rows[0]:
        table.add_column(name)
    for row in rows[1:]:
        table.add_row(*row)
    console.print(table)


def _memory_rows(table: Table) -> list[list[str]]:
    """A rich table as rows, its header first."""
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def print_presets(plan: PresetPlan, console: Console) -> None:
    """Prints what is asked for.

    Raises:
      InputError: neither a preset is named nor all are wanted, or both, or a preset is unknown.
    """
    if (plan.preset is not None) == plan.all_presets:
        raise InputError("give --preset NAME or --all-presets, one of them")
    if plan.all_presets:
        if plan.devices != DEVICE_COUNTS:
            raise InputError(
                f"--devices is for --preset; the table of all presets is for {_TOLD_ON}"
            )
        _print_all(console, plan.markdown)
        return
    recipe = find_recipe(plan.preset or "")
    config = recipe()
    found = cost(config, recipe.data.identities, plan.devices)
    lines = [
        f"{recipe.name}: {(recipe.make.__doc__ or '').splitlines()[0]}",
        *(line.strip() for line in recipe.facts().splitlines()),
        f"Network: {config.model.name} in {config.model.dtype}, {found.parameters:,} parameters, "
        f"{found.forward_operations / 2e9:.2f} G multiply-adds an image.",
        f"Head: {config.loss.name}, {head_in_words(config.head)}, {found.class_weights:,} class "
        "weights.",
        f"A step of {config.run.batch_size:,} images: {found.step_operations / 1e12:.1f} · 10¹² "
        "operations.",
    ]
    if plan.markdown:
        table = memory_table(found)
        header, *rows = _memory_rows(table)
        print(*lines, "", markdown_table(header, rows), table.title, sep="\n")
        return
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    console.print(memory_table(found))
