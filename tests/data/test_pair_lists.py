import re

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.pair_lists import (
    cfp_labels,
    read_cfp_pairs,
    read_lfw_pairs,
    read_pair_list,
    read_ytf_splits,
)
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError
from arcface_jax.evaluation.angle_statistics import class_centres
from arcface_jax.evaluation.verification import verify_pairs


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
        "2\t1\nAnn_Lee\t1\t11\nAnn_Lee\t2\tBo\t1\nCy\t2\t1\nCy\t1\tCy\t2\n".replace(
            "Cy\t1\tCy", "Cy\t1\tBo"
        )
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
        ("1\t2\nBo\t1\t2\n", "1 pair, but line 1 announces 1 fold of 2 · 2"),
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
    rows = [
        ("lfw/Bo/Bo_0001.jpg", "lfw/Bo/Bo_0002", "1"),
        ("lfw/Bo/Bo_0001.jpg", "lfw/Cy/Cy_0011.jpg", "0"),
    ]
    (lfw / "pairs.csv").write_text("\n".join(separator.join(row) for row in rows))
    pairs = read_pair_list(lfw / "pairs.csv", source)
    assert [source.path(int(index)) for index in pairs.second] == [
        "lfw/Bo/Bo_0002.jpg",
        "lfw/Cy/Cy_0011.jpg",
    ]
    np.testing.assert_array_equal(pairs.same, [True, False])
    assert read_pair_list(lfw / "pairs.csv", source, num_folds=2).num_folds == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b\n", "line 1: path, path, 0 or 1 is due"),
        ("lfw/Bo/Bo_0001 lfw/Bo/Bo_0002 2\n", "line 1: path, path, 0 or 1 is due"),
        ("lfw/Bo/Bo_0001 lfw/Bo/Bo_0003 1\n", "line 1: the source has no image 'lfw/Bo/Bo_0003'"),
        ("", "no pairs in it"),
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


@pytest.fixture
def people(tmp_path, write_tree):
    return FolderSource(write_tree(tmp_path / "people", {"ann": 4, "bob": 4}))


CONTRARY = "called same of two identities"


@pytest.mark.parametrize(
    ("text", "warned"),
    [
        ("ann/0 ann/1 1\nann/0 bob/0 0\n", []),
        (
            "ann/0 ann/1 1\nann/0 ann/1 1\nann/1 ann/0 1\nann/0 ann/1 1\nann/0 bob/0 0\n",
            [r"in the list before \(2 with the images swapped\): 3 of 5, the first is .* line 2; "],
        ),
        (
            "ann/0 ann/0.png 1\nann/0 bob/0 0\n",
            ["one image with itself: 1 of 2, .* line 1; they c"],
        ),
        (
            "ann/0 bob/0 1\nann/0 ann/1 0\nann/1 ann/2 1\nann/2 bob/1 1\n",
            [rf"of their images \(2 {CONTRARY}, 1 called different of one\): 3 of 4, the"],
        ),
    ],
)
def test_what_is_strange_in_a_list_of_pairs_is_said(people, tmp_path, caplog, text, warned):
    (tmp_path / "pairs.txt").write_text(text)
    pairs = read_pair_list(tmp_path / "pairs.txt", people)
    assert len(pairs) == text.count("\n")
    assert len(caplog.messages) == len(warned)
    for message, pattern in zip(caplog.messages, warned, strict=True):
        assert re.search(rf"^\S*pairs\.txt: pairs .*{pattern}", message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ann/0 ann/1 1\nann/2 ann/3 1\nann/0 ann/1 0\n", r"3: calls a pair different .* line 1;"),
        ("ann/0 bob/1 0\nbob/1 ann/0.png 1\n", r"2: calls a pair same that is different in .* 1;"),
        ("ann/0 ann/1 1\nann/0 ann/0 0\n", "2: is of one image with itself, and called different"),
    ],
)
def test_pairs_that_contradict_each_other_are_refused(people, tmp_path, text, message):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError, match=rf"pairs\.txt line {message}"):
        read_pair_list(tmp_path / "pairs.txt", people)


def test_other_lists_of_pairs_are_checked_too(lfw, caplog):
    source = FolderSource(lfw)
    for text, message in (
        ("1\nBo 1 2\nBo 1 Bo 2\n", "line 3: 'Bo 1 Bo 2' would be of different people, and the nam"),
        ("1\nBo 1 2\nCy 1 Cy 1\n", "line 3: 'Cy 1 Cy 1' would be of different"),
    ):
        (lfw / "pairs.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_lfw_pairs(lfw / "pairs.txt", source)
    (lfw / "pairs.txt").write_text("1\nBo 1 1\nBo 1 Cy 1\n")
    read_lfw_pairs(lfw / "pairs.txt", source)
    assert "pairs of one image with itself: 1 of 2" in caplog.text
    (lfw / "splits.txt").write_text("1, Bo/1, Cy/0, 0\n1, Cy/0, Bo/1, 1\n")
    with pytest.raises(
        InputError, match=r"splits\.txt line 2: calls a pair same that is different"
    ):
        read_ytf_splits(lfw / "splits.txt", VIDEOS)


@pytest.mark.parametrize(
    ("files", "listed", "found"),
    [
        (["1.jpg", "1.jpg.png"], "1.jpg", "1.jpg"),
        (["1.jpg", "1.jpg.png"], "1.jpg.png", "1.jpg.png"),
        (["1.jpg", "1.jpg.png"], "1", "1.jpg"),
        (["1.jpg.png", "1.png"], "1.jpg", "1.jpg.png"),
        (["1.jpg", "1.png"], "1.jpg", "1.jpg"),
        (["1.jpg", "1.png"], "1.png", "1.png"),
        (["1.jpg", "1.png"], "1", None),
        (["1.jpg", "1.png"], "1.bmp", None),
        (["1.png"], "1.jpg", "1.png"),
        (["1.png"], "1.JPEG", "1.png"),
        (["1.png"], "1.heic", "1.png"),
        (["1.png"], "1.0", ""),
        (["J.Lo.png", "J.png"], "J.Lo", "J.Lo.png"),
        (["J.png"], "J.Lo", ""),
        (["1.0.png", "1.1.png"], "1.1", "1.1.png"),
    ],
)
def test_the_image_of_the_listed_name_comes_first(tmp_path, picture, files, listed, found):
    (tmp_path / "set" / "ann").mkdir(parents=True)
    for file in [*files, "z.png"]:
        (tmp_path / "set" / "ann" / file).write_bytes(encode_png(picture(0)))
    source = FolderSource(tmp_path / "set")
    (tmp_path / "pairs.csv").write_text(f"ann/{listed},ann/z.png,1\n")
    if found:
        pairs = read_pair_list(tmp_path / "pairs.csv", source)
        assert source.path(int(pairs.first[0])) == f"ann/{found}"
    else:
        message = "has no image" if found == "" else "has more than one image ann/1"
        with pytest.raises(InputError, match=message):
            read_pair_list(tmp_path / "pairs.csv", source)


@pytest.fixture
def cfp(tmp_path, picture):
    """Four people with two frontal and two profile images, and two folds of two same and two
    different pairs.
    """
    numbers = {"frontal": 2, "profile": 2}
    protocol = tmp_path / "Protocol"
    protocol.mkdir()
    for kind, letter in (("frontal", "F"), ("profile", "P")):
        lines = []
        for person in range(1, 5):
            for image in range(1, numbers[kind] + 1):
                path = tmp_path / "Data" / "Images" / f"{person:03d}" / kind / f"{image:02d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(picture(person)))
                lines.append(f"{len(lines) + 1} ../Data/Images/{person:03d}/{kind}/{image:02d}.jpg")
        (protocol / f"Pair_list_{letter}.txt").write_text("\r\n".join(lines))
    for kinds in ("FF", "FP"):
        for fold, (same, different) in {
            "01": ("1,2\n3,4\n", "1,3\n2,4\n"),
            "02": ("5,6\n7,8", "5,7\n6,8"),
        }.items():
            folder = protocol / "Split" / kinds / fold
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same)
            (folder / "diff.txt").write_text(different)
    return tmp_path


def test_cfp_pairs(cfp, monkeypatch):
    source = FolderSource(cfp / "Data")
    monkeypatch.chdir(cfp / "Protocol" / "Split")
    assert read_cfp_pairs("FP", source).num_folds == 2
    for kinds, second_kind in (("FF", "frontal"), ("FP", "profile")):
        pairs = read_cfp_pairs(cfp / "Protocol" / "Split" / kinds, source)
        listed = [(1, 2), (3, 4), (1, 3), (2, 4), (5, 6), (7, 8), (5, 7), (6, 8)]

        def name(number, kind):
            return f"Images/{(number + 1) // 2:03d}/{kind}/{2 - number % 2:02d}.png"

        assert [
            (source.path(int(i)), source.path(int(j)))
            for i, j in zip(pairs.first, pairs.second, strict=True)
        ] == [(name(i, "frontal"), name(j, second_kind)) for i, j in listed]
        np.testing.assert_array_equal(pairs.same, [True, True, False, False] * 2)
        assert (pairs.num_folds, pairs.disjoint_folds) == (2, True)
        labels = cfp_labels(source)
        np.testing.assert_array_equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    np.testing.assert_array_equal(labels, np.repeat(np.arange(4), 4))


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/02/same.txt", "5,6\n7 8", r"same\.txt line 2: number,number is due, got '7 8'"),
        (
            "Split/FP/02/same.txt",
            "5,6\n7,9",
            r"same\.txt line 2: Pair_list_P\.txt has no image '9'",
        ),
        (
            "Split/FP/02/diff.txt",
            "x,7\n6,8",
            r"diff\.txt line 1: Pair_list_F\.txt has no image 'x'",
        ),
        ("Split/FP/02/diff.txt", "5,7", "FP: folds of 3 and 4 pairs; equal ones are due"),
        (
            "Pair_list_P.txt",
            "1 a/b/c.jpg\n2",
            r"Pair_list_P\.txt line 2: number path is due, got '2'",
        ),
        (
            "Pair_list_P.txt",
            "1 a/b/c.jpg\n01 a/b/d.jpg",
            r"line 2: image 1 is already on .*Pair_list_P\.txt line 1",
        ),
        (
            "Pair_list_P.txt",
            "1 a.jpg\n2 a/b/c.jpg",
            r"Pair_list_P\.txt line 2: the source has no image 'a/b/c.jpg'",
        ),
    ],
)
def test_bad_cfp_lists_are_refused(cfp, file, text, message):
    (cfp / "Protocol" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_cfp_pairs(cfp / "Protocol" / "Split" / "FP", FolderSource(cfp / "Data"))


def test_missing_parts_of_cfp_are_named(cfp):
    source, split = FolderSource(cfp / "Data"), cfp / "Protocol" / "Split" / "FP"
    with pytest.raises(InputError, match="Split: the protocol's folder FF or FP is due"):
        read_cfp_pairs(split.parent, source)
    (split / "01" / "diff.txt").unlink()
    with pytest.raises(InputError, match=r"01/diff\.txt: cannot read this list"):
        read_cfp_pairs(split, source)
    (split / "extra").mkdir()
    with pytest.raises(InputError, match=r"FP: folders 01, 02 … of folds are due, got extra"):
        read_cfp_pairs(split, source)
    with pytest.raises(InputError, match="fp: cannot read this folder"):
        read_cfp_pairs(cfp / "Protocol" / "Split" / "fp", source)


VIDEOS = ["Ann_Lee/0", "Ann_Lee/3", "Bo/1", "Cy/0", "Cy/1", "Cy/5"]


def test_ytf_splits(tmp_path):
    (tmp_path / "splits.txt").write_text(
        "split, first, second, same, more\n2, Cy/0, Cy/5, 1, x\n1, Ann_Lee/0, Ann_Lee/3, 1\n"
        "1, Ann_Lee/3, Bo/1, 0\n2,Cy/1,Bo/1,0\n"
    )
    pairs = read_ytf_splits(tmp_path / "splits.txt", VIDEOS)
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 1, 3, 4], [1, 2, 5, 2])
    np.testing.assert_array_equal(pairs.same, [True, False, True, False])
    assert (pairs.num_folds, pairs.disjoint_folds) == (2, False)  # Bo is in both
    deeper = read_ytf_splits(tmp_path / "splits.txt", [f"frames/{video}" for video in VIDEOS])
    np.testing.assert_array_equal(deeper.second, pairs.second)


def test_ytf_videos_are_compared_by_the_centres_of_their_frames(tmp_path, picture):
    random = np.random.default_rng(0)
    people = {name: random.normal(size=8) for name in ("Ann_Lee", "Bo", "Cy", "Di")}
    lines = ["split, first, second, same"]
    for split, (one, two) in enumerate((("Ann_Lee", "Bo"), ("Cy", "Di")), 1):
        lines += [f"{split}, {name}/0, {name}/2, 1" for name in (one, two)]
        lines += [f"{split}, {one}/{video}, {two}/{video}, 0" for video in (0, 2)]
    (tmp_path / "splits.txt").write_text("\n".join(lines))
    for name in people:
        for video in (0, 2):
            for frame in range(3):
                path = tmp_path / "frames" / name / str(video) / f"{frame}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encode_png(picture(0)))
    source = FolderSource(tmp_path / "frames")
    embeddings = np.stack(
        [people[source.path(index).split("/")[0]] for index in range(len(source))]
    )
    embeddings += 0.1 * random.normal(size=embeddings.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    videos = class_centres(embeddings, source.labels, len(source.identity_names))
    pairs = read_ytf_splits(tmp_path / "splits.txt", source.identity_names)
    assert pairs.disjoint_folds
    result = verify_pairs(
        videos[pairs.first], videos[pairs.second], pairs.same, folds=pairs.num_folds
    )
    assert result.accuracy == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"splits\.txt: splits of equal length are due, got no pairs"),
        (
            "split, a, b, same\n1, Bo/1, Cy/0\n",
            "line 2: split, video, video, 0 or 1 is due, got '1, Bo/1, Cy/0'",
        ),
        ("split, a, b, same\n1, Bo/1, Cy/0, yes\n", "line 2: split, video, video, 0 or 1 is due"),
        ("split, a, b, same\nx, Bo/1, Cy/0, 0\n", "line 2: split, video, video, 0 or 1 is due"),
        ("split, a, b, same\n1, Bo/1, Cy/2, 0\n", "line 2: the source has no video 'Cy/2'"),
        (
            "split, a, b, same\n1, Bo/1, Cy/1, 0\n1, Cy/0, Cy/1, 1\n2, Bo/1, Cy/0, 0\n",
            "equal length are due, got 2 pairs in split 1, 1 pair in split 2",
        ),
    ],
)
def test_bad_ytf_splits_are_refused(tmp_path, text, message):
    (tmp_path / "splits.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_ytf_splits(tmp_path / "splits.txt", VIDEOS)


@pytest.mark.parametrize("listed", [".", "/"])
def test_a_path_without_a_name_is_not_there(lfw, listed):
    (lfw / "pairs.txt").write_text(f"{listed} lfw/Bo/Bo_0001 1\n")
    with pytest.raises(InputError, match="line 1: the source has no image"):
        read_pair_list(lfw / "pairs.txt", FolderSource(lfw))
