import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.samplers import Balanced, Capped, Shuffled
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.runs.dataset import create_sampler, load_data, sample_images, split_source
from arcface_jax.runs.verifier import Verifier
from arcface_jax.training.config import DataConfig
from tests.bin_set import write_bin

DATA = DataConfig(identities=8, images_per_identity=4, image_size=16, pairs=40, test_fraction=0.5)


@pytest.fixture
def bin_set(tmp_path):
    """Twenty pairs of pictures in one file, as insightface keeps them."""
    return write_bin(tmp_path / "lfw.bin", image_size=16)


def test_more_sets_are_verified_with_their_own_pairs(bin_set):
    data = load_data(dataclasses.replace(DATA, verify=(str(bin_set),)), 0)
    assert [one.name for one in data.sets] == ["held_out", "lfw"]
    assert len(data.sets[1].pairs) == 20
    assert data.sets[1].images.images.shape == (40, 16, 16, 3)
    assert data.num_classes == 4


def test_nobody_need_be_held_out_where_there_is_another_set(bin_set):
    data = load_data(dataclasses.replace(DATA, test_fraction=0.0, verify=(str(bin_set),)), 0)
    assert data.num_classes == 8
    assert data.pairs is data.sets[0].pairs
    assert data.test is data.sets[0].images


def test_a_folder_of_people_is_a_set_too(tmp_path):
    for number, image in enumerate(SyntheticFaces(6, 4, image_size=16).render(np.arange(24))):
        person = tmp_path / "people" / f"person{number // 4}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(person / f"{number}.png")
    data = load_data(dataclasses.replace(DATA, verify=(str(tmp_path / "people"),)), 0)
    assert len(data.sets[1].pairs) == 40
    assert data.sets[1].pairs.same.mean() == 0.5


def test_a_set_has_the_pairs_of_its_list_and_the_name_it_is_given(tmp_path):
    for number, image in enumerate(SyntheticFaces(4, 5, image_size=16).render(np.arange(20))):
        person = tmp_path / "a=b" / f"p{number // 5}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(person / f"{number % 5}.png")
    rows = [
        f"p0/{i}.png,p0/{(i + 1) % 5}.png,1\np{1 + i % 3}/{i}.png,p0/{i}.png,0" for i in range(5)
    ] * 2
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    folder, listed = str(tmp_path / "a=b"), f"mine={tmp_path / 'a=b'}+{tmp_path / 'pairs.csv'}"
    data = load_data(dataclasses.replace(DATA, test_fraction=0.0, verify=(folder, listed)), 0)
    assert [(one.name, len(one.pairs)) for one in data.sets] == [("a=b", 40), ("mine", 20)]
    assert data.sets[1].pairs.num_folds == 10
    assert data.sets[1].pairs.same.tolist() == [True, False] * 10
    (tmp_path / "a=b/p0/0.png").write_bytes(b"damaged")
    skipping = dataclasses.replace(DATA, test_fraction=0.0, unreadable="skip")
    assert len(load_data(dataclasses.replace(skipping, verify=(folder,)), 0).test) == 19
    with pytest.raises(InputError, match=r"p0/0\.png"):  # the list means images by their places
        load_data(dataclasses.replace(skipping, verify=(listed,)), 0)


def test_a_list_may_have_a_root_of_its_own(tmp_path):
    lines = []
    for number, image in enumerate(SyntheticFaces(8, 4, image_size=16).render(np.arange(32))):
        (tmp_path / "faces").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "faces" / f"{number}.png")
        lines.append(f"{number}\t{number // 4:.6f}\t{number}.png\n")
    (tmp_path / "im2rec.lst").write_text("".join(lines))
    listed = DataConfig(
        source="auto",
        root=str(tmp_path / "im2rec.lst"),
        list_root=str(tmp_path / "faces"),
        image_size=16,
        test_fraction=0.5,
    )
    assert load_data(listed, 0).num_classes == 4
    with pytest.raises(InputError, match=r"0\.png is not there, nor are the next; .*list-root"):
        load_data(dataclasses.replace(listed, list_root=None), 0)
    for source in ("folder", "synthetic"):
        with pytest.raises(InputError, match=r"data\.list_root .*add --data.source auto"):
            load_data(dataclasses.replace(listed, source=source), 0)


@pytest.mark.parametrize("fraction", [-0.1, 1.5, float("nan")])
def test_a_share_of_people_that_cannot_be_is_named(fraction):
    with pytest.raises(InputError, match=r"data.test_fraction is .*; pass a number in \[0, 1\]"):
        load_data(dataclasses.replace(DATA, test_fraction=fraction), 0)


def test_sets_that_cannot_be_are_named(bin_set, tmp_path):
    with pytest.raises(InputError, match="nothing is verified"):
        load_data(dataclasses.replace(DATA, test_fraction=0.0), 0)
    with pytest.raises(InputError, match=r"absent.bin: no such file"):
        load_data(dataclasses.replace(DATA, verify=(str(tmp_path / "absent.bin"),)), 0)
    with pytest.raises(InputError, match="lfw, lfw; name one by NAME=SOURCE"):
        load_data(dataclasses.replace(DATA, verify=(str(bin_set), str(bin_set))), 0)


def test_a_list_of_one_fold_is_named(tmp_path):
    for name in ("Bo", "Al"):
        person = tmp_path / "faces" / name
        person.mkdir(parents=True)
        for number in (1, 2):
            Image.new("RGB", (16, 16)).save(person / f"{name}_000{number}.png")
    (tmp_path / "pairs.txt").write_text("1\nBo 1 2\nBo 1 Al 2\n")
    listed = f"{tmp_path / 'faces'}+{tmp_path / 'pairs.txt'}"
    with pytest.raises(InputError, match=r"data\.verify .*pairs\.txt: the list is one fold"):
        load_data(dataclasses.replace(DATA, test_fraction=0.0, verify=(listed,)), 0)


def test_people_that_cannot_be_split_or_paired_are_named(tmp_path):
    for person, count in (("a", 1), ("b", 1), ("c", 1), ("d", 1)):
        (tmp_path / person).mkdir()
        for number in range(count):
            Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(
                tmp_path / person / f"{number}.png"
            )
    folder = DataConfig(source="folder", root=str(tmp_path), image_size=16, test_fraction=0.5)
    with pytest.raises(
        InputError, match=rf"data.root {tmp_path}: labels: no identity has two images"
    ):
        load_data(folder, 0)
    with pytest.raises(
        InputError, match=rf"data.root {tmp_path}: test_fraction = 0.1 of 4 identities"
    ):
        load_data(dataclasses.replace(folder, test_fraction=0.1), 0)
    with pytest.raises(
        InputError, match=rf"data.verify: ones={tmp_path}: needs two people, and two images of one"
    ):
        load_data(dataclasses.replace(DATA, verify=(f"ones={tmp_path}",)), 0)
    with pytest.raises(
        InputError, match=r"data.images_per_identity 5 draws synthetic faces, and does nothing with"
    ):
        load_data(dataclasses.replace(folder, images_per_identity=5), 0)


def test_the_sampler_that_is_named():
    source = SyntheticFaces(8, 6, image_size=16)
    assert isinstance(create_sampler(DATA, source, 8, 0), Shuffled)
    balanced = create_sampler(
        dataclasses.replace(DATA, sampler="balanced", images_each=2), source, 8, 0
    )
    assert isinstance(balanced, Balanced)
    labels = np.asarray(source.labels)[balanced.rows(0, 0, 8)]
    assert sorted(np.unique(labels, return_counts=True)[1]) == [2, 2, 2, 2]
    capped = create_sampler(
        dataclasses.replace(DATA, sampler="capped", images_each=3), source, 8, 0
    )
    assert isinstance(capped, Capped)
    assert capped.epoch_images == 24


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"images_each": 5}, "data.images_each 5 does nothing with sampler shuffled"),
        (
            {"sampler": "balanced", "images_each": 3},
            "data.images_each 3 must divide run.batch_size 8",
        ),
        ({"sampler": "capped", "images_each": 0}, "cap = 0"),
    ],
)
def test_samplers_that_cannot_be_are_named(changes, named):
    with pytest.raises(InputError, match=named):
        create_sampler(
            dataclasses.replace(DATA, **changes), SyntheticFaces(8, 6, image_size=16), 8, 0
        )


@pytest.fixture
def people(tmp_path):
    """Six people with six images each in a folder; the function damages images of some."""
    for number, image in enumerate(SyntheticFaces(6, 6, image_size=16).render(np.arange(36))):
        person = tmp_path / "people" / f"p{number // 6}"
        person.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(person / f"{number % 6}.png")

    def damage(*names):
        for name in names:
            for file in (tmp_path / "people").glob(name):
                file.write_bytes(b"damaged")

    return damage


def folder_of(tmp_path, **changes):
    """Trains on all of `people` and verifies on a set of pairs."""
    verify = (str(write_bin(tmp_path / "lfw.bin", image_size=16)),)
    folder = DataConfig(source="folder", root=str(tmp_path / "people"), image_size=16, pairs=40)
    return dataclasses.replace(
        folder, **{"test_fraction": 0.0, "verify": verify, "unreadable": "skip", **changes}
    )


def test_people_without_a_readable_image_are_no_classes(people, tmp_path):
    whole = load_data(folder_of(tmp_path), 0)
    people("p1/*", "p4/*", "p5/1.png")
    data = load_data(folder_of(tmp_path), 0)
    assert data.num_classes == 4
    assert data.train.identity_names == ["p0", "p2", "p3", "p5"]
    assert data.class_counts.tolist() == [6, 6, 6, 5]
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6 + [2] * 6 + [3] * 5
    assert data.emptied == ("p1", "p4")
    assert len(data.skipped) == 13
    create_sampler(dataclasses.replace(folder_of(tmp_path), sampler="balanced"), data.train, 8, 0)
    images, labels = sample_images(data.train, 23, 16, 0)
    np.testing.assert_array_equal(images, data.train.images)
    np.testing.assert_array_equal(labels, data.train.labels)
    assert data.fingerprint != whole.fingerprint
    assert load_data(folder_of(tmp_path), 0).fingerprint == data.fingerprint
    streamed = load_data(folder_of(tmp_path, loading="stream"), 0)
    assert (streamed.num_classes, streamed.emptied) == (6, ())


def test_what_is_readable_is_part_of_the_fingerprint(people, tmp_path, monkeypatch):
    """The same files by another decoder can be other classes, which no checkpoint fits."""
    people("p5/1.png")
    before = load_data(folder_of(tmp_path), 0)
    decode = FolderSource.__getitem__

    def less(source, index):
        if source.path(index) == "p2/0.png":
            raise InputError("p2/0.png: this decoder cannot")
        return decode(source, index)

    monkeypatch.setattr(FolderSource, "__getitem__", less)
    assert load_data(folder_of(tmp_path), 0).fingerprint != before.fingerprint


def test_a_sample_keeps_the_labels_of_its_source(people, tmp_path):
    people("p1/*", "p4/0.png")
    source = FolderSource(tmp_path / "people")
    images, labels = sample_images(source, 36, 16, 0)
    assert labels.tolist() == [0] * 6 + [2] * 6 + [3] * 6 + [4] * 5 + [5] * 6
    np.testing.assert_array_equal(images[6], source[12])


def test_held_out_pairs_are_of_images_that_can_be_read(people, tmp_path):
    config = folder_of(tmp_path, test_fraction=0.5, verify=(), pairs=20)
    held_out = load_data(config, 0).test.identity_names
    people(f"{held_out[0]}/*", f"{held_out[1]}/0.png")
    data = load_data(config, 0)
    assert data.test.identity_names == held_out[1:]
    assert data.emptied == (held_out[0],)
    assert len(data.test) == 11
    assert len(data.pairs) == 20
    people(f"{held_out[1]}/*")
    lost = r"; 12 images cannot be decoded, and with them 2 people are left out; the first: .*0.png"
    one_left = rf"data.root {tmp_path}/people: labels: there is one identity only.*{lost}"
    with pytest.raises(InputError, match=one_left):
        load_data(config, 0)


def test_few_pairs_are_put_down_to_images_that_cannot_be_read(people, tmp_path):
    """Of the people held out, and of a set to verify."""
    config = folder_of(tmp_path, test_fraction=0.5, verify=(), pairs=20)
    tested = load_data(config, 0)
    people(*(f"{name}/[1-5].png" for name in tested.test.identity_names[:2]))
    people(f"{tested.test.identity_names[2]}/[2-5].png")
    few = r"num_pairs: 20 wanted in 10 folds.*; 14 images cannot be decoded; the first: "
    with pytest.raises(InputError, match=few):
        load_data(config, 0)
    people(*(f"{name}/*" for name in tested.train.identity_names))
    verify = folder_of(tmp_path, verify=(str(tmp_path / "people"),), pairs=20)
    with pytest.raises(InputError, match=r"data.verify .*; 32 images cannot be decoded, and with"):
        load_data(verify, 0)


def test_one_person_left_over_is_refused(people, tmp_path):
    people("p[1-5]/*")
    with pytest.raises(
        InputError,
        match=r"30 images cannot be decoded, and with them 5 people are left out, .*p1/0",
    ):
        load_data(folder_of(tmp_path), 0)


def test_a_seed_holds_out_its_fold_of_the_classes():
    folded = dataclasses.replace(DATA, source="folder", folds=2)
    source = SyntheticFaces(8, 4, image_size=16)
    held = [set(split_source(folded, source, seed)[1].identity_names) for seed in range(6)]
    assert held[0] | held[1] == held[4] | held[5] == set(source.identity_names)
    assert not held[0] & held[1]
    assert len(set(map(frozenset, held))) > 2  # the next two seeds divide them anew


def test_a_fold_of_images_is_of_trained_classes_whose_share_of_right_ones_is_told():
    folded = dataclasses.replace(DATA, images_per_identity=6, folds=2, hold_out="images")
    data = load_data(folded, 1)
    assert (data.num_classes, len(data.train), len(data.test)) == (8, 24, 24)
    rows = np.eye(8, dtype=np.float32)
    names = list(data.train.identity_names)
    own = [names.index(data.test.identity_names[label]) for label in data.test.labels]
    verifier = Verifier.__new__(Verifier)
    verifier._setup = types.SimpleNamespace(
        data=data, program=types.SimpleNamespace(num_classes=8), config=None
    )
    verifier._unit = lambda *_: rows[[(own[0] + 1) % 8, *own[1:]]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arcface_jax.runs.verifier.rows_of", lambda *_: rows)
        found = verifier._classified({}, None)
        assert found["top-1"] == 23 / 24
        patch.setattr("arcface_jax.runs.verifier.rows_of", lambda *_: None)
        assert verifier._classified({}, None) == {}  # a loss without classes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hold_out": "images"}, "say what a fold is; give data.folds too"),
        ({"groups": "x"}, "say what a fold is; give data.folds too"),
        ({"folds": 1}, "folds"),
        ({"folds": 9}, "synthetic faces: folds: 9 of 8 classes leave 7 classes to train"),
        ({"folds": 2, "hold_out": "images"}, "or fewer data.folds"),
    ],
)
def test_folds_that_cannot_be_are_refused(changes, said):
    with pytest.raises(InputError, match=said):
        load_data(dataclasses.replace(DATA, **changes), 0)
