"""Evaluates embeddings of any model: pairs, search, retrieval, angles, with intervals.

python -m experiments.evaluate --checkpoint runs/RUN                      the people it held out
python -m experiments.evaluate --checkpoint runs/RUN --sets lfw.bin LFW=lfw_aligned+pairs.txt
python -m experiments.evaluate --checkpoint model.ckpt --sets faces.zip   trained elsewhere
python -m experiments.evaluate --checkpoint model.ckpt --sets LFW=lfw.zip+pairs.txt --detect
python -m experiments.evaluate --embeddings faces.npz
python -m experiments.evaluate --embeddings model_a.npz model_b.npz       two models, same images

A run without --sets is evaluated on its own data: the people it held out, the sets of its
data.verify and, for W-EC and W-Inter, the people it trained on.

Several runs or files of the same images are compared with the first of them: what differs, and what
is noise.

A set is [NAME=]SOURCE[+PAIRS]: a .bin set; a folder, zip file, list, RecordIO, Parquet or TFDS
source, of which all pairs are scored, or those of LFW's pairs.txt, of CFP's Protocol/Split/FP or
FF, or of a list of path, path, 0 or 1; images that the list does not name are left out. Photographs
that are not aligned need --detect. What it finds is kept in OUTPUT/NAME.faces.csv, and an
interrupted search goes on when the same command, with --output, is given again. Where it finds no
face it takes the middle of the photograph if a list names pairs, since a protocol needs all of
them; without a list the photograph is left out.

The photos of a set are taken as identify and embed take them: the same --flip, --detect, --face and
--aligned, or the same defaults, give the same cosines. Tables and report tell which.

A file of embeddings holds `embeddings` [N, D] and `labels` [N]; it may hold `mirrored` [N, D]
(embeddings of the mirrored images), `images` uint8 [N, height, width, 3] (for pictures of the
hardest pairs), `groups` [N] (an attribute, for rates by group), `first`, `second`, `same` [P] (a
pair list; otherwise all pairs are scored), and `identities_known` (false where labels tell no more
than which pairs are the same). experiments.embed writes such files.
"""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console

from arcface_jax.commands.command import (
    Checked,
    Count,
    Existing,
    Range,
    Seed,
    Share,
    check_new_file,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.evaluation_inputs import (
    Entry,
    ImageSet,
    embed_set,
    held_out_set,
    load_set,
    read_embeddings,
)
from arcface_jax.commands.evaluation_report import html_report, write_tables
from arcface_jax.commands.models import Trained, TrainedRun, open_to_evaluate, takes_project
from arcface_jax.commands.photos import FaceFinder, PhotoOptions
from arcface_jax.commands.training_angles import training_angles
from arcface_jax.counts import number_of
from arcface_jax.data.open import check_set, place_of_set
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.bootstrap import Resampling
from arcface_jax.evaluation.comparison import Comparison, compare_roc, compare_similarities
from arcface_jax.evaluation.score_norm import ScoreNorm, ScoreNormKind
from arcface_jax.evaluation.suite import (
    EmbeddedSet,
    EvaluationOptions,
    RetrievalKind,
    SetResult,
    evaluate_set,
)
from arcface_jax.evaluation.tables import TableRow, to_text
from arcface_jax.figures.evaluation_set import draw_set
from arcface_jax.files import write_whole
from arcface_jax.runs.dataset import load_data

PAGE = "report.html"
"""The report's file, in the folder of an evaluation."""
COMMON = (
    "checkpoint",
    "sets",
    "embeddings",
    "output",
    "retrieval",
    "fars",
    "replicates",
    "detect",
    "face",
    "aligned",
    "flip",
)
"""The options that --help shows."""


@dataclasses.dataclass(frozen=True)
class Arguments(PhotoOptions):
    """The command line."""

    checkpoint: tuple[Trained, ...] = ()
    """Models: folders of runs or exports, or PyTorch, .safetensors, .onnx or .params files."""
    project: str | None = None
    """Project of the PyTorch checkpoints among them, where their keys do not tell: adaface.
    Evaluate those of different projects one by one.
    """
    sets: Annotated[
        tuple[Annotated[str, Checked(check_set)], ...],
        tyro.conf.arg(metavar="[NAME=]SOURCE[+PAIRS] ..."),
    ] = ()
    """Sets to embed with the models. Without them: the data of each run."""
    embeddings: tuple[Existing, ...] = ()
    """NumPy .npz files of embeddings, in place of models and sets."""
    output: pathlib.Path | None = None
    """Folder to write. Without it: runs/evaluation-DATE-TIME. It gets report.html, table.txt,
    .md, .tex, .csv, .json, and the pictures.
    """
    cohort: Existing | None = None
    """NumPy .npz file of embeddings of other people, to normalise the scores by. It is one that
    experiments.embed wrote: the pairs' cosines are normalised by those that their images have with
    it. The search takes cosines.
    """
    score_norm: ScoreNormKind = "s"
    """How --cohort normalises: s, by both images of a pair, or t, by the second."""
    cohort_top: Annotated[int, Range(2)] | None = None
    """How many of the cohort count for an image, those most alike to it; all if not given."""
    folds: Count = 10
    """Contiguous folds of a .bin set, or of a list that does not tell them. 1: without folds."""
    published_scripts: bool = False
    """Also give accuracy and VAL as insightface's scripts compute them. They take their own grid of
    thresholds; the numbers are for comparison with published tables.
    """
    fars: tuple[Share, ...] = (1e-3, 1e-2)
    """False accept rates at which TAR is reported."""
    deployment_fars: tuple[Share, ...] = (1e-2, 1e-3, 1e-4)
    """False accept rates for which thresholds are proposed."""
    enrolled: Share = 0.5
    """Share of people of whom the search's gallery has an image; the others are unknown."""
    retrieval: RetrievalKind = "none"
    """Also seek each image's class among all other images: recall@k, R-precision, MAP@R and mAP, as
    means over images and, as macro, over classes. cosine: by cosine. reranked: by k-reciprocal
    neighbours, for up to 20,000 images.
    """
    few_shot: bool = False
    """Also the accuracy of few-shot episodes: 5 and 20 classes, known by 1 and 5 images of each."""
    replicates: Annotated[int, Range(0)] = 1000
    """Bootstrap replicates."""
    confidence: Share = 0.95
    """Confidence of the intervals."""
    seed: Seed = 0
    """Seed of the bootstrap and of who is enrolled."""

    @property
    def resampling(self) -> Resampling:
        """Of every interval and comparison."""
        return Resampling(self.replicates, self.confidence, self.seed)


def read_entries(
    arguments: Arguments, output: pathlib.Path, console: Console
) -> tuple[list[Entry], dict[str, TableRow]]:
    """(embeddings files, then each run on each set; W-EC, W-Inter of runs on their own data)."""
    if arguments.sets and not arguments.checkpoint:
        raise InputError("--sets: give the run to embed them with, --checkpoint runs/RUN")
    if arguments.project is not None and not any(map(takes_project, arguments.checkpoint)):
        raise InputError(
            f"--project {arguments.project}: no --checkpoint is a PyTorch file; leave it out"
        )
    if arguments.published_scripts and arguments.cohort is not None:
        raise InputError("--published-scripts: take cosines as they are; leave --cohort out")
    arguments.check()
    searched = "--detect" if arguments.detect else "--aligned" if arguments.aligned else None
    if searched is not None and not arguments.checkpoint:
        raise InputError(f"{searched}: is for photos, and here are embeddings alone; leave it out")
    if arguments.detect and not arguments.sets:
        raise InputError("--detect: finds faces in the photographs of --sets; give them")
    entries = [
        read_embeddings(path, arguments.flip, arguments.folds) for path in arguments.embeddings
    ]
    check_folds([entry.data for entry in entries], arguments)
    check_names([place_of_set(each)[0] for each in arguments.sets])
    finder = FaceFinder(output, arguments.face, console) if arguments.detect else None
    of_training: dict[str, TableRow] = {}
    begin = functools.partial(progress_bar, console)
    for folder in arguments.checkpoint:
        with begin(f"Opening {folder}", None):
            project = arguments.project if takes_project(folder) else None
            model = open_to_evaluate(folder, project, arguments.flip)
        prefix = "" if len(arguments.checkpoint) == 1 else f"{model.name}, "
        step = f", step {model.step}" if isinstance(model, TrainedRun) else ""
        say(console, f"Embedding with {folder}{step} …")
        about: tuple[Any, ...] = (model.image_size, arguments.folds, begin, arguments)
        sets = [load_set(each, *about, finder=finder) for each in arguments.sets]
        if not sets:
            if not isinstance(model, TrainedRun):
                raise InputError(
                    f"{folder}: was not trained here and has no held-out people; give --sets"
                )
            own = model.config.data
            if searched is not None and own.test_fraction > 0:
                raise InputError(
                    f"{searched}: the people that {folder} held out are taken as they were trained "
                    "on; give --sets, or leave it out"
                )
            # The sets of data.verify are opened below, with all that an evaluation wants to know of
            # them.
            needed = dataclasses.replace(own, verify=()) if own.test_fraction > 0 else own
            data = load_data(needed, model.config.run.seed, begin)
            sets = [held_out_set(data)] if own.test_fraction > 0 else []
            sets += [load_set(each, *about, finder=finder) for each in own.verify]
            if model.class_weights is not None and model.class_weights.ndim == 2:
                of_training[f"{prefix}training people"] = training_angles(
                    model, data, arguments.resampling, begin=begin
                )
        check_folds(sets, arguments)
        flip = arguments.flip or model.flip
        with concerning(str(folder)):
            entries += [embed_set(model, one, flip, f"{prefix}{one.name}", begin) for one in sets]
    if not entries:
        raise InputError("nothing to evaluate; give --checkpoint runs/RUN or --embeddings FILE.npz")
    check_names([*(entry.data.name for entry in entries), *of_training])
    return entries, of_training


def check_names(names: Sequence[str]) -> None:
    """Refuses two sets of one name."""
    if len(set(names)) < len(names):
        raise InputError(
            f"two sets are called {max(names, key=names.count)!r}; rename one, --sets NAME=SOURCE"
        )


def check_folds(sets: Sequence[EmbeddedSet | ImageSet], arguments: Arguments) -> None:
    """Refuses --published-scripts for a set whose pairs are not in folds."""
    for each in sets if arguments.published_scripts else ():
        if each.pairs is None or each.pairs.num_folds < 2:
            raise InputError(
                f"--published-scripts: {each.name} has no list of pairs in folds, which the "
                "scripts need; give one, or leave the option out"
            )


def read_cohort(arguments: Arguments) -> tuple[Entry, ScoreNorm] | None:
    """What --cohort holds, and how it normalises; None without."""
    if arguments.cohort is None:
        if arguments.cohort_top is not None or arguments.score_norm != "s":
            raise InputError("--score-norm, --cohort-top: say how --cohort normalises; give it")
        return None
    cohort = read_embeddings(arguments.cohort, arguments.flip, 1)
    with concerning(str(arguments.cohort)):
        norm = ScoreNorm(cohort.data.embeddings, arguments.score_norm, arguments.cohort_top)
    return cohort, norm


def with_cohort(entries: list[Entry], cohort: tuple[Entry, ScoreNorm] | None) -> list[Entry]:
    """The entries, to be normalised by a cohort if there is one."""
    if cohort is None:
        return entries
    others, norm = cohort
    for entry in entries:
        if not others.rule.agrees_with(entry.rule):
            raise InputError(
                f"{others.place}: was embedded with {others.rule}, and {entry.place} with "
                f"{entry.rule}; embed both alike"
            )
    return [
        dataclasses.replace(entry, data=dataclasses.replace(entry.data, score_norm=norm))
        for entry in entries
    ]


def compare_results(
    entries: list[Entry], results: list[SetResult], arguments: Arguments
) -> dict[str, dict[str, Comparison]]:
    """Each entry against the first of the same images, on the same pairs and replicates."""
    comparisons = {}
    contents = [entry.content for entry in entries]
    for number, (entry, second) in enumerate(zip(entries, results, strict=True)):
        reference = contents.index(entry.content)
        if reference == number:
            continue
        first = results[reference]
        clusters = (first.first_cluster, first.second_cluster)
        scored = (first.similarities, second.similarities, first.pairs.same, *clusters)
        options: dict[str, Any] = {"fars": arguments.fars, "resampling": arguments.resampling}
        folds = first.pairs.num_folds
        if folds > 1:
            found = compare_similarities(*scored, folds=folds, **options)
        else:
            found = compare_roc(*scored, **options)
        comparisons[f"{entry.data.name} − {entries[reference].data.name}"] = found
    return comparisons


def rule_of(entry: Entry) -> str:
    """How an entry's photos were embedded and its scores made: what its thresholds hold for."""
    norm = entry.data.score_norm
    return str(entry.rule) if norm is None else f"{entry.rule}; {norm}"


def print_tables(
    console: Console,
    rows: dict[str, TableRow],
    results: dict[str, SetResult],
    comparisons: dict[str, dict[str, Comparison]],
) -> None:
    """The table, the comparisons, and the thresholds with their warnings."""

    say(console, to_text(rows))
    for pair, figures in comparisons.items():
        for name, c in figures.items():
            numbers = f"{c.difference:+.4f} [{c.low:+.4f}, {c.high:+.4f}], p = {c.p_value:.3f}"
            say(console, f"{pair}, {name}: {numbers}: {c.verdict}")
    for name, result in results.items():
        if isinstance(result.reliability, str):
            say(console, f"{name}: no probability: {result.reliability}", "yellow")
        for found in result.thresholds:
            accepted = f"accept from {found.threshold}, TAR {found.tar}"
            say(console, f"{name}: for FAR {found.wanted_far:g} {accepted}")
            if found.warning is not None:
                say(console, f"  warning: {found.warning}", "yellow")
        if result.untold is not None:
            say(console, f"{name}: {result.untold}", "yellow")


def run(arguments: Arguments) -> None:
    """Makes the folder and evaluates into it; one that was made in vain is taken away again."""
    arguments.check()
    new = pathlib.Path("runs") / f"evaluation-{time.strftime('%Y%m%d-%H%M%S')}"
    output = arguments.output or new
    make_folder(output)
    check_new_file(output / PAGE, ", of another evaluation")
    try:
        evaluate(arguments, output, new_console())
    finally:
        if output.is_dir() and not any(output.iterdir()):
            output.rmdir()


def evaluate(arguments: Arguments, output: pathlib.Path, console: Console) -> None:
    """Reads, evaluates, prints, writes."""
    page = output / PAGE
    cohort = read_cohort(arguments)
    entries, of_training = read_entries(arguments, output, console)
    entries = with_cohort(entries, cohort)
    shared = ("fars", "deployment_fars", "enrolled", "resampling", "published_scripts")
    added = ("retrieval", "few_shot")
    options = EvaluationOptions(**{name: getattr(arguments, name) for name in shared + added})
    results = {}
    for entry in entries:
        say(console, f"Evaluating {entry.data.name} …")
        with progress_bar(console, f"Evaluating {entry.data.name}"):
            try:
                results[entry.data.name] = evaluate_set(entry.data, options)
            except InputError as error:
                said = str(error).removeprefix(f"{entry.data.name}: ")
                raise InputError(f"{entry.place}: {said}") from None
    with progress_bar(console, "Comparing"):
        comparisons = compare_results(entries, list(results.values()), arguments)
    rows: dict[str, TableRow] = {
        entry.data.name: {"rule": rule_of(entry), **results[entry.data.name].figures}
        for entry in entries
    }
    rows |= of_training
    print_tables(console, rows, results, comparisons)
    tables = write_tables(rows, output)
    drawn = {}
    with progress_bar(console, "Drawing", len(entries)) as move:
        for entry in entries:
            name, result = entry.data.name, results[entry.data.name]
            move(0, name)
            drawn[name] = (result, draw_set(entry.data, result, output / "figures" / name))
            move(1, "")
    about = [("embeddings", str(path)) for path in arguments.embeddings]
    about += [("model", str(path)) for path in arguments.checkpoint]
    about += [("scores by", rule) for rule in dict.fromkeys(map(rule_of, entries))]
    title = f"Evaluation of {', '.join(drawn)}"
    text = html_report(title, rows, drawn, comparisons, arguments.confidence, about)
    write_whole(page, text)
    say(
        console,
        f"\nWritten: {page}, and beside it {number_of(len(tables), 'table')} and the pictures.",
    )


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "evaluate", __doc__, common=COMMON))


if __name__ == "__main__":
    run_command(main)
