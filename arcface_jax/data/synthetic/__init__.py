"""Drawn faces of people who do not exist: the data set that needs no download.

`SyntheticFaces` is the source; each other module draws one part of a picture.
"""

from arcface_jax.data.synthetic.faces import SyntheticFaces

__all__ = ["SyntheticFaces"]

__all__ = [
    "SyntheticFaces",
]
