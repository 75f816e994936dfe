"""A step whose loss or gradient is not finite: what is kept of it, and where in the network it
comes from.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError, reason
from arcface_jax.files import whole_file, write_whole
from arcface_jax.runs.resume import restore_on_one_device
from arcface_jax.runs.saved_runs import SavedRun
from arcface_jax.training.state import named_leaves
from arcface_jax.training.step import make_pass, step_keys

BATCH_FILE = "batch.npz"
REPORT_FILE = "report.json"


@dataclasses.dataclass(frozen=True)
class LayerNorms:
    """One array of a network in a step.

    Attributes:
      name: its path.
      norm: of its finite part.
      bad: how many of its numbers are not finite.
    """

    name: str
    norm: float
    bad: int


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """A step taken apart.

    Attributes:
      loss: the mean loss.
      cosines: of each example looked at with its own class.
      activations, parameters, gradients: of each layer, in the order of the network.
    """

    loss: float
    cosines: list[float]
    activations: list[LayerNorms]
    parameters: list[LayerNorms]
    gradients: list[LayerNorms]

    def first_bad(self) -> str:
        """Where the first number that is not finite appears, for people."""
        for kind in ("parameters", "activations", "gradients"):
            for layer in getattr(self, kind):
                if layer.bad:
                    bad = number_of(layer.bad, "number", "that are")
                    return f"{kind}: {layer.name}, {bad} not finite"
        return "parameters, activations and gradients are finite: it is the update that overflows"


def keep_batch(
    folder: pathlib.Path, step: int, indices: np.ndarray, images: Any, labels: Any
) -> None:
    """Writes the whole batch of a bad step for `diagnose`; the state is in the checkpoint of
    its step.
    """
    if jax.process_count() > 1:
        images, labels = multihost_utils.process_allgather((images, labels), tiled=True)
    if jax.process_index() == 0:
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / BATCH_FILE) as file:
            np.savez(
                file,
                step=step,
                indices=indices,
                images=np.asarray(images),
                labels=np.asarray(labels),
            )


def diagnose(folder: pathlib.Path) -> Diagnosis:
    """Computes a kept step again on one device, layer by layer, and writes report.json beside the
    batch.

    Args:
      folder: RUN/bad-step-N.

    Returns: what was found.

    Raises:
      InputError: the folder, the run's configuration or its checkpoint cannot be read.
    """
    run = folder.parent
    try:
        with (
            (folder / BATCH_FILE).open("rb") as file,
            np.load(file, allow_pickle=False) as batch,
        ):
            step, images, labels = int(batch["step"]), batch["images"], batch["labels"]
    except Exception as error:  # whatever a damaged archive raises
        raise InputError(
            f"{folder / BATCH_FILE}: cannot be read ({reason(error)}); give the bad-step "
            "folder of a run"
        ) from error
    saved = SavedRun(run, step)
    with saved.opened() as (checkpoints, _):
        program, state = restore_on_one_device(checkpoints, step, saved.config)
    # The counters stand after the bad step; its random numbers and its learning rate are those of
    # the one before.
    state = dataclasses.replace(state, step=state.step - 1, bad_steps=state.bad_steps - 1)

    forward_and_backward = make_pass(**program.pass_options())

    @jax.jit
    def take_apart(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        keys = step_keys(program.key, state.step, images.shape[0])
        _, captured = program.backbone.apply(
            state.backbone_variables,
            program.prepare(images, keys.examples),
            train=True,
            mutable=["batch_stats", "intermediates"],
            rngs={"dropout": keys.dropout},
            capture_intermediates=True,
        )
        return forward_and_backward(state, program.key, images, labels), captured["intermediates"]

    found, activations = take_apart(state, jnp.asarray(images), jnp.asarray(labels))
    diagnosis = Diagnosis(
        loss=float(found.metrics["loss"]),
        cosines=[round(float(cosine), 6) for cosine in np.ravel(found.target_cosine)],
        activations=_norms(activations),
        parameters=_norms(state.params),
        gradients=_norms(found.gradients),
    )
    write_whole(folder / REPORT_FILE, json.dumps(dataclasses.asdict(diagnosis), indent=1) + "\n")
    return diagnosis


def _norms(tree: Any) -> list[LayerNorms]:
    layers = []
    for path, leaf in named_leaves(tree).items():
        values = np.asarray(leaf, np.float64)
        finite = np.isfinite(values)
        name = path.replace("/__call__/0", "")
        layers.append(LayerNorms(name, float(np.linalg.norm(values[finite])), int(np.sum(~finite))))
    return layers
