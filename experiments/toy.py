"""Eight people in two dimensions: the gap that a margin leaves between classes, drawn and measured.

python -m experiments.toy                                    eight synthetic people
python -m experiments.toy --dimension 3
python -m experiments.toy --people faces.zip                 the first eight of a folder, zip file
python -m experiments.toy --margin 0.9                       more than a circle of eight can hold

Trains a small network on half of each person's images with plain softmax, softmax on the sphere and
ArcFace, several times each, and measures the smallest angle between neighbouring classes, on those
images and on the other half. Writes toy.json and a picture into runs/toy, or --output.
"""

import dataclasses
import functools
import math
import pathlib
from typing import Annotated, NamedTuple

import numpy as np
from rich.console import Console

from arcface_jax.analysis.class_gaps import class_gaps, even_circle_probability
from arcface_jax.commands.command import (
    Checked,
    Count,
    Positive,
    Range,
    Seed,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    say_written,
    write_json,
)
from arcface_jax.commands.small_model import SmallRecipe, train_small
from arcface_jax.counts import number_of
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.open import check_source, open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.figures.features import Features, features_figure
from arcface_jax.figures.style import save
from arcface_jax.margins import arcface
from arcface_jax.models.embed import embed_images, make_embed_function
from arcface_jax.progress import Begin, unseen

IMAGES_OF_A_PERSON = 100
"""Synthetic images of each person, half of them to train on."""


_make_embed = functools.cache(make_embed_function)  # compiled once for all losses and seeds


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    people: Annotated[str, Checked(check_source)] | None = None
    """Source of images; synthetic people if not given."""
    identities: Count = 8
    """How many people; of a source, the first ones."""
    dimension: Annotated[int, Range(2, 3)] = 2
    """Dimension of the embedding, 2 or 3."""
    margin: float = 0.5
    """ArcFace's m, radians. On a circle of C people it must be below 2π/C."""
    scale: Positive = 16.0
    """s of the softmax on the sphere and of ArcFace."""
    difficulty: Annotated[float, Range(0.0, 2.0)] = 0.5
    """Difficulty of synthetic images, 0 … 2. At 1 a two-dimensional embedding does not learn all of
    them.
    """
    steps: Count = 800
    """Steps of training."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the networks; the picture shows the first."""
    quantile: Annotated[float, Range(0.0, 0.5)] = 0.02
    """Share of a class's images at each side that its edge leaves out."""
    output: pathlib.Path = pathlib.Path("runs/toy")
    """Folder for toy.json and the picture."""


class Half(NamedTuple):
    """Half of the images of some people."""

    images: np.ndarray
    labels: np.ndarray


def read_halves(arguments: Arguments) -> tuple[Half, Half]:
    """Every other image of each person to train on, the rest unseen."""
    if arguments.dimension not in (2, 3):
        raise InputError(f"--dimension {arguments.dimension}: only 2 and 3 can be drawn")
    source: FaceSource
    if arguments.people is None:
        source = SyntheticFaces(
            arguments.identities, IMAGES_OF_A_PERSON, image_size=32, difficulty=arguments.difficulty
        )
    else:
        source = open_source(arguments.people)
    labels = np.asarray(source.labels)
    if not 2 <= arguments.identities <= len(source.identity_names):
        raise InputError(
            f"--identities {arguments.identities}: give 2 or more, of the "
            f"{number_of(len(source.identity_names), 'person')} there are"
        )
    sample = load_source(Subset(source, np.flatnonzero(labels < arguments.identities)), 32)
    place = np.zeros(len(sample), np.int64)
    for label in range(arguments.identities):
        own = np.flatnonzero(sample.labels == label)
        if len(own) < 2:
            raise InputError(
                f"{sample.identity_names[label]}: has {number_of(len(own), 'image')}; two are "
                "needed, one for each half"
            )
        place[own] = np.arange(len(own))
    first = place % 2 == 0
    training, unseen = (Half(sample.images[half], sample.labels[half]) for half in (first, ~first))
    return training, unseen


def study(
    halves: tuple[Half, Half],
    recipe: SmallRecipe,
    arguments: Arguments,
    seed: int,
    begin: Begin = unseen,
) -> tuple[dict[str, float], Features]:
    """Trains once; returns what was measured, and the panel to draw."""
    with begin(f"{name_of(recipe)}, seed {seed}", recipe.steps) as move:
        model = train_small(*halves[0], recipe, seed, lambda _: move(1))
    assert model.class_weights is not None
    embed = _make_embed(recipe.backbone)
    centres = unit_embeddings(model.class_weights)
    numbers: dict[str, float] = {}
    shown: dict[str, np.ndarray] = {}
    for name, (images, labels) in zip(("training", "unseen"), halves, strict=True):
        embeddings = unit_embeddings(embed_images(embed, model.variables, images, batch_size=64))
        shown |= {name: embeddings, f"{name}_labels": labels}
        found = class_gaps(embeddings, labels, quantile=arguments.quantile).numbers()
        found["nearest_centre"] = float(np.mean((embeddings @ centres.T).argmax(axis=1) == labels))
        numbers |= {f"{name}_{key}": value for key, value in found.items()}
    note = f"smallest gap {numbers['training_smallest_gap']:.1f}°"
    return numbers, Features(name_of(recipe), **shown, centres=centres, note=note)


def name_of(recipe: SmallRecipe) -> str:
    """The loss, for people."""
    if recipe.margin is None:
        return "softmax"
    return f"ArcFace, m = {recipe.margin:g}" if recipe.margin else "softmax on the sphere"


def check_feasible(arguments: Arguments, console: Console) -> dict[str, float]:
    """What a circle bears: the largest margin, and the best probability of the true class."""
    largest = 2 * math.pi / arguments.identities
    best = even_circle_probability(arguments.identities, arcface(arguments.margin), arguments.scale)
    if arguments.dimension == 2:
        say(
            console,
            f"{number_of(arguments.identities, 'class')} on a circle are "
            f"{math.degrees(largest):.1f}° apart, m is {math.degrees(arguments.margin):.1f}°; at "
            f"best softmax gives the true class {best:.1%} at s = {arguments.scale:g}",
        )
        if arguments.margin >= largest:
            bound = f"2π/C = {largest:.3f}; no arrangement satisfies it"
            say(console, f"warning: m = {arguments.margin:g} is not below {bound}", "yellow")
    return {"largest_feasible_margin": largest, "best_probability": best}


def run(arguments: Arguments) -> None:
    """Trains, measures, prints, writes."""
    console = new_console()
    make_folder(arguments.output)
    halves = read_halves(arguments)
    report: dict[str, object] = {"circle": check_feasible(arguments, console)}
    panels = []
    begin = functools.partial(progress_bar, console)
    for margin in (None, 0.0, arguments.margin):
        recipe = SmallRecipe(arguments.dimension, margin, arguments.scale, arguments.steps)
        runs = [study(halves, recipe, arguments, seed, begin) for seed in arguments.seeds]
        panels.append(runs[0][1])
        values = {key: [numbers[key] for numbers, _ in runs] for key in runs[0][0]}
        report[name_of(recipe)] = values
        say(
            console,
            f"{name_of(recipe)}: smallest gap {spread_of(values['training_smallest_gap'])}°, "
            f"spread {spread_of(values['training_spread'])}°; unseen images: spread "
            f"{spread_of(values['unseen_spread'])}°, nearest to their centre "
            f"{spread_of([100 * share for share in values['unseen_nearest_centre']])} %",
        )
    file, picture = (arguments.output / n for n in ("toy.json", f"toy_{arguments.dimension}d"))
    write_json(file, report)
    say_written(console, file, *save(features_figure(panels), picture, ("png", "svg")))


def spread_of(values: list[float]) -> str:
    """Median (lowest … highest) over seeds."""
    return f"{np.median(values):.1f} ({min(values):.1f} … {max(values):.1f})"


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "toy", __doc__))


if __name__ == "__main__":
    run_command(main)
