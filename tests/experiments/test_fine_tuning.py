"""Fine-tuning in one command: the network is the file's, and what contradicts it is named."""

import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from arcface_jax.commands.fine_tuning import network_of, open_start, settled
from arcface_jax.errors import InputError
from arcface_jax.interop.card import CARD_FILE
from arcface_jax.interop.model import TrainedModel
from arcface_jax.interop.torch import export_state_dict
from arcface_jax.models import registry
from arcface_jax.models.iresnet import IResNet
from arcface_jax.models.vit import VisionTransformer
from arcface_jax.pixels import ADAFACE, ARCFACE_TORCH
from arcface_jax.training.config import (
    DEFAULT_LOSS,
    Config,
    DataConfig,
    ModelConfig,
    OptimiserConfig,
)
from arcface_jax.training.config_file import config_to_json
from experiments import train
from tests.experiments.test_train import typed, write_people

MOBILE = {  # what FILES["mobile.safetensors"] holds
    "model.name": "mobilefacenet",
    "model.width": 8,
    "model.embedding_size": 12,
    "model.epsilon": None,
    "model.pixels": "insightface_mxnet",
    "data.image_size": (32, 16),
}


def named(name, **sizes):
    return lambda: registry.create(name, **({"embedding_size": 12, "width": 8} | sizes))


def ir(**more):
    return lambda: IResNet((2, 2, 2, 2), 12, 8, shortcut="subsampled", **more)


FILES = {  # how each is made, and what stands before its keys
    "mobile.safetensors": (named("mobilefacenet"), ""),
    "r18.safetensors": (named("iresnet18"), ""),
    "parallel.safetensors": (named("iresnet18"), "module."),
    "se.safetensors": (named("se_iresnet18", width=16), ""),
    "mbf.safetensors": (named("mbf"), ""),
    "vit.safetensors": (lambda: VisionTransformer(256, 12, embedding_size=12), ""),
    "magface.safetensors": (named("iresnet18", epsilon=2e-5), "features.module."),
    "adaface.safetensors": (ir(embedding_affine=False), "model."),
    "unclear.safetensors": (ir(embedding_affine=False), ""),
    "curricular.safetensors": (
        lambda: IResNet((3, 13, 30, 3), 12, 2, shortcut="subsampled", inner_norm=False),
        "",
    ),
    "none.safetensors": (lambda: IResNet((1, 1, 1, 1), embedding_size=12, width=8), ""),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with FILES, a run of the last version of each kind, and an export."""
    folder = tmp_path_factory.mktemp("trained")
    random = np.random.default_rng(0)
    for name, (make, prefix) in FILES.items():
        backbone = make()
        size = (32, 16) if name == "mobile.safetensors" else (32, 32)
        shapes = jax.eval_shape(backbone.init, jax.random.key(0), np.zeros((1, *size, 3)))
        variables = jax.tree.map(
            lambda leaf: (random.uniform(0.1, 1.0, leaf.shape) / leaf.size**0.5).astype(np.float32),
            shapes,
        )
        model = TrainedModel(backbone, variables, ARCFACE_TORCH, size, name)
        arrays = {prefix + key: value for key, value in export_state_dict(model).items()}
        safetensors.numpy.save_file(arrays, folder / name)
    run = Config(
        data=DataConfig(image_size=48, image_width=40),
        model=ModelConfig("vit_t", width=16, embedding_size=24, pixels="adaface", epsilon=1e-4),
    )
    (folder / "run").mkdir()
    (folder / "run" / "config.json").write_text(config_to_json(run))
    (folder / "run" / "checkpoints" / "3").mkdir(parents=True)
    (folder / "export").mkdir()
    (folder / "export" / CARD_FILE).write_text("{}")
    (folder / "damaged.pth").write_bytes(b"PK\x03\x04 nothing")
    (folder / "empty.ckpt").write_bytes(b"")
    (folder / "notes.txt").write_text("no model")
    return folder


@pytest.fixture(autouse=True)
def inside(files, monkeypatch):
    monkeypatch.chdir(files)


def network(config):
    model = config.model
    return {
        **{name: getattr(model, name.removeprefix("model.")) for name in list(MOBILE)[:-1]},
        "data.image_size": config.data.size,
    }


FOLDER = ["folder", "--data.root", "people", "--model.init"]


def test_the_network_is_the_files():
    config = train.parse([*FOLDER, "mobile.safetensors", "--loss.name", "cosface"])
    assert network(config) == MOBILE
    assert (config.data.image_size, config.data.image_width) == (32, 16)
    assert (config.run.steps, config.data.test_fraction) == (400, 0.5)  # the preset's own
    assert train.parse([*FOLDER, "mobile.safetensors"]).loss == DEFAULT_LOSS


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("r18.safetensors", ("iresnet18", 8, 12, None, "arcface_torch", (32, 32))),
        ("se.safetensors", ("se_iresnet18", 16, 12, None, "arcface_torch", (32, 32))),
        ("parallel.safetensors", ("iresnet18", 8, 12, None, "arcface_torch", (32, 32))),
        ("mbf.safetensors", ("mbf", 8, 12, None, "arcface_torch", (32, 32))),
        ("vit.safetensors", ("vit_t", 64, 12, None, "arcface_torch", (27, 27))),
        ("magface.safetensors", ("iresnet18", 8, 12, 2e-5, "magface", (32, 32))),
        ("adaface.safetensors", ("ir18", 8, 12, None, "adaface", (32, 32))),
        (
            "curricular.safetensors",
            ("ir100_curricularface", 2, 12, None, "arcface_torch", (32, 32)),
        ),
        ("run", ("vit_t", 16, 24, 1e-4, "adaface", (48, 40))),
        ("./run/", ("vit_t", 16, 24, 1e-4, "adaface", (48, 40))),
        ("run/checkpoints/3", ("vit_t", 16, 24, 1e-4, "adaface", (48, 40))),
    ],
)
def test_of_every_kind_of_file(path, found):
    assert tuple(network_of(path).values()) == found
    config = train.parse([*FOLDER, path])
    assert tuple(network(config).values()) == found


@pytest.mark.parametrize(
    "equal",
    [
        ["--model.width", "8"],
        ["--model.name=mobilefacenet", "--model.embedding-size", "12"],
        ["--data.image-size", "32"],
        ["--data.image-size", "32", "--data.image-width", "16"],
        ["--data.image_width=16"],
        ["--model.pixels", "insightface_mxnet"],
    ],
)
def test_what_is_set_to_the_files_value_is_no_difference(equal):
    assert network(train.parse([*FOLDER, "mobile.safetensors", *equal])) == MOBILE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.width", "16"], "--model.width 16 (8)"),  # the default, yet set
        (["--model.width=64"], "--model.width 64 (8)"),
        (["--model.embedding_size", "128"], "--model.embedding-size 128 (12)"),
        (["--data.image-size", "112"], "--data.image-size 112×16 (32×16)"),
        (["--data.image-width", "32"], "--data.image-size 32×32 (32×16)"),
        (["--model.pixels", "adaface"], "--model.pixels adaface (insightface_mxnet)"),
        (["--model.epsilon", "0.1"], "--model.epsilon 0.1 (the network's own)"),
        (
            ["--model.width", "16", "--model.name", "iresnet18", "--data.image-size", "64"],
            "--model.name iresnet18 (mobilefacenet); --model.width 16 (8); "
            "--data.image-size 64×16 (32×16)",
        ),
    ],
)
def test_what_is_set_and_differs_is_named_with_both_values(options, said):
    with pytest.raises(InputError) as caught:
        train.parse([*FOLDER, "mobile.safetensors", *options])
    assert f"brackets: {said}. Leave these out" in str(caught.value)
    assert str(caught.value).startswith("model.init mobile.safetensors: ")


def test_a_preset_that_contradicts_is_told_as_such():
    options = ["--model.init", "mobile.safetensors", "--data.verify", "lfw.bin"]
    with pytest.raises(InputError) as caught:
        train.parse(["ms1mv3-r50", *options, "--model.width", "16"])
    for said in (
        "model.name iresnet50 by preset ms1mv3-r50 (mobilefacenet); --model.width 16 (8); ",
        "model.embedding_size 512 by preset ms1mv3-r50 (12)",
        "data.image_size 112×16 by preset ms1mv3-r50 (32×16)",
    ):
        assert said in str(caught.value)
    assert "pixels" not in str(caught.value)  # which the preset leaves at its default


def test_an_option_goes_before_the_preset():
    options = ["--model.name", "mobilefacenet", "--model.width", "8", "--model.embedding-size"]
    size = ["--data.image-size", "32"]
    config = train.parse(
        ["ms1mv3-r50", "--model.init", "mobile.safetensors", *options, "12", *size]
    )
    assert network(config) == MOBILE
    assert config.model.dtype == "bfloat16"  # no part of the network


def written(tmp_path, config):
    place = tmp_path / "config.json"
    place.write_text(config if isinstance(config, str) else config_to_json(config))
    return ["--config", str(place)]


def test_a_configuration_may_leave_the_network_to_the_file(tmp_path):
    given = {"model": {"init": "mobile.safetensors", "dropout": 0.25}, "run": {"steps": 7}}
    config = train.parse(written(tmp_path, json.dumps(given)))
    assert network(config) == MOBILE
    assert (config.model.dropout, config.run.steps) == (0.25, 7)
    given["model"]["width"], given["data"] = 32, {"image_size": 32}
    with pytest.raises(InputError, match=r"brackets: model\.width 32 by .*config\.json \(8\)\. Le"):
        train.parse(written(tmp_path, json.dumps(given)))


def test_a_runs_configuration_says_all_and_needs_no_file(tmp_path):
    """As when a run goes on after the file that it began with is gone."""
    config = train.parse([*FOLDER, "mobile.safetensors"])
    gone = dataclasses.replace(config, model=dataclasses.replace(config.model, init="gone.pt"))
    assert train.parse(written(tmp_path, gone)) == gone
    assert train.parse(written(tmp_path, config)) == config
    (tmp_path / "config.json").unlink()
    other = dataclasses.replace(config, model=dataclasses.replace(config.model, width=64))
    with pytest.raises(InputError, match=r"brackets: model\.width 64 \(8\)\. Leave these out"):
        open_start(train.parse(written(tmp_path, other)))


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere.ckpt", "no such file or folder; give a run, a PyTorch checkpoint or"),
        ("damaged.pth", "damaged.pth"),
        ("empty.ckpt", "empty.ckpt"),
        ("notes.txt", "notes.txt"),
        (".", ": is no run; give"),
        ("export", "is an export, whose weights cannot be taken out; give the run or checkpoint"),
        ("none.safetensors", "no --model.name is its network, a variant of IResNet"),
    ],
)
def test_what_cannot_be_started_from_is_one_line(path, said):
    with pytest.raises(InputError) as caught:
        train.parse([*FOLDER, path])
    message = str(caught.value)
    assert message.startswith(f"model.init {path}")
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("options", "pixels"),
    [(["--model.pixels", "adaface"], "adaface"), (["--model.pixels=arcface_torch"], None)],
)
def test_the_pixels_are_asked_for_where_a_file_does_not_tell_them(options, pixels):
    config = train.parse([*FOLDER, "unclear.safetensors", *options])
    assert config.model.pixels == (pixels or "arcface_torch")
    assert config.model.name == "ir18"
    assert open_start(config).pixels == (ADAFACE if pixels else ARCFACE_TORCH)
    with pytest.raises(InputError, match=r"pixels differ; set --model\.pixels, as adaface"):
        train.parse([*FOLDER, "unclear.safetensors"])


def test_what_was_folded_is_only_for_a_new_head(monkeypatch):
    """Its normalisations are none any more: in training they would compute something else."""
    config = train.parse([*FOLDER, "r18.safetensors"])
    model = open_start(config)
    stats = dict(model.variables["batch_stats"])
    bn1 = stats["bn1"]
    stats["bn1"] = {"mean": 0 * bn1["mean"], "var": np.full_like(bn1["var"], 1 - 1e-5)}
    folded = dataclasses.replace(model, variables={**model.variables, "batch_stats": stats})
    monkeypatch.setattr("arcface_jax.commands.fine_tuning.open_trained", lambda *_: folded)
    with pytest.raises(InputError, match=r"were folded .* a new head .* \(--optimiser.frozen 1\)"):
        open_start(config)
    frozen = dataclasses.replace(config, optimiser=OptimiserConfig(frozen=1.0))
    assert open_start(frozen) is folded


def test_without_a_start_nothing_is_opened():
    config = settled(lambda base: base, Config(), (), "the default")
    assert config == Config()
    assert open_start(config) is None


@pytest.mark.slow
def test_fine_tuning_from_start_to_end_and_again(files, tmp_path):
    write_people(tmp_path)
    shutil.copy(files / "mobile.safetensors", tmp_path)
    short = ["--run.steps", "4", "--run.batch-size", "8", "--run.evaluate-every", "2"]
    short += ["--run.devices", "1", "--data.pairs", "60", "--optimiser.frozen", "0.5"]
    short += ["--optimiser.start-decay", "0.01", "--run.folder", "here"]
    status, out, err = typed(tmp_path, *FOLDER, "mobile.safetensors", *short)
    assert status == 0, err
    assert "Starting from mobile.safetensors: mobilefacenet, width 8, 12-d embedding, 32×16" in out
    assert "Verification, before training" in out
    assert "untrained" not in out + (tmp_path / "here" / "summary.html").read_text()
    saved = json.loads((tmp_path / "here" / "config.json").read_text())
    assert (saved["model"]["name"], saved["data"]["image_width"]) == ("mobilefacenet", 16)
    pathlib.Path(tmp_path / "mobile.safetensors").unlink()
    status, out, _ = typed(
        tmp_path, "--config", "here/config.json", "--run.folder", "here", "--run.devices", "1"
    )
    assert (status, "finished" in out) == (0, True)
