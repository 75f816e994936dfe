"""The documentation says what is true: commands, options, presets and links exist; the site
builds without warnings.
"""

import ast
import dataclasses
import html.parser
import importlib.util
import inspect
import os
import pathlib
import pkgutil
import re
import sys
import tomllib
import typing
import urllib.parse

import pytest

from arcface_jax.commands.photos import PhotoOptions
from arcface_jax.losses import LOSSES
from arcface_jax.training.config import Config
from experiments.recipes.presets import PRESETS
from tests import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGES = {
    path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))
} | {name: (ROOT / name).read_text(encoding="utf-8") for name in ("SECURITY.md", "CHANGELOG.md")}
TEXT = "\n".join(PAGES.values())
# A command ends with its line, its code span or its cell.
COMMANDS = sorted(
    set(re.findall(r"python -m (experiments\.\w+)([^`\n|]*)", TEXT.replace("\\\n", " ")))
)


def config_options() -> set[str]:
    """--section.name of everything a run can be told, and --section.no-name of what can be
    switched off.
    """
    options = {"--loss.name", "--loss.a"}  # the latter of the loss in your-own.md
    sections = [*typing.get_type_hints(Config).items(), *(("loss", one) for one in LOSSES.values())]
    for section, kind in sections:
        for field in dataclasses.fields(kind):
            negations = ("", "no-") if field.type is bool else ("",)
            options |= {
                f"--{section}.{prefix}{field.name}".replace("_", "-") for prefix in negations
            }
    return options


def test_there_is_something_to_check():
    assert len(COMMANDS) > 20
    assert {
        "from-arcface-torch.md",
        "from-pytorch-metric-learning.md",
        "training-options.md",
        "your-own.md",
        "pods-and-clusters.md",
        "recipes.md",
        "faq.md",
    } <= set(PAGES)


@pytest.mark.parametrize("page", list(PAGES))
def test_options_of_a_run_exist(page):
    named = set(re.findall(r"--[a-z]+\.[a-z0-9-]+", PAGES[page]))
    assert named <= config_options()


def command_options(module: str) -> set[str]:
    """The fields of a command's dataclasses, those of `PhotoOptions` that they derive from, and the
    options that it takes out of the arguments itself.
    """
    found = {"--help", "--help-all", "--no-cache"}
    place = ROOT / module.replace(".", "/")
    for file in place.glob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add("--" + node.target.id.replace("_", "-"))
            elif isinstance(node, ast.ClassDef) and "PhotoOptions" in map(ast.unparse, node.bases):
                found |= {"--" + field.name for field in dataclasses.fields(PhotoOptions)}
            elif isinstance(node, ast.Constant) and re.fullmatch(r"--[a-z-]+", str(node.value)):
                found.add(node.value)
    return found


@pytest.mark.parametrize(("module", "rest"), COMMANDS)
def test_commands_and_their_own_options_exist(module, rest):
    assert set(re.findall(r"--[a-z][a-z-]*(?![a-z.-])", rest)) <= command_options(module)


@pytest.mark.parametrize(
    ("module", "rest"), [one for one in COMMANDS if one[0] == "experiments.train"]
)
def test_presets_exist(module, rest):
    first = rest.split()[0] if rest.split() else "-"
    assert first.startswith(("-", "…")) or first in PRESETS


def rows_for_python():
    """(what another library has, ours, the remark): the rows of tables of names in Python."""
    inside = False
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[1:2] == ["here, in `arcface_jax`"]:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not line.startswith("|---"):
            yield cells


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return dotted_name(node.func)
    inner = dotted_name(node.value) if isinstance(node, ast.Attribute) else None
    return inner and f"{inner}.{node.attr}"


def check_code(code: str) -> None:
    """Names are there, and calls give every argument that is needed and none that is unknown."""
    expression = ast.parse(code, mode="eval").body
    calls = [node for node in ast.walk(expression) if isinstance(node, ast.Call)]
    for node in [expression, *calls]:
        name = dotted_name(node)
        assert name is not None, code
        found = pkgutil.resolve_name(name if name.startswith("optax.") else f"arcface_jax.{name}")
        if isinstance(node, ast.Call):
            of_object = isinstance(node.func, ast.Attribute) and isinstance(
                node.func.value, ast.Call
            )
            given = [None] * (len(node.args) + of_object)
            inspect.signature(found).bind(*given, **{word.arg: None for word in node.keywords})


@pytest.mark.parametrize("row", list(rows_for_python()), ids=lambda row: row[0])
def test_what_stands_for_a_name_in_python_is_there(row):
    theirs, ours, remark = row
    codes = re.findall(r"`([^`]+)`", ours)
    assert theirs
    assert codes or (ours == "not here" and remark)  # and why
    # A remark may name an argument or a command too.
    modules = "|".join(path.stem for path in (ROOT / "arcface_jax").iterdir())
    codes += re.findall(rf"`((?:(?:{modules})\.|optax\.)[^`]+)`", remark)
    for code in codes:
        check_code(code)


@pytest.mark.parametrize("page", list(PAGES))
def test_links_lead_to_files(page):
    folder = ROOT if page.isupper() or not (ROOT / "docs" / page).exists() else ROOT / "docs"
    for link in re.findall(r"\]\(((?!https?:)[^)#]+)", PAGES[page]):
        assert (folder / link).exists(), link


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", TEXT, re.S))
def test_code_runs(code):
    if "equimo" in code:
        pytest.importorskip("equimo")
    exec(compile(code, "documentation", "exec"), {})


def docs_module(name: str) -> typing.Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_docstrings_become_restructured_text():
    docstring = """Cross-entropy, with a margin:

    L = −log( e^{s·psi_} / |C| )

See `arcface_jax.margins` and `cos -> cos`; y_ counts *.

Args:
  cosine: cosθ_y.
  rows: N.

Returns: [N], or
  a scalar.
""".splitlines()
    assert docs_module("docstrings").to_restructured_text(docstring) == [
        "Cross-entropy, with a margin:",
        "",
        "::",
        "",
        "    L = −log( e^{s·psi_} / |C| )",
        "",
        r"See `arcface_jax.margins` and ``cos -> cos``; y\_ counts \*.",
        "",
        "Args:",
        "  cosine: cosθ_y.",
        r"  rows: N\.",
        "",
        ":Returns: [N], or",
        "  a scalar.",
    ]


def test_every_public_module_has_a_page_and_every_export_a_place():
    generate = docs_module("generate")
    files = {path for path in (ROOT / "arcface_jax").rglob("*.py") if not path.stem.startswith("_")}
    assert files <= set(generate.modules().values())
    for name, path in generate.modules().items():
        assert name in generate.module_page(name)
        assert set(generate.exported_names(path)) <= set(
            re.findall(r":py:obj:`(\w+) ", generate.module_page(name))
        )
    assert (
        generate.version()
        == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    )


class Page(html.parser.HTMLParser):
    """Where a page can be entered, where it leads, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {value for name, value in attrs if name in ("id", "name") and value}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        if tag in ("script", "img", "link", "iframe", "source"):
            self.loaded += [values[name] for name in ("src", "href") if values.get(name)]


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_its_links_are_whole(tmp_path):
    for package in ("sphinx", "furo", "myst_nb"):
        pytest.importorskip(package)
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "docs", site]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    run = processes.run(command, seconds=500, cwd=ROOT, env=environment)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) > 100
    for path, page in pages.items():
        assert not [url for url in page.loaded if urllib.parse.urlsplit(url).netloc], (
            "something is loaded from elsewhere"
        )
        for link in page.links:
            parts = urllib.parse.urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (
                (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path
            )
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert urllib.parse.unquote(parts.fragment) in pages[target].anchors, (
                    f"{path.name}: {link}"
                )
