"""Opening models: what a PyTorch checkpoint does not say, every command can be told."""

import pytest
import tyro
from PIL import Image

from arcface_jax.commands.models import check_project, open_to_evaluate, open_trained
from arcface_jax.errors import InputError
from arcface_jax.pixels import ADAFACE, ARCFACE_TORCH
from experiments import demo, evaluate, identify, invert, neighbours

torch = pytest.importorskip("torch")

from tests.interop import torch_networks  # noqa: E402 (needs torch)


@pytest.fixture
def unclear(tmp_path):
    """A checkpoint of AdaFace's network that does not say whether it expects RGB or BGR."""
    network = torch_networks.randomise(torch_networks.Ir())
    torch.save(network.state_dict(), tmp_path / "unclear.pth")
    return tmp_path / "unclear.pth"


def typed(module):
    return lambda: module.run(tyro.cli(module.Arguments))


COMMANDS = {
    "evaluate": (
        typed(evaluate),
        ["--checkpoint"],
        "was not trained here and has no held-out people",
    ),
    "verify": (
        lambda: identify.run(tyro.extras.subcommand_cli_from_dict(identify.COMMANDS)),
        ["verify", "a.png", "b.png", "--threshold", "0"],
        "",
    ),
    "demo": (
        typed(demo),
        ["--threshold=0", "--people", "absent"],
        "absent: no such file or folder",
    ),
    "invert": (typed(invert), [], "--people: a model that was not trained here"),
    "neighbours": (typed(neighbours), [], "--people: a model that was not trained here"),
}
"""How each is typed, and what it asks for when the model is open; verify for nothing."""


@pytest.mark.parametrize("name", COMMANDS)
def test_the_project_that_is_asked_for_can_be_given(
    type_command, unclear, name, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for photo in ("a.png", "b.png"):  # they are looked at before the model
        Image.new("RGB", (32, 32)).save(photo)
    if name == "demo":
        pytest.importorskip(
            "gradio", reason="the packages of requirements-demo.txt are not installed"
        )
    main, arguments, said = COMMANDS[name]
    arguments = [*arguments[:1], unclear, *arguments[1:]]
    status, _, err = type_command(main, *arguments)
    assert status == 2
    assert "say which it is by --project" in err
    status, _, err = type_command(main, *arguments, "--project", "adaface")
    assert status == (2 if said else 0)
    assert said in err


def test_the_project_decides_on_the_pixels(unclear):
    assert open_trained(unclear, "adaface").pixels == ADAFACE
    assert open_trained(unclear, "curricularface").pixels == ARCFACE_TORCH
    assert open_to_evaluate(unclear, "adaface").image_size == (32, 32)


def test_a_project_without_effect_is_refused(tmp_path, type_command):
    (tmp_path / "model.onnx").touch()
    (tmp_path / "model-0000.params").touch()
    for path in (tmp_path, tmp_path / "model.onnx", tmp_path / "model-0000.params"):
        with pytest.raises(InputError, match=r"--project adaface: .* is no PyTorch checkpoint"):
            open_trained(path, "adaface")
    check_project(tmp_path / "absent", "adaface")  # that it is absent says who opens it
    for module, arguments, said in (
        (
            evaluate,
            ["--checkpoint", tmp_path, "--project", "adaface"],
            "no --checkpoint is a PyTorch file",
        ),
        (neighbours, ["--project", "adaface"], "there is no checkpoint that it could be of"),
        (
            invert,
            [tmp_path, "--judge-project", "adaface"],
            "--judge-project adaface: give --judge as well",
        ),
    ):
        status, _, err = type_command(typed(module), *arguments)
        assert status == 2
        assert said in err
