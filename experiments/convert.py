"""Converts a face set: any source to RecordIO, array_record or a folder.

python -m experiments.convert faces/ faces_rec --format recordio --check
python -m experiments.convert faces_emore/train.rec faces_tfds --format array_record
python -m experiments.convert photos.csv crops --format folder --landmarks landmarks.txt
python -m experiments.convert photos/ crops --format folder --detect

The source is a folder or zip file of identity/image.jpg, train.rec, a list (.csv, .tsv, .txt,
.lst), Parquet, .tar shards, a .bin set, a prepared TFDS folder or tfds:NAME. Images keep their
names, but for the suffix of those that are encoded anew.

An interrupted conversion goes on when the same command is given again. What --detect finds is kept
in DESTINATION.faces.csv, a list that --landmarks reads.
"""

import dataclasses
import pathlib
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console

from arcface_jax.buckets import as_path
from arcface_jax.commands.command import (
    Checked,
    Count,
    Existing,
    Range,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.photos import check_face, say_left_out, say_tally
from arcface_jax.counts import number_of
from arcface_jax.data.convert import TargetFormat, check_new_folder, convert, verify_conversion
from arcface_jax.data.detect import FaceDetector, Tally, Which, find_faces
from arcface_jax.data.landmarks import AlignedSource, by_path, read_landmarks
from arcface_jax.data.open import check_source, open_source
from arcface_jax.data.scan import find_unreadable
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    source: Annotated[str, tyro.conf.Positional, Checked(check_source)]
    """What to convert."""
    destination: Annotated[pathlib.Path, tyro.conf.Positional]
    """Folder to make. With --check alone it may exist, and is only checked."""
    format: TargetFormat = "recordio"
    """recordio: train.rec, .idx, .lst, property; array_record: a TFDS set; folder: ID/NAME."""
    list_root: Existing | None = None
    """Folder or zip file that a list's paths are relative to, if not the list's own folder."""
    image_size: Count | None = None
    """Scale the centred square to this side; images keep their size if not given."""
    jpeg_quality: Annotated[int, Range(1, 100)] | None = None
    """Encode as JPEG, 1 … 100; if not given, files are kept bit for bit, new pixels are PNG."""
    landmarks: Existing | None = None
    """List of five landmarks for each image (path x1 y1 … x5 y5); align to 112×112 crops."""
    detect: bool = False
    """Align the face in each photograph; needs the extra "detection"."""
    face: Which = "middle"
    """Which of several faces --detect takes: middle, the one nearest the middle, weighed with its
    size; or largest.
    """
    skip_unreadable: bool = False
    """Decode every image first and leave out those that cannot be."""
    check: bool = False
    """Afterwards read everything back and compare."""


def leave_out(console: Console, source: FaceSource, messages: dict[int, str]) -> Subset:
    """The source without the images that there is a message for; says which."""
    for message in messages.values():
        say(console, f"left out: {message}")
    kept = np.setdiff1d(np.arange(len(source)), list(messages))
    if not len(kept):
        raise InputError(
            f"none of the {number_of(len(source), 'image')} can be used; the first: "
            f"{next(iter(messages.values()))}"
        )
    say_left_out(console, source, kept)
    return Subset(source, kept)


def prepared_source(arguments: Arguments, console: Console) -> FaceSource:
    """Opens the source, leaves out what cannot be used, aligns."""
    if arguments.detect and arguments.landmarks is not None:
        raise InputError("--detect and --landmarks: give one of them")
    check_face(arguments.detect, arguments.face)
    detector = FaceDetector() if arguments.detect else None
    landmarks = None if arguments.landmarks is None else read_landmarks(arguments.landmarks)
    source: FaceSource
    with progress_bar(console, f"Opening {arguments.source}"):
        source = open_source(arguments.source, arguments.list_root)
    if arguments.skip_unreadable:
        with progress_bar(console, "Decoding", len(source)) as move:
            source = leave_out(console, source, find_unreadable(source, progress=move))
    if landmarks is not None:
        listed = by_path(source, landmarks)
        without = {
            int(index): "no face, says the list"
            for index in np.flatnonzero(np.isnan(listed).any((1, 2)))
        }
        source = aligned_source(console, source, listed, without)
    if detector is not None:
        source = detected_source(arguments, source, detector, console)
    return source


def aligned_source(
    console: Console, source: FaceSource, landmarks: np.ndarray, without: dict[int, str]
) -> AlignedSource:
    """The photographs [N] with landmarks [N, 5, 2], but for those with a reason against them."""
    messages = {index: f"{source.where(index)}: {why}" for index, why in without.items()}
    kept = leave_out(console, source, messages) if messages else source
    return AlignedSource(kept, np.delete(landmarks, list(without), axis=0))


def detected_source(
    arguments: Arguments, source: FaceSource, detector: FaceDetector, console: Console
) -> AlignedSource:
    """The photographs in which a face is found, aligned; says what is worth a look."""
    file = faces_file(arguments.destination)
    if file.exists():
        say(console, f"Going on with the faces in {file}.")
    file.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(console, "Detecting", len(source)) as move:
        found = find_faces(source, detector, arguments.face, file, progress=move)
    landmarks, without, tally = np.full((len(found), 5, 2), np.nan), {}, Tally()
    for index, finding in enumerate(found):
        tally.add(source.path(index) or source.where(index), finding)
        if finding.landmarks is None:
            without[index] = finding.note
        else:
            landmarks[index] = finding.landmarks
    aligned = aligned_source(console, source, landmarks, without)
    say_tally(console, tally, arguments.face, str(file))
    say(console, f"{file}: what was found in each of {number_of(len(found), 'photograph')}")
    return aligned


def faces_file(destination: pathlib.Path) -> pathlib.Path:
    """The list of what --detect finds, beside the destination."""
    return destination.with_name(destination.name + ".faces.csv")


def run(arguments: Arguments) -> None:
    """Opens, converts, checks."""
    console = new_console()
    if not arguments.check:
        check_new_folder(arguments.destination)
    origin = as_path(arguments.source)
    if origin.is_dir() and arguments.destination.resolve().is_relative_to(origin.resolve()):
        raise InputError(
            f"{arguments.destination}: lies in {arguments.source}, which would then hold every "
            "image twice; give a place outside"
        )
    source = prepared_source(arguments, console)
    options = {"image_size": arguments.image_size, "jpeg_quality": arguments.jpeg_quality}
    if arguments.destination.exists() and arguments.check:
        say(console, f"{arguments.destination} exists and is only checked.")
    else:
        with progress_bar(console, "Writing", len(source)) as move:
            remarks = convert(
                source, arguments.destination, arguments.format, progress=move, **options
            )
        for remark in remarks:
            say(console, remark)
    if arguments.check:
        with progress_bar(console, "Checking", len(source)) as move:
            verify_conversion(source, arguments.destination, progress=move, **options)
    images, identities = len(source), len(source.identity_names)
    checked = ", read back and equal" if arguments.check else ""
    say(
        console,
        f"{arguments.destination}: {number_of(images, 'image')} of "
        f"{number_of(identities, 'identity')}{checked}",
    )


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "convert", __doc__))


if __name__ == "__main__":
    run_command(main)
