"""Reads `torch.save` and safetensors files, without PyTorch and without running their code.

Reads both formats of `torch.save`: the zip archive (PyTorch ≥ 1.6) and the older sequence of
pickles. An unpickler that knows a few harmless callables rebuilds tensors as NumPy arrays. Every
other class or function in a file, such as a training framework's settings, becomes an inert
placeholder: it is neither imported nor called.
"""

import collections
import dataclasses
import io
import math
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from typing import IO, Any

import ml_dtypes
import numpy as np
import safetensors

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.errors import DAMAGED, InputError, printable, reason
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
_SAFETENSORS_DTYPES: dict[str, Any] = {
    **{"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16},
    **{"I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8},
    **{"U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_},
}

_PROGRAMS = (
    ("TorchScript", "constants.pkl", "torch.jit.load(FILE).state_dict()"),
    ("torch.export", "serialized_exported_program.json", "torch.export.load(FILE).state_dict"),
    ("torch.export", "archive_format", "torch.export.load(FILE).state_dict"),
)
"""Kinds of archive without weights, an entry that only they have, and how to get the weights."""


@dataclasses.dataclass(frozen=True)
class _Storage:
    """Where a tensor's numbers are: entry `key`, `count` of them. For an unsupported type, `unread`
    holds its name.
    """

    key: str
    dtype: np.dtype
    count: int
    unread: str = ""


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    unread: str = ""

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The tensor as an array of its own; ValueError if it exceeds the storage."""
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


@dataclasses.dataclass(frozen=True)
class PickledModule:
    """Stands for a whole torch.nn.Module, which was not created; `name` is its class."""

    name: str


class _Inert:
    """Stands for an object that is not weights; ignores all pickle operations on it."""

    name = ""
    is_module = False

    def __new__(cls, *_: Any, **__: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def _ignore(self, *_: Any, **__: Any) -> "_Inert":
        return self

    __setitem__ = append = extend = add = __call__ = _ignore

    def __setstate__(self, state: Any) -> None:
        self.is_module = isinstance(state, dict) and "_modules" in state


def _rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides), storage.unread)


def _rebuild_other(kind: str) -> Callable[..., _Tensor]:
    """Stands for the constructor of an unsupported kind of tensor; an argument may name it."""

    def rebuild(*parts: Any) -> _Tensor:
        names = [one.name for one in parts if isinstance(one, type) and issubclass(one, _Inert)]
        name = names[0].removeprefix("torch.") if names else kind
        return _Tensor(_Storage("", np.dtype(np.uint8), 0), 0, (), (), name)

    return rebuild


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


class _Unpickler(pickle.Unpickler):
    storages: dict[str, _Storage]
    _ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {  # noqa: RUF012
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    }

    def find_class(self, module: str, name: str) -> Any:
        """The harmless stand-in for a global; nothing is imported."""
        if module == "torch" and name in _DTYPES:
            return np.dtype(_DTYPES[name])
        inert = type("_Inert", (_Inert,), {"name": printable(f"{module}.{name}")[:80]})
        kind = re.fullmatch(r"_rebuild_(\w*tensor)(_v\d)?", name)
        if module == "torch._utils" and kind and (module, name) not in self._ALLOWED:
            known = {"tensor": "another type", "qtensor": "a quantised tensor"}
            return _rebuild_other(known.get(kind[1], f"a {kind[1].replace('_', ' ')}"))
        return self._ALLOWED.get((module, name), inert)

    def persistent_load(self, pid: Any) -> Any:
        """The storage of a tensor, or the stand-in for a module's class."""
        if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module":
            return pid[1]
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise pickle.UnpicklingError("it has a tensor of an unknown kind")
        if len(pid) > 5 and pid[5] is not None:
            raise pickle.UnpicklingError("a view of a storage, as PyTorch before 0.4 wrote them")
        kind, unread = pid[1], ""
        if not isinstance(kind, np.dtype):
            name = getattr(kind, "name", "").rpartition(".")[2].removesuffix("Storage")
            kind, unread = np.dtype(np.uint8), name.lower() or "another type"
        storage = _Storage(str(pid[2]), kind, int(pid[4]), unread)
        return self.storages.setdefault(storage.key, storage)


def read_torch_file(path: str | os.PathLike[str], part: str | None = None) -> Any:
    """The object in a `torch.save` file: dicts, lists, numbers, text, tensors as NumPy arrays, a
    `PickledModule` for a module, None for all else; for a safetensors file a dict of arrays.

    Args:
      path: .pt, .pth, .ckpt, .safetensors or any other name.
      part: if the file holds a dict with this key, read only its value.

    Raises:
      InputError: the file is missing, damaged or of no known format, or holds a program or a module
        instead of weights; the message says how to save the weights.
    """
    path = as_path(path)
    kind = "file of torch.save"
    try:
        with path.open("rb") as file:
            if path.suffix == ".safetensors" or _begins_as_safetensors(file):
                kind = "safetensors file"
                return _read_safetensors(path.read_bytes())
            if zipfile.is_zipfile(file):
                return _read_zip(file, part)
            file.seek(0)
            if file.read(4) == b"PK\3\4":
                raise InputError("is cut short: the end of it is missing; copy it again, whole")
            return _read_sequence(file, part)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check the path") from error
    except UnicodeError as error:
        raise InputError(f"{path}: is no {kind} that can be read ({DAMAGED})") from error
    except Exception as error:
        # Whatever a pickle or archive can raise that is damaged or was made to do harm.
        raise InputError(f"{path}: is no {kind} that can be read ({reason(error)})") from error


def _begins_as_safetensors(file: IO[bytes]) -> bool:
    """Whether the file has a safetensors header: its length in 8 bytes, then JSON."""
    start = file.read(9)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") <= size - 8


def _read_safetensors(content: bytes) -> dict[str, np.ndarray]:
    arrays = {}
    for name, about in safetensors.deserialize(content):
        if about["dtype"] not in _SAFETENSORS_DTYPES:
            raise InputError(
                f"{name} is stored as {about['dtype']}, which is not read; store it as float32"
            )
        numbers = np.frombuffer(about["data"], _SAFETENSORS_DTYPES[about["dtype"]])
        arrays[name] = numbers.reshape(about["shape"])
    return arrays


def _load(file: IO[bytes], size: int, storages: dict[str, _Storage] | None = None) -> Any:
    """The next pickle of a file of `size` bytes; notes the storages it uses."""
    start = file.tell()
    check_memo_numbers(file, size)
    file.seek(start)
    unpickler = _Unpickler(file)
    unpickler.storages = {} if storages is None else storages
    return unpickler.load()


def _refuse_program(names: Sequence[str]) -> None:
    """Refuses archives of programs, by the names of their entries."""
    for kind, mark, loaded in _PROGRAMS:
        if any(name.rpartition("/")[2] == mark for name in names):
            raise InputError(
                f"is a program of {kind}, not weights; save these in PyTorch: "
                f"torch.save({loaded}, 'weights.pt')"
            )


def _weights_part(loaded: Any, part: str | None) -> Any:
    """`loaded`, or only this part if it has one.

    Raises:
      InputError: it is a module.
    """
    if isinstance(loaded, _Inert) and loaded.is_module:
        raise InputError(
            f"is a whole module ({loaded.name}), not its weights; save these where its code is: "
            "torch.save(torch.load(FILE, weights_only=False).state_dict(), 'weights.pt')"
        )
    return {part: loaded[part]} if isinstance(loaded, dict) and part in loaded else loaded


def _read_zip(file: IO[bytes], part: str | None) -> Any:
    with zipfile.ZipFile(file) as archive:
        _refuse_program(archive.namelist())
        listings = [name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl"]
        if len(listings) != 1:
            raise ValueError(f"it has {number_of(len(listings), 'entry')} data.pkl instead of one")
        (listing,) = listings
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
        loaded = _weights_part(_load(io.BytesIO(content), len(content)), part)
        _check_types(loaded)
        read: dict[str, np.ndarray] = {}

        def numbers(storage: _Storage) -> np.ndarray:
            if storage.key not in read:
                entry = archive.getinfo(f"{root}data/{storage.key}")
                if entry.compress_type != zipfile.ZIP_STORED:
                    raise ValueError(f"storage {storage.key} is compressed")
                read[storage.key] = np.frombuffer(archive.read(entry), storage.dtype)
            return _checked(read[storage.key], storage)

        return _with_arrays(loaded, numbers)


def _read_sequence(file: IO[bytes], part: str | None) -> Any:
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if _load(file, size) != _MAGIC:
        raise ValueError("it does not begin as such files do")
    storages: dict[str, _Storage] = {}
    _, about, loaded = (_load(file, size, storages) for _ in range(3))
    wanted = _weights_part(loaded, part)
    _check_types(wanted)
    if not about["little_endian"]:
        raise ValueError("it is of a big-endian machine")
    read: dict[str, np.ndarray] = {}
    for key in _load(file, size):
        count = int.from_bytes(file.read(8), "little")
        if key not in storages or count != storages[key].count:
            raise ValueError(
                f"storage {key} has {number_of(count, 'number')}, which no tensor says"
            )
        if storages[key].unread:
            raise ValueError("it has a tensor of an unknown kind")
        content = file.read(count * storages[key].dtype.itemsize)
        read[key] = np.frombuffer(content, storages[key].dtype)
    return _with_arrays(wanted, lambda storage: _checked(read[storage.key], storage))


def _check_types(value: Any, key: str = "the tensor") -> None:
    """Refuses a tensor of an unsupported type, by its name."""
    if isinstance(value, _Tensor) and value.unread:
        raise InputError(
            f"{key} is stored as {value.unread}, which is not read; store it as float32"
        )
    if isinstance(value, dict) and "param_groups" not in value:
        for name, item in value.items():
            _check_types(item, str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _check_types(item, f"{key} {number}")


def _checked(numbers: np.ndarray, storage: _Storage) -> np.ndarray:
    if len(numbers) != storage.count or numbers.dtype != storage.dtype:
        raise ValueError(
            f"storage {storage.key} has {number_of(len(numbers), 'number')} instead of "
            f"{storage.count}"
        )
    return numbers


def _with_arrays(value: Any, numbers: Callable[[_Storage], np.ndarray]) -> Any:
    """`value` with every tensor read."""
    if isinstance(value, _Tensor) and value.unread:  # of an optimiser
        return None
    if isinstance(value, _Tensor):
        return value.read(numbers(value.storage))
    if isinstance(value, dict):
        return {key: _with_arrays(item, numbers) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_arrays(item, numbers) for item in value]
    if isinstance(value, _Inert):
        return PickledModule(value.name) if value.is_module else None
    return value
