"""An order for storage where images are read in pieces: a row group, a megabyte of a file."""

import hashlib

import numpy as np

from arcface_jax.data.samplers import Recent, Sampler, Shuffled, check_sizes
from arcface_jax.data.source import FaceSource, Pieces

_PIECES_OF_LANE = 8


def shuffled(source: FaceSource, batch_size: int, seed: int) -> Sampler:
    """Every image once in each epoch: uniformly shuffled, or piece by piece where the source says
    that images of a piece are to be read together.
    """
    pieces = source.pieces()
    if pieces is None or pieces.pool >= len(source):
        return Shuffled(len(source), batch_size, seed)
    return ShuffledPieces(pieces, batch_size, seed)


class ShuffledPieces:
    """Every image once in each epoch, in an order that reads each piece of storage about once.

    An epoch lays the pieces in a circle in a new random order, and cuts it open at a random image.
    Each of L lanes takes an equal part of this sequence, and cuts it into windows of `pool` / L
    images, which it shuffles. So every image comes at any place of an epoch with the same
    probability.
    A batch has batch_size / L images of every lane: rows l · batch_size / L and on are of lane l.
    So processes, which have different rows, read different pieces, and images of a piece come
    within about `pool` / batch_size steps. Windows of different lanes end at different steps. L is
    the largest divisor of the batch size that leaves a lane 8 pieces in its window.

    It is a function of the seed, the step and the row, which costs as much at any step. It keeps
    the order of the pieces and L shuffled windows, not that of all images. As with `Shuffled`,
    every image comes once in an epoch, and batches cross the end of an epoch.

    Args:
      pieces: of the source.
      batch_size: rows of the global batch.
      seed: any integer.
    """

    def __init__(self, pieces: Pieces, batch_size: int, seed: int):
        of = np.asarray(pieces.of)
        check_sizes(len(of), batch_size)
        self.batch_size = batch_size
        self.epoch_images = len(of)
        in_place = bool((of[1:] >= of[:-1]).all())
        self._in_storage = None if in_place else np.argsort(of, kind="stable").astype(np.int32)
        sizes = np.unique(of, return_counts=True)[1]
        self._sizes, self._starts = sizes, np.cumsum(sizes) - sizes
        most = max(1, pieces.pool * len(sizes) // len(of) // _PIECES_OF_LANE)
        self._lanes = max(n for n in range(1, min(most, batch_size) + 1) if batch_size % n == 0)
        self._rows_of_lane = batch_size // self._lanes
        self._window = max(1, pieces.pool // self._lanes)
        self._seed = seed
        layout = hashlib.blake2b(np.ascontiguousarray(of, np.int64).data, digest_size=4)
        self._layout = layout.hexdigest()
        self._epoch = Recent(self._shuffle_pieces, 2)  # a batch can lie in two epochs
        # Where a window ends while another thread is still in it, both are needed.
        self._within = Recent(self._shuffle_window, 2 * self._lanes)

    def __repr__(self) -> str:
        return (
            f"ShuffledPieces(batch_size={self.batch_size}, seed={self._seed}, "
            f"pieces={len(self._sizes)} {self._layout}, lanes={self._lanes}, window={self._window})"
        )

    def rows(self, step: int, start: int, stop: int) -> np.ndarray:
        """Image indices, int64 [stop − start]."""
        rows = np.arange(start, stop)
        positions, lanes = step * self.batch_size + rows, rows // self._rows_of_lane
        epochs = positions // self.epoch_images
        places = self._places(epochs, lanes, positions)
        images = np.empty(len(rows), np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            pieces, ends, turn = self._epoch(int(epoch))
            at = (places[here] + turn) % self.epoch_images
            which = np.searchsorted(ends, at, side="right")
            piece = pieces[which]
            images[here] = self._starts[piece] + self._sizes[piece] - (ends[which] - at)
        return images if self._in_storage is None else self._in_storage[images].astype(np.int64)

    def _places(self, epochs: np.ndarray, lanes: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where in an epoch's sequence of pieces is what comes at each position of a batch."""
        begin, end = epochs * self.epoch_images, (epochs + 1) * self.epoch_images
        before, done = self._counts(lanes, begin)
        after, length = self._counts(lanes, end)
        # The first window is shorter, in each lane by another part.
        skipped = self._window - 1 - lanes * self._window // self._lanes
        at = self._counts(lanes, positions)[1] - done
        windows = (at + skipped) // self._window
        starts = np.maximum(0, windows * self._window - skipped)
        stops = np.minimum(length - done, (windows + 1) * self._window - skipped)
        # All three only rise along a batch.
        parts = np.flatnonzero(
            (np.diff(epochs) != 0) | (np.diff(lanes) != 0) | (np.diff(windows) != 0)
        )
        shuffled = at - starts
        for first, last in zip([0, *(parts + 1)], [*(parts + 1), len(at)], strict=True):
            if first == last:
                continue
            key = (epochs[first], lanes[first], windows[first], stops[first] - starts[first])
            shuffled[first:last] = self._within(*map(int, key))[shuffled[first:last]]
        return after - before + starts + shuffled

    def _counts(self, lanes: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many of the positions before this one are in lanes before this, and in this one."""
        batches, rest = np.divmod(positions, self.batch_size)
        own = self._rows_of_lane
        before = batches * lanes * own + np.minimum(rest, lanes * own)
        return before, batches * own + np.clip(rest - lanes * own, 0, own)

    def _shuffle_pieces(self, epoch: int) -> tuple[np.ndarray, np.ndarray, int]:
        """An epoch's order of the pieces, where each ends in the sequence, and where that starts:
        anywhere, so that any image can be at any place, not a piece's first at the first alone.
        """
        random = np.random.default_rng((0, self._seed & 0xFFFFFFFFFFFFFFFF, epoch))
        order = random.permutation(len(self._sizes))
        turn = int(random.integers(self.epoch_images))
        return order, np.cumsum(self._sizes[order]), turn

    def _shuffle_window(self, epoch: int, lane: int, window: int, length: int) -> np.ndarray:
        key = (1, self._seed & 0xFFFFFFFFFFFFFFFF, epoch, lane, window)
        return np.random.default_rng(key).permutation(np.arange(length, dtype=np.int32))
