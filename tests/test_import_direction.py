"""Imports go one way, so that each layer can be understood, and used, without those above it."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the top down. A module may import from its own layer and from those below.
LAYERS = (
    ("experiments",),
    ("arcface_jax.commands",),
    ("arcface_jax.runs",),
    (
        "arcface_jax.training",
        "arcface_jax.evaluation",
        "arcface_jax.interop",
        "arcface_jax.figures",
    ),
    ("arcface_jax.analysis", "arcface_jax.data", "arcface_jax.models", "arcface_jax.losses"),
    ("arcface_jax.heads",),
    ("arcface_jax.cosine",),
    ("arcface_jax.margins",),
    (
        "arcface_jax.arguments",
        "arcface_jax.files",
        "arcface_jax.import_path",
        "arcface_jax.pickles",
        "arcface_jax.pixels",
        "arcface_jax.progress",
    ),
    ("arcface_jax.buckets",),
    ("arcface_jax.errors", "arcface_jax.command_name", "arcface_jax.counts"),
)
WITHOUT_FLAX = ("margins", "cosine", "losses", "heads", "evaluation", "analysis")


@functools.cache
def modules() -> dict[str, pathlib.Path]:
    files = [*(ROOT / "arcface_jax").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for file in files
    }


@functools.cache
def imports(file: pathlib.Path) -> set[str]:
    """Every module, or name in a module, that a file imports anywhere in it."""
    found = set()
    package = file.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def layer(name: str) -> int | None:
    for number, prefixes in enumerate(LAYERS):
        if any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes):
            return number
    return None


@pytest.mark.parametrize(
    "name", [name for name in modules() if name not in ("arcface_jax", "experiments")]
)
def test_imports_only_go_down(name: str) -> None:
    own = layer(name)
    assert own is not None, f"{name} has no layer: add it to LAYERS"
    upward = [
        other for other in imports(modules()[name]) if (at := layer(other)) is not None and at < own
    ]
    assert not upward, f"{name} imports upward: {upward}"


@pytest.mark.parametrize("name", [name for name in modules() if name.startswith("arcface_jax.")])
def test_what_knows_nothing_of_flax_or_matplotlib(name: str) -> None:
    top = {other.split(".")[0] for other in imports(modules()[name])}
    if name.split(".")[1] in WITHOUT_FLAX:
        assert "flax" not in top
    if not name.startswith("arcface_jax.figures"):
        assert "matplotlib" not in top


@pytest.mark.parametrize("name", list(modules()))
def test_no_private_name_crosses_modules(name: str) -> None:
    private = [
        other
        for other in imports(modules()[name])
        if other.startswith(("arcface_jax", "experiments"))
        and other.rsplit(".", 1)[-1].startswith("_")
    ]
    assert not private
