"""Galleries: embeddings with a name each, in the files that embed and identify write."""

import csv
import dataclasses
import importlib
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np
from rich.console import Console

from arcface_jax.command_name import command, install
from arcface_jax.commands.command import say
from arcface_jax.commands.evaluation_inputs import RULE, read_arrays, read_rule
from arcface_jax.commands.models import Embedder, load_trained
from arcface_jax.commands.photos import Cropper
from arcface_jax.counts import number_of
from arcface_jax.data.sources.encoded import EncodedSource
from arcface_jax.errors import InputError, reason
from arcface_jax.evaluation.array_checks import check_embeddings
from arcface_jax.evaluation.classes import rank_classes
from arcface_jax.evaluation.embedding_rule import NOT_TOLD, EmbeddingRule
from arcface_jax.evaluation.search import Candidates, search_candidates
from arcface_jax.runs.run_folder import CLASSES_FILE
from arcface_jax.runs.saved_runs import SavedRun, find_run
from arcface_jax.training.config import Config

Engine = Literal["jax", "faiss"]

PATTERNS = "pattern_embeddings"
"""The array of an .npz file that tells which model made it: `embed_patterns`."""
_SAME_MODEL = 0.99
"""Cosine that a model's patterns keep on other devices and in other types, and no other's have."""


@dataclasses.dataclass(frozen=True)
class Gallery:
    """Unit embeddings [G, D], the name and image of each, the model's `embed_patterns` (None where
    the file does not tell), and the rule by which the photos were embedded. Of a run, which has no
    photos, the class weights [C, D], or [C, K, D] with sub-centres, and its configuration.
    """

    embeddings: np.ndarray
    names: np.ndarray
    places: np.ndarray
    patterns: np.ndarray | None = None
    rule: EmbeddingRule = NOT_TOLD
    run: Config | None = None

    def candidates(
        self, probes: np.ndarray, k: int, engine: Engine = "jax"
    ) -> tuple[Candidates, np.ndarray]:
        """(the k entries, or classes, that are most alike to each of [P, D]; the probabilities
        [P, k] of classes whose loss has a scale, else [P, 0]).
        """
        if self.run is None:
            return find_candidates(self.embeddings, probes, k, engine), np.zeros((len(probes), 0))
        scale = getattr(self.run.loss, "scale", None)
        ranked = rank_classes(probes, self.embeddings, k, scale or 1.0)
        found = Candidates(ranked.cosines, ranked.classes)
        return found, ranked.probabilities[:, : None if scale else 0]


def check_same_rule(
    console: Console, gallery: Gallery, path: pathlib.Path, rule: EmbeddingRule, others: str
) -> None:
    """Refuses to compare a gallery with `others`, embedded by a rule that gives other cosines; says
    so where one of both does not tell its rule.
    """
    for name, told in ((path, gallery.rule), (others, rule)):
        if told == NOT_TOLD:
            say(
                console,
                f"warning: {name}: does not tell how its photos were embedded; it must have been "
                "with the same --flip and --detect, or people look like others",
                "yellow",
            )
    if not gallery.rule.agrees_with(rule):
        raise InputError(
            f"{path}: was embedded with {gallery.rule}, and {others} with {rule}; give the same "
            "options for both, or make it again"
        )


def read_gallery(path: pathlib.Path) -> Gallery:
    """Reads an .npz file, or a .npy file (as a memory map) with its .csv and, if it is there, its
    .rule.json of `about_embeddings`; or the classes of a run; executes nothing.
    """
    if (found := find_run(path)) is not None:
        return _read_classes(found)
    embeddings, names, places, *patterns = (
        _read_npy(path) if path.suffix == ".npy" else _read_npz(path)
    )
    if embeddings.ndim != 2 or not len(embeddings) == len(names) == len(places) or not len(names):
        raise InputError(
            f"{path}: {embeddings.shape} embeddings for {number_of(len(names), 'name')}; make it "
            "again"
        )
    return Gallery(embeddings, names, places, *patterns)


def _read_classes(found: SavedRun) -> Gallery:
    """The class weights of a run, with the names that it stores."""
    run, file = load_trained(found), found.folder / CLASSES_FILE
    weights = run.class_weights
    if weights is None:
        raise InputError(f"{found.folder}: its loss has no class weights; enrol photos instead")
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{file}: no names of the classes can be read ({reason(error)}); runs of earlier "
            f"versions have none: write there a JSON list of all {len(weights):,}, in their order"
        ) from error
    if not isinstance(names, list) or len(names) != len(weights):
        raise InputError(
            f"{file}: must be a JSON list of the names of {number_of(len(weights), 'class')}"
        )
    names = np.array([str(name) for name in names])
    return Gallery(weights, names, names, run=run.config)


def embed_patterns(embedder: Embedder) -> np.ndarray:
    """Unit embeddings [4, D] of four symmetric patterns that are the same for every model."""
    height, width = embedder.image_size
    fields = np.random.default_rng(0).integers(0, 256, (4, 8, 4, 3), np.uint8)
    down, across = np.arange(height), np.minimum(np.arange(width), np.arange(width)[::-1])
    return embedder.embed(fields[:, down * 8 // height][:, :, across * 8 // width])


def check_same_model(
    gallery: Gallery, path: pathlib.Path, patterns: np.ndarray | None, other: str
) -> None:
    """Refuses to compare embeddings of two models, where the patterns of both are known."""
    if gallery.patterns is None or patterns is None:
        return
    alike = gallery.patterns.shape == patterns.shape and bool(
        np.all(np.sum(gallery.patterns * patterns, axis=1) > _SAME_MODEL)
    )
    if not alike:
        raise InputError(
            f"{path}: was embedded with another model than {other}; make it again with the same one"
        )


def about_embeddings(rule: EmbeddingRule, patterns: np.ndarray) -> str:
    """What the .rule.json beside a .npy file tells: the rule of its embeddings, and their model."""
    return json.dumps({RULE: json.loads(rule.to_json()), PATTERNS: patterns.tolist()}) + "\n"


def _read_about(path: pathlib.Path) -> tuple[np.ndarray | None, EmbeddingRule]:
    """What `about_embeddings` wrote beside a .npy file; nothing is known without it."""
    file = path.with_suffix(".rule.json")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        patterns = np.array(content[PATTERNS], np.float32)
        rule = EmbeddingRule.from_json(json.dumps(content[RULE]))
    except FileNotFoundError:
        return None, NOT_TOLD
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({reason(error)}); check it") from error
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{file}: does not tell how the embeddings of {path.name} were made; give the file "
            "that was written with them, or take it away"
        ) from error
    if patterns.ndim != 2 or not np.isfinite(patterns).all():
        raise InputError(f"{file}: {PATTERNS} is no table of numbers; embed the photos again")
    return patterns, rule


def _read_npy(path: pathlib.Path) -> tuple[Any, ...]:
    try:
        embeddings = np.lib.format.open_memmap(path, "r")
        with path.with_suffix(".csv").open(
            newline="", encoding="utf-8", errors="surrogateescape"
        ) as file:
            table = csv.DictReader(file)
            columns = ("identity", "image")
            if not set(columns) <= set(table.fieldnames or ()):
                raise InputError(
                    f"{path.with_suffix('.csv')} line 1: has not the columns identity and image; "
                    "give the file that was written with the embeddings"
                )
            lines = list(table)
        names, places = ([line[column] or "" for line in lines] for column in columns)
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: cannot be read ({reason(error)}); check the path"
        ) from error
    except InputError:
        raise
    except Exception as error:  # NumPy reads a header as Python, and raises what that raises
        raise InputError(
            f"{path}: is no gallery ({reason(error)}); make one with {command('identify')} enrol "
            f"or {command('embed')}"
        ) from error
    return embeddings, np.array(names), np.array(places), *_read_about(path)


def _read_npz(path: pathlib.Path) -> tuple[Any, ...]:
    arrays = read_arrays(path, ("embeddings", "identities"))
    names, rule = arrays["identities"], read_rule(path, arrays)
    return arrays["embeddings"], names, arrays.get("places", names), arrays.get(PATTERNS), rule


def embed_crops(
    embedder: Embedder,
    source: EncodedSource,
    cropper: Cropper,
    *,
    first: int = 0,
    threads: int = 4,
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Batches of a source from image `first` on: the number of images, the indices [M] of those
    that have a face, and their unit embeddings [M, D].
    """
    for crops, found in cropper.batches(source, embedder.batch_size, first=first, threads=threads):
        rows = first + np.flatnonzero(found)
        first += len(crops)
        if len(rows):
            names = [source.where(int(row)) for row in rows]
            yield len(crops), rows, embedder.embed(crops[found], names.__getitem__)
        else:
            yield len(crops), rows, np.zeros((0, 0), np.float32)


def embed_photos(
    embedder: Embedder,
    source: EncodedSource,
    cropper: Cropper,
    progress: Callable[[int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(unit embeddings [M, D], indices [M]) of the images of a source that have a face. `progress`
    is called with the number of images done since the last call.
    """
    parts: list[np.ndarray] = []
    kept: list[int] = []
    for count, rows, embeddings in embed_crops(embedder, source, cropper):
        kept += rows.tolist()
        parts += [embeddings] if len(rows) else []
        if progress is not None:
            progress(count)
    if not kept:
        raise InputError(
            f"{source.where(0)}: none of the {number_of(len(source), 'photo')} from here on can be "
            "used"
        )
    return np.concatenate(parts), np.array(kept)


def check_engine(engine: Engine) -> None:
    """Refuses Faiss where it is not installed."""
    if engine == "faiss":
        try:
            importlib.import_module("faiss")
        except ImportError as error:
            raise InputError(f"--engine faiss: needs Faiss; {install('faiss')}") from error


def find_candidates(
    gallery: np.ndarray, probes: np.ndarray, k: int, engine: Engine = "jax"
) -> Candidates:
    """The k (at most G) of the unit rows [G, D] with the highest cosine to each of [P, D], exactly.

    Faiss, with a flat index, holds a copy of the gallery, and takes any of equal cosines first.
    Douze et al., The Faiss library (arXiv:2401.08281).
    """
    if probes.shape[1] != gallery.shape[1]:
        raise InputError(
            f"gallery: embeddings of {number_of(gallery.shape[1], 'number')}, but the probes have "
            f"{probes.shape[1]}; embed both with the same model"
        )
    k = min(k, len(gallery))
    if engine == "jax":
        return search_candidates(gallery, probes, k)
    check_engine(engine)
    faiss = importlib.import_module("faiss")
    gallery, probes = check_embeddings(gallery, "gallery"), check_embeddings(probes, "probes")
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(np.ascontiguousarray(gallery, np.float32))
    scores, indices = index.search(np.ascontiguousarray(probes, np.float32), k)
    return Candidates(scores, indices)
