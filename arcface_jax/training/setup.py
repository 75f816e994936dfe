"""From a configuration to everything that a run needs, nothing trained yet."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from arcface_jax.data.pipeline import DevicePrefetch, batches
from arcface_jax.errors import InputError
from arcface_jax.models import registry
from arcface_jax.training.config import Config, OptimiserConfig
from arcface_jax.training.dataset import RunData, load_data
from arcface_jax.training.objective import Objective, create_objective
from arcface_jax.training.parallel import MeshStep, ParallelStep, PmapStep, check_batch
from arcface_jax.training.schedules import cosine_schedule, polynomial_schedule, sgd, step_schedule
from arcface_jax.training.state import TrainState, create_state
from arcface_jax.training.step import DATA_AXIS, make_train_step


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step."""

    config: Config
    data: RunData
    backbone: nn.Module
    objective: Objective
    schedule: optax.Schedule
    optimiser: optax.GradientTransformation
    devices: list[jax.Device]
    step: ParallelStep

    def batches(self) -> DevicePrefetch:
        """The run's endless training batches, decoded and put on the devices ahead of their steps."""
        config = self.config
        iterator = batches(
            self.data.train,
            config.run.batch_size,
            config.data.image_size,
            config.run.seed,
            threads=1 if config.data.loading == "memory" else 4,
            on_unreadable="raise" if config.data.unreadable == "stop" else "substitute",
        )
        return DevicePrefetch(iterator, self.step.batch_sharding)

    def initial_state(self) -> TrainState:
        """The state at step 0, not yet placed."""
        return state_of(self.config, self.backbone, self.objective, self.optimiser, self.data.num_classes)


def create_schedule(config: OptimiserConfig, steps: int) -> optax.Schedule:
    """The learning rate over `steps`; "steps" divides it as the paper's CASIA run does, at 20K and 28K of 32K."""
    if not 0 <= config.warmup < 1:
        raise InputError(f"optimiser.warmup must be a share of the run in [0, 1), got {config.warmup}")
    warmup = round(config.warmup * steps)
    if config.schedule == "steps":
        return step_schedule(config.learning_rate, warmup, steps, (steps * 5 // 8, steps * 7 // 8))
    if config.schedule == "cosine":
        return cosine_schedule(config.learning_rate, warmup, steps)
    return polynomial_schedule(config.learning_rate, warmup, steps)


def create_optimiser(config: Config, schedule: optax.Schedule) -> optax.GradientTransformation:
    """SGD as config.optimiser describes it."""
    settings = config.optimiser
    return sgd(schedule, momentum=settings.momentum, weight_decay=settings.weight_decay, decay=settings.decay)


def state_of(
    config: Config,
    backbone: nn.Module,
    objective: Objective,
    optimiser: optax.GradientTransformation,
    num_classes: int,
) -> TrainState:
    """The state at step 0 of a run with this configuration."""
    return create_state(
        backbone,
        objective,
        optimiser,
        num_classes=num_classes,
        embedding_size=config.model.embedding_size,
        image_size=config.data.image_size,
        seed=config.run.seed,
    )


def create_backbone(config: Config, axis_name: str | None = None) -> nn.Module:
    """The backbone that config.model describes."""
    model = config.model
    return registry.create(
        model.name,
        embedding_size=model.embedding_size,
        width=model.width,
        dropout=model.dropout,
        dtype=jnp.dtype(model.dtype),
        axis_name=axis_name,
    )


def prepare(config: Config) -> Setup:
    """Checks the configuration, loads the data and builds the step.

    Raises:
      InputError: a setting is out of range, or the data cannot be used.
    """
    run = config.run
    if run.steps < 1 or run.log_every < 1 or run.evaluate_every < 1:
        raise InputError(
            f"run.steps, run.log_every and run.evaluate_every must be positive, "
            f"got {run.steps}, {run.log_every} and {run.evaluate_every}"
        )
    if run.statistics == "local" and run.parallel == "jit":
        raise InputError("run.statistics local needs --run.parallel pmap; under jit a step sees the whole batch")
    available = jax.local_devices()
    if run.devices is not None and not 1 <= run.devices <= len(available):
        raise InputError(f"run.devices {run.devices}: this machine has {len(available)} of {available[0].device_kind}")
    devices = available[: run.devices]
    check_batch(run.batch_size, devices)
    pmapped = run.parallel == "pmap"
    backbone = create_backbone(config, DATA_AXIS if pmapped and run.statistics == "global" else None)
    objective = create_objective(config.loss)
    schedule = create_schedule(config.optimiser, run.steps)
    optimiser = create_optimiser(config, schedule)
    step = make_train_step(
        backbone,
        objective,
        optimiser,
        seed=run.seed,
        augmentation=config.augmentation,
        axis_name=DATA_AXIS if pmapped else None,
    )
    data = load_data(config.data, run.seed)
    if run.batch_size > len(data.train):
        raise InputError(
            f"run.batch_size {run.batch_size} is larger than the {len(data.train)} training images; "
            f"set --run.batch-size to at most {len(data.train)}"
        )
    return Setup(
        config=config,
        data=data,
        backbone=backbone,
        objective=objective,
        schedule=schedule,
        optimiser=optimiser,
        devices=devices,
        step=(PmapStep if pmapped else MeshStep)(step, devices),
    )
