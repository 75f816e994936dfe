"""A run that starts, or learns, from a backbone that was trained before, here or elsewhere."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.models.apply import linen_apply
from arcface_jax.training.program import Program
from arcface_jax.training.state import TrainState, named_leaves


def check_fits(model: TrainedModel, program: Program) -> None:
    """Refuses a trained model that is not the program's network; no array is made.

    Raises:
      InputError: a weight is absent, unknown or of another shape; the message names the first.
    """
    images = jnp.zeros((1, *program.config.data.size, 3), jnp.float32)
    shapes = jax.eval_shape(program.backbone.init, jax.random.key(0), images)
    have, want = named_leaves(dict(model.variables)), named_leaves(shapes)
    wrong = []
    for name in sorted(have.keys() | want.keys()):
        given, wanted = (
            list(tree[name].shape) if name in tree else "absent" for tree in (have, want)
        )
        if given != wanted:
            wrong.append(f"{name} is {given}, this run's model has {wanted}")
    if wrong:
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise InputError(
            f"model.init {program.config.model.init}: {wrong[0]}{more}; set --model.name and its "
            "options to the trained model's"
        )


def start_from(model: TrainedModel, state: TrainState, program: Program) -> TrainState:
    """The state at step 0 with the backbone of a trained model in it, and what the optimiser and
    the moving average begin with; the head as it is.

    Args:
      model: as `check_fits` wants it.
      state: at step 0, of the program.
      program: of the run.

    Returns: the state, placed as it was.
    """
    params = _placed(model.variables["params"], state.params["backbone"])
    batch_stats = _placed(model.variables.get("batch_stats", {}), state.batch_stats)
    average = {"params": params, "batch_stats": batch_stats} if state.average else state.average
    everything = {**state.params, "backbone": params}
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state.optimiser_state)
    # An optimiser may keep the weights that it begins with.
    begin = jax.jit(program.optimiser.init, out_shardings=shardings)
    return dataclasses.replace(
        state,
        params=everything,
        batch_stats=batch_stats,
        optimiser_state=begin(everything),
        # Copies, for the step consumes each array once.
        average=jax.tree.map(jnp.copy, average),
    )


def with_teacher(model: TrainedModel | None, program: Program) -> Program:
    """The program, which learns from the embeddings of a trained model, if there is one.

    Raises:
      InputError: its embeddings, images or pixels are not those of the run.
    """
    if model is None:
        return program
    config = program.config
    for name, own, wanted in (
        ("model.embedding_size", config.model.embedding_size, model.embedding_size),
        ("data.image_size, image_width", config.data.size, tuple(model.image_size)),
        ("model.pixels", program.pixels, model.pixels),
    ):
        if own != wanted:
            raise InputError(
                f"model.teacher {config.model.teacher}: {name} is {own} here, and the teacher's "
                f"{wanted}; set it to that"
            )
    apply, variables = linen_apply(model.backbone, train=False), model.variables
    stats = variables.get("batch_stats", {})

    def teach(images: jax.Array) -> jax.Array:
        embeddings, _ = apply(variables["params"], stats, images, None)
        taught: jax.Array = embeddings
        return taught

    return dataclasses.replace(program, teacher=teach)


def _placed(given: Any, wanted: Any) -> Any:
    """`given`, placed as `wanted` is."""
    have, want = named_leaves(given), named_leaves(wanted)
    placed = [
        jax.device_put(jnp.asarray(have[name], want[name].dtype), want[name].sharding)
        for name in want
    ]
    return jax.tree.unflatten(jax.tree.structure(wanted), placed)
