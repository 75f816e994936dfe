"""Training and test identities, disjoint: no face of a test person is ever trained on."""

import numpy as np

from arcface_jax.data.source import FaceSource
from arcface_jax.data.views import Subset
from arcface_jax.errors import InputError


def split_identities(source: FaceSource, test_fraction: float, seed: int) -> tuple[Subset, Subset]:
    """Splits a source by identity.

    Face recognition is tested on people the network has never seen, so the split is over
    identities, not images. It depends on the seed and on the number of identities alone.

    Args:
      source: at least four identities.
      test_fraction: share of the identities, strictly between 0 and 1, that goes to the test side;
        rounded to the nearest count.
      seed: which identities.

    Returns: (training subset, test subset), labels of each renumbered from 0.

    Raises:
      InputError: the fraction is outside (0, 1), or a side would have fewer than two identities,
        with which nothing can be told apart.
    """
    if not 0 < test_fraction < 1:
        raise InputError(
            f"test_fraction = {test_fraction}: give a share of the identities between 0 and 1"
        )
    count = len(source.identity_names)
    test_count = round(test_fraction * count)
    if min(test_count, count - test_count) < 2:
        raise InputError(
            f"test_fraction = {test_fraction} of {count} identities leaves {count - test_count} "
            f"for training and {test_count} for testing; each side needs at least 2, so add "
            "identities or change test_fraction"
        )
    is_test = np.zeros(count, bool)
    is_test[np.random.default_rng(seed).permutation(count)[:test_count]] = True
    goes_to_test = is_test[np.asarray(source.labels)]
    return Subset(source, np.flatnonzero(~goes_to_test)), Subset(
        source, np.flatnonzero(goes_to_test)
    )
