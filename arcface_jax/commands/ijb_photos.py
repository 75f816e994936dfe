"""The photographs of IJB as they are distributed, to one feature for each line of the lists."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from arcface_jax.commands.models import ImportedModel, TrainedRun
from arcface_jax.commands.partial import Partial, about_model
from arcface_jax.commands.photos import read_ahead
from arcface_jax.counts import number_of
from arcface_jax.data.decode import resize
from arcface_jax.data.landmarks import AlignedSource, say_other_size
from arcface_jax.data.sources.filetree import TreeSource, open_tree
from arcface_jax.errors import InputError
from arcface_jax.evaluation.ijb import Landmarks
from arcface_jax.files import whole_file
from arcface_jax.models.embed import mirror

_IMAGES_AT_ONCE = 256
_BATCHES_A_SAVE = 8


class ListedPhotos(TreeSource):
    """Photographs below a folder or in a zip file, by a list of their landmarks.

    Raises:
      InputError: one of them is not there.
    """

    def __init__(self, root: pathlib.Path, listed: Landmarks) -> None:
        super().__init__(open_tree(root), listed.names)
        self.labels, self.identity_names = np.zeros(len(listed.names), np.int32), [""]
        self.points = listed.points
        sizes = self.encoded_sizes()
        missing = np.flatnonzero(sizes == 0)
        if len(missing):
            raise InputError(
                f"{root}: {len(missing)} of {number_of(len(listed.names), 'listed photo', 'are')} "
                f"not there or empty, the first is {self.where(int(missing[0]))}; copy them again, "
                "or give the folder that the names of the list begin in"
            )

        self.digest = hashlib.sha256(
            repr([str(root.resolve()), *listed.names]).encode()
            + listed.points.tobytes()
            + sizes.tobytes()
        ).hexdigest()


def embed_listed(
    model: TrainedRun | ImportedModel,
    path: pathlib.Path,
    photos: ListedPhotos,
    output: pathlib.Path,
    *,
    mirrored: bool = True,
    threads: int = 4,
    progress: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Embeds photographs into an .npz file, as `templates.pool_templates` takes them.

    It holds `embeddings` float32 [N, D] and `mirrored` [N, D]. An image that cannot be decoded, or
    whose landmarks cannot be those of a face, has no usable face, and a row of zeros. An
    interrupted call goes on when it is made again.

    Args:
      model: embeds them.
      path: of the model.
      photos: N of them.
      output: the file.
      mirrored: embed the mirror images too.
      threads: images decoded at once.
      progress: called with the number of images done since the last call.

    Returns: "image: reason" of each that has no usable face.
    """
    size = model.image_size
    views = 2 if mirrored else 1
    noise = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    width = model.embed(noise).shape[1]
    recipe = about_model(path, model.name) | {"views": views, "photos": photos.digest}
    partial = Partial(output, len(photos), views * width, recipe)
    progress(partial.done)
    at = partial.done
    say_other_size(photos, photos.points)
    faces = AlignedSource(photos, photos.points, max(size))

    def crop(index: int) -> np.ndarray | str:
        """uint8 [height, width, 3]; or why there is none."""
        try:
            return resize(faces[index], size)
        except InputError as error:
            return str(error)

    crops = read_ahead(crop, range(at, len(photos)), _IMAGES_AT_ONCE, threads)
    try:
        for number, found in enumerate(crops, 1):
            rows = [row for row, one in enumerate(found, at) if not isinstance(one, str)]
            partial.rows[at : at + len(found)] = 0
            if rows:
                images = np.stack([one for one in found if not isinstance(one, str)])
                partial.rows[rows, :width] = model.embed(images)
                if mirrored:
                    partial.rows[rows, width:] = model.embed(mirror(images))
            at += len(found)
            progress(len(found))
            if number % _BATCHES_A_SAVE == 0:
                partial.save(at)
    finally:
        partial.save(at)
    embeddings = partial.rows[:, :width]
    without = np.flatnonzero(~embeddings.any(axis=1))
    with whole_file(output) as file:
        arrays: dict[str, Any] = {"mirrored": partial.rows[:, width:]} if mirrored else {}
        np.savez(file, embeddings=embeddings, **arrays)
    partial.discard()
    return [str(crop(int(index))) for index in without]
