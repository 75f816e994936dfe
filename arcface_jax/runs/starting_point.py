"""A run that starts from a backbone that was trained before, here or elsewhere."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.interop.importing import import_model
from arcface_jax.interop.torch_projects import UnknownProjectError
from arcface_jax.pixels import CONVENTIONS, PixelConvention
from arcface_jax.runs.saved_runs import SavedRun, find_run
from arcface_jax.training.state import TrainState, named_leaves


def check_exists(path: str) -> pathlib.Path:
    """The path, if anything is there.

    Raises:
      InputError: nothing is.
    """
    place = pathlib.Path(path)
    if not place.exists():
        raise InputError(
            f"model.init {path}: no such file or folder; give a run, a PyTorch checkpoint, or "
            "an .onnx or .params file"
        )
    return place


def start_from(path: str, state: TrainState, pixels: PixelConvention) -> TrainState:
    """The state with the backbone of `path` in it, head and optimiser as they are.

    Args:
      path: a run folder, one of its checkpoints, a PyTorch checkpoint, or an .onnx or .params file.
      state: at step 0.
      pixels: what the run feeds its backbone.

    Returns: the state, placed as it was.

    Raises:
      InputError: nothing there that can be read, another network, or one that was trained on other
        pixels.
    """
    place = check_exists(path)
    if (run := find_run(place)) is not None:
        variables, trained_on = _of_run(run), CONVENTIONS[run.config.model.pixels]
    else:
        try:
            model = import_model(place)
        except UnknownProjectError as error:
            # Only of networks that no --model.name is, whichever the project.
            raise InputError(
                f"model.init {path}: its weights are named as in AdaFace's and CurricularFace's "
                "own networks, and no --model.name is one of these; give a checkpoint of the "
                "network that --model.name says"
            ) from error
        variables, trained_on = dict(model.variables), model.pixels
    if trained_on != pixels:
        name = next(
            (name for name, one in CONVENTIONS.items() if one == trained_on), str(trained_on)
        )
        raise InputError(
            f"model.init {path}: was trained on pixels {name}; set --model.pixels {name}"
        )
    params = _fitted(path, "params", variables["params"], state.params["backbone"])
    batch_stats = _fitted(path, "batch_stats", variables.get("batch_stats", {}), state.batch_stats)
    average = {"params": params, "batch_stats": batch_stats} if state.average else state.average
    # Copies, for the step consumes each array once.
    return dataclasses.replace(
        state,
        params={**state.params, "backbone": params},
        batch_stats=batch_stats,
        average=jax.tree.map(jnp.copy, average),
    )


def _of_run(run: SavedRun) -> dict[str, Any]:
    with run.opened() as (checkpoints, step):
        state = checkpoints.read_tree(step)
    return {"params": state["params"]["backbone"], "batch_stats": state["batch_stats"]}


def _fitted(path: str, what: str, given: Any, wanted: Any) -> Any:
    """`given`, placed as `wanted` is; every name and shape must agree."""
    have, want = named_leaves(given), named_leaves(wanted)
    for name in sorted(have.keys() | want.keys()):
        shapes = [list(tree[name].shape) if name in tree else "absent" for tree in (have, want)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"model.init {path}: {what}/{name} is {shapes[0]}, this run's model has "
                f"{shapes[1]}; set --model.name, --model.width, --model.embedding-size and "
                "--data.image-size to the trained model's"
            )
    placed = [
        jax.device_put(jnp.asarray(have[name], want[name].dtype), want[name].sharding)
        for name in want
    ]
    return jax.tree.unflatten(jax.tree.structure(wanted), placed)
