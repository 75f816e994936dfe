"""Exports a trained model: one function of the image's bytes, with preprocessing and model card.

python -m experiments.export runs/RUN exported --verify faces.zip
python -m experiments.export 068.ckpt exported --formats stablehlo onnx torch --weights int8
python -m experiments.export runs/RUN exported --size 64 --verify faces.zip     shorter embeddings

The model is the folder of a run, a PyTorch checkpoint, or an ONNX or MXNet file. With --verify the
card tells the accuracy before and after, thresholds at FAR 1e-3 … 1e-6, how rarely strangers look
as alike, and the probability that a cosine means the same person, for an even prior; of a run it
quotes the configuration and the last results. The folder has the formats, model_card.json and
README.md; with --detect, NAME.faces.csv beside it keeps the faces that were found.
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, get_args

import jax
import numpy as np
import tyro
from rich.console import Console

from arcface_jax.buckets import BucketPath, as_path, written_locally
from arcface_jax.commands.command import (
    Checked,
    Count,
    make_folder,
    new_console,
    progress_bar,
    read_options,
    run_command,
    say,
)
from arcface_jax.commands.evaluation_inputs import ImageSet, load_set
from arcface_jax.commands.gallery import embed_patterns
from arcface_jax.commands.models import (
    STABLEHLO_FILE,
    Embedder,
    Project,
    Trained,
    check_model,
    open_trained,
)
from arcface_jax.commands.photos import FaceFinder, PhotoOptions
from arcface_jax.counts import number_of
from arcface_jax.data.open import check_set
from arcface_jax.data.pairs import Pairs
from arcface_jax.errors import InputError, concerning
from arcface_jax.evaluation.bootstrap import Resampling
from arcface_jax.evaluation.calibration import (
    Calibration,
    calibration_intervals,
    fit_calibration,
    held_out_reliability,
    telling_scores,
)
from arcface_jax.evaluation.comparison import compare_roc
from arcface_jax.evaluation.embedding_rule import FLIP, Crop, EmbeddingRule
from arcface_jax.evaluation.impostor_tail import ImpostorTail, impostor_tail
from arcface_jax.evaluation.roc import roc_curve, roc_numbers
from arcface_jax.evaluation.scoring import score_pairs
from arcface_jax.evaluation.suite import EmbeddedSet, choose_pairs, resampled_clusters
from arcface_jax.evaluation.thresholds import deployment_threshold, fars_told
from arcface_jax.files import write_whole
from arcface_jax.interop.card import (
    CARD_FARS,
    CARD_FILE,
    CARD_TEXT,
    CHANGE,
    LARGEST_CHANGE,
    ModelCard,
    Threshold,
)
from arcface_jax.interop.inference import principal_directions, unit_embedding
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.onnx import export_onnx, import_writer
from arcface_jax.interop.quantise import WeightType
from arcface_jax.interop.stablehlo import export_stablehlo
from arcface_jax.interop.torch import save_safetensors, save_torch
from arcface_jax.models.embed import default_batch_size
from arcface_jax.progress import Begin
from arcface_jax.runs.checkpoints import library_versions
from arcface_jax.runs.dataset import configured_source, sample_images, training_part
from arcface_jax.runs.run_folder import CONFIG_FILE, RESULTS_FILE
from arcface_jax.runs.saved_runs import find_run

FITTED_ON = 10_000
"""The most images that the directions of a shorter embedding are found on."""

Format = Literal["stablehlo", "onnx", "torch", "safetensors"]
UNKNOWN = "not stated"


@dataclasses.dataclass(frozen=True)
class Arguments(PhotoOptions):
    """The command line."""

    model: Annotated[Trained, tyro.conf.Positional]
    """Folder of a run, or a PyTorch (.pt, .pth, .ckpt), .safetensors, .onnx or .params file."""
    folder: Annotated[pathlib.Path, tyro.conf.Positional]
    """Folder to make."""
    formats: tuple[Format, ...] = ("stablehlo",)
    """What to write. stablehlo: for cpu, cuda and tpu, batch of any size. onnx: with the extra.
    torch and safetensors: weights by arcface_torch's names, without preprocessing, folding or
    smaller types.
    """
    fold: bool = True
    """Fold batch normalisations into the layers before them."""
    weights: WeightType = "float32"
    """Type that kernels are stored in. The arithmetic stays float32."""
    size: Count | None = None
    """Numbers of a shorter embedding: the network's, projected on as many principal directions of
    the images of --size-from. With --verify the card tells what that costs, with intervals.
    """
    size_from: Annotated[str, Checked(check_set)] | None = None
    """Images like those that will be embedded, to find the directions on: of many people, and of
    others than --verify. Without it the training images of a run.
    """
    verify: Annotated[str, Checked(check_set)] | None = None
    """Set to measure accuracy and thresholds on. It is [NAME=]SOURCE[+PAIRS], as the command
    evaluate takes it; without a list all pairs of its people.
    """
    project: Project = None
    name: str | None = None
    """Name of the model in its card. Without it: the folder's."""
    data: str | None = None
    """What the model was trained on, for the card. Without it a run's configuration tells."""
    recipe: str | None = None
    """How it was trained, for the card. Of a run its configuration is quoted as well."""
    licence: str = UNKNOWN
    """Licence of the weights, for the card."""

    @property
    def changes(self) -> dict[str, Any]:
        """What is done to the network."""
        return {name: getattr(self, name) for name in ("fold", "weights")}


@dataclasses.dataclass(frozen=True)
class _Faces:
    images: np.ndarray
    crop: Crop
    pairs: Pairs
    clusters: tuple[np.ndarray, np.ndarray]

    def similarities(
        self,
        function: Callable[[jax.Array], jax.Array],
        progress: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Cosine of every pair."""
        height, width = self.images.shape[1:3]
        size, batch_size = (height, width), default_batch_size()
        embedder = Embedder("", size, None, batch_size, FLIP, jax.jit(function))
        unit = embedder.embed(self.images, progress=progress)
        return score_pairs(unit, unit, self.pairs.first, self.pairs.second)


def read_set(
    arguments: Arguments, option: str, size: tuple[int, int], console: Console, begin: Begin
) -> ImageSet:
    """The set that --verify or --size-from names, at the model's size; `begin` shows the work."""
    beside = arguments.folder.resolve().parent
    finder = FaceFinder(beside, arguments.face, console) if arguments.detect else None
    name = getattr(arguments, option.replace("-", "_"))
    with concerning(f"--{option}"):
        return load_set(name, size, 10, begin, arguments, finder=finder)


def find_directions(
    arguments: Arguments,
    size: int,
    embedder: Embedder,
    console: Console,
    begin: Begin,
) -> tuple[np.ndarray, str]:
    """(the directions to shorten embeddings by, what the card says of them); warns where they are
    learnt from few people.
    """
    if arguments.size_from is not None:
        found = read_set(arguments, "size-from", embedder.image_size, console, begin)
        chosen = np.random.default_rng(0).permutation(len(found.images))[:FITTED_ON]
        chosen = np.sort(chosen)
        images, place = found.images[chosen], found.name
        labels = found.labels[chosen] if found.identities_known else None
    else:
        run = find_run(arguments.model)
        assert run is not None  # checked before the model was opened
        data, seed = run.config.data, run.config.run.seed
        with begin("Reading the training images", None):
            source = training_part(data, configured_source(data, seed), seed)
            images, labels = sample_images(source, FITTED_ON, embedder.image_size, seed)
        place = "the training images"
    with begin("Embedding, to find the directions", len(images)) as move:
        unit = embedder.embed(images, progress=move)
    with concerning("--size"):
        directions, kept = principal_directions(unit, size)
    of = number_of(len(unit), "image")
    if labels is not None:
        people = len(np.unique(labels))
        of += f" of {number_of(people, 'person')}"
        if people < size:
            say(
                console,
                f"warning: --size {size}: the directions are learnt from {of}, fewer people than "
                "numbers, so that others may lose more; give images of more with --size-from",
                "yellow",
            )
    said = f"{size} of {unit.shape[1]} directions, of {of} of {place}"
    return directions, f"{said}, which keep {kept:.1%} of the squared length"


def read_faces(
    arguments: Arguments, size: tuple[int, int], console: Console, begin: Begin
) -> _Faces:
    """The images of --verify at the model's size, and its pairs; `begin` shows the work."""
    found = read_set(arguments, "verify", size, console, begin)
    data = EmbeddedSet(found.name, found.images, found.labels, found.pairs, found.identities_known)
    pairs = choose_pairs(data, found.labels, seed=0)
    return _Faces(found.images, found.crop, pairs, resampled_clusters(data, pairs, found.labels))


def measure(similarities: np.ndarray, same: np.ndarray) -> dict[str, float]:
    """AUC, equal error rate, TAR at FAR 1e-2 and 1e-3."""
    found = roc_numbers(roc_curve(similarities, same), (1e-2, 1e-3))
    return {"auc": found.auc, "eer": found.eer} | found.numbers()


def find_change(before: np.ndarray, after: np.ndarray, faces: _Faces) -> dict[str, Any]:
    """What the export loses, with intervals over people; empty where they are too few for any."""
    scored, resampling = (
        (before, after, faces.pairs.same, *faces.clusters),
        Resampling(100, 0.95, 0),
    )
    try:
        found = compare_roc(*scored, fars=(1e-2, 1e-3), resampling=resampling)
    except InputError:
        return {}
    return {
        name: {"estimate": one.difference, "low": one.low, "high": one.high}
        for name, one in found.items()
    }


def find_thresholds(similarities: np.ndarray, faces: _Faces) -> tuple[Threshold, ...]:
    """At each of CARD_FARS that the pairs can tell, with a warning where they are few for it."""
    found, scored = [], (similarities, faces.pairs.same, *faces.clusters)
    for far in fars_told(CARD_FARS, int((~faces.pairs.same).sum()))[0]:
        one = deployment_threshold(*scored, far, resampling=Resampling(20, 0.95, 0))
        found.append(Threshold(far, one.threshold.estimate, one.tar.estimate, one.warning))
    return tuple(found)


def find_calibration(
    similarities: np.ndarray, faces: _Faces
) -> tuple[Calibration | None, dict[str, Any]]:
    """(the calibration, its figures as a card has them), or why there is none."""
    scored, resampling = (similarities, faces.pairs.same, *faces.clusters), Resampling(100, 0.95, 0)
    try:
        fitted = fit_calibration(similarities, faces.pairs.same)
        rows = telling_scores(similarities, faces.pairs.same)
        found = calibration_intervals(*scored, rows, resampling=resampling)
        found |= held_out_reliability(*scored, resampling=resampling).figures
    except InputError as error:
        return None, {"warning": str(error)}
    return fitted, {name: dataclasses.asdict(interval) for name, interval in found.items()}


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a run's folder says for the card."""

    config: dict[str, Any] | None
    results: dict[str, Any]

    @property
    def data(self) -> str:
        """The training data in a few words."""
        if self.config is None:
            return UNKNOWN
        data = self.config.get("data", {})
        root = data.get("root")
        place = "" if root is None else f", {as_path(root).name}"
        return f"{data.get('source', UNKNOWN)}{place}"

    @property
    def recipe(self) -> str:
        """Where to read how it was trained."""
        return UNKNOWN if self.config is None else "the configuration below"


def read_run(path: pathlib.Path) -> RunFacts:
    """The configuration and the last verification of a run's folder; nothing of another model."""
    run = find_run(path)
    if run is None:
        return RunFacts(None, {})
    config = json.loads((run.folder / CONFIG_FILE).read_text(encoding="utf-8"))
    results: dict[str, dict[str, Any]] = {}
    if (run.folder / RESULTS_FILE).exists():
        results = json.loads((run.folder / RESULTS_FILE).read_text(encoding="utf-8"))
    verified = {int(step): found for step, found in results.get("verifications", {}).items()}
    step = max(verified, default=None) if run.step is None else run.step
    return RunFacts(config, {"step": step, **verified[step]} if step in verified else {})


def describe(
    arguments: Arguments,
    model: TrainedModel,
    function: Callable[[jax.Array], jax.Array],
    options: dict[str, Any],
    console: Console,
    begin: Begin,
) -> ModelCard:
    """The card; accuracy and thresholds are measured if a set was given; `begin` shows it."""
    flip, crop = arguments.flip or model.flip, None
    metrics: dict[str, object] = {}
    thresholds: tuple[Threshold, ...] = ()
    calibration: Calibration | None = None
    figures: dict[str, Any] = {}
    strangers: ImpostorTail | None = None
    if arguments.verify is not None:
        faces = read_faces(arguments, model.image_size, console, begin)
        crop, original = faces.crop, unit_embedding(model, fold=False, flip=flip)
        with begin("Embedding, as trained and as exported", 2 * len(faces.images)) as move:
            before, after = (faces.similarities(one, move) for one in (original, function))
        same = faces.pairs.same
        metrics = {**measure(after, same), "original": measure(before, same)}
        metrics[LARGEST_CHANGE] = float(np.abs(after - before).max())
        if arguments.size is not None or arguments.weights != "float32":
            metrics[CHANGE] = find_change(before, after, faces)
        with begin("Finding thresholds", None):
            thresholds, strangers = find_thresholds(after, faces), impostor_tail(after, same)
            calibration, figures = find_calibration(after, faces)
    run = read_run(arguments.model)
    leaves = jax.tree.leaves(dict(model.variables)["params"])
    return ModelCard(
        name=arguments.name or arguments.folder.resolve().name,
        source=model.source,
        network=getattr(model.backbone, "kind", type(model.backbone).__name__),
        parameters=sum(int(np.size(leaf)) for leaf in leaves),
        embedding_size=arguments.size or model.embedding_size * (1 + (flip == "concatenate")),
        image_size=model.image_size,
        training_pixels=dataclasses.asdict(model.pixels),
        rule=EmbeddingRule(flip, crop),
        options=options,
        data=arguments.data or run.data,
        recipe=arguments.recipe or run.recipe,
        config=run.config,
        run_results=run.results,
        licence=arguments.licence,
        verified_on=None if arguments.verify is None else as_path(arguments.verify).name,
        metrics=metrics,
        thresholds=thresholds,
        calibration=calibration,
        calibration_figures=figures,
        strangers=strangers,
        versions=library_versions(),
    )


def write(
    arguments: Arguments,
    folder: pathlib.Path,
    model: TrainedModel,
    function: Callable[[jax.Array], jax.Array],
    directions: np.ndarray | None,
) -> list[pathlib.Path]:
    """The files of the formats wanted."""
    written = []
    if "stablehlo" in arguments.formats:
        written.append(folder / STABLEHLO_FILE)
        write_whole(written[-1], export_stablehlo(function, model.image_size))
    if "onnx" in arguments.formats:
        written.append(folder / "model.onnx")
        flip = arguments.flip or model.flip
        changes = arguments.changes | {"shift_depthwise": False, "directions": directions}
        plain = unit_embedding(model, flip=flip, **changes)
        export_onnx(plain, model.image_size, written[-1])
    if "torch" in arguments.formats:
        written.append(folder / "model.pth")
        save_torch(model, written[-1])
    if "safetensors" in arguments.formats:
        written.append(folder / "model.safetensors")
        save_safetensors(model, written[-1])
    return written


@contextlib.contextmanager
def new_folder(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """A folder that gets its own name once it is whole: what a missing package stops can be asked
    for again by the same command.
    """
    if isinstance(folder, BucketPath):
        with written_locally(folder) as local:
            make_folder(local)
            yield local
        return
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    make_folder(partial)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def run(arguments: Arguments) -> None:
    """Opens, exports, measures, writes the card."""
    console = new_console(soft_wrap=True)
    if not arguments.formats:
        raise InputError(f"--formats: give at least one of {', '.join(get_args(Format))}")
    arguments.check()
    read = (arguments.verify, arguments.size_from)
    if read == (None, None) and (arguments.detect or arguments.aligned):
        option = "--detect" if arguments.detect else "--aligned"
        raise InputError(
            f"{option}: says how the photos of --verify or --size-from are taken; give both"
        )
    if arguments.size is None and arguments.size_from is not None:
        raise InputError("--size-from: says what --size is found on; give both")
    if arguments.size is not None and arguments.size_from is None:
        check_model(arguments.model)
        if find_run(arguments.model) is None:
            raise InputError("--size: a model that was not trained here needs --size-from")
    if arguments.size is not None and (own := {"torch", "safetensors"} & set(arguments.formats)):
        raise InputError(
            f"--size: --formats {' '.join(sorted(own))} has the network's own weights; leave one "
            "of both out"
        )
    arguments.check_installed()
    if arguments.folder.exists():
        raise InputError(f"{arguments.folder}: exists already; choose another folder")
    if "onnx" in arguments.formats:
        import_writer()
    begin = functools.partial(progress_bar, console)
    with new_folder(arguments.folder) as partial:
        with begin(f"Opening {arguments.model}", None):
            model = open_trained(arguments.model, arguments.project)
            flip = arguments.flip or model.flip
            function = unit_embedding(model, flip=flip, **arguments.changes)
            # A model whose embeddings are no numbers is refused before anything is written.
            about = (model.source, model.image_size, None, default_batch_size(), flip)
            embedder = Embedder(*about, jax.jit(function))
            embed_patterns(embedder)
        directions, options = None, arguments.changes
        if arguments.size is not None:
            directions, said = find_directions(arguments, arguments.size, embedder, console, begin)
            function = unit_embedding(model, flip=flip, directions=directions, **options)
            options |= {"embedding": said}
        with begin("Writing", None):
            written = write(arguments, partial, model, function, directions)
        card = describe(arguments, model, function, options, console, begin)
        write_whole(partial / CARD_FILE, card.to_json())
        write_whole(partial / CARD_TEXT, card.to_markdown())
    for path in (arguments.folder / file.name for file in written):
        say(console, f"{path}: {number_of(path.stat().st_size, 'byte')}")
    for line in card.in_short():
        say(console, line)
    say(console, f"The whole card: {arguments.folder / CARD_TEXT}, and for programs {CARD_FILE}")


def main() -> None:
    """Reads the options and runs."""
    network = ("formats", "weights", "size", "size-from", "verify", "detect", "flip")
    common = (*network, "name", "data", "recipe", "licence")
    run(read_options(Arguments, "export", __doc__, common=common))


if __name__ == "__main__":
    run_command(main)
