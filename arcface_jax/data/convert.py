"""Converts sources to RecordIO, array_record (TFDS) or folders: resumable, atomic, verifiable."""

import collections
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from arcface_jax.buckets import BucketPath, as_path, written_locally
from arcface_jax.counts import number_of
from arcface_jax.data.convert_names import FileNames
from arcface_jax.data.convert_writers import WRITERS, Encoder
from arcface_jax.data.decode import decode
from arcface_jax.data.open import open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError
from arcface_jax.files import write_whole

TargetFormat = Literal["recordio", "array_record", "folder"]


def convert(
    source: FaceSource,
    destination: str | os.PathLike[str],
    format: TargetFormat,
    *,
    image_size: int | None = None,
    jpeg_quality: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[str, ...]:
    """Writes every image of a source, identity by identity, under its name there.

    Writes to `destination.partial` and renames it when it is complete. A new call after an
    interruption continues where it stopped.

    "recordio" makes a folder with insightface's `train.rec`, `train.idx`, `train.lst` and
    `property`; "array_record" a TFDS data set for `tensorflow_datasets.builder_from_directory`;
    "folder" IDENTITY/NAME. Names come from `convert_names.FileNames`; `train.lst` and the feature
    `image/filename` hold them too.

    Args:
      source: where the images are.
      destination: folder to make; it must not exist. One in a bucket is sent there when it is
        whole; an interrupted conversion to it begins anew.
      format: what to write.
      image_size: None keeps sizes; otherwise `decode.resize`.
      jpeg_quality: None keeps stored bytes bit for bit if sizes are kept, and writes lossless PNG
        if images have to be encoded; 1 … 100 encodes every image as JPEG without colour
        subsampling.
      progress: called with the number of images done since the last call.

    Returns: one line per kind of change to the names of images and identities, and for names that
      the format cannot hold.

    Raises:
      InputError: the destination exists, an unfinished conversion of something else is in the way,
        or an image cannot be read.
    """
    final = as_path(destination)
    check_new_folder(final)
    if isinstance(final, BucketPath):  # where nothing can be added to a file
        with written_locally(final) as local:
            return convert(
                source,
                local,
                format,
                image_size=image_size,
                jpeg_quality=jpeg_quality,
                progress=progress,
            )
    encode = Encoder(source, image_size, jpeg_quality)
    partial = final.with_name(final.name + ".partial")
    scratch = partial / ".progress"
    plan = {
        "format": format,
        "source": source.fingerprint,
        "image_size": image_size,
        "jpeg_quality": jpeg_quality,
    }
    state = _begin(partial, scratch, plan)
    name = FileNames(source, encode.suffix)
    with contextlib.closing(WRITERS[format](source, partial, scratch, encode, name)) as writer:
        order = np.argsort(np.asarray(source.labels), kind="stable")
        done = int(state.get("done", 0))
        writer.resume(order, done, state)
        if progress is not None and done:
            progress(done)
        while done < len(order):
            stop = min(done + writer.chunk, len(order))
            written = writer.write(done, stop)
            _write_journal(scratch, {"plan": plan, "done": stop, **written})
            if progress is not None:
                progress(stop - done)
            done = stop
        writer.finish()
    shutil.rmtree(scratch)
    os.replace(partial, final)
    return (*name.remarks, *writer.remarks)


def check_new_folder(destination: pathlib.Path) -> None:
    """Refuses a destination that exists."""
    if destination.exists():
        raise InputError(f"{destination}: exists; remove it or give another name")


def verify_conversion(
    source: FaceSource,
    destination: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    jpeg_quality: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Checks a conversion: the same bytes in the same identities, and every image decodes.

    Args:
      source: the converted source.
      destination: what `convert` made of it.
      image_size: as given to `convert`.
      jpeg_quality: as given to `convert`.
      progress: called with the number of images checked since the last call.

    Raises:
      InputError: there is a difference, or an image does not decode; the message names it.
    """
    encode = Encoder(source, image_size, jpeg_quality)
    written = open_source(destination)
    if len(written) != len(source):
        raise InputError(
            f"{destination}: {number_of(len(written), 'image')}, but the source has {len(source)}; "
            "convert again"
        )
    expected: dict[int, collections.Counter[bytes]] = collections.defaultdict(collections.Counter)
    found: dict[int, collections.Counter[bytes]] = collections.defaultdict(collections.Counter)
    for index in range(len(source)):
        content = written.encoded(index)
        decode(content, written.where(index))
        found[int(written.labels[index])][_digest(content)] += 1
        expected[int(source.labels[index])][_digest(encode(index))] += 1
        if progress is not None:
            progress(1)
    left = collections.Counter(frozenset(images.items()) for images in found.values())
    for label, images in expected.items():
        key = frozenset(images.items())
        if not left[key]:
            name = source.identity_names[label]
            raise InputError(
                f"{destination}: the images of identity {name} are not the source's; convert again"
            )
        left[key] -= 1


def _begin(partial: pathlib.Path, scratch: pathlib.Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Makes the folders, or reads the journal of an interrupted conversion."""
    journal = scratch / "journal.json"
    if not partial.exists():
        scratch.mkdir(parents=True)
        _write_journal(scratch, {"plan": plan, "done": 0})
        return {}
    try:
        state = json.loads(journal.read_text())
    except (OSError, ValueError):
        state = {}
    if state.get("plan") != plan:
        raise InputError(f"{partial}: left by another conversion, or not by one; remove it")
    return state


def _write_journal(scratch: pathlib.Path, state: dict[str, Any]) -> None:
    write_whole(scratch / "journal.json", json.dumps(state))


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
