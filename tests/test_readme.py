"""The README does what it says: its code runs, its files exist, its options are real."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.S))
def test_code_runs(code):
    exec(compile(code, "README.md", "exec"), {})


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!https?:)[^)#]+)\)", README))))
def test_links_lead_to_files(link):
    assert (ROOT / link).exists()


def test_continuous_integration_runs_the_readmes_test_command():
    command = "pip install -r requirements-dev.txt && python -m pytest"
    assert f"&& {command}\n" in README
    assert f"\n{command}\n" in (ROOT / ".ci" / "run").read_text()


def commands() -> list[str]:
    return re.findall(r"python -m (experiments\.\w+)", README)


@pytest.mark.parametrize("module", sorted(set(commands())))
def test_commands_exist(module):
    place = ROOT / module.replace(".", "/")
    assert place.with_suffix(".py").exists() or (place / "__main__.py").exists()
