"""TensorFlow Datasets, read without TensorFlow."""

import io
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets

from arcface_jax.buckets import BucketPath, as_path, kept_copy
from arcface_jax.counts import number_of
from arcface_jax.data.sources.encoded import EncodedSource, checked_index, number_identities
from arcface_jax.data.text import check_exact, identity_of_value
from arcface_jax.errors import InputError, reason

_READ = ("array_record", "parquet")  # file formats with records by their number
PATH_KEY = "image/filename"
"""The feature with an image's path, as TFDS's ImageFolder has it."""


class TfdsSource(EncodedSource):
    """A prepared TFDS data set in array_record files, by random access.

    Takes any data set of the catalogue with an image and an identity column, such as `lfw` or
    `omniglot`, and those of `convert.convert` and the builders in `arcface_jax.data.tfds_builders`.
    Prepare it with file_format="array_record":

        tensorflow_datasets.data_source("omniglot", split="train")

    Identities that are class labels keep TFDS's names; text identities are sorted. Reading the
    labels takes one pass over the records, without decoding images.

    Args:
      name: catalogue name ("lfw", "omniglot", "lfw/0.1.1"), or the folder of a prepared data set
        (with `dataset_info.json`).
      split: as TFDS writes it: "train", "train[:90%]", "train+test".
      data_dir: where TFDS keeps its data sets; TFDS's own default if None.
      image_key: the image feature.
      identity_key: the identity feature.

    Raises:
      InputError: no such data set, not prepared, damaged, a file or column is missing, or a file's
        number of records differs from the data set's description.
    """

    def __init__(
        self,
        name: str | os.PathLike[str],
        split: str = "train",
        data_dir: str | os.PathLike[str] | None = None,
        image_key: str = "image",
        identity_key: str = "label",
    ):
        self._name, self._image_key = f"{os.fspath(name)} split {split}", image_key
        builder = _builder(os.fspath(name), data_dir)
        try:
            self._check_prepared(builder, split)
            features = builder.info.features
            for key in (image_key, identity_key):
                if key not in features:
                    has = ", ".join(features)
                    raise InputError(
                        f"{self._name}: no column {key!r}; it has {has}; prepare the data set with "
                        f"columns called {image_key} and {identity_key}"
                    )
            if not builder.info.splits[split].num_examples:
                raise InputError(f"{self._name}: no record in it")
            files = builder.info.splits[split].file_instructions
            self._files = [os.path.basename(os.fspath(file.filename)) for file in files]
            self._ends = np.cumsum([file.take for file in files])
            self._records: Sequence[Any] = builder.as_data_source(
                split=split, decoders={image_key: tensorflow_datasets.decode.SkipDecoding()}
            )
        except InputError:
            raise
        except Exception as error:  # of many kinds, for what TFDS reads of the description
            raise InputError(f"{self._name}: cannot be read ({reason(error)})") from None
        identities: list[Any] = []
        self._paths: list[str] | None = [] if PATH_KEY in features else None
        for index in range(len(self._records)):
            record = self._record(index)
            identities.append(record[identity_key])
            if self._paths is not None:
                self._paths.append(_text(record[PATH_KEY]))
        feature = features[identity_key]
        # Records hold numbers with a fraction as float32, whatever the description says.
        bits, precision = (11, "float16") if feature.np_dtype == np.float16 else (24, "float32")
        texts = []
        for index, value in enumerate(identities):
            if isinstance(value, float) and math.isfinite(value):
                check_exact(value, bits, precision, self._place(index))
            texts.append(identity_of_value(value, self._place(index)))
        self.labels, self.identity_names = number_identities(texts)
        if isinstance(feature, tensorflow_datasets.features.ClassLabel):
            names = self._class_names(feature, builder, identity_key)
            for label, text in enumerate(self.identity_names):
                if int(text) >= feature.num_classes:
                    raise InputError(
                        f"{self._place(texts.index(text))}: label {text}, and there are "
                        f"{number_of(feature.num_classes, 'class')}, from 0 on"
                    )
                self.identity_names[label] = names[int(text)]
        self.remark_spelling(self._name)

    def _class_names(self, feature: Any, builder: Any, key: str) -> list[str]:
        """The names of a column's classes; reports if there are only numbers."""
        names, file = list(feature.names), as_path(builder.data_dir) / f"{key}.labels.txt"
        if len(names) != feature.num_classes or not all(name.strip() for name in names):
            raise InputError(
                f"{file}: names {len(list(filter(str.strip, names)))} of {feature.num_classes} "
                "classes; give each a line, or remove the file to call them by their numbers"
            )
        if names == [str(label) for label in range(len(names))] and not file.exists():
            self.remark(
                f"{self._name}: identities are called by their numbers, for there is no "
                f"{file.name} beside features.json; restore it if they have names",
                "names",
            )
        return names

    def _check_prepared(self, builder: Any, split: str) -> None:
        """Refuses a data set without files to read, or that its description contradicts."""
        splits, kind = builder.info.splits, builder.info.file_format
        if not splits:
            raise InputError(
                f"{self._name}: is not prepared; call download_and_prepare, with the file_format "
                "array_record"
            )
        if kind.value not in _READ:
            raise InputError(
                f"{self._name}: is prepared as {kind.value}, which has no order to read from; "
                "prepare it as array_record"
            )
        asked = re.findall(r"[^\s+\[\]]+(?=\[|\s*(?:\+|$))", split)
        for name in asked:
            if name not in splits and name != "all":
                raise InputError(f"{self._name}: no split {name!r}; it has {', '.join(splits)}")
        for name in splits if "all" in asked else asked:
            _check_shards(splits[name], kind.value)

    def encoded(self, index: int) -> bytes:
        """The bytes of the image feature."""
        content = self._record(checked_index(index, len(self)))[self._image_key]
        if not isinstance(content, bytes):
            raise InputError(
                f"{self.where(index)}: column {self._image_key!r} holds no image bytes"
            )
        return content

    def path(self, index: int) -> str | None:
        """The image's file, if the data set has a feature `image/filename`."""
        return None if self._paths is None else self._paths[checked_index(index, len(self))]

    def where(self, index: int) -> str:
        """Data set, split, file and record."""
        return self._place(checked_index(index, len(self)))

    def _place(self, index: int) -> str:
        file = self._files[int(np.searchsorted(self._ends, index, side="right"))]
        return f"{self._name} {file} record {index}"

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: the data set's average, as it keeps no sizes."""
        splits = self._records.dataset_info.splits.values()  # type: ignore[attr-defined]
        average = sum(split.num_bytes for split in splits) // max(
            sum(split.num_examples for split in splits), 1
        )
        return np.full(len(self), average, np.int64)

    def _record(self, index: int) -> dict[str, Any]:
        try:
            return self._records[index]
        except Exception as error:
            # array_record and TFDS have no common error for a damaged record.
            raise InputError(f"{self._place(index)}: cannot be read ({reason(error)})") from None


def image_features(
    names: Sequence[str], *, with_paths: bool = False
) -> tensorflow_datasets.features.FeaturesDict:
    """TFDS features of this library's data sets: `image` of any size, `label` with these names, and
    optionally `image/filename`.
    """
    features = tensorflow_datasets.features
    kinds: dict[str, Any] = {
        "image": features.Image(shape=(None, None, 3), encoding_format="png"),
        "label": features.ClassLabel(names=names),
    }
    return features.FeaturesDict(kinds | ({PATH_KEY: features.Text()} if with_paths else {}))


def image_example(encoded: bytes, label: int) -> dict[str, Any]:
    """An example of `image_features`; stores the encoded bytes unchanged."""
    return {"image": io.BytesIO(encoded), "label": int(label)}


def _text(value: Any) -> str:
    """A record's text; bytes are escaped as in Python's file names."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _check_shards(split: Any, kind: str) -> None:
    """Refuses a split with a missing file, or a file with another number of records than stated."""
    for path, due in zip(map(os.fspath, split.filepaths), split.shard_lengths, strict=True):
        if not os.path.exists(path):
            raise InputError(f"{path}: is missing; fetch it, or prepare the data set anew")
        if kind != "array_record":
            continue
        from array_record.python import array_record_module  # not built for every system

        try:
            reader = array_record_module.ArrayRecordReader(path)
            there = reader.num_records()
            reader.close()
        except Exception as error:  # no common error for what is damaged
            raise InputError(f"{path}: cannot be read ({reason(error)}); fetch it anew") from None
        if there != due:
            raise InputError(
                f"{path}: holds {number_of(there, 'record')}, and dataset_info.json counts {due}; "
                "fetch both anew"
            )


def _builder(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    folder = as_path(name)
    prepared = (folder / "dataset_info.json").exists()
    if os.sep in name and folder.exists() and not prepared:
        raise InputError(
            f"{name}: no dataset_info.json in it; give the folder of the data set's version"
        )
    if prepared and not (folder / "features.json").exists():
        raise InputError(
            f"{name}: no features.json beside dataset_info.json; fetch it too, or, of a data set "
            "of Hugging Face, save it with to_parquet"
        )
    try:
        if isinstance(folder, BucketPath) and prepared:  # its reader knows local files alone
            name = str(kept_copy(folder))
        if prepared:
            return tensorflow_datasets.builder_from_directory(name)
        return tensorflow_datasets.builder(name, data_dir=data_dir, file_format="array_record")
    except tensorflow_datasets.core.DatasetNotFoundError:
        raise InputError(
            f"{name}: TFDS has no such data set, and there is no such folder; check the name"
        ) from None
    except Exception as error:  # anything that a damaged description causes
        raise InputError(f"{name}: TFDS cannot open it ({reason(error)})") from None
