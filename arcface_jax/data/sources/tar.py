"""Tar archives, also as WebDataset shards, by random access."""

import os
import pathlib
import tarfile

import numpy as np

from arcface_jax.data.sources.encoded import EncodedSource, checked_index, number_identities
from arcface_jax.data.sources.filetree import MAX_FILE_BYTES
from arcface_jax.data.sources.folder import in_words, sort_out
from arcface_jax.data.sources.splits import (
    choose_split,
    files_of_split,
    splits_of_files,
    splits_of_folders,
)
from arcface_jax.errors import InputError, printable, readable, reason

_LONGEST_IDENTITY = 1024


class TarSource(EncodedSource):
    """The images of one uncompressed tar file, or of all in a folder.

    WebDataset keeps a sample in neighbouring members of one key, which is the name up to its first
    dot: `000001.jpg` or `000001.left.jpg` with the identity in `000001.cls`. A `.txt` is a caption
    there. In an archive without `.cls` an image belongs to the identity of its folder, as in
    `FolderSource`. What is no image is counted in `remarks`.

    Opening reads every member's header; images are then read in place, from any thread or process.
    Nothing is extracted.

    Args:
      path: a `.tar` file, or a folder whose `.tar` files, at any depth, count in sorted order.
      split: the part that counts, where file names begin with one (train-000.tar) or the folders in
        the archive are splits.

    Raises:
      InputError: missing, damaged, compressed, without images, an image has no identity, or there
        are several splits and none is asked for.
    """

    def __init__(self, path: str | os.PathLike[str], split: str | None = None):
        root = pathlib.Path(path)
        of_files = splits_of_files(sorted(root.rglob("*.tar"))) if root.is_dir() else []
        in_files = split if any(of_files) else None
        self._paths = files_of_split(root, "*.tar", in_files)
        if not self._paths:
            raise InputError(f"{root}: no .tar file in it")
        places: list[tuple[int, str, int, int]] = []  # (archive, member, offset, size)
        identities: dict[tuple[int, str], str] = {}  # (archive, key) → identity
        left_out: list[str] = []
        for number, archive in enumerate(self._paths):
            images, named, others = _index(archive)
            places += [(number, *image) for image in images]
            identities.update({(number, key): identity for key, identity in named.items()})
            left_out += [f"{archive}:{name}" for name in others]
        if not places:
            raise InputError(f"{root}: no image in it (found {in_words(left_out) or 'nothing'})")
        in_members = None if in_files else split
        of_members = splits_of_folders([name for _, name, _, _ in places], in_members)
        chosen = choose_split(of_members, in_members, root)
        self._places = [place for place, each in zip(places, chosen, strict=True) if each]
        self.labels, self.identity_names = number_identities(self._identities(identities))
        if left_out:
            self.remark(
                f"{root}: left out as no images: {in_words(left_out)}", "no image", left_out
            )

    def _identities(self, named: dict[tuple[int, str], str]) -> list[str]:
        """The identity of each image: its `.cls`; its folder where the archives have no `.cls`."""
        found = []
        for number, name, _, _ in self._places:
            key, folder = _key(name), name.rpartition("/")[0]
            identity = named.get((number, key), "") if named else folder
            if not identity:
                remedy = f"its identity into {printable(key)}.cls"
                if not named:
                    remedy = f"put the image in a folder of its identity, or {remedy}"
                raise InputError(f"{self._paths[number]}:{printable(name)}: no identity; {remedy}")
            found.append(identity)
        return found

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

    def path(self, index: int) -> str:
        """The member's name."""
        return self._places[checked_index(index, len(self))][1]

    def where(self, index: int) -> str:
        """Archive and member."""
        number, name, _, _ = self._places[checked_index(index, len(self))]
        return printable(f"{self._paths[number]}:{name}")

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the members' sizes."""
        return np.array([size for _, _, _, size in self._places], np.int64)


def _key(name: str) -> str:
    """The name up to the first dot after its folder."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _index(
    path: str,
) -> tuple[list[tuple[str, int, int]], dict[str, str], list[str]]:
    """(name, offset, size) of every image; the identity that each key's `.cls` holds; the names of
    the other members.
    """
    members: dict[str, tuple[int, int]] = {}
    named: dict[str, str] = {}
    try:
        length = os.path.getsize(path)
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                hidden = any(
                    part.startswith(".") and part not in (".", "..") for part in name.split("/")
                )
                if not member.isreg() or hidden:
                    continue
                if not 0 <= member.size <= length - member.offset_data:
                    raise InputError(
                        f"{path}: member {printable(name)} is longer than the archive; it "
                        "is cut off"
                    )
                if not name.lower().endswith(".cls"):
                    members[name] = member.offset_data, member.size
                    continue
                stream = archive.extractfile(member) if member.size <= _LONGEST_IDENTITY else None
                text = "" if stream is None else stream.read().decode("utf-8", "replace").strip()
                if not text:
                    raise InputError(
                        f"{path}: member {printable(name)} of {member.size} bytes; an identity is "
                        "due in it"
                    )
                if named.setdefault(_key(name), text) != text:
                    raise InputError(
                        f"{path}: member {printable(name)} holds another identity than the one "
                        "before of its name"
                    )

            def start(name: str) -> bytes:
                file.seek(members[name][0])
                return file.read(min(16, members[name][1]))

            images, others = sort_out(list(members), start)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read this archive ({error.strerror or error})") from None
    except Exception as error:
        # tarfile raises ReadError, ValueError, UnicodeError and others for damaged headers.
        raise InputError(
            f"{path}: damaged, compressed, or not a tar file ({reason(error)})"
        ) from None
    for name in images:
        if members[name][1] > MAX_FILE_BYTES:
            raise InputError(
                f"{path}: image {printable(name)} of {members[name][1]} bytes; remove it"
            )
    return [(name, *members[name]) for name in images], named, others
