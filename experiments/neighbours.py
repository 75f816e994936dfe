"""Who is near whom: the most alike people, the mistakes between them, and all in a plane.

python -m experiments.neighbours                                  a small model, people new to it
python -m experiments.neighbours runs/RUN --people faces.zip
python -m experiments.neighbours model.ckpt --people faces.zip --layout tsne   (scikit-learn)

Writes neighbours.json and two pictures into runs/neighbours, or --output.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Literal

import numpy as np
import tyro

from arcface_jax.analysis.neighbours import (
    ClassPairs,
    import_tsne,
    kept_neighbours,
    nearest_classes,
    principal_plane,
    tsne_plane,
)
from arcface_jax.commands.command import (
    Checked,
    Range,
    Seed,
    Share,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
    say_written,
    table_of,
    write_json,
)
from arcface_jax.commands.model_and_people import (
    DEFAULT_PEOPLE,
    default_source,
    embed_people,
    open_analysed,
    open_people,
)
from arcface_jax.commands.models import Project, Trained
from arcface_jax.counts import number_of
from arcface_jax.data.open import check_source
from arcface_jax.data.source import places_of
from arcface_jax.errors import InputError, printable
from arcface_jax.evaluation.all_pairs import all_pairs_roc
from arcface_jax.evaluation.roc import operating_point
from arcface_jax.figures.evaluation import pair_sheet
from arcface_jax.figures.evaluation_set import decision
from arcface_jax.figures.neighbours import plane_figure
from arcface_jax.figures.style import save


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: Annotated[Trained | None, tyro.conf.Positional] = None
    """The folder of a run, a PyTorch checkpoint, or an .onnx or .params file; else a small one is
    trained.
    """
    project: Project = None
    people: Annotated[str, Checked(check_source)] | None = None
    """Source of people; a run's own training people if not given."""
    gallery: Annotated[int, Range(2)] = 40
    """How many people, the first ones."""
    layout: Literal["principal", "tsne"] = "principal"
    """How embeddings come into a plane: by the directions of largest variance, or by t-SNE."""
    drawn: Annotated[int, Range(2)] = 12
    """How many people are in the picture: those of the most alike pairs first."""
    pairs: Annotated[int, Range(2)] = 10
    """Pairs of people to list."""
    far: Share = 1e-2
    """False accept rate whose threshold decides what is a mistake."""
    seed: Seed = 0
    """Seed of t-SNE."""
    output: pathlib.Path = pathlib.Path("runs/neighbours")
    """Folder for neighbours.json and the pictures."""


def most_alike_images(
    embeddings: np.ndarray, labels: np.ndarray, pairs: ClassPairs
) -> tuple[np.ndarray, np.ndarray]:
    """(first [K], second [K]): the two most alike images, one of each, of pairs of people."""
    chosen = []
    for one, other in zip(pairs.first, pairs.second, strict=True):
        first, second = np.flatnonzero(labels == one), np.flatnonzero(labels == other)
        best = np.unravel_index(
            np.argmax(embeddings[first] @ embeddings[second].T), (len(first), len(second))
        )
        chosen.append((first[best[0]], second[best[1]]))
    return np.array([pair[0] for pair in chosen]), np.array([pair[1] for pair in chosen])


def drawn_people(pairs: ClassPairs, count: int, num_people: int) -> np.ndarray:
    """Up to `count` people, those of the most alike pairs first."""
    in_pairs = np.stack([pairs.first, pairs.second], axis=1).reshape(-1)
    order = list(dict.fromkeys([*in_pairs.tolist(), *range(num_people)]))
    return np.array(order[:count])


def lay_out(
    arguments: Arguments,
    embeddings: np.ndarray,
    labels: np.ndarray,
    centres: np.ndarray,
    chosen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """(places of the embeddings, their labels, places of the centres, share of neighbours kept)."""
    shown = np.isin(labels, chosen)
    number = {person: place for place, person in enumerate(chosen.tolist())}
    points = np.concatenate([embeddings[shown], centres[chosen]])
    count = int(shown.sum())
    if arguments.layout == "tsne":
        plane = tsne_plane(points, perplexity=min(15.0, (len(points) - 1) / 3), seed=arguments.seed)
    else:
        plane = principal_plane(points)
    own_labels = np.array([number[label] for label in labels[shown].tolist()])
    kept = kept_neighbours(points[:count], plane[:count], k=min(5, count - 1))
    return plane[:count], own_labels, plane[count:], kept


def run(arguments: Arguments) -> None:
    """Embeds, compares, prints, writes."""
    console = new_console()
    begin = functools.partial(progress_bar, console)
    if not 0 < arguments.far < 1:
        raise InputError(f"--far {arguments.far:g}: give a rate between 0 and 1")
    if arguments.layout == "tsne":
        import_tsne()
    make_folder(arguments.output)
    model, own = open_analysed(arguments.model, project=arguments.project, begin=begin)
    if arguments.model is None:
        own = default_source(first_identity=DEFAULT_PEOPLE)
    people = open_people(arguments.people, own, arguments.gallery, model.image_size, begin)
    embeddings, centres = embed_people(model, people, begin)
    with begin("Comparing all pairs", None):
        roc = all_pairs_roc(embeddings, people.labels)
    point = operating_point(roc, arguments.far, "at_most")
    threshold = min(float(roc.thresholds[point]), 1.0)
    pairs = nearest_classes(embeddings, people.labels, centres, threshold, count=arguments.pairs)
    chosen = drawn_people(pairs, arguments.drawn, len(people.names))
    with begin("Laying out", None):
        plane, labels, places, kept = lay_out(arguments, embeddings, people.labels, centres, chosen)
    others = (centres @ centres.T)[np.triu_indices(len(centres), 1)]
    alike = [
        {"first": people.names[one], "second": people.names[other], "cosine": c, "mistakes": m}
        for one, other, c, m in zip(
            pairs.first, pairs.second, pairs.cosine.tolist(), pairs.mistakes.tolist(), strict=True
        )
    ]
    header = ("person", "most alike", "cosine of their centres", "pairs of images mistaken")
    rows = [
        (printable(first), printable(second), f"{cosine:.3f}", f"{mistakes:.1%}")
        for first, second, cosine, mistakes in (one.values() for one in alike)
    ]
    console.print(table_of(header, rows, left=4))
    say(
        console,
        f"Threshold {threshold:.3f} at FAR {roc.far[point]:.2g}, TAR {roc.tar[point]:.1%}. "
        f"Centres of two people: cosine {np.median(others):.3f} (median), {others.max():.3f} "
        f"(highest). The picture keeps {kept:.0%} of the nearest neighbours.",
    )
    report = {
        "threshold": threshold,
        "far": float(roc.far[point]),
        "tar": float(roc.tar[point]),
        "median_cosine_of_centres": float(np.median(others)),
        "neighbours_kept": kept,
        "pairs": alike,
    }
    file = arguments.output / "neighbours.json"
    write_json(file, report)
    names = [people.names[who].rpartition("/")[2].removeprefix("synthetic-") for who in chosen]
    names = [name.lstrip("0") or name[-1:] for name in names]
    layout = "t-SNE" if arguments.layout == "tsne" else "principal plane"
    title = (
        f"{number_of(len(chosen), 'person')}, {layout}; keeps {kept:.0%} of the nearest neighbours"
    )
    first, second = most_alike_images(embeddings, people.labels, pairs)
    images, of_sheet = people.images, "The most alike people: the cosine of their two images"
    paths = places_of(people.source)
    files = [(paths[one], paths[other]) for one, other in zip(first, second, strict=True)]
    whom = [
        (printable(people.names[one]), printable(people.names[other]))
        for one, other in zip(pairs.first, pairs.second, strict=True)
    ]
    cosines = np.sum(embeddings[first] * embeddings[second], axis=1)
    marks = [decision(bool(cosine >= threshold), same=False) for cosine in cosines]
    of_both = (images[first], images[second], cosines.tolist(), of_sheet, files)
    sheet = pair_sheet(*of_both, names=whom, marks=marks)
    figure = plane_figure(plane, labels, places, names, title)
    pictures = save(figure, arguments.output / "plane", ("png", "svg"))
    say_written(console, file, *pictures, *save(sheet, arguments.output / "most_alike"))


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "neighbours", __doc__))


if __name__ == "__main__":
    run_command(main)
