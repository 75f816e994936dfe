import io
import os
import pickle

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.folder import FolderSource
from arcface_jax.data.open import open_source
from arcface_jax.data.verification_sets import BinSource, read_lfw_pairs, read_pair_list
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
@pytest.mark.parametrize("same", [SAME, [np.bool_(value) for value in SAME]], ids=["bool", "np.bool"])
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
    # What Python 2's cPickle wrote: byte strings by the opcodes SHORT_BINSTRING and BINSTRING, old numpy module names.
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


def test_ten_folds_where_the_length_allows(tmp_path):
    for pairs, folds in ((20, 10), (15, 1)):
        (tmp_path / "x.bin").write_bytes(pickle.dumps(([b"x"] * 2 * pairs, [True] * pairs)))
        assert BinSource(tmp_path / "x.bin").pairs.num_folds == folds


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
    ids=lambda value: repr(getattr(value, "call", value))[:40],
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
        (b"r\xff\xff\xff\x7f.", "memo number 2147483647 is absurd"),
        (b"\x80\x02]r\xff\xff\xff\x7f.", "memo number 2147483647 is absurd"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "not a verification set of images and booleans"),
        (b"cnumpy.core.multiarray\nscalar\n}(U\x01aU\x01bub.", "it changes a function"),
        (pickle.dumps(([b"a"], [True])), "1 images for 1 pairs"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps(([b"a", "b"], [True])), "image 1: of type str"),
        (pickle.dumps(([b"a", b"b"], ["yes"])), "pair 0: of type str"),
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


@pytest.fixture
def lfw(tmp_path, picture):
    for number, name in enumerate(("Ann_Lee", "Bo", "Cy")):
        for index in (1, 2, 11):
            path = tmp_path / "lfw" / name / f"{name}_{index:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(picture(10 * number + index)))
    return tmp_path


def test_lfw_pairs(lfw):
    source = FolderSource(lfw)
    name = {index: source.path(index).rsplit("/", 1)[1] for index in range(len(source))}
    (lfw / "pairs.txt").write_text(
        "2\t1\nAnn_Lee\t1\t11\nAnn_Lee\t2\tBo\t1\nCy\t2\t1\nCy\t1\tCy\t2\n".replace("Cy\t1\tCy", "Cy\t1\tBo")
    )
    pairs = read_lfw_pairs(lfw / "pairs.txt", source)
    assert [(name[a], name[b]) for a, b in zip(pairs.first, pairs.second, strict=True)] == [
        ("Ann_Lee_0001.jpg", "Ann_Lee_0011.jpg"),
        ("Ann_Lee_0002.jpg", "Bo_0001.jpg"),
        ("Cy_0002.jpg", "Cy_0001.jpg"),
        ("Cy_0001.jpg", "Bo_0002.jpg"),
    ]
    np.testing.assert_array_equal(pairs.same, [True, False, True, False])
    assert pairs.num_folds == 2
    assert not pairs.disjoint_folds  # Bo is in both
    (lfw / "pairs.txt").write_text("1\nBo 1 2\nBo 1 Cy 1\n")
    pairs = read_lfw_pairs(lfw / "pairs.txt", source)
    assert (pairs.num_folds, pairs.disjoint_folds) == (1, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: the number of folds"),
        ("a b\n", "line 1: the number of folds"),
        ("1\t2\nBo\t1\t2\n", "1 pairs, but line 1 announces 1 folds of 2 · 2"),
        ("1\nBo 1 2\nBo 1\n", "line 3: 2 words"),
        ("1\nBo 1 2\nBo 1 Di 1\n", "line 3: the source has no image 'Di/Di_0001'"),
    ],
)
def test_bad_lfw_pairs_are_refused(lfw, text, message):
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_lfw_pairs(lfw / "pairs.txt", FolderSource(lfw))


@pytest.mark.parametrize("separator", [" ", "\t", ", "])
def test_a_list_of_three_columns(lfw, separator):
    source = FolderSource(lfw)
    rows = [("lfw/Bo/Bo_0001.jpg", "lfw/Bo/Bo_0002", "1"), ("lfw/Bo/Bo_0001.jpg", "lfw/Cy/Cy_0011.jpg", "0")]
    (lfw / "pairs.csv").write_text("\n".join(separator.join(row) for row in rows))
    pairs = read_pair_list(lfw / "pairs.csv", source)
    assert [source.path(int(index)) for index in pairs.second] == ["lfw/Bo/Bo_0002.jpg", "lfw/Cy/Cy_0011.jpg"]
    np.testing.assert_array_equal(pairs.same, [True, False])
    assert read_pair_list(lfw / "pairs.csv", source, num_folds=2).num_folds == 2
    with pytest.raises(InputError, match="2 pairs cannot be 3 equal folds"):
        read_pair_list(lfw / "pairs.csv", source, num_folds=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "line 1: path, path, 0 or 1 is due"),
        ("lfw/Bo/Bo_0001 lfw/Bo/Bo_0002 2\n", "line 1: path, path, 0 or 1 is due"),
        ("lfw/Bo/Bo_0001 lfw/Bo/Bo_0003 1\n", "line 1: the source has no image 'lfw/Bo/Bo_0003'"),
        ("", "0 pairs cannot be 1 equal folds"),
    ],
)
def test_bad_lists_of_three_columns_are_refused(lfw, text, message):
    (lfw / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_pair_list(lfw / "pairs.txt", FolderSource(lfw))


def test_an_ambiguous_name_is_refused(lfw, picture):
    (lfw / "copy" / "Bo").mkdir(parents=True)
    (lfw / "copy" / "Bo" / "Bo_0001.png").write_bytes(encode_png(picture(0)))
    (lfw / "pairs.txt").write_text("1\nBo 1 2\nBo 1 Cy 1\n")
    with pytest.raises(InputError, match="line 2: the source has more than one image Bo/Bo_0001"):
        read_lfw_pairs(lfw / "pairs.txt", FolderSource(lfw))
