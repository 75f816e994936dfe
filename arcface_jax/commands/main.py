"""The console script: `arcface-jax COMMAND [options]`."""

import ast
import importlib
import importlib.util
import pathlib
import sys

from arcface_jax.command_name import SCRIPT
from arcface_jax.commands.help_page import (
    HELP,
    first_sentence,
    kept_text,
    print_page,
    table,
    unknown,
)


def commands_package() -> str:
    """Where the commands lie: in the package where it is installed, else in the checkout."""
    installed = "arcface_jax.experiments"
    return installed if importlib.util.find_spec(installed) is not None else "experiments"


def commands() -> dict[str, pathlib.Path]:
    """Every command's file by its name: the modules that can be run, and the packages that can."""
    (folder,) = map(pathlib.Path, importlib.import_module(commands_package()).__path__)
    files = {file.stem: file for file in folder.glob("[!_]*.py")}
    files |= {file.parent.name: file for file in folder.glob("*/__main__.py")}
    return dict(sorted(files.items()))


def documentation(file: pathlib.Path) -> str:
    """A command's module documentation, without importing it."""
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def overview() -> str:
    """Every command and the first sentence about it."""
    first = {name: first_sentence(documentation(file)) for name, file in commands().items()}
    usage = f"usage: {SCRIPT} COMMAND [options]; {SCRIPT} COMMAND --help explains its options"
    return "\n".join([usage, "", table(first)])


def call() -> int | None:
    """Takes the command's name out of the arguments and calls its `main`."""
    name = sys.argv[1] if len(sys.argv) > 1 else HELP[0]
    if name in HELP:
        print_page(overview())
        return 0
    found = commands()
    if name not in found:
        raise unknown("command", name, found)
    del sys.argv[1]
    inside = f"{name}.__main__" if found[name].name == "__main__.py" else name
    module = importlib.import_module(f"{commands_package()}.{inside}")
    status: int | None = module.main()
    return status


def main() -> None:
    """Runs the command and exits with its status; a page of help needs no more than its text."""
    if (text := kept_text(sys.argv[1:])) is not None:
        print_page(text)
        return
    from arcface_jax.commands.command import run_command

    run_command(call)
