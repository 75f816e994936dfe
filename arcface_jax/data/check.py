"""What to know about a data set before a long run."""

import collections
import dataclasses
from collections.abc import Callable, Iterable

import numpy as np

from arcface_jax.command_name import command
from arcface_jax.data.aligned_crop import TEMPLATE_SIZE
from arcface_jax.data.decode import height_and_width
from arcface_jax.data.scan import Scan, eye_distance, near_pairs, scan
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError, printable

_ALIGNED_PIXELS = 8.0
_ENOUGH_TO_AVERAGE = 32


@dataclasses.dataclass(frozen=True)
class DataReport:
    """The findings on a source; see `check`.

    Attributes:
      num_images: N.
      num_identities: how many labels there are.
      images_per_identity: int [num_identities].
      single_image: names of identities with one image.
      messages: one for each image that cannot be decoded.
      exact_duplicates: groups of equal images, by index.
      near_duplicates: pairs (i, j) that look the same but are not equal.
      across_identities: the groups and pairs among these whose images have different labels: one
        person under two names, or a wrong label.
      size: (height, width) in pixels that images should have.
      odd_sizes: (height, width) → count, of images of another size.
      aligned: whether the average image has eyes where the template has them; taken for granted
        with fewer than 32 images, which show too little.
    """

    num_images: int
    num_identities: int
    images_per_identity: np.ndarray
    single_image: tuple[str, ...]
    messages: tuple[str, ...]
    exact_duplicates: tuple[tuple[int, ...], ...]
    near_duplicates: tuple[tuple[int, int], ...]
    across_identities: tuple[tuple[int, ...], ...]
    size: tuple[int, int]
    odd_sizes: dict[tuple[int, int], int]
    aligned: bool

    def warnings(self) -> list[str]:
        """One line for each thing that deserves a look."""
        lines = []
        if self.messages:
            lines.append(
                f"{len(self.messages)} images cannot be decoded; the first: {self.messages[0]}"
            )
        if self.single_image:
            share = len(self.single_image) / self.num_identities
            lines.append(
                f"{len(self.single_image)} identities ({share:.0%}) have one image, which teaches "
                "nothing about what varies within a person; the first is "
                f"{printable(self.single_image[0])}"
            )
        if self.exact_duplicates:
            extra = sum(len(group) - 1 for group in self.exact_duplicates)
            lines.append(
                f"{extra} images are exact copies of others; the first: images "
                f"{self.exact_duplicates[0]}"
            )
        if self.near_duplicates:
            first = self.near_duplicates[0]
            lines.append(
                f"{len(self.near_duplicates)} pairs of images look the same; the first: images "
                f"{first}"
            )
        if self.across_identities:
            first_group = self.across_identities[0]
            lines.append(
                f"{len(self.across_identities)} of these copies are under different identities, so "
                f"labels are wrong or people are listed twice; the first: images {first_group}"
            )
        if self.odd_sizes:
            count = sum(self.odd_sizes.values())
            (height, width), _ = max(self.odd_sizes.items(), key=lambda item: item[1])
            wanted = f"{self.size[1]}×{self.size[0]}"
            lines.append(
                f"{count} images are not {wanted}, most often {width}×{height}; they will be cut "
                "and scaled"
            )
        if not self.aligned:
            lines.append(
                "the average image has no eyes where aligned crops have them; look at the contact "
                f"sheet, and align the images ({command('convert')} --landmarks or --detect) if "
                "they are photographs"
            )
        return lines


def check_source_labels(source: FaceSource) -> None:
    """Labels must be 0 … n − 1 with an image each, and as many as names.

    Raises:
      InputError: they are not; says what.
    """
    labels = np.asarray(source.labels)
    if len(labels) != len(source):
        raise InputError(f"the source has {len(source)} images but {len(labels)} labels")
    if not len(labels):
        raise InputError("the source has no images")
    if labels.min() < 0 or labels.max() >= len(source.identity_names):
        raise InputError(
            f"labels are {labels.min()} … {labels.max()}, but there are "
            f"{len(source.identity_names)} identity names"
        )
    counts = np.bincount(labels, minlength=len(source.identity_names))
    if counts.min() == 0:
        raise InputError(
            f"{(counts == 0).sum()} labels have no image, the first is {np.argmin(counts)}; "
            "renumber them (subset.Subset)"
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
      InputError: the labels are not 0 … n − 1, so that nothing can be trained.
    """
    check_source_labels(source)
    return report(source, scan(source, threads, progress))


def report(
    source: FaceSource, found: Scan, size: int | tuple[int, int] = TEMPLATE_SIZE
) -> DataReport:
    """The report on a scanned source; `size` its images should have: side or (height, width)."""
    size = height_and_width(size)
    labels = np.asarray(source.labels)
    counts = np.bincount(labels, minlength=len(source.identity_names))
    exact = _equal_groups(found)
    near = near_pairs(found.perceptual, found.readable)
    same_content = {
        tuple(pair) for pair in near.tolist() if found.content[pair[0]] == found.content[pair[1]]
    }
    pairs = tuple((int(a), int(b)) for a, b in near.tolist() if (a, b) not in same_content)
    suspects: Iterable[tuple[int, ...]] = (*exact, *pairs)
    odd = found.readable & (found.sizes != np.array(size)).any(axis=1)
    sizes = collections.Counter((int(height), int(width)) for height, width in found.sizes[odd])
    return DataReport(
        num_images=len(source),
        num_identities=len(counts),
        images_per_identity=counts,
        single_image=tuple(
            source.identity_names[int(label)] for label in np.flatnonzero(counts == 1)
        ),
        messages=tuple(found.messages[index] for index in sorted(found.messages)),
        exact_duplicates=exact,
        near_duplicates=pairs,
        across_identities=tuple(group for group in suspects if len(set(labels[list(group)])) > 1),
        size=size,
        odd_sizes=dict(sizes),
        aligned=found.readable.sum() < _ENOUGH_TO_AVERAGE
        or eye_distance(found.mean_face) <= _ALIGNED_PIXELS,
    )


def _equal_groups(found: Scan) -> tuple[tuple[int, ...], ...]:
    groups: dict[bytes, list[int]] = collections.defaultdict(list)
    for index in np.flatnonzero(found.readable):
        groups[found.content[index].tobytes()].append(int(index))
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
