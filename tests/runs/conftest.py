"""A network and a run small enough to train in a second."""

import copy
import dataclasses
import types

import flax.linen as nn
import jax
import pytest

from arcface_jax.models import registry
from arcface_jax.models.layers import EmbeddingBatchNorm
from arcface_jax.training.config import Config, DataConfig, ModelConfig, RunConfig
from tests.runs.short_runs import compiled_once, run


class Tiny(nn.Module):
    """A strided convolution, a dense layer and the usual last normalisation."""

    embedding_size: int
    width: int
    dropout: float
    dtype: object
    axis_name: str | None

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.relu(nn.Conv(self.width, (3, 3), 2, name="conv")(images))
        x = nn.Dense(self.embedding_size, name="fc")(x.reshape(x.shape[0], -1))
        return EmbeddingBatchNorm(1e-5, self.axis_name, name="features")(x, train)


if "tiny" not in registry.names():
    registry.register("tiny", Tiny)


@pytest.fixture(scope="session")
def tiny_config():
    """Six steps on twelve synthetic people, half of them held out; on two devices, if there are."""
    devices = min(2, jax.device_count())
    return Config(
        data=DataConfig(
            identities=12, images_per_identity=6, image_size=16, test_fraction=0.5, pairs=120
        ),
        model=ModelConfig(name="tiny", width=4, embedding_size=16),
        run=RunConfig(steps=6, batch_size=16, evaluate_every=3, log_every=1, devices=devices),
    )


@pytest.fixture(scope="session")
def with_run(tiny_config):
    """tiny_config with some of its run settings changed."""
    return lambda **changes: dataclasses.replace(
        tiny_config, run=dataclasses.replace(tiny_config.run, **changes)
    )


@pytest.fixture(scope="session")
def setup(tiny_config):
    """The run of tiny_config, its step compiled once for all tests."""
    return compiled_once(tiny_config)


@pytest.fixture(scope="session")
def run_with(setup):
    """Runs `setup` with some run settings changed that its step does not know of, in a folder."""

    def run_changed(path, recorder=None, **changes):
        changed = dataclasses.replace(setup, program=copy.copy(setup.program))
        config = setup.config
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, **changes))
        object.__setattr__(changed.program, "config", config)
        return run(config, path, recorder, changed)

    return run_changed


@pytest.fixture(scope="session")
def straight(setup, tmp_path_factory):
    """A run from start to end; its folder is only to be read."""
    folder = tmp_path_factory.mktemp("straight")
    result, recorder = run(setup.config, folder, setup=setup)
    metrics = (folder / "metrics.jsonl").read_bytes()
    return types.SimpleNamespace(folder=folder, result=result, recorder=recorder, metrics=metrics)
