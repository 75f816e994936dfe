"""Reading torch.save's files without PyTorch: the same numbers, and nothing run."""

import collections
import os
import pickle
import warnings
import zipfile

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.torch_file import read_torch_file

torch = pytest.importorskip("torch")


class Settings:
    """Like the hyper-parameters that training frameworks keep beside the weights."""

    def __init__(self):
        self.rate = 0.1


class Payload:
    """Would leave a file behind if a reader called what a pickle asks for."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def tensors():
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    return {
        "whole": base,
        "part of a storage": base[1, :, 1:3],
        "transposed": base.permute(2, 0, 1),
        "scalar": torch.tensor(7, dtype=torch.int64),
        "empty": torch.zeros(0, 5),
        "half": torch.tensor([0.5, -1.25], dtype=torch.float16),
        "bfloat16": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "double": torch.tensor([1e-300], dtype=torch.float64),
        "flags": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(torch.ones(3)),
    }


@pytest.mark.parametrize("zipped", [True, False])
def test_every_tensor_comes_back(tmp_path, zipped):
    saved = tensors()
    content = {"epoch": 3, "names": ["a", ("b",)], "weights": collections.OrderedDict(saved)}
    torch.save(content, tmp_path / "file.pt", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "file.pt")
    assert read["epoch"] == 3
    assert read["names"] == ["a", ["b"]]
    for name, tensor in saved.items():
        array, expected = read["weights"][name], tensor.detach()
        assert array.shape == tuple(expected.shape)
        assert str(array.dtype) == str(expected.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(
            array.astype(np.float64), expected.double().numpy(), err_msg=name
        )


@pytest.mark.parametrize("zipped", [True, False])
def test_foreign_objects_are_passed_over(tmp_path, zipped):
    content = {"hyper_parameters": Settings(), "numpy": np.float64(2.0), "weight": torch.ones(2)}
    torch.save(content, tmp_path / "file.ckpt", _use_new_zipfile_serialization=zipped)
    read = read_torch_file(tmp_path / "file.ckpt")
    np.testing.assert_array_equal(read["weight"], [1, 1])
    assert read["hyper_parameters"] is None


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run(tmp_path, zipped):
    made = tmp_path / "made by the file"
    torch.save(
        {"weight": torch.ones(2), "x": Payload(str(made))},
        tmp_path / "f",
        _use_new_zipfile_serialization=zipped,
    )
    np.testing.assert_array_equal(read_torch_file(tmp_path / "f")["weight"], [1, 1])
    assert not made.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files_are_named(tmp_path, zipped):
    """Cut anywhere, or with bytes changed, a file is read or refused in one line, and never
    breaks the reader.
    """
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.arange(40.0)}, path, _use_new_zipfile_serialization=zipped)
    good, random = path.read_bytes(), np.random.default_rng(0)
    messages = []
    for trial in range(150):
        bad = bytearray(good)
        if trial % 2:
            bad = bad[: random.integers(len(good))]
        else:
            for place in random.integers(len(good), size=8):
                bad[place] = random.integers(256)
        path.write_bytes(bytes(bad))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # zipfile's about damaged entries
                read_torch_file(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 60
    assert all(message.startswith(str(path)) and "\n" not in message for message in messages)


@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [((1000,), (1,), 0), ((4,), (1,), 2), ((9, 9), (0, 0), 0), ((2,), (-1,), 1)],
)
def test_a_tensor_cannot_reach_outside_its_storage(tmp_path, shape, strides, offset):
    """A forged file: the storage has four numbers, the tensor claims others."""

    def text(value):
        return b"X" + len(value).to_bytes(4, "little") + value.encode()

    def numbers(values):
        return (
            b"("
            + b"".join(b"J" + value.to_bytes(4, "little", signed=True) for value in values)
            + b"t"
        )

    storage = (
        b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x04tQ"
    )
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + numbers([offset])[1:-1]
        + numbers(shape)
        + numbers(strides)
    )
    content = b"\x80\x02}" + text("weight") + call + b"tRs."
    with zipfile.ZipFile(tmp_path / "forged.pt", "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/data/0", np.zeros(4, np.float32).tobytes())
    with pytest.raises(InputError, match=r"forged.pt.*(outside its storage|negative)"):
        read_torch_file(tmp_path / "forged.pt")


@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint", pickle.dumps({"a": 1}), b"PK\x05\x06" + bytes(18)]
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(InputError, match=r"other: is no file of torch.save"):
        read_torch_file(tmp_path / "other")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"absent.pt: cannot be read"):
        read_torch_file(tmp_path / "absent.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_an_absurd_memo_number_is_refused(tmp_path, zipped):
    """The unpickler would make room for it."""
    absurd = b"\x80\x02}r\xff\xff\xff\x7f."  # an empty dict, remembered under 2³¹ − 1
    if zipped:
        with zipfile.ZipFile(tmp_path / "f.pt", "w") as archive:
            archive.writestr("archive/data.pkl", absurd)
    else:
        (tmp_path / "f.pt").write_bytes(absurd)
    with pytest.raises(InputError, match="it asks for more memory than the file could fill"):
        read_torch_file(tmp_path / "f.pt")


def test_a_compressed_pickle_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "f.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
    with pytest.raises(InputError, match="is compressed"):
        read_torch_file(tmp_path / "f.pt")
