"""Names the people in photos: enrol a folder of them, then ask who is who; or compare two photos.

python -m experiments.identify enrol exported people/ gallery.npz          people/NAME/*.jpg
python -m experiments.identify name exported gallery.npz new/*.jpg         a name, or unknown
python -m experiments.identify name exported gallery.npz test/ --picture named.png
python -m experiments.identify name runs/RUN runs/RUN photos/ --candidates 5    a class, or new
python -m experiments.identify verify exported a.jpg b.jpg --detect        the same person?
python -m experiments.identify search gallery.npy probes.npz found.csv     for many embeddings

Of photos in folders of people, test/NAME/*.jpg, the right names are known: each answer is marked,
and the right and wrong ones are counted, of people in the gallery and of strangers.

The model is best an export with a card, which holds the threshold for --far; for others give
--threshold. Photos must be cropped to the face as the model's training images were, or need
--detect: when enrolling as well, and in the export --verify that measures the threshold. What
experiments.embed writes, .npz or .npy, is a gallery too.
"""

import csv
import dataclasses
import functools
import pathlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from arcface_jax.command_name import command
from arcface_jax.commands.command import (
    Checked,
    Cosine,
    Count,
    Existing,
    Share,
    check_new_file,
    new_console,
    progress_bar,
    read_subcommand,
    run_command,
    say,
    table_of,
)
from arcface_jax.commands.evaluation_inputs import RULE
from arcface_jax.commands.gallery import (
    PATTERNS,
    Engine,
    Gallery,
    check_engine,
    check_same_model,
    check_same_rule,
    embed_patterns,
    embed_photos,
    find_candidates,
    read_gallery,
)
from arcface_jax.commands.machine import peak_gigabytes
from arcface_jax.commands.models import (
    Embedder,
    Model,
    Project,
    check_model,
    is_export,
    open_embedder,
)
from arcface_jax.commands.photos import (
    Cropper,
    Photo,
    PhotoOptions,
    find_photos,
    say_each_left_out,
    say_tally,
)
from arcface_jax.counts import number_of
from arcface_jax.data.in_memory import load_source
from arcface_jax.data.open import check_source, open_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.encoded import without_spelling
from arcface_jax.errors import InputError, concerning, printable
from arcface_jax.evaluation.classes import confusions, new_class_threshold
from arcface_jax.evaluation.impostor_tail import ImpostorTail
from arcface_jax.evaluation.templates import pool_templates
from arcface_jax.figures.samples import Mark, face_sheet
from arcface_jax.figures.style import save
from arcface_jax.files import whole_file, whole_text
from arcface_jax.interop.card import ModelCard
from arcface_jax.runs.dataset import configured_source, split_source
from arcface_jax.runs.saved_runs import find_run
from arcface_jax.training.config import Config, DataConfig

DEFAULT_FAR, FAR_OF_CLASSES = 1e-3, 1e-2
"""The --far of who gives neither it nor a threshold."""


@dataclasses.dataclass(frozen=True)
class Words:
    """What messages and tables call whom a photo may show.

    Attributes:
      one: one of them.
      unknown: what is said of one without a name.
      known: of those that there are entries of.
      others: of all others.
      absent: of a name without an entry, "but …".
      named: the verdict on one of the others that was given a name.
    """

    one: str
    unknown: str
    known: str
    others: str
    absent: str
    named: str


PEOPLE = Words(
    one="person",
    unknown="unknown",
    known="in the gallery",
    others="not in the gallery",
    absent="is not in the gallery",
    named="stranger named",
)
CLASSES = Words(
    one="class",
    unknown="new class",
    known="that the run was trained on",
    others="that the run was not trained on",
    absent="is no class of the run",
    named="new class named",
)


@dataclasses.dataclass(frozen=True)
class Enrol(PhotoOptions):
    """Embeds people, a folder each, into a gallery file."""

    model: Model
    people: Annotated[str, tyro.conf.Positional, Checked(check_source)]
    """Folder or zip file of NAME/image.jpg, or another source with identities."""
    gallery: Annotated[pathlib.Path, tyro.conf.Positional]
    """File to write, .npz."""
    templates: bool = False
    """One entry for each person, the mean of the embeddings, instead of one for each image."""
    project: Project = None


@dataclasses.dataclass(frozen=True)
class Name(PhotoOptions):
    """Names the person in each photo, or says unknown."""

    model: Model
    gallery: Annotated[Existing, tyro.conf.Positional]
    """What enrol wrote; or the model again if it is a run, for the classes that it was trained on.
    """
    photos: Annotated[tuple[Existing, ...], tyro.conf.Positional]
    """Image files, or folders, zip files or other sources of them; of NAME/image.jpg the right
    names are known.
    """
    far: Share | None = None
    """Rate at which strangers are given a name (FPIR). Without it: 1e-3, for a run's classes 1e-2.
    The threshold for it is taken from the model card. A stranger is compared with all G entries of
    the gallery, so each comparison may err at 1 − (1 − rate)^(1/G) only. For a run's classes it is
    learnt from images of others: those it held out, or --new.
    """
    new: Annotated[str, Checked(check_source)] | None = None
    """Images of classes that the run was not trained on, in place of those it held out."""
    threshold: Cosine | None = None
    """Cosine from which a name is given, instead of the card's or the learnt one."""
    candidates: Count = 1
    """How many of the most alike entries to show for each photo, or of a run's classes, with the
    probability of each if it is one of them.
    """
    output: pathlib.Path | None = None
    """Table to write as well, .csv. It has image, person or class, the right one and a verdict
    where names are known, how many strangers are as alike if the card tells, then each candidate
    with its cosine; of a photo that cannot be used, why.
    """
    picture: pathlib.Path | None = None
    """Picture to write as well, .png. It shows the faces as the model saw them, with what was said
    of each; of more than 60 the mistakes come first.
    """
    project: Project = None
    engine: Engine = "jax"
    """What searches; both are exact. faiss needs the extra "faiss"."""


@dataclasses.dataclass(frozen=True)
class Verify(PhotoOptions):
    """Says whether two photos show one person."""

    model: Model
    first: Annotated[Existing, tyro.conf.Positional]
    """Image file."""
    second: Annotated[Existing, tyro.conf.Positional]
    """Image file."""
    far: Share | None = None
    """False accept rate whose threshold is taken from the model card; 1e-3 if not given."""
    threshold: Cosine | None = None
    """Cosine from which they are the same person, instead of the card's."""
    project: Project = None


@dataclasses.dataclass(frozen=True)
class TimedSearch:
    """Names each of many embeddings, without a model: tells the time and the memory it takes."""

    gallery: Annotated[Existing, tyro.conf.Positional]
    """What enrol or the command embed wrote, .npz, or .npy (not read as a whole) with its .csv."""
    probes: Annotated[Existing, tyro.conf.Positional]
    """What the command embed wrote."""
    output: Annotated[pathlib.Path, tyro.conf.Positional]
    """File to write, .csv: image, person, then each candidate with its cosine."""
    threshold: Cosine | None = None
    """Cosine from which a name is given; every probe gets one if this is not given."""
    candidates: Count = 1
    """How many of the most alike entries to write for each probe."""
    engine: Engine = "jax"
    """What searches; both are exact. faiss needs the extra "faiss"."""


def choose_threshold(
    model: pathlib.Path,
    options: PhotoOptions,
    far: float | None,
    threshold: float | None,
    console: Console,
    gallery: Gallery | None = None,
    place: str = "",
) -> float:
    """The one given, or that of the export's card, with its warning; before the model is opened.

    With a gallery, which lies at `place`, `far` is the rate at which a stranger is accepted by any
    of its entries.
    """
    check_model(model)
    if threshold is not None:
        if far is not None:
            raise InputError("--far and --threshold: a threshold is taken as it is; give one")
        return threshold
    if not is_export(model):
        raise InputError(
            "--threshold: the model has no card to take one from; give it, or export the model "
            "with --verify"
        )
    card, far = ModelCard.read(model), DEFAULT_FAR if far is None else far
    entries = 1 if gallery is None else len(gallery.names)
    if gallery is not None and not gallery.rule.told:
        with concerning(place):
            card.threshold(far, gallery.rule, entries)
    found = card.threshold(far, options.rule(card.flip), entries)
    if found.warning is not None:
        say(console, f"warning: {found.warning}", "yellow")
    return found.cosine


def check_new(arguments: Name, data: DataConfig) -> None:
    """Refuses a run of which nothing tells when a class is new."""
    if arguments.threshold is not None or arguments.new is not None:
        return
    if data.hold_out == "images" or not (data.folds or data.test_fraction):
        raise InputError(
            f"{arguments.gallery}: held out no classes, to learn from when a class is new; give "
            "images of some with --new, or --threshold"
        )


def learnt_threshold(
    arguments: Name, gallery: Gallery, run: Config, embedder: Embedder, console: Console
) -> float:
    """The cosine that only a share `far` of images of classes reach which a run was not trained on;
    says so.
    """
    begin, data = functools.partial(progress_bar, console), run.data
    with begin("Opening images of new classes", None):
        source: FaceSource
        if arguments.new is None:
            source = split_source(data, configured_source(data, run.run.seed), run.run.seed)[1]
        else:
            source = open_source(arguments.new)
    with begin("Reading images of new classes", len(source)) as move:
        loaded = load_source(source, embedder.image_size, on_unreadable="skip", progress=move)
    with begin("Embedding images of new classes", len(loaded)) as move:
        found, _ = gallery.candidates(embedder.embed(loaded.images, progress=move), 1)
    far = FAR_OF_CLASSES if arguments.far is None else arguments.far
    threshold = new_class_threshold(found.scores[:, 0], far)
    of = number_of(len(loaded.identity_names), "class")
    said = f"{number_of(len(loaded), 'image')} of {of} that it was not trained on"
    say(console, f"Threshold {threshold:.3f}: at most {far:.2%} of {said} reach it.")
    if far * len(loaded) < 1:
        say(
            console,
            f"warning: they are too few for --far {far:g}; the rate may be higher",
            "yellow",
        )
    return threshold


def enrol(arguments: Enrol, console: Console) -> None:
    """Every image, or every person, is an entry under the person's name."""
    check_written(arguments.gallery, ".npz")
    with progress_bar(console, f"Opening {arguments.people}"):
        source = open_source(arguments.people)
    with progress_bar(console, f"Opening {arguments.model}"):
        embedder = open_embedder(arguments.model, flip=arguments.flip, project=arguments.project)
    options = (embedder.image_size, arguments.detect, arguments.face)
    cropper = Cropper(*options, skip_unreadable=True)
    with progress_bar(console, "Embedding", len(source)) as move:
        embeddings, kept = embed_photos(embedder, source, cropper, move)
    say_each_left_out(console, source, cropper.left_out)
    say_tally(console, cropper.tally, arguments.face)
    labels = np.asarray(source.labels)[kept]
    if arguments.templates:
        pooled = pool_templates(embeddings, labels, np.arange(len(labels)))
        embeddings, labels = pooled.embeddings, pooled.ids
    names = np.array([source.identity_names[label] for label in labels])
    arrays: dict[str, Any] = {"embeddings": embeddings, "labels": labels, "identities": names}
    arrays |= {PATTERNS: embed_patterns(embedder)}
    arrays |= {RULE: arguments.rule(embedder.flip, source).to_json()}
    try:
        with whole_file(arguments.gallery) as file:
            np.savez(file, **arrays)
    except OSError as error:
        raise InputError(f"{arguments.gallery}: cannot be written ({error.strerror})") from error
    people = len(set(names.tolist()))
    entries = f", {number_of(len(names), 'template')}" if arguments.templates else ""
    said = f"{number_of(len(kept), 'image')} of {number_of(people, 'person')}"
    say(console, f"{arguments.gallery}: {said}{entries}")


RIGHT, WRONG, MISSED = "right", "wrong name", "not recognised"
_NOT_TOLD = ""
_WORST_FIRST = (PEOPLE.named, CLASSES.named, WRONG, MISSED, _NOT_TOLD, RIGHT)
_DRAWN = 60


def verdict(
    named: str | None, right: str | None, enrolled: Collection[str], words: Words = PEOPLE
) -> str:
    """What an answer is worth: a name, or None for unknown, to a photo of `right`; empty where
    nobody says whom it shows.
    """
    if right is None:
        return _NOT_TOLD
    if right not in enrolled:
        return RIGHT if named is None else words.named
    return MISSED if named is None else RIGHT if named == right else WRONG


def counted(
    people: Sequence[str | None],
    verdicts: Sequence[str],
    enrolled: Collection[str],
    words: Words = PEOPLE,
) -> str:
    """How many answers were right and wrong, a line of people in the gallery and one of others."""
    lines = []
    for known, where in ((True, words.known), (False, words.others)):
        chosen = [
            (person, given)
            for person, given in zip(people, verdicts, strict=True)
            if person is not None and (person in enrolled) == known
        ]
        if not chosen:
            continue
        number = Counter(given for _, given in chosen)
        share = f"{number[RIGHT]:,} ({number[RIGHT] / len(chosen):.1%})"
        if known:
            missed = f"{number[MISSED]:,} {words.unknown}"
            said = f"{share} named rightly, {number[WRONG]:,} wrongly, {missed}"
        else:
            said = f"{share} {words.unknown}, {number[words.named]:,} given a name"
        who = number_of(len({person for person, _ in chosen}), words.one)
        lines.append(f"Of {number_of(len(chosen), 'photo')} of {who} {where}: {said}.")
    return "\n".join(lines)


def ranking(
    photos: Sequence[Photo], ranked: Sequence[Sequence[str]], enrolled: Collection[str]
) -> list[str]:
    """How often the right name is first, or among all that are shown, of who is in the gallery, and
    which names are confused most, whether one was given or not.
    """
    rows = [row for row, photo in enumerate(photos) if photo.person in enrolled]
    if not rows:
        return []
    rights = [photos[row].person or "" for row in rows]
    shown = [ranked[row] for row in rows]
    at = [
        names.index(one) if one in names else 10**9
        for one, names in zip(rights, shown, strict=True)
    ]
    shares = [f"top-{k} {np.mean(np.array(at) < k):.1%}" for k in sorted({1, len(shown[0])})]
    confused = confusions(rights, [names[0] for names in shown])
    return [f"Most alike, named or not: {', '.join(shares)}."] + [
        f"  {printable(right)} taken for {printable(answer)}: {count:,} of {of:,}"
        for right, answer, count, of in confused
    ]


def without_other_spellings(
    console: Console, photos: Iterable[Photo], enrolled: Iterable[str], words: Words = PEOPLE
) -> list[Photo]:
    """Says which people of the photos have a name of the gallery but for how it is written; whether
    they are the same is not known, so their photos are of nobody known.
    """

    def core(name: str) -> str:
        return without_spelling(name.rpartition("/")[2])

    photos, known, unsure = list(photos), set(enrolled), set()
    people = {photo.person for photo in photos if photo.person is not None}
    alike = {core(name): name for name in known}
    for person in sorted(people - known):
        if (other := alike.get(core(person))) is not None:
            unsure.add(person)
            say(
                console,
                f"warning: {printable(person)} {words.absent}, but {printable(other)} is; what is "
                f"the same {words.one} must have the same folder's name, so no photo of it is "
                "called right or wrong",
                "yellow",
            )
    return [
        dataclasses.replace(photo, person=None) if photo.person in unsure else photo
        for photo in photos
    ]


def draw_named(
    crops: np.ndarray,
    photos: Sequence[Photo],
    said: Sequence[str],
    verdicts: Sequence[str],
    path: pathlib.Path,
) -> str:
    """Writes the picture; returns which photos are in it."""
    order = sorted(range(len(photos)), key=lambda row: _WORST_FIRST.index(verdicts[row]))[:_DRAWN]
    captions: list[list[str]] = []
    marks: list[Mark | None] = []
    for row in order:
        person, given = photos[row].person, verdicts[row]
        parts = pathlib.PurePath(photos[row].place).parts
        known = [] if person is None else [f"is {person}"]
        captions.append([said[row], *known, "/".join(parts[-2:] if person is None else parts[-1:])])
        marks.append(Mark(given, given == RIGHT) if given != _NOT_TOLD else None)
    every = len(order) == len(photos)
    every_photo = number_of(len(photos), "photo")
    some = every_photo if every else f"{len(order)} of {every_photo}"
    title = some if not any(verdicts) else f"{some}, mistakes first"
    of_any = marks if any(marks) else None
    save(face_sheet(crops[order], captions, title, of_any), path.with_suffix(""))
    return title


def name(arguments: Name, console: Console) -> None:
    """The best entry of the gallery for each photo, if it is alike enough."""
    if not arguments.photos:
        raise InputError("photos: give at least one image file or folder")
    if arguments.output is not None:
        check_written(arguments.output, ".csv")
    if arguments.picture is not None:
        check_written(arguments.picture, ".png")
    check_engine(arguments.engine)
    with progress_bar(console, "Listing the photos"):
        given = find_photos(arguments.photos)
    gallery = read_gallery(arguments.gallery)
    entries, words = len(gallery.names), PEOPLE if gallery.run is None else CLASSES
    about = (arguments.model, arguments, arguments.far, arguments.threshold)
    if gallery.run is not None and arguments.gallery != arguments.model:
        raise InputError(
            f"{arguments.gallery}: a run's classes are told by its own network; give it as the "
            "model too"
        )
    if gallery.run is None and arguments.new is not None:
        raise InputError("--new: is for the classes of a run; leave it out for a gallery of photos")
    threshold = arguments.threshold
    if gallery.run is None:
        threshold = choose_threshold(*about, console, gallery, str(arguments.gallery))
    else:
        check_new(arguments, gallery.run.data)
    k = at_most(console, arguments.candidates, gallery, arguments.gallery)
    enrolled = frozenset(gallery.names.tolist())
    given = without_other_spellings(console, given, enrolled, words)
    with progress_bar(console, f"Opening {arguments.model}"):
        embedder = open_embedder(arguments.model, flip=arguments.flip, project=arguments.project)
        rule = arguments.rule(embedder.flip)
        if gallery.run is None:
            check_same_rule(console, gallery, arguments.gallery, rule, "these photos")
    if threshold is None:
        assert gallery.run is not None
        threshold = learnt_threshold(arguments, gallery, gallery.run, embedder, console)
    cropper = Cropper(embedder.image_size, arguments.detect, arguments.face)
    with progress_bar(console, "Reading the photos", len(given)) as move:
        crops, photos, left_out = cropper.read_some(given, move)
    for _, message in left_out:
        say(console, f"left out: {message}", "yellow")
    if left_out:
        say(console, f"Photos left out: {len(left_out)} of {len(given)}.")
    say_tally(console, cropper.tally, arguments.face)
    with progress_bar(console, "Embedding", len(photos)) as move:
        patterns = embed_patterns(embedder)
        check_same_model(gallery, arguments.gallery, patterns, str(arguments.model))
        probes = embedder.embed(crops, lambda row: photos[row].place, move)
    with progress_bar(console, "Searching"), concerning(str(arguments.gallery)):
        found, probabilities = gallery.candidates(probes, k, arguments.engine)
    card = embedder.card
    tail = None if card is None or not gallery.rule.told else card.strangers_by(rule)
    told = any(photo.person is not None for photo in given)
    rows, written, verdicts, captions = [], [], [], []
    for photo, accepted, scores, indices, likely in zip(
        photos,
        found.accepted(threshold),
        found.scores,
        found.indices,
        probabilities.tolist(),
        strict=True,
    ):
        names = [str(gallery.names[i]) for i in indices]
        best = float(scores[0])
        pairs = list(zip(names, scores, strict=True))
        shares = [f" ({100 * p:.0f} %)" for p in likely] or [""] * len(names)
        alike = ", ".join(
            f"{printable(name)} {score:.3f}{share}"
            for (name, score), share in zip(pairs, shares, strict=True)
        )
        person = names[0] if accepted else words.unknown
        strangers = [] if tail is None else [tail.words(best, entries)]
        verdicts.append(verdict(person if accepted else None, photo.person, enrolled, words))
        captions.append(f"{person} {best:.3f}{shares[0]}")
        judged = [verdicts[-1]] if told else []
        start = (printable(photo.place), printable(person), *judged, f"{best:.3f}")
        rows.append((*start, *strangers, alike))
        cells = [cell for name, score in pairs for cell in (name, f"{score:.6f}")]
        cells += [f"{p:.6f}" for p in likely]
        right = [photo.person or "", *judged] if told else []
        written.append([photo.place, person, *right, *strangers, *cells, ""])
    rare = [] if tail is None else ["strangers so alike"]
    judged = ["verdict"] if told else []
    heading = ("photo", words.one, *judged, "cosine", *rare, "most alike")
    console.print(table_of(heading, rows, left=6))
    say(
        console,
        f"A name is given from a cosine of {threshold:.3f}{means(tail, threshold, entries)}."
        + ("" if gallery.run is None else f" Else it is a {words.unknown}."),
    )
    if arguments.output is not None:
        numbers = range(1, found.indices.shape[1] + 1)
        columns = [f"{what}_{n}" for n in numbers for what in ("candidate", "cosine")]
        columns += [f"probability_{n}" for n in numbers if probabilities.size]
        right = [f"right_{words.one}", "verdict"] if told else []
        empty = [""] * len([*rare, *columns])
        for photo, message in left_out:
            of_whom = [photo.person or "", ""] if told else []
            written.append([photo.place, "", *of_whom, *empty, message])
        heading = ("image", words.one, *right, *rare, *columns, "note")
        write_table(arguments.output, heading, written)
    if arguments.picture is not None:
        with progress_bar(console, "Drawing"):
            drawn = draw_named(crops, photos, captions, verdicts, arguments.picture)
        say(console, f"{arguments.picture}: {drawn}")
    if told:
        say(console, counted([photo.person for photo in photos], verdicts, enrolled, words))
        ranked = [list(map(str, gallery.names[row])) for row in found.indices]
        for line in ranking(photos, ranked, enrolled):
            say(console, line)


def means(tail: ImpostorTail | None, threshold: float, entries: int) -> str:
    """What a threshold means in a gallery, where the card tells how strangers score."""
    if tail is None:
        return ""
    return (
        f"; strangers who reach it with one of {number_of(entries, 'entry')}, if these are "
        f"independent: {tail.words(threshold, entries)}"
    )


def verify(arguments: Verify, console: Console) -> None:
    """The cosine of two photos, what it means, and the decision."""
    about = (arguments.model, arguments, arguments.far, arguments.threshold)
    threshold = choose_threshold(*about, console)
    photos = (arguments.first, arguments.second)
    pixels = [Photo.of_file(path).read() for path in photos]
    with progress_bar(console, f"Opening {arguments.model}"):
        embedder = open_embedder(arguments.model, flip=arguments.flip, project=arguments.project)
    cropper = Cropper(embedder.image_size, arguments.detect, arguments.face)
    crops = np.stack([cropper.crop(*one) for one in zip(pixels, map(str, photos), strict=True)])
    say_tally(console, cropper.tally, arguments.face)
    with progress_bar(console, "Embedding", len(photos)) as move:
        first, second = embedder.embed(crops, lambda row: str(photos[row]), move)
    cosine = float(first @ second)
    answer = "the same person" if cosine >= threshold else "different people"
    say(console, f"{answer}: cosine {cosine:.3f}, threshold {threshold:.3f}")
    card = embedder.card
    meaning = None if card is None else card.meaning(cosine, arguments.rule(embedder.flip))
    if meaning is not None:
        say(console, meaning)


def at_most(console: Console, k: int, gallery: Gallery, path: pathlib.Path) -> int:
    """The --candidates that there are; says where it was more."""
    entries = len(gallery.names)
    if k > entries:
        kind = "entry" if gallery.run is None else "class"
        say(console, f"--candidates {k}: {path} has {number_of(entries, kind)}; all are shown")
    return min(k, entries)


def check_written(path: pathlib.Path, suffix: str) -> None:
    """Refuses, before the work begins, a file that could not be written after it."""
    if path.suffix != suffix:
        raise InputError(f"{path}: give a file that ends with {suffix}")
    check_new_file(path)


def write_table(path: pathlib.Path, heading: Sequence[str], rows: Iterable[list[str]]) -> None:
    """A CSV file."""
    with whole_text(path) as text:
        writer = csv.writer(text)
        writer.writerow(heading)
        writer.writerows(rows)


def search(arguments: TimedSearch, console: Console) -> None:
    """The best entries of the gallery for each probe, as a table on disk."""
    check_written(arguments.output, ".csv")
    check_engine(arguments.engine)
    for path in (arguments.gallery, arguments.probes):
        if find_run(path) is not None:
            raise InputError(
                f"{path}: is a run, and its classes are asked for with {command('identify')} name; "
                "give what enrol or the command embed wrote"
            )
    gallery, probes = read_gallery(arguments.gallery), read_gallery(arguments.probes)
    check_same_rule(console, gallery, arguments.gallery, probes.rule, str(arguments.probes))
    check_same_model(gallery, arguments.gallery, probes.patterns, str(arguments.probes))
    k = at_most(console, arguments.candidates, gallery, arguments.gallery)
    begun = time.perf_counter()
    about = f"{arguments.gallery}, searched for {arguments.probes}"
    with progress_bar(console, "Searching"), concerning(about):
        found = find_candidates(gallery.embeddings, probes.embeddings, k, arguments.engine)
    seconds, peak = time.perf_counter() - begun, peak_gigabytes()
    threshold = -np.inf if arguments.threshold is None else arguments.threshold
    numbers = range(1, found.indices.shape[1] + 1)
    columns = [f"{what}_{n}" for n in numbers for what in ("candidate", "cosine")]
    rows = (
        [
            str(place),
            str(gallery.names[indices[0]]) if accepted else PEOPLE.unknown,
            *(
                text
                for score, i in zip(scores, indices, strict=True)
                for text in (str(gallery.names[i]), f"{score:.6f}")
            ),
        ]
        for place, accepted, scores, indices in zip(
            probes.places, found.accepted(threshold), found.scores, found.indices, strict=True
        )
    )
    write_table(arguments.output, ["image", "person", *columns], rows)
    say(
        console,
        f"{arguments.output}: {number_of(len(probes.names), 'probe')} in "
        f"{number_of(len(gallery.names), 'entry')} of "
        f"{number_of(gallery.embeddings.shape[1], 'number')}, {seconds:.1f} s, "
        f"{len(probes.names) / seconds:.0f} probes/s, {peak:.1f} GB at most",
    )


def run(arguments: Enrol | Name | Verify | TimedSearch) -> None:
    """Does what was asked."""
    if isinstance(arguments, PhotoOptions):
        arguments.check()
        arguments.check_installed()
    actions = {Enrol: enrol, Name: name, Verify: verify, TimedSearch: search}
    act: Any = actions[type(arguments)]
    act(arguments, new_console(soft_wrap=True))


COMMANDS: dict[str, Callable[..., Enrol | Name | Verify | TimedSearch]] = {
    "enrol": Enrol,
    "name": Name,
    "verify": Verify,
    "search": TimedSearch,
}


def main() -> None:
    """Reads what to do and its options, and does it."""
    run(read_subcommand(COMMANDS, "identify", __doc__))


if __name__ == "__main__":
    run_command(main)
