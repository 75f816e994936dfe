"""Scores precomputed features by IJB-B's or IJB-C's protocols: 1:1 verification and 1:N search.

python -m experiments.evaluate_ijb --meta IJBC/meta --features ijbc_features.npz

The folder of metadata has `*_face_tid_mid.txt` and `*_template_pair_label.txt`;
`*_name_5pts_score.txt` for --detector-scores; and for the search `*_1N_gallery_*.csv` (one or two)
and `*_1N_probe_mixed.csv`. The file of features holds `embeddings` [N, D] in the order of
`*_face_tid_mid.txt`, not normalised, and may hold `mirrored` [N, D]. Writes into --output.
"""

import dataclasses
import pathlib
from typing import Annotated

import numpy as np

from arcface_jax.commands.command import (
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
from arcface_jax.data.pairs import check_folds
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
    read_face_media,
    read_ijb_landmarks,
    read_template_pairs,
    read_template_subjects,
    subjects_of_templates,
)
from arcface_jax.evaluation.roc import Roc
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.search import Search
from arcface_jax.evaluation.tables import to_text
from arcface_jax.evaluation.templates import (
    IJB_FARS,
    Templates,
    pool_templates,
    search_templates,
    verify_scores,
)
from arcface_jax.figures.evaluation import cmc_figure, det_figure, roc_figure
from arcface_jax.figures.style import save

Figures = dict[str, Interval]

RANKS = (1, 5, 10)
"""At which identification is reported."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """The command line."""

    meta: pathlib.Path
    """Folder of metadata files, see above."""
    features: pathlib.Path
    """NumPy .npz file of features, see above."""
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
            f"{folder}: {len(files)} files {pattern}; exactly one is due (is this the meta folder?)"
        )
    return files[0]


def read_templates(arguments: Arguments) -> Templates:
    """Reads the features and pools them."""
    media_file = find_one(arguments.meta, "*_face_tid_mid.txt")
    media = read_face_media(media_file)
    arrays = read_arrays(arguments.features, ("embeddings",))
    if len(arrays["embeddings"]) != len(media.names):
        raise InputError(
            f"{arguments.features}: {len(arrays['embeddings'])} features, but {media_file} lists "
            f"{len(media.names)} images; give one a line, in its order"
        )
    scores = None
    if arguments.detector_scores:
        landmarks = read_ijb_landmarks(find_one(arguments.meta, "*_name_5pts_score.txt"))
        if landmarks.names != media.names:
            raise InputError(
                f"{arguments.meta}: *_name_5pts_score.txt lists other images than {media_file.name}"
            )
        scores = landmarks.scores
    with concerning(str(arguments.features)):
        return pool_templates(
            arrays["embeddings"],
            media.template_ids,
            media.media_ids,
            mirrored=arrays.get("mirrored"),
            detector_scores=scores,
            norm_weighting=arguments.norm_weighting,
        )


def verify(arguments: Arguments, templates: Templates) -> tuple[Figures, Roc]:
    """1:1, with intervals over subjects if asked for."""
    pair_file = find_one(arguments.meta, "*_template_pair_label.txt")
    pairs = read_template_pairs(pair_file)
    with concerning(str(pair_file)):
        check_folds(pairs.same, 1)
    first = templates.rows(pairs.first, "first templates")
    second = templates.rows(pairs.second, "second templates")
    scores = score_pairs(templates.embeddings, templates.embeddings, first, second)
    result, roc = verify_scores(scores, pairs.same, fars=arguments.fars)
    figures = without_interval(result.numbers())
    if arguments.replicates:
        subjects = subjects_of_templates(first, second, pairs.same, len(templates.ids))
        clustered = (scores, pairs.same, subjects[first], subjects[second])
        resampling = Resampling(arguments.replicates)
        figures |= roc_intervals(*clustered, fars=arguments.fars, resampling=resampling)
    return figures, roc


def search_galleries(
    arguments: Arguments, templates: Templates
) -> tuple[dict[str, Search], np.ndarray]:
    """1:N: (searches by gallery, who each probe shows); nothing if the files are not there."""
    galleries = find(arguments.meta, "*_1N_gallery_*.csv")
    probe_files = find(arguments.meta, "*_1N_probe_mixed.csv")
    if not galleries or len(probe_files) != 1:
        return {}, np.zeros(0, np.int64)
    probes, searches = read_template_subjects(probe_files[0]), {}
    for path in galleries:
        gallery = read_template_subjects(path)
        searches[path.stem.rpartition("_")[2]] = search_templates(templates, gallery, probes)
    return searches, probes.subject_ids


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
    console = new_console()
    make_folder(arguments.output)
    with progress_bar(console, "Reading and pooling"):
        templates = read_templates(arguments)
    say(console, f"{len(templates.ids):,} templates.")
    with progress_bar(console, "Verifying 1:1"):
        figures, roc = verify(arguments, templates)
    rows = {"1:1": figures}
    pictures = {"roc": roc_figure({"1:1": roc}), "det": det_figure({"1:1": roc})}
    with progress_bar(console, "Searching 1:N"):
        searches, subjects = search_galleries(arguments, templates)
        if searches:
            rows |= identification_figures(arguments, searches, subjects)
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
