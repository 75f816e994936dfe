"""insightface's data sets: `train.rec`, `train.idx`, and the text files beside them."""

import os
import pathlib

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.data.source import Pieces
from arcface_jax.data.sources.encoded import EncodedSource, checked_index
from arcface_jax.data.sources.lists import read_lst
from arcface_jax.data.sources.recordio_format import (
    RecordFile,
    RecordHeads,
    read_index,
    scan_index,
)
from arcface_jax.data.text import count
from arcface_jax.errors import InputError, readable

_FLOAT32_EXACT = 2**24
_READ_WHOLE_BYTES = 1 << 30


class RecordIOSource(EncodedSource):
    """The images of a `.rec` file, by random access.

    The file's header record has key 0, two labels and no image: it says which keys are images and
    which are identities. An identity's record, also without an image, holds the key range of its
    images. So the labels of a large file come without reading every image. A file without a header
    record is a plain list of images, each with its label. If an image has several labels, the first
    is its identity.

    Header, index, records and a `.lst` file beside the `.rec` must agree: fewer images than one of
    them counts are an error, whether the file was cut short or packing left out an image. `remarks`
    count identities that the header or insightface's `property` has and the file lacks. In files up
    to a gigabyte every record's head is compared.

    Label values become 0 … n − 1 in their order. An identity's name is its value, or the folder
    part of its paths if the `.lst` file is like those of `convert.convert`; otherwise `remarks`
    tell why the list is not used. Several identity records of one label, as from packing an
    unsorted list, are one identity; `remarks` count those labels, and identity records without an
    image.

    Args:
      path: the `.rec` file, or the folder with `train.rec`. The index has the same name with
        `.idx`. Without it each opening scans the whole file (`recordio_format.scan_index` and
        `format_index` make an index to keep).

    Raises:
      InputError: a file is missing or damaged; header, index, list and records disagree; an image
        is in no identity record's range, in two, or has another label than its range; or labels are
        no counts that float32 holds exactly.
    """

    def __init__(self, path: str | os.PathLike[str]):
        rec = as_path(path)
        if rec.is_dir():
            rec = rec / "train.rec"
        self._file = RecordFile(rec)
        index = self._index = rec.with_suffix(".idx")
        if index.exists():
            keys, offsets = read_index(index)
            self._check_last_line(int(keys[-1]), int(offsets[-1]))
        else:
            keys, offsets = scan_index(self._file)
        order = np.argsort(keys, kind="stable")
        self._keys, self._offsets = keys[order], offsets[order]
        outside = (self._offsets % 4 != 0) | (self._offsets + 8 > len(self._file))
        if outside.any():
            raise InputError(
                f"{index}: key {self._keys[outside][0]} at offset {self._offsets[outside][0]} is "
                f"no place in the {number_of(len(self._file), 'byte')} of {rec}: that is cut "
                "short, or the index is another's; restore it, or delete the index to have it "
                "rebuilt"
            )
        values = self._read_labels()
        unique, labels = np.unique(values, return_inverse=True)
        self.labels = labels.astype(np.int32)
        self.identity_names = [str(value) for value in unique]
        self._paths: list[str] | None = None
        if rec.with_suffix(".lst").exists():
            self._use_list(rec.with_suffix(".lst"), values)
        if rec.name == "train.rec" and rec.with_name("property").exists():
            self._compare_property(rec.with_name("property"))

    def encoded(self, index: int) -> bytes:
        """The record's payload."""
        return self._file.read(self._offset(index)).payload

    def where(self, index: int) -> str:
        """File, offset and key."""
        index = checked_index(index, len(self))
        return (
            f"{self._file.where(int(self._image_offsets[index]))} (key {self._image_keys[index]})"
        )

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: distances to the next record, i.e. padded lengths."""
        ends = np.append(np.sort(self._offsets), len(self._file))
        return ends[np.searchsorted(ends, self._image_offsets, side="right")] - self._image_offsets

    def pieces(self) -> Pieces | None:
        """Blocks of a large file in a bucket."""
        return self.pieces_of_files([self._file.path], 0, self._image_offsets)

    def path(self, index: int) -> str | None:
        """The image's path before packing; None without a `.lst` file."""
        return None if self._paths is None else self._paths[checked_index(index, len(self))]

    def _offset(self, index: int) -> int:
        return int(self._image_offsets[checked_index(index, len(self))])

    def _read_labels(self) -> np.ndarray:
        """Finds the images; returns the label value of each, int64."""
        if not len(self._keys):
            raise InputError(f"{self._file.path}: no record in it")
        head = self._file.read_heads(self._offsets[:1])
        if self._keys[0] == 0 and _without_image(head)[0]:
            return self._read_by_header(head.labels[0])
        heads = self._file.read_heads(self._offsets)
        self._check_listed(self._offsets, heads.ends)
        self._refuse(
            _without_image(heads),
            self._keys,
            "has labels and no image, as a header record or an identity's, but there is no header "
            f"record with key 0; {self._remedy}",
        )
        self._image_keys, self._image_offsets = self._keys, self._offsets
        return self._label_values(self._offsets, heads.labels[:, 0])

    def _read_by_header(self, promised: np.ndarray) -> np.ndarray:
        """`_read_labels` for a file with a header record."""
        first, end = self._identity_keys(promised)
        is_image = (self._keys > 0) & (self._keys < first)
        is_identity = (self._keys >= first) & (self._keys < end)
        self._image_keys, self._image_offsets = self._keys[is_image], self._offsets[is_image]
        if not len(self._image_keys):
            raise InputError(
                f"{self._file.path}: no image before key {first}, where identities start"
            )
        self._refuse(
            self._keys >= end,
            self._keys,
            f"is beyond key {end}, where the header record says that all ends; {self._remedy}",
        )
        no_images, no_identities = first - 1 - is_image.sum(), end - first - is_identity.sum()
        # Of a large file, only what few pages of the disk tell.
        every = len(self._file) <= _READ_WHOLE_BYTES or no_images > 0 or no_identities > 0
        if every:
            self._check_listed(self._offsets, self._file.read_heads(self._offsets).ends)
        else:
            last = self._offsets.max()
            ends = np.append(last, self._file.read_heads(np.array([last])).ends)
            self._check_listed(np.array([self._offsets.min(), last]), ends)
        self._check_counted(first - 1, int(no_images), end - first, int(no_identities))
        of_identities = self._file.read_heads(self._offsets[is_identity])
        self._refuse(
            ~_without_image(of_identities),
            self._keys[is_identity],
            f"is an image, where the header record says that identities start at key {first}; "
            f"{self._remedy}",
        )
        looked_at = np.arange(len(self._image_keys)) if every else np.array([-1])
        images = self._file.read_heads(self._image_offsets[looked_at])
        self._refuse(
            _without_image(images),
            self._image_keys[looked_at],
            f"has labels and no image, and the header record says that identities start at key "
            f"{first}; {self._remedy}",
        )
        values = np.full(len(self._image_keys), -1, np.int64)
        if every:
            values = self._label_values(self._image_offsets, images.labels[:, 0])
        # The ranges in identity records are rounded to a multiple of 2 or more.
        if first > _FLOAT32_EXACT:
            return values if every else self._labels_at(self._image_offsets)
        starts, stops = self._ranges(of_identities.labels, self._keys[is_identity], first)
        covered = np.zeros(len(values), bool)
        by_start = self._labels_at(self._image_offsets[starts])
        for start, stop, value in zip(starts, stops, by_start, strict=True):
            other = (values[start:stop] >= 0) & (values[start:stop] != value)
            self._refuse(
                other,
                self._image_keys[start:stop],
                f"is of another identity than key {self._image_keys[start]}, and the file puts "
                "both under one; the file is damaged",
            )
            values[start:stop], covered[start:stop] = value, True
        if len(starts) and not no_identities:
            self._refuse(
                ~covered,
                self._image_keys,
                "is an image that no identity record's range holds; the file is damaged, or its "
                "identity records are of other images; write the records anew",
            )
        values[~covered] = self._labels_at(self._image_offsets[~covered])
        self._note_shared(by_start, self._image_keys[starts])
        return values

    def _ranges(
        self, ranges: np.ndarray, keys: np.ndarray, first: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first image of each identity record and the one after its last, as image numbers;
        only records with an image, in image order.

        Args:
          ranges: float32 [I, 2], the identity records' image keys, the last exclusive.
          keys: [I], of these records.
          first: the first key after the images'.
        """
        good = (ranges[:, 0] >= 0) & (ranges[:, 0] <= ranges[:, 1]) & (ranges[:, 1] <= first)
        self._refuse(
            ~(good & (np.floor(ranges) == ranges).all(axis=1)),
            keys,
            f"does not hold a range of image keys, which are 1 to {first - 1}; the file is damaged",
        )
        starts, stops = np.searchsorted(self._image_keys, ranges.astype(np.int64)).T
        if (empty := starts == stops).any():
            self.remark(
                f"{self._file.path}: {empty.sum()} of "
                f"{number_of(len(keys), 'identity record', 'hold')} no image, such as key "
                f"{keys[empty][0]}",
                "identity records",
            )
        order = np.argsort(starts, kind="stable")
        order = order[~empty[order]]
        starts, stops, keys = starts[order], stops[order], keys[order]
        overlaps = np.append(False, starts[1:] < np.maximum.accumulate(stops)[:-1])
        if overlaps.any():
            at = int(np.argmax(overlaps))
            self._refuse(
                overlaps,
                keys,
                f"holds image {self._image_keys[starts[at]]}, which another identity record holds "
                "too; the file is damaged; write the records anew",
            )
        return starts, stops

    def _note_shared(self, labels: np.ndarray, keys: np.ndarray) -> None:
        """Reports labels with several identity records, as from packing an unsorted list.

        Args:
          labels: of each identity record's images.
          keys: of its first image.
        """
        unique, counts = np.unique(labels, return_counts=True)
        if (several := unique[counts > 1]).size:
            one, other = keys[labels == several[0]][:2]
            self.remark(
                f"{self._file.path}: {number_of(len(several), 'label', 'have')} several identity "
                f"records, such as label {several[0]} of images {one} and {other}; images of one "
                "label count as one identity",
                "identity records",
            )

    def _check_counted(
        self, images: int, no_images: int, identities: int, no_identities: int
    ) -> None:
        """Refuses a file that lacks images its header counts; reports missing identities."""
        if no_images:
            raise InputError(
                f"{self._file.path}: its header record counts {number_of(images, 'image')}, and "
                f"{no_images} of them are not in the file: it is cut short, or they were left out "
                "in packing; restore it, or write the records anew"
            )
        if no_identities:
            self.remark(
                f"{self._file.path}: its header record counts {number_of(identities, 'identity')}, "
                f"and {no_identities} of their records are not in the file"
            )

    def _check_last_line(self, key: int, offset: int) -> None:
        """Refuses an index with a cut last line, whose offset then lacks digits."""
        with readable(self._index, "index"), self._index.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) in b"\r\n":
                return
        try:
            self._file.content(offset)
        except InputError:
            raise InputError(
                f"{self._index}: is cut in its last line (key {key} at offset {offset}, where no "
                "record starts); delete it to have it rebuilt"
            ) from None

    def _check_listed(self, starts: np.ndarray, ends: np.ndarray) -> None:
        """Refuses an index that does not list every record exactly once.

        Args:
          starts: offsets of listed records.
          ends: where the record after each starts.
        """
        order = np.argsort(starts, kind="stable")
        length = len(self._file)
        before = np.append(0, np.minimum(ends[order], length))
        after = np.append(starts[order], length)
        if (after < before).any():
            offset = after[after < before][0]
            keys = " and ".join(map(str, self._keys[self._offsets == offset]))
            raise InputError(
                f"{self._index}: offset {offset} (key {keys}) is in a record that is listed "
                f"already; {self._remedy}"
            )
        gaps = np.flatnonzero(after > before)
        if len(gaps):
            missing = sum(self._file.count(int(before[gap]), int(after[gap])) for gap in gaps)
            raise InputError(
                f"{self._index}: does not list {missing} of the records of {self._file.path}, the "
                f"first at offset {before[gaps[0]]}; {self._remedy}"
            )

    def _refuse(self, wrong: np.ndarray, keys: np.ndarray, why: str) -> None:
        """Raises for the first faulty record among these keys."""
        if wrong.any():
            key = keys[wrong][0]
            where = self._file.where(int(self._offsets[self._keys == key][0]))
            more = f" (and {wrong.sum() - 1} more)" if wrong.sum() > 1 else ""
            raise InputError(f"{where}: key {key}{more} {why}")

    @property
    def _remedy(self) -> str:
        if self._index.exists():
            return f"delete {self._index} to have it rebuilt, or restore both files"
        return f"restore {self._index}, or write the records anew"

    def _identity_keys(self, labels: np.ndarray) -> tuple[int, int]:
        """First identity key and end key, from the labels of the file's header record."""
        where = f"{self._file.where(int(self._offsets[0]))} (key 0)"
        if not np.isfinite(labels).all() or not 1 <= labels[0] <= labels[1] <= 2**53:
            stored = self._file.read(int(self._offsets[0])).labels
            shown = ", ".join(f"{label:.9g}" for label in stored[:8])
            raise InputError(
                f"{where}: holds {shown} where two keys are due, of the first identity and of the "
                "end; the file is damaged"
            )
        first, end = int(labels[0]), int(labels[1])
        if first <= _FLOAT32_EXACT:
            return first, end
        # Rounded, by up to half of float32's spacing.
        slack = int(np.spacing(labels[0]))
        near = np.flatnonzero((self._keys >= first - slack) & (self._keys <= first + slack))
        identities = near[_without_image(self._file.read_heads(self._offsets[near]))]
        if len(identities):
            return int(self._keys[identities[0]]), int(self._keys[-1]) + 1
        raise InputError(
            f"{where}: no identity's record near key {first}, where the header says they start"
        )

    def _labels_at(self, offsets: np.ndarray) -> np.ndarray:
        return self._label_values(offsets, self._file.read_heads(offsets).labels[:, 0])

    def _label_values(self, offsets: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """The labels of the records at `offsets` as int64, checked."""
        for wrong, why in (
            (
                ~(np.isfinite(labels) & (labels >= 0) & (labels == np.floor(labels))),
                "is not a count from 0; number the identities by whole numbers, and write the "
                "records anew",
            ),
            (
                labels >= _FLOAT32_EXACT,
                "is 2²⁴ or more, where float32 merges identities; number these from 0, and write "
                "the records anew",
            ),
        ):
            if wrong.any():
                where = self._file.where(int(offsets[wrong][0]))
                raise InputError(f"{where}: label {labels[wrong][0]:.9g} {why}")
        return labels.astype(np.int64)

    def _use_list(self, path: pathlib.Path, values: np.ndarray) -> None:
        """Takes names and paths from a `.lst` file if it describes exactly these images.

        Raises:
          InputError: it has more lines than images.
        """
        try:
            lines = list(read_lst(path))
        except InputError as error:  # the list of another program
            self.remark(f"{path}: is not used, for it cannot be read ({error})", "list")
            return
        if len(lines) > len(values):
            raise InputError(
                f"{path}: lists {number_of(len(lines), 'image')}, but {self._file.path} has "
                f"{len(values)}; restore that, or remove the list if it is of other records"
            )
        if all(line.key is not None for line in lines):  # im2rec shuffles its list
            lines.sort(key=lambda line: line.key or 0)
        names: dict[int, str] = {}
        for line, label in zip(lines, self.labels, strict=False):
            names.setdefault(int(label), line.path.rpartition("/")[0])
        if len(lines) < len(values):
            listed = number_of(len(lines), "image")
            why = f"it lists {listed}, and {self._file.path} has {len(values)}"
        elif differ := sum(
            line.label != value for line, value in zip(lines, values.tolist(), strict=True)
        ):
            why = (
                f"{differ} of its {number_of(len(lines), 'label', 'are')} not those of the records"
            )
        elif "" in names.values() or len(set(names.values())) < len(names):
            why = "its paths have no folder for each identity"
        elif any(
            line.path.rpartition("/")[0] != names[int(label)]
            for line, label in zip(lines, self.labels, strict=True)
        ):
            why = "its paths have several folders for an identity"
        else:
            self.identity_names = [names[label] for label in range(len(names))]
            self._paths = [line.path for line in lines]
            return
        self.remark(
            f"{path}: is not used, for {why}; identities are called by their numbers", "list"
        )

    def _compare_property(self, path: pathlib.Path) -> None:
        """Reports if insightface's file "identities,height,width" counts other identities."""
        with readable(path), path.open("rb") as file:
            cells = file.read(1000).decode("utf-8", "replace").split(",")
        counted, found = count(cells[0].strip()), len(self.identity_names)
        if counted is None:
            self.remark(f"{path}: is not used, for it does not begin with a number of identities")
        elif counted != found:
            self.remark(
                f"{path}: counts {number_of(counted, 'identity')}, but the images of "
                f"{self._file.path} are of {found}"
            )


def _without_image(heads: RecordHeads) -> np.ndarray:
    """bool [M], which records hold only labels, such as a header's or an identity's."""
    return heads.listed & (heads.payload_bytes == 0)
