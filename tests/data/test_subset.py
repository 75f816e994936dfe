import re

import numpy as np
import pytest

from arcface_jax.data.check import check_source_labels
from arcface_jax.data.in_memory import MemorySource, load_images, load_source
from arcface_jax.data.source import FaceSource
from arcface_jax.data.subset import Concatenated, Subset, split_fold, split_identities
from arcface_jax.errors import InputError


class Plain(FaceSource):
    """A source with nothing but the required interface."""

    def __init__(self, labels, unreadable=()):
        self.labels = np.asarray(labels, np.int32)
        self.identity_names = [f"person{label}" for label in range(self.labels.max() + 1)]
        self.fingerprint = f"{self.labels.tolist()}"
        self.unreadable = unreadable

    def __getitem__(self, index):
        if index in self.unreadable:
            raise InputError(f"record {index}: damaged")
        return np.full((6, 6, 3), index % 256, np.uint8)


def in_memory(labels):
    plain = Plain(labels)
    return MemorySource(
        load_images(plain, 6), plain.labels, plain.identity_names, plain.fingerprint
    )


def test_a_subset_renumbers_labels_in_the_sources_order():
    subset = Subset(Plain([0, 0, 1, 2, 2, 3]), np.array([4, 5, 0]))
    np.testing.assert_array_equal(subset.labels, [1, 2, 0])
    assert list(subset.identity_names) == ["person0", "person2", "person3"]
    assert [int(subset[i][0, 0, 0]) for i in (0, 1, 2, -1)] == [4, 5, 0, 0]
    with pytest.raises(IndexError):
        subset[3]
    with pytest.raises(InputError, match="images 0 … 6 are outside"):
        Subset(Plain([0, 1]), np.array([0, 6]))


def test_a_subset_offers_what_its_source_offers():
    indices = np.array([3, 1])
    plain = Subset(Plain([0, 0, 1, 1]), indices)
    assert plain.render(np.array([1, 0])) is None
    assert plain.encoded(0) is None
    assert plain.where(0) == "image 3"
    np.testing.assert_array_equal(
        Subset(in_memory([0, 0, 1, 1]), indices).render(np.array([1, 0]))[:, 0, 0, 0], [1, 3]
    )


def test_fingerprints_of_views_differ_by_what_they_show():
    source = Plain([0, 0, 1, 1])
    views = [Subset(source, np.array(i)) for i in ([0, 1], [1, 0], [0, 1, 2])]
    views.append(Concatenated([source, source]))
    assert len({view.fingerprint for view in [*views, source]}) == 5
    assert Subset(source, np.array([0, 1])).fingerprint == views[0].fingerprint


def test_concatenated_keeps_identities_apart():
    both = Concatenated([Plain([0, 1]), Plain([0, 0, 1])])
    np.testing.assert_array_equal(both.labels, [0, 1, 2, 2, 3])
    assert [int(both[i][0, 0, 0]) for i in range(5)] == [0, 1, 0, 1, 2]
    assert len(both.identity_names) == 4
    with pytest.raises(InputError, match="sources: nothing"):
        Concatenated([])


def test_the_split_is_by_identity_and_by_seed():
    source = Plain(np.repeat(np.arange(10), 3))
    train, test = split_identities(source, 0.3, seed=0)
    assert (len(train.identity_names), len(test.identity_names)) == (7, 3)
    assert len(train) + len(test) == len(source)
    assert not set(train.identity_names) & set(test.identity_names)
    np.testing.assert_array_equal(np.unique(test.labels), [0, 1, 2])
    again = split_identities(source, 0.3, seed=0)
    assert [train.fingerprint, test.fingerprint] == [part.fingerprint for part in again]
    assert split_identities(source, 0.3, seed=1)[1].identity_names != test.identity_names


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, float("nan")])
def test_a_fraction_outside_0_1_is_refused(fraction):
    with pytest.raises(InputError, match="test_fraction = "):
        split_identities(Plain([0, 1, 2, 3]), fraction, seed=0)


@pytest.mark.parametrize(("identities", "fraction"), [(1, 0.5), (3, 0.5), (10, 0.1), (10, 0.9)])
def test_a_side_with_fewer_than_two_identities_is_refused(identities, fraction):
    with pytest.raises(InputError, match=f"of {identities} identit(y|ies) leaves"):
        split_identities(Plain(np.arange(identities)), fraction, seed=0)


def test_loading_resizes_reports_progress_and_keeps_order():
    done = []
    loaded = load_source(Plain(np.arange(600) % 200), 4, progress=done.append)
    assert loaded.images.shape == (600, 4, 4, 3)
    np.testing.assert_array_equal(loaded.images[:, 0, 0, 0], np.arange(600) % 256)
    assert sum(done) == 600
    assert len(done) > 1
    np.testing.assert_array_equal(loaded[7], loaded.images[7])


def test_unreadable_images_raise_or_are_skipped_and_counted():
    source = Plain([0, 0, 1, 1], unreadable=(1, 2, 3))
    with pytest.raises(InputError, match=r"record [123]: damaged"):
        load_images(source, 6)
    loaded = load_source(source, 6, on_unreadable="skip")
    assert len(loaded) == 1
    assert loaded.skipped == tuple(f"record {i}: damaged" for i in (1, 2, 3))
    np.testing.assert_array_equal(loaded.labels, [0])
    with pytest.raises(
        InputError, match="none of the 2 images can be decoded; the first: record 0"
    ):
        load_source(Plain([0, 1], unreadable=(0, 1)), 6, on_unreadable="skip")


@pytest.mark.parametrize(
    ("unreadable", "labels", "left", "emptied"),
    [
        ((), [0, 0, 1, 2, 2, 3], [0, 1, 2, 3], []),
        ((0,), [0, 1, 2, 2, 3], [0, 1, 2, 3], []),
        ((2,), [0, 0, 1, 1, 2], [0, 2, 3], [1]),
        ((0, 1, 5), [0, 1, 1], [1, 2], [0, 3]),
        ((0, 2, 3, 4), [0, 1], [0, 3], [1, 2]),
    ],
)
def test_identities_without_an_image_are_no_classes(unreadable, labels, left, emptied):
    source = Plain([0, 0, 1, 2, 2, 3], unreadable)
    loaded = load_source(source, 6, on_unreadable="skip")
    assert loaded.labels.tolist() == labels
    assert list(loaded.identity_names) == [source.identity_names[label] for label in left]
    assert list(loaded.emptied) == [source.identity_names[label] for label in emptied]
    assert loaded.kept.tolist() == [index for index in range(6) if index not in unreadable]
    check_source_labels(loaded)
    assert (loaded.fingerprint == source.fingerprint) == (not unreadable)
    assert loaded.fingerprint == load_source(source, 9, on_unreadable="skip").fingerprint


class Named(Plain):
    """With a path for each image."""

    def __init__(self, labels, paths):
        super().__init__(labels)
        self.paths = paths

    def path(self, index):
        return self.paths[index]


def folds_of(source, folds, **options):
    """int [N], the fold that holds out each image, -1 for none; each fold's sides are disjoint."""
    held_in = np.full(len(source), -1)
    for fold in range(folds):
        train, test = split_fold(source, folds, fold, 3, **options)
        assert sorted([*train.indices, *test.indices]) == list(range(len(source)))
        assert (held_in[test.indices] == -1).all()
        held_in[test.indices] = fold
    return held_in


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_folds_of_classes_share_none_and_hold_out_all(folds):
    labels = np.repeat(np.arange(11), 3)
    held_in = folds_of(Plain(labels), folds)
    assert (held_in.reshape(11, 3) == held_in.reshape(11, 3)[:, :1]).all()
    sizes = np.bincount(held_in[::3], minlength=folds)
    assert sizes.max() - sizes.min() <= 1


def test_folds_of_images_have_as_many_of_each_class_as_can_be(caplog):
    labels = np.repeat(np.arange(4), [10, 7, 2, 1])
    held_in = folds_of(Plain(labels), 3, by="images")
    for own, least in ((0, 3), (1, 2), (2, 0)):
        counts = np.bincount(held_in[labels == own], minlength=3)
        assert (counts.min(), counts.max() - counts.min() <= 1) == (least, True)
    assert held_in[-1] == -1  # its class would not be trained on
    assert (
        "2 of 4 classes, such as person2, have fewer images than the 3 folds, and are in some "
        "folds not tested; 1 have one, and are only trained on" in caplog.text
    )


def test_a_group_is_held_out_as_a_whole():
    labels = np.repeat(np.arange(4), 6)
    paths = [f"{label}/day{number // 2}-{number}.png" for label in range(4) for number in range(6)]
    held_in = folds_of(Named(labels, paths), 3, by="images", groups=r"^\d/day\d")
    assert (held_in.reshape(-1, 2) == held_in.reshape(-1, 2)[:, :1]).all()
    assert (np.sort(held_in.reshape(4, 3, 2)[:, :, 0]) == [0, 1, 2]).all()
    # A group over several classes, by its parenthesis.
    days = folds_of(Named(labels, paths), 3, by="images", groups=r"day(\d)")
    assert all(len({days[i] for i in range(24) if f"day{day}" in paths[i]}) == 1 for day in "012")
    # Of classes: what shares a group is held out together.
    pairs = [f"{'ab'[label // 2]}/{label}/{n}.png" for label in range(4) for n in range(6)]
    classes = folds_of(Named(labels, pairs), 2, groups="^.")
    assert (classes[:12] == classes[0]).all()
    assert (classes[12:] == 1 - classes[0]).all()


@pytest.mark.parametrize(
    ("labels", "folds", "options", "said"),
    [
        ([0, 0, 1, 1], 1, {}, "folds: 1; give 2 or more"),
        ([0, 0, 1, 1, 2, 2], 3, {}, "leave 2 classes to train on and 1 to test"),
        ([0, 0, 1, 1, 2, 2], 4, {}, "folds: 4 of 3 classes"),
        ([0, 1, 2, 3], 2, {"by": "images"}, "give fewer folds, or more images of a class"),
        ([0, 0, 1, 1], 2, {"groups": "("}, "is no regular expression"),
        ([0, 0, 1, 1], 2, {"groups": "day"}, "does not match image 0; every image needs a group"),
    ],
)
def test_folds_that_cannot_be_are_refused(labels, folds, options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        split_fold(Plain(labels), folds, 0, 0, **options)
