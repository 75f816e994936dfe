"""Checks a data set before a long run."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.decode import height_and_width
from arcface_jax.data.scan import Scan, eye_distance, near_pairs, scan
from arcface_jax.data.sixteen_bits import bits_of
from arcface_jax.data.source import FaceSource
from arcface_jax.data.upright import is_turned
from arcface_jax.errors import InputError

_ALIGNED_PIXELS = 8.0
_ENOUGH_TO_AVERAGE = 32
_BLANK = 4.0
_NOISE = 0.2
_EXTREME_ASPECT = 2.0
_BITS = "differing bits of 256"
_TURNS = ("", "by 90° counter-clockwise", "by 180°", "by 90° clockwise")


class Row(NamedTuple):
    """One image, pair of images, or file of a finding.

    Attributes:
      image: index in the source; None for a file that is no image.
      other: index of the other image of a pair.
      number: how bad it is, in the finding's measure.
      note: anything else worth saying.
      file: the name of a file that is no image.
    """

    image: int | None
    other: int | None = None
    number: float | None = None
    note: str = ""
    file: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that deserves a look.

    Attributes:
      kind: its name.
      summary: how many, and what it means.
      rows: each image, pair or file.
      measure: what the rows' numbers are.
      other: the source of the rows' other images; None for the source itself.
    """

    kind: str
    summary: str
    rows: tuple[Row, ...]
    measure: str = ""
    other: FaceSource | None = None

    def line(self, source: FaceSource) -> str:
        """One line, with the first row as example."""
        if not self.rows:
            return self.summary
        row = self.rows[0]
        if row.image is None:
            return f"{self.summary}; the first: {row.file}"
        names = [source.where(row.image)]
        if row.other is not None:
            names.append((self.other or source).where(row.other))
        shown = " and ".join(names)
        if row.note:  # the message of an error names the image itself
            shown = row.note if row.note.startswith(shown) else f"{shown} ({row.note})"
        return f"{self.kind}: {self.summary}; the first: {shown}"


@dataclasses.dataclass(frozen=True)
class DataReport:
    """What was found in a source; see `check`.

    Attributes:
      num_images: N.
      num_identities: how many labels there are.
      images_per_identity: int [num_identities].
      findings: what deserves a look.
      aligned: whether the average image has eyes where the template has them; always true with
        fewer than 32 images, which show too little. It means nothing for images other than faces.
    """

    num_images: int
    num_identities: int
    images_per_identity: np.ndarray
    findings: tuple[Finding, ...]
    aligned: bool


def check_source_labels(source: FaceSource) -> None:
    """Labels must be 0 … n − 1 with an image each, and as many as names.

    Raises:
      InputError: they are not; the message says why.
    """
    labels = np.asarray(source.labels)
    if len(labels) != len(source):
        raise InputError(
            f"the source has {number_of(len(source), 'image')} but "
            f"{number_of(len(labels), 'label')}"
        )
    if not len(labels):
        raise InputError("the source has no images")
    if labels.min() < 0 or labels.max() >= len(source.identity_names):
        raise InputError(
            f"labels are {labels.min()} … {labels.max()}, but there are "
            f"{number_of(len(source.identity_names), 'identity name')}"
        )
    counts = np.bincount(labels, minlength=len(source.identity_names))
    if counts.min() == 0:
        raise InputError(
            f"{number_of((counts == 0).sum(), 'label', 'have')} no image, the first is "
            f"{np.argmin(counts)}; renumber them (subset.Subset)"
        )


def check(
    source: FaceSource, threads: int = 4, progress: Callable[[int], None] | None = None
) -> DataReport:
    """Reads every image and reports what deserves a look.

    Args:
      source: where the images are.
      threads: decoders at work.
      progress: called with the number of images done since the last call.

    Raises:
      InputError: the labels are not 0 … n − 1, so training is impossible.
    """
    check_source_labels(source)
    return report(source, scan(source, threads, progress))


def report(
    source: FaceSource,
    found: Scan,
    size: int | tuple[int, int] = TEMPLATE_SIZE,
    tests: Mapping[str, tuple[FaceSource, Scan]] | None = None,
) -> DataReport:
    """The report on a scanned source.

    Args:
      source: where the images are.
      found: what `scan` found in it.
      size: of the network's input, its side or (height, width). Images of other sizes are scaled;
        only smaller ones are reported.
      tests: test sets by name; none should hold an image of the source.
    """
    labels = np.asarray(source.labels)
    findings = [
        *_undecodable(found, labels, source.identity_names),
        *(
            Finding(kind, text, tuple(Row(None, file=file) for file in files))
            for text, kind, files in source.noted
        ),
        *_copies(found, labels),
    ]
    for name, (test, its) in (tests or {}).items():
        findings += _copies_in(found, name, test, its)
    findings += [
        *_bad_pixels(found),
        *_bad_shapes(found, labels, height_and_width(size)),
        *_depths(found),
        *_frames(found),
        *_turned(found),
        *_alone(found, labels, len(source.identity_names)),
    ]
    return DataReport(
        num_images=len(source),
        num_identities=len(source.identity_names),
        images_per_identity=np.bincount(labels, minlength=len(source.identity_names)),
        findings=tuple(findings),
        aligned=found.readable.sum() < _ENOUGH_TO_AVERAGE
        or eye_distance(found.mean_face) <= _ALIGNED_PIXELS,
    )


def is_picture(found: Scan) -> np.ndarray:
    """bool [N], the images with content: readable, and neither blank nor noise.

    Noise is a `scan.smoothness` below .2.
    """
    return _has_contrast(found) & (found.smoothness >= _NOISE)


def _has_contrast(found: Scan) -> np.ndarray:
    """bool [N], the readable images that are not blank: some colour has a standard deviation of at
    least 4 of 255. The lowest measured are 11 for drawn faces, 29 for LFW, 32 for ORL, 33 for
    Omniglot.
    """
    return found.readable & (found.contrast >= _BLANK)


def _undecodable(found: Scan, labels: np.ndarray, names: Sequence[str]) -> Iterable[Finding]:
    rows = tuple(Row(index, note=found.messages[index]) for index in sorted(found.messages))
    if rows:
        yield Finding("undecodable", f"{number_of(len(rows), 'image')} cannot be decoded", rows)
    lost, first, counts = np.unique(
        np.where(found.readable, -1, labels), return_index=True, return_counts=True
    )
    there = np.isin(lost, [-1, *labels[found.readable]])
    emptied = tuple(
        Row(
            int(at),
            note=f"none of the {number_of(count, 'image')} of {names[label]} can be decoded",
        )
        for label, at, count in zip(lost[~there], first[~there], counts[~there], strict=True)
    )
    if emptied:
        yield Finding(
            "nothing left",
            f"{number_of(len(emptied), 'identity', 'have')} no image that can be decoded, for a "
            "run to leave out that leaves out such images",
            emptied,
        )


def _copies(found: Scan, labels: np.ndarray) -> Iterable[Finding]:
    """Equal images, and those that `near_pairs` finds similar, each with an earlier one, in one
    identity or two. In one identity such a pair can also be two photographs of one moment: ORL has
    eight.
    """
    pictures = np.flatnonzero(_has_contrast(found))
    equal = _equal_to_earlier(found.content, pictures, labels)
    distinct = np.setdiff1d(pictures, [row.image for row in equal])
    alike = _equal_to_earlier(found.perceptual.view("V32")[:, 0], distinct, labels)
    alike = [row._replace(number=0) for row in alike]
    single = np.setdiff1d(distinct, [row.image for row in alike])
    # Of each image, the nearest earlier one of its identity and of another, as bits · N + index.
    count = len(labels)
    best = np.full((2, count), np.iinfo(np.int64).max)
    for first, second, bits in near_pairs(found.perceptual[single]):
        first, second = single[first], single[second]
        across = (labels[first] != labels[second]).astype(int)
        np.minimum.at(best, (across, second), bits.astype(np.int64) * count + first)
    for index in np.flatnonzero(best.min(axis=0) < np.iinfo(np.int64).max):
        alike += [
            Row(int(index), int(each % count), float(each // count))
            for each in best[:, index]
            if each < np.iinfo(np.int64).max
        ]
    for word, rows, verb, alike_as, meaning, measure in (
        ("exact", equal, "are", "equal to", "exactly the same as", ""),
        ("near", alike, "look", "like", "nearly the same as, or taken in one moment with,", _BITS),
    ):
        rows = sorted(rows, key=lambda row: (row.number or 0, row.image or 0))
        across_rows = tuple(row for row in rows if labels[row.image] != labels[row.other])
        if across_rows:
            yield Finding(
                f"{word} copy, other identity",
                f"{number_of(len(across_rows), 'image', verb)} {alike_as} one of another "
                "identity, so that labels are wrong or one identity has two names",
                across_rows,
                measure,
            )
        within = tuple(row for row in rows if labels[row.image] == labels[row.other])
        if within:
            yield Finding(
                f"{word} copy",
                f"{number_of(len(within), 'image', 'are')} {meaning} another of the same identity",
                within,
                measure,
            )


def _equal_to_earlier(keys: np.ndarray, chosen: np.ndarray, labels: np.ndarray) -> list[Row]:
    """A row for each chosen image with the same key as an earlier one: the first of its own label
    if there is one, else the first.
    """
    first: dict[bytes, int] = {}
    first_of_label: dict[tuple[bytes, int], int] = {}
    rows = []
    for index in chosen.tolist():
        key, label = keys[index].tobytes(), int(labels[index])
        if key in first:
            rows.append(Row(index, first_of_label.get((key, label), first[key])))
        first.setdefault(key, index)
        first_of_label.setdefault((key, label), index)
    return rows


def _copies_in(found: Scan, name: str, test: FaceSource, its: Scan) -> Iterable[Finding]:
    """Images that are also in a test set, exactly or nearly."""
    pictures, test_pictures = (np.flatnonzero(_has_contrast(each)) for each in (found, its))
    place = {its.content[index].tobytes(): index for index in test_pictures[::-1].tolist()}
    equal = [
        Row(index, place[key])
        for index in pictures.tolist()
        if (key := found.content[index].tobytes()) in place
    ]
    rest = np.setdiff1d(pictures, [row.image for row in equal])
    hashes, which = np.unique(found.perceptual[rest], axis=0, return_inverse=True)
    test_hashes, test_which = np.unique(its.perceptual[test_pictures], axis=0, return_index=True)
    best = np.full(len(hashes), np.iinfo(np.int64).max)
    count = len(its.readable)
    for first, second, bits in near_pairs(np.concatenate([hashes, test_hashes])):
        across = (first < len(hashes)) & (second >= len(hashes))
        there = test_pictures[test_which[second[across] - len(hashes)]]
        np.minimum.at(best, first[across], bits[across].astype(np.int64) * count + there)
    nearest = best[which.reshape(-1)]
    close = np.flatnonzero(nearest < np.iinfo(np.int64).max)
    alike = [
        Row(int(rest[at]), int(nearest[at] % count), float(nearest[at] // count)) for at in close
    ]
    alike.sort(key=lambda row: row.number or 0)
    for word, rows, how, measure in (
        ("exact", equal, "exactly", ""),
        ("near", alike, "nearly", _BITS),
    ):
        if rows:
            yield Finding(
                f"{word} copy in {name}",
                f"{number_of(len(rows), 'image', 'are')} {how} the same as one in {name}, so that "
                "a test on it says too much",
                tuple(rows),
                measure,
                test,
            )


def _bad_pixels(found: Scan) -> Iterable[Finding]:
    blank = found.readable & ~_has_contrast(found)
    noise = _has_contrast(found) & ~is_picture(found)
    for kind, chosen, numbers, meaning, measure in (
        ("blank", blank, found.contrast, "of one colour, or nearly", "deviation of its pixels"),
        ("noise", noise, found.smoothness, "noise", "correlation of neighbouring pixels"),
    ):
        indices = np.flatnonzero(chosen)
        if len(indices):
            rows = tuple(Row(int(index), number=float(numbers[index])) for index in indices)
            yield Finding(kind, f"{number_of(len(rows), 'image', 'are')} {meaning}", rows, measure)


def _bad_shapes(found: Scan, labels: np.ndarray, size: tuple[int, int]) -> Iterable[Finding]:
    factors = np.array(size) / np.maximum(found.sizes, 1)
    enlarged = factors.max(axis=1)
    stretch = enlarged / factors.min(axis=1)
    wanted = f"{size[1]}×{size[0]}"
    for kind, numbers, least, measure, meaning in (
        (
            "small",
            enlarged,
            1.0,
            "times it is enlarged",
            f"smaller than the network's {wanted} and will be enlarged",
        ),
        (
            "extreme aspect",
            stretch,
            _EXTREME_ASPECT,
            "times as long as the network's input",
            f"so long that less than half is seen, as {wanted} is cut out",
        ),
    ):
        indices = np.flatnonzero(found.readable & (numbers > least))
        if len(indices):
            order = indices[np.argsort(-numbers[indices], kind="stable")]
            people = len(np.unique(labels[indices]))
            rows = tuple(
                Row(
                    int(index),
                    number=round(float(numbers[index]), 2),
                    note=f"{found.sizes[index, 1]}×{found.sizes[index, 0]} pixels",
                )
                for index in order
            )
            what = number_of(len(rows), "image", "are")
            summary = f"{what} {meaning}, of {number_of(people, 'identity')}"
            yield Finding(kind, summary, rows, measure)


def _depths(found: Scan) -> Iterable[Finding]:
    """Images of more than 8 bits whose file does not say how many, if the number assumed for one
    differs from what the largest sample of all of them shows.
    """
    largest = max(found.unsaid_bits.values(), default=0)
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 1 << bits)
    rows = tuple(
        Row(index, number=sample, note=f"taken for {taken} bits")
        for index, sample in sorted(found.unsaid_bits.items())
        if sample and (taken := bits_of(sample)) != bits
    )
    if rows:
        summary = (
            f"{number_of(len(rows), 'image', 'do')} not say how many of 16 bits count, and can "
            f"come out too dark or too light if it is {bits}, which the samples of all such images "
            "fit in; write them with 8 bits, or with the number in an sBIT chunk (PNG) or as "
            "maxval (PGM)"
        )
        yield Finding("unsaid bits", summary, rows, "largest sample")


def _frames(found: Scan) -> Iterable[Finding]:
    rows = tuple(Row(index, number=frames) for index, frames in sorted(found.frames.items()))
    if rows:
        more = sum(found.frames.values()) - len(rows)
        summary = (
            f"{number_of(len(rows), 'image', 'have')} several frames or pages, of which the first "
            f"counts and {more} do not; keep each that is wanted as a file of its own"
        )
        yield Finding("several frames", summary, rows, "frames or pages")


def _turned(found: Scan) -> Iterable[Finding]:
    indices = np.flatnonzero(is_turned(found.upright) & is_picture(found))
    if len(indices):
        rows = tuple(
            Row(
                int(index),
                number=round(float(found.upright[index]), 2),
                note=f"looks upright when turned {_TURNS[found.quarters[index]]}",
            )
            for index in indices[np.argsort(found.upright[indices], kind="stable")]
        )
        summary = f"{number_of(len(rows), 'image', 'seem')} to lie on a side or upside down"
        yield Finding("turned", summary, rows, "margin of being upright")


def _alone(found: Scan, labels: np.ndarray, identities: int) -> Iterable[Finding]:
    readable = np.flatnonzero(found.readable)
    counts = np.bincount(labels[readable], minlength=identities)
    alone = readable[counts[labels[readable]] == 1]
    if len(alone):
        yield Finding(
            "one image",
            f"{number_of(len(alone), 'identity', 'have')} one image "
            f"({len(alone) / identities:.0%}), which teaches nothing about what varies within an "
            "identity",
            tuple(Row(int(index)) for index in alone),
        )
