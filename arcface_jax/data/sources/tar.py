"""Tar archives and WebDataset shards, by random access."""

import collections
import os
import posixpath
import tarfile
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

import numpy as np

from arcface_jax.buckets import as_path, read_range
from arcface_jax.counts import number_of
from arcface_jax.data.source import Pieces
from arcface_jax.data.sources.encoded import EncodedSource, checked_index
from arcface_jax.data.sources.filetree import (
    LINKS,
    MAX_FILE_BYTES,
    PIPES,
    REPLACED,
    Listing,
    folders_of,
    follow,
    in_hidden,
    normal_name,
    packed_by,
)
from arcface_jax.data.sources.folder import (
    BY_CONTENT,
    HIDDEN,
    NEVER_IMAGES,
    NO_IMAGE,
    UNFINISHED,
    NoImagesError,
    hidden_images,
    in_words,
    remark_folders,
    sort_out,
)
from arcface_jax.data.sources.splits import (
    choose_split,
    files_of_split,
    splits_of_folders,
)
from arcface_jax.data.text import decoded, identity_of
from arcface_jax.errors import InputError, printable, readable, reason

_LONGEST_IDENTITY = 1024
_RECORD = 10240  # bytes that archives are filled up to, after at least two blocks of zeros


class TarSource(EncodedSource):
    """The images of one uncompressed tar file, or of all in a folder.

    WebDataset keeps a sample in neighbouring members with one key, the name up to its first dot:
    `000001.jpg` or `000001.left.jpg` with the identity in `000001.cls`. If names have more dots, an
    image's own `.cls` counts first: `v1.0_ann.cls` belongs only to `v1.0_ann.jpg`. A `.txt` is a
    caption there. In archives without `.cls` an image belongs to the identity of its folder, as in
    `FolderSource`.

    A link counts as the file in the archive that it leads to. In an archive of folders, the later
    of two members with one name counts, as in unpacking. `remarks` count what is left out.

    Opening reads every member's header; images are then read in place, from any thread or process.
    Nothing is extracted.

    Args:
      path: a `.tar` file, or a folder whose `.tar` files, at any depth, count in sorted order.
      split: the part that counts, if file names tell one (train-000.tar, faces-train-000.tar) or
        the archive's folders are splits.
      listing: what is below the folder, if it was walked before.

    Raises:
      NoImagesError: there is no image.
      InputError: missing, damaged, cut off, joined, or compressed; an image has no identity, or an
        identity no image; shards are missing; or there are several splits and none is chosen.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        split: str | None = None,
        listing: Listing | None = None,
    ):
        root = as_path(path)
        files = files_of_split(root, ".tar", split, listing)
        self._paths = files.paths
        members: list[str] = []
        places: list[np.ndarray] = []  # of an archive, [images, 3]: its number, offset, size
        identities: list[str] = []
        left_out: dict[str, list[str]] = {}
        folders: set[str] = set()
        archives = [_index(archive) for archive in self._paths]
        named = any(archive.identities for archive in archives)
        for number, archive in enumerate(archives):
            members += archive.images
            of_images = np.array([*archive.images.values()], np.int64).reshape(-1, 2)
            places.append(np.insert(of_images, 0, number, axis=1))
            identities += _identities(self._paths[number], archive, named)
            folders |= archive.folders | folders_of(archive.others)
            for what, names in archive.left_out.items():
                left_out.setdefault(what, []).extend(
                    f"{self._paths[number]}:{name}" if name else self._paths[number]
                    for name in names
                )
        if not members:
            found = in_words(left_out.get(NO_IMAGE, []) + left_out.get(UNFINISHED, []))
            raise NoImagesError(f"{root}: no image in it (found {found or 'nothing'})")
        in_members = None if files.by_name else split
        chosen = choose_split(splits_of_folders(members, in_members), in_members, root)
        self._number, self._offset, self._size = np.concatenate(places)[chosen].T.copy()
        self._names = [name for name, each in zip(members, chosen, strict=True) if each]
        self.name_identities(
            [name for name, each in zip(identities, chosen, strict=True) if each], str(root)
        )
        for text in files.remarks:
            self.remark(f"{root}: {text}", "shards")
        places_of = np.stack([self._number, self._offset], axis=1)
        self.remark_links(str(root), np.unique(places_of, axis=0, return_inverse=True)[1])
        for what, names in left_out.items():
            words = in_words(names) if what == NO_IMAGE else f"{len(names)}, such as {names[0]}"
            kind = {NO_IMAGE: "no image", BY_CONTENT: "by content"}.get(what, "left out")
            self.remark(f"{root}: {what}: {words}", kind, names)
        if not named:
            remark_folders(self, str(root), folders, members, str)

    def encoded(self, index: int) -> bytes:
        """The member's content."""
        index = checked_index(index, len(self))
        size = int(self._size[index])
        with readable(self.where(index)):
            content = read_range(self._paths[self._number[index]], int(self._offset[index]), size)
        if len(content) != size:
            raise InputError(
                f"{self.where(index)}: the archive ends {size - len(content)} bytes too early"
            )
        return content

    def path(self, index: int) -> str:
        """The member's name."""
        return self._names[checked_index(index, len(self))]

    def where(self, index: int) -> str:
        """Archive and member."""
        index = checked_index(index, len(self))
        return printable(f"{self._paths[self._number[index]]}:{self._names[index]}")

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the members' sizes."""
        return self._size

    def pieces(self) -> Pieces | None:
        """Blocks of large archives in a bucket."""
        return self.pieces_of_files(self._paths, self._number, self._offset)


_OF_KEY = "images without a .cls of their own, which take that of their key"
_PADDED = "archives that end in more zeros than are usual, and may have been cut off there"


class _Index(NamedTuple):
    """The contents of an archive.

    Attributes:
      images: (offset, size) of every image, by name.
      identities: the content of each `.cls`, by its name without the suffix.
      others: the names of the other members.
      folders: of the archive.
      left_out: names that are skipped, by reason.
    """

    images: dict[str, tuple[int, int]]
    identities: dict[str, str]
    others: list[str]
    folders: set[str]
    left_out: dict[str, list[str]]


def _index(path: str) -> _Index:
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    folders: set[str] = set()
    noted: dict[str, list[str]] = collections.defaultdict(list)
    try:
        length = as_path(path).stat().st_size
        with as_path(path).open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            last = ""
            for member in archive:
                name = last = normal_name(member.name)
                if in_hidden(name):
                    noted[HIDDEN] += hidden_images([name])
                    continue
                if member.isdir():
                    folders.update({name} - {"."})
                    continue
                if name in members or name in links:
                    noted[REPLACED].append(name)
                    members.pop(name, None)
                    links.pop(name, None)
                if member.issym():
                    links[name] = normal_name(
                        posixpath.join(posixpath.dirname(name), member.linkname)
                    )
                elif member.islnk():
                    links[name] = normal_name(member.linkname)
                elif not member.isreg():
                    noted[PIPES].append(name)
                elif member.sparse is not None:
                    raise InputError(
                        f"{path}: member {name} is stored with holes; pack it without --sparse"
                    )
                elif 0 <= member.size <= length - member.offset_data:
                    members[name] = member.offset_data, member.size
                else:
                    raise InputError(
                        f"{path}: member {name} is longer than the archive; it is cut off"
                    )
            if _check_end(file, archive.offset, path, last) > _RECORD + 2 * tarfile.BLOCKSIZE:
                noted[_PADDED].append("")
            for name in links:
                target = follow(name, members, links)
                if target is None:
                    noted[LINKS].append(name)
                else:
                    members[name] = members[target]
            identities: dict[str, str] = {}
            for name in [name for name in members if name.lower().endswith(".cls")]:
                identities[name[: -len(".cls")]] = _read_identity(
                    file, *members.pop(name), f"{path}: member {printable(name)}"
                )

            def start(name: str) -> bytes:
                file.seek(members[name][0])
                return file.read(min(16, members[name][1]))

            images, by_content, unfinished, others = sort_out(list(members), start)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path}: cannot read this archive ({error.strerror or error})") from None
    except Exception as error:
        # tarfile raises ReadError, ValueError, UnicodeError and others for damaged headers.
        with readable(path, "archive"), as_path(path).open("rb") as file:
            first = file.read(16)
        if packed := packed_by(first):
            raise InputError(
                f"{path}: is compressed by {packed}, where images cannot be read in place; extract "
                "it, or pack it anew without compression (tar -cf)"
            ) from None
        if first.startswith(b"PK"):
            raise InputError(f"{path}: is a zip file; call it .zip") from None
        raise InputError(
            f"{path}: damaged, or not a tar file ({reason(error)}); fetch or make it anew"
        ) from None
    for name in images:
        if members[name][1] > MAX_FILE_BYTES:
            raise InputError(f"{path}: image {name} of {members[name][1]} bytes; remove it")
    if identities and noted[REPLACED]:
        raise InputError(
            f"{path}: member {noted[REPLACED][0]} comes twice; number the samples through"
        )
    noted |= {NO_IMAGE: others, UNFINISHED: unfinished, BY_CONTENT: by_content}
    places = {name: members[name] for name in images}
    return _Index(
        places, identities, others + unfinished, folders, {k: v for k, v in noted.items() if v}
    )


def _check_end(file: BinaryIO, at: int, path: str, last: str) -> int:
    """The number of zeros from byte `at`, where no further member was found, to the end.

    Raises:
      InputError: anything else is there, or too few zeros to mark the end of an archive.
    """
    after = f"after member {printable(last)}" if last else "at its beginning"
    file.seek(at)
    zeros = 0
    while chunk := file.read(1 << 20):
        if rest := chunk.lstrip(b"\0"):
            zeros += len(chunk) - len(rest)
            if zeros < tarfile.BLOCKSIZE:
                raise InputError(
                    f"{path}: damaged or cut off at byte {at}, {after}; fetch or make it anew"
                )
            raise InputError(
                f"{path}: has an end at byte {at}, {after}, and goes on at byte {at + zeros}: "
                "damaged, or several archives joined; tar --ignore-zeros extracts those"
            )
        zeros += len(chunk)
    if zeros < tarfile.BLOCKSIZE:
        raise InputError(
            f"{path}: stops at byte {at + zeros}, {after}, without the end of an archive: cut off; "
            "fetch or make it anew"
        )
    if not last:
        raise InputError(f"{path}: {zeros} zeros and no member; fetch it anew, or remove it")
    return zeros


def _read_identity(file: BinaryIO, offset: int, size: int, where: str) -> str:
    """The identity in a `.cls`."""
    if not 0 < size <= _LONGEST_IDENTITY:
        raise InputError(f"{where} of {number_of(size, 'byte')}; an identity is due in it")
    file.seek(offset)
    text = decoded(file.read(size))
    if text is None or not text.strip().isprintable():
        raise InputError(
            f"{where}: not one line of text in UTF-8; write the identity as text, as 7"
        )
    return identity_of(text, where)


def _identities(path: str, archive: _Index, named: bool) -> list[str]:
    """The identity of each image of an archive: by its `.cls`, or its folder if none is `named` so.

    An image gets the `.cls` of its own name, or else of the name up to an earlier dot, or else of
    its key.
    """
    if not named:
        found = {name: name.rpartition("/")[0] for name in archive.images}
    else:
        found = _by_key(path, archive)
    for name, identity in found.items():
        if not identity:
            remedy = f"{printable(_stem(name))}.cls"
            remedy = (
                f"write its identity into {remedy}, as other images have it"
                if named
                else f"put the image in a folder of its identity, or write that into {remedy}"
            )
            raise InputError(f"{path}:{name}: no identity; {remedy}")
    return list(found.values())


def _by_key(path: str, archive: _Index) -> dict[str, str]:
    """The identity of each image by the `.cls` members; "" for none. Notes in `left_out`."""
    of_key: dict[str, list[str]] = collections.defaultdict(list)
    for stem in archive.identities:
        of_key[_key(stem)].append(stem)
    stem_of = {
        name: next((stem for stem in _shorter(name) if stem in archive.identities), "")
        for name in archive.images
    }
    own = {stem for name, stem in stem_of.items() if stem in (name, _stem(name))}
    found = {}
    by_key = []
    for name, stem in stem_of.items():
        if not stem:
            # One sample with a name for each part, as 1.left.jpg, 1.right.jpg and 1.person.cls.
            of_sample = of_key[_key(name)]
            one = {archive.identities[each] for each in of_sample}
            found[name] = one.pop() if len(one) == 1 and not own & {*of_sample} else ""
            continue
        found[name] = archive.identities[stem]
        if stem in own and stem not in (name, _stem(name)):
            by_key.append(name)
    if by_key:
        archive.left_out[_OF_KEY] = by_key
    identities_of: dict[str, set[str]] = collections.defaultdict(set)
    for name, identity in found.items():
        identities_of[_key(name)].add(identity)
    counted = {_key(name) for name in archive.others if not name.lower().endswith(NEVER_IMAGES)}
    for stem in archive.identities.keys() - {*stem_of.values()}:
        there = identities_of[_key(stem)] - {""}
        where = f"{path}: member {printable(stem)}.cls"
        if there and archive.identities[stem] not in there:
            raise InputError(f"{where} holds another identity than the image of its key")
        if not there and _key(stem) not in counted and "" not in identities_of[_key(stem)]:
            raise InputError(f"{where} has an identity, and there is no image of its name")
    return found


def _shorter(name: str) -> Iterable[str]:
    """The name, then the part before each dot, from the last dot to the first."""
    yield name
    key = _key(name)
    while name != key:
        name = _stem(name)
        yield name


def _stem(name: str) -> str:
    """The name up to the last dot after its folder."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.rpartition(".")[0] if "." in base else name


def _key(name: str) -> str:
    """The name up to the first dot after its folder."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]
