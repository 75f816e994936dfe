"""How a command is called, as messages and `--help` spell it."""

import pathlib
import sys

SCRIPT = "arcface-jax"
"""The console script of an installation."""


def command(name: str) -> str:
    """`arcface-jax NAME` for who installed the package, `python -m experiments.NAME` in a
    checkout, unless the console script was called there.
    """
    installed = (pathlib.Path(__file__).parent / "experiments").is_dir()
    if installed or pathlib.Path(sys.argv[0]).stem == SCRIPT:
        return f"{SCRIPT} {name}"
    return f"python -m experiments.{name}"
