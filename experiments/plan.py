"""Says which head fits how many identities, before anything is allocated.

python -m experiments.plan 1000000                                       one device of 80 GiB
python -m experiments.plan 29000000 --batch 512 --compile                XLA's plan beside it
python -m experiments.plan 100000000 --devices 8 --compile
python -m experiments.plan --preset webface42m-r100                      a whole run
python -m experiments.plan --all-presets --markdown
python -m experiments.plan --networks iresnet50 iresnet100               a step on A100, H100, v5e
python -m experiments.plan --networks vit_b --xla                        XLA's count of it beside

Prints tables, and writes nothing.
"""

import dataclasses
import functools
import math
import sys
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from arcface_jax.commands.command import (
    Count,
    Positive,
    Share,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    table_of,
)
from arcface_jax.commands.help_page import first_sentence
from arcface_jax.commands.option_list import options_of
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.tables import markdown_table
from arcface_jax.heads.chunks import DEFAULT_CHUNK
from arcface_jax.losses import loss_name
from arcface_jax.models import registry
from arcface_jax.progress import Begin, unseen
from arcface_jax.training.abstract import DEVICE_COUNTS, Cost, cost
from arcface_jax.training.config import HeadConfig
from arcface_jax.training.head_plan import (
    HeadSize,
    compiled_memory,
    predicted_memory,
    predicted_operations,
)
from arcface_jax.training.step_time import (
    ACCELERATORS,
    UPDATE_BYTES,
    counted_step,
    needs,
    step_time,
)

from .recipes.presets import RECIPES

_GIB = 2**30
_PARTS = ("backbone", "optimiser", "class_rows", "gradients", "activations", "head", "total")
_TOLD_ON = 8
"""Devices that the table of all presets gives the memory on."""


@dataclasses.dataclass(frozen=True)
class PresetPlan:
    """Presets to plan for, with the number of identities that their data set has."""

    preset: str | None = None
    """One of the papers' recipes; train --presets lists them."""
    all_presets: bool = False
    """A line for each of them instead."""
    markdown: bool = False
    """Print it as Markdown."""
    devices: tuple[Count, ...] = DEVICE_COUNTS
    """Numbers of devices to tell the memory for, and what going on from each with the next reads
    (with --preset).
    """


def progress_beside() -> Begin:
    """On the error stream, for the table may go to a file."""
    return functools.partial(progress_bar, new_console(stderr=True))


def head_in_words(head: HeadConfig) -> str:
    """Kind, and what is sampled."""
    sampled = f", {head.sample_rate:g} of the classes" if head.sample_rate != 1.0 else ""
    return head.kind + sampled


_ABOUT_MEMORY = "GiB on each device; activations and head are estimates"


def memory_rows(found: Cost) -> tuple[list[str], list[list[str]]]:
    """(header, a row for each number of devices), in GiB on each."""
    rows = [
        [str(one.devices), *(f"{getattr(one, name) / _GIB:.3f}" for name in _PARTS)]
        for one in found.memory.values()
    ]
    return ["devices", *(name.replace("_", " ") for name in _PARTS)], rows


def all_presets_rows(begin: Begin = unseen) -> tuple[list[str], list[list[str]]]:
    """(header, a row for each preset); `begin` shows the work."""
    header = ["preset", "data", "network", "head", "schedule", "published", "parameters"]
    rows = []
    with begin("Planning", len(RECIPES)) as move:
        for name, recipe in RECIPES.items():
            move(0, name)
            config, data = recipe(), recipe.data
            found = cost(config, data.identities, (_TOLD_ON,))
            memory = found.memory[_TOLD_ON]
            people, images = number_of(data.identities, "identity"), number_of(data.images, "image")
            on = f"{data.name}: {people}, {images}"
            head = f"{loss_name(config.loss)}; {head_in_words(config.head)}"
            kept, working = memory.state + memory.gradients, memory.activations + memory.head
            sizes = [f"{found.parameters:,} + {found.class_weights:,}"]
            sizes += [f"{kept / _GIB:.1f} + {working / _GIB:.1f}"]
            about = [config.model.name, head, recipe.schedule(), recipe.published or "–"]
            rows.append([name, on, *about, *sizes])
            move(1, "")
    return [*header, f"GiB a device, of {_TOLD_ON}"], rows


_ABOUT_ALL = (
    "Parameters: backbone + class weights. GiB: weights, optimiser and gradients, exact, + "
    "activations and head, estimated before XLA fuses."
)


def print_presets(plan: PresetPlan, console: Console) -> None:
    """Prints one preset, or the table of all."""
    begin = progress_beside()
    if (plan.preset is not None) == plan.all_presets:
        raise InputError("give --preset NAME or --all-presets, one of them")
    if plan.all_presets:
        if plan.devices != DEVICE_COUNTS:
            raise InputError(
                f"--devices is for --preset; the table of all presets is for {_TOLD_ON}"
            )
        header, rows = all_presets_rows(begin)
        if plan.markdown:
            print(markdown_table(header, rows, numbers=False), _ABOUT_ALL, sep="\n")
        else:
            console.print(table_of(header, rows, left=len(header), caption=_ABOUT_ALL))
        return
    if plan.preset not in RECIPES:
        raise InputError(f"--preset {plan.preset}: choose one of {', '.join(RECIPES)}")
    recipe = RECIPES[plan.preset]
    config = recipe()
    with begin(f"Planning {plan.preset}", None):
        found = cost(config, recipe.data.identities, plan.devices)
    lines = [
        f"{recipe.name}: {first_sentence(recipe.make.__doc__ or '')}",
        *(line.strip() for line in recipe.facts().splitlines()),
        f"Network: {config.model.name} in {config.model.dtype}, "
        f"{number_of(found.parameters, 'parameter')}, {found.forward_operations / 2e9:.2f} G "
        "multiply-adds an image.",
        f"Head: {loss_name(config.loss)}, {head_in_words(config.head)}, "
        f"{number_of(found.class_weights, 'class weight')}.",
        f"A step of {number_of(config.run.batch_size, 'image')}: "
        f"{found.step_operations / 1e12:.1f} · 10¹² operations.",
    ]
    uneven = [count for count in plan.devices if config.run.batch_size % count]
    if uneven:
        lines.append(
            f"{' or '.join(map(str, uneven))} devices cannot share a batch of "
            f"{number_of(config.run.batch_size, 'image')}: train with --run.batch-size of a "
            f"multiple of {math.lcm(*plan.devices)}."
        )
    header, rows = memory_rows(found)
    moves = [
        f"Going on from {number_of(move.saved, 'device')} with {move.devices}: each reads up to "
        f"{move.read / _GIB:.3f} GiB of class rows, {move.at_a_time / _GIB:.3f} at a time."
        for move in found.relaying
    ]
    if plan.markdown:
        print(*lines, "", markdown_table(header, rows), _ABOUT_MEMORY, *moves, sep="\n")
        return
    for line in lines:
        say(console, line)
    style: dict[str, Any] = {"box": SIMPLE, "pad_edge": False, "collapse_padding": True}
    table = table_of(header, rows, left=0, title=_ABOUT_MEMORY, **style)
    for column in table.columns:
        column.no_wrap = " " not in str(column.header)
    console.print(table)
    for move in moves:
        say(console, move)


@dataclasses.dataclass(frozen=True)
class NetworkPlan:
    """A training step of networks in bfloat16: what it computes and moves, and how long it should
    take, by makers' rates.
    """

    networks: tuple[str, ...]
    """Names of backbones, at their published width."""
    batches: tuple[Count, ...] = (128, 256, 512, 1024)
    """Images of a step on one device, for what it computes and moves."""
    classes: tuple[Count, ...] = (1_000_000, 10_000_000)
    """Numbers of identities, C, for the times."""
    batch: Count = 1024
    """Images of a step over all devices, for the times."""
    devices: Count = 8
    """Devices, for the times."""
    image_size: Count = 112
    """Side of the images."""
    dim: Count = 512
    """Length of the embeddings, D."""
    xla: bool = False
    """Lower every step and give XLA's own count beside; minutes for a deep network."""
    markdown: bool = False
    """Print Markdown."""


PUBLISHED = (("iresnet50", 2048, 7780), ("iresnet50", 10_240, 9400), ("iresnet100", 1024, 3700))
"""Network, batch and images a second of arcface_torch on 8 × A100 over 618,000 classes, in fp16."""
_PUBLISHED_CLASSES = 618_000
_ABOUT_TIMES = (
    "ms of a step on each device, at the makers' full rates: not measured. Fused exact head over "
    "split classes; memory: what fused layers must move; small: collectives of batch statistics, "
    "at an assumed 15 µs (TPU: 5) each. img/s: all of it in turn – all at once."
)


def network_of(name: str, plan: NetworkPlan) -> Any:
    """The backbone in bfloat16 at its published width."""
    return registry.create(name, width=64, embedding_size=plan.dim, dtype=jnp.bfloat16)


def needs_rows(plan: NetworkPlan, begin: Begin = unseen) -> tuple[list[str], list[list[str]]]:
    """(header, a row for each network and batch): a step of the backbone alone on one device."""
    header = ["network", "batch", "TFLOP by hand", "GB by hand", "FLOP a byte"]
    header += ["TFLOP by XLA", "GB by XLA, unfused"] if plan.xla else []
    rows = []
    with begin("Counting", len(plan.networks) * len(plan.batches)) as move:
        for name in plan.networks:
            network = network_of(name, plan)
            need = needs(network, plan.image_size)
            for batch in plan.batches:
                move(0, f"{name}, batch {batch}")
                operations = 3 * batch * need.operations
                moved = batch * need.image_bytes + need.weight_bytes
                moved += UPDATE_BYTES * need.parameters
                row = [name, f"{batch:,}", f"{operations / 1e12:.3f}", f"{moved / 1e9:.2f}"]
                row += [f"{operations / moved:.0f}"]
                if plan.xla:
                    by_xla = counted_step(network, plan.image_size, batch)
                    row += [f"{by_xla['flops'] / 1e12:.3f}"]
                    row += [f"{by_xla['bytes accessed'] / 1e9:.2f}"]
                rows.append(row)
                move(1)
    return header, rows


def time_rows(plan: NetworkPlan) -> tuple[list[str], list[list[str]]]:
    """(header, a row for each device, network and number of classes, the published ones first)."""
    header = ["device", "network", "batch", "classes", "products", "memory", "links", "small"]
    header += ["img/s", "published", "of in turn"]
    cases: list[tuple[Any, ...]] = [
        ("A100", name, batch, _PUBLISHED_CLASSES, 8, speed)
        for name, batch, speed in PUBLISHED
        if name in plan.networks
    ]
    cases += [
        (device, name, plan.batch, classes, plan.devices, None)
        for device in ACCELERATORS
        for name in plan.networks
        for classes in plan.classes
    ]
    rows = []
    for device, name, batch, classes, devices, speed in cases:
        need = needs(network_of(name, plan), plan.image_size)
        # arcface_torch normalises each device's images by their own statistics.
        options: Any = {"devices": devices, "dim": plan.dim, "statistics": speed is None}
        time = step_time(need, ACCELERATORS[device], classes=classes, batch=batch, **options)
        parts = (time.products, time.memory, time.links, time.small)
        row = [f"{devices} × {device}", name, f"{batch:,}", f"{classes:,}"]
        row += [f"{1e3 * part:.1f}" for part in parts]
        row += [f"{batch / time.in_turn:,.0f} – {batch / time.at_once:,.0f}"]
        row += (
            ["–", "–"] if speed is None else [f"{speed:,}", f"{speed * time.in_turn / batch:.2f}"]
        )
        rows.append(row)
    return header, rows


def print_networks(plan: NetworkPlan, console: Console) -> None:
    """Prints both tables."""
    if unknown := [name for name in plan.networks if name not in registry.names()]:
        raise InputError(f"--networks {unknown[0]}: choose among {', '.join(registry.names())}")
    if plan.batch % plan.devices:
        raise InputError(
            f"--batch {plan.batch}: pass a multiple of the {number_of(plan.devices, 'device')}"
        )
    about = "A step of the backbone alone: forward, backward, SGD"
    for title, (header, rows) in (
        (about, needs_rows(plan, progress_beside())),
        (_ABOUT_TIMES, time_rows(plan)),
    ):
        if plan.markdown:
            print(markdown_table(header, rows, numbers=False), title, "", sep="\n")
        else:
            console.print(table_of(header, rows, left=2, caption=title))


_EXACT = (("dense", "float32"), ("chunked", "float32"), ("fused", "float32"), ("fused", "bfloat16"))
_HEADS = (*_EXACT, ("partial", "float32"), ("partial", "bfloat16"))
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class PlanConfig:
    """A head to plan for: SGD with momentum, float32 arithmetic; the backbone comes on top."""

    identities: Annotated[Count, tyro.conf.Positional]
    """Identities, C in the papers."""
    dim: Count = 512
    """Length of the embeddings, D."""
    batch: Count = 512
    """Images of a step, N, over all devices."""
    devices: Count = 1
    """Devices that share the classes."""
    memory_gib: Positive = 80.0
    """What each has for the head."""
    tflops: Positive | None = None
    """Float32 matmul rate of a device in 10¹² operations a second; gives the least step time."""
    chunk: Count = DEFAULT_CHUNK
    """Classes at a time."""
    rate: Share = 0.1
    """What part of the classes the partial head samples."""
    compile: bool = False
    """Compile every step from shapes too, for simulated devices, and show the compiler's plan."""


def plan_table(config: PlanConfig, begin: Begin = unseen) -> tuple[Table, str | None]:
    """A row for every head; and the first, in order of simplicity and exactness, that fits. `begin`
    shows the work.
    """
    title = f"{number_of(config.identities, 'identity')} × {config.dim}, N = {config.batch}"
    table = Table(title=f"{title}, {number_of(config.devices, 'device')}")
    names = ["head", "dtype", "weights + momentum", "gradient", "working", "GiB a device"]
    names += ["compiled plan"] if config.compile else []
    names += ["fits"] + (["≥ s/step"] if config.tflops else [])
    for name in names:
        table.add_column(name, justify="left" if name in ("head", "dtype", "fits") else "right")
    best = None
    with begin("Planning", len(_HEADS)) as move:
        for head, dtype in _HEADS:
            move(0, f"{head} in {dtype}")
            sizes = (config.identities, config.dim, config.batch, config.devices)
            size = HeadSize(head, *sizes, dtype, config.chunk, config.rate)
            memory = predicted_memory(size)
            total = compiled_memory(size).total if config.compile else memory.total
            fits = total <= config.memory_gib * _GIB
            best = best or (f"{head} in {dtype}" if fits else None)
            parts = (memory.state, memory.gradient, memory.working)
            row = [head, dtype, *(f"{part / _GIB:.3f}" for part in parts)]
            row += [f"{memory.total / _GIB:.3f}"] + (
                [f"{total / _GIB:.3f}"] if config.compile else []
            )
            row += ["yes" if fits else "no"]
            row += (
                [f"{predicted_operations(size) / config.tflops / 1e12:.4f}"]
                if config.tflops
                else []
            )
            table.add_row(*row)
            move(1, "")
    return table, best


def run(config: PlanConfig) -> None:
    """Prints the table and the choice."""
    if config.compile:
        # Simulated devices have to be asked for before JAX starts its backend.
        jax.config.update("jax_num_cpu_devices", max(1, config.devices))
    console = new_console()
    table, best = plan_table(config, progress_beside())
    console.print(table)
    if best is None:
        console.print(f"No head fits {config.memory_gib:g} GiB; use more devices.")
    else:
        exact = (
            "over a sample of the classes" if best.startswith("partial") else "the exact softmax"
        )
        console.print(f"The first that fits {config.memory_gib:g} GiB: {best}, {exact}.")
    if config.compile:
        console.print("“compiled plan” is what XLA's compiler plans for these shapes, not a run.")


def main() -> None:
    """Plans a head by the number of its identities, whole presets, or networks' steps."""
    # Each takes its own options, so that none is accepted that does nothing.
    if any(argument.split("=")[0] == "--networks" for argument in sys.argv[1:]):
        jax.config.update("jax_platforms", "cpu")
        print_networks(read_options(NetworkPlan, "plan", __doc__), new_console())
    elif any(argument.split("=")[0] in ("--preset", "--all-presets") for argument in sys.argv[1:]):
        # Shapes need no accelerator, and must not wait for one that is busy.
        jax.config.update("jax_platforms", "cpu")
        print_presets(read_options(PresetPlan, "plan", __doc__), new_console())
    else:
        run(read_options(PlanConfig, "plan", __doc__, also=options_of(PresetPlan)[:2]))


if __name__ == "__main__":
    run_command(main)
