"""The benchmark of a training step as a person types it, and that the two networks it compares
are one.
"""

import json
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from arcface_jax.errors import InputError
from arcface_jax.interop.torch import model_from_state_dict
from arcface_jax.losses import margin_softmax_loss
from experiments.benchmark.report import Ratio
from experiments.benchmark.step import (
    StepBenchmark,
    read_size,
    run_step_benchmark,
    step_ratios,
    step_table,
)
from tests import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_step_is_measured(tmp_path):
    options = [
        "--sizes",
        "16,16,8",
        "--embedding-size",
        "8",
        "--classes",
        "20",
        "--rounds",
        "1",
        "--steps",
        "2",
    ]
    result = processes.run(
        [sys.executable, "-m", "experiments.benchmark", "step", *options, "--output", tmp_path],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    saved = json.loads((tmp_path / "records.json").read_text())
    assert saved["machine"]["jax"] == jax.__version__
    ours = saved["records"][0]
    assert ours["case"] == "arcface-jax"
    assert len(ours["seconds"]) == 2
    assert min(ours["seconds"]) > 0
    # s·sin m + ln C + s²/(2d) of random embeddings and centres, d = 8: far from 0, and the same for
    # both.
    assert all(record["first_loss"] > 64 * np.sin(0.5) for record in saved["records"])
    assert "16, 16, 8" in result.stdout
    if "torch" not in {record["case"] for record in saved["records"]}:
        assert "torch is not installed: no comparison" in result.stdout
        assert saved["ratios"] == {}
    else:
        assert set(saved["ratios"]) == {"iresnet18, 16×16, width 16, batch 8, beside PyTorch"}
        assert (tmp_path / "ratios.png").stat().st_size > 1000


def record(case, seconds, planned):
    size = {"depth": 18, "image": 32, "width": 16, "batch": 64}
    return {
        "case": case,
        "seconds": seconds,
        "seconds_until_ready": 1.0,
        "planned_temporary_mb": planned,
        **size,
    }


def test_ratios_are_of_the_same_round():
    records = [
        record("arcface-jax", [0.1, 0.1, 9.0], 5.0),
        record("torch", [0.2], None),
        record("arcface-jax", [1.0], 5.0),
        record("torch", [3.0], None),
    ]
    table = step_table(records, "title")
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["× torch"] == ["2.50", "1.00"]
    assert cells["images/s"] == ["352.0", "170.7"]
    assert cells["lowest"] == ["64.0", "21.3"]
    assert cells["temp. MB"] == ["5", "–"]
    assert step_ratios(records) == {
        "iresnet18, 32×32, width 16, batch 64, beside PyTorch": Ratio(2.5, 2.0, 3.0)
    }
    alone = {
        column.header: list(column.cells) for column in step_table(records[:1], "title").columns
    }
    assert alone["× torch"] == ["–"]
    assert step_ratios(records[:1]) == {}


@pytest.mark.parametrize("text", ["112,64", "112,64,0", "112x64x8", ""])
def test_a_size_is_three_numbers(text):
    assert read_size("112,64,8") == (112, 64, 8)
    with pytest.raises(InputError, match=f"sizes has {text!r}"):
        read_size(text)


def test_a_network_too_narrow_for_pytorch_is_refused():
    """PyTorch would end with a corrupted heap, or never."""
    pytest.importorskip("torch")
    with pytest.raises(
        InputError, match="sizes has '16,8,4': PyTorch crashes with a width below 16"
    ):
        run_step_benchmark(StepBenchmark(sizes=("16,16,4", "16,8,4")))


def test_an_unknown_depth_is_named():
    with pytest.raises(InputError, match="depth is 19"):
        run_step_benchmark(StepBenchmark(depth=19))


def test_both_networks_compute_the_same():
    """Embeddings and the loss's gradient in training, with the weights of one in the other."""
    torch = pytest.importorskip("torch")
    from experiments.benchmark.torch_iresnet import TorchIResNet
    from experiments.benchmark.torch_step import arcface_loss

    torch.manual_seed(0)
    network = TorchIResNet((1, 1, 1, 1), 4, 6, 32)
    model = model_from_state_dict(
        {key: value.numpy().copy() for key, value in network.state_dict().items()}
    )
    random = np.random.default_rng(0)
    images, centres = (
        random.normal(size=(6, 32, 32, 3)).astype(np.float32),
        random.normal(size=(5, 6)).astype(np.float32),
    )
    labels = np.arange(6) % 5

    def loss(params, centres):
        variables = {**model.variables, "params": params}
        embeddings, _ = model.backbone.apply(variables, images, True, mutable=["batch_stats"])
        return jnp.mean(margin_softmax_loss(embeddings, centres, labels)), embeddings

    (ours, embeddings), gradients = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(
        model.variables["params"], jnp.asarray(centres)
    )
    class_weights = torch.nn.Parameter(torch.from_numpy(centres))
    theirs = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    their_loss = arcface_loss(theirs, class_weights, torch.from_numpy(labels))
    their_loss.backward()
    np.testing.assert_allclose(embeddings, theirs.detach().numpy(), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours, their_loss.item(), rtol=1e-4)
    np.testing.assert_allclose(gradients[1], class_weights.grad.numpy(), rtol=1e-2, atol=1e-3)
    kernel = network.conv1.weight.grad.numpy().transpose(2, 3, 1, 0)
    np.testing.assert_allclose(
        gradients[0]["conv1"]["kernel"], kernel, rtol=1e-2, atol=1e-2 * np.abs(kernel).max()
    )
