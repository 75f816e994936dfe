"""How a command is called and a missing package installed, as messages and `--help` spell it."""

import pathlib
import re
import sys

SCRIPT = "arcface-jax"
"""The console script of an installation."""


def command(name: str) -> str:
    """`arcface-jax NAME` for who installed the package, `python -m experiments.NAME` in a
    checkout, unless the console script was called there.
    """
    if _installed() or pathlib.Path(sys.argv[0]).stem == SCRIPT:
        return f"{SCRIPT} {name}"
    return f"python -m experiments.{name}"


def spell_commands(text: str) -> str:
    """`python -m experiments.NAME` as the user called this one, and experiments.NAME as NAME."""
    return re.sub(
        r"(python -m )?\bexperiments\.(\w+)",
        lambda found: command(found[2]) if found[1] else found[2],
        text,
    )


def install(extra: str) -> str:
    """`pip install "arcface-jax[EXTRA]"` for who installed the package, `pip install -r
    requirements-EXTRA.txt` in a checkout.
    """
    if _installed():
        return f'pip install "arcface-jax[{extra}]"'
    return f"pip install -r requirements-{extra}.txt"


def _installed() -> bool:
    """Whether this is no checkout: the commands are inside the package there."""
    return (pathlib.Path(__file__).parent / "experiments").is_dir()
