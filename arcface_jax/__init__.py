"""ArcFace, additive angular margin loss for face recognition, in JAX and Flax.

The names below are what a notebook needs first. Every loss object is in `arcface_jax.losses`, every
way to go over many classes in `arcface_jax.heads`; all sub-packages are attributes, imported when
first asked for.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcface_jax.cosine import arcface_logits, cosine_logits, normalise_rows
    from arcface_jax.errors import InputError
    from arcface_jax.losses import (
        expected_initial_loss,
        margin_softmax_loss,
        minimum_scale,
        softmax_loss,
    )
    from arcface_jax.margins import arcface, cm1, cm2, combined, cosface, normface, sphereface

__all__ = [
    "InputError",
    "arcface",
    "arcface_logits",
    "cm1",
    "cm2",
    "combined",
    "cosface",
    "cosine_logits",
    "expected_initial_loss",
    "margin_softmax_loss",
    "minimum_scale",
    "normalise_rows",
    "normface",
    "softmax_loss",
    "sphereface",
]


_PLACES = {
    "cosine": ("arcface_logits", "cosine_logits", "normalise_rows"),
    "errors": ("InputError",),
    "losses": ("expected_initial_loss", "margin_softmax_loss", "minimum_scale", "softmax_loss"),
    "margins": ("arcface", "cm1", "cm2", "combined", "cosface", "normface", "sphereface"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A name of `__all__`, a sub-package or a module; each is imported when first asked for, so
    that `import arcface_jax` takes no time, nor `--help` of a command.

    Raises:
      AttributeError: there is none of this name.
    """
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    full = f"{__name__}.{name}"
    if name.startswith("_") or importlib.util.find_spec(full) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(full)
