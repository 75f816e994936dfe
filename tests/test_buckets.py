"""Paths in object storage, tried on fsspec's own, which lies in memory."""

import contextlib
import errno
import gc
import importlib.util
import os
import pathlib
import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arcface_jax.buckets import (
    BucketPath,
    RangedFile,
    as_path,
    kept_copy,
    ranged,
    read_range,
    requests,
    uploads,
    written_locally,
)
from arcface_jax.buckets.cache import RingBuffer, process_cache
from arcface_jax.errors import InputError
from arcface_jax.files import whole_file, whole_text, write_whole


@pytest.fixture
def place(bucket):
    return bucket / "run"


@pytest.fixture
def cache(monkeypatch):
    """Sets a cache of so many bytes."""
    rings = []

    def set_cache(limit):
        rings.append(RingBuffer(limit))
        monkeypatch.setattr(ranged, "process_cache", lambda: rings[0])

    yield set_cache
    for ring in rings:
        ring.close()


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(requests, "WAITS", (0.0, 0.0))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("s3://bucket/a/b", "s3://bucket/a/b"),
        ("gs://bucket", "gs://bucket"),
        ("GS://bucket/A", "gs://bucket/A"),
        ("s3://bucket/a/", "s3://bucket/a"),
        (pathlib.Path("s3://bucket/a"), "s3://bucket/a"),  # which pathlib makes s3:/bucket/a
        ("s3:/bucket/a", "s3://bucket/a"),
        ("s3://bucket/a:b@c.jpg", "s3://bucket/a:b@c.jpg"),
    ],
)
def test_a_bucket_keeps_its_two_slashes(given, text):
    path = as_path(given)
    assert isinstance(path, BucketPath)
    assert isinstance(path, pathlib.Path)
    assert str(path) == os.fspath(path) == text
    assert str(path / "x.rec") == f"{text}/x.rec"
    assert (path / "x.rec").parent == path
    assert str((path / "x.rec").with_suffix(".idx")) == f"{text}/x.idx"
    assert as_path(path) == path
    assert pickle.loads(pickle.dumps(path)) == path
    assert path.absolute() == path.resolve() == path.expanduser() == path


@pytest.mark.parametrize(
    "text", ["/tmp/a", "a/b", "C:/a", "a:b/c", "name=s3://bucket", "tfds:mnist"]
)
def test_a_local_path_is_as_pathlib_has_it(text):
    assert as_path(text) == pathlib.Path(text)
    assert not isinstance(as_path(text), BucketPath)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("az://bucket/a", r"az://bucket/a: of no storage known here; give s3://…, gs://… or"),
        ("https://host/a.rec", r"https://host/a\.rec: of no storage known here"),
        ("s3://", r"s3://: names no bucket; give s3://BUCKET/PATH"),
        ("s3://key:secret@bucket/a", r"^s3://bucket/a: was given with credentials"),
        ("s3://key:sec/secret@bucket/a", r"^s3://bucket/a: was given with credentials"),
        ("s3://secret@bucket/a", r"^s3://bucket/a: was given with credentials"),
        ("https://me:secret@host/a.rec", r"^https://host/a.rec: was given with credentials"),
    ],
)
def test_what_is_no_bucket_is_refused_without_telling_secrets(text, said):
    with pytest.raises(InputError, match=said) as caught:
        as_path(text)
    assert "secret" not in str(caught.value)


def test_files_are_written_listed_moved_and_removed(place):
    assert not place.exists()
    place.mkdir(parents=True, exist_ok=True)
    write_whole(place / "config.json", "{}")
    with whole_text(place / "tables/a.csv") as file:
        file.write("é\n")
    with whole_file(place / "tables/b.npz") as file:
        file.write(b"12")
    assert place.is_dir()
    assert not (place / "config.json").is_dir()
    assert (place / "config.json").is_file()
    assert [one.name for one in place.iterdir()] == ["config.json", "tables"]
    assert place.find() == {"config.json": 2, "tables/a.csv": 3, "tables/b.npz": 2}
    assert list(place.glob("*.json")) == [place / "config.json"]
    assert list(place.glob("*/*.csv")) == list(place.rglob("*.csv")) == [place / "tables/a.csv"]
    assert (place / "tables/a.csv").read_text() == "é\n"
    assert (place / "tables/b.npz").stat().st_size == 2
    (place / "tables").rename(place / "moved")
    assert place.find() == {"config.json": 2, "moved/a.csv": 3, "moved/b.npz": 2}
    (place / "config.json").rename(place / "other.json")
    (place / "other.json").rename(place / "config.json")
    assert (place / "config.json").find() == {}
    assert place.find() == {"config.json": 2, "moved/a.csv": 3, "moved/b.npz": 2}
    with pytest.raises(OSError, match="not empty"):
        (place / "moved").rmdir()
    place.rmtree()
    assert place.find() == {}
    (place / "none").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (place / "none").read_bytes()
    with pytest.raises(OSError, match="opened as r, rb or wb, and not as a"):
        (place / "lines").open("a")


def test_a_file_that_is_broken_off_leaves_what_was_there(place):
    write_whole(place / "file", "before")
    with contextlib.suppress(RuntimeError), whole_file(place / "file") as file:
        file.write(b"half")
        raise RuntimeError
    assert (place / "file").read_text() == "before"


def test_a_file_is_sent_when_it_is_closed_and_not_when_it_is_forgotten(place):
    try:
        raise RuntimeError
    except RuntimeError:  # as where a report is written of what went wrong
        with (place / "report").open("wb") as file:
            file.write(b"why")
    assert (place / "report").read_text() == "why"
    with contextlib.suppress(RuntimeError), (place / "text").open("wb") as file:
        file.write(b"half")
        raise RuntimeError
    forgotten = (place / "forgotten").open("wb")
    forgotten.write(b"half")
    del forgotten
    gc.collect()
    assert place.find() == {"report": 3}


def test_a_file_that_does_not_fit_in_memory_goes_by_the_disk(place, monkeypatch):
    monkeypatch.setattr(uploads, "_IN_MEMORY", 10)
    monkeypatch.setattr(uploads, "send_bytes", None)
    with whole_text(place / "table") as file:
        file.write("0123456789é")
    assert (place / "table").read_text() == "0123456789é"
    with place.open("wb") as file:
        file.write(b"x" * 11)
        file.seek(3)
        file.write(b"y")
    assert place.read_bytes() == b"xxxyxxxxxxx"


def test_of_two_that_make_a_file_one_does(place):
    assert (place / "lock").create(b"one")
    assert not (place / "lock").create(b"two")
    assert (place / "lock").create(b"one")  # as when the answer to the first request got lost
    assert (place / "lock").read_bytes() == b"one"


def test_local_copies_and_what_is_written_locally(place, tmp_path):
    with written_locally(place / "out") as local:
        (local / "a").mkdir(parents=True)
        (local / "a/b").write_text("1")
    with written_locally(place / "one.png") as local:
        local.write_text("2")
    assert place.find() == {"one.png": 1, "out/a/b": 1}
    assert (kept_copy(place) / "out/a/b").read_text() == "1"
    with written_locally(tmp_path / "x") as local:
        assert local == tmp_path / "x"
    with contextlib.suppress(RuntimeError), written_locally(place / "half") as local:
        local.write_text("3")
        raise RuntimeError
    assert not (place / "half").exists()


@pytest.mark.parametrize("limit", [1 << 30, 100])
def test_parts_of_a_file_are_those_of_the_whole(place, limit, cache, monkeypatch):
    monkeypatch.setattr(ranged, "BLOCK", 64)
    cache(limit)
    content = bytes(i * i % 251 for i in range(1000))
    place.write_bytes(content)
    file = pickle.loads(pickle.dumps(RangedFile(place)))
    assert len(file) == 1000
    for start, stop in ((0, 1), (63, 65), (0, 1000), (500, 500), (990, 2000), (64, 128), (1, 999)):
        assert file[start:stop] == content[start:stop]
        assert read_range(place, start, stop - start) == content[start:stop]
    assert file.find(content[700:720], 100) == content.find(content[700:720], 100)
    assert file.find(b"nowhere at all", 0) == -1
    with place.open("rb") as opened:
        opened.seek(-10, os.SEEK_END)
        assert opened.read() == content[-10:]
        opened.seek(60)
        assert opened.read(8) == content[60:68]


@pytest.fixture
def fetched(place, cache, monkeypatch):
    """A file of ten blocks of 64 bytes, a cache of four of them, and what was fetched: (from, to)
    of every request.
    """
    monkeypatch.setattr(ranged, "BLOCK", 64)
    cache(4 * 64)
    place.write_bytes(bytes(range(200)) + bytes(440))
    file, asked = RangedFile(place), []
    fetch = file._fetch
    monkeypatch.setattr(file, "_fetch", lambda a, b: asked.append((a, b)) or fetch(a, b))
    return file, asked


def test_a_block_is_fetched_when_it_is_read_again(fetched):
    file, asked = fetched
    assert file[10:14] == bytes(range(10, 14))
    assert asked == [(10, 14)]
    assert file[30:40] == bytes(range(30, 40))
    assert asked[1:] == [(0, 64)]
    assert file[0:64] == bytes(range(64))
    assert file[50:60] == bytes(range(50, 60))
    assert len(asked) == 2


def test_more_than_half_a_block_fetches_it_at_once(fetched):
    file, asked = fetched
    assert file[70:110] == bytes(range(70, 110))
    assert asked == [(64, 128)]
    assert file[60:100] == bytes(range(60, 100))  # half of it in the cache
    assert asked[1:] == [(0, 64)]


def test_what_a_thread_fetched_last_serves_what_is_in_it(fetched):
    file, asked = fetched
    assert file[10:30] == bytes(range(10, 30))
    assert file[12:30] == bytes(range(12, 30))
    assert asked == [(10, 30)]
    assert file[9:12] == bytes(range(9, 12))
    assert asked[1:] == [(0, 64)]


def test_a_block_that_was_read_long_ago_is_not_fetched(fetched):
    file, asked = fetched
    for start in (0, 64, 128, 192, 10):  # two of the four blocks are remembered
        file.read(start, start + 4)
    assert asked == [(0, 4), (64, 68), (128, 132), (192, 196), (10, 14)]


def test_without_a_cache_only_what_is_asked_for_is_fetched(place, cache):
    cache(0)
    place.write_bytes(bytes(range(200)))
    file = RangedFile(place)
    for _ in range(3):
        assert file[5:9] == bytes(range(5, 9))
        assert file[0:150] == bytes(range(150))


def test_what_is_in_the_cache_is_fetched_once(place, cache, monkeypatch):
    cache(1 << 20)
    place.write_bytes(bytes(1000))
    file = RangedFile(place)
    assert file[10:900] == bytes(890)
    monkeypatch.setattr(file, "_fetch", None)  # no more requests
    assert file[500:700] == bytes(200)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(1, 40)), max_size=60))
def test_the_cache_gives_back_what_it_was_given_or_nothing(calls):
    kept = {}
    with contextlib.closing(RingBuffer(100)) as ring:
        for key, size in calls:
            content = kept.setdefault(key, bytes([key]) * size)
            ring.keep(key, content)
            assert ring.get(key) == content  # the newest is there
            assert ring.get(key, slice(1, 3)) == content[1:3]
            for other, its in kept.items():
                assert ring.get(other) in (None, its)


def test_each_process_has_a_cache_of_the_size_that_is_asked_for(monkeypatch):
    monkeypatch.setenv("ARCFACE_CACHE_GIB", "0.001")
    process = process_cache()
    assert process_cache() is process
    monkeypatch.setattr(os, "getpid", lambda: -1)  # as after a fork
    other = process_cache()
    assert other is not process
    assert other.limit == int(0.001 * 2**30)
    monkeypatch.setattr(os, "getpid", lambda: -2)
    monkeypatch.setenv("ARCFACE_CACHE_GIB", "much")
    with pytest.raises(InputError, match="ARCFACE_CACHE_GIB is 'much'; give a number of GiB"):
        process_cache()


class RateLimitError(Exception):
    """As gcsfs has it."""

    code = 429


class _Failing:
    """A file system that fails the first times."""

    def __init__(self, times, error):
        self.left, self.error, self.calls = times, error, 0

    def cat_file(self, key, **_):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error
        return b"content"


@pytest.mark.parametrize(
    ("times", "error", "number", "said", "calls"),
    [
        (2, OSError(121, "We encountered an internal error."), None, None, 3),
        (2, ConnectionResetError(104, "Connection reset by peer"), None, None, 3),
        (9, ConnectionResetError("x"), errno.EIO, "in 3 tries (it cannot be reached)", 3),
        (9, TimeoutError(), errno.EIO, "in 3 tries (it does not answer in time)", 3),
        (9, OSError(16, "Please reduce"), errno.EIO, "in 3 tries (Please reduce)", 3),
        (9, OSError(5, "QuotaExceeded: over"), errno.ENOSPC, "the storage is full, or over its", 1),
        (
            9,
            OSError(5, "Storage has reached its minimum free drive"),
            28,
            "full",
            1,
        ),
        (9, RateLimitError("Quota exceeded for quota metric"), errno.EIO, "in 3 tries", 3),
        (9, OSError(5, "a timeout of s3://bucket/tokens/credential"), errno.EIO, "in 3 tries", 3),
        (9, PermissionError("Forbidden"), errno.EACCES, "refuses these credentials", 1),
        (9, RuntimeError("Unable to locate credentials"), errno.EACCES, "or finds none", 1),
        (9, FileNotFoundError("bucket/x"), errno.ENOENT, "No such file", 1),
    ],
)
def test_what_can_help_is_tried_again_with_a_limit(
    place, times, error, number, said, calls, monkeypatch
):
    storage = _Failing(times, error)
    monkeypatch.setattr(requests, "file_system", lambda scheme: storage)
    if number is None:
        assert place.read_bytes() == b"content"
    else:
        with pytest.raises(OSError, match=r"\w") as caught:
            place.read_bytes()
        assert caught.value.errno == number
        assert said in caught.value.strerror
        assert caught.value.filename == str(place)
    assert storage.calls == calls


def test_a_package_that_is_missing_is_said():
    if importlib.util.find_spec("s3fs"):
        pytest.skip("s3fs is installed")
    with pytest.raises(InputError, match=r"^s3://bucket/x: needs the package s3fs; pip install"):
        as_path("s3://bucket/x").exists()


def test_without_any_package_for_storage_the_path_and_what_to_install_are_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r"^gs://bucket/a/b: needs the package gcsfs; pip inst"):
        as_path("gs://bucket/a/b").is_dir()


def test_the_memory_of_a_command_is_no_storage_as_it_ends_with_it(monkeypatch):
    monkeypatch.delitem(requests.SCHEMES, "memory")
    with pytest.raises(InputError, match=r"^memory://x/y: of no storage known here; give s3://"):
        as_path("memory://x/y")
