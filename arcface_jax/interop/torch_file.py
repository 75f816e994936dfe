"""Reads what `torch.save` wrote, without PyTorch and without running anything in the file.

Both formats: the zip archive (PyTorch ≥ 1.6) and the sequence of pickles before it. An unpickler
that knows three harmless callables rebuilds tensors as NumPy arrays. Every other class or function
that a file names, such as a training framework's settings beside the weights, becomes an inert
placeholder: it is neither imported nor called.
"""

import collections
import dataclasses
import io
import math
import os
import pathlib
import pickle
import zipfile
from collections.abc import Callable
from typing import IO, Any

import ml_dtypes
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.pickles import check_memo_numbers

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, Any] = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Where a tensor's numbers are: entry `key`, `count` of them."""

    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor as an array of its own; ValueError where it leaves the storage."""
        if any(not isinstance(n, int) or n < 0 for n in (self.offset, *self.shape, *self.strides)):
            raise ValueError("a tensor has a negative size")
        if len(self.shape) != len(self.strides) or len(self.shape) > 32:
            raise ValueError("a tensor's sizes and strides do not match")
        count = math.prod(self.shape)
        last = self.offset + sum(
            (n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True)
        )
        if count and (last >= len(numbers) or count > len(numbers)):
            raise ValueError("a tensor reaches outside its storage")
        if count == 0:
            return np.empty(self.shape, numbers.dtype)
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


class _Inert:
    """Stands for an object that is not weights; ignores all that a pickle does to it."""

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def _ignore(self, *_: Any, **__: Any) -> "_Inert":
        return self

    __setstate__ = __setitem__ = append = extend = add = __call__ = _ignore


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _Unpickler(pickle.Unpickler):
    _ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The harmless stand-in for a global; nothing is imported."""
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        return self._ALLOWED.get((module, name), _Inert)

    def persistent_load(self, pid: Any) -> _Storage:
        """The storage that a tensor refers to."""
        if (
            not isinstance(pid, tuple)
            or len(pid) < 5
            or pid[0] != "storage"
            or not isinstance(pid[1], np.dtype)
        ):
            raise pickle.UnpicklingError(f"an unknown kind of storage, {str(pid)[:80]}")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as PyTorch before 0.4 wrote them")
        return _Storage(str(pid[2]), pid[1], int(pid[4]))


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """The object in a `torch.save` file: dicts, lists, numbers, text, tensors as NumPy arrays.

    Args:
      path: .pt, .pth, .ckpt or however it is called.

    Raises:
      InputError: the file is missing, is of no known format, or is damaged.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_sequence(file)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror or error}); check the path"
        ) from error
    except Exception as error:
        # Whatever a pickle or archive can raise that is damaged or was made to do harm.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: is no file of torch.save that can be read ({reason})") from error


def _load(file: IO[bytes], size: int) -> Any:
    """The next pickle of a file of `size` bytes."""
    start = file.tell()
    check_memo_numbers(file, size)
    file.seek(start)
    return _Unpickler(file).load()


def _read_zip(file: IO[bytes]) -> Any:
    with zipfile.ZipFile(file) as archive:
        (listing,) = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        root = listing.removesuffix("data.pkl")
        if (
            root + "byteorder" in archive.namelist()
            and archive.read(root + "byteorder") != b"little"
        ):
            raise ValueError("it is of a big-endian machine")
        # torch.save never compresses: a size beyond the file's own is an attack on the memory.
        if archive.getinfo(listing).compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{listing} is compressed")
        content = archive.read(listing)
        loaded = _load(io.BytesIO(content), len(content))
        read: dict[str, np.ndarray] = {}

        def numbers(storage: _Storage) -> np.ndarray:
            if storage.key not in read:
                entry = archive.getinfo(f"{root}data/{storage.key}")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"storage {storage.key} is compressed")
                read[storage.key] = np.frombuffer(archive.read(entry), storage.dtype)
            return _checked(read[storage.key], storage)

        return _with_arrays(loaded, numbers)


def _read_sequence(file: IO[bytes]) -> Any:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if _load(file, size) != _MAGIC:
        raise ValueError("its first pickle is not torch.save's mark")
    _, about, loaded = (_load(file, size) for _ in range(3))
    if not about["little_endian"]:
        raise ValueError("it is of a big-endian machine")
    storages: dict[str, _Storage] = {}
    _with_arrays(loaded, lambda storage: storages.setdefault(storage.key, storage), rebuild=False)
    read: dict[str, np.ndarray] = {}
    for key in _load(file, size):
        count = int.from_bytes(file.read(8), "little")
        if key not in storages or count != storages[key].count:
            raise ValueError(f"storage {key} has {count} numbers, which no tensor says")
        content = file.read(count * storages[key].dtype.itemsize)
        read[key] = np.frombuffer(content, storages[key].dtype)
    return _with_arrays(loaded, lambda storage: _checked(read[storage.key], storage))


def _checked(numbers: np.ndarray, storage: _Storage) -> np.ndarray:
    if len(numbers) != storage.count or numbers.dtype != storage.dtype:
        raise ValueError(
            f"storage {storage.key} has {len(numbers)} numbers instead of {storage.count}"
        )
    return numbers


def _with_arrays(value: Any, numbers: Callable[[_Storage], Any], rebuild: bool = True) -> Any:
    """`value` with every tensor read; without `rebuild`, `numbers` is only called a storage."""
    if isinstance(value, _Tensor):
        found = numbers(value.storage)
        return value.read(found) if rebuild else None
    if isinstance(value, dict):
        return {key: _with_arrays(item, numbers, rebuild) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_arrays(item, numbers, rebuild) for item in value]
    return None if isinstance(value, _Inert) else value
