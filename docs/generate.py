"""The pages that nobody writes by hand: a page a module, the commands, the recipes, the
notebooks.
"""

import ast
import functools
import pathlib
import shutil
import tomllib

from arcface_jax.commands import main

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGE = "arcface_jax"


def version() -> str:
    """The package's, from pyproject.toml."""
    return str(
        tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    )


def write_pages(folder: pathlib.Path) -> None:
    """Writes everything anew; what a page no longer says is gone."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = {
        "commands.md": commands_page(),
        "recipes.md": recipes_table(),
        "notebooks.md": notebooks_page(),
        **{f"notebooks/{path.name}": path.read_text(encoding="utf-8") for path in notebooks()},
        **{f"api/{name}.rst": module_page(name) for name in modules()},
    }
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def modules() -> dict[str, pathlib.Path]:
    """Every public module by its full name, packages before what is in them."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not any(part.startswith("_") for part in name.split(".")):
            found[name] = path
    return dict(sorted(found.items()))


@functools.cache
def defined_names(path: pathlib.Path) -> frozenset[str]:
    """What a module defines itself, at its top level."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return frozenset(names)


def exported_names(path: pathlib.Path) -> list[str]:
    """What a package's `__init__` takes from the modules of this library."""
    if path.name != "__init__.py":
        return []
    imports = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(PACKAGE)
    ]
    return sorted(alias.name for node in imports for alias in node.names)


def module_page(name: str) -> str:
    """A module's docstring and members; of a package, where each exported name is defined, and
    its modules.
    """
    everything = modules()
    path = everything[name]
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", ""]
    if path.name != "__init__.py":
        return "\n".join(lines)
    if exported := exported_names(path):
        lines += ["Exported here:", ""]
        lines += [f"- {_link(exported_name, name)}" for exported_name in exported] + [""]
    inside = [other for other in everything if other.rpartition(".")[0] == name]
    return "\n".join(
        [*lines, ".. toctree::", "   :maxdepth: 1", "", *(f"   {other}" for other in inside), ""]
    )


def _link(exported: str, package: str) -> str:
    for module, path in modules().items():
        inside = module.startswith(f"{package}.") and path.name != "__init__.py"
        if inside and exported in defined_names(path):
            return f":py:obj:`{exported} <{module}.{exported}>`, of `{module}`"
    raise ValueError(f"{package} exports {exported}, which none of its modules defines")


def commands() -> dict[str, str]:
    """The docstring of each command."""
    return {name: main.documentation(file) for name, file in main.commands().items()}


def commands_page() -> str:
    """A section for each command."""
    intro = "# Commands\n\nEach explains its options with `--help`, every one with `--help-all`.\n"
    sections = (f"## {name}\n\n```text\n{text}\n```\n" for name, text in commands().items())
    return "\n".join([intro, *sections])


def recipes_table() -> str:
    """The presets of the papers, as they say themselves."""
    from arcface_jax.evaluation.tables import markdown_table
    from arcface_jax.losses import loss_name
    from experiments.recipes.presets import RECIPES

    rows = [
        ("preset", "data (identities)", "network, loss", "schedule", "published result", "hours")
    ]
    for name, recipe in RECIPES.items():
        config, hours = recipe(), recipe.hours
        rows.append(
            (
                f"`{name}`",
                f"{recipe.data.name} ({recipe.data.identities:,})",
                f"{config.model.name}, {loss_name(config.loss)}",
                recipe.schedule(),
                recipe.published or "none of exactly this run",
                "unknown" if hours is None else f"{hours:.1f}",
            )
        )
    return markdown_table(rows[0], rows[1:], numbers=False)


def notebooks() -> list[pathlib.Path]:
    """The jupytext files."""
    return sorted((ROOT / "notebooks").glob("*.py"))


def notebooks_page() -> str:
    """Links to them."""
    names = "\n".join(f"notebooks/{path.stem}" for path in notebooks())
    return (
        f"# Notebooks\n\nThe tests run each from top to bottom.\n\n```{{toctree}}\n:maxdepth: "
        f"1\n\n{names}\n```\n"
    )
