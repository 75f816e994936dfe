"""The neighbours command, as a person types it."""

import json

import numpy as np
import pytest

from arcface_jax.analysis.neighbours import ClassPairs
from experiments import neighbours

main = neighbours.main


def test_people_of_a_folder_are_compared(type_command, small_checkpoint, crowd, tmp_path):
    options = (
        "--people",
        crowd,
        "--pairs",
        3,
        "--drawn",
        3,
        "--far",
        0.1,
        "--output",
        tmp_path / "out",
    )
    status, out, _ = type_command(main, small_checkpoint, *options)
    assert status == 0
    report = json.loads((tmp_path / "out/neighbours.json").read_text())
    cosines = [pair["cosine"] for pair in report["pairs"]]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)
    assert report["far"] <= 0.1
    assert 0 <= report["neighbours_kept"] <= 1
    assert report["pairs"][0]["first"] in out
    assert all(
        (tmp_path / "out" / name).exists() for name in ("plane.png", "plane.svg", "most_alike.png")
    )


def test_the_most_alike_images_and_the_people_to_draw():
    embeddings = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
    pairs = ClassPairs(np.array([0]), np.array([2]), np.zeros(1), np.zeros(1))
    first, second = neighbours.most_alike_images(embeddings, np.array([0, 0, 2, 2]), pairs)
    assert (first.tolist(), second.tolist()) == ([1], [2])
    assert neighbours.drawn_people(pairs, 3, 5).tolist() == [0, 2, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["small.pth"], "--people: a model that was not trained here"),
        (["--far", "2"], "--far is 2; pass a number in [0, 1]"),
        (["--drawn", "1"], "--drawn is 1; pass a finite number not below 2"),
    ],
)
def test_bad_input_is_one_line(
    type_command, small_checkpoint, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    status, out, err = type_command(main, *options)
    assert status == 2
    assert said in err
    assert "Traceback" not in err + out
