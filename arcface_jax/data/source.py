"""The interface of every image source."""

import abc
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.errors import InputError, printable


class Remark(NamedTuple):
    """Something worth knowing about a source's files.

    Attributes:
      text: one line that names the source.
      kind: the problem, in a word or two.
      files: the files or folders concerned, if known.
    """

    text: str
    kind: str
    files: tuple[str, ...]


class Pieces(NamedTuple):
    """How images lie in storage that is read in pieces.

    Attributes:
      of: int [N], the piece that each image is in.
      pool: how many images can be waited for at once: so many, with the pieces they are in, stay
        at hand while others of their pieces are read.
    """

    of: np.ndarray
    pool: int


class FaceSource(abc.ABC):
    """Images with identity labels, by random access.

    Every source of this library (synthetic, folder, RecordIO, …) is one, and you can train and
    evaluate on your own subclass. Reading is thread-safe, and sources pickle, so worker processes
    can use them.

    Attributes:
      labels: int32 [N], each in 0 … num_identities − 1, known without reading an image.
      identity_names: what each label stands for: num_identities names.
      fingerprint: hexadecimal digest that changes when the images or labels do.
      noted: whatever is worth knowing about the files, such as what is left out.
    """

    labels: np.ndarray
    identity_names: Sequence[str]
    fingerprint: str
    noted: tuple[Remark, ...] = ()

    @property
    def remarks(self) -> tuple[str, ...]:
        """The line of each entry in `noted`."""
        return tuple(each.text for each in self.noted)

    def remark(self, text: str, kind: str = "files", files: Iterable[str] = ()) -> None:
        """Adds to `noted`, and logs the line as a warning of the logger arcface_jax: on the
        terminal by default.
        """
        text = printable(text)
        self.noted += (Remark(text, kind, tuple(map(printable, files))),)
        logging.getLogger("arcface_jax").warning(text)

    def __len__(self) -> int:
        """The number of images, N."""
        return len(self.labels)

    @abc.abstractmethod
    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 [height, width, 3], RGB.

        Raises:
          InputError: the image cannot be decoded; the message names the file or record.
        """

    def where(self, index: int) -> str:
        """The file or record that image `index` comes from, or its number; for messages."""
        return f"image {index}"

    def path(self, index: int) -> str | None:
        """Relative path of the image's file, with forward slashes; None if images have no files.
        Either all images of a source have one, or none.
        """
        return None

    def encoded(self, index: int) -> bytes | None:
        """The stored bytes of image `index`; None if images are made or changed on reading."""
        return None

    def render(self, indices: np.ndarray) -> np.ndarray | None:
        """Many images at once, uint8 [M, height, width, 3]; None if that is no faster."""
        return None

    def pieces(self) -> Pieces | None:
        """What is to be read together; None if one order is as fast as another. It depends on the
        files alone, for all processes of a run must find the same.
        """
        return None


def places_of(source: FaceSource) -> list[str]:
    """How to find each image: its path, or `where` it is."""
    return [source.path(index) or source.where(index) for index in range(len(source))]


def people_of(source: FaceSource) -> list[str]:
    """The name of each image's identity."""
    return [str(source.identity_names[int(label)]) for label in source.labels]


def paths_of(source: FaceSource) -> list[str]:
    """`path` of every image.

    Raises:
      InputError: an image has none.
    """
    paths = [path for index in range(len(source)) if (path := source.path(index)) is not None]
    if len(paths) < len(source):
        raise InputError("the images have no file names that a list could mean; use a folder")
    return paths
