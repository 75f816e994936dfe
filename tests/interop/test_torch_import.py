"""Whole checkpoints as the projects write them: heads, prefixes, pixels, and what does not fit."""

import functools

import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.torch import (
    import_torch,
    model_from_state_dict,
    read_class_weights,
    save_torch,
)
from arcface_jax.models import registry
from arcface_jax.pixels import ADAFACE, ARCFACE_TORCH, INSIGHTFACE_MXNET, PixelConvention

torch = pytest.importorskip("torch")

from tests.interop import torch_networks as networks  # noqa: E402 (needs torch)

CLASSES = 9


@pytest.fixture
def classes():
    return torch.randn(CLASSES, 6, generator=torch.Generator().manual_seed(1))


def state(network, prefix=""):
    return {prefix + key: value for key, value in networks.randomise(network).state_dict().items()}


def test_adaface_checkpoint_with_its_head(tmp_path, classes):
    weights = state(networks.Ir(), "model.")
    weights |= {
        "head.kernel": classes.T.contiguous(),
        "head.t": torch.zeros(1),
        "head.batch_mean": torch.ones(1),
    }
    torch.save({"epoch": 25, "state_dict": weights, "callbacks": {}}, tmp_path / "adaface.ckpt")
    model = import_torch(tmp_path / "adaface.ckpt")
    assert model.pixels == ADAFACE
    assert model.source == "adaface.ckpt (adaface)"
    np.testing.assert_array_equal(model.class_weights, classes)


def test_magface_checkpoint_with_its_head(tmp_path, classes):
    """Its classifier is called fc.weight but has a class in each column, whatever the shape."""
    weights = state(networks.IResNet(epsilon=2e-5), "module.features.")
    torch.save(
        {"state_dict": weights | {"module.fc.weight": classes.T.contiguous()}},
        tmp_path / "magface.pth",
    )
    model = import_torch(tmp_path / "magface.pth")
    assert model.pixels == PixelConvention("bgr", 0.0, 255.0)
    assert model.backbone.epsilon == 2e-5
    np.testing.assert_array_equal(model.class_weights, classes)


def test_arcface_torch_checkpoints(tmp_path, classes):
    weights = state(networks.IResNet())
    torch.save(weights, tmp_path / "model.pt")
    torch.save(
        {"state_dict_backbone": weights, "state_dict_softmax_fc": {"weight": classes}},
        tmp_path / "resume.pt",
    )
    alone, resumed = import_torch(tmp_path / "model.pt"), import_torch(tmp_path / "resume.pt")
    assert alone.class_weights is None
    assert alone.pixels == ARCFACE_TORCH
    assert alone.image_size == (32, 32)
    np.testing.assert_array_equal(resumed.class_weights, classes)


@pytest.mark.parametrize(
    ("project", "network", "prefix", "buffers"),
    [
        (
            "curricularface",
            functools.partial(networks.Ir, inner_norm=False),
            "",
            {"t": torch.zeros(1)},
        ),
        (
            "curricularface",
            functools.partial(networks.Ir, inner_norm=False),
            "module.",
            {"t": torch.zeros(1)},
        ),
        ("elasticface", functools.partial(networks.IResNet, width=8, squeeze=4), "", {}),
        ("elasticface", networks.IResNet, "module.", {}),
    ],
)
def test_backbone_and_head_in_a_file_each(tmp_path, classes, project, network, prefix, buffers):
    """CurricularFace and ElasticFace; in both a class is a column of `kernel`."""
    torch.save(state(network(), prefix), tmp_path / "backbone.pth")
    torch.save({"kernel": classes.T.contiguous(), **buffers}, tmp_path / "head.pth")
    model = import_torch(tmp_path / "backbone.pth", project)
    assert model.pixels == ARCFACE_TORCH
    assert model.image_size == (32, 32)
    assert model.source == f"backbone.pth ({project})"
    np.testing.assert_array_equal(
        read_class_weights([tmp_path / "head.pth"], model.embedding_size), classes
    )
    guessed = import_torch(tmp_path / "backbone.pth")
    assert (guessed.pixels, guessed.backbone) == (model.pixels, model.backbone)


def test_mobilefacenet_knows_its_image_size_and_divisor(tmp_path):
    torch.save({"net_state_dict": state(networks.MobileFaceNet())}, tmp_path / "068.ckpt")
    model = import_torch(tmp_path / "068.ckpt")
    assert model.image_size == (32, 48)
    assert model.pixels == INSIGHTFACE_MXNET


@pytest.mark.parametrize(("key", "by_columns"), [("weight", False), ("kernel", True)])
def test_classifiers_in_files_of_their_own(tmp_path, classes, key, by_columns):
    """One file for each process, each with its part of the classes."""
    paths = [tmp_path / f"head{part}.pt" for part in range(2)]
    for path, rows in zip(paths, (classes[:5], classes[5:]), strict=True):
        torch.save({key: rows.T.contiguous() if by_columns else rows}, path)
    np.testing.assert_array_equal(read_class_weights(paths, 6), classes)
    with pytest.raises(InputError, match=r"head0.pt: no classifier for 7-d embeddings"):
        read_class_weights(paths, 7)


@pytest.mark.parametrize(
    ("key", "by_columns"), [("head.weight", False), ("head.kernel", True), ("fc.weight", True)]
)
def test_a_square_classifier_is_turned_by_the_projects_habit(key, by_columns):
    square = np.arange(36.0, dtype=np.float32).reshape(6, 6)
    weights = {name: value.numpy() for name, value in state(networks.Ir(), "model.").items()}
    head = model_from_state_dict(weights | {key: square}).class_weights
    np.testing.assert_array_equal(head, square.T if by_columns else square)


def test_every_key_that_does_not_fit_is_reported(tmp_path):
    weights = state(networks.IResNet())
    del weights["layer2.0.conv1.weight"], weights["bn1.running_var"]
    weights["layer3.0.conv2.weight"] = torch.zeros(1, 2, 3, 3)
    weights |= {"layer1.0.extra.weight": torch.zeros(2), "module.something": torch.zeros(2)}
    torch.save(weights, tmp_path / "bad.pt")
    with pytest.raises(InputError, match=r"bad.pt: 5 keys do not fit IResNet") as error:
        import_torch(tmp_path / "bad.pt")
    for said in (
        "layer2.0.conv1.weight is missing",
        "bn1.running_var is missing",
        "layer3.0.conv2.weight has shape (1, 2, 3, 3), wanted (16, 16, 3, 3)",
        "layer1.0.extra.weight is unknown",
        "module.something is unknown",
    ):
        assert said in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 3, "optimizer": {}}, "no weights in it; it holds epoch, optimizer"),
        (
            {"encoder.weight": torch.zeros(2)},
            "no known network; its 1 key begins with encoder.weight",
        ),
        ({"layer1.0.conv1.weight": torch.zeros(2)}, "conv1.weight: missing"),
        ({"conv_sep.layers.0.weight": torch.zeros(2)}, "layers.0.layers.0.weight: missing"),
        (
            {"patch_embed.proj.weight": torch.zeros(2, 3, 9, 0)},
            "patch_embed.proj.weight: shape .2, 3, 9, 0., wanted 4 dimensions, none of them 0",
        ),
    ],
)
def test_other_contents_are_named(tmp_path, content, said):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=f"other.pt: {said}"):
        import_torch(tmp_path / "other.pt")


def test_an_ambiguous_colour_order_must_be_said(tmp_path):
    torch.save(state(networks.Ir()), tmp_path / "ir.pth")
    with pytest.raises(InputError, match="some of them expect BGR"):
        import_torch(tmp_path / "ir.pth")
    assert import_torch(tmp_path / "ir.pth", "adaface").pixels == ADAFACE
    with pytest.raises(InputError, match="'facenet' is unknown"):
        import_torch(tmp_path / "ir.pth", "facenet")


def test_absurd_numbering_is_refused_and_not_built():
    weights = {key: value.numpy() for key, value in state(networks.IResNet()).items()}
    with pytest.raises(InputError, match="layer1: numbered up to 999999999"):
        model_from_state_dict(weights | {"layer1.999999999.conv1.weight": np.zeros(1)})


def test_what_we_write_pytorch_loads_and_runs_alike(tmp_path):
    network = networks.randomise(networks.Mbf())
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    save_torch(import_torch(tmp_path / "theirs.pt"), tmp_path / "ours.pt")
    read = torch.load(tmp_path / "ours.pt", weights_only=True)
    other = networks.Mbf()
    other.load_state_dict(read, strict=True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(other.eval()(images), network(images))


def test_networks_without_pytorch_names_say_so(tmp_path):
    network = registry.create("iresnet50c", width=4, embedding_size=8)
    model = TrainedModel(
        network, {"params": {}, "batch_stats": {}}, ARCFACE_TORCH, (32, 32), "nowhere"
    )
    with pytest.raises(InputError, match="no PyTorch project is known"):
        save_torch(model, tmp_path / "never.pt")
    assert not (tmp_path / "never.pt").exists()
