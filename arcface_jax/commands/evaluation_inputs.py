"""What an evaluation starts from: files of embeddings, or trained runs and sets of images."""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arcface_jax.command_name import command
from arcface_jax.commands.models import ImportedModel, TrainedRun
from arcface_jax.commands.photos import FaceFinder, PhotoOptions
from arcface_jax.counts import number_of
from arcface_jax.data.in_memory import load_images
from arcface_jax.data.open import open_set
from arcface_jax.data.pairs import Pairs, check_both_kinds, check_listed
from arcface_jax.data.source import people_of, places_of
from arcface_jax.errors import InputError, concerning, printable, reason
from arcface_jax.evaluation.array_checks import check_embeddings
from arcface_jax.evaluation.embedding_rule import FLIP, NOT_TOLD, Crop, EmbeddingRule
from arcface_jax.evaluation.folds import fold_numbers
from arcface_jax.evaluation.suite import EmbeddedSet
from arcface_jax.evaluation.verification import FlipRule, combine_flip
from arcface_jax.models.embed import mirror
from arcface_jax.progress import Begin, unseen
from arcface_jax.runs.dataset import RunData

SOURCE = "source_fingerprint"
"""The array of an .npz file that tells which images it is of: their source's fingerprint."""
RULE = "rule"
"""The array of an .npz file that tells how its photos were embedded: `EmbeddingRule.to_json`."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A set to evaluate; `content` is equal for entries of the same images: comparable ones.

    `place` is what an error calls it: a file's path. `rule` is how its photos were embedded.
    """

    data: EmbeddedSet
    content: str
    place: str
    rule: EmbeddingRule


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images in memory, and what is known of them."""

    name: str
    images: np.ndarray
    labels: np.ndarray
    pairs: Pairs | None
    identities_known: bool
    content: str
    crop: Crop = "middle"
    places: Sequence[str] | None = None
    people: Sequence[str] | None = None


def read_arrays(path: pathlib.Path, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """All arrays of an .npz file, with those that are needed; nothing in it is executed."""
    if path.exists() and path.suffix != ".npz":
        raise InputError(
            f"{path}: is no .npz file; give one that numpy.savez or {command('embed')} wrote"
        )
    try:
        # Opened here: NumPy leaves what it opens open where the archive is damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check the path") from None
    except Exception as error:  # of a damaged archive, or of a header that is read as Python
        pickled = "allow_pickle" in str(error)
        said = "it is something else" if pickled else reason(error)
        raise InputError(
            f"{path}: not an .npz file of plain arrays ({said}); write it with numpy.savez"
        ) from None
    for name in needed:
        if name not in arrays:
            has = printable(", ".join(sorted(arrays)))
            raise InputError(f"{path}: has no array {name!r}, only {has}; save one under that name")
    return arrays


def read_rule(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> EmbeddingRule:
    """The rule that an .npz file tells."""
    if RULE not in arrays:
        return NOT_TOLD
    with concerning(str(path)):
        return EmbeddingRule.from_json(str(arrays[RULE]))


def read_embeddings(path: pathlib.Path, flip: FlipRule | None, folds: int) -> Entry:
    """Reads one .npz file of embeddings; `flip` combines them with `mirrored`, if it has that.

    Pairs that contradict the labels are counted in a warning; see `data.pairs.check_listed`.

    Raises:
      InputError: arrays are missing, damaged or of other lengths, labels or pairs are no whole
        numbers in their range, an embedding is no direction, pairs contradict each other, or the
        embeddings are combined with the mirror images' by another rule than `flip`.
    """
    arrays = read_arrays(path, ("embeddings", "labels"))
    for name in ("embeddings", "labels"):
        if not arrays[name].ndim:
            raise InputError(f"{path}: {name} is a single value; give one for each image")
    if "first" not in arrays or np.issubdtype(arrays["labels"].dtype, np.number):
        arrays["labels"] = _whole_numbers(arrays["labels"], f"{path}: labels", "image")
    elif arrays["labels"].ndim > 1:
        raise InputError(f"{path}: labels is a table; give one label for each image")
    for name in ("labels", "mirrored", "images", "groups"):
        if name in arrays and np.shape(arrays[name])[:1] != np.shape(arrays["embeddings"])[:1]:
            raise InputError(
                f"{path}: {len(arrays[name])} {name} for "
                f"{number_of(len(arrays['embeddings']), 'embedding')}; give one each"
            )
    for name in {"embeddings", "mirrored"} & set(arrays):
        check_embeddings(arrays[name], f"{path}: {name}", unit=False)
    zero = ~arrays["embeddings"].any(axis=1)
    if zero.any():
        raise InputError(
            f"{path}: embeddings: row {int(np.argmax(zero))} is zero and has no direction; the "
            "network failed on it"
        )
    rule = read_rule(path, arrays)
    if "mirrored" in arrays:
        flip = flip or FLIP
        rule = dataclasses.replace(rule, flip=flip)
    elif not rule.agrees_with(EmbeddingRule(flip, None)):
        raise InputError(
            f"{path}: was embedded with --flip {rule.flip}, not {flip}; embed the images again, or "
            "leave --flip out"
        )
    pairs = _pairs_of(path, arrays, folds)
    described = [arrays["labels"]]
    described += [] if pairs is None else [pairs.first, pairs.second, pairs.same]
    described += [arrays[SOURCE]] if SOURCE in arrays else []
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in described)
    data = _embedded(
        path.stem,
        arrays["embeddings"],
        arrays.get("mirrored"),
        flip or FLIP,
        labels=arrays["labels"],
        pairs=pairs,
        images=arrays.get("images"),
        places=_texts_of(path, arrays, "places"),
        people=_people_of(path, arrays),
        groups=arrays.get("groups"),
        identities_known=bool(arrays.get("identities_known", True)),
    )
    return Entry(data, hashlib.sha256(content).hexdigest(), str(path), rule)


def _texts_of(path: pathlib.Path, arrays: Mapping[str, np.ndarray], name: str) -> list[str] | None:
    """What the pictures write below each image."""
    if "images" not in arrays or name not in arrays:
        return None
    if arrays[name].shape != (len(arrays["embeddings"]),):
        raise InputError(f"{path}: {name} is no list of one text for each image")
    return [str(text) for text in arrays[name]]


def _people_of(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> list[str] | None:
    """As the command embed writes them; an array of another length is about something else."""
    names = arrays.get("identities")
    if names is None or names.shape != (len(arrays["embeddings"]),):
        return None
    return _texts_of(path, arrays, "identities")


def _whole_numbers(values: np.ndarray, name: str, kind: str, size: int | None = None) -> np.ndarray:
    """int64 [N] of an array that must hold whole numbers from 0, less than `size`, one a `kind`."""
    due = "whole numbers from 0" if size is None else f"whole numbers from 0 to {size - 1}"
    if values.ndim != 1:
        raise InputError(f"{name} is a table; give one number for each {kind}")
    if not np.issubdtype(values.dtype, np.number) or np.iscomplexobj(values):
        first = values[0] if len(values) else ""
        shown = first.decode("utf-8", "replace") if isinstance(first, bytes) else str(first)
        raise InputError(
            f"{name}: {printable(shown[:40])!r} is no number; give {due}, one for each {kind}"
        )
    with np.errstate(invalid="ignore"):
        whole = np.isfinite(values) & (values == np.floor(values)) & (values >= 0)
        whole &= values < (2**53 if size is None else size)
    if not whole.all():
        at = int(np.argmin(whole))
        raise InputError(f"{name}: {kind} {at} has {values[at]:.15g}; give {due}")
    return values.astype(np.int64)


def _pairs_of(path: pathlib.Path, arrays: dict[str, np.ndarray], folds: int) -> Pairs | None:
    present = [name for name in ("first", "second", "same") if name in arrays]
    if not present:
        return None
    if len(present) < 3 or len({arrays[name].shape for name in present}) > 1:
        raise InputError(
            f"{path}: a pair list needs first, second and same of one length; it has "
            f"{', '.join(present)}"
        )
    images = len(arrays["embeddings"])
    first, second = (
        _whole_numbers(arrays[name], f"{path}: {name}", "pair", images)
        for name in ("first", "second")
    )
    same = arrays["same"].astype(np.int64) if arrays["same"].dtype == bool else arrays["same"]
    same = _whole_numbers(same, f"{path}: same", "pair", 2).astype(bool)
    with concerning(str(path)):
        check_both_kinds(fold_numbers(len(same), folds) if folds > 1 else 0 * same, same, folds)
    pairs = Pairs(first, second, same, folds, False)
    return check_listed(pairs, str(path), lambda at: f"{path} pair {at}", arrays["labels"])


def _embedded(
    name: str, embeddings: np.ndarray, mirrored: np.ndarray | None, flip: FlipRule, **known: Any
) -> EmbeddedSet:
    """Combines with the mirror images; the norm before that is the quality, for it is lost then."""
    if mirrored is None or flip == "none":
        return EmbeddedSet(name, embeddings, **known)
    quality = np.linalg.norm(embeddings, axis=1)
    return EmbeddedSet(name, combine_flip(embeddings, mirrored, flip), quality=quality, **known)


def load_set(
    specification: str,
    image_size: tuple[int, int],
    folds: int,
    begin: Begin = unseen,
    options: PhotoOptions | None = None,
    *,
    finder: FaceFinder | None = None,
) -> ImageSet:
    """The images of what `data.open.open_set` opens, cropped as `options` say; `begin` shows the
    work.

    Of photographs in which the finder, which --detect needs, finds no face the middle is taken
    where a list names pairs, for a protocol needs all of them; else they are left out.
    """
    options = options or PhotoOptions()
    opened = open_set(specification, folds)
    source, labels = opened.source, np.asarray(opened.labels)
    if options.detect:
        assert finder is not None
        needed = opened.pairs is not None
        source, kept = finder.faces(opened.name, source, max(image_size), begin, all_needed=needed)
        labels = labels[kept]
    with begin(f"Decoding {opened.name}", len(source)) as move:
        images = load_images(source, image_size, progress=move)
    return ImageSet(
        opened.name,
        images,
        labels,
        opened.pairs,
        opened.identities_known,
        opened.content,
        options.rule(None, opened.source).crop or "middle",
        places_of(source),
        people_of(source) if opened.identities_known else None,
    )


def held_out_set(data: RunData) -> ImageSet:
    """The people that a run did not train on, with its own test pairs."""
    test, content = data.test, f"{data.fingerprint} held out"
    people = [str(test.identity_names[label]) for label in test.labels]
    places = [f"held out {number}" for number in range(len(people))]
    known = (test.labels, data.pairs, True, content)
    return ImageSet("held out", test.images, *known, places=places, people=people)


def embed_set(
    model: TrainedRun | ImportedModel,
    images: ImageSet,
    flip: FlipRule,
    name: str,
    begin: Begin = unseen,
) -> Entry:
    """Embeds a set, and its mirror images unless flip is "none" or the model, an export, has them
    in it; `begin` shows the work.
    """
    once = flip == "none" or (isinstance(model, ImportedModel) and model.combined)
    with begin(f"Embedding {name}", (1 if once else 2) * len(images.images)) as move:
        embeddings = model.embed(images.images, move)
        mirrored = None if once else model.embed(mirror(images.images), move)
    data = _embedded(
        name,
        embeddings,
        mirrored,
        flip,
        labels=images.labels,
        pairs=images.pairs,
        identities_known=images.identities_known,
        images=images.images,
        places=images.places,
        people=images.people,
    )
    return Entry(data, images.content, images.name, EmbeddingRule(flip, images.crop))
