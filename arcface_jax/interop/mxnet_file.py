"""Reads PREFIX-0000.params, as MXNet's `save_checkpoint` writes it, without MXNet.

    0x112, 0: uint64 each
    number of arrays: uint64, then each array
    number of names: uint64, then each name: its length uint64, UTF-8

Little-endian. The first number of an array tells its layout:

    0xF993FAC9, since MXNet 1.0, and 0xF993FACA, of NumPy's shapes:
                kind of storage int32, number of axes int32, axes int64, device 2·int32, type int32
    0xF993FAC8: number of axes uint32, axes int64, device, type
    any other:  which is the number of axes; axes uint32, device, type

then its numbers, or nothing if it has no axes (with NumPy's shapes: no known axes).

Source: src/ndarray/ndarray.cc of https://github.com/apache/mxnet.
"""

import dataclasses
import math
import os
import struct
from typing import Any

import ml_dtypes
import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.errors import CUT_OFF, InputError, reason

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_TYPES: tuple[Any, ...] = (
    *(np.float32, np.float64, np.float16, np.uint8, np.int32, np.int8, np.int64, np.bool_),
    *(np.int16, np.uint16, np.uint32, np.uint64, ml_dtypes.bfloat16),
)
"""By their numbers in a file, see mshadow/base.h."""
_SPARSE = {1: ("row-sparse", 1), 2: ("compressed sparse rows", 2)}
"""Unsupported kinds of storage: their names, and their number of index arrays."""
_MOST_AXES = 32


@dataclasses.dataclass(frozen=True)
class _Unread:
    """Stands for an array of an unsupported kind."""

    kind: str


class _Reader:
    """Steps through the bytes of a file."""

    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def numbers(self, layout: str, count: int = 1) -> tuple[int, ...]:
        """`count` numbers of a layout of `struct`."""
        return struct.unpack(f"<{count}{layout}", self.take(count * struct.calcsize(layout)))

    def number(self, layout: str) -> int:
        """One such number."""
        return self.numbers(layout)[0]

    def take(self, size: int) -> memoryview:
        """The next bytes, without a copy."""
        if size > len(self._content) - self._at:
            raise ValueError(CUT_OFF)
        self._at += size
        return memoryview(self._content)[self._at - size : self._at]

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._content) - self._at


def read_params(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The arrays of a .params file by name, without the prefix `arg:` or `aux:`.

    Leaves out arrays without axes: MXNet never filled these.

    Raises:
      InputError: the file is missing, damaged or of another format; an array is sparse or of an
        unknown type; or names are missing or repeated.
    """
    path = as_path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)}); check the path") from error
    if content[:4] == b"PK\3\4":
        raise InputError(
            f"{path}: is an archive, as MXNet 2 writes it; save it with MXNet 1, by mx.nd.save or "
            "mx.model.save_checkpoint"
        )
    try:
        arrays = _read(_Reader(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Exception as error:  # whatever a damaged file can ask for
        raise InputError(
            f"{path}: is no file of MXNet's parameters that can be read ({reason(error)})"
        ) from error
    return arrays


def _read(file: _Reader) -> dict[str, np.ndarray]:
    if file.numbers("Q", 2)[0] != _MAGIC:
        raise ValueError("it does not begin as such files do")
    arrays = [_array(file, place) for place in range(_checked(file.number("Q"), file.left))]
    count = file.number("Q")
    if not count and not file.left and any(array is not None for array in arrays):
        raise InputError(
            f"has no names for its {number_of(len(arrays), 'array')}; save it by "
            "mx.model.save_checkpoint, which names each"
        )
    if count != len(arrays):
        raise InputError(
            f"is damaged, as one whose download stopped: {number_of(len(arrays), 'array', 'are')} "
            f"followed by {number_of(count, 'name')}; fetch or save it anew"
        )
    found: dict[str, np.ndarray] = {}
    names: set[str] = set()
    for array in arrays:
        text = bytes(file.take(file.number("Q"))).decode()
        name = text.removeprefix("arg:").removeprefix("aux:")
        if not name:
            raise InputError(
                f"is damaged: array {len(names)} has an empty name; fetch or save it anew"
            )
        if name in names:
            raise InputError(f"{name}: is in it twice; save it anew, each array once")
        names.add(name)
        if isinstance(array, _Unread):
            raise InputError(f"{name} is stored as {array.kind}, which is not read; store it dense")
        if array is not None:
            found[name] = array
    if file.left:
        raise ValueError(f"{number_of(file.left, 'byte', 'come')} after its end")
    return found


def _array(file: _Reader, place: int) -> np.ndarray | _Unread | None:
    """The next array; None if it was never filled."""
    magic = file.number("I")
    storage = file.number("i") if magic in (_V2, _V3) else 0
    if storage not in (0, *_SPARSE):
        raise InputError(f"array {place} has the kind of storage {storage}, which MXNet has not")
    kind, places = _SPARSE.get(storage, ("", 0))
    stored = _axes(file, file.number("i")) if places else ()
    if magic in (_V2, _V3):
        count = file.number("i")
        if count == (-1 if magic == _V3 else 0):
            return None
        shape = _axes(file, count)
    else:
        count = file.number("I") if magic == _V1 else magic
        if count == 0:
            return None
        shape = _axes(file, count, "q" if magic == _V1 else "I")
    file.numbers("i", 2)  # the device that it was on
    dtype = _type(file.number("i"), place)
    if not places:
        numbers = np.frombuffer(file.take(math.prod(shape) * dtype.itemsize), dtype)
        return numbers.reshape(shape)
    beside = [
        (_type(file.number("i"), place), _axes(file, file.number("i"))) for _ in range(places)
    ]
    if storage == 1:  # what is stored of it says 0 rows
        stored = (*beside[0][1], *shape[1:])
    for each_type, each_shape in [(dtype, stored), *beside]:
        file.take(math.prod(each_shape) * each_type.itemsize)
    return _Unread(kind)


def _axes(file: _Reader, count: int, layout: str = "q") -> tuple[int, ...]:
    shape = file.numbers(layout, _checked(count, _MOST_AXES))
    for size in shape:
        _checked(size, 2**48)
    return shape


def _type(number: int, place: int) -> np.dtype:
    if not 0 <= number < len(_TYPES):
        raise InputError(
            f"array {place} is of the type {number}, which is not known; store float32"
        )
    return np.dtype(_TYPES[number])


def _checked(size: int, most: int) -> int:
    if not 0 <= size <= most:
        raise ValueError(f"a size in it is {size}")
    return size
