"""The common part of sources of encoded images (files, records, table cells)."""

import abc
import functools
import hashlib
import unicodedata
from collections.abc import Sequence

import numpy as np

from arcface_jax.buckets import BLOCK, BucketPath, as_path
from arcface_jax.counts import number_of
from arcface_jax.data.decode import decode
from arcface_jax.data.source import FaceSource, Pieces
from arcface_jax.errors import InputError

_FULL_DIGEST_BYTES = 1 << 30
_SAMPLED_IMAGES = 4096
_ANY_ORDER_BYTES = 8 << 30  # what the cache of files in buckets holds by default
_POOL_BYTES = 2 << 30


class EncodedSource(FaceSource):
    """A source of encoded images: a subclass sets `labels` and `identity_names`."""

    @abc.abstractmethod
    def encoded(self, index: int) -> bytes:
        """The stored bytes of image `index`.

        Raises:
          InputError: they cannot be read; the message names the file or record.
        """

    @abc.abstractmethod
    def where(self, index: int) -> str:
        """The file or record that image `index` comes from."""

    @abc.abstractmethod
    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the stored bytes of each image, without reading them."""

    def __getitem__(self, index: int) -> np.ndarray:
        return decode(self.encoded(index), self.where(index))

    def stored(self, index: int) -> bytes:
        """The stored bytes of image `index`, for the fingerprint."""
        return self.encoded(index)

    def name_identities(self, names: Sequence[str], place: str) -> None:
        """Sets `labels` and `identity_names` by each image's identity, and reports nearly equal
        names; messages call the source `place`.
        """
        self.labels, self.identity_names = number_identities(names)
        self.remark_spelling(place)

    def remark_spelling(self, place: str) -> None:
        """Reports which of `identity_names` are nearly equal."""
        alike: dict[str, list[str]] = {}
        for name in self.identity_names:
            alike.setdefault(without_spelling(name), []).append(name)
        several = [each for each in alike.values() if len(each) > 1]
        if several:
            first, second = (_shown(name, several[0]) for name in several[0][:2])
            self.remark(
                f"{place}: {number_of(sum(map(len, several)), 'identity', 'have')} a name that "
                f"differs from another's only in spelling, such as {first} and {second}; each is "
                "an identity of its own",
                "similar name",
                [name for each in several for name in each],
            )

    def remark_links(self, place: str, files: np.ndarray, images: np.ndarray | None = None) -> None:
        """Reports images that are one file, reached twice by links.

        Args:
          place: the source's name in messages.
          files: int64 [M], equal for images of one file.
          images: [M], their images; all if None.
        """
        images = np.arange(len(self)) if images is None else images
        _, first, which = np.unique(files, return_index=True, return_inverse=True)
        again = np.flatnonzero(first[which] != np.arange(len(files)))
        if not len(again):
            return
        earlier, again = images[first[which[again]]], images[again]
        across = self.labels[earlier] != self.labels[again]
        for chosen, whose, kind in (
            (
                across,
                "one of another identity, so that a face has two names",
                "linked, other identity",
            ),
            (~across, "another of their identity", "linked"),
        ):
            if chosen.any():
                one, other = (self.where(int(each[chosen][0])) for each in (earlier, again))
                self.remark(
                    f"{place}: {number_of(chosen.sum(), 'image', 'are')} by links the same file "
                    f"as {whose}, such as {other} and {one}; each counts",
                    kind,
                    map(self.where, again[chosen].tolist()),
                )

    def pieces_of_files(
        self, files: Sequence[str], number: np.ndarray | int, offsets: np.ndarray
    ) -> Pieces | None:
        """What `pieces` says of images in files that are read in place: those of a bucket by the
        blocks that are fetched and kept together, if there are more than are kept.

        Args:
          files: their paths.
          number: int [N], which of these each image is in.
          offsets: int64 [N], where in it.
        """
        stored = int(self.encoded_sizes().sum())
        if stored <= _ANY_ORDER_BYTES or not isinstance(as_path(files[0]), BucketPath):
            return None
        blocks = (np.asarray(number, np.int64) << 40) + offsets // BLOCK
        of = np.unique(blocks, return_inverse=True)[1].astype(np.int32)
        return Pieces(of, len(self) * _POOL_BYTES // stored)

    @functools.cached_property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Digest of labels, names, the size of every image, and content.

        Reads every image of sets up to 1 GiB. Larger sets would take minutes at each start, so it
        reads 4,096 evenly spaced images; any added, removed, reordered or re-encoded image still
        changes sizes or labels. File times do not count: a copy has its original's fingerprint.
        """
        sizes = self.encoded_sizes()
        digest = hashlib.blake2b(digest_size=16)
        digest.update(np.ascontiguousarray(self.labels, np.int32).tobytes())
        digest.update("\0".join(self.identity_names).encode("utf-8", "surrogateescape"))
        digest.update(sizes.astype(np.int64).tobytes())
        if sizes.sum() <= _FULL_DIGEST_BYTES:
            read = np.arange(len(self))
        else:
            read = np.unique(np.linspace(0, len(self) - 1, _SAMPLED_IMAGES).astype(int))
        for index in read:
            try:
                digest.update(self.stored(int(index)))
            except InputError:  # a missing or damaged file is for whoever reads the image to judge
                digest.update(b"unreadable")
        return digest.hexdigest()


def number_identities(names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Labels int32 [N] of identities given by name, and the distinct names in order of label.

    Names are sorted by value if all are whole numbers, so that 2 comes before 10; else as text.
    """
    distinct = sorted(set(names))
    if all(name.isascii() and name.isdigit() and len(name) < 19 for name in distinct):
        distinct.sort(key=int)
    label_of = {name: label for label, name in enumerate(distinct)}
    return np.array([label_of[name] for name in names], np.int32), distinct


def without_spelling(name: str) -> str:
    """A name in a form where spellings agree: without differences in capitals, spaces, the Unicode
    form of accents, and zeros before a number.
    """
    words = unicodedata.normalize("NFKC", name).casefold().replace("_", " ").split()
    text = " ".join(words)
    return str(int(text)) if text.isdecimal() and len(text) < 19 else text


def _shown(name: str, alike: Sequence[str]) -> str:
    """The name, with its number of characters if only that tells it from another."""
    same = [unicodedata.normalize("NFC", each) for each in alike]
    return repr(name) + (f" of {len(name)} characters" if len(set(same)) < len(same) else "")


def checked_index(index: int, length: int) -> int:
    """`index` counted from 0, negative ones from the end.

    Raises:
      IndexError: outside −length … length − 1.
    """
    if not -length <= index < length:
        raise IndexError(f"image {index} of {length}")
    return int(index) % length
