"""Photos to the crops that a model takes: their middle, or the face that is found in them."""

import dataclasses
import functools
import logging
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from rich.console import Console

from arcface_jax.commands.command import say
from arcface_jax.counts import number_of
from arcface_jax.data.align import align
from arcface_jax.data.decode import decode, resize
from arcface_jax.data.detect import FaceDetector, Finding, Tally, Which, find_face, find_faces
from arcface_jax.data.landmarks import AlignedSource
from arcface_jax.data.open import open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.data.sources.filetree import open_tree
from arcface_jax.data.sources.folder import (
    BY_CONTENT,
    NO_IMAGE,
    UNFINISHED,
    NoImagesError,
    in_words,
    sort_out,
)
from arcface_jax.data.sources.lists import SUFFIXES as LISTS
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError, printable
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.evaluation.verification import FlipRule
from arcface_jax.progress import Begin

_SHOWN = 10
_SOURCES = (".zip", ".tar", ".parquet", ".rec", *LISTS)
"""Endings of files that hold images, or name them."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How a photo becomes an embedding."""

    detect: bool = False
    """Find and align the face in each photo. It needs the extra "detection". Without it the
    middle is taken, which must be cropped as the training images were.
    """
    face: Which = "middle"
    """Which of several faces --detect takes. middle: the one nearest the middle, weighed with its
    size. largest: the largest.
    """
    aligned: bool = False
    """The photos are crops aligned to the template already. Those of .bin sets always are. What is
    measured on them holds for faces that --detect finds, too.
    """
    flip: FlipRule | None = None
    """How to combine an image's embedding with its mirror image's. none leaves the mirror
    image out, at half the cost. If not given: as an export was made, none for a run that verifies
    without it (data.no-flip-test), else add.
    """

    def check(self) -> None:
        """Refuses options that contradict each other."""
        check_face(self.detect, self.face)
        if self.detect and self.aligned:
            raise InputError(
                "--detect and --aligned: a crop that is aligned needs no search; give one of them"
            )

    def check_installed(self) -> None:
        """Refuses --detect without its extra."""
        if self.detect:
            FaceDetector()

    def rule(self, flip: FlipRule | None, source: FaceSource | None = None) -> EmbeddingRule:
        """What becomes of the photos of `source` where a model combines mirror images by `flip`."""
        if self.detect:
            return EmbeddingRule(flip, "largest face" if self.face == "largest" else "face")
        aligned = self.aligned or isinstance(source, BinSource)
        return EmbeddingRule(flip, "aligned" if aligned else "middle")


def check_face(detect: bool, face: Which) -> None:
    """Refuses a choice of faces where none are searched for."""
    if face != "middle" and not detect:
        raise InputError(f"--face {face}: chooses among the faces that --detect finds; add it")


def say_tally(console: Console, tally: Tally, face: Which, listed: str | None = None) -> None:
    """Prints how many photos had several faces, none, or one found with low confidence."""
    for line in tally.lines(face, listed):
        say(console, line)


def say_left_out(console: Console, source: FaceSource, kept: np.ndarray) -> None:
    """Prints how many images are left out, and which people have none left."""
    if len(kept) == len(source):
        return
    labels = np.asarray(source.labels)
    lost = [source.identity_names[label] for label in np.setdiff1d(labels, labels[kept])]
    people = f"; people without any image left: {len(lost)}" if lost else ""
    named = f" ({printable(', '.join(lost[:10]))}{', …' if len(lost) > 10 else ''})" if lost else ""
    say(console, f"Images left out: {len(source) - len(kept)} of {len(source)}{people}{named}.")


def say_each_left_out(console: Console, source: EncodedSource, left_out: Mapping[int, str]) -> None:
    """Prints the images that a `Cropper` left out of a source, and why, and counts them."""
    for index, why in sorted(left_out.items()):
        say(console, f"left out: {source.where(index)}: {why}", "yellow")
    say_left_out(console, source, np.setdiff1d(np.arange(len(source)), list(left_out)))


class _FoundOrMiddle(AlignedSource):
    """Photographs, aligned where they have landmarks, else as they are."""

    def __getitem__(self, index: int) -> np.ndarray:
        if np.isnan(self.landmarks[index]).any():
            return self.source[index]
        return super().__getitem__(index)


class FaceFinder:
    """Finds the faces of whole sets of photographs, once for all models; NAME.faces.csv keeps them.

    Args:
      folder: of the lists; what they hold is gone on with.
      face: which of several faces.
      console: takes what is worth a look.
    """

    def __init__(self, folder: pathlib.Path, face: Which, console: Console):
        self._detector = FaceDetector()
        self._folder, self._face, self._console = folder, face, console
        self._said: set[str] = set()

    def faces(
        self, name: str, photos: FaceSource, size: int, begin: Begin, *, all_needed: bool
    ) -> tuple[FaceSource, np.ndarray]:
        """A set's photographs as crops of this side, or larger ones of which the middle is meant.

        Args:
          name: the set's.
          photos: N of them.
          size: in pixels.
          begin: shows the work.
          all_needed: take the middle of a photograph without a face; else it is left out.

        Returns: (the crops, int [M], which of the photographs they are of).
        """
        file = self._folder / f"{name}.faces.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with begin(f"Detecting {name}", len(photos)) as move:
            found = find_faces(photos, self._detector, self._face, file, progress=move)
        landmarks = np.full((len(found), 5, 2), np.nan)
        for index, finding in enumerate(found):
            if finding.landmarks is not None:
                landmarks[index] = finding.landmarks
        with_face = ~np.isnan(landmarks).any(axis=(1, 2))
        (kept,) = np.nonzero(with_face | all_needed)
        if name not in self._said:
            self._said.add(name)
            self._say(photos, found, file, "its middle is taken" if all_needed else "left out")
            say_left_out(self._console, photos, kept)
        if not len(kept):
            raise InputError(
                f"{name}: no face is found in any of its {number_of(len(photos), 'photo')}"
            )
        crops: FaceSource = _FoundOrMiddle(photos, landmarks, size)
        return (crops if all_needed else Subset(crops, kept)), kept

    def _say(
        self, photos: FaceSource, found: Sequence[Finding], file: pathlib.Path, done: str
    ) -> None:
        tally, without = Tally(), []
        for index, finding in enumerate(found):
            place = photos.path(index) or photos.where(index)
            tally.add(place, finding)
            if finding.landmarks is None:
                without.append(f"{place}: {finding.note}; {done}")
        for line in without[:_SHOWN]:
            say(self._console, line)
        if len(without) > _SHOWN:
            say(self._console, f"and {len(without) - _SHOWN} more like that in {file}")
        say_tally(self._console, tally, self._face, str(file))
        say(
            self._console,
            f"{file}: what was found in each of {number_of(len(found), 'photograph')}",
        )


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photograph to be read.

    Attributes:
      place: its file.
      read: gives its pixels, uint8 [height, width, 3]; raises `InputError`.
      person: whom it shows; None where nobody says.
    """

    place: str
    read: Callable[[], np.ndarray]
    person: str | None = None

    @classmethod
    def of_file(cls, path: pathlib.Path) -> "Photo":
        """Of an image file, read when asked for."""
        return cls(str(path), functools.partial(_decode_file, path))


def _decode_file(path: pathlib.Path) -> np.ndarray:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    return decode(content, str(path))


def find_photos(paths: Sequence[pathlib.Path]) -> list[Photo]:
    """Image files as they are; of a folder, a zip file or another source its photos, with the
    person of each if they lie in folders of people, or the source tells.

    Raises:
      InputError: a folder has no photo, or some in folders of people and others beside them.
    """
    photos = []
    for path in paths:
        if not path.is_dir() and path.suffix.lower() not in _SOURCES:
            photos.append(Photo.of_file(path))
            continue
        try:
            source = open_source(path)
        except NoImagesError:
            photos += _loose_photos(path)
            continue
        for index, label in enumerate(np.asarray(source.labels).tolist()):
            read = functools.partial(source.__getitem__, index)
            photos.append(Photo(source.where(index), read, source.identity_names[label]))
    return photos


def _loose_photos(folder: pathlib.Path) -> list[Photo]:
    """The photos directly in a folder or zip file that has no other; whose they are is not told."""
    tree = open_tree(folder)
    names, by_content, unfinished, others = sort_out(tree.walk().files, tree.start)
    if not names:
        left_out = in_words(unfinished + others) or "nothing"
        raise InputError(f"{folder}: no image in it (found {left_out})")
    for what, which in {NO_IMAGE: others, UNFINISHED: unfinished, BY_CONTENT: by_content}.items():
        if which:
            said = printable(f"{folder}: {what}: {in_words(which)}")
            logging.getLogger("arcface_jax").warning(said)

    def read(name: str) -> np.ndarray:
        return decode(tree.read(name), tree.where(name))

    return [Photo(tree.where(name), functools.partial(read, name)) for name in sorted(names)]


class Cropper:
    """Cuts out what a model of this (height, width) takes: the middle, or with `detect` a face,
    aligned; `face` says which. With `skip_unreadable` an image that cannot be decoded is one
    without a face.

    Attributes:
      tally: of the faces that were found.
      left_out: why, by number, of the images of `batches` that have no crop.
    """

    def __init__(
        self,
        size: tuple[int, int],
        detect: bool = False,
        face: Which = "middle",
        *,
        skip_unreadable: bool = False,
    ):
        check_face(detect, face)
        self._size, self._face, self._skip_unreadable = size, face, skip_unreadable
        self._detector = FaceDetector() if detect else None
        self.tally = Tally()
        self.left_out: dict[int, str] = {}

    def _find(self, photo: np.ndarray) -> tuple[np.ndarray | None, Finding | None]:
        """(uint8 [height, width, 3] or None without a face, what the detector found). A model of
        112×96 pixels was trained on the middle of the aligned 112×112 crop.
        """
        if self._detector is None:
            return resize(photo, self._size), None
        found = find_face(self._detector, photo, self._face)
        if found.landmarks is None:
            return None, found
        return resize(align(photo, found.landmarks, max(self._size)), self._size), found

    def crop(self, photo: np.ndarray, name: str) -> np.ndarray:
        """The crop of an RGB photo; `name` is what messages call it."""
        crop, found = self._find(photo)
        if found is not None:
            self.tally.add(name, found)
        if crop is None:
            raise InputError(
                f"{name}: {found.note if found else 'no face found'}; give a photo with one that "
                "is larger or more from the front"
            )
        return crop

    def read_some(
        self, photos: Sequence[Photo], progress: Callable[[int], None] = lambda _: None
    ) -> tuple[np.ndarray, list[Photo], list[tuple[Photo, str]]]:
        """(crops, the photos they are of, each photo that has none and why). `progress` is called
        with 1 after each.

        Raises:
          InputError: none has.
        """
        crops, kept, left_out = [], [], []
        for photo in photos:
            try:
                crops.append(self.crop(photo.read(), photo.place))
                kept.append(photo)
            except InputError as error:
                left_out.append((photo, str(error)))
            progress(1)
        if not crops:
            first = left_out[0][1]
            raise InputError(first if len(photos) == 1 else f"no photo can be used; {first}")
        return np.stack(crops), kept, left_out

    def batches(
        self, source: EncodedSource, batch_size: int, *, first: int = 0, threads: int = 4
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(crops uint8 [M, height, width, 3], found bool [M]) of a source from image `first` on;
        without a face the crop is black. The next batch is decoded while the last one is used.
        """

        def read(index: int) -> tuple[np.ndarray | None, Finding | str | None]:
            try:
                photo = source[index]
            except InputError as error:
                if self._skip_unreadable:
                    return None, str(error).removeprefix(f"{source.where(index)}: ")
                raise
            return self._find(photo)

        black = np.zeros((*self._size, 3), np.uint8)
        for batch in read_ahead(read, range(first, len(source)), batch_size, threads):
            for index, (_, finding) in enumerate(batch, first):
                if isinstance(finding, str):
                    self.left_out[index] = finding
                elif finding is not None:
                    self.tally.add(source.where(index), finding)
                    if finding.landmarks is None:
                        self.left_out[index] = finding.note
            first += len(batch)
            found = np.array([crop is not None for crop, _ in batch])
            yield np.stack([black if crop is None else crop for crop, _ in batch]), found


def read_ahead(
    read: Callable[[int], _T], indices: range, batch_size: int, threads: int
) -> Iterator[list[_T]]:
    """Batches of `read(index)`, in order, by several threads: the next is read while the last one
    is used.
    """
    with ThreadPoolExecutor(threads) as pool:

        def submit(start: int) -> list[Future[_T]]:
            return [pool.submit(read, index) for index in indices[start : start + batch_size]]

        done, waiting = 0, submit(0)
        while waiting:
            done += len(waiting)
            following = submit(done)
            yield [future.result() for future in waiting]
            waiting = following
