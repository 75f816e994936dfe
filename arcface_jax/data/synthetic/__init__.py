"""Drawn faces of people who do not exist: the data set that needs no download.

`SyntheticFaces` is the source; the other modules draw one part of a picture each.
"""

from arcface_jax.data.synthetic.faces import SyntheticFaces

__all__ = ["SyntheticFaces"]
