"""A folder of images, one sub-folder an identity, or a zip archive of it."""

import os
from collections.abc import Sequence

import numpy as np

from arcface_jax.data.sources.encoded import number_identities
from arcface_jax.data.sources.filetree import TreeSource, open_tree
from arcface_jax.errors import InputError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".pgm", ".ppm", ".bmp", ".webp", ".tif", ".tiff")
"""File names that are images, in either case."""


class FolderSource(TreeSource):
    """ROOT/identity/image.jpg, at any depth.

    Every folder that directly contains an image is an identity, named by its
    path relative to the root: ORL's `s1`, Omniglot's `Balinese/character01`.
    Identities are sorted by name, by value where all names are whole numbers,
    and images by file name, so that the same files give the same labels on
    every machine. Hidden files are left out; a
    folder reached by several symbolic links counts once.

    A zip archive of such a tree is read in place.

    Args:
      root: folder or zip file.
      extensions: file names that count as images, lower case with the dot.

    Raises:
      InputError: the root is missing, is neither a folder nor a zip file, has no image, or has
        images that belong to no identity.
    """

    def __init__(self, root: str | os.PathLike[str], extensions: Sequence[str] = EXTENSIONS):
        tree = open_tree(root)
        paths = [path for path in tree.paths() if path.lower().endswith(tuple(extensions))]
        if not paths:
            raise InputError(
                f"{os.fspath(root)}: no image below it (looked for {', '.join(extensions)})"
            )
        loose = [path for path in paths if "/" not in path]
        if loose:
            raise InputError(
                f"{tree.where(loose[0])}: {len(loose)} image(s) directly in the root belong to no "
                "identity; put each identity's images in a folder of its own"
            )
        labels, self.identity_names = number_identities([path.rpartition("/")[0] for path in paths])
        order = np.argsort(labels, kind="stable")
        super().__init__(tree, [paths[index] for index in order])
        self.labels = labels[order]
