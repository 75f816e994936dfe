"""What a configuration computes: the step, its state, the optimiser, and how it lies on devices.

`make_step` needs no configuration; `Program` is what one comes to. A run of it is
`arcface_jax.runs`.
"""

from arcface_jax.training.sharding import Placement
from arcface_jax.training.state import DATA_AXIS, TrainState, initial_state
from arcface_jax.training.step import make_step

__all__ = [
    "DATA_AXIS",
    "Placement",
    "TrainState",
    "initial_state",
    "make_step",
]
