"""Trained PyTorch models in and out.

Of arcface_torch, AdaFace, MagFace, CurricularFace, ElasticFace and MobileFaceNet_Pytorch. Importing
needs no PyTorch and runs nothing that a file contains (see `torch_file`); only writing a checkpoint
needs it.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.torch_file import read_torch_file
from arcface_jax.interop.torch_keys import flax_layout, naming_of, torch_key, torch_layout
from arcface_jax.interop.torch_projects import PROJECTS, SIGNATURES, backbone_of, guess_project

# Under what name the projects keep the weights in a checkpoint, besides optimisers and settings.
_CONTAINERS = (
    "state_dict_backbone",
    "net_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "backbone",
)
_HEAD_CONTAINER = "state_dict_softmax_fc"
_HEAD_KEYS = ("head.kernel", "head.weight", "module.fc.weight", "fc.weight", "kernel", "weight")
_HEADS_BY_ROWS = ("head.weight", "weight")
# Running values of the heads and counters, which no backbone needs.
_BUFFERS = (
    "num_batches_tracked",
    "head.t",
    "head.batch_mean",
    "head.batch_std",
    "head.ema_mean",
    "head.ema_std",
)


def import_torch(path: str | os.PathLike[str], project: str | None = None) -> TrainedModel:
    """Reads a trained backbone from a PyTorch checkpoint.

    The network, its sizes and the project are found from the names and shapes of the weights; every
    key must fit, so that a model is whole or not read at all.

    Args:
      path: what `torch.save` wrote: a state dict, or a checkpoint with one in it.
      project: one of `PROJECTS`, where the names do not tell; it decides the pixels that the model
        expects.

    Returns: the model, with its classifier where the checkpoint has it.

    Raises:
      InputError: not a checkpoint, no known network, or keys that are missing, unknown or of
        another shape: the message lists all of them.
    """
    path = pathlib.Path(path)
    if project is not None and project not in PROJECTS:
        raise InputError(f"project: {project!r} is unknown; choose one of {', '.join(PROJECTS)}")
    content = read_torch_file(path)
    try:
        model = model_from_state_dict(_find_state_dict(content), project)
    except InputError as error:
        raise type(error)(f"{path}: {error}") from error
    head = model.class_weights
    inside = content.get(_HEAD_CONTAINER) if isinstance(content, dict) else None
    if head is None and isinstance(inside, dict):
        head = _class_weights(inside, model.embedding_size)[0]
    return dataclasses.replace(model, source=f"{path.name} ({model.source})", class_weights=head)


def model_from_state_dict(
    weights: Mapping[str, np.ndarray], project: str | None = None
) -> TrainedModel:
    """`import_torch` from arrays by their PyTorch names."""
    naming, prefix = _recognise(weights)
    inside = {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }
    outside = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    if project is None:
        project = guess_project(naming, prefix, inside)
    about = PROJECTS[project]
    backbone, image_size = backbone_of(naming, inside, about.epsilon)
    head, head_key = _class_weights(outside, backbone.embedding_size)
    unknown = [key for key in outside if key != head_key and not key.endswith(_BUFFERS)]
    variables = _fill(backbone, image_size, inside, unknown)
    return TrainedModel(backbone, variables, about.pixels, image_size, project, head)


def read_class_weights(paths: Sequence[str | os.PathLike[str]], embedding_size: int) -> np.ndarray:
    """The classifier [C, D] from files of its own (arcface_torch, CurricularFace, ElasticFace).

    Args:
      paths: one file, or one for each process that held a part of the classes, in their order.
      embedding_size: D, by which classes in rows and classes in columns are told apart.

    Raises:
      InputError: a file holds no matrix with D rows or columns.
    """
    parts = []
    for path in paths:
        head, _ = _class_weights(_find_state_dict(read_torch_file(path)), embedding_size)
        if head is None:
            raise InputError(
                f"{path}: no classifier for {embedding_size}-d embeddings; looked for a matrix "
                f"called {', '.join(_HEAD_KEYS)}"
            )
        parts.append(head)
    return np.concatenate(parts)


def export_state_dict(model: TrainedModel) -> dict[str, np.ndarray]:
    """The weights by the project's names and in its layout; arcface_torch's where it fits.

    Exact: importing the result gives the same bits. Counters of batches, which Flax does not keep,
      are 0.

    Raises:
      InputError: no PyTorch project has this network.
    """
    naming = naming_of(model.backbone)
    result: dict[str, np.ndarray] = {}
    for path, value in _flatten(model.variables).items():
        key = torch_key(path, naming)
        result[key] = np.ascontiguousarray(torch_layout(path[-1], np.asarray(value)))
        if path[-1] == "mean":
            result[key.replace("running_mean", "num_batches_tracked")] = np.zeros((), np.int64)
    return result


def save_torch(model: TrainedModel, path: str | os.PathLike[str]) -> None:
    """Writes `export_state_dict` with torch.save.

    Raises:
      InputError: PyTorch is not installed, or the network has no PyTorch names.
    """
    try:
        import torch
    except ImportError as error:
        raise InputError("PyTorch is needed to write its checkpoints: pip install torch") from error
    weights = {
        key: torch.from_numpy(value.copy()) for key, value in export_state_dict(model).items()
    }
    torch.save(weights, path)


def _find_state_dict(content: Any) -> dict[str, np.ndarray]:
    """The named arrays in a checkpoint: the object itself or one of its known parts."""
    candidates = [content]
    if isinstance(content, dict):
        candidates += [content[name] for name in _CONTAINERS if name in content]
    for candidate in candidates[::-1]:
        if isinstance(candidate, dict):
            arrays = {
                str(key): value for key, value in candidate.items() if isinstance(value, np.ndarray)
            }
            if arrays:
                return arrays
    found = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
    raise InputError(f"no weights in it; it holds {found[:200] or 'nothing'}")


def _recognise(weights: Mapping[str, np.ndarray]) -> tuple[str, str]:
    for signature, naming in SIGNATURES.items():
        for key in weights:
            prefix = key.removesuffix(signature)
            if prefix != key and (not prefix or prefix.endswith(".")):
                return naming, prefix
    first = ", ".join(list(weights)[:3])
    raise InputError(f"no known network; its {len(weights)} keys begin with {first}")


def _class_weights(
    weights: Mapping[str, np.ndarray], embedding_size: int
) -> tuple[np.ndarray, str] | tuple[None, None]:
    """The classifier [C, D] among the weights and its key. Most projects have it as [D, C]."""
    for key in _HEAD_KEYS:
        matrix = weights.get(key)
        if not isinstance(matrix, np.ndarray) or matrix.ndim != 2:
            continue
        if embedding_size not in matrix.shape:
            continue
        # As many classes as dimensions: then only the project's habit tells.
        square_by_rows = key in _HEADS_BY_ROWS and matrix.shape[0] == matrix.shape[1]
        by_rows = square_by_rows or matrix.shape[0] != embedding_size
        return np.ascontiguousarray(matrix if by_rows else matrix.T, dtype=np.float32), key
    return None, None


def _flatten(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Leaves of both collections by their path; no path is in both."""
    flat: dict[tuple[str, ...], Any] = {}
    for collection in ("params", "batch_stats"):
        flat |= flax.traverse_util.flatten_dict(dict(variables.get(collection, {})))
    return flat


def _fill(
    backbone: nn.Module,
    image_size: tuple[int, int],
    weights: Mapping[str, np.ndarray],
    unknown: Sequence[str],
) -> dict[str, Any]:
    """The backbone's variables from PyTorch's, after every key has been accounted for."""
    wanted = jax.eval_shape(
        lambda: backbone.init(jax.random.key(0), jnp.zeros((1, *image_size, 3)))
    )
    naming = naming_of(backbone)
    keys = {path: torch_key(path, naming) for path in _flatten(wanted)}
    problems = [f"{key} is missing" for key in keys.values() if key not in weights]
    extra = [key for key in weights if key not in keys.values() and not key.endswith(_BUFFERS)]
    problems += [f"{key} is unknown" for key in [*extra, *unknown]]
    filled: dict[str, Any] = {}
    for collection, tree in wanted.items():
        arrays = {}
        for path, leaf in flax.traverse_util.flatten_dict(tree).items():
            if (found := weights.get(keys[path])) is None:
                continue
            array = flax_layout(path[-1], found) if found.ndim == len(leaf.shape) else found
            if array.shape != leaf.shape:
                expected = torch_layout(path[-1], np.broadcast_to(0, leaf.shape)).shape
                problems.append(f"{keys[path]} has shape {found.shape}, wanted {expected}")
            arrays[path] = np.ascontiguousarray(array, dtype=np.float32)
        filled[collection] = flax.traverse_util.unflatten_dict(arrays)
    if problems:
        raise InputError(
            f"{len(problems)} keys do not fit {type(backbone).__name__}: {'; '.join(problems)}"
        )
    return filled
