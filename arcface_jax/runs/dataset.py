"""The data of a run: people to train on, and other people to verify."""

import dataclasses

import numpy as np

from arcface_jax.arguments import check_between
from arcface_jax.counts import number_of
from arcface_jax.data.check import check_source_labels
from arcface_jax.data.in_memory import MemorySource, OnUnreadable, load_source
from arcface_jax.data.open import check_set, open_set, open_source, place_and_split
from arcface_jax.data.pairs import Pairs, draw_pairs
from arcface_jax.data.samplers import Balanced, Capped, Sampler
from arcface_jax.data.shuffled_pieces import shuffled
from arcface_jax.data.source import FaceSource
from arcface_jax.data.sources.arrays import ArraySource
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.subset import Subset, split_fold, split_identities
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError, concerning
from arcface_jax.progress import Begin, unseen
from arcface_jax.training.config import DataConfig

NUM_FOLDS = 10
"""Folds of the verification protocol."""


MOST_IMAGES = 20_000
"""All pairs of a set are scored up to this many images, 200 million pairs: seconds on a CPU."""

HELD_OUT = "held_out"
"""Name of the set of people that a run holds out of its own source."""


@dataclasses.dataclass(frozen=True)
class VerificationSet:
    """Images in memory, and the pairs of them to verify.

    Attributes:
      name: of the set.
      images: all of them.
      pairs: drawn, or a list that the set comes with.
      identities_known: whether the labels tell who is who, so that any pair can be scored; beside a
        list they need not.
    """

    name: str
    images: MemorySource
    pairs: Pairs
    identities_known: bool = True

    @property
    def num_pairs(self) -> int:
        """N(N − 1)/2, all that there are; 0 of a list, or of more images than all are scored of."""
        images = len(self.images)
        scored = self.identities_known and images <= MOST_IMAGES
        return images * (images - 1) // 2 if scored else 0


@dataclasses.dataclass(frozen=True)
class RunData:
    """A run's training source and the sets that verify it.

    Attributes:
      train: source of the training images, in memory or not.
      sets: what to verify on; the first counts, it is the people held out where there are such.
      fingerprint: of the whole source, before the split; where training images were left out, of
        those that were not.
    """

    train: FaceSource
    sets: tuple[VerificationSet, ...]
    fingerprint: str

    @property
    def test(self) -> MemorySource:
        """The images of the first set."""
        return self.sets[0].images

    @property
    def pairs(self) -> Pairs:
        """The pairs of the first set."""
        return self.sets[0].pairs

    @property
    def num_classes(self) -> int:
        """Identities to train on, C."""
        return len(self.train.identity_names)

    @property
    def class_counts(self) -> np.ndarray:
        """[C], training images of each class."""
        return np.bincount(self.train.labels, minlength=self.num_classes)

    @property
    def emptied(self) -> tuple[str, ...]:
        """Names of people, held out or to train on, none of whose images can be decoded."""
        return sum((one.emptied for one in self._in_memory), ())

    @property
    def skipped(self) -> tuple[str, ...]:
        """A message for each image that was left out because it cannot be decoded."""
        return sum((one.skipped for one in self._in_memory), ())

    @property
    def _in_memory(self) -> list[MemorySource]:
        train = [self.train] if isinstance(self.train, MemorySource) else []
        return [one.images for one in self.sets] + train


def configured_source(config: DataConfig, seed: int) -> FaceSource:
    """The source that `config` names.

    Raises:
      InputError: a folder is wanted and none given, or one given and not used.
    """
    if config.list_root is not None and config.source != "auto":
        raise InputError(
            f"data.list_root {config.list_root}: is the root of a list's paths, which source "
            f"{config.source} has not; add --data.source auto, or leave it out"
        )
    if config.source == "synthetic":
        if config.root is not None:
            raise InputError(
                f"data.root {config.root} is not used by source synthetic; add --data.source folder"
            )
        if config.image_width not in (None, config.image_size):
            raise InputError(
                f"data.image_width {config.image_width}: synthetic faces are square; leave it "
                "out, or set --data.source and --data.root to other data"
            )
        return SyntheticFaces(
            config.identities, config.images_per_identity, image_size=config.image_size, seed=seed
        )
    if config.root is None:
        raise InputError(
            f"data.root is missing: --data.source {config.source} needs --data.root DIR"
        )
    for name in ("identities", "images_per_identity"):
        if getattr(config, name) != getattr(DataConfig, name):
            raise InputError(
                f"data.{name} {getattr(config, name)} draws synthetic faces, and does nothing with "
                f"source {config.source}; leave it at {getattr(DataConfig, name)}"
            )
    if config.source == "folder":
        place, split = place_and_split(config.root)
        return FolderSource(place, split=split)
    source = open_source(config.root, config.list_root)
    if isinstance(source, ArraySource) and source.shape[:2] != config.size:
        height, width = source.shape[:2]
        raise InputError(
            f"data.root {config.root}: its arrays are {height}×{width}, and are not resized; set "
            f"--data.image-size {height} --data.image-width {width}"
        )
    return source


def split_source(config: DataConfig, source: FaceSource, seed: int) -> tuple[Subset, Subset]:
    """(what a run trains on, what it holds out)."""
    with concerning(f"data.root {config.root}" if config.root else "synthetic faces"):
        if config.folds is None:
            return split_identities(source, config.test_fraction, seed)
        partition, fold = divmod(seed, max(1, config.folds))
        by, groups = config.hold_out, config.groups
        return split_fold(source, config.folds, fold, partition, by=by, groups=groups)


def training_part(config: DataConfig, source: FaceSource, seed: int) -> FaceSource:
    """What a run trains on."""
    return split_source(config, source, seed)[0] if config.holds_out else source


def training_counts(config: DataConfig, seed: int) -> np.ndarray:
    """[C], the images of each class that a run trains on; nothing is decoded.

    Raises:
      InputError: the source cannot be opened or split.
    """
    return np.bincount(training_part(config, configured_source(config, seed), seed).labels)


def load_data(config: DataConfig, seed: int, begin: Begin = unseen) -> RunData:
    """Opens the source, splits it by identity, and decodes what is to be in memory, which `begin`
    shows.

    Raises:
      InputError: a setting is out of range, the source cannot be opened or split, or (unless
        config.unreadable is "skip") an image cannot be decoded.
    """
    if min(config.size) < 16:
        raise InputError(
            f"data.image_size {config.image_size}, image_width {config.image_width}: too small; 16 "
            "is the least, 112 the published size"
        )
    check_between("data.test_fraction", config.test_fraction, 0.0, 1.0)
    if config.folds is None and (config.hold_out != "classes" or config.groups is not None):
        raise InputError("data.hold_out, data.groups: say what a fold is; give data.folds too")
    if not config.holds_out and not config.verify:
        raise InputError(
            "data.test_fraction is 0 and data.verify empty: give one of them, or nothing is "
            "verified"
        )
    for each in config.verify:  # not after the work on the data to train on
        check_set(each)
    with begin(f"Opening {config.root or 'synthetic faces'}", None):
        source = configured_source(config, seed)
        check_source_labels(source)
    on_unreadable: OnUnreadable = "raise" if config.unreadable == "stop" else "skip"
    train: FaceSource = source
    sets: list[VerificationSet] = []
    if config.holds_out:
        train, test = split_source(config, source, seed)
        with concerning(f"data.root {config.root}" if config.root else "synthetic faces"):
            with begin("Decoding the people held out", len(test)) as move:
                held_out = load_source(
                    test, config.size, on_unreadable=on_unreadable, progress=move
                )
            drawn = _drawn_pairs(held_out, config, seed)
        sets.append(VerificationSet(HELD_OUT, held_out, drawn))
    sets += [_load_set(each, config, seed, on_unreadable, begin) for each in config.verify]
    names = [one.name for one in sets]
    if len(set(names)) < len(names):
        raise InputError(
            f"data.verify: the sets are called {', '.join(names)}; name one by NAME=SOURCE"
        )
    if config.loading == "memory":
        with begin("Decoding the training images", len(train)) as move:
            train = load_source(train, config.size, on_unreadable=on_unreadable, progress=move)
        if len(train.identity_names) < 2 and train.emptied:
            raise InputError(
                f"data.root {config.root}: {_lost(train)}, which leaves "
                f"{len(train.identity_names)} to train on; the first: {train.skipped[0]}"
            )
    left_out = isinstance(train, MemorySource) and train.skipped
    return RunData(train, tuple(sets), train.fingerprint if left_out else source.fingerprint)


def _load_set(
    specification: str, config: DataConfig, seed: int, on_unreadable: OnUnreadable, begin: Begin
) -> VerificationSet:
    """What `open_set` opens, with its own pairs, of which no image may be left out, or else
    with drawn ones.
    """
    with concerning("data.verify"):
        opened = open_set(specification, NUM_FOLDS)
    if opened.pairs is not None:
        if opened.pairs.num_folds < 2:
            raise InputError(
                f"data.verify {specification}: the list is one fold, and a threshold is chosen on "
                "other folds than it is tested on; give a list in folds"
            )
        on_unreadable = "raise"
    with begin(f"Decoding {opened.name}", len(opened.source)) as move:
        images = load_source(opened.source, config.size, on_unreadable=on_unreadable, progress=move)
    if opened.pairs is not None:
        return VerificationSet(opened.name, images, opened.pairs, identities_known=False)
    with concerning(f"data.verify {specification}"):
        drawn = _drawn_pairs(images, config, seed)
    return VerificationSet(opened.name, images, drawn)


def _drawn_pairs(images: MemorySource, config: DataConfig, seed: int) -> Pairs:
    """Pairs of the images that can be decoded; an error tells of those that cannot be."""
    try:
        return draw_pairs(images.labels, config.pairs, seed, num_folds=NUM_FOLDS)
    except InputError as error:
        if config.folds is not None and not images.skipped:
            raise InputError(f"{error}; or fewer data.folds") from error
        if not images.skipped:
            raise
        raise InputError(f"{error}; {_lost(images)}; the first: {images.skipped[0]}") from error


def _lost(images: MemorySource) -> str:
    people = len(images.emptied)
    with_them = f", and with them {number_of(people, 'person', 'are')} left out" if people else ""
    return f"{number_of(len(images.skipped), 'image')} cannot be decoded{with_them}"


def create_sampler(config: DataConfig, source: FaceSource, batch_size: int, seed: int) -> Sampler:
    """The order in which a run sees its training images.

    Raises:
      InputError: a setting is out of range, or without effect.
    """
    if config.sampler == "shuffled":
        if config.images_each != DataConfig.images_each:
            raise InputError(
                f"data.images_each {config.images_each} does nothing with sampler shuffled; leave "
                "it out"
            )
        return shuffled(source, batch_size, seed)
    labels = np.asarray(source.labels)
    if config.sampler == "capped":
        return Capped(labels, config.images_each, batch_size, seed)
    if config.images_each < 1 or batch_size % config.images_each:
        raise InputError(
            f"data.images_each {config.images_each} must divide run.batch_size {batch_size} with "
            "sampler balanced"
        )
    return Balanced(labels, batch_size // config.images_each, config.images_each, seed)


def sample_images(
    source: FaceSource, count: int, image_size: int | tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A random sample of a source: (images uint8 [n, height, width, 3], labels [n]), in the
    source's order.
    """
    chosen = np.sort(np.random.default_rng(seed).permutation(len(source))[:count])
    sample = load_source(Subset(source, chosen), image_size, on_unreadable="skip")
    return sample.images, np.asarray(source.labels)[chosen[sample.kept]]
