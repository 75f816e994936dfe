"""What others import stays as it is: names and signatures, compared with
tests/golden/public_api.txt.

A change that is meant: ACCEPT_PUBLIC_API=1 python -m pytest tests/test_public_api.py
"""

import ast
import importlib
import inspect
import os
import pathlib
import re
from types import ModuleType
from typing import get_origin

GOLDEN = pathlib.Path(__file__).resolve().parent / "golden" / "public_api.txt"


MODULES = (
    "arcface_jax",
    "arcface_jax.cosine",
    "arcface_jax.margins",
    "arcface_jax.losses",
    "arcface_jax.heads",
    "arcface_jax.training",
    "arcface_jax.data.synthetic",
)


def public_names(module: ModuleType) -> list[str]:
    """What a module defines and a package gathers; nothing private, nothing of other libraries."""
    found: set[str] = set()
    nodes = list(ast.parse(inspect.getsource(module)).body)
    for node in nodes:
        if isinstance(node, ast.If):  # of type checking
            nodes += node.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.ImportFrom) and hasattr(module, "__path__"):
            own = str(node.module).startswith("arcface_jax")
            found |= {alias.name for alias in node.names if own}
    return sorted(name for name in found if not name.startswith("_"))


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
    if inspect.isfunction(inspect.unwrap(value)):
        return signature(value)
    if get_origin(value) is not None:
        return " is a type"
    if isinstance(value, dict):
        return f" has keys {', '.join(sorted(map(str, value)))}"
    return f" = {value!r}"


def public_api() -> str:
    lines = []
    for name in MODULES:
        module = importlib.import_module(name)
        lines += [f"{name}.{one}{describe(getattr(module, one))}" for one in public_names(module)]
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


def test_all_names_the_public_ones_where_a_module_says_it():
    for module in map(importlib.import_module, MODULES):
        assert sorted(getattr(module, "__all__", public_names(module))) == public_names(module)


def test_what_a_package_gathers_is_exported():
    """Or a user's type checker calls it private."""
    for module in map(importlib.import_module, MODULES):
        gathered = {
            alias.asname or alias.name
            for node in ast.parse(inspect.getsource(module)).body
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("arcface_jax")
            for alias in node.names
        }
        if hasattr(module, "__path__"):
            assert gathered <= set(module.__all__), module.__name__
            assert len(set(module.__all__)) == len(module.__all__)
