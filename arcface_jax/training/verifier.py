"""Verification of the held-out identities during a run."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from arcface_jax.evaluation.verification import (
    VerificationResult,
    combine_flip,
    pair_similarities,
    verify_similarities,
)
from arcface_jax.models.embed import EmbedFunction, embed_images, mirror
from arcface_jax.training.dataset import NUM_FOLDS, RunData


class Verifier:
    """Embeds the test images and scores the test pairs by the LFW protocol."""

    def __init__(self, data: RunData, embed: EmbedFunction, *, flip: bool) -> None:
        """With `flip`, each embedding is the normalised sum of the image's and its mirror image's."""
        self._data = data
        self._embed = embed
        self._flip = flip

    def embed(self, variables: Mapping[str, Any], images: np.ndarray) -> np.ndarray:
        """Embeddings [N, D] of `images`, without the mirror image, not normalised."""
        return embed_images(self._embed, variables, images)

    def similarities(self, variables: Mapping[str, Any]) -> np.ndarray:
        """Cosine of each test pair, [P]."""
        images = self._data.test.images
        embeddings = self.embed(variables, images)
        unit = combine_flip(embeddings, self.embed(variables, mirror(images)) if self._flip else None)
        pairs = self._data.pairs
        return pair_similarities(unit[pairs.first], unit[pairs.second])

    def verify(self, similarities: np.ndarray) -> VerificationResult:
        """Accuracy over folds, TAR at FAR, EER and AUC of the test pairs with these similarities."""
        return verify_similarities(similarities, self._data.pairs.same, folds=NUM_FOLDS)
