"""IJB-B's and IJB-C's protocols, from photos or features: 1:1 verification and 1:N search.

python -m experiments.evaluate_ijb --meta IJBC/meta --photos IJBC/loose_crop --model 068.ckpt
python -m experiments.evaluate_ijb --meta IJBC/meta --features runs/evaluation-ijb/features.npz

The folder of metadata has `*_face_tid_mid.txt` and `*_template_pair_label.txt`;
`*_name_5pts_score.txt` for --photos and --detector-scores; and for the search
`*_1N_gallery_*.csv` (one or two) and `*_1N_probe_mixed.csv`. Photos are aligned by the landmarks of
that list. A file of features holds `embeddings` [N, D] in the order of `*_face_tid_mid.txt`, not
normalised, zeros where an image has no usable face, and may hold `mirrored` [N, D]. A template
without a usable face failed to enrol: it is counted, and scored as no match.

Writes into --output; from photos also features.npz, and an interrupted run goes on when the same
command is given again.
"""

import dataclasses
import pathlib
from typing import Annotated, Literal

import numpy as np
from rich.console import Console

from arcface_jax.commands.command import (
    Existing,
    Range,
    Share,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.evaluation_inputs import read_arrays
from arcface_jax.commands.evaluation_report import write_tables
from arcface_jax.commands.ijb_photos import ListedPhotos, embed_listed
from arcface_jax.commands.models import ImportedModel, Project, Trained, open_to_evaluate
from arcface_jax.counts import number_of
from arcface_jax.data.pairs import Pairs, check_folds
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.bootstrap import (
    Interval,
    Resampling,
    identification_intervals,
    roc_intervals,
)
from arcface_jax.evaluation.identification import (
    cumulative_match,
    identify,
    mean_of_galleries,
    open_set_roc,
)
from arcface_jax.evaluation.ijb import (
    FaceMedia,
    Landmarks,
    TemplateSubjects,
    read_face_media,
    read_ijb_landmarks,
    read_template_pairs,
    read_template_subjects,
    subjects_of_templates,
)
from arcface_jax.evaluation.roc import Roc
from arcface_jax.evaluation.search import Search
from arcface_jax.evaluation.tables import to_text
from arcface_jax.evaluation.templates import (
    IJB_FARS,
    Templates,
    pool_templates,
    score_templates,
    search_templates,
    verify_scores,
)
from arcface_jax.figures.evaluation import cmc_figure, det_figure, roc_figure
from arcface_jax.figures.style import save
from arcface_jax.files import write_whole

Figures = dict[str, Interval]

FEATURES, LEFT_OUT = "features.npz", "no_usable_face.txt"
"""What is written of photos, beside the tables."""

RANKS = (1, 5, 10)
"""At which identification is reported."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    meta: Existing
    """Folder of metadata files, see above."""
    features: Existing | None = None
    """NumPy .npz file of features, see above."""
    photos: Existing | None = None
    """Folder or zip file of the photos that the lists name, such as loose_crop."""
    model: Trained | None = None
    """Model for the photos: a run or export, or a PyTorch, .safetensors, .onnx or .params file."""
    project: Project = None
    flip: Literal["add", "none"] | None = None
    """Add the embedding of a photo's mirror image to its own, or leave it out; if not given, as
    evaluate does.
    """
    output: pathlib.Path = pathlib.Path("runs/evaluation-ijb")
    """Folder to write: table.txt, .md, .tex, .csv, .json, and the pictures."""
    norm_weighting: bool = True
    """Let features keep their norms when they are pooled; otherwise each is normalised first."""
    detector_scores: bool = False
    """Weigh features by how sure the detector was."""
    fars: tuple[Share, ...] = IJB_FARS
    """False accept rates at which TAR is reported."""
    replicates: Annotated[int, Range(0)] = 0
    """Bootstrap replicates for intervals over subjects, or 0; IJB-C takes seconds for each."""


def find(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
    """The metadata files of one kind, in order."""
    return sorted(folder.glob(pattern))


def find_one(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    """The one metadata file of a kind."""
    files = find(folder, pattern)
    if len(files) != 1:
        raise InputError(
            f"{folder}: {number_of(len(files), 'file')} {pattern}; exactly one is due (is this the "
            "meta folder?)"
        )
    return files[0]


@dataclasses.dataclass(frozen=True)
class Lists:
    """All lists of the protocol, read and checked against each other before any work.

    `galleries` and `probes` are empty where the search's files are not there.
    """

    media: FaceMedia
    media_file: pathlib.Path
    landmarks: Landmarks | None
    pairs: Pairs
    galleries: dict[str, TemplateSubjects]
    probes: TemplateSubjects | None


def read_lists(arguments: Arguments) -> Lists:
    """The lists in the folder of metadata."""
    media_file = find_one(arguments.meta, "*_face_tid_mid.txt")
    media = read_face_media(media_file)
    landmarks = None
    if arguments.detector_scores or arguments.photos is not None:
        file = find_one(arguments.meta, "*_name_5pts_score.txt")
        landmarks = read_ijb_landmarks(file)
        check_same_images(landmarks.names, file, media.names, media_file)
    known = set(media.template_ids.tolist())

    def check(ids: np.ndarray, file: pathlib.Path, kind: str) -> None:
        absent = [row for row, each in enumerate(ids.tolist()) if each not in known]
        if absent:
            more = f", as {len(absent) - 1} more are" if len(absent) > 1 else ""
            raise InputError(
                f"{file} {kind} {absent[0] + 1}: template {ids[absent[0]]} has no image in "
                f"{media_file.name}{more}; give lists of one protocol"
            )

    pair_file = find_one(arguments.meta, "*_template_pair_label.txt")
    pairs = read_template_pairs(pair_file)
    with concerning(str(pair_file)):
        check_folds(pairs.same, 1)
    for ids in (pairs.first, pairs.second):
        check(ids, pair_file, "pair")
    gallery_files = find(arguments.meta, "*_1N_gallery_*.csv")
    probe_files = find(arguments.meta, "*_1N_probe_mixed.csv")
    if not gallery_files or len(probe_files) != 1:
        return Lists(media, media_file, landmarks, pairs, {}, None)
    subjects = {file: read_template_subjects(file) for file in (*gallery_files, *probe_files)}
    for file, each in subjects.items():
        check(each.template_ids, file, "template")
    galleries = {file.stem.rpartition("_")[2]: subjects[file] for file in gallery_files}
    return Lists(media, media_file, landmarks, pairs, galleries, subjects[probe_files[0]])


def check_same_images(
    names: list[str], file: pathlib.Path, wanted: list[str], wanted_file: pathlib.Path
) -> None:
    """Refuses a list of other images, or of the same in another order."""
    if names == wanted:
        return
    if sorted(names) == sorted(wanted):
        row = next(row for row, name in enumerate(names) if name != wanted[row])
        raise InputError(
            f"{file}: lists the images of {wanted_file.name} in another order, from "
            f"{names[row]!r} on, where {wanted[row]!r} is due; sort one as the other"
        )
    differ = sorted(set(names) ^ set(wanted))
    first = f", and {differ[0]!r} is in one alone" if differ else ""
    raise InputError(
        f"{file}: lists other images than {wanted_file.name}: {len(names)} and "
        f"{len(wanted)}{first}; give lists of one protocol"
    )


def read_templates(arguments: Arguments, lists: Lists, console: Console) -> Templates:
    """Reads the features, or embeds the photos, and pools them."""
    media, landmarks = lists.media, lists.landmarks
    scores = landmarks.scores if landmarks and arguments.detector_scores else None
    place = arguments.features or arguments.output / FEATURES
    if arguments.photos is not None:
        assert landmarks is not None
        embed_photos(arguments, landmarks, place, console)
    arrays = read_arrays(place, ("embeddings",))
    if len(arrays["embeddings"]) != len(media.names):
        raise InputError(
            f"{place}: {number_of(len(arrays['embeddings']), 'feature')}, but {lists.media_file} "
            f"lists {number_of(len(media.names), 'image')}; give one a line, in its order"
        )
    with progress_bar(console, "Pooling"), concerning(str(place)):
        templates = pool_templates(
            arrays["embeddings"],
            media.template_ids,
            media.media_ids,
            mirrored=arrays.get("mirrored"),
            detector_scores=scores,
            norm_weighting=arguments.norm_weighting,
        )
    images = int((~arrays["embeddings"].any(axis=1)).sum())
    failed = templates.ids[~templates.enrolled]
    of_images = f"{images:,} of {number_of(len(media.names), 'image')}"
    say(
        console, f"{number_of(len(templates.ids), 'template')}; without a usable face: {of_images}."
    )
    if len(failed):
        shown = ", ".join(map(str, failed[:10])) + (", …" if len(failed) > 10 else "")
        without = number_of(len(failed), "template", "have")
        what = f"Failure to enrol: {without} no usable face and can match nobody"
        say(console, f"{what}: {shown}.")
    return templates


def embed_photos(
    arguments: Arguments, landmarks: Landmarks, output: pathlib.Path, console: Console
) -> None:
    """Writes the features of all photos, and a list of those without a usable face."""
    assert arguments.photos is not None
    assert arguments.model is not None
    with progress_bar(console, f"Opening {arguments.photos}"):
        photos = ListedPhotos(arguments.photos, landmarks)
    with progress_bar(console, f"Opening {arguments.model}"):
        model = open_to_evaluate(arguments.model, arguments.project, arguments.flip)
    combined = isinstance(model, ImportedModel) and model.combined
    mirrored = (arguments.flip or model.flip) != "none" and not combined
    with progress_bar(console, "Embedding", len(photos)) as move:
        left_out = embed_listed(
            model, arguments.model, photos, output, mirrored=mirrored, progress=move
        )
    for line in left_out[:10]:
        say(console, f"no usable face: {line}")
    if left_out:
        write_whole(arguments.output / LEFT_OUT, "\n".join(left_out) + "\n")
        say(console, f"All {len(left_out)} of them: {arguments.output / LEFT_OUT}")


def verify(arguments: Arguments, lists: Lists, templates: Templates) -> tuple[Figures, Roc]:
    """1:1, with intervals over subjects if asked for."""
    pairs = lists.pairs
    first, second = templates.rows(pairs.first), templates.rows(pairs.second)
    scores = score_templates(templates, first, second)
    result, roc = verify_scores(scores, pairs.same, fars=arguments.fars)
    figures = without_interval(result.numbers())
    figures |= without_interval({"num_failed_to_enrol": int((~templates.enrolled).sum())})
    if arguments.replicates:
        subjects = subjects_of_templates(first, second, pairs.same, len(templates.ids))
        clustered = (scores, pairs.same, subjects[first], subjects[second])
        resampling = Resampling(arguments.replicates)
        figures |= roc_intervals(*clustered, fars=arguments.fars, resampling=resampling)
    return figures, roc


def identification_figures(
    arguments: Arguments, searches: dict[str, Search], subjects: np.ndarray
) -> dict[str, Figures]:
    """Rows of each gallery and of their mean, with intervals over subjects if asked for."""
    results = {name: identify(search, ranks=RANKS) for name, search in searches.items()}
    rows = {f"1:N {name}": without_interval(result.numbers()) for name, result in results.items()}
    rows["1:N mean"] = without_interval(mean_of_galleries(list(results.values())).numbers())
    if arguments.replicates:
        resampling = Resampling(arguments.replicates)
        for name, search in searches.items():
            found = identification_intervals(search, subjects, ranks=RANKS, resampling=resampling)
            rows[f"1:N {name}"] |= rates_alone(found)
        of_mean = identification_intervals(
            list(searches.values()), subjects, ranks=RANKS, resampling=resampling
        )
        rows["1:N mean"] |= rates_alone(of_mean)
    return rows


def rates_alone(figures: Figures) -> Figures:
    """Without the counts of probes, which are no estimates of anything."""
    return {name: figure for name, figure in figures.items() if not name.startswith("num_")}


def without_interval(numbers: dict[str, float]) -> Figures:
    """Figures whose interval is not known."""
    return {name: Interval(value, value, value) for name, value in numbers.items()}


def run(arguments: Arguments) -> None:
    """Pools, scores, prints, writes."""
    if (arguments.photos is None) == (arguments.features is None):
        raise InputError("give either --photos and --model, or --features")
    if (arguments.photos is None) != (arguments.model is None):
        raise InputError("--photos and --model: give both, the photos and what to embed them with")
    console = new_console(soft_wrap=True)
    make_folder(arguments.output)
    with progress_bar(console, f"Reading {arguments.meta}"):
        lists = read_lists(arguments)
    templates = read_templates(arguments, lists, console)
    with progress_bar(console, "Verifying 1:1"):
        figures, roc = verify(arguments, lists, templates)
    rows = {"1:1": figures}
    pictures = {"roc": roc_figure({"1:1": roc}), "det": det_figure({"1:1": roc})}
    searches: dict[str, Search] = {}
    with progress_bar(console, "Searching 1:N"):
        if lists.probes is not None:
            searches = {
                name: search_templates(templates, gallery, lists.probes)
                for name, gallery in lists.galleries.items()
            }
            rows |= identification_figures(arguments, searches, lists.probes.subject_ids)
    if searches:
        pictures["cmc"] = cmc_figure({name: cumulative_match(s) for name, s in searches.items()})
        rocs = {name: open_set_roc(s) for name, s in searches.items() if not s.enrolled.all()}
        if rocs:
            pictures["identification_det"] = det_figure(rocs, identification=True)
    write_tables(rows, arguments.output)
    with progress_bar(console, "Drawing"):
        for name, picture in pictures.items():
            save(picture, arguments.output / "figures" / name)
    say(console, to_text(rows))
    say(console, f"Written to {arguments.output}.")


def main() -> None:
    """Reads the options and runs."""
    run(read_options(Arguments, "evaluate_ijb", __doc__))


if __name__ == "__main__":
    run_command(main)
