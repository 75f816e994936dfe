"""The pages of help of all commands: short, complete, at once, and what a wrong word is told."""

import ast
import dataclasses
import importlib
import json
import os
import pathlib
import re
import sys
import tomllib

import pytest

from arcface_jax.commands import command as reading
from arcface_jax.commands import help_page, main
from arcface_jax.commands.help_page import HELP_ALL, KEPT, kept_text, nearest
from arcface_jax.errors import InputError
from tests.processes import run


class StoppedError(Exception):
    pass


def page_of(name, *words):
    """The page that a command makes of its options."""
    made = []

    def keep(page, *, short):
        made.append(page)
        raise StoppedError

    folder = name in ("benchmark", "reliability", "study")
    module = importlib.import_module(f"experiments.{name}{'.__main__' * folder}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "help_with", keep)
        patch.setattr(sys, "argv", [name, *words, "--help"])
        with pytest.raises(StoppedError):
            module.main()
    return made[0]


@pytest.fixture(scope="module")
def pages():
    """All pages by name."""
    found = {}
    for name in main.commands():
        found[name] = page_of(name)
        for verb in found[name].verbs:
            found[f"{name} {verb}"] = page_of(name, verb)
    return found


@pytest.mark.filterwarnings("ignore")
def test_the_pages_that_are_kept_are_those_of_the_options(pages):
    """ACCEPT_HELP=1 writes them."""
    content = [dataclasses.asdict(page) for page in pages.values()]
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    if os.environ.get("ACCEPT_HELP"):
        KEPT.write_text(text, encoding="utf-8")
    accept = "write them anew: ACCEPT_HELP=1 python -m pytest -n 0 tests/experiments/test_help.py"
    assert KEPT.read_text(encoding="utf-8") == text, accept


KEPT_PAGES = help_page.kept_pages()


@pytest.fixture(params=[80, 100, 200])
def width(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    return request.param


@pytest.mark.parametrize("name", KEPT_PAGES)
def test_help_fits_a_screen(name, width):
    lines = KEPT_PAGES[name].text(short=True).splitlines()
    assert len(lines) <= 40
    examples = [line for line in lines if line.startswith("  python -m ")]
    assert all(len(line) <= min(width, 100) for line in lines if line not in examples)


def test_a_short_page_is_as_long_wherever_compiled_programs_are_kept(monkeypatch, tmp_path):
    page = KEPT_PAGES["identify name"]
    pages = {}
    for short in (True, False):
        for folder in ("/a", str(tmp_path / ("folder/" * 20))):
            monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
            pages[short, folder] = page.text(short=short)
            assert (f"{folder};" in pages[short, folder].replace("\n", "")) is not short
    assert len({text for (short, _), text in pages.items() if short}) == 1


@pytest.mark.parametrize("name", KEPT_PAGES)
def test_help_is_for_people(name):
    page = KEPT_PAGES[name]
    for one in page.options:
        assert one.about
        assert not re.search(r"[{}<]|None|tuple|VALUE|: *$", f"{one.typed} {one.default}")
        assert not one.is_positional or not re.search("PATH|STR|TEXT", one.name)


@pytest.mark.parametrize("name", KEPT_PAGES)
def test_help_all_has_every_option_in_full(name):
    page = KEPT_PAGES[name]
    text = " ".join(page.text(short=False).split())
    for one in page.options:
        assert one.name in text
        assert " ".join(one.about.partition("experiments.")[0].removesuffix(".").split()) in text
    if page.verbs:
        assert all(verb in text for verb in page.verbs)
    else:
        assert HELP_ALL in page.text(short=True)


@pytest.mark.parametrize("name", KEPT_PAGES)
def test_a_short_page_names_options_that_there_are(name):
    page = KEPT_PAGES[name]
    names = {one.name[2:] for one in page.options}
    assert set(page.common or ()) <= names
    shown = len(page.common) if page.common else len([one for one in page.options if one])
    assert shown <= 16


@pytest.mark.parametrize("name", KEPT_PAGES)
def test_a_misspelt_option_is_told_the_nearest(name):
    known = [one for one in KEPT_PAGES[name].options if not one.is_positional]
    for one in known:
        letters = list(one.name)
        letters[-2:] = letters[:-3:-1]  # the last two, the other way round
        wrong = "".join(letters)
        if wrong in [each.name for each in known]:
            continue
        with pytest.raises(InputError) as error:
            reading._check_known([f"{wrong}=1"], known, name)
        said = str(error.value)
        assert said.startswith(f"there is no option {wrong}; did you mean --")
        reading._check_known([one.name, one.name.replace("_", "-")], known, name)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--steps", "--run.steps"),
        ("--lr", "--optimiser.learning-rate"),
        ("--learning-rat", "--optimiser.learning-rate"),
        ("--run.step", "--run.steps"),
        ("--output", ""),
    ],
)
def test_the_nearest_name(typed, meant):
    assert nearest(typed, ["--run.steps", "--optimiser.learning-rate", "--data.root"]) == meant


@pytest.mark.parametrize(
    ("name", "typed", "said"),
    [
        ("embed", "m i", "OUTPUT is missing"),
        ("embed", "", "MODEL is missing"),
        ("embed", "m i o.npy --flop add", "there is no option --flop; did you mean --flip?"),
        ("embed", "m i o.npy --face x", "--face: 'x'; give one of 'middle', 'largest'"),
        ("embed", "m i o.npy --threads x", "--threads: 'x' is no whole number"),
        ("embed", "m i o.npy --threads", "--threads needs a value"),
        ("embed", "m i o.npy more", "too many arguments, or in the wrong place: more"),
        ("embed", "m i o.npy -x", "there is no option -x"),
        ("identify", "enroll", "no action of identify is called 'enroll'; did you mean enrol?"),
        ("identify", "verify m a", "SECOND is missing"),
        ("identify", "enrol m p g --templat", "there is no option --templat; did you mean --temp"),
        ("benchmark.__main__", "heads", "no benchmark is called 'heads'; did you mean head?"),
        ("figures", "facess", "no figure is called 'facess'; did you mean faces?"),
        ("train", "foldr", "no preset is called 'foldr'; did you mean folder?"),
        ("train", "zzz", "no preset is called 'zzz'; choose one of synthetic, "),
        ("train", "--confg f", "there is no option --confg; did you mean --config?"),
        ("train", "--steps 3", "there is no option --steps; did you mean --run.steps?"),
        ("train", "--loss.margn 1", "--loss.margn: loss.name arcface has no margn; did you mean"),
        ("plan", "x", "IDENTITIES: 'x' is no whole number"),
    ],
)
def test_what_is_typed_wrong_is_said_in_one_line(name, typed, said, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *typed.split()])
    with pytest.raises(InputError) as error:
        importlib.import_module(f"experiments.{name}").main()
    assert str(error.value).startswith(said)
    assert "\n" not in str(error.value)
    assert not re.search(r"literal|tyro|argument '", str(error.value))


def test_presets_have_a_list_of_their_own(type_command):
    from experiments import train
    from experiments.recipes.presets import PRESETS

    status, listed, _ = type_command(train.main, "--presets")
    assert status == 0
    assert re.findall(r"(?m)^  (\S+) ", listed) == list(PRESETS)
    assert "--presets" in KEPT_PAGES["train"].text(short=True)
    assert "casia-r50" not in KEPT_PAGES["train"].text(short=False)


def test_a_kept_page_is_for_help_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/arcface-jax"])
    assert kept_text(["embed", "--help"]).startswith("usage: arcface-jax embed MODEL IMAGES OUTPUT")
    assert kept_text(["identify", "enrol", "-h"]).startswith("usage: arcface-jax identify enrol ")
    assert "--project" in kept_text(["evaluate", "--help-all"])
    for typed in (
        "embed m i o",
        "train --loss.name softmax --help",
        "train folder --help",
        "nothing --help",
        "",
    ):
        assert kept_text(typed.split()) is None


def test_help_comes_without_the_libraries_that_compute():
    """In a process of its own, which tells what it imported."""
    told = run([sys.executable, "-X", "importtime", "-m", "experiments.train", "--help"])
    assert told.returncode == 0
    assert told.stdout.startswith("usage: python -m experiments.train [PRESET] [options]")
    imported = set(re.findall(r"\| +([a-z_]+)$", told.stderr, re.MULTILINE))
    assert not imported & {"jax", "numpy", "flax", "tyro", "rich", "optax"}


def test_every_name_of_the_door_is_found_where_it_is_defined():
    import arcface_jax

    for name in arcface_jax.__all__:
        found = getattr(arcface_jax, name)
        assert found.__module__.startswith(f"arcface_jax.{arcface_jax._MODULES[name]}")
    tree = ast.parse(pathlib.Path(arcface_jax.__file__).read_text(encoding="utf-8"))
    typed = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in typed if "arcface_jax" in node.module for alias in node.names}
    assert names == set(arcface_jax.__all__) == set(arcface_jax._MODULES)


def test_the_pages_are_part_of_the_wheel():
    project = pathlib.Path(__file__).resolve().parents[2] / "pyproject.toml"
    settings = tomllib.loads(project.read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert f"commands/{KEPT.name}" in settings["package-data"]["arcface_jax"]
