"""Going on from a checkpoint: the newest that can be read, on any number of devices."""

import dataclasses
from collections.abc import Callable

from arcface_jax.counts import number_of
from arcface_jax.errors import InputError
from arcface_jax.runs.checkpoints import Checkpoints, DamagedCheckpoint
from arcface_jax.runs.class_rows import Layout
from arcface_jax.training.config import Config
from arcface_jax.training.program import Program, create_program
from arcface_jax.training.state import TrainState


def restore(checkpoints: Checkpoints, step: int, program: Program) -> TrainState:
    """The whole state of a checkpoint, its class rows laid out for the program's devices.

    From another number of shards each process reads the class rows of its own devices, see
    `arcface_jax.runs.class_rows`.

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
    moved = saved != program.shards
    return checkpoints.restore(
        step, shapes, Layout(classes, saved, program.shards) if moved else None
    )


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
