"""Names the people in photos: enrol a folder of them, then ask who is who; or compare two photos.

python -m experiments.identify enrol exported people/ gallery.npz          people/NAME/*.jpg
python -m experiments.identify name exported gallery.npz new/*.jpg         a name, or unknown
python -m experiments.identify verify exported a.jpg b.jpg                 the same person?

The model is best an export with a card, which holds the threshold for --far; for others give --threshold. Photos must
be cropped to the face as the model's training images were.
"""

import dataclasses
import pathlib
import zipfile
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from arcface_jax.data.decode import decode, resize
from arcface_jax.data.open import open_source
from arcface_jax.errors import InputError
from arcface_jax.evaluation.search import search_candidates
from experiments.command import help_text, run_command
from experiments.models import Embedder, open_embedder

Model = Annotated[pathlib.Path, tyro.conf.Positional]
UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Enrol:
    """Embeds people, a folder each, into a gallery file."""

    model: Model
    """The folder of an export or of a run, a PyTorch checkpoint, or an .onnx file."""
    people: Annotated[str, tyro.conf.Positional]
    """Folder or zip file of NAME/image.jpg, or another source with identities."""
    gallery: Annotated[pathlib.Path, tyro.conf.Positional]
    """File to write, .npz."""


@dataclasses.dataclass(frozen=True)
class Name:
    """Names the person in each photo, or says unknown."""

    model: Model
    """The model that the gallery was enrolled with."""
    gallery: Annotated[pathlib.Path, tyro.conf.Positional]
    """What enrol wrote."""
    photos: Annotated[tuple[pathlib.Path, ...], tyro.conf.Positional]
    """Image files."""
    far: float = 1e-3
    """False accept rate whose threshold is taken from the model card. It is of one comparison: an unknown person is
    compared with every entry, so in a gallery of G entries the rate of wrong names is up to G times this."""
    threshold: float | None = None
    """Cosine from which a name is given, instead of the card's."""
    candidates: int = 1
    """How many of the most alike people to show for each photo."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Says whether two photos show one person."""

    model: Model
    """The folder of an export or of a run, a PyTorch checkpoint, or an .onnx file."""
    first: Annotated[pathlib.Path, tyro.conf.Positional]
    """Image file."""
    second: Annotated[pathlib.Path, tyro.conf.Positional]
    """Image file."""
    far: float = 1e-3
    """False accept rate whose threshold is taken from the model card."""
    threshold: float | None = None
    """Cosine from which they are the same person, instead of the card's."""


def read_photos(paths: tuple[pathlib.Path, ...], size: tuple[int, int]) -> np.ndarray:
    """Decodes image files at the model's size, uint8 [N, height, width, 3]."""
    images = []
    for path in paths:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
        images.append(resize(decode(content, str(path)), size))
    return np.stack(images)


def choose_threshold(embedder: Embedder, far: float, threshold: float | None, console: Console) -> float:
    """The one given, or the model card's, with its warning."""
    if threshold is not None:
        return threshold
    if embedder.card is None:
        raise InputError(
            "--threshold: the model has no card to take one from; give it, or export the model with --verify"
        )
    found = embedder.card.threshold(far)
    if found.warning is not None:
        console.print(f"warning: {found.warning}", style="yellow", markup=False, highlight=False)
    return found.cosine


def read_gallery(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """(unit embeddings [G, D], names [G]) that enrol wrote; nothing in the file is executed."""
    try:
        with np.load(path, allow_pickle=False) as file:
            embeddings, names = file["embeddings"], file["names"]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: is no gallery ({error}); make one with enrol") from error
    if embeddings.ndim != 2 or len(embeddings) != len(names) or not len(names):
        raise InputError(f"{path}: {embeddings.shape} embeddings for {len(names)} names; make it again with enrol")
    return embeddings, names


def enrol(arguments: Enrol, console: Console) -> None:
    """Every image is an entry of its own, under its person's name."""
    if arguments.gallery.suffix != ".npz":
        raise InputError(f"{arguments.gallery}: give a file that ends with .npz")
    source = open_source(arguments.people)
    embedder = open_embedder(arguments.model)
    images = np.stack([resize(source[index], embedder.image_size) for index in range(len(source))])
    names = np.array([source.identity_names[label] for label in source.labels])
    try:
        np.savez(arguments.gallery, embeddings=embedder.embed(images), names=names)
    except OSError as error:
        raise InputError(f"{arguments.gallery}: cannot be written ({error.strerror})") from error
    people = len(set(names.tolist()))
    console.print(f"{arguments.gallery}: {len(names)} images of {people} people", markup=False, highlight=False)


def name(arguments: Name, console: Console) -> None:
    """The best entry of the gallery for each photo, if it is alike enough."""
    if not arguments.photos:
        raise InputError("photos: give at least one image file")
    gallery, names = read_gallery(arguments.gallery)
    embedder = open_embedder(arguments.model)
    threshold = choose_threshold(embedder, arguments.far, arguments.threshold, console)
    probes = embedder.embed(read_photos(arguments.photos, embedder.image_size))
    if probes.shape[1] != gallery.shape[1]:
        raise InputError(
            f"{arguments.gallery}: embeddings of {gallery.shape[1]} numbers, but the model gives {probes.shape[1]}; "
            "enrol the people with this model"
        )
    found = search_candidates(gallery, probes, k=min(arguments.candidates, len(gallery)))
    table = Table("photo", "person", "cosine", "most alike")
    for photo, accepted, scores, indices in zip(
        arguments.photos, found.accepted(threshold), found.scores, found.indices, strict=True
    ):
        alike = ", ".join(f"{names[i]} {score:.3f}" for score, i in zip(scores, indices, strict=True))
        person = str(names[indices[0]]) if accepted else UNKNOWN
        table.add_row(str(photo), person, f"{scores[0]:.3f}", alike)
    console.print(table)
    console.print(f"A name is given from a cosine of {threshold:.3f}.", highlight=False)


def verify(arguments: Verify, console: Console) -> None:
    """The cosine of two photos, and the decision."""
    embedder = open_embedder(arguments.model)
    threshold = choose_threshold(embedder, arguments.far, arguments.threshold, console)
    first, second = embedder.embed(read_photos((arguments.first, arguments.second), embedder.image_size))
    cosine = float(first @ second)
    answer = "the same person" if cosine >= threshold else "different people"
    console.print(f"{answer}: cosine {cosine:.3f}, threshold {threshold:.3f}", highlight=False)


def run(arguments: Enrol | Name | Verify) -> None:
    """Does what was asked."""
    console = Console(soft_wrap=True)
    if isinstance(arguments, Enrol):
        enrol(arguments, console)
    elif isinstance(arguments, Name):
        name(arguments, console)
    else:
        verify(arguments, console)


if __name__ == "__main__":
    run_command(
        lambda: run(
            tyro.extras.subcommand_cli_from_dict(
                {"enrol": Enrol, "name": Name, "verify": Verify},
                prog="python -m experiments.identify",
                description=help_text(__doc__),
            )
        )
    )
