import sys

import numpy as np
import pytest
import tensorflow_datasets

from arcface_jax.data import tfds_builders
from arcface_jax.data.convert import convert
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.data.sources.tfds import TfdsSource
from arcface_jax.data.synthetic import SyntheticFaces
from arcface_jax.errors import InputError
from tests import processes


def test_synthetic_faces_are_those_of_the_generator(tmp_path):
    config = tfds_builders.SyntheticConfig(
        name="tiny",
        train_identities=3,
        test_identities=2,
        images_per_identity=2,
        image_size=16,
        seed=4,
    )
    builder = tensorflow_datasets.builder(
        "synthetic_faces", config=config, data_dir=tmp_path, file_format="array_record"
    )
    builder.download_and_prepare()
    for split, count, first in (("train", 3, 0), ("test", 2, 3)):
        drawn = SyntheticFaces(count, 2, image_size=16, seed=4, first_identity=first)
        source = TfdsSource(builder.data_dir, split)
        assert list(source.identity_names) == list(drawn.identity_names)
        np.testing.assert_array_equal(source.labels, drawn.labels)
        for index in range(len(drawn)):
            np.testing.assert_array_equal(source[index], drawn[index])


def test_the_named_configurations_have_disjoint_people():
    for name, train, test in (("standard", 1000, 200), ("small", 50, 20)):
        builder = tensorflow_datasets.builder(f"synthetic_faces/{name}")
        names = builder.info.features["label"].names
        assert len(set(names)) == train + test


@pytest.mark.parametrize("packed", [False, True])
def test_files_become_a_tfds_set_bit_for_bit(tmp_path, write_tree, packed):
    source = FolderSource(write_tree(tmp_path / "faces", {"a": 2, "b": 3}))
    path = tmp_path / "faces"
    if packed:
        path = tmp_path / "rec"
        convert(source, path, "recordio")
    builder = tensorflow_datasets.builder(
        "face_files", path=str(path), data_dir=tmp_path / "tfds", file_format="array_record"
    )
    builder.download_and_prepare()
    written = TfdsSource(builder.data_dir)
    assert [written.encoded(index) for index in range(5)] == [
        source.encoded(index) for index in range(5)
    ]
    np.testing.assert_array_equal(written.labels, source.labels)
    assert list(written.identity_names) == ["a", "b"]


def test_a_builder_without_a_place_is_refused():
    with pytest.raises(InputError, match="face_files: give the images' place"):
        tensorflow_datasets.builder("face_files")


def test_neither_building_nor_reading_imports_tensorflow(tmp_path):
    program = (
        "import sys, tensorflow_datasets as tfds, arcface_jax.data.tfds_builders as b\n"
        "c = b.SyntheticConfig(name='t', train_identities=2, test_identities=2, "
        "images_per_identity=1, image_size=8)\n"
        f"x = tfds.builder('synthetic_faces', config=c, data_dir={str(tmp_path)!r}, "
        f"file_format='array_record')\n"
        "x.download_and_prepare()\n"
        "assert len(x.as_data_source(split='train')) == 2\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    done = processes.run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
