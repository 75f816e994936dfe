"""From a configuration to everything that a run needs, nothing trained yet."""

import dataclasses

import jax
import numpy as np

from arcface_jax.counts import number_of
from arcface_jax.data.pipeline import DevicePrefetch, batches
from arcface_jax.data.samplers import Sampler
from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.losses import loss_name
from arcface_jax.progress import Begin, unseen
from arcface_jax.runs.dataset import RunData, create_sampler, load_data
from arcface_jax.runs.starting_point import check_fits, start_from, with_teacher
from arcface_jax.training.config import Config
from arcface_jax.training.program import Program, create_program
from arcface_jax.training.state import TrainState


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step: what it computes, and on what.

    Attributes:
      program: what it computes.
      data: what it trains and verifies on.
      sampler: the order of the training images.
      start: the model of config.model.init; None without, or for a run that only goes on.
    """

    program: Program
    data: RunData
    sampler: Sampler
    start: TrainedModel | None = None

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.program.config

    def batches(self) -> DevicePrefetch:
        """The run's endless training batches, decoded and put on the devices ahead of their
        steps.
        """
        config = self.config
        iterator = batches(
            self.data.train,
            config.run.batch_size,
            config.data.size,
            config.run.seed,
            sampler=self.sampler,
            host=jax.process_index(),
            num_hosts=jax.process_count(),
            threads=1 if config.data.loading == "memory" else 4,
            on_unreadable="raise" if config.data.unreadable == "stop" else "substitute",
        )
        return DevicePrefetch(iterator, self.program.placement.split)

    def initial_state(self) -> TrainState:
        """The whole state at step 0, on the devices; from a trained backbone where there is one.

        Raises:
          InputError: the configuration names one, and it was not given.
        """
        program = self.program
        if self.start is None and self.config.model.init is not None:
            raise InputError(
                f"model.init {self.config.model.init}: is needed, for there is no checkpoint to go "
                "on from; start anew in another --run.folder"
            )
        state = program.placement.create(program.make_state)
        return state if self.start is None else start_from(self.start, state, program)


def prepare(
    config: Config,
    begin: Begin = unseen,
    start: TrainedModel | None = None,
    teacher: TrainedModel | None = None,
    program: Program | None = None,
) -> Setup:
    """Checks the configuration, loads the data, which `begin` shows, and builds the step.

    Args:
      config: of the run.
      begin: is told of work that takes long.
      start: the model that config.model.init names, see `commands.fine_tuning.open_start`.
      teacher: the model that config.model.teacher names, see `commands.fine_tuning.open_teacher`.
      program: what `create_program` makes of the configuration for any number of classes, if that
        has been done.

    Raises:
      InputError: a setting is out of range, the trained model does not fit, or the data cannot be
        used.
    """
    # A wrong setting is found before data are loaded.
    program = create_program(config, 2) if program is None else program
    if start is not None:
        check_fits(start, program)
    program = with_teacher(teacher, program)
    data = load_data(config.data, config.run.seed, begin)
    batch_size = config.run.batch_size
    if batch_size > len(data.train):
        raise InputError(
            f"run.batch_size {batch_size} is larger than the "
            f"{number_of(len(data.train), 'training image')}; set --run.batch-size to at most "
            f"{len(data.train)}"
        )
    if config.loss.over_pairs:
        _check_pairs(config, data.class_counts)
    sampler = create_sampler(config.data, data.train, batch_size, config.run.seed)
    classes, counts = data.num_classes, data.class_counts
    program = dataclasses.replace(program, num_classes=classes, class_counts=counts)
    return Setup(program, data, sampler, start)


def _check_pairs(config: Config, class_counts: np.ndarray) -> None:
    """A batch for a loss over pairs must be able to hold two images of a person, and another one.

    Raises:
      InputError: none can; every loss would be 0, and nothing learnt.
    """
    batch_size, each = config.run.batch_size, config.data.images_each
    name = f"loss.name {loss_name(config.loss)}"
    if len(class_counts) < 2 or class_counts.max() < 2:
        found = "there is one person" if len(class_counts) < 2 else "each person has one image"
        raise InputError(
            f"{name} needs two people to train on, and two images of one of them, but "
            f"{found}; give other data, or choose a loss over classes alone"
        )
    if batch_size < 3:
        raise InputError(
            f"run.batch_size {batch_size}: {name} needs 3 or more, two images of a "
            "person and one of another"
        )
    if config.data.sampler != "shuffled" and each < 2:
        raise InputError(f"data.images_each {each}: {name} needs 2 or more of a person")
    if config.data.sampler == "balanced" and each > batch_size // 2:
        raise InputError(
            f"data.images_each {each} of run.batch_size {batch_size}: {name} needs two "
            f"people in a batch; set data.images_each to at most {batch_size // 2}"
        )
