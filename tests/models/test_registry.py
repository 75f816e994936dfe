"""Networks of the user's own, by import path."""

import pytest

from arcface_jax.errors import InputError
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.mobilefacenet import MobileFaceNet
from arcface_jax.models.vit import VisionTransformer
from arcface_jax.training.config import Config, DataConfig, ModelConfig
from arcface_jax.training.program import create_backbone

NETS = """
import flax.linen as nn

class Net(nn.Module):
    embedding_size: int = 7
    dropout: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(self.embedding_size)(images.mean((1, 2)))

class Fixed(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(128)(images.mean((1, 2)))

class Needs(nn.Module):
    depth: int

def make(embedding_size, width=3):
    return Net(embedding_size + width)

def number():
    return 3

class Failing(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        raise ValueError("needs 64×64")

class Half(nn.Module):
    @nn.compact
    def __call__(self, images, train=False):
        return nn.Dense(128)(images.mean((1, 2)))[::2]

net = Net()
"""


@pytest.fixture(autouse=True)
def nets(own_folder):
    (own_folder / "my_nets.py").write_text(NETS)


def test_a_network_is_given_the_settings_that_it_has():
    network = registry.create("my_nets:Net", embedding_size=5, dropout=0.5)
    assert (type(network).__name__, network.embedding_size, network.dropout) == ("Net", 5, 0.5)
    assert registry.create("my_nets:make", embedding_size=5, width=2).embedding_size == 7


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("my_nets:Net", {"width": 3}, "model.width: 'my_nets:Net' has no such setting; leave it"),
        ("my_nets:Net", {"axis_name": "data"}, "model.axis_name: .*use run.statistics local"),
        ("my_nets:Nothing", {}, "model.name: 'my_nets:Nothing': .*my_nets.py has no Nothing"),
        ("nowhere:Net", {}, "model.name: 'nowhere:Net': there is no module 'nowhere'"),
        (
            "my_nets:net",
            {},
            "model.name: 'my_nets:net' is no backbone; give a module class, or a function",
        ),
        ("my_nets:NETS", {}, "model.name: .*has no NETS"),
        ("my_nets:number", {}, "model.name: 'my_nets:number': int is no network; give a flax"),
        ("my_nets:Needs", {}, "model.name: 'my_nets:Needs' needs depth"),
    ],
)
def test_what_is_no_network_is_said_in_one_line(name, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        registry.create(name, **settings)
    assert "\n" not in str(caught.value)


def configured(**model):
    return Config(data=DataConfig(image_size=16), model=ModelConfig(**model))


def test_a_run_may_leave_settings_that_a_network_lacks_at_their_default():
    create_backbone(configured(name="my_nets:Fixed"))  # width 16 is the default
    with pytest.raises(InputError, match=r"model.width: 'my_nets:Fixed'"):
        create_backbone(configured(name="my_nets:Fixed", width=17))
    assert create_backbone(configured(name="my_nets:Net", embedding_size=9)).embedding_size == 9


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("iresnet50", "iresnet50, width 32, 9-d embedding"),
        ("my_nets:Net", "my_nets:Net, 9-d embedding"),
        ("my_nets:make", "my_nets:make, width 32, 9-d embedding"),
    ],
)
def test_a_network_is_described_by_the_settings_that_it_has(name, said):
    assert registry.in_words(name, 32, 9) == said


def test_embeddings_of_another_size_are_found_before_the_run():
    with pytest.raises(InputError, match=r"model.embedding_size 9: .*shape \(2, 25\)"):
        create_backbone(configured(name="my_nets:make", embedding_size=9))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Failing", r"'my_nets:Failing' fails on images \(2, 16, 16, 3\) \(needs 64×64\); it must"),
        ("Half", r"'my_nets:Half' makes of two images an array of shape \(1, 128\)"),
    ],
)
def test_a_network_that_does_not_map_a_batch_is_found_before_the_run(name, said):
    with pytest.raises(InputError, match=said):
        create_backbone(configured(name=f"my_nets:{name}"))


@pytest.mark.parametrize("name", [name for name in registry.names() if "tiny" not in name])
def test_a_network_is_found_by_its_name_again(name):
    sizes = {"embedding_size": 9, "width": 32}
    made = registry.create(name, **sizes, unchanged=("embedding_size", "width"))
    if registry.name_of(made) is not None:  # a test's own may not have both
        assert registry.name_of(made) == name
        if hasattr(made, "epsilon"):
            assert registry.name_of(made.clone(epsilon=0.1, dropout=0.5)) == name


@pytest.mark.parametrize(
    "network",
    [
        IResNet((2, 2, 2, 3)),
        IResNet((2, 2, 2, 2), output="D"),
        IResNet((3, 4, 14, 3), squeeze=8),
        MobileFaceNet(8, bottlenecks=()),
        VisionTransformer(channels=200, depth=12),
    ],
)
def test_a_network_that_no_name_makes_has_none(network):
    assert registry.name_of(network) is None


def test_epsilon_is_of_every_normalisation_of_a_network():
    assert registry.create("mbf", epsilon=1e-3).epsilon == 1e-3
    assert registry.create("vit_t").epsilon == 2e-5
    with pytest.raises(InputError, match=r"model.epsilon must be above 0 and below 1, got 0"):
        registry.create("mbf", epsilon=0.0)
    with pytest.raises(InputError, match=r"model.epsilon: 'my_nets:Net' has no such setting"):
        registry.create("my_nets:Net", epsilon=0.1)
