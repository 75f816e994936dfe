"""One run of a study: trained and measured; runs that differ in the seed share one program."""

import dataclasses
import functools
import hashlib
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.analysis.label_noise import score_clean_up, wrong_labels
from arcface_jax.commands.fine_tuning import open_start, open_teacher
from arcface_jax.data.in_memory import MemorySource
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import angle_statistics, effective_dimensions
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.losses.subcenter import dominant_centres, subcenter_counts, within_angle
from arcface_jax.models.embed import EmbedFunction, embed_images, make_embed_function
from arcface_jax.runs.checkpoints import Checkpoints
from arcface_jax.runs.dataset import RunData, create_sampler, load_data
from arcface_jax.runs.loop import Quiet, RunResult, train
from arcface_jax.runs.resume import restore
from arcface_jax.runs.run_folder import RunFolder, finite
from arcface_jax.runs.setup import Setup
from arcface_jax.runs.starting_point import check_fits, with_teacher
from arcface_jax.runs.verifier import Verifier
from arcface_jax.training.config import Config, DataConfig
from arcface_jax.training.program import Program, create_program
from arcface_jax.training.sharding import quick_to_compile
from arcface_jax.training.state import TrainState
from arcface_jax.training.step import StepFunction

ANGLES_FILE = "angles.npz"
"""In a run's folder: steps [T] and degrees [T, n], of the same training images at each moment."""

KEPT_FILE = "kept.npy"
"""In the folder of a run with wrong labels: bool [N], the images that the clean-up keeps."""

MOMENTS = 24
"""How often, evenly over a run that is watched, its angles are kept."""

STRICTER = (40.0, 50.0, 60.0)
"""Other bounds in degrees that the clean-up is measured at, none of which training goes by."""

MAX_DEGREES = 75.0
"""From the centre of its class: what lies farther away is taken for noise (Sub-center ArcFace)."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A setting that is run with several seeds, each in a folder NAME-SEED.

    A share `noise` of the training images gets wrong labels; `cleaned_by` names the case with the
    same noise whose clean-up decides which images to train on. With `long_tail` above 1 the classes
    are thinned, the largest to so many times the smallest; see `long_tailed`. With `size` only so
    many classes, and so many images of each, are trained on. The run of the seed `watched` keeps
    its angles at MOMENTS moments, not only at start, middle and end.
    """

    name: str
    config: Config
    seeds: tuple[int, ...] = (0,)
    noise: float = 0.0
    cleaned_by: str | None = None
    watched: int | None = None
    long_tail: float = 1.0
    size: tuple[int, int] | None = None

    def folder(self, root: pathlib.Path, seed: int) -> pathlib.Path:
        """Where the run of a seed lies."""
        return root / f"{self.name}-{seed}"

    def seeded(self, root: pathlib.Path, seed: int) -> Config:
        """The configuration of the run of a seed."""
        run = dataclasses.replace(self.config.run, seed=seed, folder=str(self.folder(root, seed)))
        if seed == self.watched:
            often = max(1, run.steps // MOMENTS)
            run = dataclasses.replace(run, checkpoint_every=often, keep=2 * MOMENTS)
        return dataclasses.replace(self.config, run=run)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What is compiled once for runs that differ in the seed alone: it is an argument.

    A run's numbers are those of the command train with its configuration, up to the last bits.
    """

    make: Callable[[jax.Array], TrainState]
    step: StepFunction
    embed: EmbedFunction


@dataclasses.dataclass(frozen=True)
class SharedProgram(Program):
    """The program of one run, compiled with those of other seeds."""

    compiled: Compiled

    def compile_step(self) -> StepFunction:
        """The step of all of them."""
        return self.compiled.step


@dataclasses.dataclass(frozen=True)
class SharedSetup(Setup):
    """A run before its first step, by a shared program where there is one.

    `left_out` are images of the classes of a long tail that nothing is trained on.
    """

    left_out: MemorySource | None = None

    def initial_state(self) -> TrainState:
        """The whole state at step 0, on the devices."""
        program = self.program
        if not isinstance(program, SharedProgram):
            return super().initial_state()
        seed = jnp.uint32(self.config.run.seed)
        return program.placement.place(program.compiled.make(seed))


@functools.lru_cache(maxsize=1)
def _compiled(config: Config, class_counts: tuple[int, ...]) -> Compiled:
    """`config` has seed 0 and no folder, so that it is the same for all runs of a case."""
    program = create_program(config, len(class_counts), np.array(class_counts))

    def make(seed: jax.Array) -> TrainState:
        changes: Any = {"seed": seed}
        run = dataclasses.replace(config.run, **changes)
        seeded = dataclasses.replace(program, config=dataclasses.replace(config, run=run))
        return seeded.make_state()

    return Compiled(
        jax.jit(make, compiler_options=quick_to_compile()),
        program.compile_step(),
        make_embed_function(program.backbone, program.pixels),
    )


@functools.lru_cache(maxsize=12)
def _data(config: DataConfig, seed: int) -> RunData:
    return load_data(config, seed)


def with_wrong_labels(data: RunData, share: float, seed: int) -> tuple[RunData, np.ndarray]:
    """(the data with a share of wrong labels, bool [N] which they are)."""
    train = _in_memory(data, "wrong labels")
    labels, wrong = wrong_labels(train.labels, share, data.num_classes, seed)
    return _with_train(data, dataclasses.replace(train, labels=labels)), wrong


def long_tailed(data: RunData, ratio: float, seed: int) -> tuple[RunData, MemorySource]:
    """(the data with a long tail of classes, images of all its classes that are left out).

    Of each class a quarter of the images is left out, at least one. Of the others the i-th of C
    classes keeps ratio^(−i/(C − 1)), at least one image, as in Cui et al., arXiv:1901.05555. Which
    class comes where is the same for all seeds, which images are kept is not.
    """
    train, generator = _in_memory(data, "a long tail"), np.random.default_rng(seed)
    ranks = np.random.default_rng(0).permutation(data.num_classes)
    kept, left_out = (np.zeros(len(train), bool) for _ in range(2))
    for own, rank in enumerate(ranks):
        images = generator.permutation(np.flatnonzero(train.labels == own))
        tested = min(max(1, len(images) // 4), len(images) - 1)
        share = ratio ** (-rank / max(1, data.num_classes - 1))
        left_out[images[:tested]] = True
        kept[images[tested:][: max(1, round(share * (len(images) - tested)))]] = True
    rest = _only(data, left_out).train
    assert isinstance(rest, MemorySource)
    return _only(data, kept), rest


def small_set(data: RunData, classes: int, images: int, seed: int) -> RunData:
    """The data with this many of the classes that have so many training images, and as many of
    each, by chance; what is held out stays.

    Raises:
      InputError: there are fewer such classes.
    """
    train, generator = _in_memory(data, "a small set"), np.random.default_rng(seed)
    enough = np.flatnonzero(data.class_counts >= images)
    if len(enough) < classes:
        raise InputError(
            f"{len(enough)} classes have {images} training images or more; {classes} are wanted"
        )
    chosen = np.sort(generator.choice(enough, classes, replace=False))
    own = (generator.permutation(np.flatnonzero(train.labels == one))[:images] for one in chosen)
    part = _only(data, np.sort(np.concatenate(list(own)))).train
    assert isinstance(part, MemorySource)
    names = tuple(train.identity_names[one] for one in chosen)
    labels = np.searchsorted(chosen, part.labels).astype(part.labels.dtype)
    return _with_train(data, dataclasses.replace(part, labels=labels, identity_names=names))


def _in_memory(data: RunData, what: str) -> MemorySource:
    if not isinstance(data.train, MemorySource):
        raise InputError(f"{what} needs --data.loading memory")
    return data.train


def _with_train(data: RunData, train: MemorySource) -> RunData:
    digest = hashlib.sha256(data.fingerprint.encode() + train.labels.tobytes()).hexdigest()
    return dataclasses.replace(data, train=train, fingerprint=digest)


def prepare_run(case: Case, root: pathlib.Path, seed: int) -> tuple[SharedSetup, np.ndarray]:
    """(all that a run of a case needs, bool [N] which training images have a wrong label)."""
    config = case.seeded(root, seed)
    if config.run.distributed:
        raise InputError("run.distributed: runs of one process each are compared; leave it out")
    start = open_start(config)
    if start is not None:
        check_fits(start, create_program(config, 2))
    data = _data(config.data, seed)
    wrong = np.zeros(len(data.train), bool)
    if case.noise:
        data, wrong = with_wrong_labels(data, case.noise, seed)
    if case.cleaned_by is not None:
        kept = np.load(root / f"{case.cleaned_by}-{seed}" / KEPT_FILE, allow_pickle=False)
        data, wrong = _only(data, kept), wrong[kept]
    left_out = None
    if case.long_tail > 1.0:
        data, left_out = long_tailed(data, case.long_tail, seed)
        wrong = np.zeros(len(data.train), bool)
    if case.size is not None:
        data = small_set(data, *case.size, seed)
        wrong = np.zeros(len(data.train), bool)
    counts = data.class_counts
    program = create_program(config, data.num_classes, counts)
    program = with_teacher(open_teacher(config), program)
    one_device = len(program.placement.devices) == 1 and config.run.parallel == "jit"
    if one_device and start is None and program.teacher is None:
        unnamed: dict[str, Any] = {"seed": 0, "folder": None, "checkpoint_every": None, "keep": 1}
        anonymous = dataclasses.replace(config.run, **unnamed)
        anyone = dataclasses.replace(config, run=anonymous)
        compiled = _compiled(anyone, tuple(counts.tolist()))
        program = SharedProgram(**vars(program), compiled=compiled)
    sampler = create_sampler(config.data, data.train, config.run.batch_size, seed)
    return SharedSetup(program, data, sampler, start, left_out), wrong


def _only(data: RunData, kept: np.ndarray) -> RunData:
    train = _in_memory(data, "a part of the images")
    images, labels, number = train.images[kept], train.labels[kept], train.kept[kept]
    return _with_train(data, dataclasses.replace(train, images=images, labels=labels, kept=number))


def run_case(case: Case, root: pathlib.Path, seed: int) -> dict[str, Any]:
    """Trains and measures one run of a case, or goes on with it; writes and returns its results."""
    started, cpu = time.perf_counter(), time.process_time()
    setup, wrong = prepare_run(case, root, seed)
    folder = RunFolder(case.folder(root, seed), setup.config)
    result = train(setup, folder, Quiet())
    checkpoints = Checkpoints(folder.checkpoints, setup.config.run.keep)
    results = measured(setup, result, checkpoints, wrong, folder.path) | {
        "verifications": {str(step): numbers for step, numbers in result.verifications.items()},
        "bad_steps": result.bad_steps,
    }
    angles = result.angles
    if seed == case.watched:
        verifier = Verifier(setup)
        angles |= {
            step: verifier.angles(restore(checkpoints, step, setup.program))
            for step in checkpoints.steps()
        }
    checkpoints.close()
    steps = sorted(angles)
    np.savez_compressed(
        folder.path / ANGLES_FILE,
        steps=steps,
        degrees=np.stack([angles[step] for step in steps]).astype(np.float32),
    )
    results |= {
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    results = finite(results)
    folder.finish(results)
    return results


def measured(
    setup: SharedSetup,
    result: RunResult,
    checkpoints: Checkpoints,
    wrong: np.ndarray,
    folder: pathlib.Path,
) -> dict[str, Any]:
    """Of the last checkpoint: angles of Table 3, effective dimensions and the length of the mean
    of what is held out, share of the training images that are nearest to their own class weight;
    a clean-up's findings.
    """
    program = setup.program
    state = restore(checkpoints, setup.config.run.steps, program)
    variables = program.placement.local(state.backbone_variables)
    embed = make_embed_function(program.backbone, program.pixels)
    if isinstance(program, SharedProgram):
        embed = program.compiled.embed
    test, last = setup.data.test, result.angles[max(result.angles)]
    held_out = unit_embeddings(embed_images(embed, variables, test.images), "embeddings")
    results: dict[str, Any] = {
        "theta": {str(step): float(np.median(angles)) for step, angles in result.angles.items()},
        "away": float(np.mean(last > 90.0)),
        "angles": {"held_out": angle_statistics(held_out, test.labels)},
        "dimensions": effective_dimensions(held_out),
        "common": float(np.linalg.norm(held_out.mean(axis=0))),
    }
    train_images = setup.data.train
    if not isinstance(train_images, MemorySource):  # too many to embed them all
        return results
    labels = train_images.labels
    embeddings = unit_embeddings(embed_images(embed, variables, train_images.images), "embeddings")
    trained = state.class_weights
    weights = None if trained is None else np.asarray(trained)
    # A clean-up may have emptied a class.
    whole = weights is not None and len(np.unique(labels)) == len(weights)
    own = weights if whole and weights is not None and weights.ndim == 2 else None
    results["angles"]["trained"] = angle_statistics(embeddings, labels, own)
    if setup.left_out is not None and weights is not None:
        left_out = embed_images(embed, variables, setup.left_out.images)
        results["tail"] = accuracy_by_size(
            left_out, weights, setup.left_out.labels, setup.data.class_counts
        )
    if own is not None:
        nearest = np.argmax(embeddings @ unit_embeddings(own, "class weights").T, axis=1)
        results["fitted"] = float(np.mean(nearest == labels))
    if wrong.any() and weights is not None:
        found = {}
        for degrees in (*STRICTER, MAX_DEGREES):
            kept = cleaned(embeddings, weights, labels, degrees)
            found[f"{degrees:g}"] = dataclasses.asdict(score_clean_up(~kept, wrong))
        np.save(folder / KEPT_FILE, kept)
        results["noise"] = found.pop(f"{MAX_DEGREES:g}") | {"at": found}
    return results


def accuracy_by_size(
    embeddings: np.ndarray, class_weights: np.ndarray, labels: np.ndarray, counts: np.ndarray
) -> dict[str, float]:
    """Share of images nearest to the weight of their own class, mean over classes: of "all", and of
    the third of the classes with the most training images ("head"), of the next and of the rest.
    """
    unit = unit_embeddings(embeddings, "embeddings")
    centres = class_weights.reshape(len(class_weights), -1, class_weights.shape[-1])
    unit_centres = centres / np.linalg.norm(centres, axis=-1, keepdims=True)
    cosine = np.einsum("nd,ckd->nck", unit, unit_centres).max(axis=-1)
    hits = np.bincount(labels, weights=cosine.argmax(axis=1) == labels, minlength=len(counts))
    shares = hits / np.bincount(labels, minlength=len(counts)).clip(1)
    tested = np.flatnonzero(np.bincount(labels, minlength=len(counts)))
    ordered = tested[np.argsort(-counts[tested], kind="stable")]
    thirds = zip(("head", "middle", "tail"), np.array_split(ordered, 3), strict=True)
    parts = {name: float(shares[part].mean()) for name, part in thirds if len(part)}
    return parts | {"all": float(shares[tested].mean())}


def cleaned(
    embeddings: np.ndarray,
    class_weights: np.ndarray,
    labels: np.ndarray,
    max_degrees: float = MAX_DEGREES,
) -> np.ndarray:
    """bool [N]: images within `max_degrees` of their class's centre, or dominant sub-centre."""
    unit, own = jnp.asarray(embeddings), jnp.asarray(labels)
    centres = jnp.asarray(class_weights if class_weights.ndim == 3 else class_weights[:, None])
    dominant = dominant_centres(centres, subcenter_counts(unit, centres, own))
    return np.asarray(within_angle(unit, dominant, own, max_degrees=max_degrees))
