import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from arcface_jax.commands import ijb_photos
from arcface_jax.data.align import align
from arcface_jax.data.aligned_crop import TEMPLATE
from arcface_jax.errors import InputError
from arcface_jax.evaluation.ijb import read_face_media, read_ijb_landmarks
from arcface_jax.evaluation.roc import roc_curve
from experiments import evaluate_ijb
from experiments.evaluate_ijb import Arguments, run
from tests.evaluation import slow

SUBJECTS = 24


@pytest.fixture
def benchmark(tmp_path: pathlib.Path) -> Arguments:
    """A small IJB: each subject has a template in G1 or in G2 (ids 1 … 24) and a probe (101 …
    124).
    """
    rng = np.random.default_rng(0)
    meta = tmp_path / "meta"
    meta.mkdir()
    templates = np.concatenate([np.arange(1, SUBJECTS + 1), np.arange(101, 101 + SUBJECTS)])
    of_image = np.repeat(templates, 3)
    media = np.tile([1, 2, 2], len(templates))
    people = rng.normal(size=(SUBJECTS, 8))
    features = people[of_image % 100 - 1] + 1.0 * rng.normal(size=(len(of_image), 8))
    names = [f"{i}.jpg" for i in range(len(of_image))]
    lines = [f"{name} {t} {m}" for name, t, m in zip(names, of_image, media, strict=True)]
    (meta / "ijbx_face_tid_mid.txt").write_text("\n".join(lines))
    points = [
        f"{name} {' '.join(['5'] * 10)} {0.5 + 0.5 * (i % 2)}" for i, name in enumerate(names)
    ]
    (meta / "ijbx_name_5pts_score.txt").write_text("\n".join(points))
    pairs = [
        f"{g} {p} {int(g == p - 100)}" for g in templates[:SUBJECTS] for p in templates[SUBJECTS:]
    ]
    (meta / "ijbx_template_pair_label.txt").write_text("\n".join(pairs))
    for name, chosen in (
        ("gallery_G1", range(1, 13)),
        ("gallery_G2", range(13, 25)),
        ("probe_mixed", range(101, 125)),
    ):
        rows = ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *(f"{t},{t % 100},x.png" for t in chosen)]
        (meta / f"ijbx_1N_{name}.csv").write_text("\n".join(rows))
    np.savez(tmp_path / "features.npz", embeddings=features)
    return Arguments(
        meta, tmp_path / "features.npz", output=tmp_path / "out", fars=(0.01, 0.1), replicates=20
    )


def pooled(arguments: Arguments) -> tuple[np.ndarray, np.ndarray]:
    features = np.load(arguments.features)["embeddings"]
    templates = np.repeat(
        np.concatenate([np.arange(1, SUBJECTS + 1), np.arange(101, 101 + SUBJECTS)]), 3
    )
    expected = slow.pool(features, templates, np.tile([1, 2, 2], 2 * SUBJECTS), None, True)
    rows = np.stack(list(expected.values()))
    return rows[:SUBJECTS], rows[SUBJECTS:]


def test_verification_and_both_galleries(benchmark: Arguments) -> None:
    run(benchmark)
    table = json.loads((benchmark.output / "table.json").read_text())
    gallery, probes = pooled(benchmark)
    scores, same = (gallery @ probes.T).ravel(), np.eye(SUBJECTS, dtype=bool).ravel()
    for far in benchmark.fars:
        found = table["1:1"][f"tar@far={far:g}"]
        assert found["estimate"] == slow.tar_nearest(scores, same, far)
        assert found["low"] <= found["estimate"] <= found["high"]
    assert roc_curve(scores, same).num_different == table["1:1"]["num_different"]["estimate"]
    halves = [
        slow.search(gallery[part], np.arange(SUBJECTS)[part], probes, np.arange(SUBJECTS))
        for part in (slice(0, 12), slice(12, 24))
    ]
    rank_1 = [
        np.mean([rank == 1 for mate, _, _, rank in half if mate > -np.inf]) for half in halves
    ]
    tpir = [slow.tpir(half, 0.1) for half in halves]
    assert table["1:N G1"]["rank-1"]["estimate"] == rank_1[0]
    assert table["1:N mean"]["rank-1"]["estimate"] == np.mean(rank_1)
    assert table["1:N mean"]["tpir@fpir=0.1"]["estimate"] == pytest.approx(np.mean(tpir))
    for row in ("1:N G1", "1:N G2", "1:N mean"):
        for name in ("rank-1", "tpir@fpir=0.01", "tpir@fpir=0.1"):
            assert table[row][name]["low"] < table[row][name]["high"], (row, name)
            assert (
                table[row][name]["low"] <= table[row][name]["estimate"] <= table[row][name]["high"]
            )
        assert table[row]["num_enrolled"]["low"] == table[row]["num_enrolled"]["high"]
    assert {file.stem for file in (benchmark.output / "figures").iterdir()} == {
        "roc",
        "det",
        "cmc",
        "identification_det",
    }


def test_detector_scores_change_the_templates(benchmark: Arguments) -> None:
    run(benchmark)
    before = (benchmark.output / "table.json").read_text()
    run(
        Arguments(
            benchmark.meta,
            benchmark.features,
            output=benchmark.output,
            detector_scores=True,
            fars=(0.01, 0.1),
        )
    )
    after = (benchmark.output / "table.json").read_text()
    assert after != before
    for figures in json.loads(after).values():  # no replicates, no intervals
        assert all(
            figure["low"] == figure["estimate"] == figure["high"] for figure in figures.values()
        )


def test_pairs_of_one_kind_are_named(benchmark: Arguments) -> None:
    (benchmark.meta / "ijbx_template_pair_label.txt").write_text("1 101 1\n2 102 1\n")
    with pytest.raises(InputError, match=r"pair_label\.txt: all 2 pairs are of one person; add"):
        run(benchmark)


def test_what_does_not_fit_is_named(benchmark: Arguments, tmp_path: pathlib.Path) -> None:
    np.savez(benchmark.features, embeddings=np.ones((5, 8)))
    with pytest.raises(
        InputError, match=r"5 features, but .*ijbx_face_tid_mid\.txt lists 144 images"
    ):
        run(benchmark)
    np.savez(benchmark.features, features=np.ones((5, 8)))
    with pytest.raises(InputError, match="has no array 'embeddings'"):
        run(benchmark)
    with pytest.raises(InputError, match=r"0 files \*_face_tid_mid\.txt"):
        run(Arguments(tmp_path, benchmark.features))
    with pytest.raises(InputError, match=r"nowhere\.npz: cannot be read"):
        run(Arguments(benchmark.meta, tmp_path / "nowhere.npz"))
    for given in (
        {"features": None},
        {"photos": tmp_path},
        {"features": None, "photos": tmp_path},
        {"model": tmp_path},
    ):
        with pytest.raises(InputError, match=r"--features|--photos and --model: give both"):
            run(dataclasses.replace(benchmark, **given))
    names = (
        (benchmark.meta / "ijbx_name_5pts_score.txt").read_text().replace("0.jpg", "zero.jpg", 1)
    )
    (benchmark.meta / "ijbx_name_5pts_score.txt").write_text(names)
    np.savez(benchmark.features, embeddings=np.ones((144, 8)))
    with pytest.raises(InputError, match=r"lists other images than .*: 144 and 144, and"):
        run(Arguments(benchmark.meta, benchmark.features, detector_scores=True))


class BlockMeans:
    """A model of 16×12 images: the mean of each 4×4 block, less a grey."""

    name, image_size, flip = "block means", (16, 12), "add"

    def __init__(self, fail_after=None):
        self.images, self.fail_after = 0, fail_after

    def embed(self, images, progress=None):
        self.images += len(images)
        if self.fail_after is not None and self.images > self.fail_after:
            raise KeyboardInterrupt
        assert images.shape[1:] == (16, 12, 3)
        assert images.dtype == np.uint8
        blocks = images.reshape(-1, 4, 4, 3, 4, 3).mean((2, 4)).reshape(len(images), -1)
        return (blocks - 90.5).astype(np.float32)


@pytest.fixture
def photographs(benchmark: Arguments, tmp_path: pathlib.Path, monkeypatch) -> Arguments:
    """Loose crops of the small IJB; photo 0 cannot be decoded, the points of 7 are no face's, and
    of template 101 no photo is usable.
    """
    rng = np.random.default_rng(1)
    names = read_face_media(benchmark.meta / "ijbx_face_tid_mid.txt").names
    people = rng.integers(0, 256, (SUBJECTS, 6, 5, 3), np.uint8)
    (tmp_path / "loose_crop").mkdir()
    lines = []
    for index, name in enumerate(names):
        person = people[index // 3 % SUBJECTS].repeat(20, 0).repeat(20, 1)
        noisy = np.clip(person + rng.normal(0, 20, person.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "loose_crop" / name, format="png")
        points = TEMPLATE * 0.8 + 3 + rng.normal(0, 1, (5, 2))
        points = 0 * points if index == 7 or 72 <= index < 75 else points
        numbers = " ".join(f"{number:.3f}" for number in points.ravel())
        lines.append(f"{name} {numbers} {rng.uniform(0.5, 1):.3f}")
    (benchmark.meta / "ijbx_name_5pts_score.txt").write_text("\n".join(lines))
    (tmp_path / "loose_crop" / names[0]).write_bytes(b"no image")
    monkeypatch.setattr(evaluate_ijb, "open_to_evaluate", lambda *_: BlockMeans())
    (tmp_path / "model.pth").touch()
    return dataclasses.replace(
        benchmark, features=None, photos=tmp_path / "loose_crop", model=tmp_path / "model.pth"
    )


def expected_features(arguments: Arguments) -> dict[str, np.ndarray]:
    """By the readers alone, image by image."""
    listed = read_ijb_landmarks(arguments.meta / "ijbx_name_5pts_score.txt")
    rows = []
    for name, points in zip(listed.names, listed.points, strict=True):
        try:
            photo = np.asarray(Image.open(arguments.photos / name))
            crop = align(photo, points, 16)[:, 2:14]
            rows.append(BlockMeans().embed(np.stack([crop, crop[:, ::-1]])))
        except (OSError, InputError):
            rows.append(np.zeros((2, 36), np.float32))
    return dict(zip(("embeddings", "mirrored"), np.stack(rows, axis=1), strict=True))


@pytest.mark.parametrize("flip", [None, "none"])
def test_photos_give_what_their_features_give(photographs: Arguments, flip, capsys) -> None:
    """A template without a usable face is scored as no match, and counted."""
    from_photos = dataclasses.replace(photographs, flip=flip)
    run(from_photos)
    printed = capsys.readouterr().out
    assert "48 templates; without a usable face: 5 of 144 images." in printed
    assert "Failure to enrol: 1 template has no usable face and can match nobody: 101." in printed
    left_out = (from_photos.output / "no_usable_face.txt").read_text().splitlines()
    places = [from_photos.photos / f"{number}.jpg" for number in (0, 7, 72, 73, 74)]
    for line, place in zip(left_out, places, strict=True):
        assert line.startswith(f"{place}: ")
    assert "at least two different, finite ones are needed" in left_out[1]
    arrays = expected_features(photographs)
    with np.load(from_photos.output / "features.npz") as written:
        assert set(written) == ({"embeddings", "mirrored"} if flip is None else {"embeddings"})
        for name in written:
            np.testing.assert_allclose(written[name], arrays[name], atol=1e-4)
    table = json.loads((from_photos.output / "table.json").read_text())
    assert table["1:1"]["num_failed_to_enrol"]["estimate"] == 1
    assert table["1:N G1"]["rank-1"]["estimate"] < 1
    assert table["1:N G2"]["rank-1"]["estimate"] > 0.9

    if flip == "none":
        del arrays["mirrored"]
    features = from_photos.output.parent / "by_hand.npz"
    np.savez(features, **arrays)
    run(dataclasses.replace(from_photos, photos=None, model=None, features=features))
    assert json.loads((from_photos.output / "table.json").read_text()) == table


def test_an_interrupted_run_goes_on(photographs: Arguments, monkeypatch) -> None:
    monkeypatch.setattr(ijb_photos, "_IMAGES_AT_ONCE", 16)
    monkeypatch.setattr(evaluate_ijb, "open_to_evaluate", lambda *_: BlockMeans(fail_after=150))
    with pytest.raises(KeyboardInterrupt):
        run(photographs)
    second = BlockMeans()
    monkeypatch.setattr(evaluate_ijb, "open_to_evaluate", lambda *_: second)
    run(photographs)
    assert 100 < second.images < 200  # of 278 with the mirror images
    with np.load(photographs.output / "features.npz") as written:
        for name, wanted in expected_features(photographs).items():
            np.testing.assert_allclose(written[name], wanted, atol=1e-4)
    assert not list(photographs.output.glob("*.partial*"))


def test_photos_that_are_missing_are_named(photographs: Arguments) -> None:
    for number in (3, 40):
        (photographs.photos / f"{number}.jpg").unlink()
    with pytest.raises(InputError, match=r"2 of 144 listed .* the first is .*crop/3\.jpg; copy"):
        run(photographs)


def test_lists_are_checked_before_the_photos(photographs: Arguments, monkeypatch) -> None:
    """With the file and the line; nothing is embedded."""
    monkeypatch.setattr(evaluate_ijb, "open_to_evaluate", lambda *_: pytest.fail("opened"))

    def refused(name, change, said):
        file = photographs.meta / name
        before = file.read_text()
        file.write_text(change(before))
        with pytest.raises(InputError, match=said):
            run(photographs)
        file.write_text(before)

    refused(
        "ijbx_template_pair_label.txt",
        lambda text: text.replace("2 103 0", "2 999 0"),
        r"label\.txt pair 27: template 999 has no image in ijbx_face_tid_mid\.txt, as 2",
    )
    refused(
        "ijbx_1N_gallery_G2.csv",
        lambda text: text + "\n77,3,x.png",
        r"gallery_G2\.csv template 13: template 77 has no image",
    )
    refused(
        "ijbx_name_5pts_score.txt",
        lambda text: "\n".join(text.splitlines()[::-1]),
        r"score\.txt: lists the images of .* in another order, from '143\.jpg' on, where '0\.jpg'",
    )
    refused(
        "ijbx_name_5pts_score.txt",
        lambda text: "\n".join(text.splitlines()[:-1]),
        r"other images than ijbx_face_tid_mid\.txt: 143 and 144, and '143\.jpg' is in one alone",
    )
