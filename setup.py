"""Where the packages lie; all else is in pyproject.toml.

The commands of a checkout, `experiments/`, are the package `arcface_jax.experiments` of the wheel,
so that an installation has one top-level name.
"""

from setuptools import find_packages, setup

commands = [f"arcface_jax.{name}" for name in find_packages(include=["experiments*"])]
setup(
    packages=[*find_packages(include=["arcface_jax*"]), *commands],
    package_dir={"arcface_jax.experiments": "experiments"},
)
