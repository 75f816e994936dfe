"""Embeds images: any source in, embeddings as .npy, .npz or Parquet out.

python -m experiments.embed runs/RUN faces/ embeddings.npy
python -m experiments.embed exported lfw.bin embeddings.parquet
python -m experiments.embed 068.ckpt photos/ embeddings.npz --detect

The model is the folder of a run or of an export, a PyTorch checkpoint, or an ONNX or MXNet file.
Beside a .npy file [N, D] of unit rows come a .csv that says which image and identity each row is,
and a .rule.json that says how and by which model the photos were embedded; a Parquet file's
metadata say how. An .npz file with `embeddings` and `labels` is what experiments.evaluate reads.
An interrupted run goes on when the same command is given again.
"""

import copy
import csv
import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from arcface_jax.command_name import install
from arcface_jax.commands.command import (
    Checked,
    Count,
    Existing,
    check_new_file,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.evaluation_inputs import RULE, SOURCE
from arcface_jax.commands.gallery import (
    PATTERNS,
    about_embeddings,
    embed_crops,
    embed_patterns,
)
from arcface_jax.commands.models import Embedder, Model, Project, open_embedder
from arcface_jax.commands.partial import Partial, about_model
from arcface_jax.commands.photos import Cropper, PhotoOptions, say_left_out, say_tally
from arcface_jax.counts import number_of
from arcface_jax.data.open import check_source, open_source
from arcface_jax.data.pairs import kept_pairs
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.errors import InputError
from arcface_jax.evaluation.embedding_rule import EmbeddingRule
from arcface_jax.files import replace_whole, whole_file, whole_text, write_whole

_IMAGES_A_SAVE = 1024


@dataclasses.dataclass(frozen=True)
class Arguments(PhotoOptions):
    """The command line."""

    model: Model
    source: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGES"), Checked(check_source)
    ]
    """Folder or zip file, list, train.rec, Parquet, .bin set, prepared TFDS folder or tfds:NAME."""
    output: Annotated[pathlib.Path, tyro.conf.Positional]
    """File to write, .npy, .npz or .parquet."""
    list_root: Existing | None = None
    """Folder or zip file that a list's paths are relative to. Without it: the list's own."""
    batch_size: Count | None = None
    """Images per call. Without it: 8 on a CPU, whose caches hold no more, else 256."""
    unreadable: Literal["stop", "skip"] = "stop"
    """What an image that cannot be decoded does. stop: end the command and keep what is done.
    skip: leave the image out.
    """
    threads: Count = 4
    """Images decoded at once."""
    project: Project = None


def embed_source(
    embedder: Embedder,
    source: EncodedSource,
    partial: Partial,
    arguments: Arguments,
    progress: Callable[[int], None],
) -> None:
    """Fills the rows that are not done yet; without a face they are zero."""
    progress(partial.done)
    at = partial.done
    skip = arguments.unreadable == "skip"
    cropper = Cropper(embedder.image_size, arguments.detect, arguments.face, skip_unreadable=skip)
    cropper.tally = copy.deepcopy(partial.tally)
    try:
        for count, with_face, embeddings in embed_crops(
            embedder, source, cropper, first=at, threads=arguments.threads
        ):
            partial.rows[at : at + count] = 0
            if len(with_face):
                partial.rows[with_face] = embeddings
            at, partial.tally = at + count, copy.deepcopy(cropper.tally)
            progress(count)
            if at - partial.done >= _IMAGES_A_SAVE:
                partial.save(at)
    finally:
        partial.save(at)


def embedded(rows: np.ndarray, source: EncodedSource, console: Console, why: str) -> np.ndarray:
    """Indices of the images that were embedded; the others are said, with the people who have no
    image left.
    """
    norms = np.concatenate(
        [np.abs(rows[at : at + 65_536]).max(axis=1) for at in range(0, len(rows), 65_536)]
    )
    for index in np.flatnonzero(norms == 0):
        place = source.where(int(index))
        say(console, f"left out: {place}: {why}")
    (kept,) = np.nonzero(norms)
    if not len(kept):
        raise InputError(
            f"none of the {number_of(len(rows), 'photo')} is left; each is left out ({why})"
        )
    say_left_out(console, source, kept)
    return kept


def import_arrow() -> Any:
    """The package pyarrow, with pyarrow.parquet."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(f"pyarrow is needed to write Parquet: {install('parquet')}") from error
    return pyarrow


def write(
    output: pathlib.Path,
    partial: Partial,
    source: EncodedSource,
    kept: np.ndarray,
    patterns: Any,
    rule: EmbeddingRule,
) -> None:
    """The kept rows under their final name, with image and identity of each."""
    places = [source.where(index) for index in kept]
    labels = np.asarray(source.labels)[kept]
    identities = [source.identity_names[label] for label in labels]
    rows = partial.rows if len(kept) == len(source) else partial.rows[kept]
    if output.suffix == ".parquet":
        arrow = import_arrow()
        flat = arrow.array(np.ascontiguousarray(rows).reshape(-1))
        column = arrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        table = arrow.table({"image": places, "identity": identities, "embedding": column})
        table = table.replace_schema_metadata({RULE: rule.to_json()})
        with whole_file(output) as file:
            arrow.parquet.write_table(table, file)
    elif output.suffix == ".npz":
        with whole_file(output) as file:
            arrays: dict[str, Any] = {"embeddings": rows, "labels": labels, "places": places}
            arrays |= {"identities": identities, PATTERNS: patterns, SOURCE: source.fingerprint}
            arrays |= {RULE: rule.to_json()}
            np.savez(file, **arrays, **about_pairs(source, kept))
    else:
        with whole_text(output.with_suffix(".csv")) as text:
            writer = csv.writer(text)
            writer.writerow(["image", "identity"])
            writer.writerows(zip(places, identities, strict=True))
        write_whole(output.with_suffix(".rule.json"), about_embeddings(rule, patterns))
        if len(kept) == len(source):
            replace_whole(partial.path, output)
        else:
            with whole_file(output) as file:
                np.save(file, rows)
    partial.discard()


def about_pairs(source: EncodedSource, kept: np.ndarray) -> dict[str, Any]:
    """The list of a .bin set, of the kept images, as evaluate reads it; else nothing."""
    if not isinstance(source, BinSource):
        return {}
    left = kept_pairs(source.pairs, kept, len(source))
    found = {name: getattr(left, name) for name in ("first", "second", "same")}
    return {**found, "identities_known": False}


def check_output(output: pathlib.Path) -> None:
    """Refuses, before the work begins, what could not be written after it."""
    if output.suffix not in (".npy", ".npz", ".parquet"):
        raise InputError(f"{output}: give a file that ends with .npy, .npz or .parquet")
    check_new_file(output)
    if output.suffix == ".npy":
        for suffix, what in ((".csv", "a list is"), (".rule.json", "how they were embedded is")):
            beside = f", and {what} to be written there beside {output.name}"
            check_new_file(output.with_suffix(suffix), beside)
    if output.suffix == ".parquet":
        import_arrow()


def recipe_of(arguments: Arguments, embedder: Embedder, source: EncodedSource) -> dict[str, object]:
    """What an interrupted run must agree in to be gone on with."""
    rule = arguments.rule(embedder.flip, source).to_json()
    about = about_model(arguments.model, embedder.name)
    return {**about, "project": arguments.project, "rule": rule, "source": source.fingerprint}


def run(arguments: Arguments) -> None:
    """Opens, embeds, writes."""
    console = new_console(soft_wrap=True)
    check_output(arguments.output)
    arguments.check()
    arguments.check_installed()
    with progress_bar(console, f"Opening {arguments.source}"):
        source = open_source(arguments.source, arguments.list_root)
    flip, batch_size, project = arguments.flip, arguments.batch_size, arguments.project
    with progress_bar(console, f"Opening {arguments.model}"):
        embedder = open_embedder(arguments.model, flip=flip, batch_size=batch_size, project=project)
        patterns = embed_patterns(embedder)
    recipe = recipe_of(arguments, embedder, source)
    partial = Partial(arguments.output, len(source), patterns.shape[1], recipe)
    begun, already = time.perf_counter(), partial.done
    if already:
        say(console, f"Going on after {number_of(already, 'image')}.")
    with progress_bar(console, "Embedding", len(source)) as move:
        embed_source(embedder, source, partial, arguments, move)
    seconds = time.perf_counter() - begun
    some = arguments.detect or arguments.unreadable == "skip"
    why = "no face found, or unreadable" if arguments.unreadable == "skip" else "no face found"
    why = why if arguments.detect else "unreadable"
    kept = embedded(partial.rows, source, console, why) if some else np.arange(len(source))
    say_tally(console, partial.tally, arguments.face)
    with progress_bar(console, f"Writing {arguments.output}"):
        rule = arguments.rule(embedder.flip, source)
        write(arguments.output, partial, source, kept, patterns, rule)
    speed = (len(source) - already) / max(seconds, 1e-9)
    embeddings = f"{number_of(len(kept), 'embedding')} of {number_of(patterns.shape[1], 'number')}"
    say(console, f"{arguments.output}: {embeddings}, {speed:.0f} images/s")


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "embed", __doc__))


if __name__ == "__main__":
    run_command(main)
