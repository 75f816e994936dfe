"""A folder of images, one sub-folder per identity, or a zip archive of it."""

import collections
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.decode import READS_AVIF, suffix_of
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.encoded import number_identities
from arcface_jax.data.sources.filetree import Listing, TreeSource, folders_of, open_tree
from arcface_jax.data.sources.splits import choose_split, splits_of_folders
from arcface_jax.errors import InputError, printable

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".webp", ".tif", ".tiff"),
    *(".pgm", ".ppm", ".pbm", ".pnm"),
    *((".avif",) if READS_AVIF else ()),
)
"""Suffixes of images, in either case."""

_NOT_READ = {".heic", ".heif", ".avif", ".jxl", ".jp2"}
_PACKED = {".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar", ".zip"}
NEVER_IMAGES = (
    *(".txt", ".csv", ".tsv", ".lst", ".json", ".jsonl", ".xml", ".md", ".html", ".cls"),
    ".parquet",
)
"""Suffixes that are never images, whatever the files hold."""
_UNFINISHED = re.compile(
    r"([~#]|\.("
    r"(file)?part(ial)?|(cr|op)?download|unfinished|incomplete|inprogress|aria2|!ut|!qb|te?mp"
    r"|bak|backup|old|orig|save|sw[op]"
    r")|_original|_exiftool_tmp)$",
    re.IGNORECASE,
)
NO_IMAGE = "left out as no images"
HIDDEN = "left out as hidden images"
UNFINISHED = "left out as unfinished downloads or backups of images"
BY_CONTENT = "images by their content, whose names do not end as an image's"


class NoImagesError(InputError):
    """There is no image below a folder, or none that belongs to an identity."""


class FolderSource(TreeSource):
    """ROOT/identity/image.jpg, at any depth.

    Every folder that directly contains an image is an identity, named by its path relative to the
    root: ORL's `s1`, Omniglot's `Balinese/character01`. Identities are sorted by name, by value
    where all names are whole numbers, and images by file name, so that the same files give the same
    labels on every machine. Hidden files are left out, and a folder reached again by a symbolic
    link counts once; `remarks` count both.

    Files with another suffix than `EXTENSIONS` are images if they begin as one, except unfinished
    downloads and backups (`is_unfinished`); these and the rest are left out. `remarks` count all
    three. They also count folders without an image, folders of one name, and folders at several
    depths, which may belong to one person.

    A zip archive of such a tree is read in place.

    Args:
      root: folder or zip file.
      extensions: the only suffixes that count as images, lower case with the dot; `EXTENSIONS` if
        None.
      split: the folder of the root, such as train, whose identities count.
      listing: what is below the root, if it was walked before.

    Raises:
      NoImagesError: there is no image, or none in a folder.
      InputError: the root is missing, is neither a folder nor a zip file, has images without an
        identity, or has splits and none is chosen.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        extensions: Sequence[str] | None = None,
        split: str | None = None,
        listing: Listing | None = None,
    ):
        tree = open_tree(root)
        files, folders, hidden, others = listing or tree.walk()
        paths, by_content, unfinished, left_out = sort_out(files, tree.start, extensions)
        place = os.fspath(root)
        if not paths:
            raise NoImagesError(
                f"{place}: no image below it (looked for "
                f"{', '.join(extensions or EXTENSIONS)}; found "
                f"{in_words(unfinished + left_out) or 'nothing'})"
                f"{'; --data.source auto reads arrays' if '.npy' in left_out else ''}"
            )
        loose = [path for path in paths if "/" not in path]
        if loose:
            raise (NoImagesError if len(loose) == len(paths) else InputError)(
                f"{tree.where(loose[0])}: {number_of(len(loose), 'image')} directly in the root "
                "can belong to no identity; put each identity's images in a folder of its own"
            )
        images = paths
        chosen = choose_split(splits_of_folders(paths, split), split, root)
        paths = [path for path, each in zip(paths, chosen, strict=True) if each]
        folder_of = [path.rpartition("/")[0] for path in paths]
        order = np.argsort(number_identities(folder_of)[0], kind="stable")
        super().__init__(tree, [paths[index] for index in order])
        self.name_identities([folder_of[index] for index in order], place)
        if left_out:
            self.remark(
                f"{place}: {NO_IMAGE}: {in_words(left_out)}", "no image", map(tree.where, left_out)
            )
        for what, names in {
            UNFINISHED: unfinished,
            HIDDEN: hidden_images(hidden),
            **others,
            BY_CONTENT: by_content,
        }.items():
            if names:
                self.remark(
                    f"{place}: {what}: {len(names)}, such as {names[0]}",
                    "by content" if what == BY_CONTENT else "left out",
                    map(tree.where, names),
                )
        self.remark_links(place, tree.files(self._paths))
        remark_folders(self, place, folders, images, tree.where)


def hidden_images(hidden: Iterable[str]) -> list[str]:
    """The hidden files with image names, except those that macOS keeps beside a file."""
    return [
        path
        for path in hidden
        if path.lower().endswith(EXTENSIONS)
        and not path.rpartition("/")[2].startswith("._")
        and "__MACOSX" not in path.split("/")
    ]


def remark_folders(
    source: FaceSource,
    place: str,
    folders: Iterable[str],
    images: Sequence[str],
    where: Callable[[str], str],
) -> None:
    """Reports which of `folders` hold no image, and which identities may be one person's.

    Args:
      source: its identities are folders.
      place: its name in messages.
      folders: all that it has.
      images: the paths of all its images.
      where: gives a folder's name in a list of them.
    """
    if empty := _without_images(folders, images):
        source.remark(
            f"{place}: {number_of(len(empty), 'folder', 'hold')} no image, such as {empty[0]}",
            "empty folder",
            map(where, empty),
        )
    for remark in _about_folders(source.identity_names):
        source.remark(f"{place}: {remark}")


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of an unfinished download or a backup: 1.jpg.part, 1.jpg~."""
    return _UNFINISHED.search(name) is not None


class Sorted(NamedTuple):
    """File names by kind.

    Attributes:
      images: the images.
      by_content: those recognised only by content.
      unfinished: unfinished downloads and backups that begin as an image.
      others: the rest.
    """

    images: list[str]
    by_content: list[str]
    unfinished: list[str]
    others: list[str]


def sort_out(
    names: Sequence[str], start: Callable[[str], bytes], extensions: Sequence[str] | None = None
) -> Sorted:
    """Which files are images.

    Args:
      names: of files.
      start: name → the first bytes of the file.
      extensions: suffixes of images; if None, `EXTENSIONS`, and files with other suffixes are
        checked by content.
    """
    found = Sorted([], [], [], [])
    suffixes = tuple(extensions or EXTENSIONS)
    for name in names:
        if name.lower().endswith(suffixes):
            found.images.append(name)
        elif extensions or name.lower().endswith(NEVER_IMAGES) or not suffix_of(start(name)):
            found.others.append(name)
        elif is_unfinished(name):
            found.unfinished.append(name)
        else:
            found.images.append(name)
            found.by_content.append(name)
    return found


def in_words(names: Iterable[str]) -> str:
    """How many files have each suffix, for messages: ".heic (3), .txt (1); convert .heic to JPEG or
    PNG".
    """
    counts = collections.Counter(pathlib.PurePosixPath(name).suffix.lower() for name in names)
    shown = [f"{suffix or 'no suffix'} ({count})" for suffix, count in counts.most_common(8)]
    more = len(counts) - len(shown)
    words = printable(", ".join(shown)) + (f" and {more} more suffixes" if more else "")
    photos, packed = (sorted(each & counts.keys()) for each in (_NOT_READ, _PACKED))
    words += f"; convert {', '.join(photos)} to JPEG or PNG" if photos else ""
    return words + (f"; extract {', '.join(packed)}" if packed else "")


def _about_folders(identities: Sequence[str]) -> list[str]:
    """Lines about folders at several depths and folders of one name."""
    remarks = []
    depths: dict[int, str] = {}
    for name in identities:
        depths.setdefault(name.count("/"), name)
    known = set(identities)
    inside = [name for name in identities if folders_of([name]) & known]
    if inside:
        parent = min(folders_of([inside[0]]) & known)
        remarks.append(
            f"{number_of(len(inside), 'identity', 'lie')} in the folder of another, such as "
            f"{inside[0]} in {parent}; each is an identity of its own"
        )
    elif len(depths) > 1:
        remarks.append(
            f"identities are folders at {len(depths)} depths, such as "
            f"{' and '.join(depths[depth] for depth in sorted(depths)[:2])}"
        )
    by_name: dict[str, list[str]] = {}
    for name in identities:
        by_name.setdefault(name.rpartition("/")[2], []).append(name)
    several = [names for names in by_name.values() if len(names) > 1]
    if several:
        remarks.append(
            f"{number_of(sum(map(len, several)), 'identity', 'share')} the name of their folder "
            f"with others, such as {several[0][0]} and {several[0][1]}; each is an identity of its "
            "own"
        )
    return remarks


def _without_images(folders: Iterable[str], images: Sequence[str]) -> list[str]:
    """The folders without an image in or below them; only the outermost."""
    empty = set(folders) - folders_of(images)
    return sorted(folder for folder in empty if not folders_of([folder]) & empty)
