"""A small trained-like model on disk, and people to embed."""

import sys

import numpy as np
import pytest
from PIL import Image

from arcface_jax.commands.command import run_command
from experiments import train


@pytest.fixture
def small_checkpoint(tmp_path):
    """A PyTorch checkpoint of a tiny IResNet for 32×32 images, 6-d."""
    torch = pytest.importorskip("torch")
    from tests.interop import torch_networks

    network = torch_networks.randomise(torch_networks.IResNet((1, 1, 1, 1)))
    torch.save(network.state_dict(), tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.fixture
def crowd(tmp_path):
    """A folder of four people with four pictures each: a pattern and noise."""
    random = np.random.default_rng(0)
    for person in range(4):
        folder = tmp_path / "crowd" / f"p{person}"
        folder.mkdir(parents=True)
        base = random.integers(0, 255, (8, 8, 3)).repeat(4, 0).repeat(4, 1)
        for picture in range(4):
            pixels = np.clip(base + random.normal(0, 8, base.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{picture}.png")
    return tmp_path / "crowd"


@pytest.fixture
def without_pictures(monkeypatch):
    """A run that is read by what it prints need not draw."""
    monkeypatch.setattr(train, "draw_run", lambda *_: [])


@pytest.fixture
def type_command(monkeypatch, capsys):
    """Runs a module's command as typed; returns (exit status, what it printed, errors)."""

    def run(main, *arguments):
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            run_command(main)
        printed = capsys.readouterr()
        return stop.value.code, printed.out, printed.err

    return run
