"""From any source to batches: decoded ahead of time, exactly resumable, split over hosts.

Images stay uint8 until the device, which normalises and augments them (`arcface_jax.pixels`,
`arcface_jax.data.augment`).
"""

import collections
import dataclasses
import functools
import pathlib
import re
import sys
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple, Self, TypedDict

import grain
import jax
import numpy as np
from absl import flags

from arcface_jax.counts import number_of
from arcface_jax.data.decode import height_and_width, resize
from arcface_jax.data.samplers import Sampler
from arcface_jax.data.shuffled_pieces import shuffled
from arcface_jax.data.source import FaceSource
from arcface_jax.errors import InputError

Substitution = Literal["raise", "substitute"]
_MAX_SUBSTITUTIONS = 100


class Batch(NamedTuple):
    """One host's rows of a global batch.

    Attributes:
      images: uint8 [n, height, width, 3], RGB.
      labels: int32 [n].
    """

    images: np.ndarray | jax.Array
    labels: np.ndarray | jax.Array


class State(TypedDict):
    """The position of an iterator, in plain values that JSON can hold.

    Attributes:
      step: global batches handed out so far.
      plan: what determines the batches: source fingerprint, sampler description, image size.
    """

    step: int
    plan: str


class BatchIterator(Iterator[Batch]):
    """Endless batches of one host, made by `batches`.

    Batch t depends only on the source, the sampler and t. The number of hosts, workers or threads
    may change between a save and a resume.

    Attributes:
      unreadable: under "substitute", the message of every undecodable image met so far, with the
        number of times.
      emptied: names of identities met so far without any decodable image.
    """

    def __init__(self, reader: "_BatchReader", plan: str, threads: int, workers: int, ahead: int):
        self._reader, self._plan = reader, plan
        self._threads, self._workers, self._ahead = threads, workers, ahead
        self._step = 0
        self._iterator: grain.DatasetIterator | None = None
        self.unreadable: collections.Counter[str] = collections.Counter()
        self.emptied: set[str] = set()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = self._start(self._step)
        images, labels, unreadable, emptied = next(self._iterator)
        self.unreadable.update(unreadable)
        self.emptied.update(emptied)
        self._step += 1
        return Batch(images, labels)

    def get_state(self) -> State:
        """The state after the batches handed out so far, not those read ahead."""
        return {"step": self._step, "plan": self._plan}

    def set_state(self, state: State) -> None:
        """Continues from a saved state: the next batch is the one that came next then.

        Raises:
          InputError: the state was saved with other data, another sampler or another image size, so
            its batches are not this iterator's.
        """
        if state["plan"] != self._plan:
            raise InputError(
                f"the saved data state is of {state['plan']}, this run has {self._plan}; resume "
                "with the same data in the same place, seed, batch size and image size, or start a "
                "new run"
            )
        self.close()
        self._step = int(state["step"])

    def close(self) -> None:
        """Stops reading ahead and ends the worker processes."""
        if self._iterator is not None:
            self._iterator.close()
            self._iterator = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, step: int) -> grain.DatasetIterator:
        # An element is a whole batch: one image each would spend more time in Python's locks than
        # in decoding.
        steps = grain.MapDataset.range(step, sys.maxsize).map(self._reader)
        read = grain.ReadOptions(
            num_threads=self._threads, prefetch_buffer_size=max(self._ahead, self._threads)
        )
        dataset = steps.to_iter_dataset(read)
        if self._workers:
            # Grain's workers read command-line flags that only absl programs have.
            if not flags.FLAGS.is_parsed():
                flags.FLAGS.mark_as_parsed()
            dataset = dataset.mp_prefetch(
                grain.MultiprocessingOptions(
                    num_workers=self._workers, per_worker_buffer_size=self._ahead
                )
            )
        return iter(dataset)


def batches(
    source: FaceSource,
    batch_size: int,
    image_size: int | tuple[int, int],
    seed: int,
    *,
    sampler: Sampler | None = None,
    host: int = 0,
    num_hosts: int = 1,
    threads: int = 4,
    workers: int = 0,
    ahead: int = 4,
    on_unreadable: Substitution = "raise",
) -> BatchIterator:
    """Endless shuffled batches of a source.

    Args:
      source: any `FaceSource`; worker processes receive it pickled.
      batch_size: rows of the global batch, over all hosts.
      image_size: side in pixels, or (height, width); other sizes go through `decode.resize`.
      seed: of the order.
      sampler: replaces the default, `shuffled_pieces.shuffled(source, batch_size, seed)`; its batch
        size must be `batch_size`.
      host: this host's number, `jax.process_index()`. It gets rows host · n … (host + 1) · n − 1 of
        each batch, with n = batch_size / num_hosts.
      num_hosts: `jax.process_count()`.
      threads: batches decoded at once, in this process or in each worker. Decoding releases the
        interpreter lock, so threads are enough for JPEG.
      workers: processes that read; 0 reads in this process. They help if Python code, not decoding,
        is the bottleneck. A script with workers must keep its own work under if __name__ ==
        "__main__".
      ahead: batches read ahead, in this process or in each worker.
      on_unreadable: "raise" stops the run with the image's InputError. "substitute" takes the next
        readable image of the same identity instead, and counts it in `BatchIterator.unreadable`. If
        the identity has none, it takes the next readable image of the source with its own label;
        the identity stays a class without images, listed in `BatchIterator.emptied`.

    Returns: an iterator with `get_state`, `set_state` and `close`.

    Raises:
      InputError: a size does not fit.
    """
    if sampler is None:
        sampler = shuffled(source, batch_size, seed)
    if sampler.batch_size != batch_size:
        raise InputError(
            f"batch_size = {batch_size}, but the sampler makes batches of {sampler.batch_size}"
        )
    if num_hosts < 1 or not 0 <= host < num_hosts or batch_size % num_hosts:
        raise InputError(
            f"host {host} of {num_hosts} cannot have an equal part of batch_size = {batch_size}; "
            "make the batch size a multiple of the number of hosts"
        )
    if workers:
        _check_main_guard()
    height, width = height_and_width(image_size)
    for name, value in (("image_size", min(height, width)), ("threads", threads), ("ahead", ahead)):
        if value < 1:
            raise InputError(f"{name} = {value}: at least 1 is needed")
    rows = batch_size // num_hosts
    plan = (
        f"data {source.fingerprint}, {sampler!r}, "
        f"{height if height == width else f'{height}×{width}'} pixels"
    )
    reader = _BatchReader(
        source, sampler, (height, width), host * rows, (host + 1) * rows, on_unreadable
    )
    return BatchIterator(reader, plan, threads, workers, ahead)


def _check_main_guard() -> None:
    """Without the guard each worker would run the program's file again, and both would hang."""
    path = getattr(sys.modules["__main__"], "__file__", None)
    if path is None or not path.endswith(".py"):  # a notebook, an installed command
        return
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if not re.search(r"__name__\s*==\s*[\"']__main__", text):
        raise InputError(
            f"{path}: worker processes import this file again, so what it does must stand under "
            'if __name__ == "__main__":'
        )


@dataclasses.dataclass(frozen=True)
class _BatchReader:
    """Step number → (images, labels, messages, identities without a readable image); does all the
    reading.
    """

    source: FaceSource
    sampler: Sampler
    image_size: tuple[int, int]
    start: int
    stop: int
    on_unreadable: Substitution

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray, list[str], list[str]]:
        indices = self.sampler.rows(step, self.start, self.stop)
        images = np.empty((len(indices), *self.image_size, 3), np.uint8)
        unreadable: list[str] = []
        emptied: list[str] = []
        rendered = self.source.render(indices)
        for row, index in enumerate(indices):
            if rendered is not None:
                images[row] = resize(rendered[row], self.image_size)
            elif not self._read_into(images[row], int(index), unreadable):
                indices[row] = self._substitute(images[row], int(index), unreadable, emptied)
        return images, self._labels[indices], unreadable, emptied

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return np.asarray(self.source.labels, np.int32)

    def _read_into(self, image: np.ndarray, index: int, unreadable: list[str]) -> bool:
        """Reads image `index`; under "substitute", returns whether it can be."""
        try:
            image[:] = resize(self.source[index], self.image_size)
        except InputError as error:
            if self.on_unreadable == "raise":
                raise
            unreadable.append(str(error))
            return False
        return True

    def _substitute(
        self, image: np.ndarray, index: int, unreadable: list[str], emptied: list[str]
    ) -> int:
        """Reads another image in place of `index`, and returns its index."""
        first = len(unreadable) - 1
        others = np.roll(np.arange(len(self._labels)), -index)[1:]
        same = self._labels[others] == self._labels[index]
        for own in (True, False):
            for candidate in others[same == own][:_MAX_SUBSTITUTIONS]:
                if self._read_into(image, int(candidate), unreadable):
                    return int(candidate)
            if own and same.sum() <= _MAX_SUBSTITUTIONS:
                emptied.append(str(self.source.identity_names[self._labels[index]]))
        tried = len(unreadable) - first - 1
        raise InputError(
            f"{unreadable[-1]}; and the {number_of(tried, 'image')} before it cannot be decoded "
            "either"
        )


class DevicePrefetch(Iterator[Batch]):
    """Puts batches on the devices ahead of time, so copying overlaps with computing.

    Args:
      iterator: gives one host's rows.
      sharding: of the global batch; its leading axis is the batch. None puts whole batches on the
        default device.
      depth: batches on the devices beyond the one in use.

    Attributes:
      waited: seconds that the last `next` took: the training step's wait for data.
    """

    def __init__(
        self, iterator: BatchIterator, sharding: jax.sharding.Sharding | None = None, depth: int = 1
    ):
        self._iterator, self._sharding, self._depth = iterator, sharding, depth
        self._queue: collections.deque[tuple[State, Batch]] = collections.deque()
        self._state = iterator.get_state()
        self.waited = 0.0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        begin = time.perf_counter()
        while len(self._queue) <= self._depth:
            batch = next(self._iterator)
            self._queue.append((self._iterator.get_state(), Batch(*map(self._put, batch))))
        self._state, batch = self._queue.popleft()
        self.waited = time.perf_counter() - begin
        return batch

    def get_state(self) -> State:
        """The state after the batches handed out, without those waiting on the devices."""
        return self._state

    def set_state(self, state: State) -> None:
        """Continues from a saved state; drops the batches waiting on the devices."""
        self._queue.clear()
        self._iterator.set_state(state)
        self._state = state

    @property
    def unreadable(self) -> collections.Counter[str]:
        """Messages and counts of all batches read, including those waiting on the devices."""
        return self._iterator.unreadable

    @property
    def emptied(self) -> set[str]:
        """Names of identities without a decodable image, in all batches read."""
        return self._iterator.emptied

    def close(self) -> None:
        """Stops reading ahead and ends the worker processes."""
        self._queue.clear()
        self._iterator.close()

    def _put(self, local: np.ndarray | jax.Array) -> jax.Array:
        if self._sharding is None:
            return jax.device_put(local)
        return jax.make_array_from_process_local_data(self._sharding, np.asarray(local))
