"""What a run cannot start from is said with what it can."""

import pytest

from arcface_jax.errors import InputError
from arcface_jax.pixels import ARCFACE_TORCH
from arcface_jax.runs.starting_point import start_from

torch = pytest.importorskip("torch")

from tests.interop import torch_networks  # noqa: E402 (needs torch)


def test_a_network_that_nothing_here_trains(tmp_path):
    """Whose checkpoint does not name its project, which would not help either."""
    torch.save(torch_networks.Ir().state_dict(), tmp_path / "ir.pth")
    with pytest.raises(
        InputError, match=r"ir\.pth: .* give a checkpoint of the network that --model.name says"
    ):
        start_from(str(tmp_path / "ir.pth"), None, ARCFACE_TORCH)
