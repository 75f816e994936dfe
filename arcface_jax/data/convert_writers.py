"""How `convert` writes each format. A writer can continue after the images in its journal."""

import collections
import os
import pathlib
from typing import Any

import numpy as np
import simplejpeg
import tensorflow_datasets

from arcface_jax.counts import number_of
from arcface_jax.data.convert_names import FileNames
from arcface_jax.data.decode import decode, encode_png, resize
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.recordio_format import RecordWriter, format_index, pack
from arcface_jax.data.sources.tfds import PATH_KEY, image_example, image_features
from arcface_jax.errors import InputError, printable
from arcface_jax.files import write_whole

_CHUNK = 1000
_SHARD = 8192
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


class Encoder:
    """Index → the bytes to store, by the arguments of `convert.convert`.

    Attributes:
      suffix: of re-encoded images; None if the source's stored bytes are kept.
    """

    def __init__(self, source: FaceSource, image_size: int | None, jpeg_quality: int | None):
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 100:
            raise InputError(f"jpeg_quality = {jpeg_quality}: give 1 … 100")
        if image_size is not None and image_size < 1:
            raise InputError(f"image_size = {image_size}: give at least 1")
        self._source, self._image_size, self._jpeg_quality = source, image_size, jpeg_quality
        self.suffix: str | None = ".png" if jpeg_quality is None else ".jpg"
        if image_size is None and jpeg_quality is None and _stores_bytes(source):
            self.suffix = None

    def __call__(self, index: int) -> bytes:
        """The bytes of image `index`."""
        if self.suffix is None and (stored := self._source.encoded(index)) is not None:
            return stored
        image = self._source[index]
        if self._image_size is not None:
            image = resize(image, self._image_size)
        if self._jpeg_quality is None:
            return encode_png(image)
        return simplejpeg.encode_jpeg(
            np.ascontiguousarray(image), self._jpeg_quality, colorsubsampling="444"
        )


class Writer:
    """Writes the images of `source` into `folder` in a given order.

    `scratch` holds notes, deleted at the end; `chunk` images go between two journal entries; `name`
    gives an image its path. `remarks` say what is lost.
    """

    chunk = _CHUNK
    remarks: tuple[str, ...] = ()

    def __init__(
        self,
        source: FaceSource,
        folder: pathlib.Path,
        scratch: pathlib.Path,
        encode: Encoder,
        name: FileNames,
    ):
        self._source, self._folder, self._scratch, self._encode = source, folder, scratch, encode
        self._name = name
        self._labels = np.asarray(source.labels)

    def resume(self, order: np.ndarray, done: int, state: dict[str, Any]) -> None:
        """Begins, or continues after `done` images of `order`, where `write` returned `state`."""
        self._order = order

    def write(self, start: int, stop: int) -> dict[str, Any]:
        """Writes images start … stop − 1 of the order; returns what `resume` needs."""
        raise NotImplementedError

    def finish(self) -> None:
        """Writes what accompanies the images, if anything."""

    def close(self) -> None:
        """Closes files; the last call, also after an error."""


class RecordIOWriter(Writer):
    """The header is record 0; images have keys 1 … N; identities follow."""

    def resume(self, order: np.ndarray, done: int, state: dict[str, Any]) -> None:
        """Cuts both files to the journal's counts, or begins them with the header record."""
        super().resume(order, done, state)
        self._notes = self._scratch / "offsets_and_names"
        count, identities = len(order), len(self._source.identity_names)
        self._records = RecordWriter(
            self._folder / "train.rec", append_at=state["rec_bytes"] if done else 0
        )
        if not done:
            self._records.write(pack((count + 1, count + 1 + identities), 0))
        with open(self._notes, "ab") as notes:
            notes.truncate(state["note_bytes"] if done else 0)

    def write(self, start: int, stop: int) -> dict[str, Any]:
        """Writes one record per image, and a line of the list with its offset."""
        with open(self._notes, "ab") as notes:
            for number in range(start, stop):
                index = int(self._order[number])
                content = self._encode(index)
                if not content:
                    raise InputError(
                        f"{self._source.where(index)}: empty image (0 bytes); remove it"
                    )
                offset = self._records.write(pack(float(self._labels[index]), number + 1, content))
                name = self._name(index, number, content)
                notes.write(
                    f"{offset}\t1\t{name}\t{self._labels[index]}\n".encode(
                        "utf-8", "surrogateescape"
                    )
                )
            notes.flush()
            os.fsync(notes.fileno())
            self._records.flush()
            return {"rec_bytes": self._records.tell(), "note_bytes": notes.tell()}

    def finish(self) -> None:
        """Writes the identities' records, the index, the list and `property`."""
        notes = [
            line.split(b"\t", 1) for line in self._notes.read_bytes().splitlines(keepends=True)
        ]
        offsets = [0, *(int(offset) for offset, _ in notes)]
        counts = np.bincount(self._labels, minlength=len(self._source.identity_names))
        stops = np.cumsum(counts) + 1
        for label, (size, stop) in enumerate(zip(counts, stops, strict=True)):
            key = len(self._order) + 1 + label
            offsets.append(self._records.write(pack((int(stop - size), int(stop)), key)))
        self._records.flush()
        write_whole(self._folder / "train.idx", format_index(range(len(offsets)), offsets))
        write_whole(self._folder / "train.lst", b"".join(line for _, line in notes))
        first = int(self._order[0])
        height, width = decode(self._encode(first), self._source.where(first)).shape[:2]
        write_whole(self._folder / "property", f"{len(counts)},{height},{width}")

    def close(self) -> None:
        """Closes the record file."""
        if hasattr(self, "_records"):
            self._records.close()


class FolderWriter(Writer):
    """IDENTITY/IMAGE. Rewrites files after the journal's."""

    def write(self, start: int, stop: int) -> dict[str, Any]:
        """Writes one file per image."""
        for number in range(start, stop):
            content = self._encode(int(self._order[number]))
            path = self._folder / self._name(int(self._order[number]), number, content)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return {}


class ArrayRecordWriter(Writer):
    """A TFDS data set `faces` with one split, `train`. A shard is written whole or not at all."""

    chunk = _SHARD

    def resume(self, order: np.ndarray, done: int, state: dict[str, Any]) -> None:
        """Names the shards; continues counting bytes."""
        super().resume(order, done, state)
        self._bytes = int(state.get("bytes", 0))
        has_paths = len(order) > 0 and self._source.path(0) is not None
        names = list(self._source.identity_names)
        # TFDS keeps one a line, without a word about the spaces around it.
        lost = [
            name for name in names if name != name.strip() or not name.isprintable() or not name
        ]
        lost += [name for name, count in collections.Counter(names).items() if count > 1]
        if lost:
            self.remarks = (
                printable(
                    f"identities are numbers, for {len(lost)} of {number_of(len(names), 'name')}, "
                    f"such as {lost[0][-160:]!r}, are none that a data set of TFDS can hold"
                ),
            )
            names = [str(label) for label in range(len(names))]
        self._features = image_features(names, with_paths=has_paths)
        self._files = tensorflow_datasets.core.ShardedFileTemplate(
            data_dir=self._folder,
            dataset_name="faces",
            split="train",
            filetype_suffix="array_record",
            template=_TEMPLATE,
        )

    def write(self, start: int, stop: int) -> dict[str, Any]:
        """Writes one shard."""
        from array_record.python import array_record_module  # not built for every system

        shards = -(-len(self._order) // _SHARD)
        path = self._files.sharded_filepath(shard_index=start // _SHARD, num_shards=shards)
        # A group of one record, so that reading one image decompresses no other.
        writer = array_record_module.ArrayRecordWriter(os.fspath(path), "group_size:1")
        try:
            for number in range(start, stop):
                index = int(self._order[number])
                image = self._encode(index)
                path = self._name(index, number, image)
                example = image_example(image, int(self._labels[index]))
                if PATH_KEY in self._features:
                    example[PATH_KEY] = path.encode("utf-8", "surrogateescape")
                content = self._features.serialize_example(self._features.encode_example(example))
                writer.write(content)
                self._bytes += len(content)
        finally:
            writer.close()
        return {"bytes": self._bytes}

    def finish(self) -> None:
        """Writes TFDS's description of the data set."""
        count = len(self._order)
        lengths = [min(_SHARD, count - start) for start in range(0, count, _SHARD)]
        tensorflow_datasets.folder_dataset.write_metadata(
            data_dir=self._folder,
            features=self._features,
            split_infos=[
                tensorflow_datasets.core.SplitInfo(
                    name="train",
                    shard_lengths=lengths,
                    num_bytes=self._bytes,
                    filename_template=self._files,
                )
            ],
            filename_template=_TEMPLATE,
            check_data=False,
        )


WRITERS: dict[str, type[Writer]] = {
    "recordio": RecordIOWriter,
    "array_record": ArrayRecordWriter,
    "folder": FolderWriter,
}


def _stores_bytes(source: FaceSource) -> bool:
    """Whether the images are files or records, not made or changed on reading."""
    try:
        return len(source) > 0 and source.encoded(0) is not None
    except InputError:  # one that cannot be read is none the less stored
        return True
