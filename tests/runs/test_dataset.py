import dataclasses

import numpy as np
import pytest
from PIL import Image

from arcface_jax.data.samplers import Balanced, Capped, Shuffled
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from arcface_jax.runs.dataset import create_sampler, load_data
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
    person = tmp_path / "faces" / "Bo"
    person.mkdir(parents=True)
    for number in (1, 2):
        Image.new("RGB", (16, 16)).save(person / f"Bo_000{number}.png")
    (tmp_path / "pairs.txt").write_text("1\nBo 1 2\nBo 1 Bo 2\n")
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
