"""A small verification set as insightface keeps them."""

import io
import pathlib
import pickle

import numpy as np
from PIL import Image

from arcface_jax.data.synthetic import SyntheticFaces


def write_bin(path: pathlib.Path, seed: int = 0, image_size: int = 32) -> pathlib.Path:
    """Twenty pairs of faces, every other one said to be of one person."""
    faces, encoded = SyntheticFaces(4, 10, image_size=image_size, seed=seed), []
    for image in faces.render(np.arange(40)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append(file.getvalue())
    path.write_bytes(pickle.dumps((encoded, [number % 2 == 0 for number in range(20)])))
    return path
