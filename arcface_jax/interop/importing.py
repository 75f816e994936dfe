"""Imports models trained elsewhere, by file type."""

import pathlib

from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.mxnet import import_mxnet
from arcface_jax.interop.onnx import import_onnx
from arcface_jax.interop.torch import import_torch

_SAYS_ITSELF = {".onnx": import_onnx, ".params": import_mxnet}


def takes_project(path: pathlib.Path) -> bool:
    """Whether a file is a PyTorch checkpoint; only these may need a project."""
    return path.is_file() and path.suffix not in _SAYS_ITSELF


def import_model(path: pathlib.Path, project: str | None = None) -> TrainedModel:
    """Reads an .onnx file, MXNet's .params with its symbol beside it, or else a PyTorch checkpoint.

    Args:
      path: the file.
      project: see `torch.import_torch`; for PyTorch checkpoints only.

    Raises:
      InputError: it cannot be read; or it is an MXNet symbol: pass its .params.
    """
    if path.name.endswith("-symbol.json"):
        raise InputError(f"{path}: is a graph without weights; give the .params file beside it")
    if (own := _SAYS_ITSELF.get(path.suffix)) is not None:
        return own(path)
    return import_torch(path, project)
