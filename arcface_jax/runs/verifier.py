"""Verification of people a run never trains on, and the angles of those it does."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.analysis.angle_distributions import target_angles
from arcface_jax.evaluation.all_pairs import all_pairs_tars
from arcface_jax.evaluation.angle_statistics import class_centres
from arcface_jax.evaluation.classes import rank_classes, top_k_accuracy
from arcface_jax.evaluation.embeddings import unit_embeddings
from arcface_jax.evaluation.retrieval import retrieve
from arcface_jax.evaluation.verification import (
    combine_flip,
    pair_similarities,
    verify_similarities,
)
from arcface_jax.heads.shards import rows_of_classes
from arcface_jax.models.embed import embed_images, make_embed_function, mirror
from arcface_jax.runs.dataset import VerificationSet, sample_images
from arcface_jax.runs.setup import Setup
from arcface_jax.training.program import Program
from arcface_jax.training.state import TrainState

Numbers = dict[str, float]

AVERAGE = "average"
"""Prefix of the numbers of the moving average of the weights."""

ALL_PAIRS = "all_pairs_"
"""Prefix of the TAR over all pairs of a set."""

ALL_PAIRS_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
"""False accept rates that it is taken at."""

RETRIEVED = (1, 5)
"""Ranks at which recall is reported, of each image among all others."""

_ANGLE_SAMPLE = 2048
"""Training images whose angles to their centres are measured."""


def by_set(numbers: Numbers) -> dict[str, Numbers]:
    """The numbers of a verification by set (and "average"), each under its own name; the first
    set is called "".
    """
    sets: dict[str, Numbers] = {}
    for name, value in numbers.items():
        prefix, _, own = name.rpartition("/")
        sets.setdefault(prefix, {})[own] = value
    return sets


class Verifier:
    """Embeds the sets of a run and scores their pairs by the LFW protocol."""

    def __init__(self, setup: Setup) -> None:
        """Compiles when it is first used."""
        self._setup = setup
        self._embed = make_embed_function(setup.program.backbone, setup.program.pixels)
        self._sample: tuple[np.ndarray, np.ndarray] | None = None

    def similarities(self, variables: Mapping[str, Any], tested: VerificationSet) -> np.ndarray:
        """Cosine of each pair of a set, [P]."""
        return _similarities(self._unit(variables, tested), tested)

    def _unit(self, variables: Mapping[str, Any], tested: VerificationSet) -> np.ndarray:
        images, flip = tested.images.images, self._setup.config.data.flip_test
        mirrored = embed_images(self._embed, variables, mirror(images)) if flip else None
        return combine_flip(embed_images(self._embed, variables, images), mirrored)

    def _verified(
        self, variables: Mapping[str, Any], tested: VerificationSet
    ) -> tuple[Numbers, np.ndarray]:
        """(the numbers of a set, its pairs' similarities)."""
        unit = self._unit(variables, tested)
        similarities = _similarities(unit, tested)
        folds = tested.pairs.num_folds
        numbers = verify_similarities(similarities, tested.pairs.same, folds=folds).numbers()
        if tested.num_pairs:
            tars = all_pairs_tars(unit, tested.images.labels, ALL_PAIRS_FARS)
            numbers |= {f"{ALL_PAIRS}tar@far={far:g}": tar for far, tar in tars.items()}
            numbers |= retrieve(unit, tested.images.labels).numbers(RETRIEVED)
        return numbers, similarities

    def verify(self, state: TrainState) -> tuple[Numbers, np.ndarray]:
        """Verifies every set.

        Returns: (accuracy over folds, TAR at FAR, EER, AUC … of the first set, and the same of each
          other set after its name and a slash, and of the first set by the moving average after
          "average/"; similarities of the first set's pairs). TAR over all pairs of a set of drawn
          ones has `ALL_PAIRS` before its name; there are recall@k, R-precision, MAP@R and mAP of
          such a set too.
        """
        program, (first, *others) = self._setup.program, self._setup.data.sets
        variables = program.placement.local(state.backbone_variables)
        numbers, similarities = self._verified(variables, first)
        if self._setup.config.data.hold_out == "images":
            numbers |= self._classified(variables, state)
        for other in others:
            scored, _ = self._verified(variables, other)
            numbers |= {f"{other.name}/{name}": value for name, value in scored.items()}
        if state.average:
            scored, _ = self._verified(program.placement.local(state.average), first)
            numbers |= {f"{AVERAGE}/{name}": value for name, value in scored.items()}
        return numbers, similarities

    def _classified(self, variables: Mapping[str, Any], state: TrainState) -> Numbers:
        """Shares of the held-out images of trained classes with the right class among the first."""
        program, first = self._setup.program, self._setup.data.sets[0]
        weights = rows_of(program, state, np.arange(program.num_classes))
        if weights is None:
            return {}
        trained = {name: n for n, name in enumerate(self._setup.data.train.identity_names)}
        own = np.array([trained.get(name, -1) for name in first.images.identity_names])
        ranked = rank_classes(self._unit(variables, first), weights, max(RETRIEVED))
        labels = own[first.images.labels]
        return {f"top-{k}": top_k_accuracy(ranked.classes, labels, k) for k in RETRIEVED}

    def angles(self, state: TrainState) -> np.ndarray:
        """Degrees between a sample of training images and the centres of their classes, [n].

        Centres are class weights (of sub-centres, the nearest); for a loss without classes, the
        means of the sample.
        """
        setup, config = self._setup, self._setup.config
        if self._sample is None:
            self._sample = sample_images(
                setup.data.train, _ANGLE_SAMPLE, config.data.size, config.run.seed
            )
        images, labels = self._sample
        variables = setup.program.placement.local(state.backbone_variables)
        embeddings = embed_images(self._embed, variables, images)
        centres = rows_of(setup.program, state, labels)
        if centres is None:
            present, numbers = np.unique(labels, return_inverse=True)
            centres = class_centres(
                unit_embeddings(embeddings, "embeddings"), numbers, len(present)
            )[numbers]
        return target_angles(embeddings, centres, np.arange(len(labels)))


def _similarities(unit: np.ndarray, tested: VerificationSet) -> np.ndarray:
    return pair_similarities(unit[tested.pairs.first], unit[tested.pairs.second])


def rows_of(program: Program, state: TrainState, classes: np.ndarray) -> np.ndarray | None:
    """The class weights of some classes, wherever they lie: [n, D] or [n, K, D]; None for a
    loss without classes.
    """
    weights = state.class_weights
    if weights is None:
        return None
    rows = rows_of_classes(classes, program.num_classes, program.shards)
    take = jax.jit(
        lambda weights: jnp.take(weights, rows, axis=0), out_shardings=state.step.sharding
    )
    return np.asarray(program.placement.local(take(weights)))
