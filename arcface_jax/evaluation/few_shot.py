"""Few-shot episodes: new classes with one or a few labelled images each."""

import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.evaluation.array_checks import check_embeddings, check_length


def few_shot(
    embeddings: np.ndarray,
    labels: np.ndarray,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> np.ndarray:
    """Accuracy per episode, when a few images per class tell new classes apart.

    An episode draws `ways` classes, `shots` images of each and up to `queries` others. A query gets
    the class whose mean direction has the largest cosine to it.

    Args:
      embeddings: [N, D], unit rows.
      labels: [N].
      ways, shots, queries, episodes: how many; 1 or more, two classes at least.
      seed: of the draws.

    Returns: [episodes]; papers give the mean ± 1.96·deviation/√episodes.

    Raises:
      InputError: too few classes have shots + 1 images.

    References:
      Snell et al., Prototypical networks for few-shot learning, arXiv:1703.05175.
    """
    unit = check_embeddings(embeddings)
    _, numbers = np.unique(
        check_length(labels, len(unit), "labels", "embeddings"), return_inverse=True
    )
    classes = np.split(np.argsort(numbers, kind="stable"), np.cumsum(np.bincount(numbers))[:-1])
    classes = [images for images in classes if len(images) > shots]
    if min(ways - 1, shots, queries, episodes) < 1 or len(classes) < ways:
        raise InputError(
            f"{ways} ways, {shots} shots, {queries} queries, {episodes} episodes: {len(classes)} "
            "classes have an image more than that; give numbers from 1 on (ways: 2), and enough "
            "classes"
        )
    generator, accuracies = np.random.default_rng(seed), np.empty(episodes)
    for episode in range(episodes):
        drawn = [
            generator.permutation(classes[c])[: shots + queries]
            for c in generator.choice(len(classes), ways, replace=False)
        ]
        prototypes = np.stack([unit[images[:shots]].mean(axis=0) for images in drawn])
        prototypes /= np.maximum(np.linalg.norm(prototypes, axis=1, keepdims=True), 1e-12)
        hits = [
            np.argmax(unit[images[shots:]] @ prototypes.T, axis=1) == way
            for way, images in enumerate(drawn)
        ]
        accuracies[episode] = np.concatenate(hits).mean()
    return accuracies
