import json
import pathlib

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.evaluation.roc import roc_curve
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
        meta, tmp_path / "features.npz", tmp_path / "out", fars=(0.01, 0.1), replicates=20
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
            benchmark.output,
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
    names = (
        (benchmark.meta / "ijbx_name_5pts_score.txt").read_text().replace("0.jpg", "zero.jpg", 1)
    )
    (benchmark.meta / "ijbx_name_5pts_score.txt").write_text(names)
    np.savez(benchmark.features, embeddings=np.ones((144, 8)))
    with pytest.raises(InputError, match="lists other images"):
        run(Arguments(benchmark.meta, benchmark.features, detector_scores=True))
