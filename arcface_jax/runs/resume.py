"""Going on from a checkpoint: the newest that can be read, on any number of devices."""

import dataclasses
from collections.abc import Callable

import jax

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.heads import shard_classes, unshard_classes
from arcface_jax.runs.checkpoints import Checkpoints, DamagedCheckpoint
from arcface_jax.training.config import Config
from arcface_jax.training.program import Program, create_program
from arcface_jax.training.state import TrainState, is_class_rows


def restore(checkpoints: Checkpoints, step: int, program: Program) -> TrainState:
    """The whole state of a checkpoint, its class rows laid out for the program's devices.

    From another number of shards all class rows are first held in the memory of the host, or, by
    several processes, on each device; with the same number they never are.

    Raises:
      InputError: it is damaged, or of another configuration or another number of classes.
    """
    about = checkpoints.metadata(step)
    saved, classes = int(about["shards"]), int(about.get("num_classes", program.num_classes))
    if classes != program.num_classes:
        raise InputError(
            f"checkpoint {step} of {checkpoints.folder} is of {number_of(classes, 'class')}, but "
            f"there are {number_of(program.num_classes, 'person')} to train on now; restore the "
            "data that it was trained on, or use a new folder"
        )
    shapes = program.placement.shapes(program.make_state)
    if saved == program.shards:
        return checkpoints.restore(step, shapes)
    whole = _on_the_host() or shapes.step.sharding
    as_saved = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=whole),
        jax.eval_shape(lambda: program.make_state(saved)),
    )

    def lay_out(state: TrainState) -> TrainState:
        def move(path: tuple[object, ...], leaf: jax.Array) -> jax.Array:
            if not is_class_rows(path):
                return leaf
            rows = unshard_classes(leaf.reshape(saved, -1, *leaf.shape[1:]), program.num_classes)
            return shard_classes(rows, program.shards).reshape(-1, *leaf.shape[1:])

        moved: TrainState = jax.tree_util.tree_map_with_path(move, state)
        return moved

    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    if whole is shapes.step.sharding:
        return jax.jit(lay_out, out_shardings=shardings)(checkpoints.restore(step, as_saved))
    return jax.tree.map(
        jax.device_put, jax.jit(lay_out)(checkpoints.restore(step, as_saved)), shardings
    )


def _on_the_host() -> jax.sharding.Sharding | None:
    """Where a single process has more memory than a device; None where there is no such place."""
    if jax.process_count() > 1:
        return None
    try:
        return jax.sharding.SingleDeviceSharding(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # JAX_PLATFORMS leaves the CPU out
        return None


def restore_on_one_device(
    checkpoints: Checkpoints, step: int, config: Config
) -> tuple[Program, TrainState]:
    """(program, whole state) of a checkpoint of a run with this configuration, whatever the run was
    made on.

    Raises:
      InputError: as `restore`.
    """
    place = dataclasses.replace(
        config.run, devices=1, parallel="jit", statistics="global", distributed=False
    )
    num_classes = int(checkpoints.metadata(step)["num_classes"])
    program = create_program(dataclasses.replace(config, run=place), num_classes)
    return program, restore(checkpoints, step, program)


def newest_readable(
    checkpoints: Checkpoints, program: Program, tell: Callable[[str], None]
) -> tuple[int, TrainState] | None:
    """(step, state) of the newest checkpoint that can be read; newer ones are set aside. None where
    there is none.

    Raises:
      InputError: there are checkpoints and none can be read, or one is of another configuration.
    """
    steps = checkpoints.steps()
    damaged: list[tuple[int, DamagedCheckpoint]] = []
    for step in reversed(steps):
        try:
            state = restore(checkpoints, step, program)
        except DamagedCheckpoint as error:
            damaged.append((step, error))
            continue
        # Not before there is one to go on from: a folder without any would begin the run anew.
        for bad, reason in damaged:
            tell(
                f"{reason}; set aside as {checkpoints.set_aside(bad)}, going on from the one before"
            )
        return step, state
    if steps:
        raise InputError(
            f"checkpoints {checkpoints.folder}: none could be read; start anew in another "
            "--run.folder"
        )
    return None
