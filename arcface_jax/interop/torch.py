"""Imports and exports trained PyTorch models.

Supports arcface_torch, AdaFace, MagFace, CurricularFace, ElasticFace and MobileFaceNet_Pytorch.
Importing needs no PyTorch and runs no code from a file (see `torch_file`); only writing a
checkpoint needs PyTorch.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from arcface_jax.buckets import as_path, written_locally
from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, concerning, printable
from arcface_jax.files import write_whole
from arcface_jax.interop.model import TrainedModel, check_finite, check_floating
from arcface_jax.interop.torch_contents import (
    CLASSIFIER_KEYS,
    find_classifiers,
    find_network,
    in_order,
    left_out,
    named_arrays,
    read_classifier,
    recognise,
    shards_of,
)
from arcface_jax.interop.torch_file import read_torch_file
from arcface_jax.interop.torch_keys import flax_layout, naming_of, torch_key, torch_layout
from arcface_jax.interop.torch_projects import PROJECTS, backbone_of, guess_project

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

    Names and shapes of the weights determine the network, its sizes and the project. Every key must
    fit, so a model is read whole or not at all.

    Args:
      path: a `torch.save` file, with a state dict or a checkpoint that holds one under any name; or
        a safetensors file.
      project: one of `PROJECTS`, if the names do not tell; it decides the pixels that the model
        expects.

    Returns: the model, with its classifier if the checkpoint has one. If each process wrote a
      checkpoint (checkpoint_gpu_0.pt, …), their classes are joined. If that fails, or nothing marks
      a matrix beside the network as a classifier, `source` says so and the model has none.

    Raises:
      InputError: not a checkpoint; no known network, or several; keys missing, unknown or of
        another shape (the message lists all of them); or weights that are NaN, infinite or whole
        numbers.
    """
    path = as_path(path)
    if project is not None and project not in PROJECTS:
        raise InputError(f"project: {project!r} is unknown; choose one of {', '.join(PROJECTS)}")
    content = read_torch_file(path)
    with concerning(str(path)):
        place, weights = find_network(content)
        model = model_from_state_dict(weights, project)
    head, without = model.class_weights, ""
    beside = [
        (name, {key: arrays[key] for key in CLASSIFIER_KEYS if key in arrays})
        for name, arrays in named_arrays(content)
        if name != place
    ]
    found = find_classifiers(beside, model.embedding_size) if head is None else []
    others = left_out(content, place, model.embedding_size) if head is None else []
    if len(found) != 1 and others:
        could = "could be it" if len(others) == 1 else "could all be it"
        without = f", without a classifier: {printable(', '.join(others[:10]))} {could}"
    elif found:
        head, shards = found[0].weights, shards_of(path)
        with concerning(str(path)):
            check_finite({found[0].key: head})
        try:
            shards, _ = in_order(shards)
            head = read_classifier(shards, model.embedding_size) if len(shards) > 1 else head
        except InputError as error:
            reason = str(error).replace(f"{path.parent}{os.sep}", "")
            head, without = None, f", without its classifier: {reason}"
    source = f"{path.name} ({model.source}{without})"
    return dataclasses.replace(model, source=source, class_weights=head)


def model_from_state_dict(
    weights: Mapping[str, np.ndarray], project: str | None = None
) -> TrainedModel:
    """`import_torch` from arrays by their PyTorch names."""
    naming, prefix = recognise(weights)
    inside = {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }
    outside = {key: value for key, value in weights.items() if not key.startswith(prefix)}
    check_floating({key: one for key, one in inside.items() if not key.endswith(_BUFFERS)})
    if project is None:
        project = guess_project(naming, prefix, inside)
    about = PROJECTS[project]
    backbone, image_size = backbone_of(naming, inside, about.epsilon)
    named = {key: outside[key] for key in CLASSIFIER_KEYS if key in outside}
    found = find_classifiers([((), named)], backbone.embedding_size)
    head = found[0] if len(found) == 1 else None
    known, classes = ((head.key,), head.weights) if head else ((), None)
    unknown = [key for key in outside if key not in known and not key.endswith(_BUFFERS)]
    variables = _fill(backbone, image_size, inside, unknown)
    check_finite({**inside, **named})
    return TrainedModel(backbone, variables, about.pixels, image_size, project, classes)


def read_class_weights(
    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], embedding_size: int
) -> np.ndarray:
    """The classifier [C, D] from its own files, or from checkpoints that hold it beside a network,
    such as arcface_torch's. A layer of a network is never taken for it.

    Args:
      paths: one file, or one per process that held a part of the classes. Files whose names differ
        in one number are sorted by it (rank 0, 1, … 10); others keep their order. A single file
        stands for all such files beside it if its name has the number of a rank, gpu, split, shard
        or part, or 00001-of-00003. Ranks and gpus count from 0.
      embedding_size: D, which tells whether the classes are rows or columns.

    Raises:
      InputError: a file holds no matrix with D rows or columns, or several; a part is missing,
        repeated or larger than the one before it; or a weight is NaN or infinite.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else paths
    files = [as_path(path) for path in given]
    if not files:
        raise InputError("paths: none; give the files of the classifier")
    shards = shards_of(files[0])
    if len(files) == 1:
        return read_classifier(shards, embedding_size)
    left = sorted(set(shards) - set(files))
    if left:
        raise InputError(
            f"{', '.join(map(str, left))}: lies beside the others and is not given; give all parts "
            "of the classes"
        )
    return read_classifier(files, embedding_size)


def export_state_dict(model: TrainedModel) -> dict[str, np.ndarray]:
    """The weights in the project's names and layout; arcface_torch's if it fits.

    Exact: importing the result gives the same bits. Batch counters, which Flax lacks, are 0.

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


def save_safetensors(model: TrainedModel, path: str | os.PathLike[str]) -> None:
    """Writes `export_state_dict` as a safetensors file, which needs no PyTorch and runs nothing.

    Raises:
      InputError: the network has no PyTorch names.

    Source: https://huggingface.co/docs/safetensors.
    """
    content = safetensors.numpy.save(export_state_dict(model), metadata={"format": "pt"})
    write_whole(path, content)


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
    with written_locally(path) as local:
        torch.save(weights, local)


def _flatten(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """The leaves of both collections by path; no path is in both."""
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
            with np.errstate(over="ignore"):  # `check_finite` tells of it
                arrays[path] = np.ascontiguousarray(array, dtype=np.float32)
        filled[collection] = flax.traverse_util.unflatten_dict(arrays)
    if problems:
        raise InputError(
            f"{number_of(len(problems), 'key', 'do')} not fit {type(backbone).__name__}: "
            f"{'; '.join(problems)}"
        )
    return filled
