"""Models in object storage are read and written as those on a disk."""

import numpy as np
import pytest

from arcface_jax.buckets import as_path
from arcface_jax.commands.command import check_new_file, check_there, make_folder, read_options
from arcface_jax.commands.models import check_model
from arcface_jax.commands.partial import Partial
from arcface_jax.errors import InputError
from arcface_jax.files import replace_whole
from arcface_jax.interop import torch as torch_module
from arcface_jax.interop.mxnet_file import read_params
from arcface_jax.interop.torch import read_class_weights, save_safetensors
from arcface_jax.interop.torch_file import read_torch_file
from experiments.export import Arguments, new_folder
from tests.interop.mxnet_networks import params_file


def test_weights_are_written_to_and_read_from_a_bucket(bucket, monkeypatch):
    weights = {"conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    monkeypatch.setattr(torch_module, "export_state_dict", lambda model: weights)
    save_safetensors(None, bucket / "model.safetensors")
    found = read_torch_file(str(bucket / "model.safetensors"))
    np.testing.assert_array_equal(found["conv.weight"], weights["conv.weight"])
    (bucket / "a.params").write_bytes(params_file({"arg:x": np.ones(3, np.float32)}))
    assert list(read_params(bucket / "a.params")) == ["x"]
    with pytest.raises(InputError, match=r"memory://\w+/none.pt: cannot be read"):
        read_torch_file(bucket / "none.pt")


def test_the_parts_of_a_classifier_are_found_beside_each_other_in_a_bucket(bucket, monkeypatch):
    for rank in (0, 1):
        rows = {"weight": np.full((2, 4), rank, np.float32)}
        monkeypatch.setattr(torch_module, "export_state_dict", lambda model, rows=rows: rows)
        save_safetensors(None, bucket / f"softmax_rank_{rank}.safetensors")
    found = read_class_weights(bucket / "softmax_rank_0.safetensors", 4)
    np.testing.assert_array_equal(found[:, 0], [0, 0, 1, 1])


def test_an_option_that_is_a_path_keeps_its_bucket(bucket):
    for wrong in ("az://x/y", "file://x/y"):
        with pytest.raises(InputError, match=rf"{wrong}: of no storage known here"):
            read_options(Arguments, "export", "", [wrong, "out"])
    for nearly in ("s3:x", "gs//x/y", "S3:x/y"):
        with pytest.raises(InputError, match=rf"{nearly}: give a path in a bucket as s3://BUCKET"):
            read_options(Arguments, "export", "", [nearly, "out"])
    (bucket / "model").write_bytes(b"1")
    (bucket / "x.bin").write_bytes(b"1")
    given = [str(bucket / "model"), str(bucket / "out"), "--verify", str(bucket / "x.bin")]
    options = read_options(Arguments, "export", "", given)
    assert options.model == bucket / "model"
    assert options.folder == bucket / "out"
    with pytest.raises(InputError, match=r"memory://\w+/none: no such file or folder"):
        read_options(Arguments, "export", "", [str(bucket / "none"), "out"])


def test_an_export_is_in_a_bucket_as_a_whole_or_not_at_all(bucket):
    with new_folder(bucket / "export") as local:
        (local / "card.json").write_text("{}")
        assert not (bucket / "export").exists()
    assert (bucket / "export").find() == {"card.json": 2}
    with pytest.raises(ZeroDivisionError), new_folder(bucket / "half") as local:
        (local / "card.json").write_text(str(1 / 0))
    assert not (bucket / "half").exists()


def test_places_in_a_bucket_are_checked_before_the_work(bucket, monkeypatch):
    make_folder(bucket / "new")
    check_new_file(bucket / "new/file.npz")
    assert bucket.find() == {}
    (bucket / "file").write_bytes(b"1")
    check_there(bucket / "file")
    check_model(bucket / "file")
    with pytest.raises(InputError, match="exists already"):
        check_new_file(bucket / "file")

    def refuse(scheme):
        raise PermissionError("Forbidden")

    monkeypatch.setattr("arcface_jax.buckets.requests.file_system", refuse)
    with pytest.raises((InputError, PermissionError), match="the storage refuses these"):
        make_folder(bucket / "new")


def test_embeddings_go_to_a_bucket_when_they_are_done(bucket):
    partial = Partial(bucket / "faces.npy", 3, 2, {})
    partial.rows[:] = 1
    partial.save(3)
    replace_whole(partial.path, bucket / "faces.npy")
    partial.discard()
    assert list(bucket.find()) == ["faces.npy"]
    with as_path(str(bucket / "faces.npy")).open("rb") as file:
        np.testing.assert_array_equal(np.load(file), np.ones((3, 2), np.float32))
