"""The invert command, as a person types it."""

import json

import numpy as np
import pytest
import tyro

from experiments import invert


def main():
    invert.run(tyro.cli(invert.Arguments))


def test_a_checkpoint_is_inverted_and_judged(type_command, small_checkpoint, crowd, tmp_path):
    options = (
        "--people",
        crowd,
        "--judge",
        small_checkpoint,
        "--count",
        2,
        "--steps",
        25,
        "--output",
        tmp_path / "out",
    )
    status, out, _ = type_command(main, small_checkpoint, *options)
    assert status == 0
    report = json.loads((tmp_path / "out/inversion.json").read_text())
    assert len(report["target"]) == 2
    assert min(report["target"]) > 0.9
    # The judge is the model itself here, so both must say the same.
    assert report["judge"]["generated"] == pytest.approx(report["model"]["generated"])
    assert report["model"]["real"]["own"] > 0.5
    assert f"Cosine to the target: {np.mean(report['target']):.3f}" in out
    with np.load(tmp_path / "out/inversion.npz") as file:
        assert file["images"].shape == (2, 32, 32, 3)
        assert file["images"].dtype == np.uint8
    assert (tmp_path / "out/inversion.png").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["small.pth"], "--people: a model that was not trained here"),
        (
            ["small.pth", "--people", "crowd", "--target", "weights"],
            "--target weights: needs a run",
        ),
        (["absent"], "absent: no such file or folder"),
        (["--count", "0"], "--count 0: give from 1"),
    ],
)
def test_bad_input_is_one_line(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    status, out, err = type_command(main, *options)
    assert status == 2
    assert said in err
    assert "Traceback" not in err + out
