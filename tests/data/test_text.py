"""Every list as people have it on disk: encodings, line ends, separators, names of columns."""

import os
import unicodedata

import numpy as np
import pytest

from arcface_jax.data.decode import encode_png
from arcface_jax.data.landmarks import by_path, read_landmarks
from arcface_jax.data.open import open_set, open_source
from arcface_jax.data.pair_lists import (
    read_cfp_pairs,
    read_lfw_pairs,
    read_pair_list,
    read_ytf_splits,
)
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.lists import ListSource, read_lst
from arcface_jax.data.text import read_lines, read_rows
from arcface_jax.errors import InputError
from arcface_jax.evaluation.ijb import (
    read_face_media,
    read_ijb_landmarks,
    read_template_matches,
    read_template_pairs,
    read_template_subjects,
)

ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.fixture(scope="module")
def faces(tmp_path_factory, picture):
    """Two people with two images each, one with a blank and one with an accent in its name."""
    root = tmp_path_factory.mktemp("faces")
    for number, name in enumerate(("Bo Li/Bo Li_0001", "Bo Li/Bo Li_0002", "Zoé/Zoé_0001")):
        path = root / f"{unicodedata.normalize('NFC', name)}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(picture(number)))
    return root


def pairs_of(pairs):
    return [*zip(pairs.first.tolist(), pairs.second.tolist(), pairs.same.tolist(), strict=True)]


def listed(path, faces):
    source = ListSource(path, faces)
    return [(source.path(i), source.identity_names[source.labels[i]]) for i in range(len(source))]


POINTS = [str(value) for value in range(10)]
# name: (rows, reader of (path, faces), what it gives)
READERS = {
    "list.csv": (
        [["Bo Li/Bo Li_0001.png", "7"], ["Zoé/Zoé_0001.png", "10"]],
        listed,
        [("Bo Li/Bo Li_0001.png", "7"), ("Zoé/Zoé_0001.png", "10")],
    ),
    "insightface.lst": (
        [["1", "Bo Li/Bo Li_0001.png", "7"], ["1", "Zoé/Zoé_0001.png", "10"]],
        listed,
        [("Bo Li/Bo Li_0001.png", "7"), ("Zoé/Zoé_0001.png", "10")],
    ),
    "im2rec.lst": (
        [["5", "7.000000", "Bo Li/Bo Li_0001.png"], ["4", "10.0", "Zoé/Zoé_0001.png"]],
        listed,
        [("Bo Li/Bo Li_0001.png", "7"), ("Zoé/Zoé_0001.png", "10")],
    ),
    "im2rec.txt": (
        [["5", "7.0", "31.5", "Bo Li/Bo Li_0001.png"], ["4", "10", "2", "Zoé/Zoé_0001.png"]],
        listed,
        [("Bo Li/Bo Li_0001.png", "7"), ("Zoé/Zoé_0001.png", "10")],
    ),
    "pairs.txt": (
        [["1", "1"], ["Bo Li", "1", "2"], ["Bo Li", "2", "Zoé", "1"]],
        lambda path, faces: pairs_of(read_lfw_pairs(path, FolderSource(faces))),
        [(0, 1, True), (1, 2, False)],
    ),
    "pairs.csv": (
        [
            ["Bo Li/Bo Li_0001.png", "Bo Li/Bo Li_0002", "1"],
            ["Bo Li/Bo Li_0002.png", "./Zoé/Zoé_0001", "False"],
        ],
        lambda path, faces: pairs_of(read_pair_list(path, FolderSource(faces))),
        [(0, 1, True), (1, 2, False)],
    ),
    "splits.txt": (
        [["1", "Bo Li/0", "Bo Li/1", "1"], ["1", "Bo Li/0", "Zoé/0", "0"]],
        lambda path, _: pairs_of(read_ytf_splits(path, ["Bo Li/0", "Bo Li/1", "Zoé/0"])),
        [(0, 1, True), (0, 2, False)],
    ),
    "landmarks.txt": (
        [["Bo Li/Bo Li_0001.png", *POINTS], ["Zoé/Zoé_0001.png", *POINTS]],
        lambda path, _: {name: points.tolist() for name, points in read_landmarks(path).items()},
        dict.fromkeys(
            ["Bo Li/Bo Li_0001.png", "Zoé/Zoé_0001.png"], np.arange(10.0).reshape(5, 2).tolist()
        ),
    ),
    "ijbc_face_tid_mid.txt": (
        [["Zoé 1.jpg", "1", "69544"], ["2.jpg", "7", "12"]],
        lambda path, _: (lambda f: (f.names, f.template_ids.tolist()))(read_face_media(path)),
        (["Zoé 1.jpg", "2.jpg"], [1, 7]),
    ),
    "ijbc_template_pair_label.txt": (
        [["1", "11065", "1"], ["1", "11066", "0"]],
        lambda path, _: pairs_of(read_template_pairs(path)),
        [(1, 11065, True), (1, 11066, False)],
    ),
    "ijbc_name_5pts_score.txt": (
        [["1.jpg", *POINTS, "0.5"]],
        lambda path, _: read_ijb_landmarks(path).scores.tolist(),
        [0.5],
    ),
    "ijbc_11_G1_G2_matches.csv": (
        [["1", "9"], ["2", "8"]],
        lambda path, _: [column.tolist() for column in read_template_matches(path)],
        [[1, 2], [9, 8]],
    ),
    "ijbc_1N_gallery_G1.csv": (
        [["TEMPLATE_ID", "SUBJECT_ID", "FILENAME"], ["5", "70", "Zoé.png"], ["2", "71", "b.png"]],
        lambda path, _: read_template_subjects(path).subject_ids.tolist(),
        [70, 71],
    ),
}  # fmt: skip
# Names with blanks in several columns need a separator that is not a blank.
SPACED = {name for name, (rows, _, _) in READERS.items() if " " in "".join(map("".join, rows))}

BY_SPACES = ("list.csv", "landmarks.txt", "ijbc_face_tid_mid.txt")


@pytest.mark.parametrize("name", READERS)
def test_every_list_in_every_dress(tmp_path, faces, name):
    rows, read, due = READERS[name]
    path = tmp_path / name

    def check(separator="\t", encoding="utf-8", end="\n", blank="", form="NFC"):
        text = end.join(separator.join(row) + blank for row in rows) + end
        path.write_bytes(unicodedata.normalize(form, text).encode(encoding))
        assert repr(read(path, faces)) == repr(due), (separator, encoding, end, blank, form)

    for encoding in ENCODINGS:
        check(encoding=encoding)
        check(",", encoding, "\r\n")
    for end in ("\r\n", "\r", "\n\n", "\n \n"):
        check(end=end)
    for separator in (",", ";", ", "):
        check(separator)
    if name not in SPACED or name in BY_SPACES:
        check(" ")
        check("  ", blank="  ")
    check(blank=" ")
    if name != "ijbc_face_tid_mid.txt":  # which gives names as they are
        check(form="NFD")
        check(encoding="utf-16", form="NFD")


HEADINGS = {
    "list.csv": ["path,identity", "x,Path,y,Identity", "filename,label", "file;class", "image\tid"],
    "pairs.csv": ["path1,path2,same", "left image,right image,same", "a\tb\tlabel"],
    "landmarks.txt": [
        "name,lx,ly,rx,ry,nx,ny,mlx,mly,mrx,mry",
        "NAME_ID,P1X,P1Y,P2X,P2Y,P3X,P3Y,P4X,P4Y,P5X,P5Y",
        "2",
        "2\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y "
        "rightmouth_x rightmouth_y",
    ],
    "splits.txt": ["split, first, second, same", "split number, first name, second name, is same?"],
    "ijbc_face_tid_mid.txt": ["name tid mid"],
    "ijbc_template_pair_label.txt": ["first second label"],
    "ijbc_11_G1_G2_matches.csv": ["ENROLL_TEMPLATE_ID,VERIF_TEMPLATE_ID"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "heading"), [(name, line) for name, lines in HEADINGS.items() for line in lines]
)
def test_a_first_line_may_name_the_columns(tmp_path, faces, name, heading):
    rows, read, due = READERS[name]
    separator = next((mark for mark in "\t,;" if mark in heading), " ")
    if "Path" in heading:  # other columns in another order
        rows = [["x", path, "", who] for path, who in rows]
    lines = [heading, *(separator.join(row) for row in rows)]
    (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
    assert repr(read(tmp_path / name, faces)) == repr(due)


def test_cfp_and_lists_of_windows(tmp_path, faces, picture):
    for name in ("001/frontal", "001/profile", "002/profile"):
        path = tmp_path / "Data" / name / "01.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_png(picture(0)))
    protocol = tmp_path / "Protocol"
    for fold in ("01", "02"):
        (protocol / "Split" / "FP" / fold).mkdir(parents=True)
        for name, line in (("same.txt", "1,1\r\n"), ("diff.txt", "1,2\r\n")):
            (protocol / "Split" / "FP" / fold / name).write_text(line, encoding="utf-8-sig")
    for kind, folder in (("F", "frontal"), ("P", "profile")):
        (protocol / f"Pair_list_{kind}.txt").write_text(
            f"1 ..\\Data\\Images\\001\\{folder}\\01.jpg\r\n"
            f"2 ..\\Data\\Images\\002\\{folder}\\01.jpg\r\n",
            encoding="utf-16",
        )
    pairs = read_cfp_pairs(protocol / "Split" / "FP", FolderSource(tmp_path / "Data"))
    assert pairs_of(pairs) == [(0, 1, True), (0, 2, False)] * 2
    (tmp_path / "w.csv").write_text(".\\Bo Li\\Bo Li_0001.png,1\r\nBo Li\\Bo Li_0002.png,2\r\n")
    assert listed(tmp_path / "w.csv", faces) == [
        ("Bo Li/Bo Li_0001.png", "1"),
        ("Bo Li/Bo Li_0002.png", "2"),
    ]


def test_a_root_of_decomposed_names(tmp_path, faces, picture):
    for name in ("Zoé/1.png", "Ann/1.png"):
        path = tmp_path / "mac" / unicodedata.normalize("NFD", name)
        path.parent.mkdir(parents=True)
        path.write_bytes(encode_png(picture(len(name))))
    (tmp_path / "list.csv").write_text("Ann/1.png,a\nZoé/1.png,z\n", encoding="utf-8")
    source = ListSource(tmp_path / "list.csv", tmp_path / "mac")
    np.testing.assert_array_equal(source[1], picture(9))
    points = " ".join(POINTS)
    (tmp_path / "l.txt").write_text(f"Zoé/1 {points}\nAnn/1 {points}\n", encoding="utf-8")
    found = by_path(FolderSource(tmp_path / "mac"), read_landmarks(tmp_path / "l.txt"))
    assert found.shape == (2, 5, 2)
    (tmp_path / "pairs.csv").write_text("Zoé/1.png,Ann/1.png,0\n", encoding="utf-8")
    pairs = read_pair_list(tmp_path / "pairs.csv", FolderSource(tmp_path / "mac"))
    assert pairs_of(pairs) == [(1, 0, False)]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("x.csv", "Bo Li/Bo Li_0001.png,.7\n", r"line 1: label '\.7'; a whole number from 0"),
        ("x.csv", "Bo Li/Bo Li_0001.png,1\n\nZoé/Zoé_0001.png,-1\n", "line 3: label '-1'; a whole"),
        ("x.csv", "Bo Li/Bo Li_0001.png,1\nZoé/Zoé_0001.png,\n", "line 2: no identity"),
        ("x.csv", "Bo Li/Bo Li_0001.png,1\nZoé/Zoé_0001.png\n", "line 2: 1 column"),
        ("x.csv", "Bo Li/Bo Li_0001.png,1\nBo Li/Bo Li_0001.png,2\n", "line 2: .* of '2' here"),
        ("x.csv", "foto,persona\nBo Li/Bo Li_0001.png,1\n", "are called 'foto persona'"),
        ("x.csv", "a/b.png,1\nc/d.png,2\n", "line 1: .*a/b.png is not there"),
        ("x.csv", "C:\\faces\\a.png,1\n", "line 1: 'C:/faces/a.png' is not below"),
        ("x.csv", '"a.png,1\nb.png,2\n', "line 1: has a quote"),
        ("x.csv", "a.png,1\nb\0.png,2\n", "line 2: not text; save it as UTF-8"),
        ("x.lst", "1\tBo Li/Bo Li_0001.png\t0.7\n", r"line 1: label '0\.7'"),
        ("x.lst", "1\tBo Li/Bo Li_0001.png\t-1\n", "line 1: label '-1'"),
        ("x.lst", "1\tBo Li/Bo Li_0001.png\t\n", "line 1: label ''"),
        ("x.lst", "1\tBo Li/Bo Li_0001.png\tnan\n", "line 1: label 'nan'"),
        ("x.lst", "5\tBo Li/Bo Li_0001.png\t1\n", "line 1: aligned is '5'; 0 or 1 is due"),
        ("x.lst", "0\t1.0\tBo Li/Bo Li_0001.png\n1\t-1.0\tZoé/Zoé_0001.png\n", "line 2: label '-1"),
        ("x.lst", "0\t1.0\tBo Li/Bo Li_0001.png\nx\t1.0\tb.png\n", "line 2: 'x 1.0 b.png'; key"),
        ("x.lst", "0\t0.5\t1\tBo Li/Bo Li_0001.png\n", r"line 1: label '0\.5'"),
    ],
)  # fmt: skip
def test_a_bad_line_of_a_list_is_named(tmp_path, faces, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        ListSource(tmp_path / name, faces)


@pytest.fixture
def ann_and_bob(tmp_path, write_tree):
    return write_tree(tmp_path / "set", {"ann": 2, "bob": 1})


def write_columns(path, names, columns, separator=","):
    """A list with a line of names, where there are any, and the columns one below the other."""
    rows = [*([names] if names else []), *zip(*columns, strict=True)]
    path.write_text("".join(f"{separator.join(row)}\n" for row in rows), encoding="utf-8")


IMAGES, WHO = ("ann/0.png", "ann/1.png", "bob/0.png"), ("ann", "ann", "bob")
OF_WHO, OF_NUMBERS = ["ann", "ann", "bob"], ["1", "1", "2"]


@pytest.mark.parametrize(
    ("names", "columns", "people", "remark"),
    [
        (
            ("id", "path", "name"),
            ("012", IMAGES, WHO),
            OF_WHO,
            "the column name; id could be it too",
        ),
        (
            ("id", "path", "name"),
            ("112", IMAGES, WHO),
            OF_WHO,
            "the column name; id could be it too",
        ),
        (("path", "id"), (IMAGES, "112"), OF_NUMBERS, None),
        (("id", "path"), ("012", IMAGES), list("012"), "id has another value in each of 3 lines"),
        (
            ("path", "label", "identity"),
            (IMAGES, "112", WHO),
            OF_WHO,
            "identity; label could be it",
        ),
        (("path", "label", "name"), (IMAGES, "112", "123"), OF_NUMBERS, "label; name could be it"),
        (
            ("path", "file", "class"),
            (IMAGES, "xyz", WHO),
            OF_WHO,
            "the path is of the column path; f",
        ),
        (("", "Image Path", "Person-ID"), ("012", IMAGES, WHO), OF_WHO, None),
        (("# path", "label"), (IMAGES, WHO), OF_WHO, None),
        (("#label", "path"), (WHO, IMAGES), OF_WHO, None),
        (("# by hand", ""), (IMAGES, WHO), OF_WHO, "left out: 1, the first is '# by hand'"),
        (("# foto", "persona"), (IMAGES, WHO), OF_WHO, "left out: 1, the first is '# foto pers"),
        (("#foto", "persona"), (IMAGES, WHO), OF_WHO, "left out: 1, the first is '#foto persona'"),
        (("#", "persona"), (IMAGES, WHO), OF_WHO, "left out: 1, the first is '# persona'"),
        (("##Path", "Subject"), (IMAGES, WHO), OF_WHO, None),
        (("# by hand\n# in May\n# path", "label"), (IMAGES, WHO), OF_WHO, "left out: 2, the first"),
        (("# by hand\n# in May\npath", "label"), (IMAGES, WHO), OF_WHO, "left out: 2, the first"),
        (("sep=,", ""), (IMAGES, WHO), OF_WHO, None),
        (None, (IMAGES, WHO, ("", "", "")), OF_WHO, None),
        (None, ("012", "112", IMAGES), OF_NUMBERS, None),
        (("path", "identity", "split"), (IMAGES, WHO, ["", "", "x"]), OF_WHO, "no split: 2 of 3"),
    ],
)
def test_which_column_is_the_identity(tmp_path, ann_and_bob, names, columns, people, remark):
    write_columns(tmp_path / "x.csv", names, columns)
    source = ListSource(tmp_path / "x.csv", ann_and_bob)
    assert [source.path(index) for index in range(3)] == list(IMAGES)
    assert [source.identity_names[label] for label in source.labels] == people
    assert len(source.remarks) == (remark is not None)
    assert remark is None or remark in source.remarks[0]


@pytest.mark.parametrize(
    ("names", "columns", "message"),
    [
        (None, (IMAGES, "112", WHO), "line 1: 3 columns, and nothing says which is the identity"),
        (("path", "label", "class"), (IMAGES, "121", WHO), "columns label and class do not agree"),
        (("id", "path", "name"), ("122", IMAGES, WHO), "columns name and id do not agree on who"),
        (("path", "label", "Label"), (IMAGES, "112", "112"), "two columns are called 'label'"),
        (None, (WHO, IMAGES), "1: 'ann' is no image, but 'ann/0.png' is: the columns are swapped"),
        (("path", "identity"), (WHO, IMAGES), "2: 'ann' is no image, but .* columns are swapped"),
        (None, (IMAGES, IMAGES[::-1]), "1: 'bob/0.png' is an image too, and an identity is due"),
        (None, ((*IMAGES, "path"), (*WHO, "label")), "line 4: 'path label' names columns, as only"),
        (None, ((*IMAGES, "# path"), (*WHO, "label")), "line 4: '# path label' names columns"),
        (("path", "class"), ((*IMAGES, "path"), (*WHO, "class")), "line 5: 'path class' names col"),
        (("path", "class"), (("Li, Bo/1.png",), ("bo",)), "line 2: 3 columns, but 2 names of col"),
        (("path", "class", "split"), (IMAGES, WHO, "001"), "the splits 0, 1; give one of them, as"),
    ],
)
def test_columns_that_nothing_explains_are_refused(tmp_path, ann_and_bob, names, columns, message):
    write_columns(tmp_path / "x.csv", names, columns)
    with pytest.raises(InputError, match=message):
        ListSource(tmp_path / "x.csv", ann_and_bob)


@pytest.mark.parametrize("nobody", ["nan", "NaN", "NULL", "None", "N/A", "NA", "<NA>", "", "-1"])
@pytest.mark.parametrize("separator", [",", "\t"])
def test_nobody_is_no_identity(tmp_path, ann_and_bob, nobody, separator):
    write_columns(tmp_path / "x.csv", None, (IMAGES, ("Na", "Noneke", nobody)), separator)
    with pytest.raises(InputError, match=r"line 3: (no identity|the identity is|label '-1')"):
        ListSource(tmp_path / "x.csv", ann_and_bob)


@pytest.mark.parametrize("column", ["split", "Subset", "partition"])
def test_the_splits_of_a_list(tmp_path, ann_and_bob, column):
    names = ("path", "identity", column)
    write_columns(tmp_path / "x.csv", names, (IMAGES, WHO, ("train", "train", "test")))
    with pytest.raises(InputError, match=r"splits test, train; give one of them, as .*x\.csv:test"):
        open_source(tmp_path / "x.csv", ann_and_bob)
    source = open_source(f"{tmp_path / 'x.csv'}:train", ann_and_bob)
    assert [source.path(index) for index in range(len(source))] == ["ann/0.png", "ann/1.png"]
    assert source.identity_names == ["ann"]
    with pytest.raises(InputError, match="has no split 'val', but test, train"):
        open_source(f"{tmp_path / 'x.csv'}:val", ann_and_bob)


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize(("mark", "first"), [(";", "sep=;"), (",", '"sep=,"'), ("\t", "sep=\t")])
def test_the_separator_that_excel_declares(tmp_path, ann_and_bob, names, mark, first):
    write_columns(tmp_path / "y.csv", ("path", "label") if names else None, (IMAGES, WHO), mark)
    text = f"{first}\n{(tmp_path / 'y.csv').read_text()}"
    (tmp_path / "x.csv").write_text(text, encoding="utf-16")
    assert [who for _, who in listed(tmp_path / "x.csv", ann_and_bob)] == OF_WHO


@pytest.mark.parametrize("before", ["", "Bo Li/Bo Li_0001.png,1\n" * 20])
def test_a_list_in_another_encoding_than_its_files(tmp_path, faces, before):
    (tmp_path / "x.csv").write_bytes(before.encode() + "Zoé/Zoé_0001.png,2\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"is not there, and the line's text is not UTF-8; save"):
        ListSource(tmp_path / "x.csv", faces)
    (tmp_path / "x.csv").write_bytes("Bo Li/Bo Li_0001.png,Zoé\n".encode("latin-1"))
    (remark,) = ListSource(tmp_path / "x.csv", faces).remarks
    assert "identities whose text is not UTF-8: 1, the first in" in remark


def test_lists_that_were_joined(tmp_path, ann_and_bob):
    text = "\ufeffpath,identity\nann/0.png,ann\n\ufeffbob/0.png,bob\n"
    (tmp_path / "x.csv").write_text(text, encoding="utf-8")
    assert listed(tmp_path / "x.csv", ann_and_bob) == [("ann/0.png", "ann"), ("bob/0.png", "bob")]


@pytest.mark.parametrize(
    ("text", "people"),
    [
        ("path identity note\nann/0.png ann 1\nbob/0.png bob 2\n", ["ann", "bob"]),
        ("id path name\n1 ann/0.png ann\n2 bob/0.png bob\n", ["ann", "bob"]),
        ("# path label\nann/0.png ann\nbob/0.png bob\n", ["ann", "bob"]),
        ("# by hand\n# path label note\nann/0.png ann 1\nbob/0.png bob 2\n", ["ann", "bob"]),
        ("#foto persona\nann/0.png ann\nbob/0.png bob\n", ["ann", "bob"]),
        ("ann/0.png ann 1\nbob/0.png bob 2\n", None),
    ],
)
def test_columns_by_spaces(tmp_path, ann_and_bob, text, people):
    (tmp_path / "x.txt").write_text(text)
    if people is None:
        with pytest.raises(
            InputError, match=r"1: 'ann/0\.png ann 1' has more than path and identity"
        ):
            ListSource(tmp_path / "x.txt", ann_and_bob)
    else:
        assert [who for _, who in listed(tmp_path / "x.txt", ann_and_bob)] == people


@pytest.mark.parametrize("label", ["2", "-1", "0.7", "", "yes"])
def test_a_bad_label_of_a_pair_is_named(tmp_path, faces, label):
    text = f"Bo Li/Bo Li_0001\tBo Li/Bo Li_0002\t1\nBo Li/Bo Li_0001\tZoé/Zoé_0001\t{label}\n"
    (tmp_path / "pairs.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"pairs\.txt line 2: path, path, 0 or 1 is due"):
        read_pair_list(tmp_path / "pairs.txt", FolderSource(faces))


def test_landmarks_that_contradict_each_other(tmp_path):
    first, other = " ".join(POINTS), " ".join(POINTS[::-1])
    (tmp_path / "l.txt").write_text(f"a.jpg {first}\na.jpg {first}\n")
    assert len(read_landmarks(tmp_path / "l.txt")) == 1
    (tmp_path / "l.txt").write_text(f"3\na.jpg {first}\n")
    with pytest.raises(InputError, match="1 line of landmarks, but line 1 announces 3"):
        read_landmarks(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_text(f"a.jpg {first}\na.jpg {other}\n")
    with pytest.raises(InputError, match=r"line 2: a\.jpg has other landmarks in .*line 1"):
        read_landmarks(tmp_path / "l.txt")


def test_lines_that_name_an_image_again_are_counted(tmp_path, faces, caplog):
    (tmp_path / "x.csv").write_text("Bo Li/Bo Li_0001.png,1\n" * 3)
    source = ListSource(tmp_path / "x.csv", faces)
    (remark,) = source.remarks
    assert remark == f"{tmp_path / 'x.csv'}: 2 lines name an image that a line before names too"
    assert remark in caplog.text


def test_numbers_as_spreadsheets_write_them_are_one_identity(tmp_path, faces):
    (tmp_path / "x.csv").write_text("Bo Li/Bo Li_0001.png,5.0\nBo Li/Bo Li_0002.png,5\n")
    assert [who for _, who in listed(tmp_path / "x.csv", faces)] == ["5", "5"]


def test_the_root_of_a_list(tmp_path, faces):
    (tmp_path / "x.csv").write_text("Bo Li/Bo Li_0001.png,1\n")
    with pytest.raises(InputError, match=r"give the root of the paths .*--data\.list-root"):
        open_source(tmp_path / "x.csv")
    assert len(open_source(tmp_path / "x.csv", faces)) == 1
    with pytest.raises(InputError, match=r"is no list .* leave it out"):
        open_source(faces, faces)


def test_names_that_are_no_unicode_name_their_files(tmp_path, picture):
    folder = bytes(tmp_path) + b"/Jos\xe9"
    os.mkdir(folder)
    with open(folder + b"/1.png", "wb") as file:
        file.write(encode_png(picture(0)))
    (tmp_path / "x.csv").write_bytes(b"Jos\xe9/1.png,1\n")
    np.testing.assert_array_equal(ListSource(tmp_path / "x.csv")[0], picture(0))


def test_text_that_is_none(tmp_path):
    path = tmp_path / "x.txt"
    path.write_bytes("ab\n".encode("utf-16") + b"\x00\xd8\x00")
    with pytest.raises(InputError, match=r"x\.txt: its text is not UTF-16 after line .*UTF-8"):
        list(read_lines(path))
    with pytest.raises(InputError, match=r"none\.txt: cannot read this list"):
        list(read_rows(tmp_path / "none.txt"))
    path.write_text("a b\n\u2028c\x0bd e\n", encoding="utf-8")  # no line ends here
    assert [number for number, _ in read_lines(path)] == [1, 2]


def test_pairs_after_an_image_set(tmp_path, faces):
    text = "1\r\nBo Li\t1\t2\r\nBo Li\t2\tZoé\t1\r\n"
    (tmp_path / "p.txt").write_text(text, encoding="utf-8-sig")
    opened = open_set(f"{faces}+{tmp_path / 'p.txt'}")
    assert pairs_of(opened.pairs) == [(0, 1, True), (1, 2, False)]


def test_im2rec_keys(tmp_path):
    (tmp_path / "x.lst").write_text("7\t2\ta.jpg\n3\t1\tb.jpg\n")
    assert [(line.key, line.label, line.path) for line in read_lst(tmp_path / "x.lst")] == [
        (7, 2, "a.jpg"),
        (3, 1, "b.jpg"),
    ]
