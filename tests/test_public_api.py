"""What others import stays as it is: names and signatures, compared with
tests/golden/public_api.txt.

A change that is meant: ACCEPT_PUBLIC_API=1 python -m pytest tests/test_public_api.py
"""

import importlib
import inspect
import os
import pathlib
import pkgutil
import re
from typing import get_origin

import arcface_jax

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "public_api.txt"


def public_modules() -> list[str]:
    """The package and those of its parts that say by __all__ what they offer."""
    inside = (
        module.name
        for module in pkgutil.walk_packages(arcface_jax.__path__, "arcface_jax.")
        if module.ispkg
    )
    packages = ["arcface_jax", *inside]
    return [name for name in packages if hasattr(importlib.import_module(name), "__all__")]


def signature(function: object) -> str:
    """Names, kinds and defaults of the parameters; no types, which other versions may spell
    otherwise.
    """
    found = inspect.signature(function)
    bare = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
    ]
    text = str(found.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)


def describe(value: object) -> str:
    """One line for whatever a module exports."""
    if inspect.isclass(value):
        if issubclass(value, Exception):
            return f" is {', '.join(base.__name__ for base in value.__bases__)}"
        names = sorted(
            name
            for name in {*vars(value), *inspect.get_annotations(value)}
            if not name.startswith("_")
        )
        return (
            f"{'' if getattr(value, '_is_protocol', False) else signature(value)} has "
            f"{', '.join(names)}"
        )
    if inspect.isfunction(value):
        return signature(value)
    if get_origin(value) is not None:
        return " is a type"
    if isinstance(value, dict):
        return f" has keys {', '.join(sorted(map(str, value)))}"
    return f" = {value!r}"


def public_api() -> str:
    lines = []
    for module in public_modules():
        exported = importlib.import_module(module)
        lines += [
            f"{module}.{name}{describe(getattr(exported, name))}"
            for name in sorted(exported.__all__)
        ]
    return "\n".join(lines) + "\n"


def test_names_and_signatures_are_those_agreed():
    found = public_api()
    if os.environ.get("ACCEPT_PUBLIC_API"):
        GOLDEN.write_text(found, encoding="utf-8")
    agreed = GOLDEN.read_text(encoding="utf-8")
    assert found.splitlines() == agreed.splitlines(), (
        "if this is meant: see the first lines of this file"
    )


def test_a_changed_signature_shows():
    def loss(embeddings, *, scale=64.0): ...

    def changed(embeddings, *, scale=32.0): ...

    assert signature(loss) == "(embeddings, *, scale=64.0)"
    assert signature(loss) != signature(changed)


def test_the_public_core_is_among_them():
    assert {
        "arcface_jax",
        "arcface_jax.margins",
        "arcface_jax.heads",
        "arcface_jax.losses",
    } <= set(public_modules())
