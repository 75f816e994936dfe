"""Every command with a network of the user's own, in Linen, NNX, Equinox or plain JAX."""

import json
import shlex
import shutil

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.commands.gallery import read_gallery
from arcface_jax.commands.models import open_embedder
from arcface_jax.errors import InputError
from arcface_jax.models.any_network import as_linen
from arcface_jax.models.layers import generalised_mean
from arcface_jax.training.config import Config, DataConfig, ModelConfig, OptimiserConfig
from arcface_jax.training.program import create_backbone, create_program
from experiments import embed, evaluate, export, identify, train

SMALL = shlex.split(
    "--data.identities 8 --data.images-per-identity 6 --data.image-size 16 --data.pairs 60 "
    "--model.embedding-size 8 --run.steps 4 --run.evaluate-every 2 --run.batch-size 8 "
    "--run.devices 1 --model.pixels imagenet --optimiser.first-layer-rate 0.1"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["equinox_net", "trained_linen", "NnxNet", "function_with_statistics"]
)
def test_it_trains_goes_on_embeds_names_and_is_exported(
    name, type_command, crowd, tmp_path, without_pictures
):
    run = tmp_path / "run"

    def typed(main, *arguments):
        status, said, errors = type_command(main, *arguments)
        assert status == 0, errors
        return said

    command = [*SMALL, "--model.name", f"tests.models.own_nets:{name}", "--run.folder", run]
    typed(train.main, *command)
    assert "NaN" not in (run / "metrics.jsonl").read_text()
    done = np.load(_embedded(typed, run, crowd, tmp_path / "whole.npy"))
    (run / "results.json").unlink()  # as if it had been killed after step 2
    shutil.rmtree(run / "checkpoints" / "4")
    assert "since it went on at step 2" in typed(train.main, *command)
    again = np.load(_embedded(typed, run, crowd, tmp_path / "again.npy"))
    np.testing.assert_array_equal(done, again)

    typed(export.main, run, tmp_path / "exported")
    card = json.loads((tmp_path / "exported" / "model_card.json").read_text())
    assert card["network"] in ("EquinoxNet", "LinenNet", "NnxNet", "embed")
    assert card["embedding_size"] == 8
    exported = np.load(_embedded(typed, tmp_path / "exported", crowd, tmp_path / "other.npy"))
    np.testing.assert_allclose(exported, done, atol=1e-5)

    typed(identify.main, "enrol", run, crowd, tmp_path / "people.npz")
    assert len(read_gallery(tmp_path / "people.npz").names) == 16
    said = typed(identify.main, "name", run, tmp_path / "people.npz", crowd, "--threshold", "0.5")
    assert "p3" in said
    assert "report.html" in typed(
        evaluate.main, "--checkpoint", run, "--sets", f"crowd={crowd}", "--output", tmp_path / "ev"
    )


def _embedded(typed, model, crowd, place):
    typed(embed.main, model, crowd, place)
    return place


def configured(network, size=16, **optimiser):
    return Config(
        data=DataConfig(image_size=size),
        model=ModelConfig(name=network, embedding_size=8),
        optimiser=OptimiserConfig(**optimiser),
    )


def test_a_run_starts_from_the_weights_that_the_factory_loaded(own_folder):
    np.savez(own_folder / "weights.npz", kernel=np.full((3, 8), 0.25))
    (own_folder / "my_nets.py").write_text(
        "import numpy as np\n"
        "def net(embedding_size):\n"
        "    weights = dict(np.load('weights.npz'))\n"
        "    return (lambda params, images: images.mean((1, 2)) @ params['kernel']), weights\n"
    )
    config = configured("my_nets:net", start_decay=0.1)
    program = create_program(config, 4)
    state = program.placement.create(program.make_state)
    np.testing.assert_array_equal(state.params["backbone"]["kernel"], np.full((3, 8), 0.25))
    assert program.starts_trained
    assert program.expected_initial_loss() is None
    (own_folder / "weights.npz").unlink()
    with pytest.raises(InputError, match="making it failed with FileNotFoundError"):
        create_program(config, 4)
    with pytest.raises(
        InputError, match=r"start_decay 0.1 draws the weights to those of model.init"
    ):
        create_program(configured("tests.models.own_nets:LinenNet", start_decay=0.1), 4)


@pytest.mark.parametrize(
    "network",
    [
        "def net(embedding_size):\n"
        "    weights = {'kernel': np.ones((3, 8), np.int8), 'scale': 1}\n"
        "    return (lambda params, images: images.mean((1, 2)) @ params['kernel']), weights\n",
        "class net(nn.Module):\n"
        "    embedding_size: int\n"
        "    @nn.compact\n"
        "    def __call__(self, images, train=False):\n"
        "        kernel = self.param('kernel', lambda key: np.ones((3, 8), np.int8))\n"
        "        return images.mean((1, 2)) @ kernel\n",
    ],
)
def test_parameters_that_are_whole_numbers_are_named(own_folder, network):
    start = "import flax.linen as nn\nimport numpy as np\n"
    (own_folder / "whole_nets.py").write_text(start + network)
    with pytest.raises(InputError, match=r"has parameters that are whole numbers, kernel \(int8\)"):
        create_program(configured("whole_nets:net"), 4)


def test_the_seed_of_a_run_is_that_of_a_new_network():
    name = "tests.models.own_nets:PlainEquinoxNet"
    first, second = (
        create_backbone(Config(model=ModelConfig(name=name), run=run))
        for run in (Config().run, type(Config().run)(seed=1))
    )
    one, other = (net.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3))) for net in (first, second))
    assert not np.array_equal(*(net["params"]["first"]["weight"] for net in (one, other)))


def test_the_rate_rises_from_the_first_layer_to_the_last():
    name = "tests.models.own_nets:NnxNet"
    options = {"name": "sgd", "weight_decay": 0.0, "schedule": "constant", "warmup": 0.0}
    updates = []
    for rate in (1.0, 0.01):
        program = create_program(configured(name, 4, first_layer_rate=rate, **options), 4)
        state = jax.eval_shape(program.make_state)
        params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), state.params)
        start = program.optimiser.init(params)
        updates.append(program.optimiser.update(params, start, params)[0])
    ratio = jax.tree.map(lambda slow, fast: float(np.ravel(slow / fast)[0]), updates[1], updates[0])
    assert ratio["head"]["class_weights"] == 1
    assert ratio["backbone"]["zeroth"]["kernel"] == pytest.approx(0.01)
    assert ratio["backbone"]["first"]["0"]["kernel"] == pytest.approx(1)
    with pytest.raises(InputError, match=r"optimiser.first_layer_rate"):
        create_program(configured(name, 4, first_layer_rate=0.0), 4)


def equimo_net(embedding_size, key):
    """A vision transformer of equimo under GeM pooling and a batch normalisation."""
    import equimo.models
    import equinox

    class Tokens(equinox.Module):
        vit: equinox.Module

        def __call__(self, images, *, key, inference):
            def tokens(image, key):
                found = self.vit.features(image, key=key, inference=inference)
                return jax.vmap(self.vit.norm)(found)

            keys = jax.random.split(key, len(images))
            return jax.vmap(tokens)(jnp.moveaxis(images, -1, 1), keys)

    class Net(nn.Module):
        trunk: nn.Module

        @nn.compact
        def __call__(self, images, train=False):
            tokens = self.trunk(images, train)
            pooled = jnp.concatenate([tokens[:, 0], generalised_mean(tokens[:, 1:])], -1)
            x = nn.Dense(embedding_size)(pooled)
            return nn.BatchNorm(use_running_average=not train, use_bias=False)(x)

    sizes = {"dim": 24, "depths": [3], "num_heads": [2], "num_classes": 0}
    return Net(as_linen(Tokens(equimo.models.vit_tiny_patch16_224(key=key, **sizes))))


@pytest.mark.slow
def test_a_vision_transformer_of_equimo_at_224_pixels(
    type_command, crowd, tmp_path, without_pictures
):
    pytest.importorskip("equimo")
    options = [*SMALL, "--data.image-size", 224, "--run.steps", 2]
    name = "tests.experiments.test_own_networks:equimo_net"
    status, _, errors = type_command(
        train.main, *options, "--model.name", name, "--run.folder", tmp_path / "run"
    )
    assert status == 0, errors
    embedder = open_embedder(tmp_path / "run")
    assert embedder.image_size == (224, 224)
    images = np.zeros((1, 224, 224, 3), np.uint8)
    assert embedder.embed(images).shape == (1, 8)
