"""The check of the data: what it finds, in words, in the page and in the list."""

import csv
import dataclasses
import io
import pathlib
import re

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from arcface_jax.commands import check_report, data_check
from arcface_jax.commands.models import Embedder
from arcface_jax.data.check import Finding, Row
from arcface_jax.data.decode import encode_png
from arcface_jax.data.in_memory import MemorySource, load_source
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.training.config import Config, DataConfig

PEOPLE, EACH = 40, 3


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """A folder of drawn people, p00/0.png …"""
    root = tmp_path_factory.mktemp("clean") / "faces"
    faces = load_source(SyntheticFaces(PEOPLE, EACH, image_size=48, difficulty=0.5), 48)
    for number, image in enumerate(faces.images):
        path = root / f"p{number // EACH:02}" / f"{number % EACH}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(image))
    return root


def pixels(path: pathlib.Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def save(path: pathlib.Path, image: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.astype(np.uint8)).save(path, **options)


@pytest.fixture(scope="module")
def faulty(clean, tmp_path_factory):
    """(folder, test set) with one fault of each kind."""
    root = tmp_path_factory.mktemp("faulty") / "faces"
    for path in clean.rglob("*.png"):
        save(root / path.relative_to(clean), pixels(path))
    (root / "p01" / "same.png").write_bytes((clean / "p01" / "0.png").read_bytes())
    (root / "p03" / "other.png").write_bytes((clean / "p02" / "1.png").read_bytes())
    save(root / "p04" / "near.jpg", pixels(clean / "p04" / "2.png"), quality=60)
    save(root / "p06" / "near.jpg", pixels(clean / "p05" / "2.png"), quality=60)
    save(root / "p07" / "white.png", np.full((60, 60, 3), 255))
    noise = np.random.default_rng(0).integers(0, 256, (60, 60, 3))
    save(root / "p08" / "=noise.png", noise)
    save(root / "p09" / "tiny.png", pixels(clean / "p09" / "0.png")[::4, ::4])
    wide = np.concatenate([pixels(clean / f"p1{k}" / "1.png") for k in range(3)], axis=1)
    save(root / "p10" / "wide.png", wide)
    save(root / "p13" / "1.png", np.rot90(pixels(clean / "p13" / "1.png")))
    (root / "p14" / "cut.png").write_bytes((clean / "p14" / "0.png").read_bytes()[:500])
    save(root / "<b>alone" / "one & only.png", pixels(clean / "p15" / "0.png")[:, ::-1])
    (root / "p16" / "photo.heic").write_bytes(b"\0\0\0 ftypheic")
    (root / "nobody").mkdir()
    test = root.parent / "test"
    (test / "x").mkdir(parents=True)
    (test / "x" / "0.png").write_bytes((clean / "p20" / "0.png").read_bytes())
    save(test / "x" / "1.jpg", pixels(clean / "p21" / "0.png"), quality=70)
    return root, test


def check(monkeypatch, folder, root, *against, model=None, verify=(), data=None):
    """(status, what it printed, the lines of the CSV file)."""
    monkeypatch.setattr(data_check, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(data_check, "cost_in_words", lambda config, setup: "the cost")
    data = data or DataConfig(source="folder", root=str(root), image_size=32, verify=verify)
    out = io.StringIO()
    status = data_check.check_data(Config(data=data), Console(file=out), folder, against, model)
    with open(folder / "check.csv", encoding="utf-8") as file:
        return status, out.getvalue(), list(csv.DictReader(file))


def test_a_clean_set_gives_no_finding(monkeypatch, clean, tmp_path):
    status, out, lines = check(monkeypatch, tmp_path, clean)
    assert (status, lines) == (0, [])
    assert "Nothing deserves a look." in out
    assert "Nothing deserves a look." in (tmp_path / "check.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("drawn", [False, True])
def test_photographs_alone_are_said_not_to_be_aligned(monkeypatch, clean, tmp_path, drawn):
    def report(*given):
        return dataclasses.replace(make_report(*given), aligned=False)

    make_report = data_check.report
    monkeypatch.setattr(data_check, "report", report)
    data = DataConfig(source="synthetic", identities=2, images_per_identity=2, image_size=32)
    _, out, _ = check(monkeypatch, tmp_path, clean, data=data if drawn else None)
    assert ("they are not aligned" in out) != drawn


def test_every_planted_fault_is_found_with_its_path(monkeypatch, faulty, tmp_path, caplog):
    root, test = faulty
    status, out, lines = check(monkeypatch, tmp_path, root, verify=(f"LFW={test}",))
    assert status == 1
    found = {
        (line["finding"], line["image"].removeprefix(f"{root}/"), line["other_image"])
        for line in lines
    }
    assert found == {
        ("undecodable", "p14/cut.png", ""),
        ("no image", "p16/photo.heic", ""),
        ("empty folder", "nobody", ""),
        ("exact copy", "p01/same.png", f"{root}/p01/0.png"),
        ("exact copy, other identity", "p03/other.png", f"{root}/p02/1.png"),
        ("near copy", "p04/near.jpg", f"{root}/p04/2.png"),
        ("near copy, other identity", "p06/near.jpg", f"{root}/p05/2.png"),
        ("exact copy in LFW", "p20/0.png", f"{test}/x/0.png"),
        ("near copy in LFW", "p21/0.png", f"{test}/x/1.jpg"),
        ("blank", "p07/white.png", ""),
        ("noise", "p08/=noise.png", ""),
        ("small", "p09/tiny.png", ""),
        ("extreme aspect", "p10/wide.png", ""),
        ("turned", "p13/1.png", ""),
        ("one image", "<b>alone/one & only.png", ""),
    }
    page = (tmp_path / "check.html").read_text(encoding="utf-8")
    for finding, image, other in found:
        assert finding in page
        for name in filter(None, (image, other)):
            assert name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;") in page
    assert "<b>alone" not in page
    assert not re.search(r'src="(?!data:image/)', page)
    assert out.count("left out as no images: .heic (1)") == 1
    assert caplog.text == ""
    assert "Findings: 15." in out
    for line in (
        f"undecodable: 1 image cannot be decoded; the first: {root}/p14/cut.png: cannot decode",
        "turned: 1 image seems to lie on a side or upside down; the first: "
        f"{root}/p13/1.png (looks upright when turned by 90° clockwise)",
        "near copy in LFW: 1 image is nearly the same as one in LFW, so that a test on it says "
        f"too much; the first: {root}/p21/0.png and {test}/x/1.jpg",
    ):
        assert line in out
    assert max(map(len, out.splitlines())) < 600


def test_the_list_is_safe_in_a_spreadsheet(tmp_path):
    names = ["=1+1", "+a", "-a", "@a", "a=1", " =1"]
    source = MemorySource(np.zeros((6, 8, 8, 3), np.uint8), np.arange(6), names, "f")
    rows = tuple(Row(index, number=-0.5, note="=x") for index in range(6))
    check_report.write_list(tmp_path / "x.csv", source, [Finding("a", "b", rows, "c")])
    with open(tmp_path / "x.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    identities = [line["identity"] for line in lines]
    assert identities == ["'=1+1", "'+a", "'-a", "'@a", "a=1", "' =1"]
    assert {(line["number"], line["note"]) for line in lines} == {("-0.5", "'=x")}


def test_the_page_stays_small_and_says_how_many_there_are(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (1, 300, 300, 3), dtype=np.uint8)
    name = "n" * 5000
    source = MemorySource(images.repeat(500, 0), np.zeros(500, np.int32), [name], "f")
    rows = tuple(Row(index, index) for index in range(500))
    sheet = tmp_path / "sheet.png"
    save(sheet, images[0])
    check_report.write_page(
        tmp_path / "x.html", source, [Finding("copy", "500 images", rows)], ["a line"], sheet
    )
    page = (tmp_path / "x.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg") == 40
    assert "20 of 500; all of them are in check.csv." in page
    assert name not in page
    assert len(page) < 1_000_000


def colour_model(images: np.ndarray) -> np.ndarray:
    """Embeddings of the colour of the corner, which says who it is."""
    corner = images[:, 0, 0].astype(np.float32) - 127.5
    return corner / np.linalg.norm(corner, axis=1, keepdims=True)


def test_labels_that_a_model_contradicts_are_found(monkeypatch, tmp_path):
    rng = np.random.default_rng(0)
    colours = {"red": (255, 20, 20), "green": (20, 255, 20), "blue": (20, 20, 255)}
    for person, colour in colours.items():
        for number in range(6):
            image = np.tile(np.linspace(0, 255, 40), (40, 1))[..., None].repeat(3, 2)
            image = np.roll(image, rng.integers(40), 1) + rng.normal(0, 12, image.shape)
            image[:20, :20] = colour
            save(tmp_path / "c" / person / f"{number}.png", np.clip(image, 0, 255))
    (tmp_path / "c" / "red" / "3.png").rename(tmp_path / "c" / "blue" / "wrong.png")
    model = Embedder("colours", (16, 16), None, 8, "none", colour_model)
    _, out, lines = check(monkeypatch, tmp_path, tmp_path / "c", model=model)
    (line,) = (line for line in lines if line["finding"] == "mislabelled")
    assert line["image"].endswith("c/blue/wrong.png")
    assert re.fullmatch(
        r"cosine -0\.\d\d with the others of its identity, \d\.\d\d with red", line["note"]
    )
    assert "colours finds 94.4% of the images nearest to their own identity." in out
    blind = Embedder(
        "blind", (16, 16), None, 8, "none", lambda images: rng.normal(size=(len(images), 3))
    )
    _, out, lines = check(monkeypatch, tmp_path, tmp_path / "c", model=blind)
    assert "The labels are not judged: blind finds" in out
    assert "mislabelled" not in {line["finding"] for line in lines}
