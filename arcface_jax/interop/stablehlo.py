"""A model as one portable StableHLO file that JAX runs without this library (jax.export)."""

import os
from collections.abc import Callable, Sequence

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from arcface_jax.buckets import as_path
from arcface_jax.errors import InputError, reason

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(
    function: Callable[[jax.Array], jax.Array],
    image_size: tuple[int, int],
    platforms: Sequence[str] = PLATFORMS,
) -> bytes:
    """Serialises a function of uint8 images [N, height, width, 3], for any N and each platform.

    Args:
      function: from `inference.unit_embedding`; its weights become constants.
      image_size: (height, width).
      platforms: of jax.export.

    References: https://docs.jax.dev/en/latest/export/export.html.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    images = jax.ShapeDtypeStruct((batch, *image_size, 3), jnp.uint8)

    def serialised(one: Callable[[jax.Array], jax.Array]) -> bytes:
        exported = jax.export.export(jax.jit(one), platforms=tuple(platforms))(images)
        return bytes(exported.serialize())

    try:
        return serialised(function)
    except Exception:
        # A network that needs a number for N, as for len(images), meets single images.
        return serialised(jax.vmap(lambda image: function(image[jnp.newaxis])[0]))


def load_stablehlo(
    path: str | os.PathLike[str],
) -> tuple[Callable[[np.ndarray], jax.Array], tuple[int, int]]:
    """Reads a file that `export_stablehlo` made.

    Returns: (the compiled function, its (height, width)).

    Raises:
      InputError: the file cannot be read, holds something else, or was not exported for this
        machine's platform.
    """
    path = as_path(path)
    try:
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except Exception as error:  # the format's reader has no error of its own
        raise InputError(
            f"{path}: is no exported model ({reason(error)}); export it again"
        ) from error
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise InputError(
            f"{path}: is for {', '.join(exported.platforms)}, but this is {platform}; export it "
            "again"
        )
    if (
        len(exported.in_avals) != 1
        or exported.in_avals[0].ndim != 4
        or exported.in_avals[0].dtype != jnp.uint8
    ):
        taken = " and ".join(f"{one.dtype}{list(one.shape)}" for one in exported.in_avals)
        raise InputError(
            f"{path}: takes {taken}, not uint8 images [N, height, width, 3]; export the model again"
        )
    _, height, width, _ = exported.in_avals[0].shape
    return jax.jit(exported.call), (int(height), int(width))
