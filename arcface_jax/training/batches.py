"""Which examples make up which batch: a pure function of seed and step."""

import numpy as np

from arcface_jax.errors import InputError


class BatchOrder:
    """Shuffled epochs of whole batches; the last, partial batch of an epoch is left out.

    The order depends on the seed and the epoch alone, so a run that goes on at
    step t sees what it would have seen without the break.
    """

    def __init__(self, num_examples: int, batch_size: int, seed: int) -> None:
        """Checks that at least one batch fits in an epoch."""
        if batch_size > num_examples:
            raise InputError(
                f"run.batch_size {batch_size} is larger than the {num_examples} training images; "
                f"set --run.batch-size to at most {num_examples}"
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.steps_per_epoch = num_examples // batch_size
        self._seed = seed
        self._epoch = -1
        self._order = np.empty(0, np.int64)

    def __getitem__(self, step: int) -> np.ndarray:
        """The examples of the batch at `step` (from 0), int64 [batch_size]."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(self.num_examples)
            self._epoch = epoch
        return self._order[position * self.batch_size : (position + 1) * self.batch_size]
