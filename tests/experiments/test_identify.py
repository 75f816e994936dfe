"""The identify command, as a person types it."""

import shutil

import numpy as np
import pytest
import tyro

from arcface_jax.interop.card import CARD_FILE, ModelCard, Threshold
from experiments import export, identify


def main():
    commands = {"enrol": identify.Enrol, "name": identify.Name, "verify": identify.Verify}
    identify.run(tyro.extras.subcommand_cli_from_dict(commands))


@pytest.fixture
def enrolled(type_command, small_checkpoint, crowd, tmp_path):
    """Three of the four people, three pictures each."""
    for person in range(3):
        (tmp_path / "known" / f"p{person}").mkdir(parents=True)
        for picture in range(3):
            shutil.copy(crowd / f"p{person}/{picture}.png", tmp_path / "known" / f"p{person}")
    status, out, _ = type_command(main, "enrol", small_checkpoint, tmp_path / "known", tmp_path / "gallery.npz")
    assert status == 0
    assert "9 images of 3 people" in out
    return tmp_path / "gallery.npz"


def test_known_people_are_named_and_a_stranger_is_not(type_command, small_checkpoint, crowd, enrolled):
    photos = [crowd / f"p{person}" / "3.png" for person in range(4)]
    status, out, _ = type_command(
        main, "name", small_checkpoint, enrolled, *photos, "--threshold", "0.95", "--candidates", "2"
    )
    assert status == 0
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    assert [row[1] for row in rows if row[1]] == ["p0", "p1", "p2", "unknown"]


def test_two_photos_of_one_person(type_command, small_checkpoint, crowd):
    one, same, other = crowd / "p0/0.png", crowd / "p0/1.png", crowd / "p1/0.png"
    for second, said in ((same, "the same person"), (other, "different people")):
        status, out, _ = type_command(main, "verify", small_checkpoint, one, second, "--threshold", "0.95")
        assert status == 0
        assert said in out


def test_an_exports_card_has_the_threshold(type_command, small_checkpoint, crowd, tmp_path):
    export.run(export.Arguments(small_checkpoint, tmp_path / "out"))
    card = ModelCard.read(tmp_path / "out")
    photos = (crowd / "p0/0.png", crowd / "p0/1.png")
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos)
    assert status == 2
    assert "which has none: export with --verify" in err
    content = dict(card.__dict__) | {"thresholds": (Threshold(1e-3, 0.25, 0.9, "too few pairs"),)}
    (tmp_path / "out" / CARD_FILE).write_text(ModelCard(**content).to_json())
    status, out, _ = type_command(main, "verify", tmp_path / "out", *photos)
    assert status == 0
    assert "threshold 0.250" in out
    assert "warning: too few pairs" in out
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos, "--far", "0.1")
    assert status == 2
    assert "far: 0.1 has no threshold in the model card, which has 0.001" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enrol", "small.pth", "crowd", "g.txt"], "g.txt: give a file that ends with .npz"),
        (["name", "small.pth", "absent.npz", "crowd/p0/0.png"], "absent.npz: cannot be read"),
        (["name", "small.pth", "junk.npz", "crowd/p0/0.png"], "junk.npz: is no gallery"),
        (["name", "small.pth", "wide.npz", "crowd/p0/0.png", "--threshold", "0"], "embeddings of 9 numbers"),
        (["name", "small.pth", "wide.npz"], "photos: give at least one"),
        (["verify", "small.pth", "crowd/p0/0.png", "crowd/p0/1.png"], "--threshold: the model has no card"),
        (["verify", "small.pth", "absent.png", "crowd/p0/1.png", "--threshold", "0"], "absent.png: cannot be read"),
    ],
)
def test_bad_input_is_one_line(type_command, small_checkpoint, crowd, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    np.savez(tmp_path / "wide.npz", embeddings=np.eye(9, dtype=np.float32), names=np.array(list("abcdefghi")))
    status, out, err = type_command(main, *arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err + out
