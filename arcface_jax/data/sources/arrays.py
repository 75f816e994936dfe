"""A folder of NumPy arrays, one sub-folder per class, for spectrograms and other non-pictures."""

import functools
import io
import math
import os

import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.decode import MAX_PIXELS, encode_png
from arcface_jax.data.sources.filetree import Listing
from arcface_jax.data.sources.folder import FolderSource
from arcface_jax.errors import InputError, reason

_MAGIC = b"\x93NUMPY"


class ArraySource(FolderSource):
    """ROOT/CLASS/name.npy, or a zip archive of it, by the rules of `FolderSource`.

    Arrays are [height, width], [height, width, 1] or [height, width, 3], all of one shape: uint8,
    or floating-point in [0, 1], rounded to 255 steps. One channel stands for all three. No code in
    a file is run: arrays of Python objects are refused.

    Args:
      root: folder or zip file.
      split: as in `FolderSource`.
      listing: what is below the root, if it was walked before.

    Raises:
      InputError: as in `FolderSource`; on reading, an array is none of these.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str | None = None,
        listing: Listing | None = None,
    ):
        super().__init__(root, (".npy",), split, listing)

    @functools.cached_property
    def shape(self) -> tuple[int, ...]:
        """The first array's shape, and so every array's: [height, width, 3]."""
        return decode_array(self.stored(0), self.where(0)).shape

    def __getitem__(self, index: int) -> np.ndarray:
        image = decode_array(self.stored(index), self.where(index))
        if image.shape != self.shape:
            raise InputError(
                f"{self.where(index)}: is {image.shape[0]}×{image.shape[1]}, and "
                f"{self.where(0)} {self.shape[0]}×{self.shape[1]}; make all arrays of one shape"
            )
        return image

    def stored(self, index: int) -> bytes:
        """The file's content."""
        return super().encoded(index)

    def encoded(self, index: int) -> bytes:
        """The array as a PNG, for code that keeps encoded images."""
        return encode_png(self[index])


def decode_array(content: bytes, name: str) -> np.ndarray:
    """The array in a .npy file as an image.

    Args:
      content: of the file.
      name: of the file, for messages.

    Returns: uint8 [height, width, 3].

    Raises:
      InputError: it is no .npy file, is damaged, or holds an array that `ArraySource` does not
        take.
    """
    if not content.startswith(_MAGIC):
        raise InputError(f"{name}: is no .npy file; write it with numpy.save")
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, by_columns, dtype = read(file)
    except KeyError:
        raise InputError(f"{name}: is of another .npy version than 1 and 2; save it anew") from None
    except Exception as error:  # whatever a damaged header makes the parser raise
        raise InputError(f"{name}: is damaged ({reason(error)}); write it anew") from None
    if not (dtype == np.uint8 or (dtype.kind == "f" and dtype.itemsize <= 8)):
        kind = "Python objects" if dtype.hasobject else str(dtype)
        raise InputError(f"{name}: holds {kind}; save uint8, or floating-point numbers in [0, 1]")
    if not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))) or 0 in shape:
        raise InputError(
            f"{name}: has shape {shape}; save [height, width], [height, width, 1] or "
            "[height, width, 3]"
        )
    if math.prod(shape) > MAX_PIXELS:
        raise InputError(f"{name}: has shape {shape}, more than {MAX_PIXELS:,} numbers")
    if len(content) - file.tell() != math.prod(shape) * dtype.itemsize:
        raise InputError(
            f"{name}: holds {number_of(len(content) - file.tell(), 'byte')} for shape {shape} of "
            f"{dtype}; it is cut off or damaged"
        )
    array = np.frombuffer(content, dtype, offset=file.tell())
    array = array.reshape(shape, order="F" if by_columns else "C")
    if dtype != np.uint8:
        array = array.astype(np.float64)
        outside = ~((array >= 0) & (array <= 1))  # NaN too
        if outside.any():
            raise InputError(
                f"{name}: holds {float(array[outside][0]):g}; scale floating-point numbers to "
                "[0, 1], for all files alike"
            )
        array = np.round(array * 255).astype(np.uint8)
    array = array if array.ndim == 3 else array[..., None]
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))
