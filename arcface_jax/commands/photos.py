"""Photos to the crops that a model takes: their middle, or the face that is found in them."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from rich.console import Console

from arcface_jax.commands.command import say
from arcface_jax.data.align import align
from arcface_jax.data.decode import decode, resize
from arcface_jax.data.detect import FaceDetector, Finding, Tally, Which, find_face
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.errors import InputError, printable
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.evaluation.verification import FlipRule


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """The options of every command that embeds photos: the rule by which it does."""

    flip: FlipRule | None = None
    """How an image's embedding is combined with that of its mirror image; none leaves the mirror
    image out, at half the cost. If not given: as an export was made, none for a run that verifies
    without it (data.no-flip-test), else add.
    """
    detect: bool = False
    """Find and align the face in each photo; needs requirements-detection.txt. Without it the
    middle is taken, which must be cropped as the training images were.
    """
    face: Which = "middle"
    """Which of several faces --detect takes: middle, the one nearest the middle, weighed with its
    size; or largest.
    """
    aligned: bool = False
    """The photos are crops that are aligned to the template already, as those of .bin sets always
    are: what is measured on them holds for faces that --detect finds, too.
    """

    def check(self) -> None:
        """Refuses options that contradict each other."""
        check_face(self.detect, self.face)
        if self.detect and self.aligned:
            raise InputError(
                "--detect and --aligned: a crop that is aligned needs no search; give one of them"
            )

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
    """Prints `left_out_line`, if there is something to say."""
    if len(kept) < len(source):
        say(console, left_out_line(source, kept))


def say_each_left_out(console: Console, source: EncodedSource, left_out: Mapping[int, str]) -> None:
    """Prints the images that a `Cropper` left out of a source, and why, and counts them."""
    for index, why in sorted(left_out.items()):
        say(console, f"left out: {source.where(index)}: {why}", "yellow")
    say_left_out(console, source, np.setdiff1d(np.arange(len(source)), list(left_out)))


def left_out_line(source: FaceSource, kept: np.ndarray) -> str:
    """How many images are left out, and which people have none left."""
    labels = np.asarray(source.labels)
    lost = [source.identity_names[label] for label in np.setdiff1d(labels, labels[kept])]
    people = f"; people without any image left: {len(lost)}" if lost else ""
    named = f" ({printable(', '.join(lost[:10]))}{', …' if len(lost) > 10 else ''})" if lost else ""
    return f"Images left out: {len(source) - len(kept)} of {len(source)}{people}{named}."


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

    def read(self, paths: Sequence[pathlib.Path]) -> np.ndarray:
        """The crops of image files, uint8 [N, height, width, 3]."""
        return np.stack([self._read(path) for path in paths])

    def read_some(
        self, paths: Sequence[pathlib.Path]
    ) -> tuple[np.ndarray, list[pathlib.Path], list[tuple[pathlib.Path, str]]]:
        """(crops, the files they are of, each file that has none and why).

        Raises:
          InputError: none has.
        """
        crops, kept, left_out = [], [], []
        for path in paths:
            try:
                crops.append(self._read(path))
                kept.append(path)
            except InputError as error:
                left_out.append((path, str(error)))
        if not crops:
            first = left_out[0][1]
            raise InputError(first if len(paths) == 1 else f"no photo can be used; {first}")
        return np.stack(crops), kept, left_out

    def _read(self, path: pathlib.Path) -> np.ndarray:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); check the path"
            ) from error
        return self.crop(decode(content, str(path)), str(path))

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

        def submit(start: int) -> list[Future[tuple[np.ndarray | None, Finding | str | None]]]:
            return [
                pool.submit(read, index)
                for index in range(start, min(start + batch_size, len(source)))
            ]

        black = np.zeros((*self._size, 3), np.uint8)
        with ThreadPoolExecutor(threads) as pool:
            waiting = submit(first)
            while waiting:
                following = submit(first + len(waiting))
                crops = []
                for index, future in enumerate(waiting, first):
                    crop, finding = future.result()
                    crops.append(crop)
                    if isinstance(finding, str):
                        self.left_out[index] = finding
                    elif finding is not None:
                        self.tally.add(source.where(index), finding)
                        if crop is None:
                            self.left_out[index] = finding.note
                first += len(waiting)
                found = np.array([crop is not None for crop in crops])
                yield np.stack([black if crop is None else crop for crop in crops]), found
                waiting = following
