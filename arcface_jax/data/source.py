"""The interface every image source has, and what holds for all of them."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class FaceSource(Protocol):
    """Images with identity labels, by random access.

    Every source of this library (synthetic, folder, RecordIO, …) is one, and whatever is one can be
    trained and evaluated on. Reading is safe from several threads, and sources pickle, so that
    worker processes can have one.
    """

    @property
    def labels(self) -> np.ndarray:
        """int32 [N], each in 0 … num_identities − 1, without reading an image."""
        ...

    @property
    def identity_names(self) -> Sequence[str]:
        """What each label stands for: num_identities names."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest that changes when the images or labels do."""
        ...

    def __len__(self) -> int:
        """The number of images, N."""
        ...

    def __getitem__(self, index: int) -> np.ndarray:
        """Image `index`: uint8 [height, width, 3], RGB.

        Raises:
          InputError: the image cannot be decoded; names the file or record.
        """
        ...
