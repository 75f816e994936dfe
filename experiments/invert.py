"""Faces out of a trained model: what it has learnt of a person, whether another recognises it.

python -m experiments.invert                                             a small model
python -m experiments.invert runs/RUN --judge runs/OTHER --target weights
python -m experiments.invert model.ckpt --people faces.zip --judge runs/RUN

Starts from noise and changes pixels until the model embeds them as the target (a row of its class
weights, or the mean embedding of a person's images), with a prior from the statistics of its batch
normalisations. The judge has had no part in this: only it can say whether the face is like the
person, for the inverted model is fooled by design. Writes into runs/inversion, or --output.
"""

import dataclasses
import functools
import pathlib
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from arcface_jax.analysis.inversion import Likeness, Prior, cosine_loss, invert, likeness
from arcface_jax.commands.command import (
    Checked,
    Count,
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
from arcface_jax.commands.model_and_people import embed_people, open_analysed, open_people
from arcface_jax.commands.models import Project, Trained
from arcface_jax.counts import number_of
from arcface_jax.data.decode import resize
from arcface_jax.data.open import check_source
from arcface_jax.data.source import places_of
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.figures.inversion import inversion_figure
from arcface_jax.figures.style import save
from arcface_jax.files import whole_file
from arcface_jax.interop.model import TrainedModel
from arcface_jax.models.batch_statistics import with_statistics
from arcface_jax.pixels import normalise, to_pixels
from arcface_jax.progress import Begin, unseen


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    model: Annotated[Trained | None, tyro.conf.Positional] = None
    """The folder of a run, a PyTorch checkpoint, or an .onnx or .params file; else a small one is
    trained.
    """
    project: Project = None
    judge: Trained | None = None
    """Another model, to judge the result; without a model, a small one of another seed."""
    judge_project: Project = None
    people: Annotated[str, Checked(check_source)] | None = None
    """Source of people; a run's own training people if not given."""
    target: Literal["embeddings", "weights"] = "embeddings"
    """Reach the mean embedding of a person's images, or the person's class weights."""
    count: Count = 8
    """Faces to generate, of the first people, in one batch."""
    gallery: Count = 40
    """People, the first ones, among whom each face is to be recognised."""
    steps: Count = 150
    """Steps of Adam."""
    learning_rate: Annotated[float, Range(0.0)] = 0.25
    """Learning rate of Adam, at the start."""
    prior: Prior = dataclasses.field(default_factory=Prior)
    """Weights of what makes an image likely."""
    seed: Seed = 0
    """Seed of the noise to start from."""
    output: pathlib.Path = pathlib.Path("runs/inversion")
    """Folder for inversion.json, the picture and the generated images (inversion.npz)."""


def generate(
    model: TrainedModel, targets: np.ndarray, arguments: Arguments, begin: Begin = unseen
) -> np.ndarray:
    """uint8 [N, height, width, 3], RGB, one image for each target [N, D]."""
    low, high = normalise(jnp.asarray([[0] * 3, [255] * 3], jnp.uint8), model.pixels)
    to_start, to_mirror = jax.random.split(jax.random.key(arguments.seed))
    start = 0.5 * jax.random.normal(to_start, (len(targets), *model.image_size, 3))
    with begin("Inverting", arguments.steps) as move:
        found = invert(
            with_statistics(model.backbone, model.variables),
            cosine_loss(jnp.asarray(targets)),
            jnp.clip(start, low, high),
            key=to_mirror,
            prior=arguments.prior,
            steps=arguments.steps,
            learning_rate=arguments.learning_rate,
            bounds=(low, high),
            on_step=lambda *_: move(1),
        )
    return to_pixels(found.images, model.pixels)


def describe(name: str, generated: Likeness, real: Likeness) -> str:
    """One line: how like the generated faces are to their people, beside real images."""
    ours, theirs = generated.numbers(), real.numbers()
    return (
        f"{name}: cosine to the own person {ours['own']:.3f} (real images {theirs['own']:.3f}), to "
        f"the most alike other {ours['nearest_other']:.3f} ({theirs['nearest_other']:.3f}), own "
        f"person first {ours['rank_1']:.0%} ({theirs['rank_1']:.0%})"
    )


def run(arguments: Arguments) -> None:
    """Generates, judges, prints, writes."""
    console = new_console()
    begin = functools.partial(progress_bar, console)
    if not 1 <= arguments.count <= arguments.gallery:
        among = f"the {number_of(arguments.gallery, 'person')} of the gallery"
        raise InputError(f"--count {arguments.count}: give from 1 to {among}")
    if arguments.judge is None and arguments.judge_project is not None:
        raise InputError(
            f"--judge-project {arguments.judge_project}: give --judge as well, a PyTorch checkpoint"
        )
    make_folder(arguments.output)
    model, own = open_analysed(arguments.model, project=arguments.project, begin=begin)
    people = open_people(arguments.people, own, arguments.gallery, model.image_size, begin)
    judge = None
    if arguments.judge is not None or arguments.model is None:
        judge, _ = open_analysed(arguments.judge, 1, arguments.judge_project, begin)
    count = min(arguments.count, len(people.names))
    embeddings, centres = embed_people(model, people, begin)
    targets = centres[:count]
    if arguments.target == "weights":
        otherwise = "take --target embeddings"
        if model.class_weights is None or arguments.people is not None:
            raise InputError(f"--target weights: needs a run, and its own people; {otherwise}")
        if model.class_weights.ndim != 2:
            raise InputError(
                f"--target weights: a class of this run has several sub-centres; {otherwise}"
            )
        targets = unit_embeddings(model.class_weights[:count])
    faces = generate(model, targets, arguments, begin)
    order, report, lines = np.arange(count), {}, []
    by_model = unit_embeddings(model.embedder()(faces))
    reached = np.sum(by_model * targets, axis=1)
    report["target"] = reached.tolist()
    say(console, f"Cosine to the target: {reached.mean():.3f}")
    for name, who in (("model", model), ("judge", judge)):
        if who is None:
            continue
        if who is not model:
            embeddings, centres = embed_people(who, people, begin)
        shown = np.stack([resize(face, who.image_size) for face in faces])
        found = likeness(unit_embeddings(who.embedder()(shown)), centres, order)
        real = likeness(embeddings, centres, people.labels)
        report[name] = {
            "source": who.source,
            "generated": found.numbers(),
            "real": real.numbers(),
            "own": found.own.tolist(),
            "rank": found.rank.tolist(),
        }
        say(console, describe(name, found, real))
        lines.append([f"{name} {cosine:.2f}" for cosine in found.own])
    if judge is None:
        console.print(
            "No judge: a model's own opinion of faces made to please it says nothing; give --judge"
        )
    first = np.array([np.flatnonzero(people.labels == person)[0] for person in order])
    notes = ["\n".join(parts) for parts in zip(*lines, strict=True)]
    places = places_of(people.source)
    figure = inversion_figure(
        [("real", people.images[first]), ("generated", faces)],
        notes,
        names=[people.names[person] for person in order],
        files=[places[image] for image in first],
    )
    file, images = (arguments.output / f"inversion.{end}" for end in ("json", "npz"))
    write_json(file, report)
    with whole_file(images) as arrays:
        np.savez(arrays, images=faces, labels=order)
    pictures = save(figure, arguments.output / "inversion", ("png", "svg"))
    say_written(console, file, images, *pictures)


def main() -> None:
    """Reads the options and runs."""
    common = ("judge", "people", "target", "count", "gallery", "steps", "seed", "output")
    run(read_options(Arguments, "invert", __doc__, common=common))


if __name__ == "__main__":
    run_command(main)
