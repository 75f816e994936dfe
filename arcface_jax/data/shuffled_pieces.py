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
        positions = step * self.batch_size + rows
        epochs, lanes = positions // self.epoch_images, rows // self._rows_of_lane
        images = np.empty(len(rows), np.int64)
        # Both only rise along a batch.
        changes = np.flatnonzero((np.diff(epochs) != 0) | (np.diff(lanes) != 0)) + 1
        for part in np.split(np.arange(len(rows)), changes) if len(rows) else ():
            epoch, lane = int(epochs[part[0]]), int(lanes[part[0]])
            images[part] = self._images(epoch, lane, positions[part])
        return images if self._in_storage is None else self._in_storage[images].astype(np.int64)

    def _images(self, epoch: int, lane: int, positions: np.ndarray) -> np.ndarray:
        """Which images, in the order of storage, an epoch has at some positions of a lane."""
        begin, end = epoch * self.epoch_images, (epoch + 1) * self.epoch_images
        before = self._in_lanes(lane, begin)
        first = int(self._in_lanes(lane, end) - before)  # of the lane, in the epoch's sequence
        done = self._in_lanes(lane + 1, begin) - before
        length = int(self._in_lanes(lane + 1, end) - self._in_lanes(lane, end) - done)
        at = self._in_lanes(lane + 1, positions) - self._in_lanes(lane, positions) - done
        # The first window is shorter, in each lane by another part.
        skipped = self._window - 1 - lane * self._window // self._lanes
        windows = (at + skipped) // self._window
        places = np.empty(len(at), np.int64)
        for window in range(int(windows[0]), int(windows[-1]) + 1):
            here = windows == window
            start = max(0, window * self._window - skipped)
            stop = min(length, (window + 1) * self._window - skipped)
            order = self._within(epoch, lane, window, stop - start)
            places[here] = first + start + order[at[here] - start]
        pieces, ends, turn = self._epoch(epoch)
        places = (places + turn) % self.epoch_images
        which = np.searchsorted(ends, places, side="right")
        return self._starts[pieces[which]] + self._sizes[pieces[which]] - (ends[which] - places)

    def _in_lanes(self, lane: int, position: np.ndarray | int) -> np.ndarray:
        """How many of the positions before this one are in lanes before this one."""
        batches, rest = np.divmod(position, self.batch_size)
        own = lane * self._rows_of_lane
        return batches * own + np.minimum(rest, own)

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
