"""JAX's persistent compilation cache, on for every command."""

import importlib.util
import os
import pathlib
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

NO_CACHE = "--no-cache"
_BYTES = 4 * 2**30


def cache_folder() -> pathlib.Path | None:
    """Where compiled programs are kept: where JAX_COMPILATION_CACHE_DIR says, or else in the
    user's cache; None where JAX_ENABLE_COMPILATION_CACHE is false, or nobody has a home.
    """
    if os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("0", "false", "f", "no", "n"):
        return None
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen is not None:
        return pathlib.Path(chosen) if chosen else None
    try:
        caches = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    except RuntimeError:
        return None
    return pathlib.Path(caches) / "arcface-jax"


def keep_compiled() -> None:
    """Turns on JAX's persistent compilation cache, for this process and those that it starts, so
    that a second call of a command starts in seconds; --no-cache among the arguments turns it off.

    A folder that cannot be written, and an entry that is damaged, only cost the time to compile.
    What JAX's own environment variables say goes first. The entries used least recently are
    removed where there would be more than 4 GiB, which JAX does if the package filelock is there.
    """
    if NO_CACHE in sys.argv:
        sys.argv.remove(NO_CACHE)
        _set_in_jax({"jax_enable_compilation_cache": False})
        return
    folder = cache_folder()
    if folder is None or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return
    settings: dict[str, Any] = {"jax_compilation_cache_dir": str(folder)}
    if importlib.util.find_spec("filelock") is not None:
        settings["jax_compilation_cache_max_size"] = _BYTES
    _set_in_jax(settings)


def _set_in_jax(settings: Mapping[str, Any]) -> None:
    """Here and in processes to come, without importing JAX for it."""
    os.environ.update({name.upper(): str(value) for name, value in settings.items()})
    if (jax := sys.modules.get("jax")) is not None:
        for name, value in settings.items():
            jax.config.update(name, value)
