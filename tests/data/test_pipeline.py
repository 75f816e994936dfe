import json
import multiprocessing
import os
import pathlib
import sys
import threading
import time

import jax
import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.pipeline import DevicePrefetch, batches
from arcface_jax.data.samplers import Balanced, Capped
from arcface_jax.data.shuffled_pieces import ShuffledPieces
from arcface_jax.data.source import FaceSource, Pieces
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from tests import processes

SIZE = 8


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Five identities with four images; image i is uniformly of grey i."""
    root = tmp_path_factory.mktemp("faces")
    for index in range(20):
        path = root / f"{index // 4}" / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(np.full((SIZE, SIZE, 3), index, np.uint8)))
    return FolderSource(root)


def grey(batch) -> list[int]:
    """Which images are in a batch, checked against its labels."""
    values = np.asarray(batch.images)[:, 0, 0, 0].astype(int)
    np.testing.assert_array_equal(values // 4, batch.labels)
    return values.tolist()


def take(iterator, count: int) -> list[list[int]]:
    return [grey(next(iterator)) for _ in range(count)]


def test_batches_are_uint8_images_and_int32_labels_without_end(source):
    with batches(source, 6, SIZE, seed=0) as iterator:
        batch = next(iterator)
        assert (batch.images.dtype, batch.images.shape) == (np.uint8, (6, SIZE, SIZE, 3))
        assert (batch.labels.dtype, batch.labels.shape) == (np.int32, (6,))
        seen = grey(batch) + [image for rows in take(iterator, 9) for image in rows]
    assert sorted(seen) == sorted(list(range(20)) * 3)


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (2, 1), (3, 7)])
def test_threads_change_nothing(source, threads, ahead):
    with (
        batches(source, 6, SIZE, seed=3) as one,
        batches(source, 6, SIZE, 3, threads=threads, ahead=ahead) as other,
    ):
        assert take(one, 12) == take(other, 12)


def test_worker_processes_change_nothing_and_resume_without_them(source):
    with batches(source, 6, SIZE, seed=3) as iterator:
        expected = take(iterator, 8)
    with batches(source, 6, SIZE, seed=3, workers=2, threads=1) as workers:
        assert take(workers, 5) == expected[:5]
        state = workers.get_state()
    with batches(source, 6, SIZE, seed=3) as iterator:
        iterator.set_state(state)
        assert take(iterator, 3) == expected[5:]


@pytest.mark.slow
def test_a_killed_worker_ends_the_run_instead_of_hanging_it(source):
    with batches(source, 6, SIZE, seed=3, workers=1) as iterator:
        next(iterator)
        (worker,) = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(RuntimeError, match="Worker process was terminated unexpectedly"):
            take(iterator, 50)


def test_a_script_without_the_main_guard_is_told_so(source, tmp_path):
    root = pathlib.Path(source.where(0)).parent.parent
    (tmp_path / "script.py").write_text(
        "from arcface_jax.data.sources.folder import FolderSource\n"
        "from arcface_jax.data.pipeline import batches\n"
        f"iterator = batches(FolderSource({str(root)!r}), 6, 8, 0, workers=1)\n"
        "next(iterator)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).resolve().parents[2])}
    command = [sys.executable, tmp_path / "script.py"]
    done = processes.run(command, seconds=120, env=environment)
    assert done.returncode != 0
    assert 'what it does must stand under if __name__ == "__main__":' in done.stderr


@pytest.mark.parametrize(
    "sampler",
    [
        None,
        Balanced(np.repeat(np.arange(5), 4), 4, 3, 1),
        Capped(np.repeat(np.arange(5), 4), 3, 12, 1),
        ShuffledPieces(Pieces(np.arange(20) // 2, 8), 12, 1),
    ],
)
def test_resuming_gives_the_next_batch_on_any_number_of_hosts(source, sampler):
    def run(host, num_hosts):
        return batches(source, 12, SIZE, seed=1, sampler=sampler, host=host, num_hosts=num_hosts)

    with run(0, 1) as iterator:
        expected = take(iterator, 10)
    saved = []
    for host in range(2):
        with run(host, 2) as iterator:
            assert take(iterator, 4) == [batch[host * 6 : host * 6 + 6] for batch in expected[:4]]
            saved.append(json.loads(json.dumps(iterator.get_state())))
    assert saved[0] == saved[1]
    for num_hosts in (1, 3, 4):
        parts = []
        for host in range(num_hosts):
            with run(host, num_hosts) as iterator:
                iterator.set_state(saved[0])
                parts.append(take(iterator, 6))
        assert [
            [image for part in rows for image in part] for rows in zip(*parts, strict=True)
        ] == expected[4:]


def test_going_back_and_closing_are_allowed_at_any_time(source):
    with batches(source, 6, SIZE, seed=0) as iterator:
        start = iterator.get_state()
        first = take(iterator, 3)
        iterator.close()
        fourth = take(iterator, 1)
        iterator.set_state(start)
        assert take(iterator, 4) == first + fourth


def test_a_state_of_another_run_is_refused(source):
    iterator = batches(source, 6, SIZE, seed=0)
    for other in (
        batches(source, 6, SIZE, seed=1),
        batches(source, 5, SIZE, 0),
        batches(source, 6, SIZE + 1, 0),
    ):
        with pytest.raises(InputError, match=r"the saved data state is of data .* start a new run"):
            iterator.set_state(other.get_state())


def test_unreadable_images_stop_the_run_or_are_substituted_and_counted(source, tmp_path):
    for index in range(4):
        (tmp_path / f"{index // 2}").mkdir(exist_ok=True)
        content = b"damaged" if index == 1 else source.encoded(index)
        (tmp_path / f"{index // 2}" / f"{index}.png").write_bytes(content)
    damaged = FolderSource(tmp_path)
    with (
        batches(damaged, 4, SIZE, seed=0) as iterator,
        pytest.raises(InputError, match=r"1\.png: cannot decode"),
    ):
        next(iterator)
    with batches(damaged, 4, SIZE, seed=0, on_unreadable="substitute") as iterator:
        batch = next(iterator)
        assert sorted(batch.images[:, 0, 0, 0]) == [0, 0, 2, 3]  # another of the same person
        assert sorted(batch.labels) == [0, 0, 1, 1]
        next(iterator)
        assert list(iterator.unreadable.values()) == [2]
        assert DevicePrefetch(iterator).unreadable is iterator.unreadable
        assert not iterator.emptied
    (tmp_path / "0" / "0.png").write_bytes(b"damaged")
    with batches(damaged, 4, SIZE, seed=0, on_unreadable="substitute") as iterator:
        batch = next(iterator)
        assert sorted(batch.images[:, 0, 0, 0]) == [2, 2, 2, 3]  # nobody else of person 0
        assert batch.labels.tolist() == [1, 1, 1, 1]
        assert DevicePrefetch(iterator).emptied is iterator.emptied == {"0"}
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(b"damaged")
    with (
        batches(damaged, 4, SIZE, seed=0, on_unreadable="substitute") as iterator,
        pytest.raises(InputError, match="the 3 images before it cannot be decoded either"),
    ):
        next(iterator)


def test_a_source_that_renders_is_asked_for_whole_batches(source):
    class Rendering(FaceSource):
        labels, identity_names, fingerprint = source.labels, source.identity_names, "f"

        def __getitem__(self, index):
            raise AssertionError("one by one")

        def render(self, indices):
            return np.stack([source[int(index)] for index in indices])

    with (
        batches(Rendering(), 6, SIZE, seed=2) as rendered,
        batches(source, 6, SIZE, seed=2) as read,
    ):
        assert take(rendered, 4) == take(read, 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"batch_size": 7, "num_hosts": 2},
            "host 0 of 2 cannot have an equal part of batch_size = 7",
        ),
        ({"host": 2, "num_hosts": 2}, "host 2 of 2"),
        ({"image_size": 0}, "image_size = 0"),
        ({"threads": 0}, "threads = 0"),
        (
            {"sampler": Balanced(np.arange(5), 2, 2, 0)},
            "batch_size = 6, but the sampler makes batches of 4",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(source, options, message):
    with pytest.raises(InputError, match=message):
        batches(**{"source": source, "batch_size": 6, "image_size": SIZE, "seed": 0, **options})


def test_device_prefetch_keeps_order_shards_and_tells_the_state_of_what_was_handed_out(source):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    with batches(source, 8, SIZE, seed=0) as iterator:
        expected = take(iterator, 6)
    prefetch = DevicePrefetch(batches(source, 8, SIZE, seed=0), sharding, depth=2)
    first = next(prefetch)
    assert first.images.sharding == sharding
    assert first.images.dtype == np.uint8
    assert [grey(first), *take(prefetch, 2)] == expected[:3]
    state = prefetch.get_state()
    assert state["step"] == 3
    take(prefetch, 2)
    prefetch.set_state(state)
    assert take(prefetch, 3) == expected[3:]
    prefetch.close()
    assert isinstance(next(DevicePrefetch(batches(source, 8, SIZE, seed=0))).labels, jax.Array)


def test_batches_are_read_and_copied_while_a_step_runs(source):
    """The step is this thread: it ends when the images that no device has yet were read, which it
    does not read itself; and while it is at its first batch, the second is on the device.
    """
    read, changed = [], threading.Condition()

    class Watched(FaceSource):
        labels, identity_names, fingerprint = source.labels, source.identity_names, "watched"

        def __getitem__(self, index):
            with changed:
                read.append(index)
                changed.notify()
            return source[index]

    with batches(Watched(), 4, SIZE, seed=0, threads=1, ahead=1) as iterator:
        prefetch = DevicePrefetch(iterator)
        for step in range(3):
            batch = next(prefetch)
            assert batch.images.dtype == np.uint8
            assert iterator.get_state()["step"] == step + 2
            with changed:
                assert changed.wait_for(lambda n=4 * (step + 3): len(read) >= n, timeout=60)


def test_waiting_for_data_is_measured(source):
    class Slow(FaceSource):
        labels, identity_names, fingerprint = source.labels, source.identity_names, "slow"

        def __getitem__(self, index):
            time.sleep(0.01)
            return source[index]

    prefetch = DevicePrefetch(batches(Slow(), 8, SIZE, seed=0, threads=1, ahead=1), depth=1)
    next(prefetch)
    assert prefetch.waited > 0.08
    time.sleep(0.5)  # a training step longer than reading a batch
    next(prefetch)
    assert prefetch.waited < 0.08
    prefetch.close()
