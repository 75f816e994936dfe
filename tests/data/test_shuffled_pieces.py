"""Laws of the order by pieces of storage: an epoch, its division, its quality."""

import pickle
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.buckets import ranged
from arcface_jax.buckets.cache import RingBuffer
from arcface_jax.data.convert import convert
from arcface_jax.data.open import open_source
from arcface_jax.data.pipeline import batches
from arcface_jax.data.samplers import Recent, Shuffled
from arcface_jax.data.shuffled_pieces import ShuffledPieces, shuffled
from arcface_jax.data.source import Pieces
from arcface_jax.data.sources import encoded, parquet
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.subset import Subset
from arcface_jax.errors import InputError

PIECES, EACH, BATCH, POOL = 400, 25, 40, 1000
OF = np.repeat(np.arange(PIECES), EACH)
layouts = st.lists(st.integers(0, 12), min_size=1, max_size=80)


def epochs(sampler, count: int, number: int) -> np.ndarray:
    """The images of the first `count` epochs of `number` images, one a row."""
    steps = -(-count * number // sampler.batch_size)
    order = np.concatenate([sampler.rows(step, 0, sampler.batch_size) for step in range(steps)])
    return order[: count * number].reshape(count, number)


@settings(max_examples=60)
@given(of=layouts, batch=st.integers(1, 70), seed=st.integers(-(2**40), 2**40), data=st.data())
def test_every_epoch_has_every_image_once_in_any_layout(of, batch, seed, data):
    pool = data.draw(st.integers(1, len(of)))
    sampler = ShuffledPieces(Pieces(np.array(of), pool), batch, seed)
    assert sampler.epoch_images == len(of)
    found = epochs(sampler, 3, len(of))
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(len(of)), (3, 1)))


@settings(max_examples=40)
@given(of=layouts, seed=st.integers(0, 9), step=st.integers(0, 10**9))
def test_rows_are_the_batch_in_any_division_at_any_step_and_after_pickling(of, seed, step):
    sampler = ShuffledPieces(Pieces(np.array(of), max(1, len(of) // 3)), 12, seed)
    copy = pickle.loads(pickle.dumps(sampler))
    batch = sampler.rows(step, 0, 12)
    assert batch.dtype == np.int64
    for hosts in (1, 2, 3, 4, 12):
        size = 12 // hosts
        parts = [copy.rows(step, host * size, (host + 1) * size) for host in range(hosts)]
        np.testing.assert_array_equal(np.concatenate(parts), batch)
    assert repr(copy) == repr(sampler)


def test_the_name_tells_layouts_apart():
    names = {
        repr(ShuffledPieces(Pieces(of, pool), 12, seed))
        for of, pool, seed in (
            (OF, POOL, 0),
            (OF, POOL, 1),
            (OF, POOL // 2, 0),
            (np.roll(OF, 3), POOL, 0),
        )
    }
    assert len(names) == 4


def test_pieces_are_read_about_once_and_by_one_process():
    """Of 5 processes each has its own fifth of the pieces, and those between two."""
    sampler = ShuffledPieces(Pieces(OF, POOL), BATCH, 0)
    size, steps = BATCH // 5, len(OF) // BATCH
    read = []
    for host in range(5):
        pieces = [OF[sampler.rows(t, host * size, (host + 1) * size)] for t in range(steps)]
        read.append(set(np.concatenate(pieces)))
        # As many pieces wait as the pool of a process has, and those between two windows.
        last = {piece: step for step in range(steps) for piece in pieces[step]}
        first = {piece: step for step in reversed(range(steps)) for piece in pieces[step]}
        waiting = [
            sum(first[piece] <= step <= last[piece] for piece in first) for step in range(steps)
        ]
        assert max(waiting) <= 2 * POOL / EACH / 5
    assert sum(map(len, read)) <= PIECES + 6
    assert set.union(*read) == set(range(PIECES))


def test_batches_mix_pieces_and_epochs_differ():
    sampler = ShuffledPieces(Pieces(OF, POOL), BATCH, 0)
    pieces = OF[epochs(sampler, 2, len(OF))].reshape(2, -1, BATCH)
    # A pool of 40 pieces would put two rows in one with 1/40; rows of different lanes never meet.
    same = (pieces[..., :, None] == pieces[..., None, :]).sum((-1, -2)) - BATCH
    assert same.mean() / (BATCH * (BATCH - 1)) < EACH / POOL
    first, second = (np.argsort(epoch) for epoch in epochs(sampler, 2, len(OF)))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    # And where an image lies says nothing of when it comes.
    assert abs(np.corrcoef(first, np.arange(len(OF)))[0, 1]) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_an_image_comes_at_any_time_of_an_epoch(seed):
    # Image 0 over 1,000 epochs of 20, by tenths: chi-square, 9 degrees of freedom, 99.99 % is 33.7.
    sampler = ShuffledPieces(Pieces(np.arange(20) // 2, 8), 10, seed)
    times = np.argmin(epochs(sampler, 1000, 20), axis=1) // 2
    assert ((np.bincount(times, minlength=10) - 100) ** 2 / 100).sum() < 33.7


def test_a_late_step_costs_what_the_first_does():
    made = []
    sampler = ShuffledPieces(Pieces(OF, POOL), BATCH, 0)
    shuffle = sampler._shuffle_window
    sampler._within = Recent(lambda *key: made.append(key) or shuffle(*key), 100)
    sampler.rows(0, 0, BATCH)
    early = len(made)
    sampler.rows(10**9, 0, BATCH)
    assert len(made) <= 2 * early <= 2 * BATCH


def test_what_cannot_be_sampled_is_refused():
    with pytest.raises(InputError, match="no images"):
        ShuffledPieces(Pieces(np.zeros(0, int), 1), 1, 0)
    with pytest.raises(InputError, match="batch_size = 0"):
        ShuffledPieces(Pieces(np.zeros(3, int), 1), 0, 0)


def test_threads_that_ask_together_make_a_result_once_and_few_are_kept():
    made, together = [], threading.Barrier(4)

    def make(key):
        made.append(key)
        return object()

    recent = Recent(make, 2)
    got = []

    def ask():
        together.wait(timeout=60)
        got.append(recent(0))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [0]
    assert len(set(map(id, got))) == 1
    for key in (1, 2, 1, 0):
        recent(key)
    assert made == [0, 1, 2, 0]
    assert len(recent._kept) == 2


# Which sources say that they have pieces
# ----------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path, write_tree):
    return FolderSource(write_tree(tmp_path / "tree", {"a": 8, "b": 9, "c": 7}))


def upload(folder, place):
    for file in folder.iterdir():
        (place / file.name).write_bytes(file.read_bytes())


@pytest.fixture
def small(monkeypatch):
    """Blocks, pool and cache for sets of a few kilobytes."""
    monkeypatch.setattr(ranged, "BLOCK", 4096)
    monkeypatch.setattr(encoded, "BLOCK", 4096)
    monkeypatch.setattr(encoded, "_ANY_ORDER_BYTES", 1000)
    monkeypatch.setattr(encoded, "_POOL_BYTES", 6000)
    ring = RingBuffer(32000)
    monkeypatch.setattr(ranged, "process_cache", lambda: ring)
    yield
    ring.close()


@pytest.mark.parametrize("kind", ["recordio", "tar"])
def test_large_files_in_a_bucket_are_read_by_blocks(data, kind, small, bucket, tmp_path):
    if kind == "tar":
        shutil.make_archive(str(tmp_path / "packed/0"), "tar", tmp_path / "tree")
    else:
        convert(data, tmp_path / "packed", "recordio")
    upload(tmp_path / "packed", bucket)
    here, there = open_source(tmp_path / "packed"), open_source(bucket)
    assert here.pieces() is None
    pieces = there.pieces()
    assert 1 < len(set(pieces.of)) < len(there)
    assert 0 < pieces.pool < len(there)
    part = Subset(there, np.arange(1, 20))
    np.testing.assert_array_equal(part.pieces().of, pieces.of[1:20])
    assert Subset(here, np.arange(3)).pieces() is None
    assert isinstance(shuffled(here, 4, 0), Shuffled)
    sampler = shuffled(there, 4, 0)
    assert isinstance(sampler, ShuffledPieces)
    with batches(there, 4, 12, seed=0) as iterator:
        assert repr(sampler) in iterator.get_state()["plan"]
        got = [next(iterator) for _ in range(12)]
        state = iterator.get_state()
        after = next(iterator)
    for step, batch in enumerate(got):
        for image, label, row in zip(*batch, sampler.rows(step, 0, 4), strict=True):
            np.testing.assert_array_equal(image, here[int(row)])
            assert label == here.labels[row]
    with batches(there, 4, 12, seed=0) as again:
        again.set_state(state)
        np.testing.assert_array_equal(next(again).images, after.images)
    with batches(here, 4, 12, seed=0) as other, pytest.raises(InputError, match="saved data state"):
        other.set_state(state)


def test_small_sets_in_a_bucket_are_shuffled_uniformly(data, bucket, tmp_path):
    convert(data, tmp_path / "packed", "recordio")
    upload(tmp_path / "packed", bucket)
    assert open_source(bucket).pieces() is None
    assert isinstance(shuffled(data, 4, 0), Shuffled)


def test_parquet_larger_than_what_is_kept_is_read_by_row_groups(data, tmp_path, monkeypatch):
    table = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    rows = {"image": [data.encoded(at) for at in range(24)], "label": data.labels.tolist()}
    table.write_table(pyarrow.table(rows), tmp_path / "a.parquet", row_group_size=3)
    source = open_source(tmp_path / "a.parquet")
    assert source.pieces() is None
    stored = int(source.encoded_sizes().sum())
    monkeypatch.setattr(parquet, "_CACHE_BYTES", stored // 2)
    np.testing.assert_array_equal(source.pieces().of, np.arange(24) // 3)
    assert 5 <= source.pieces().pool <= 6
    read, once = [], source._read_group
    monkeypatch.setattr(source, "_read_group", lambda group: read.append(group) or once(group))
    with batches(source, 4, 8, seed=0, threads=1, ahead=1) as iterator:
        for _ in range(6):
            next(iterator)
    assert isinstance(shuffled(source, 4, 0), ShuffledPieces)
    assert len(read) <= 8 + 8 // 2 + 2  # of an epoch, and what is read ahead of the next
