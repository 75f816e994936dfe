"""Published verification sets in one file: insightface's `.bin`."""

import io
import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.counts import number_of
from arcface_jax.data.pairs import Pairs
from arcface_jax.data.sources.encoded import EncodedSource, checked_index
from arcface_jax.errors import InputError, readable, reason
from arcface_jax.pickles import check_memo_numbers

_NUMPY_MODULES = (
    "numpy.core.multiarray",
    "numpy._core.multiarray",
    "numpy.core.numeric",
    "numpy._core.numeric",
    "numpy",
)


class BinSource(EncodedSource):
    """A `.bin` verification set (lfw.bin, cfp_fp.bin, agedb_30.bin …) of insightface.

    The file is a pickle of a list of encoded images and a list of booleans; images 2i and 2i + 1
    are pair i. Pickles can run any program, so the unpickler here builds only lists, bytes,
    booleans and uint8 arrays and refuses everything else.

    The file names no people: the two images of a same pair share a label, and every other image has
    its own. So evaluate on `pairs`; `labels` alone miss people who recur.

    Attributes:
      pairs: the file's list; `open.open_set` arranges it in folds.

    Raises:
      InputError: the file is missing, damaged, or holds anything else.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self._path = os.fspath(path)
        self._images, same = _read_bin(self._path)
        count = len(same)
        first = np.arange(count, dtype=np.int64) * 2
        self.pairs = Pairs(first, first + 1, same)
        own = np.arange(2 * count)
        own[1::2][same] = own[0::2][same]
        _, labels = np.unique(own, return_inverse=True)
        self.labels = labels.astype(np.int32)
        self.identity_names = [f"pair {at // 2} image {at % 2}" for at in np.unique(own)]

    def encoded(self, index: int) -> bytes:
        """The image as the file has it."""
        return self._images[checked_index(index, len(self))]

    def where(self, index: int) -> str:
        """The file and the image's number."""
        return f"{self._path} image {checked_index(index, len(self))}"

    def encoded_sizes(self) -> np.ndarray:
        """int64 [N]: bytes of each image."""
        return np.array([len(image) for image in self._images], np.int64)


class _ImagesOnly(pickle.Unpickler):
    """Builds what a `.bin` file may contain; runs nothing else.

    Array pickles name the functions that rebuild them. This module's own constructors replace
    these, and accept only uint8 arrays and booleans.
    """

    def find_class(self, module: str, name: str) -> Any:
        if module in _NUMPY_MODULES:
            known: dict[str, Callable[..., Any]] = {
                "_reconstruct": _EmptyArray,
                "ndarray": _EmptyArray,
                "dtype": _Dtype,
                "scalar": _scalar,
                "_frombuffer": _from_buffer,
            }
            if name in known:
                return _Constructor(known[name])
        if (module, name) == ("_codecs", "encode"):  # how Python 2's protocols store bytes
            return _Constructor(_encode_latin1)
        raise pickle.UnpicklingError(
            f"it names {module}.{name}, and only images and booleans are allowed"
        )


class _Constructor:
    """A function that a pickle may call but not set attributes on."""

    def __init__(self, make: Callable[..., Any]):
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


class _Dtype:
    def __init__(self, code: Any = "", *_: Any):
        if code not in ("u1", "b1", "|u1", "|b1", b"u1", b"b1"):  # Python 2 wrote byte strings
            raise pickle.UnpicklingError(
                "it holds an array that is neither an encoded image nor a boolean"
            )

    def __setstate__(self, state: Any) -> None:
        """Ignores byte order and the like, which single bytes do not have."""


class _EmptyArray:
    """Stands for numpy.ndarray while unpickling; `data` becomes the array's bytes."""

    data: bytes = b""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        content = state[-1] if isinstance(state, tuple) and state else None
        if isinstance(content, str):
            content = content.encode("latin1")
        if not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array without plain bytes")
        self.data = content


def _scalar(kind: Any = None, value: Any = None) -> bool:
    if not isinstance(kind, _Dtype) or not isinstance(value, bytes | str) or len(value) != 1:
        raise pickle.UnpicklingError("a number that is not a boolean")
    return value not in ("\0", b"\0")


def _from_buffer(data: Any = None, *_: Any) -> _EmptyArray:
    array = _EmptyArray()
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError("an array without plain bytes")
    array.data = bytes(data)
    return array


def _encode_latin1(text: Any = None, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in an unexpected encoding")
    return text.encode("latin1")


def _read_bin(path: str) -> tuple[list[bytes], np.ndarray]:
    """The encoded images and, for each pair, whether they show the same person."""
    with readable(path):
        content = as_path(path).read_bytes()
    try:
        check_memo_numbers(content, len(content))
        file = io.BytesIO(content)
        loaded = _ImagesOnly(file, encoding="bytes").load()
    except Exception as error:
        # A damaged pickle raises anything: EOFError, KeyError, IndexError, MemoryError …
        raise InputError(
            f"{path}: not a verification set of images and booleans ({reason(error)})"
        ) from None
    if file.tell() < len(content):
        raise InputError(
            f"{path}: {number_of(len(content) - file.tell(), 'byte', 'follow')} the images and "
            "pairs, and would be left out; a file is one set, so write what follows into another"
        )
    if (
        not isinstance(loaded, tuple | list)
        or len(loaded) != 2
        or not all(isinstance(part, list) for part in loaded)
    ):
        raise InputError(
            f"{path}: not a verification set; a list of images and a list of booleans are due"
        )
    images = [image.data if isinstance(image, _EmptyArray) else image for image in loaded[0]]
    for number, image in enumerate(images):
        if not isinstance(image, bytes):
            raise InputError(f"{path} image {number}: is no encoded image; remove it and its pair")
    for number, value in enumerate(loaded[1]):
        if not isinstance(value, bool) and value not in (0, 1):
            raise InputError(
                f"{path} pair {number}: does not say whether it is one person; True or False is due"
            )
    if len(images) != 2 * len(loaded[1]) or not images:
        raise InputError(
            f"{path}: {number_of(len(images), 'image')} for {number_of(len(loaded[1]), 'pair')}; "
            "two for each are due"
        )
    return images, np.array(loaded[1], bool)
