"""Tar archives, also as WebDataset shards, by random access."""

import os
import pathlib
import tarfile

import numpy as np

from arcface_jax.data.sources.encoded import EncodedSource, checked_index, number_identities
from arcface_jax.data.sources.filetree import MAX_FILE_BYTES
from arcface_jax.data.sources.folder import EXTENSIONS
from arcface_jax.errors import InputError, printable, readable, reason

_IDENTITY_EXTENSIONS = (".cls", ".txt")
_LONGEST_IDENTITY = 1024


class TarSource(EncodedSource):
    """The images of one uncompressed tar file, or of all in a folder.

    WebDataset keeps a sample in neighbouring members of one name: `000001.jpg` with its identity in
    `000001.cls` (or `.txt`). An image without such a member belongs to the identity of its folder
    in the archive, as in `FolderSource`.

    Opening reads every member's header; images are then read in place, from any thread or process.
    Nothing is extracted.

    Args:
      path: a `.tar` file, or a folder whose `.tar` files count in sorted order.

    Raises:
      InputError: missing, damaged, compressed, without images, or an image has no identity.
    """

    def __init__(self, path: str | os.PathLike[str]):
        root = pathlib.Path(path)
        self._paths = (
            [str(file) for file in sorted(root.glob("*.tar"))] if root.is_dir() else [str(root)]
        )
        if not self._paths:
            raise InputError(f"{root}: no .tar file in it")
        self._places: list[tuple[int, str, int, int]] = []  # (archive, member, offset, size)
        identities: list[str] = []
        for number, archive in enumerate(self._paths):
            images, named = _index(archive)
            for name, offset, size in images:
                stem, folder = os.path.splitext(name)[0], name.rpartition("/")[0]
                identity = named.get(stem, folder)
                if not identity:
                    raise InputError(
                        f"{archive}:{printable(name)}: no identity; put the image in a folder of "
                        f"its identity, or its identity into {printable(stem)}.cls"
                    )
                self._places.append((number, name, offset, size))
                identities.append(identity)
        if not self._places:
            raise InputError(f"{root}: no image in it")
        self.labels, self.identity_names = number_identities(identities)

    def encoded(self, index: int) -> bytes:
        """The member's content."""
        number, _, offset, size = self._places[checked_index(index, len(self))]
        with readable(self.where(index)), open(self._paths[number], "rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise InputError(
                f"{self.where(index)}: the archive ends {size - len(content)} bytes too early"
            )
        return content

    def where(self, index: int) -> str:
        """Archive and member."""
        number, name, _, _ = self._places[checked_index(index, len(self))]
        return printable(f"{self._paths[number]}:{name}")

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the members' sizes."""
        return np.array([size for _, _, _, size in self._places], np.int64)


def _index(path: str) -> tuple[list[tuple[str, int, int]], dict[str, str]]:
    """(name, offset, size) of every image, and the identity that each sample's member names."""
    images: list[tuple[str, int, int]] = []
    named: dict[str, str] = {}
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                stem, extension = os.path.splitext(member.name)
                hidden = any(
                    part.startswith(".") and part not in (".", "..")
                    for part in member.name.split("/")
                )
                if not member.isreg() or hidden:
                    continue
                if not 0 <= member.size <= length - member.offset_data:
                    raise InputError(
                        f"{path}: member {printable(member.name)} is longer than the archive; it "
                        "is cut off"
                    )
                if extension.lower() in EXTENSIONS:
                    if member.size > MAX_FILE_BYTES:
                        raise InputError(
                            f"{path}: image {printable(member.name)} of {member.size} bytes; "
                            "remove it"
                        )
                    images.append((member.name, member.offset_data, member.size))
                elif extension.lower() in _IDENTITY_EXTENSIONS and member.size <= _LONGEST_IDENTITY:
                    stream = archive.extractfile(member)
                    text = (
                        stream.read().decode("utf-8", "replace").strip()
                        if stream is not None
                        else ""
                    )
                    if text:
                        named.setdefault(stem, text)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read this archive ({error.strerror or error})") from None
    except Exception as error:
        # tarfile raises ReadError, ValueError, UnicodeError and others for damaged headers.
        raise InputError(
            f"{path}: damaged, compressed, or not a tar file ({reason(error)})"
        ) from None
    return images, named
