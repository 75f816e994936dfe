import io
import os
import pickle

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.open import open_set, open_source
from arcface_jax.data.sources.bin import BinSource
from arcface_jax.errors import InputError

SAME = [True, False, False]


@pytest.fixture
def encoded(picture):
    return [encode_png(picture(index)) for index in range(6)]


def as_bytes(images):
    return images


def as_arrays(images):
    return [np.frombuffer(image, np.uint8) for image in images]


def as_columns(images):
    return [np.frombuffer(image, np.uint8).reshape(-1, 1).copy() for image in images]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("form", [as_bytes, as_arrays, as_columns])
@pytest.mark.parametrize(
    "same", [SAME, [np.bool_(value) for value in SAME]], ids=["bool", "np.bool"]
)
def test_every_form_of_a_bin_file_is_read(tmp_path, encoded, picture, protocol, form, same):
    (tmp_path / "x.bin").write_bytes(pickle.dumps((form(encoded), same), protocol=protocol))
    source = open_source(tmp_path / "x.bin")
    assert isinstance(source, BinSource)
    for index in range(6):
        assert source.encoded(index) == encoded[index]
        np.testing.assert_array_equal(source[index], picture(index))
    np.testing.assert_array_equal(source.pairs.first, [0, 2, 4])
    np.testing.assert_array_equal(source.pairs.second, [1, 3, 5])
    np.testing.assert_array_equal(source.pairs.same, SAME)
    np.testing.assert_array_equal(source.labels, [0, 0, 1, 2, 3, 4])
    assert len(source.identity_names) == 5


def test_a_bin_file_of_python_2(tmp_path):
    # What Python 2's cPickle wrote: byte strings by the opcodes SHORT_BINSTRING and BINSTRING, old
    # numpy module names.
    images = b"]q\x01(U\x03a\xff\x00q\x02T\x02\x00\x00\x00bbq\x03e"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x03tcnumpy\ndtype\n"
        b"(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03xyztb"
    )
    (tmp_path / "x.bin").write_bytes(b"\x80\x02" + images + b"](\x88e\x86.")
    source = BinSource(tmp_path / "x.bin")
    assert [source.encoded(0), source.encoded(1)] == [b"a\xff\x00", b"bb"]
    (tmp_path / "x.bin").write_bytes(b"\x80\x02](" + array + array + b"e](\x89e\x86.")
    assert BinSource(tmp_path / "x.bin").encoded(1) == b"xyz"


def alternating(pairs):
    return [number % 2 == 0 for number in range(pairs)]


@pytest.mark.parametrize("kind", ["bin", "list"])
@pytest.mark.parametrize(
    ("same", "folds", "message"),
    [
        (alternating(40), 10, None),
        (alternating(25), 5, None),
        (([True] * 2 + [False] * 2) * 10, 10, None),  # as LFW has them
        (alternating(25), 10, "25 pairs cannot be 10 equal folds; leave out 5 of them"),
        (alternating(6), 10, "6 pairs cannot be 10 equal folds; leave out 6 of them"),
        ([True] * 20 + [False] * 20, 10, "fold 6 of 10 holds no same pair"),
        ([False] * 20 + [True] * 20, 10, "fold 1 of 10 holds no same pair"),
        ([True] * 20, 10, "all 20 pairs are of one person; add pairs of different people"),
        ([False] * 20, 10, "all 20 pairs are of different people; add pairs of one person"),
        ([True] * 25, 10, "all 25 pairs are of one person"),
        (alternating(25), 0, "25 pairs cannot be 0 equal folds"),
    ],
)
def test_a_list_and_a_bin_file_follow_one_rule(tmp_path, write_tree, kind, same, folds, message):
    if kind == "bin":
        place = tmp_path / "x.bin"
        place.write_bytes(pickle.dumps(([b"x"] * 2 * len(same), same)))
        specification = f"mine={place}"
    else:
        place = tmp_path / "pairs.csv"
        place.write_text("".join(f"a/{n},a/{n + 1},{int(each)}\n" for n, each in enumerate(same)))
        specification = f"mine={write_tree(tmp_path / 'faces', {'a': len(same) + 1})}+{place}"
    if message is None:
        pairs = open_set(specification, folds).pairs
        assert (pairs.num_folds, pairs.same.tolist()) == (folds, same)
    else:
        with pytest.raises(InputError, match=f"{place.name}: {message}"):
            open_set(specification, folds)


def test_a_bin_file_needs_folds(tmp_path):
    (tmp_path / "x.bin").write_bytes(pickle.dumps(([b"x"] * 8, alternating(4))))
    with pytest.raises(InputError, match=r"x\.bin: does not tell who is who, so it needs 2 folds"):
        open_set(str(tmp_path / "x.bin"), 1)


class Exploit:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "attack",
    [
        Exploit(os.system, "touch hacked"),
        Exploit(eval, "__import__('os').system('touch hacked')"),
        Exploit(exec, "open('hacked', 'w')"),
        Exploit(getattr, "x", "upper"),
        Exploit(np.load, "hacked.npy"),
        Exploit(io.open, "hacked", "w"),
        np.zeros(3, np.float32),
        np.array([None, 1], object),
        np.int64(3),
        {"a": 1},
    ],
    ids=["system", "eval", "exec", "getattr", "load", "open", "floats", "objects", "int64", "dict"],
)
def test_nothing_but_images_and_booleans_is_built_or_run(tmp_path, monkeypatch, attack):
    monkeypatch.chdir(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for content in (([attack, b"x"], [True]), ([b"x", b"x"], [attack]), attack):
            (tmp_path / "x.bin").write_bytes(pickle.dumps(content, protocol=protocol))
            with pytest.raises(InputError, match=r"x\.bin"):
                BinSource(tmp_path / "x.bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.bin"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a verification set of images and booleans"),
        (b"\x80\x04", "not a verification set of images and booleans"),
        (b"r\xff\xff\xff\x7f.", "it asks for more memory than the file could fill"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "it asks for more memory than the file could fill"),
        (
            b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",
            "not a verification set of images and booleans",
        ),
        (b"cnumpy.core.multiarray\nscalar\n}(U\x01aU\x01bub.", "it changes a function"),
        (pickle.dumps(([b"a"], [True])), "1 image for 1 pair"),
        (
            2 * pickle.dumps(([b"a", b"b"], [True])),
            r"x\.bin: \d\d bytes follow the images and pairs",
        ),
        (pickle.dumps(([b"a", b"b"], [True])) + b"\0", r"x\.bin: 1 byte follows the images"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps(([b"a", "b"], [True])), "image 1: is no encoded image; remove it"),
        (pickle.dumps(([b"a", b"b"], ["yes"])), "pair 0: does not say whether it is one person"),
        (pickle.dumps([b"a", b"b"]), "a list of images and a list of booleans are due"),
    ],
)
def test_a_damaged_bin_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(InputError, match=message):
        BinSource(tmp_path / "x.bin")


def test_a_missing_bin_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot read this file"):
        BinSource(tmp_path / "x.bin")
