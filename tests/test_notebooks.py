"""Every notebook runs from top to bottom, as a script, in a folder of its own."""

import os
import pathlib
import sys

import pytest

from tests import processes

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.py"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, tmp_path):
    text = notebook.read_text(encoding="utf-8")
    assert "format_name: percent" in text
    assert "\n# %% [markdown]\n" in text
    environment = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        "JAX_PLATFORMS": "cpu",
        "PYTHONIOENCODING": "utf-8",
    }
    environment.pop("XLA_FLAGS", None)  # as a user runs it
    run = processes.run([sys.executable, notebook], seconds=500, cwd=tmp_path, env=environment)
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-4000:]
    assert "Warning" not in run.stderr
