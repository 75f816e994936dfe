"""From a configuration to everything that a run needs, nothing trained yet."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from arcface_jax.data.pipeline import DevicePrefetch, batches
from arcface_jax.data.samplers import Sampler
from arcface_jax.errors import InputError
from arcface_jax.models import registry
from arcface_jax.pixels import CONVENTIONS
from arcface_jax.training.config import PROFILE_AFTER, Config, ModelConfig, RunConfig
from arcface_jax.training.dataset import RunData, create_sampler, load_data
from arcface_jax.training.objective import Objective
from arcface_jax.training.objectives import create_objective
from arcface_jax.training.optimisers import create_optimiser, create_schedule, frozen_steps
from arcface_jax.training.parallel import (
    MeshStep,
    OverMesh,
    ParallelStep,
    PmapStep,
    check_batch,
    data_mesh,
)
from arcface_jax.training.starting_point import check_exists, start_from
from arcface_jax.training.state import TrainState, initial_state
from arcface_jax.training.step import DATA_AXIS, TrainStep


@dataclasses.dataclass(frozen=True)
class Program:
    """What a configuration computes, for a number of classes: no data yet.

    Attributes:
      config: the configuration.
      num_classes: C.
      backbone: the embedding network.
      objective: the head.
      optimiser: over {"backbone", "head"}.
      devices: that share the work, of all processes.
      train_step: of one device, or of all under jit.
      step: compiled when it is first called.
    """

    config: Config
    num_classes: int
    backbone: nn.Module
    objective: Objective
    optimiser: optax.GradientTransformation
    devices: list[jax.Device]
    train_step: TrainStep
    step: ParallelStep

    @property
    def shards(self) -> int:
        """How many devices the classes are split over."""
        return len(self.devices) if self.objective.splits_classes else 1

    def make_state(self, shards: int | None = None) -> TrainState:
        """The state at step 0, for another number of shards if given: a pure function, to be
        compiled or shaped.
        """
        config = self.config
        return initial_state(
            self.backbone,
            self.objective,
            self.optimiser,
            num_classes=self.num_classes,
            embedding_size=config.model.embedding_size,
            image_size=config.data.size,
            seed=config.run.seed,
            shards=self.shards if shards is None else shards,
            average=config.optimiser.ema > 0,
        )


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step: what it computes, and on what."""

    program: Program
    data: RunData
    sampler: Sampler

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
        return DevicePrefetch(iterator, self.program.step.batch_sharding)

    def initial_state(self) -> TrainState:
        """The whole state at step 0, on the devices; from a trained backbone where the
        configuration names one.
        """
        program = self.program
        state = program.step.create(program.make_state)
        init = self.config.model.init
        return state if init is None else start_from(init, state, program.train_step.pixels)


def create_backbone(config: Config, axis_name: str | None = None) -> nn.Module:
    """The backbone that config.model describes.

    Raises:
      InputError: there is none of that name, it does not have a setting that was changed, or its
        embeddings are not of the size that config.model says.
    """
    model, default = config.model, ModelConfig()
    settings = {
        name: getattr(model, name)
        for name in (
            "embedding_size",
            "width",
            "dropout",
            "dtype",
            "remat",
            "running_variance",
            "initial_weights",
        )
    }
    unchanged = [name for name, value in settings.items() if value == getattr(default, name)]
    settings |= {"dtype": jnp.dtype(model.dtype), "axis_name": axis_name}
    if axis_name is None:
        unchanged.append("axis_name")
    backbone = registry.create(model.name, **settings, unchanged=unchanged)
    if ":" in model.name:
        images = jnp.zeros((1, *config.data.size, 3))
        embeddings, _ = jax.eval_shape(backbone.init_with_output, jax.random.key(0), images)
        if embeddings.shape != (1, model.embedding_size):
            raise InputError(
                f"model.embedding_size {model.embedding_size}: {model.name!r} makes of one image "
                f"an array of shape {embeddings.shape}; it must be (1, D), with that D"
            )
    return backbone


def create_program(config: Config, num_classes: int) -> Program:
    """Checks the settings and builds the step.

    Raises:
      InputError: a setting is out of range, or without effect.
    """
    run = config.run
    _check_run(run)
    devices = _devices(run)
    check_batch(run.batch_size, devices, run.accumulate)
    _check_accumulation(config)
    pmapped = run.parallel == "pmap"
    backbone = create_backbone(
        config, DATA_AXIS if pmapped and run.statistics == "global" else None
    )
    schedule = create_schedule(config.optimiser, run.steps, run.batch_size)
    optimiser = create_optimiser(config.optimiser, schedule, run.steps)
    objective = create_objective(
        config.loss,
        config.head,
        num_classes=num_classes,
        steps=run.steps,
        optimiser=config.optimiser,
    )
    if (
        pmapped
        and config.head.update == "fused"
        and not objective.splits_classes
        and len(devices) > 1
    ):
        raise InputError(
            "head.update fused under pmap needs --head.kind sharded: each device would go its own "
            "way"
        )
    split = objective.splits_classes
    train_step = TrainStep(
        backbone=backbone,
        objective=OverMesh(objective, data_mesh(devices)) if split and not pmapped else objective,
        optimiser=optimiser,
        seed=run.seed,
        schedule=schedule,
        augmentation=config.augmentation,
        pixels=CONVENTIONS[config.model.pixels],
        axis_name=DATA_AXIS if pmapped else None,
        accumulate=run.accumulate,
        frozen_steps=frozen_steps(config.optimiser, run.steps),
        clip=config.optimiser.clip,
        average_decay=config.optimiser.ema,
    )
    return Program(
        config=config,
        num_classes=num_classes,
        backbone=backbone,
        objective=objective,
        optimiser=optimiser,
        devices=devices,
        train_step=train_step,
        step=(PmapStep if pmapped else MeshStep)(train_step, devices, split_classes=split),
    )


def _check_run(run: RunConfig) -> None:
    if run.seed < 0:
        raise InputError(f"run.seed must not be negative, got {run.seed}")
    for name in ("steps", "log_every", "evaluate_every", "keep", "bad_steps"):
        if getattr(run, name) < 1:
            raise InputError(f"run.{name} must be positive, got {getattr(run, name)}")
    if run.checkpoint_every is not None and run.checkpoint_every < 1:
        raise InputError(f"run.checkpoint_every must be positive, got {run.checkpoint_every}")
    if run.keep_best < 0 or run.profile < 0:
        raise InputError(
            f"run.keep_best and run.profile must not be negative, got {run.keep_best} and "
            f"{run.profile}"
        )
    if run.profile and run.steps < PROFILE_AFTER + run.profile:
        raise InputError(
            f"run.profile {run.profile} begins after step {PROFILE_AFTER}, and run.steps is "
            f"{run.steps}; give at least {PROFILE_AFTER + run.profile} steps"
        )
    if run.statistics == "local" and run.parallel == "jit":
        raise InputError(
            "run.statistics local needs --run.parallel pmap; under jit a step sees the whole batch"
        )
    if run.parallel == "pmap" and jax.process_count() > 1:
        raise InputError(
            "run.parallel pmap is for one process; use jit, whose mesh spans processes"
        )


def _check_accumulation(config: Config) -> None:
    if config.run.accumulate == 1:
        return
    if config.head.update == "fused":
        raise InputError(
            f"run.accumulate {config.run.accumulate} with head.update fused would update the class "
            "rows in every part; use --head.update optimiser"
        )
    if config.loss.name == "triplet":
        raise InputError(
            f"run.accumulate {config.run.accumulate} with loss.name triplet leaves no pairs of one "
            "person in a part; leave it out"
        )


def _devices(run: RunConfig) -> list[jax.Device]:
    available = jax.devices()
    if run.devices is not None and not 1 <= run.devices <= len(available):
        raise InputError(
            f"run.devices {run.devices}: there are {len(available)} of {available[0].device_kind}"
        )
    if run.devices is not None and jax.process_count() > 1 and run.devices != len(available):
        raise InputError(
            f"run.devices {run.devices}: several processes use all {len(available)} of their "
            "devices"
        )
    return available[: run.devices]


def prepare(config: Config) -> Setup:
    """Checks the configuration, loads the data and builds the step.

    Raises:
      InputError: a setting is out of range, or the data cannot be used.
    """
    create_program(config, 2)  # a wrong setting is found before data are loaded
    if config.model.init is not None:
        check_exists(config.model.init)
    data = load_data(config.data, config.run.seed)
    batch_size = config.run.batch_size
    if batch_size > len(data.train):
        raise InputError(
            f"run.batch_size {batch_size} is larger than the {len(data.train)} training images; "
            f"set --run.batch-size to at most {len(data.train)}"
        )
    if (
        config.loss.name == "triplet"
        and config.data.sampler == "balanced"
        and config.data.images_each < 2
    ):
        raise InputError(
            f"data.images_each {config.data.images_each}: loss.name triplet needs 2 or more of a "
            "person"
        )
    sampler = create_sampler(config.data, data.train, batch_size, config.run.seed)
    return Setup(create_program(config, data.num_classes), data, sampler)
