import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.folder import FolderSource
from arcface_jax.data.pair_lists import read_lfw_pairs, read_pair_list
from arcface_jax.errors import InputError


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
