"""Objects of one's own by import path, "module:attribute": losses and networks on the command line."""

import importlib
import os
import sys
from typing import Any

from arcface_jax.errors import InputError


def load_attribute(path: str, what: str) -> Any:
    """The object that `path` names, its module imported from the Python path or the working folder."""
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"{what} {path}: cannot import {module_name} ({error})") from error
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise InputError(f"{what} {path}: {module_name} has no {attribute!r}") from None
