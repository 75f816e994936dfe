"""Builders for TensorFlow Datasets; importing this module registers them by name.

    import tensorflow_datasets as tfds
    import arcface_jax.data.tfds_builders

    builder = tfds.builder("synthetic_faces/small", file_format="array_record")
    builder.download_and_prepare()
    faces = builder.as_data_source(split="train")

    builder = tfds.builder("face_files", path="faces/train.rec", file_format="array_record")

Nothing is downloaded and TensorFlow is not imported.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets

from arcface_jax.data.decode import encode_png
from arcface_jax.data.open import open_source
from arcface_jax.data.sources.tfds import image_example, image_features
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError

_AT_ONCE = 64


@dataclasses.dataclass
class SyntheticConfig(tensorflow_datasets.core.BuilderConfig):
    """A set of drawn people.

    Attributes:
      train_identities: people in the split `train`.
      test_identities: other people, in the split `test`.
      images_per_identity: pictures of each.
      image_size: height and width in pixels.
      seed: another seed gives other people.
    """

    train_identities: int = 1000
    test_identities: int = 200
    images_per_identity: int = 20
    image_size: int = 112
    seed: int = 0


class SyntheticFacesBuilder(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Drawn faces, `synthetic_faces`: the same images as `arcface_jax.data.synthetic`, as PNG."""

    name = "synthetic_faces"
    VERSION = tensorflow_datasets.core.Version("1.0.0")
    BUILDER_CONFIGS = (
        SyntheticConfig(
            name="standard",
            description="1,000 people to train on and 200 to test on, 20 images each.",
        ),
        SyntheticConfig(
            name="small",
            description="50 people to train on and 20 to test on, 8 images each.",
            train_identities=50,
            test_identities=20,
            images_per_identity=8,
        ),
    )

    def _info(self) -> Any:
        names = [*self._source("train").identity_names, *self._source("test").identity_names]
        about = "Drawn faces; nobody is depicted. Identities of `train` and `test` are disjoint."
        return _dataset_info(self, about, names)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in ("train", "test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        source = self._source(split)
        first = self.builder_config.train_identities if split == "test" else 0
        for start in range(0, len(source), _AT_ONCE):
            indices = np.arange(start, min(start + _AT_ONCE, len(source)))
            for index, image in zip(indices, source.render(indices), strict=True):
                yield (
                    int(index),
                    image_example(encode_png(image), first + int(source.labels[index])),
                )

    def _source(self, split: str) -> SyntheticFaces:
        config = self.builder_config
        return SyntheticFaces(
            config.test_identities if split == "test" else config.train_identities,
            config.images_per_identity,
            image_size=config.image_size,
            seed=config.seed,
            first_identity=config.train_identities if split == "test" else 0,
        )


class FaceFiles(tensorflow_datasets.core.GeneratorBasedBuilder):
    """Any face set on disk as a TFDS data set, `face_files`; images stay bit for bit.

    Args:
      path: what `arcface_jax.data.open.open_source` opens: a folder, a zip file, `train.rec`, a
        list, Parquet. Sets from different paths are different configurations of the builder.
      config: TFDS's name for the path; derived from it if None.
      **options: those of every TFDS builder, such as data_dir and file_format.

    Raises:
      InputError: `path` holds nothing, or nothing that can be opened.
    """

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def __init__(self, path: str | None = None, config: Any = None, **options: Any):
        if path is None:
            raise InputError(
                'face_files: give the images\' place, tfds.builder("face_files", path=…)'
            )
        self._faces = open_source(path)
        if config is None:
            digest = hashlib.blake2b(self._faces.fingerprint.encode(), digest_size=6).hexdigest()
            config = tensorflow_datasets.core.BuilderConfig(
                name=f"set_{digest}", description="Faces from files."
            )
        super().__init__(config=config, **options)

    def _info(self) -> Any:
        return _dataset_info(self, "Faces from files, bit for bit.", self._faces.identity_names)

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in range(len(self._faces)):
            yield index, image_example(self._faces.encoded(index), int(self._faces.labels[index]))


def _dataset_info(builder: Any, description: str, names: Sequence[str]) -> Any:
    return tensorflow_datasets.core.DatasetInfo(
        builder=builder,
        description=description,
        features=image_features(list(names)),
        supervised_keys=("image", "label"),
        disable_shuffling=True,  # readers shuffle; a prepared set keeps the source's order
    )
