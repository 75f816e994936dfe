"""What a user names by the place where Python finds it: `module:attribute`."""

import importlib
import importlib.util
import os
import pathlib
import sys
from typing import Any

from arcface_jax.buckets import as_path
from arcface_jax.errors import InputError


def load_attribute(path: str, what: str) -> Any:
    """The attribute that `path`, such as my_nets:Net, names.

    The module is looked for in the working folder, which is put first on `sys.path` if it is not
    there yet, and then wherever Python finds modules. Importing it runs its code, so only the
    user's own folder and installation are looked in: never a run folder, which may come from
    somebody else.

    Args:
      path: module:attribute; the module may have dots.
      what: the setting that gave it, such as model.name, for messages.

    Raises:
      InputError: it is not of that form, or there is no such module or attribute, or importing the
        module fails.
    """
    name, _, attribute = path.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in name.split(".")):
        raise InputError(f"{what}: {path!r} is not of the form module:attribute, as my_nets:Net is")
    folder = _working_folder()
    try:
        module = importlib.import_module(name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise InputError(
                f"{what}: {path!r}: there is no module {error.name!r} in {folder} or installed; "
                "give the name of a file beside you, without .py"
            ) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(f"{what}: {path!r}: importing {name} failed with {reason}") from error
    if not hasattr(module, attribute):
        where = getattr(module, "__file__", None) or name
        raise InputError(f"{what}: {path!r}: {where} has no {attribute}")
    return getattr(module, attribute)


def check_not_inside(path: str, folder: pathlib.Path, what: str) -> None:
    """Refuses an import path whose module lies in this folder, which may come from a stranger.

    Args:
      path: as of `load_attribute`; anything without a colon is none.
      folder: of a run.
      what: the setting that gave it, for messages.

    Raises:
      InputError: the module lies there.
    """
    if ":" not in path:
        return
    _working_folder()
    spec = importlib.util.find_spec(path.partition(":")[0].partition(".")[0])
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    for place in filter(None, places):
        if as_path(place).absolute().is_relative_to(folder.absolute()):
            raise InputError(
                f"{what} {path}: {place} lies in the folder of the run, whose files are not run; "
                "if you trust it, put it somewhere else on the Python path"
            )


def _working_folder() -> str:
    """The working folder, put first on `sys.path` if it is not there yet."""
    folder = os.getcwd()
    if folder not in sys.path and "" not in sys.path:
        sys.path.insert(0, folder)
    return folder
