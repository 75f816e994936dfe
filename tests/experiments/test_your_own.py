"""docs/your-own.md is true: its two files and its command, run in a folder of their own."""

import json
import os
import pathlib
import re
import shlex
import shutil
import sys

import pytest

from experiments import train
from tests import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your-own.md").read_text(encoding="utf-8")
LOSS, NETWORK = re.findall(r"```python\n(.*?)```", PAGE, re.S)
(COMMAND,) = re.findall(r"^    python -m experiments.train (.*)$", PAGE, re.M)
SMALL = shlex.split(
    "--data.identities 12 --data.images-per-identity 6 --data.image-size 16 --data.pairs 100 "
    "--model.embedding-size 16 --run.steps 6 --run.evaluate-every 3 --run.batch-size 16"
)


@pytest.fixture
def folder(tmp_path):
    """With the page's two files in it."""
    (tmp_path / "my_losses.py").write_text(LOSS)
    (tmp_path / "my_nets.py").write_text(NETWORK)
    return tmp_path


def typed(folder, module, *arguments):
    """What a command says, its own and its errors."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "COLUMNS": "200"}
    environment.pop("XLA_FLAGS", None)  # as a user runs it
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    done = processes.run(command, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_the_page_trains_goes_on_and_evaluates(folder):
    command = [*shlex.split(COMMAND), *SMALL, "--run.folder", "run"]
    said = typed(folder, "train", *command)
    assert "expected to start at" in said
    assert "These differ" not in said
    config = json.loads((folder / "run" / "config.json").read_text())
    assert config["loss"]["name"] == "my_losses:FrequencyMargin"
    assert config["loss"]["a"] == 0.7
    assert config["model"]["name"] == "my_nets:Net"
    assert "this run is finished" in typed(folder, "train", *command)
    (folder / "run" / "results.json").unlink()  # as if it had been killed after step 3
    shutil.rmtree(folder / "run" / "checkpoints" / "6")
    assert "since it went on at step 3" in typed(folder, "train", *command)
    said = typed(folder, "evaluate", "--checkpoint", "run")
    assert "accuracy" in said


@pytest.mark.slow
def test_the_page_s_loss_is_compared_with_another(folder):
    own = ("--losses", "my_losses:FrequencyMargin", "softmax", "--seeds", "0", "--processes", "1")
    assert "FrequencyMargin" in typed(folder, "compare", *own, "--", *SMALL)
    assert "FrequencyMargin" in (folder / "runs" / "compare" / "comparison.md").read_text()


HEADS = {
    "dense": "",
    "chunked": "--head.kind chunked --head.chunk 4",
    "sharded": "--head.kind sharded",
    "fused": "--head.kind chunked --head.update fused",
    "sampled": "--head.kind sharded --head.sample-rate 0.9",
}


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(head, marks=[pytest.mark.slow] * (head not in ("dense", "sampled")))
        for head in HEADS
    ],
)
def test_every_head_takes_the_page_s_loss(own_folder, folder, type_command, without_pictures, head):
    arguments = [*shlex.split(COMMAND), *SMALL, *shlex.split(HEADS[head])]
    status, said, errors = type_command(train.main, *arguments, "--run.folder", "run")
    assert status == 0, errors
    assert "These differ" not in said
    metrics = (folder / "run" / "metrics.jsonl").read_text()
    assert "NaN" not in metrics
